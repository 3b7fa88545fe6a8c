"""Second-order pooling: means, maxima, and products of channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ._grids import average, bounds, cells_along, finest_grid, maximum

# Features of each kind: together about a thousand, since covariances grow with the
# square of their number.
_MOST_MEANS = 512
_MOST_MAXIMA = 256
_MOST_PRODUCTS = 600
_MOST_CHANNELS = 32


def second_order(x: Tensor) -> Tensor:
    """Pool (n, channels, *sizes) to (n, n_features).

    Means, maxima, and mean products of each pair of channels, over grids that are as
    fine as the numbers above allow. Of many channels, products are taken between 32
    mixtures of them with random signs.
    """
    channels, n_axes = x.shape[1], x.ndim - 2
    parts = [average(x, max(finest_grid(channels, n_axes, _MOST_MEANS), 1))]
    grid = finest_grid(channels, n_axes, _MOST_MAXIMA)
    if grid:
        parts.append(maximum(x, grid))
    return torch.cat([*parts, _products(x)], dim=1)


def second_order_macs(shape: Sequence[int]) -> int:
    """Return the multiply-adds of the products, given (channels, *sizes)."""
    channels, size = shape[0], math.prod(shape[1:])
    mixed = min(channels, _MOST_CHANNELS)
    mixing = channels * mixed if mixed < channels else 0
    return size * (mixing + mixed**2)


def _products(x: Tensor) -> Tensor:
    channels, *sizes = x.shape[1:]
    if channels > _MOST_CHANNELS:
        x = torch.einsum("nc...,cm->nm...", x, _signs(channels).to(x))
        channels = _MOST_CHANNELS
    pairs = torch.triu_indices(channels, channels, device=x.device)
    grid = max(finest_grid(pairs.shape[1], len(sizes), _MOST_PRODUCTS), 1)
    means = []
    cells: list[tuple[slice, ...]] = list(
        itertools.product(*map(bounds, cells_along(grid, sizes), sizes))
    )
    for cell in cells:
        inside = x[(slice(None), slice(None), *cell)].flatten(2)
        product = inside @ inside.mT / inside.shape[2]
        means.append(product[:, pairs[0], pairs[1]])
    return torch.cat(means, dim=1)


def _signs(channels: int) -> Tensor:
    """Return a fixed matrix of signs, (channels, 32), that keeps the scale."""
    # RandomState's numbers are the same in every version of NumPy.
    bits = np.random.RandomState(0).randint(2, size=(channels, _MOST_CHANNELS))
    return torch.from_numpy((2 * bits - 1) / math.sqrt(channels))
