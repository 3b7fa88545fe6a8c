"""Means, maxima and products of channels, against plain loops."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._fitting._assembly import build_network
from sk_e2cm._fitting._cross_fitting import FittedHead
from sk_e2cm._multi_exit._logits import NetworkLogits
from sk_e2cm._multi_exit._pooling import make_pooling
from sk_e2cm.testing import ToyExtractor

from .. import outputs
from ..outputs import average_by_loops, cells_by_loops, make_output, reduce_by_loops

N_MIXTURES = 32
N_PAIRS = N_MIXTURES * (N_MIXTURES + 1) // 2


def pool(output):
    """Pool a whole batch."""
    return outputs.pool(output, "second_order")


def products_by_loops(output, grid):
    """Average the product of each pair of channels over each cell."""
    channels, *sizes = output.shape[1:]
    rows = []
    for sample in output.astype(np.float64):
        row = []
        for _, box in cells_by_loops(sizes, grid):
            for i in range(channels):
                for j in range(i, channels):
                    row.append((sample[(i, *box)] * sample[(j, *box)]).mean())
        rows.append(row)
    return np.array(rows)


def features_by_loops(output, means, maxima, products):
    """Put together what the grids of these sizes give."""
    parts = [
        average_by_loops(output, means),
        reduce_by_loops(output, maxima, np.max),
        products_by_loops(output, products),
    ]
    return np.concatenate(parts, axis=1)


def products_of(output):
    """Return the products of channels alone, which come last."""
    return pool(output)[:, -N_PAIRS:]


# Up to 32 channels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
@pytest.mark.parametrize(
    ("shape", "grids"),
    [
        # The finest grids, up to 4, with 512 means, 256 maxima and 600 products.
        ((16, 8, 8), (4, 4, 2)),
        ((8, 7, 5), (4, 4, 4)),
        ((20, 9, 6), (4, 3, 1)),
        ((32, 6, 6), (4, 2, 1)),
        ((3, 9, 2), (4, 4, 4)),
        ((1, 5, 5), (4, 4, 4)),
        ((16, 1, 1), (1, 1, 1)),
        ((4, 4, 5, 6), (4, 4, 3)),
    ],
)
def test_features_are_means_maxima_and_mean_products(shape, grids, as_output, dtype):
    output = make_output(2, *shape, dtype=dtype)
    found = pool(as_output(output))
    assert found.dtype == dtype
    assert_allclose(found, features_by_loops(output, *grids), rtol=0, atol=2e-6)


@pytest.mark.parametrize("as_output", [np.asarray, torch.tensor])
def test_tokens_are_pooled_along_their_length(as_output):
    output = make_output(2, 10, 16)
    expected = features_by_loops(output.transpose(0, 2, 1), 4, 4, 4)
    assert_allclose(pool(as_output(output)), expected, rtol=0, atol=2e-6)


def test_square_maps_with_channels_last_are_pooled_over_their_squares():
    output = make_output(2, 8, 8, 16)
    expected = features_by_loops(output.transpose(0, 3, 1, 2), 4, 4, 2)
    assert_allclose(pool(output), expected, rtol=0, atol=2e-6)


# More channels are mixed


@pytest.mark.parametrize(
    ("channels", "means", "maxima"), [(33, 3, 2), (100, 2, 1), (256, 1, 1)]
)
def test_means_and_maxima_are_those_of_the_channels_themselves(channels, means, maxima):
    output = make_output(2, channels, 6, 7)
    found = pool(output)
    n_means, n_maxima = channels * means**2, channels * maxima**2
    assert found.shape == (2, n_means + n_maxima + N_PAIRS)
    expected = average_by_loops(output, means)
    assert_allclose(found[:, :n_means], expected, atol=1e-6)
    expected = reduce_by_loops(output, maxima, np.max)
    assert_array_equal(found[:, n_means : n_means + n_maxima], expected)


@pytest.mark.parametrize("channels", [257, 512, 700])
def test_of_very_many_channels_there_are_no_maxima(channels):
    output = make_output(2, channels, 4, 4)
    found = pool(output)
    assert found.shape == (2, channels + N_PAIRS)
    assert_allclose(found[:, :channels], output.mean(axis=(2, 3)), atol=1e-6)


@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 3, 2)])
def test_products_are_those_of_32_mixtures_with_signs(sizes):
    channels = 40
    # One channel alone, and pairs of them, show with which signs each is mixed.
    ones = np.eye(channels).reshape(channels, channels, 1, 1)
    single = products_of(ones)
    forms = np.zeros((channels, channels, N_PAIRS))
    for c in range(channels):
        both = products_of(ones[[c]] + ones) - single - single[c]
        forms[c] = both / 2  # for c twice this is 2 * single[c] / 2
    own = [i * N_MIXTURES - i * (i - 1) // 2 for i in range(N_MIXTURES)]
    assert_allclose(np.abs(forms[..., own]), 1 / channels, rtol=1e-6)
    assert abs((forms[..., own] > 0).mean() - 0.5) < 0.1

    output = make_output(2, channels, *sizes, dtype=np.float64)
    values = output.reshape(2, channels, -1)
    expected = np.einsum("ncp,ndp,cdk->nk", values, values, forms)
    expected /= values.shape[2]
    if len(sizes) == 1:
        output = output.transpose(0, 2, 1)
    assert_allclose(products_of(output), expected, rtol=0, atol=1e-10)


def test_the_signs_are_always_the_same():
    # Fitted means would be lost with others; these are NumPy's RandomState(0).
    one = np.zeros((1, 40, 2, 2))
    one[0, 0] = 1
    found = np.sign(products_of(one)[0, :8])
    assert found.tolist() == [1, -1, -1, 1, -1, -1, -1, -1]


def test_the_signs_leave_global_random_numbers_alone():
    output = make_output(2, 100, 3, 4)
    results = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        results.append(pool(output))
        assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
    assert_array_equal(*results)


def test_mixtures_keep_the_scale_of_the_channels():
    for channels in (40, 400):
        output = make_output(4, channels, 8, 8)
        own = [i * N_MIXTURES - i * (i - 1) // 2 for i in range(N_MIXTURES)]
        assert_allclose(products_of(output)[:, own].mean(), 1, rtol=0.1)


# Any number


@pytest.mark.parametrize("sizes", [(8, 8), (4, 9), (40,), (5, 4, 6)])
def test_there_are_at_most_1600_features_of_up_to_512_channels(sizes):
    for channels in [*range(8, 70), *range(70, 513, 17), 512]:
        output = np.zeros((1, channels, *sizes), dtype=np.float32)
        if len(sizes) == 1:
            output = output.transpose(0, 2, 1)
        assert 100 < pool(output).shape[1] <= 1600


@pytest.mark.parametrize("channels", [16, 100])
def test_samples_do_not_depend_on_the_others(channels):
    output = make_output(20, channels, 8, 7)
    keep = np.array([3, 4, 11, 19])
    assert_allclose(pool(output[keep]), pool(output)[keep], rtol=0, atol=2e-6)
    assert_allclose(pool(output[[7]]), pool(output)[[7]], rtol=0, atol=2e-6)


@pytest.mark.parametrize("channels", [16, 100])
@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param(lambda x: x.to(memory_format=torch.channels_last), id="last"),
        pytest.param(lambda x: x.flip(3).contiguous().flip(3), id="flipped"),
        pytest.param(lambda x: x.repeat(1, 1, 1, 2)[..., :7], id="strided"),
        pytest.param(lambda x: x.clone().requires_grad_(), id="gradients"),
        pytest.param(lambda x: x.numpy().astype(">f4"), id="big-endian"),
    ],
)
def test_the_memory_layout_of_an_output_does_not_matter(disguise, channels):
    output = torch.tensor(make_output(3, channels, 8, 7))
    expected = pool(output.clone())
    assert_allclose(pool(disguise(output)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_half_precision_are_taken_in_float32(dtype):
    output = torch.full((2, 3, 4, 5), 1000.0, dtype=dtype)
    found = pool(output)  # a million exceeds the largest half
    assert found.dtype == np.float32
    assert_allclose(found, pool(output.float()), rtol=1e-6)


def test_two_axes_are_taken_as_they_are():
    output = make_output(3, 40)
    assert_array_equal(pool(output), output)


def test_an_output_of_six_axes_is_refused():
    with pytest.raises(ValueError, match=r"'s'.*\(1, 1, 1, 1, 1\)"):
        pool(make_output(2, 1, 1, 1, 1, 1))


def test_not_finite_outputs_are_refused():
    output = make_output(5, 3, 4, 5)
    output[2, 1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 5 samples"):
        pool(output)


# Costs


@pytest.mark.parametrize(
    ("shape", "macs"),
    [
        # At each position all pairs of channels, and before that the mixing.
        ((16, 8, 8), 64 * 16 * 16),
        ((32, 3, 5), 15 * 32 * 32),
        ((100, 5, 6), 30 * (100 * 32 + 32 * 32)),
        ((8, 8, 16), 64 * 16 * 16),  # channels last
        ((10, 16), 10 * 16 * 16),  # tokens
        ((10, 200), 10 * (200 * 32 + 32 * 32)),
        ((4, 2, 3, 5), 30 * 4 * 4),
        ((40,), 0),
    ],
)
def test_products_cost_one_multiply_add_for_each_pair_and_position(shape, macs):
    assert make_pooling("second_order", "s", shape, torch.float32).macs == macs


@pytest.mark.filterwarnings("ignore:Nothing tells which axis")
@pytest.mark.parametrize(
    ("pooling", "macs"),
    [
        ("second_order", [64 * 256, 25 * (3200 + 1024), 0]),
        ("auto", [0, 0, 0]),
        ("none", [0, 0, 0]),
        (2, [0, 0, 0]),
        (lambda x: x, [0, 0, 0]),
    ],
)
def test_every_stage_has_the_costs_of_its_own_output(pooling, macs):
    # The logits of this head are part of the network's.
    head = FittedHead("network", NetworkLogits(np.arange(2), False), None)
    network = build_network(
        ToyExtractor(3),
        pooling,
        [head] * 3,
        shapes=[(16, 8, 8), (100, 5, 5), (10,)],
        dtypes=[np.dtype(np.float64)] * 3,
        rounding=[np.zeros(2)] * 3,
        labels=np.arange(2),
        input_shape=(3,),
    )
    # Of 3000 multiply-adds.
    heads = network.costs.heads + network.costs.poolings
    assert_allclose(3000 * heads, macs, rtol=1e-12)
