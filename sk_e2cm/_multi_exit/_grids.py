"""Averages and maxima over a grid of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn.functional import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)

_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: adaptive_avg_pool1d,
    2: adaptive_avg_pool2d,
    3: adaptive_avg_pool3d,
}
_MAXIMUM: dict[int, Callable[..., Tensor]] = {
    1: adaptive_max_pool1d,
    2: adaptive_max_pool2d,
    3: adaptive_max_pool3d,
}

_LARGEST = 4


def finest_grid(channels: int, n_axes: int, most: int) -> int:
    """Return the finest grid, up to 4, with at most so many features; else 0."""
    grids = range(1, _LARGEST + 1)
    return max((g for g in grids if channels * g**n_axes <= most), default=0)


def cells_along(grid: int, sizes: Sequence[int]) -> list[int]:
    """Return the cells along each axis: no finer than the map, which would repeat."""
    return [min(grid, size) for size in sizes]


def average(x: Tensor, grid: int) -> Tensor:
    """Average (n, channels, *sizes) over the cells: (n, n_features)."""
    sizes = x.shape[2:]
    return _AVERAGE[len(sizes)](x, cells_along(grid, sizes)).flatten(1)


def maximum(x: Tensor, grid: int) -> Tensor:
    """Take the maxima of (n, channels, *sizes) over the cells: (n, n_features)."""
    sizes = x.shape[2:]
    return _MAXIMUM[len(sizes)](x, cells_along(grid, sizes)).flatten(1)


def bounds(n_cells: int, size: int) -> list[slice]:
    """Return the cells along one axis; they may overlap, as torch's do."""
    return [
        slice(i * size // n_cells, -(-(i + 1) * size // n_cells))
        for i in range(n_cells)
    ]
