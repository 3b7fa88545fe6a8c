"""From a stage's output to one row of features per sample."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._multi_exit import _pooling
from sk_e2cm._multi_exit._loop import run_lazily
from sk_e2cm.testing import ToyExtractor

from ..outputs import average_by_loops, make_output

MARK = -7.0


def pool(output, pooling, stage_name):
    """Pool a whole batch."""
    return _pooling.pool(output, pooling, stage_name, np.arange(len(output)))


class FailsLate(ToyExtractor):
    """Returns NaN at its last stage for the sample that is marked."""

    def advance(self, state, stage):
        state, output = super().advance(state, stage)
        if stage == len(self.stage_names) - 1:
            output = np.where(output[:, :1] == MARK, np.nan, output)
        return state, output


class SurelyTheFirst:
    """Is certain of the samples whose first number is positive, of others is not."""

    macs = 0

    def proba(self, features):
        sure = np.where(features[:, :1] > 0, 1.0, 0.5)
        return np.hstack([sure, 1 - sure])


@pytest.mark.parametrize(
    ("channels", "grid"),
    [(1, 4), (64, 4), (65, 3), (113, 3), (114, 2), (256, 2), (257, 1), (2048, 1)],
)
def test_auto_takes_the_largest_grid_with_at_most_1024_numbers(channels, grid):
    output = make_output(2, channels, 9, 8)
    pooled = pool(output, "auto", "s")
    assert pooled.shape == (2, channels * grid**2)
    assert_allclose(pooled, average_by_loops(output, grid), atol=1e-6)


@pytest.mark.parametrize(("channels", "grid"), [(256, 4), (257, 3), (513, 1)])
def test_auto_counts_tokens_along_one_axis(channels, grid):
    assert pool(make_output(2, 9, channels), "auto", "s").shape == (2, channels * grid)


@pytest.mark.parametrize(("channels", "grid"), [(16, 4), (17, 3), (38, 2), (129, 1)])
def test_auto_counts_volumes_along_three_axes(channels, grid):
    pooled = pool(make_output(2, channels, 4, 5, 6), "auto", "s")
    assert pooled.shape == (2, channels * grid**3)


@pytest.mark.parametrize("grid", [1, 2, 3, 4, 7])
def test_a_number_is_the_grid(grid):
    output = make_output(3, 5, 7, 10)
    pooled = pool(output, grid, "s")
    assert pooled.shape == (3, 5 * grid**2)
    assert_allclose(pooled, average_by_loops(output, grid), atol=1e-6)


@pytest.mark.parametrize("pooling", ["auto", 4, 100])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 4)])
def test_no_grid_is_finer_than_the_map(size, pooling):
    output = make_output(3, 5, *size)
    assert_array_equal(pool(output, pooling, "s"), output.reshape(3, -1))


def test_none_flattens_the_map():
    output = make_output(3, 5, 4, 6)
    assert_array_equal(pool(output, "none", "s"), output.reshape(3, -1))


def test_a_function_is_given_the_output_itself():
    output = make_output(3, 5, 4, 6)
    seen = []

    def top(x):
        seen.append(x)
        return x.max(axis=(2, 3))

    assert_array_equal(pool(output, top, "s"), output.max(axis=(2, 3)))
    assert seen[0] is output


def test_tokens_are_averaged_along_their_length():
    output = make_output(3, 6, 5)
    expected = average_by_loops(output.transpose(0, 2, 1), 2)
    assert_allclose(pool(output, 2, "s"), expected, atol=1e-6)


def test_volumes_are_averaged_over_boxes():
    output = make_output(3, 5, 4, 6, 7)
    expected = average_by_loops(output, 2)
    assert_allclose(pool(output, 2, "s"), expected, atol=1e-6)


@pytest.mark.parametrize(
    "pooling", ["auto", "none", 1, "second_order", lambda x: x[:, :1]]
)
@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
def test_two_axes_are_taken_as_they_are(as_output, pooling):
    output = make_output(3, 2000)
    assert_array_equal(pool(as_output(output), pooling, "s"), output)


@pytest.mark.parametrize(
    "pooling", ["auto", "none", 2, "second_order", lambda x: x[:, :, 0, 0]]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_and_tensors_give_the_same_features(dtype, pooling):
    output = make_output(3, 5, 4, 6, dtype=dtype)
    from_array = pool(output, pooling, "s")
    from_tensor = pool(torch.tensor(output), pooling, "s")
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
    assert pool(as_output(make_output(*shape)), pooling, "s").dtype == np.float32


@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
def test_half_precision_is_averaged_in_float32(as_output):
    output = make_output(2, 3, 8, 8, dtype=np.float16)
    output[0, 0] = 60_000  # 64 of these exceed the largest half
    pooled = pool(as_output(output), 1, "s")
    assert_allclose(pooled, average_by_loops(output, 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.bool_])
@pytest.mark.parametrize("pooling", ["auto", "none", 1])
def test_whole_numbers_are_averaged_as_floats(pooling, dtype, as_output):
    output = np.random.default_rng(0).integers(0, 200, (3, 2, 4, 4)).astype(dtype)
    expected = average_by_loops(output, 1 if pooling == 1 else 4)
    assert_allclose(pool(as_output(output), pooling, "s"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "pooling", ["auto", "none", 1, "second_order", lambda x: x[:, :, 0, 0]]
)
def test_read_only_outputs_are_read(pooling):
    output = make_output(3, 5, 4, 6)
    expected = pool(output.copy(), pooling, "s")
    output.flags.writeable = False
    assert_array_equal(pool(output, pooling, "s"), expected)


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
    expected = pool(output, pooling, "s")
    assert_allclose(pool(disguise(output), pooling, "s"), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 4, 6)])
def test_tensors_that_carry_gradients_are_read(shape):
    output = torch.tensor(make_output(*shape))
    expected = pool(output, "auto", "s")
    assert_array_equal(pool(output.requires_grad_(), "auto", "s"), expected)


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


def test_an_output_of_one_axis_is_refused():
    with pytest.raises(ValueError, match=r"'layer1'.*\(5,\)"):
        pool(make_output(5), "auto", "layer1")


def test_an_output_of_six_axes_is_refused():
    with pytest.raises(ValueError, match=r"'layer1'.*\(2, 1, 1, 1, 1, 1\)"):
        pool(make_output(2, 1, 1, 1, 1, 1), "auto", "layer1")


def test_an_output_of_six_axes_can_be_flattened():
    output = make_output(2, 1, 3, 1, 2, 1)
    assert_array_equal(pool(output, "none", "s"), output.reshape(2, -1))


@pytest.mark.parametrize("pooling", ["auto", 1, 2, 100])
@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
def test_square_maps_with_channels_last_are_pooled_over_their_squares(
    as_output, pooling
):
    output = make_output(3, 5, 8, 8)
    moved = np.ascontiguousarray(output.transpose(0, 2, 3, 1))
    pooled = pool(as_output(moved), pooling, "s")
    assert_allclose(pooled, pool(as_output(output), pooling, "s"), atol=1e-6)
    grid = 4 if pooling == "auto" else min(pooling, 8)
    assert_allclose(pooled, average_by_loops(output, grid), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 7, 5, 4), (3, 5, 5, 5), (3, 5, 4, 4)])
def test_other_maps_have_their_channels_first(shape):
    output = make_output(*shape)
    assert_allclose(pool(output, 2, "s"), average_by_loops(output, 2), atol=1e-6)


def test_a_sample_that_is_not_finite_is_named_by_its_number_in_the_batch():
    output = make_output(3, 4)
    output[1, 2] = np.nan
    message = r"1 of 3 samples \(the first is number 6 of its batch\)"
    with pytest.raises(ValueError, match=message):
        _pooling.pool(output, "auto", "s", np.array([2, 6, 9]))


def test_after_others_have_left_it_is_named_by_the_same_number():
    X = np.ones((8, 3))
    X[[3, 5, 6], 0] = [-1, MARK, -2]
    extractor = FailsLate(n_stages=3)
    heads = [SurelyTheFirst()] * 3
    steps = run_lazily(extractor, X, heads, np.full((2, 2), 0.9), "auto")
    assert [list(next(steps).rows) for _ in range(2)] == [[*range(8)], [3, 5, 6]]
    message = r"'part3'.*1 of 3 samples \(the first is number 5 of its batch\)"
    with pytest.raises(ValueError, match=message):
        next(steps)


@pytest.mark.filterwarnings(r"ignore:torch\.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    "pooling", ["auto", "none", 2, "second_order", lambda x: x.amax((2, 3))]
)
def test_quantised_outputs_become_numbers(pooling):
    values = torch.tensor(make_output(3, 5, 4, 6))
    output = torch.quantize_per_tensor(values, 0.05, 3, torch.quint8)
    pooled = pool(output, pooling, "s")
    assert pooled.dtype == np.float32
    rounded = (values / 0.05).round().clamp(-3, 252) * 0.05
    assert_allclose(pooled, pool(rounded, pooling, "s"), atol=1e-6)
