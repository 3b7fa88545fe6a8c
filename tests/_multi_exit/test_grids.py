"""Cells of a grid, and what is averaged and compared within them."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sk_e2cm._multi_exit._grids import (
    average,
    bounds,
    cells_along,
    finest_grid,
    maximum,
)

from ..outputs import average_by_loops, make_output, reduce_by_loops


@pytest.mark.parametrize("most", [0, 1, 10, 256, 600, 1024])
@pytest.mark.parametrize("n_axes", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3, 16, 65, 1000])
def test_the_finest_grid_is_the_last_of_four_that_fits(channels, n_axes, most):
    expected = 0
    for grid in (1, 2, 3, 4):
        if channels * grid**n_axes <= most:
            expected = grid
    assert finest_grid(channels, n_axes, most) == expected


@pytest.mark.parametrize(
    ("sizes", "cells"),
    [([8, 8], [4, 4]), ([3, 9], [3, 4]), ([1], [1]), ([4, 5, 2], [4, 4, 2])],
)
def test_no_cell_is_smaller_than_a_position(sizes, cells):
    assert cells_along(4, sizes) == cells


@pytest.mark.parametrize("size", range(1, 13))
def test_bounds_are_those_of_torch(size):
    for n_cells in range(1, size + 1):
        # What each position alone adds to the averages shows the cells it is in.
        weight = torch.nn.functional.adaptive_avg_pool1d(torch.eye(size), n_cells)
        for cell, inside in enumerate(bounds(n_cells, size)):
            expected = np.flatnonzero(weight[:, cell])
            assert_array_equal(np.arange(size)[inside], expected)


@pytest.mark.parametrize("grid", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [(7,), (2,), (8, 8), (7, 5), (3, 1), (4, 5, 6)])
def test_averages_and_maxima_are_taken_over_each_cell(sizes, grid):
    output = make_output(3, 5, *sizes)
    x = torch.tensor(output)
    assert_allclose(average(x, grid), average_by_loops(output, grid), atol=1e-6)
    assert_array_equal(maximum(x, grid), reduce_by_loops(output, grid, np.max))
