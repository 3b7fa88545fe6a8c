"""Grids of cells over maps: averages, maxima, and what lies in each cell."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_FINEST = 4

_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_ADAPTIVE_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


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
        self.bounds = [
            cell_bounds(*axis) for axis in zip(self.along, sizes, strict=True)
        ]
        steps = [_regular(cells) for cells in self.bounds]
        # Of cells that are equally long and equally far apart, as most are.
        self.regular = None if None in steps else tuple(zip(*steps, strict=True))

    @property
    def number(self) -> int:
        return math.prod(self.along)

    @property
    def n_positions(self) -> int:
        return math.prod(self.sizes)

    def average(self, x: Tensor) -> Tensor:
        """Average (n, channels, *sizes) over the cells: (n, n_features)."""
        pooled = _ADAPTIVE_AVERAGE[len(self.sizes)](x, self.along)
        return pooled.flatten(1)

    def maximum(self, x: Tensor) -> Tensor:
        """Take the maxima of (n, channels, *sizes): (n, n_features)."""
        if self.regular is not None and x.shape[2:] == self.sizes:
            pooled: Tensor = _MAXIMUM[len(self.sizes)](x, *self.regular)
            return pooled.flatten(1)
        # Not by torch's adaptive maximum, which ONNX has no operation for.
        inside = [x[(..., *box)].flatten(2) for box in self._boxes(x.shape[2:])]
        return torch.stack([each.amax(dim=2) for each in inside], dim=2).flatten(1)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return what lies in the cells, each (n, channels, positions).

        Of cells that do not overlap it is one tensor, (n * cells, ...).
        """
        if self.number == 1:
            return [x.flatten(2)]
        if any(map(operator.mod, x.shape[2:], self.along)):
            return [x[(..., *box)].flatten(2) for box in self._boxes(x.shape[2:])]
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

    def _boxes(self, sizes: Sequence[int]) -> Iterator[Any]:
        """Return the cells of maps of these sizes, in the order of the features."""
        return product(*map(cell_bounds, self.along, sizes))

    def shares(self) -> Tensor:
        """Return what each position gives to each cell's average.

        Shape (n_positions, number).
        """
        along = []
        for cells, size in zip(self.bounds, self.sizes, strict=True):
            shares = torch.zeros(size, len(cells), dtype=torch.float64)
            for i, cell in enumerate(cells):
                shares[cell, i] = 1 / (cell.stop - cell.start)
            along.append(shares)
        return reduce(torch.kron, along)


def finest_grid(channels: int, n_axes: int, most: int) -> int:
    """Return the finest grid, up to 4, with at most so many features; else 0."""
    grids = range(1, _FINEST + 1)
    return max((g for g in grids if channels * g**n_axes <= most), default=0)


def cell_bounds(n_cells: int, size: int) -> list[slice]:
    """Return the cells along one axis."""
    return [
        slice(i * size // n_cells, -(-(i + 1) * size // n_cells))
        for i in range(n_cells)
    ]


def _regular(cells: Sequence[slice]) -> tuple[int, int] | None:
    """Return the length of cells and the step between them, if they are all alike."""
    lengths = {cell.stop - cell.start for cell in cells}
    steps = {b.start - a.start for a, b in pairwise(cells)}
    if len(lengths) > 1 or len(steps) > 1:
        return None
    (length,) = lengths
    return length, max(steps, default=length)
