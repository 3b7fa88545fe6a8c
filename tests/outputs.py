"""Outputs of stages, and what pooling should make of them."""

import numpy as np


def make_output(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def average_by_loops(output, grid):
    """Average (n, channels, *sizes) over grid cells, one number at a time."""
    n, channels, *sizes = output.shape
    cells = [min(grid, size) for size in sizes]
    pooled = np.zeros((n, channels, *cells))
    for cell in np.ndindex(*cells):
        box = tuple(
            slice(i * size // g, -(-(i + 1) * size // g))
            for i, size, g in zip(cell, sizes, cells, strict=True)
        )
        axes = tuple(range(2, output.ndim))
        average = output[(..., *box)].astype(np.float64).mean(axis=axes)
        pooled[(..., *cell)] = average
    return pooled.reshape(n, -1)
