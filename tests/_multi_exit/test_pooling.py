"""From a stage's output to one row of features per sample."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._multi_exit._full_pass import check_finite
from sk_e2cm._multi_exit._grid import Cells, cell_bounds, finest_grid
from sk_e2cm._multi_exit._pooling import GridAverage, make_pooling

from ..outputs import (
    average_by_loops,
    cells_by_loops,
    make_output,
    pool,
    reduce_by_loops,
)


@pytest.mark.parametrize(
    ("channels", "grid"),
    [(1, 4), (64, 4), (65, 3), (113, 3), (114, 2), (256, 2), (257, 1), (2048, 1)],
)
def test_auto_takes_the_largest_grid_with_at_most_1024_numbers(channels, grid):
    output = make_output(2, channels, 9, 8)
    pooled = pool(output, "auto")
    assert pooled.shape == (2, channels * grid**2)
    assert_allclose(pooled, average_by_loops(output, grid), atol=1e-6)


@pytest.mark.parametrize(("channels", "grid"), [(256, 4), (257, 3), (513, 1)])
def test_auto_counts_tokens_along_one_axis(channels, grid):
    assert pool(make_output(2, 9, channels), "auto").shape == (2, channels * grid)


@pytest.mark.parametrize(("channels", "grid"), [(16, 4), (17, 3), (38, 2), (129, 1)])
def test_auto_counts_volumes_along_three_axes(channels, grid):
    pooled = pool(make_output(2, channels, 4, 5, 6), "auto")
    assert pooled.shape == (2, channels * grid**3)


@pytest.mark.parametrize("grid", [1, 2, 3, 4, 7])
def test_a_number_is_the_grid(grid):
    output = make_output(3, 5, 7, 10)
    pooled = pool(output, grid)
    assert pooled.shape == (3, 5 * grid**2)
    assert_allclose(pooled, average_by_loops(output, grid), atol=1e-6)


@pytest.mark.parametrize("pooling", ["auto", 4, 100])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 4)])
def test_no_grid_is_finer_than_the_map(size, pooling):
    output = make_output(3, 5, *size)
    assert_array_equal(pool(output, pooling), output.reshape(3, -1))


def test_none_flattens_the_map():
    output = make_output(3, 5, 4, 6)
    assert_array_equal(pool(output, "none"), output.reshape(3, -1))


def test_a_function_is_given_the_output_itself():
    output = make_output(3, 5, 4, 6)
    seen = []

    def top(x):
        seen.append(x)
        return x.max(axis=(2, 3))

    assert_array_equal(pool(output, top), output.max(axis=(2, 3)))
    assert seen[0] is output


def test_tokens_are_averaged_along_their_length():
    output = make_output(3, 6, 5)
    expected = average_by_loops(output.transpose(0, 2, 1), 2)
    assert_allclose(pool(output, 2), expected, atol=1e-6)


def test_volumes_are_averaged_over_boxes():
    output = make_output(3, 5, 4, 6, 7)
    expected = average_by_loops(output, 2)
    assert_allclose(pool(output, 2), expected, atol=1e-6)


@pytest.mark.parametrize(
    "pooling", ["auto", "none", 1, "second_order", lambda x: x[:, :1]]
)
@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
def test_two_axes_are_taken_as_they_are(as_output, pooling):
    output = make_output(3, 2000)
    assert_array_equal(pool(as_output(output), pooling), output)


@pytest.mark.parametrize(
    "pooling", ["auto", "none", 2, "second_order", lambda x: x[:, :, 0, 0]]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_and_tensors_give_the_same_features(dtype, pooling):
    output = make_output(3, 5, 4, 6, dtype=dtype)
    from_array = pool(output, pooling)
    from_tensor = pool(torch.tensor(output), pooling)
    assert from_array.dtype == from_tensor.dtype == dtype
    assert_array_equal(from_array, from_tensor)


@pytest.mark.parametrize(
    ("shape", "pooling"),
    [
        ((3, 5), "auto"),
        ((3, 5, 4, 6), "auto"),
        ((3, 5, 4), "none"),
        ((3, 5, 4, 6), "second_order"),
    ],
)
@pytest.mark.parametrize(
    "as_output",
    [
        pytest.param(lambda x: x.astype(np.float16), id="array"),
        pytest.param(lambda x: torch.tensor(x).half(), id="half"),
        pytest.param(lambda x: torch.tensor(x).bfloat16(), id="bfloat16"),
    ],
)
def test_half_precision_becomes_float32(as_output, pooling, shape):
    assert pool(as_output(make_output(*shape)), pooling).dtype == np.float32


@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
def test_half_precision_is_averaged_in_float32(as_output):
    output = make_output(2, 3, 8, 8, dtype=np.float16)
    output[0, 0] = 60_000  # 64 of these exceed the largest half
    pooled = pool(as_output(output), 1)
    assert_allclose(pooled, average_by_loops(output, 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.bool_])
@pytest.mark.parametrize("pooling", ["auto", "none", 1])
def test_whole_numbers_are_averaged_as_floats(pooling, dtype, as_output):
    output = np.random.default_rng(0).integers(0, 200, (3, 2, 4, 4)).astype(dtype)
    expected = average_by_loops(output, 1 if pooling == 1 else 4)
    assert_allclose(pool(as_output(output), pooling), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "pooling", ["auto", "none", 1, "second_order", lambda x: x[:, :, 0, 0]]
)
def test_read_only_outputs_are_read(pooling):
    output = make_output(3, 5, 4, 6)
    expected = pool(output.copy(), pooling)
    output.flags.writeable = False
    assert_array_equal(pool(output, pooling), expected)


@pytest.mark.parametrize("pooling", ["auto", "none", 1, "second_order"])
@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param(lambda x: x[::-1].copy()[::-1], id="reversed rows"),
        pytest.param(lambda x: x[..., ::-1].copy()[..., ::-1], id="mirrored"),
        pytest.param(lambda x: x.copy(order="F"), id="fortran"),
        pytest.param(lambda x: x.repeat(2, axis=3)[..., ::2], id="strided"),
        pytest.param(lambda x: x.astype(">f4"), id="big-endian"),
    ],
)
def test_the_memory_layout_of_an_output_does_not_matter(disguise, pooling):
    output = make_output(3, 5, 4, 6)
    expected = pool(output, pooling)
    assert_allclose(pool(disguise(output), pooling), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 4, 6)])
def test_tensors_that_carry_gradients_are_read(shape):
    output = torch.tensor(make_output(*shape))
    expected = pool(output, "auto")
    assert_array_equal(pool(output.requires_grad_(), "auto"), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 4)])
def test_not_finite_features_are_refused(shape, value):
    output = make_output(*shape)
    output[2, 1] = value
    message = r"'layer1'.*1 of 5 samples \(the first is number 2 of its batch\)"
    with pytest.raises(ValueError, match=message):
        pool(output, "auto", "layer1")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda x: x.mean(axis=(1, 2, 3)), id="one axis"),
        pytest.param(lambda x: x.mean(axis=3), id="three axes"),
        pytest.param(lambda x: x.mean(), id="a number"),
        pytest.param(lambda x: x.mean(axis=(0, 2)), id="not one row per sample"),
        pytest.param(lambda x: x.mean(axis=(0, 2))[:1], id="one row for all"),
    ],
)
def test_a_function_that_does_not_return_one_row_per_sample_is_refused(wrong):
    with pytest.raises(ValueError, match=r"'layer1'.*one row"):
        pool(make_output(5, 3, 4, 4), wrong, "layer1")


@pytest.mark.parametrize("pooling", ["auto", "none", "second_order", 2, np.sin])
def test_an_output_of_one_axis_is_one_feature(pooling):
    output = make_output(5)
    assert_allclose(pool(output, pooling, "layer1"), output[:, None])


def test_an_output_of_six_axes_is_refused():
    with pytest.raises(ValueError, match=r"'layer1'.*\(1, 1, 1, 1, 1\)"):
        pool(make_output(2, 1, 1, 1, 1, 1), "auto", "layer1")


def test_an_output_of_six_axes_can_be_flattened():
    output = make_output(2, 1, 3, 1, 2, 1)
    assert_array_equal(pool(output, "none"), output.reshape(2, -1))


@pytest.mark.parametrize("pooling", ["auto", 1, 2, 100])
@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
def test_square_maps_with_channels_last_are_pooled_over_their_squares(
    as_output, pooling
):
    output = make_output(3, 5, 8, 8)
    moved = np.ascontiguousarray(output.transpose(0, 2, 3, 1))
    pooled = pool(as_output(moved), pooling)
    assert_allclose(pooled, pool(as_output(output), pooling), atol=1e-6)
    grid = 4 if pooling == "auto" else min(pooling, 8)
    assert_allclose(pooled, average_by_loops(output, grid), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 7, 5, 4), (3, 5, 5, 5), (3, 5, 4, 4)])
def test_other_maps_have_their_channels_first(shape):
    output = make_output(*shape)
    assert_allclose(pool(output, 2), average_by_loops(output, 2), atol=1e-6)


@pytest.mark.parametrize("pooling", ["auto", 1, 2, "second_order"])
@pytest.mark.parametrize("axis", [1, 2, 3, -1])
@pytest.mark.parametrize("sizes", [(8, 8), (8, 5), (5, 5)])
def test_channels_are_where_the_extractor_says(sizes, axis, pooling):
    output = torch.tensor(make_output(3, 5, *sizes))
    first = make_pooling(pooling, "s", output.shape[1:], torch.float32, 1)
    turned = output.movedim(1, axis).contiguous()
    pool_turned = make_pooling(pooling, "s", turned.shape[1:], torch.float32, axis)
    assert_allclose(pool_turned(turned), first(output), atol=1e-5)
    if pooling == 2:
        expected = average_by_loops(output.numpy(), 2)
        assert_allclose(first(output), expected, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 4, -2, -5])
def test_an_axis_that_holds_no_channels_is_refused(axis):
    with pytest.raises(
        ValueError, match=f"'s' cannot be axis {axis} of outputs with 4"
    ):
        make_pooling(2, "s", (5, 4, 6), torch.float32, axis)


def test_a_sample_that_is_not_finite_is_named_by_its_number_in_the_batch():
    features = make_output(3, 4)
    features[1, 2] = np.nan
    message = r"'s'.*1 of 3 samples \(the first is number 6 of its batch\)"
    with pytest.raises(ValueError, match=message):
        check_finite(features, "s", np.array([2, 6, 9]))


@pytest.mark.filterwarnings(r"ignore:torch\.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("pooling", ["auto", "none", 2, "second_order"])
def test_quantised_outputs_become_numbers(pooling):
    values = torch.tensor(make_output(3, 5, 4, 6))
    output = torch.quantize_per_tensor(values, 0.05, 3, torch.quint8)
    pooled = pool(output, pooling)
    assert pooled.dtype == np.float32
    rounded = (values / 0.05).round().clamp(-3, 252) * 0.05
    assert_allclose(pooled, pool(rounded, pooling), atol=1e-6)


@pytest.mark.parametrize("pooling", ["auto", "none", 2, "second_order"])
def test_a_pooling_takes_any_number_of_samples(pooling):
    output = make_output(6, 5, 4, 6)
    module = make_pooling(pooling, "s", (5, 4, 6), torch.float32)
    expected = pool(output, pooling)
    for n in (1, 4):
        assert_allclose(module(output[:n]), expected[:n], atol=1e-6)


@pytest.mark.parametrize("pooling", ["auto", 2, "second_order"])
@pytest.mark.parametrize("sizes", [(8, 8), (5, 9), (6, 7)])
def test_maps_of_other_sizes_are_pooled_over_as_many_cells(sizes, pooling):
    # Of networks that take images of any size.
    module = make_pooling(pooling, "s", (16, 6, 6), torch.float32)
    output = make_output(3, 16, *sizes)
    found = module(torch.tensor(output))
    assert_allclose(found, pool(output, pooling), atol=2e-6)


@pytest.mark.parametrize("pooling", ["auto", "none", 3])
@pytest.mark.parametrize("shape", [(40,), (5, 4), (5, 6, 7), (6, 6, 5), (2, 3, 4, 5)])
def test_averages_are_taken_to_cost_nothing(shape, pooling):
    assert make_pooling(pooling, "s", shape, torch.float32).macs == 0


def test_a_function_is_taken_to_cost_nothing():
    assert make_pooling(np.asarray, "s", (5, 6, 7), torch.float32).macs == 0


# Averages spread over the positions


@pytest.mark.parametrize("grid", [1, 2, 3, "auto"])
@pytest.mark.parametrize(
    "shape", [(3, 7), (5, 8, 8), (5, 7, 5), (6, 6, 5), (2, 4, 5, 6)]
)
def test_weights_of_averages_become_weights_of_positions(shape, grid):
    output = torch.tensor(make_output(4, *shape, dtype=np.float64))
    pooling = GridAverage(grid, shape, torch.float64)
    averages = pooling(output)
    weight = torch.tensor(make_output(3, averages.shape[1], dtype=np.float64))
    of_positions = pooling.spread(weight)
    found = torch.einsum("nc...,kc...->nk", pooling.as_map(output), of_positions)
    assert_allclose(found, averages @ weight.T, rtol=0, atol=1e-12)


# Cells of a grid


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
    ("sizes", "along"),
    [([8, 8], [4, 4]), ([3, 9], [3, 4]), ([1], [1]), ([4, 5, 2], [4, 4, 2])],
)
def test_no_cell_is_smaller_than_a_position(sizes, along):
    cells = Cells(4, sizes)
    assert cells.along == along
    assert cells.number == np.prod(along)


@pytest.mark.parametrize("size", range(1, 13))
def test_bounds_are_those_of_torch(size):
    for n_cells in range(1, size + 1):
        # What each position alone adds to the averages shows the cells it is in.
        weight = torch.nn.functional.adaptive_avg_pool1d(torch.eye(size), n_cells)
        for cell, inside in enumerate(cell_bounds(n_cells, size)):
            expected = np.flatnonzero(weight[:, cell])
            assert_array_equal(np.arange(size)[inside], expected)


GRIDS = [1, 2, 3, 4]
SIZES = [(7,), (2,), (8, 8), (7, 5), (3, 1), (4, 5, 6)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_averages_and_maxima_are_taken_over_each_cell(sizes, grid):
    output = make_output(3, 5, *sizes)
    x, cells = torch.tensor(output), Cells(grid, sizes)
    assert_allclose(cells.average(x), average_by_loops(output, grid), atol=1e-6)
    assert_array_equal(cells.maximum(x), reduce_by_loops(output, grid, np.max))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_shares_are_what_each_position_adds_to_each_average(sizes, grid):
    n = int(np.prod(sizes))
    each_alone = np.eye(n).reshape(n, 1, *sizes)
    expected = average_by_loops(each_alone, grid)
    assert_allclose(Cells(grid, sizes).shares(), expected, rtol=1e-12)


@pytest.mark.parametrize("as_last", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_splitting_gives_what_lies_in_each_cell(sizes, grid, as_last):
    output = make_output(2, 3, *sizes)
    x = torch.tensor(output)
    if as_last:  # in memory alone
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    parts = [part.unflatten(0, (2, -1)) for part in Cells(grid, sizes).split(x)]
    found = [part[:, cell] for part in parts for cell in range(part.shape[1])]
    expected = [output[(..., *box)] for _, box in cells_by_loops(sizes, grid)]
    for part, inside in zip(found, expected, strict=True):
        assert_array_equal(part, inside.reshape(2, 3, -1))
