"""What is found out about samples of a shape when first asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ._layout import find_channel_axes
from ._lookups import KnownIds
from ._macs import measure
from ._placement import checked_shape
from ._trace import Trace

Shape = tuple[int, ...]


class Facts:
    """Costs, axes of channels and token ids known, by the shape of a sample.

    Parameters
    ----------
    trace : Trace
        Of the network.

    module : nn.Module
        The network, for its token ids.

    ends : sequence of fx.Node
        The last operation of each stage.

    dtype : torch.dtype
        Of the input.

    Attributes
    ----------
    all_macs, all_axes : dict
        What is known, to be pickled.
    """

    def __init__(
        self,
        trace: Trace,
        module: nn.Module,
        ends: Sequence[fx.Node],
        dtype: torch.dtype,
    ) -> None:
        self.all_macs: dict[Shape, NDArray[np.float64]] = {}
        self.all_axes: dict[Shape, tuple[int | None, ...]] = {}
        self._trace = trace
        self._module = module
        self._ends = ends
        self._dtype = dtype
        self._rows: dict[Shape, Tensor] = {}
        self._ids: dict[torch.Size, KnownIds] = {}

    def note_row(self, row: Tensor) -> None:
        """Keep a real sample, of shape (1, ...), of a shape that was new."""
        self._rows[tuple(row.shape[1:])] = row.clone()

    def macs(self, input_shape: Shape) -> NDArray[np.float64]:
        """Return the multiply-adds of one sample up to the end of each stage."""
        shape = checked_shape(input_shape)
        if shape not in self.all_macs:
            row = self._rows.get(shape)
            spent = measure(self._trace, [shape], self._dtype, row).macs
            self.all_macs[shape] = np.array([spent[end] for end in self._ends])
        return self.all_macs[shape].copy()

    def channel_axes(self, input_shape: Shape) -> tuple[int | None, ...]:
        """Return the axis of the channels in each stage's output, None if unknown."""
        shape = checked_shape(input_shape)
        if shape not in self.all_axes:
            row = self._rows.get(shape, torch.zeros(1, *shape, dtype=self._dtype))
            found = find_channel_axes(self._trace, self._ends, row)
            if shape not in self._rows and None in found:
                return found  # a real sample may tell more
            self.all_axes[shape] = found
        return self.all_axes[shape]

    def refuse_unknown_ids(
        self, batch: Tensor, n_before: int = 0, n_samples: int | None = None
    ) -> None:
        """Refuse token ids that the network does not know.

        The batch is a part of `n_samples`, after `n_before` others; by default all.

        Raises
        ------
        ValueError
            With the first of them.
        """
        if self._dtype is not torch.int64 or not len(batch):
            return
        shape = batch.shape[1:]
        if shape not in self._ids:
            self._ids[shape] = KnownIds(self._module, batch[:1])
        self._ids[shape].check(batch, n_before, n_samples or len(batch))
