"""Poolings: torch modules from a stage's output to one row of features per sample."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._utils._arrays import as_floats

PoolingSpec = int | Literal["auto", "none", "second_order"] | Callable[[Any], Any]

# "auto": a finer grid keeps more of an early layer's signal, but the exit's cost and
# the class means grow with it.
_MOST_FEATURES = 1024
_FINEST_GRID = 4

# Averages over cells of so few positions are quicker as a matrix product where channels
# come first in memory: 42 in place of 124 microseconds for 32 maps of 32 x 14 x 14, but
# 164 in place of 100 for 8 maps of 256 x 14 x 14 in a grid half as fine (two cores).
_MOST_POSITIONS_PER_CELL = 16

# "second_order": features of each kind. Together about a thousand, since covariances
# grow with the square of their number.
_MOST_MEANS = 512
_MOST_MAXIMA = 256
_MOST_PRODUCTS = 600
_MOST_CHANNELS = 32

_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_ADAPTIVE_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_ADAPTIVE_MAXIMUM: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}


def make_pooling(
    pooling: PoolingSpec, stage_name: str, shape: Sequence[int], dtype: torch.dtype
) -> Pooling:
    """Return the module that pools the outputs of one stage.

    Parameters
    ----------
    pooling : {"auto", "none", "second_order"}, int or callable
        See `E2CMClassifier`.

    stage_name : str
        For the messages.

    shape : sequence of int
        Of the output for one sample: (d,), taken as it is, (length, channels),
        (channels, *sizes), or (side, side, channels).

    dtype : torch.dtype
        Of the features.

    Returns
    -------
    Pooling
        Takes tensors and arrays of shape (n, *shape). What it returns, of shape
        (n, n_features), may share their memory.

    Raises
    ------
    ValueError
        If such outputs cannot be pooled.
    """
    if len(shape) == 0:
        raise ValueError(_no_rows(stage_name, ("n_samples",)))
    if len(shape) == 1:
        return Flattened()
    if callable(pooling):
        return Custom(pooling, stage_name)
    if pooling == "none":
        return Flattened()
    if not 1 <= len(shape) - 1 <= 3:
        raise ValueError(
            f"Cannot pool the output of stage {stage_name!r}, of shape {tuple(shape)} "
            "for each sample, over a grid: pass pooling='none' or a function."
        )
    if pooling == "second_order":
        return SecondOrder(shape, dtype)
    return GridAverage(pooling, shape, dtype)


class Pooling(nn.Module):
    """From a stage's output to features of shape (n_samples, n_features)."""

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample.

        Averages, maxima and functions of users are taken to have none.
        """
        return 0


class Flattened(Pooling):
    """All numbers of a sample in one row."""

    def forward(self, output: Any) -> Tensor:
        x = as_floats(output)
        return x if x.dim() == 2 else x.flatten(1)


class Custom(Pooling):
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
            raise ValueError(_no_rows(self.stage_name, shape, len(output)))
        refuse_other_than_numbers(found, self.stage_name)
        features = as_floats(found)
        return features.to(output.device) if isinstance(output, Tensor) else features


class OfMap(Pooling):
    """What pools maps with channels.

    Parameters
    ----------
    shape : sequence of int
        Of the output for one sample, see `make_pooling`.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.has_channels_last = _has_channels_last(shape)
        if self.has_channels_last:
            shape = [shape[-1], *shape[:-1]]
        self.channels, *self.sizes = shape

    def as_map(self, output: Any) -> Tensor:
        """Return floats of shape (n, channels, *sizes)."""
        x = as_floats(output)
        return x.movedim(-1, 1) if self.has_channels_last else x


class GridAverage(OfMap):
    """Averages over the cells of a grid.

    Parameters
    ----------
    grid : int or "auto"
        Cells along each axis.

    shape : sequence of int
        Of the output for one sample, see `make_pooling`.

    dtype : torch.dtype
        Of the features.
    """

    shares: Tensor

    def __init__(self, grid: Any, shape: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__(shape)
        if grid == "auto":
            grid = max(finest_grid(self.channels, len(self.sizes), _MOST_FEATURES), 1)
        self.cells = Cells(grid, self.sizes)
        # What each position gives to each cell, (n_positions, n_cells).
        self.register_buffer("shares", self.cells.shares().to(dtype))
        n_positions, n_cells = self.shares.shape
        self.is_product = n_positions <= _MOST_POSITIONS_PER_CELL * n_cells

    def forward(self, output: Any) -> Tensor:
        x = self.as_map(output)
        if self.is_product and x.is_contiguous() and x.shape[2:] == self.cells.sizes:
            return (x.flatten(2) @ self.shares.to(x.dtype)).flatten(1)
        return self.cells.average(x)

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
        of_cells = weight.unflatten(1, (-1, self.shares.shape[1]))
        of_positions: Tensor = of_cells @ self.shares.T.to(weight)
        return of_positions.unflatten(2, self.cells.sizes)


class SecondOrder(OfMap):
    """Means, maxima, and mean products of each pair of channels.

    Over grids that are as fine as the numbers above allow. Of many channels, products
    are taken between 32 mixtures of them with random signs.

    Parameters
    ----------
    shape : sequence of int
        Of the output for one sample, see `make_pooling`.

    dtype : torch.dtype
        Of the features.
    """

    pairs: Tensor
    signs: Tensor | None

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__(shape)
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
        parts = [self.means.average(x)]
        if self.maxima is not None:
            parts.append(self.maxima.maximum(x))
        squares = [
            (torch.bmm(inside, inside.mT) / inside.shape[2]).view(len(x), -1)
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


class Cells:
    """The cells of a grid over maps: torch's adaptive ones, which may overlap.

    Parameters
    ----------
    grid : int
        Cells along each axis, but no more than the map is long, which would repeat.

    sizes : sequence of int
        Of the maps.
    """

    def __init__(self, grid: int, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.along = [min(grid, size) for size in sizes]
        self.bounds = [bounds(*axis) for axis in zip(self.along, sizes, strict=True)]
        steps = [_regular(cells) for cells in self.bounds]
        # Of cells that are equally long and equally far apart, as most are.
        self.regular = None if None in steps else tuple(zip(*steps, strict=True))

    @property
    def number(self) -> int:
        return math.prod(self.along)

    def average(self, x: Tensor) -> Tensor:
        """Average (n, channels, *sizes) over the cells: (n, n_features)."""
        pooled = _ADAPTIVE_AVERAGE[len(self.sizes)](x, self.along)
        return pooled.flatten(1)

    def maximum(self, x: Tensor) -> Tensor:
        """Take the maxima of (n, channels, *sizes): (n, n_features)."""
        n_axes = len(self.sizes)
        if self.regular is not None and x.shape[2:] == self.sizes:
            pooled: Tensor = _MAXIMUM[n_axes](x, *self.regular)
        else:  # slower, since it notes where the maxima are
            pooled = _ADAPTIVE_MAXIMUM[n_axes](x, self.along)
        return pooled.flatten(1)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return what lies in the cells, each (n, channels, positions).

        Of cells that do not overlap it is one tensor, (n * cells, ...).
        """
        if self.number == 1:
            return [x.flatten(2)]
        if any(map(operator.mod, x.shape[2:], self.along)):
            boxes = product(*map(bounds, self.along, x.shape[2:]))
            return [x[(..., *box)].flatten(2) for box in boxes]  # type: ignore[index]
        n_axes = len(self.sizes)
        by_channel = x.is_contiguous()
        x = x if by_channel else x.movedim(1, -1)
        first = 2 if by_channel else 1
        for axis, cells in enumerate(self.along):
            x = x.unflatten(first + 2 * axis, (cells, -1))
        cells_axes = range(first, first + 2 * n_axes, 2)
        inner_axes = range(first + 1, first + 2 * n_axes, 2)
        if by_channel:
            x = x.permute(0, *cells_axes, 1, *inner_axes)
            return [x.flatten(0, n_axes).flatten(2)]
        x = x.permute(0, *cells_axes, *inner_axes, x.dim() - 1)
        return [x.flatten(0, n_axes).flatten(1, -2).mT]

    def shares(self) -> Tensor:
        """Return the weight of each position in each cell's average."""
        along = []
        for cells, size in zip(self.bounds, self.sizes, strict=True):
            shares = torch.zeros(size, len(cells), dtype=torch.float64)
            for i, cell in enumerate(cells):
                shares[cell, i] = 1 / (cell.stop - cell.start)
            along.append(shares)
        return reduce(torch.kron, along)


def finest_grid(channels: int, n_axes: int, most: int) -> int:
    """Return the finest grid, up to 4, with at most so many features; else 0."""
    grids = range(1, _FINEST_GRID + 1)
    return max((g for g in grids if channels * g**n_axes <= most), default=0)


def bounds(n_cells: int, size: int) -> list[slice]:
    """Return the cells along one axis."""
    return [
        slice(i * size // n_cells, -(-(i + 1) * size // n_cells))
        for i in range(n_cells)
    ]


def refuse_other_than_numbers(output: Any, stage_name: str) -> None:
    """Refuse arrays of text, objects or complex numbers."""
    if isinstance(output, Tensor):
        valid = not output.is_complex()
    else:
        output = np.asarray(output)
        valid = output.dtype.kind in "biuf"
    if not valid:
        raise ValueError(
            f"The features of stage {stage_name!r} are no numbers but of type "
            f"{output.dtype}."
        )


def _no_rows(stage_name: str, shape: Sequence[Any], n: Any = "n_samples") -> str:
    return (
        f"The features of stage {stage_name!r} have the shape {tuple(shape)} for {n} "
        "samples, but one row of numbers for each is needed: pooling= must return "
        "(n_samples, n_features)."
    )


def _regular(cells: Sequence[slice]) -> tuple[int, int] | None:
    """Return the length of cells and the step between them, if they are all alike."""
    lengths = {cell.stop - cell.start for cell in cells}
    steps = {b.start - a.start for a, b in pairwise(cells)}
    if len(lengths) > 1 or len(steps) > 1:
        return None
    (length,) = lengths
    return length, max(steps, default=length)


def _has_channels_last(shape: Sequence[int]) -> bool:
    """Tell tokens, and the square maps of Swin and its kin, by their shapes."""
    if len(shape) == 3:
        return shape[0] == shape[1] != shape[2]
    return len(shape) == 2


def _signs(channels: int) -> Tensor:
    """Return a fixed matrix of signs, (channels, 32), that keeps the scale."""
    # RandomState's numbers are the same in every version of NumPy.
    bits = np.random.RandomState(0).randint(2, size=(channels, _MOST_CHANNELS))
    return torch.from_numpy((2 * bits - 1) / math.sqrt(channels))
