"""Outputs of stages, and what pooling should make of them."""

import numpy as np
import torch

from sk_e2cm._multi_exit._full_pass import check_finite
from sk_e2cm._multi_exit._pooling import make_pooling
from sk_e2cm._utils._arrays import as_floats, to_numpy


def make_output(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def cells_by_loops(sizes, grid):
    """Yield the number and the box of each cell, no finer than the map."""
    cells = [min(grid, size) for size in sizes]
    for cell in np.ndindex(*cells):
        box = tuple(
            slice(i * size // g, -(-(i + 1) * size // g))
            for i, size, g in zip(cell, sizes, cells, strict=True)
        )
        yield cell, box


def reduce_by_loops(output, grid, reduce):
    """Reduce (n, channels, *sizes) over grid cells, one cell at a time."""
    n, channels, *sizes = output.shape
    axes = tuple(range(2, output.ndim))
    pooled = np.zeros((n, channels, *(min(grid, size) for size in sizes)))
    for cell, box in cells_by_loops(sizes, grid):
        inside = output[(..., *box)].astype(np.float64)
        pooled[(..., *cell)] = reduce(inside, axis=axes)
    return pooled.reshape(n, -1)


def average_by_loops(output, grid):
    return reduce_by_loops(output, grid, np.mean)


def pool(output, pooling, stage_name="s"):
    """Pool a whole batch as the full pass does."""
    dtype = as_floats(output).dtype
    module = make_pooling(pooling, stage_name, np.shape(output)[1:], dtype)
    with torch.inference_mode():
        features = to_numpy(module(output))
    check_finite(features, stage_name, np.arange(len(output)))
    return features
