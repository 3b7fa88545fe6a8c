"""Poolings: torch modules from a stage's output to one row of features per sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._extractors import refuse_other_than_numbers
from .._utils._arrays import as_floats
from ._grid import Cells, finest_grid

PoolingSpec = int | Literal["auto", "none", "second_order"] | Callable[[Any], Any]

# "auto": a finer grid keeps more of an early layer's signal, but the exit's cost and
# the class means grow with it.
_MOST_FEATURES = 1024

# Averages over cells of so few positions are quicker as a matrix product where channels
# come first in memory: 42 in place of 124 microseconds for 32 maps of 32 x 14 x 14, but
# 164 in place of 100 for 8 maps of 256 x 14 x 14 in a grid half as fine (two cores).
_MOST_POSITIONS_AS_PRODUCT = 16

# "second_order": features of each kind. Together about a thousand, since covariances
# grow with the square of their number.
_MOST_MEANS = 512
_MOST_MAXIMA = 256
_MOST_PRODUCTS = 600
_MOST_CHANNELS = 32

# Numbers of a map that a CPU reads more than once while they are in its cache.
_MOST_AT_ONCE = 2**19


def make_pooling(
    pooling: PoolingSpec,
    stage_name: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    channel_axis: int | None = None,
) -> Pooling:
    """Return the module that pools the outputs of one stage.

    Parameters
    ----------
    pooling : {"auto", "none", "second_order"}, int or callable
        See `E2CMClassifier`.

    stage_name : str
        For the messages.

    shape : sequence of int
        Of the output for one sample. One axis, or none, is taken as it is.

    dtype : torch.dtype
        Of the features.

    channel_axis : int, default=None
        The axis of the channels in an output, whose first axis is the samples. By
        default it is guessed: (n, length, channels), (n, side, side, channels), or
        (n, channels, *sizes).

    Returns
    -------
    Pooling
        Takes tensors and arrays of shape (n, *shape). What it returns, of shape
        (n, n_features), may share their memory.

    Raises
    ------
    ValueError
        If such outputs cannot be pooled, or have no such axis.
    """
    if len(shape) <= 1:
        return Flatten()
    if callable(pooling):
        return FunctionPooling(pooling, stage_name)
    if pooling == "none":
        return Flatten()
    if not 1 <= len(shape) - 1 <= 3:
        raise ValueError(
            f"Cannot pool the output of stage {stage_name!r}, of shape {tuple(shape)} "
            "for each sample, over a grid: pass pooling='none' or a function."
        )
    n_axes = len(shape) + 1
    if channel_axis is not None and channel_axis not in {*range(1, n_axes), -1}:
        raise ValueError(
            f"The channels of stage {stage_name!r} cannot be axis {channel_axis!r} of "
            f"outputs with {n_axes} axes, of which the first is the samples."
        )
    if pooling == "second_order":
        return SecondOrder(shape, dtype, channel_axis)
    return GridAverage(pooling, shape, dtype, channel_axis)


class Pooling(nn.Module):
    """From a stage's output to features of shape (n_samples, n_features)."""

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample.

        Averages, maxima and functions of users are taken to have none.
        """
        return 0

    def variation(self, output: Any) -> Tensor | float:
        """Return how much the numbers vary that each feature is the average of.

        Shape (n_samples, n_features), or 0 where features are no averages.
        """
        return 0.0


class Flatten(Pooling):
    """All numbers of a sample in one row."""

    def forward(self, output: Any) -> Tensor:
        x = as_floats(output)
        if x.dim() == 1:
            return x.unsqueeze(1)
        return x if x.dim() == 2 else x.flatten(1)


class FunctionPooling(Pooling):
    """A user's function of the output, which returns an array or a tensor."""

    def __init__(self, function: Callable[[Any], Any], stage_name: str) -> None:
        super().__init__()
        self.function = function
        self.stage_name = stage_name

    def forward(self, output: Any) -> Tensor:
        if isinstance(output, Tensor) and output.is_quantized:
            output = output.dequantize()
        found = self.function(output)
        shape = tuple(np.shape(found))
        if len(shape) != 2 or shape[0] != len(output):
            raise ValueError(_no_rows(self.stage_name, str(shape), len(output)))
        refuse_other_than_numbers(found, self.stage_name)
        features = as_floats(found.detach() if isinstance(found, Tensor) else found)
        return features.to(output.device) if isinstance(output, Tensor) else features


class MapPooling(Pooling):
    """What pools maps with channels.

    Parameters
    ----------
    shape : sequence of int
        Of the output for one sample.

    channel_axis : int or None
        See `make_pooling`.
    """

    def __init__(self, shape: Sequence[int], channel_axis: int | None) -> None:
        super().__init__()
        self.shape = tuple(shape)
        guessed = -1 if _seem_last(shape) else 1
        self.channel_axis = guessed if channel_axis is None else channel_axis
        of_sample = self.channel_axis - (self.channel_axis > 0)
        self.sizes = list(shape)
        self.channels = self.sizes.pop(of_sample)

    def as_map(self, output: Any) -> Tensor:
        """Return floats of shape (n, channels, *sizes)."""
        x = as_floats(output)
        return x if self.channel_axis == 1 else x.movedim(self.channel_axis, 1)


class GridAverage(MapPooling):
    """Averages over the cells of a grid.

    Parameters
    ----------
    grid : int or "auto"
        Cells along each axis.

    shape : sequence of int
        Of the output for one sample.

    dtype : torch.dtype
        Of the features.

    channel_axis : int, default=None
        See `make_pooling`.
    """

    shares: Tensor | None

    def __init__(
        self,
        grid: Any,
        shape: Sequence[int],
        dtype: torch.dtype,
        channel_axis: int | None = None,
    ) -> None:
        super().__init__(shape, channel_axis)
        if grid == "auto":
            grid = max(finest_grid(self.channels, len(self.sizes), _MOST_FEATURES), 1)
        self.grid, self.dtype = grid, dtype
        self.cells = Cells(grid, self.sizes)
        is_product = (
            self.cells.n_positions <= _MOST_POSITIONS_AS_PRODUCT * self.cells.number
        )
        shares = self.cells.shares().to(dtype) if is_product else None
        self.register_buffer("shares", shares)

    def forward(self, output: Any) -> Tensor:
        x = self.as_map(output)
        shares = self.shares
        if shares is None or not x.is_contiguous() or x.shape[2:] != self.cells.sizes:
            return self.cells.average(x)
        return (x.flatten(2) @ shares.to(x.dtype)).flatten(1)

    def variation(self, output: Any) -> Tensor:
        return _variation(self.as_map(output), self.cells)

    def spread(self, weight: Tensor) -> Tensor:
        """Return the weights of all positions, given those of the averages.

        Parameters
        ----------
        weight : tensor of shape (n_classes, n_features)
            Of a linear layer.

        Returns
        -------
        tensor of shape (n_classes, channels, *sizes)
        """
        of_cells = weight.unflatten(1, (-1, self.cells.number))
        of_positions: Tensor = of_cells @ self.cells.shares().T.to(weight)
        return of_positions.unflatten(2, self.cells.sizes)


class SecondOrder(MapPooling):
    """Means, maxima, and mean products of each pair of channels.

    Over grids that are as fine as the numbers above allow. Of many channels, products
    are taken between 32 mixtures of them with random signs.

    Parameters
    ----------
    shape : sequence of int
        Of the output for one sample.

    dtype : torch.dtype
        Of the features.

    channel_axis : int, default=None
        See `make_pooling`.
    """

    pairs: Tensor
    signs: Tensor | None

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        channel_axis: int | None = None,
    ) -> None:
        super().__init__(shape, channel_axis)
        self.dtype = dtype
        channels, sizes, n_axes = self.channels, self.sizes, len(self.sizes)
        means = max(finest_grid(channels, n_axes, _MOST_MEANS), 1)
        maxima = finest_grid(channels, n_axes, _MOST_MAXIMA)
        self.means = Cells(means, sizes)
        self.maxima = Cells(maxima, sizes) if maxima else None
        mixed = min(channels, _MOST_CHANNELS)
        n_pairs = mixed * (mixed + 1) // 2
        products = max(finest_grid(n_pairs, n_axes, _MOST_PRODUCTS), 1)
        self.products = Cells(products, sizes)
        # Of each cell's (channels, channels) products, those on and above the diagonal.
        above = torch.triu_indices(mixed, mixed)
        pairs = above[0] * mixed + above[1]
        starts = mixed**2 * torch.arange(self.products.number)
        self.register_buffer("pairs", (starts[:, None] + pairs).flatten())
        signs = _signs(channels).to(dtype) if mixed < channels else None
        self.register_buffer("signs", signs)

    @property
    def macs(self) -> int:
        """Multiply-adds of the products, and of the mixtures, for one sample."""
        mixed, mixing = self.channels, 0
        if self.signs is not None:
            mixed, mixing = self.signs.shape[1], self.signs.numel()
        return math.prod(self.sizes) * (mixing + mixed**2)

    def forward(self, output: Any) -> Tensor:
        x = self.as_map(output)
        at_once = max(_MOST_AT_ONCE // x[0].numel(), 1)
        if x.device.type != "cpu" or len(x) <= at_once:
            return self.of_map(x)
        return torch.cat([self.of_map(part) for part in x.split(at_once)])

    def variation(self, output: Any) -> Tensor:
        of_means = _variation(self.as_map(output), self.means)
        n_others = self.pairs.numel()
        if self.maxima is not None:
            n_others += self.channels * self.maxima.number
        return F.pad(of_means, (0, n_others))

    def of_map(self, x: Tensor) -> Tensor:
        """Pool floats of shape (n, channels, *sizes), all at once."""
        parts = [self.means.average(x)]
        if self.maxima is not None:
            parts.append(self.maxima.maximum(x))
        squares = [
            (torch.bmm(inside, inside.mT) / inside.shape[2]).view(x.shape[0], -1)
            for inside in self.products.split(self._mixed(x))
        ]
        together = squares[0] if len(squares) == 1 else torch.cat(squares, dim=1)
        parts.append(together.index_select(1, self.pairs))
        return torch.cat(parts, dim=1)

    def _mixed(self, x: Tensor) -> Tensor:
        if self.signs is None:
            return x
        signs = self.signs.to(x.dtype)
        if x.is_contiguous():
            return (signs.T @ x.flatten(2)).unflatten(2, x.shape[2:])
        return (x.movedim(1, -1) @ signs).movedim(-1, 1)


def _no_rows(stage_name: str, shape: str, n: Any) -> str:
    return (
        f"The features of stage {stage_name!r} have the shape {shape} for {n} "
        "samples, but one row of numbers for each is needed: pooling= must return "
        "(n_samples, n_features)."
    )


def _seem_last(shape: Sequence[int]) -> bool:
    """Guess that channels come last in tokens, and in square maps with these sides."""
    if len(shape) == 3:
        return shape[0] == shape[1] != shape[2]
    return len(shape) == 2


def _variation(x: Tensor, cells: Cells) -> Tensor:
    """Average over the cells how far a map is from its mean in each channel."""
    mean = x.mean(dim=tuple(range(2, x.dim())), keepdim=True)
    return cells.average((x - mean).abs())


def _signs(channels: int) -> Tensor:
    """Return a fixed matrix of signs, (channels, 32), that keeps the scale."""
    # RandomState's numbers are the same in every version of NumPy.
    bits = np.random.RandomState(0).randint(2, size=(channels, _MOST_CHANNELS))
    return torch.from_numpy((2 * bits - 1) / math.sqrt(channels))
