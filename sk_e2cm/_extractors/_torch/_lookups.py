"""Which token ids a network knows, so that others are refused before they are used.

A CPU says nothing but "index out of range" of an unknown id, and on a GPU the process
is lost.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ._freeze import share
from ._state import random_state_kept

_UNLIMITED = torch.iinfo(torch.int64).max


class KnownIds:
    """The number of ids that the network's embeddings have for each place of a sample.

    Parameters
    ----------
    network : torch.nn.Module
        Takes token ids.

    sample : tensor of shape (1, ...)
        Ids, known or not. The network is run on it once.

    Raises
    ------
    ValueError
        If something that is made of the ids, such as the positions of tokens, is
        looked up in an embedding that does not have it.
    """

    def __init__(self, network: nn.Module, sample: Tensor) -> None:
        # In one piece, so that strides tell which of its numbers a view consists of.
        sample = sample.clone(memory_format=torch.contiguous_format)
        watch = _Watch(sample)
        # What else stops the network is told by those who run it next.
        with torch.no_grad(), watch, suppress(Exception), random_state_kept():
            share(network)(sample)
        if watch.beyond:
            number, size = watch.beyond
            raise ValueError(
                f"The network does not take samples of shape {tuple(sample.shape[1:])}:"
                f" it looks {number} up in an embedding of {size} rows. Are samples "
                "longer than the positions that it knows?"
            )
        self._limits = watch.limits[0]
        self._is_id = self._limits < _UNLIMITED
        self._least = int(self._limits.min()) if self._limits.numel() else _UNLIMITED

    def check(self, batch: Tensor, n_before: int, n_samples: int) -> None:
        """Refuse ids that the network does not know.

        The batch is a part of `n_samples`, after `n_before` others.

        Raises
        ------
        ValueError
            With the first sample that has one.
        """
        if self._least == _UNLIMITED or _within(batch, self._least):
            return
        unknown = (batch >= self._limits) | ((batch < 0) & self._is_id)
        if unknown.any():
            row, *place = unknown.nonzero()[0].tolist()
            number = int(batch[(row, *place)])
            size = int(self._limits[tuple(place)])
            raise ValueError(
                f"X has the token id {number} in sample number {n_before + row} of "
                f"{n_samples}, but the network's vocabulary has {size} ids, 0 to "
                f"{size - 1}. Was X made by the tokenizer of this network?"
            )


class _Watch(TorchFunctionMode):
    """Notes the sizes of embeddings; looks something known up where an id is not."""

    def __init__(self, sample: Tensor) -> None:
        super().__init__()
        self.limits = torch.full_like(sample, _UNLIMITED)
        self.beyond: tuple[int, int] | None = None
        self._memory = sample.untyped_storage().data_ptr()
        self._places = torch.arange(sample.numel(), device=sample.device)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (F.embedding, F.embedding_bag):
            return func(*args, **kwargs)
        call = inspect.signature(func).bind(*args, **kwargs)
        ids, size = call.arguments["input"], len(call.arguments["weight"])
        self._note(ids, size)
        call.arguments["input"] = ids.clamp(0, size - 1)
        return func(*call.args, **call.kwargs)

    def _note(self, ids: Tensor, size: int) -> None:
        if ids.untyped_storage().data_ptr() == self._memory:
            places = self._places.as_strided(
                ids.size(), ids.stride(), ids.storage_offset()
            )
            limits = self.limits.view(-1)
            limits[places] = limits[places].clamp(max=size)
        elif ids.numel() and not _within(ids, size):
            number = ids.min() if ids.min() < 0 else ids.max()
            self.beyond = int(number), size


def _within(ids: Tensor, size: int) -> bool:
    return bool(ids.min() >= 0 and ids.max() < size)
