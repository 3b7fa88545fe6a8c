"""Heads put onto stages: which averages are folded, and what the network costs."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from torch import nn

from sk_e2cm import E2CMClassifier, Extractor, TorchExtractor
from sk_e2cm._fitting._assembly import build_network
from sk_e2cm._fitting._cross_fitting import FittedHead
from sk_e2cm._fitting._folding import fold_average
from sk_e2cm._multi_exit._heads import FoldedHead, Head
from sk_e2cm._multi_exit._logits import (
    DirichletLogits,
    DistanceLogits,
    LinearLogits,
    NetworkLogits,
)
from sk_e2cm._multi_exit._pooling import make_pooling

from ..outputs import average_by_loops, make_output

N_CLASSES = 3
PLENTY = 1e12  # multiply-adds of a network that no head matters to

# Shapes of outputs, and grids of which each cell has at most four positions.
SMALL_MAPS = {
    "one position a cell": ((6, 4, 4), 4),
    "four": ((6, 4, 4), 2),
    "overlapping cells": ((6, 3, 3), 2),
    "cells of unequal sides": ((6, 2, 8), 2),
    "a single cell": ((6, 2, 2), 1),
    "volumes": ((6, 2, 4, 2), 2),
    "tokens": ((8, 6), 2),
    "auto": ((6, 5, 7), "auto"),
    "channels last": ((4, 4, 6), 2),
}
small_maps = pytest.mark.parametrize(
    ("shape", "grid"), SMALL_MAPS.values(), ids=SMALL_MAPS
)


def make_linear(n_features, n_classes=N_CLASSES, dtype=torch.float32, *, centred=False):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n_classes, n_features, generator=generator, dtype=dtype)
    centre = torch.ones(n_features, dtype=dtype) if centred else None
    return LinearLogits(weight, torch.arange(n_classes, dtype=dtype), centre)


def make_head(shape, grid, *, n_classes=N_CLASSES, dtype=torch.float32, **params):
    """Return a head of averages over a grid and a linear layer."""
    pooling = make_pooling(grid, "stage", shape, dtype)
    n_features = pooling(torch.zeros(1, *shape)).shape[1]
    return Head(pooling, make_linear(n_features, n_classes, dtype, **params))


def is_folded(head, network_macs=PLENTY):
    """Tell whether it is; if not, it must be left as it is."""
    found = fold_average(head, network_macs)
    folded = isinstance(found, FoldedHead)
    assert folded or found is head
    return folded


def as_maps(outputs):
    """Bring outputs into the shape (n, channels, *sizes)."""
    last = outputs.shape[-1] == 6
    return np.moveaxis(outputs, -1, 1) if last else outputs


def logits_by_loops(head, outputs, grid):
    """Average cell by cell, then multiply."""
    features = average_by_loops(as_maps(outputs), 4 if grid == "auto" else grid)
    weight, bias = head.logits.weight.double().numpy(), head.logits.bias.numpy()
    return features @ weight.T + bias


# Averages that are folded


@small_maps
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_folded_averages_give_the_logits_of_the_averages(shape, grid, dtype):
    outputs = make_output(20, *shape, dtype=dtype)
    head = make_head(shape, grid, dtype=torch.from_numpy(outputs).dtype)
    assert is_folded(head)
    folded = fold_average(head, PLENTY)
    atol = 1e-5 if dtype == np.float32 else 1e-12
    expected = logits_by_loops(head, outputs, grid)
    assert_allclose(folded(torch.from_numpy(outputs)), expected, rtol=0, atol=atol)
    assert_allclose(folded(outputs), expected, rtol=0, atol=atol)
    assert_allclose(head(outputs), expected, rtol=0, atol=atol)


@small_maps
def test_however_maps_lie_in_memory_the_logits_are_the_same(shape, grid):
    head = make_head(shape, grid)
    folded = fold_average(head, PLENTY)
    outputs = torch.from_numpy(make_output(20, *shape))
    expected = logits_by_loops(head, outputs.numpy(), grid)
    # Any axis may be the one that lies closest together.
    for axis in range(1, outputs.dim()):
        moved = outputs.movedim(axis, -1).contiguous().movedim(-1, axis)
        assert moved.shape == outputs.shape
        assert_allclose(folded(moved), expected, rtol=0, atol=1e-5)
    assert_allclose(folded(outputs[::2]), expected[::2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [((6, 4, 4), torch.channels_last), ((6, 2, 4, 2), torch.channels_last_3d)],
)
def test_maps_in_channels_last_format_give_the_same_logits(shape, memory_format):
    head = make_head(shape, 2)
    outputs = torch.from_numpy(make_output(20, *shape))
    moved = outputs.to(memory_format=memory_format)
    assert not moved.is_contiguous()
    expected = logits_by_loops(head, outputs.numpy(), 2)
    assert_allclose(fold_average(head, PLENTY)(moved), expected, rtol=0, atol=1e-5)


def test_maps_of_another_size_are_averaged_over_their_own_cells():
    head = make_head((6, 4, 4), 2)
    folded = fold_average(head, PLENTY)
    for sizes in ((8, 8), (5, 7), (4, 8)):
        outputs = make_output(20, 6, *sizes)
        expected = logits_by_loops(head, outputs, 2)
        assert_allclose(folded(outputs), expected, rtol=0, atol=1e-5)


@small_maps
def test_a_folded_head_costs_a_multiply_add_for_each_position_and_channel(shape, grid):
    folded = fold_average(make_head(shape, grid), PLENTY)
    assert folded.macs == N_CLASSES * np.prod(shape)
    assert folded.macs == folded.weight.numel()


# Averages that are not


@pytest.mark.parametrize(
    ("shape", "grid", "folded"),
    [
        ((6, 8, 8), 4, True),
        ((6, 8, 9), 4, False),
        ((6, 2, 2), 1, True),
        ((6, 1, 5), 1, False),
        ((6, 28, 28), "auto", False),
        ((16, 6), 4, True),
        ((17, 6), 4, False),
        ((6, 4, 4, 2), 2, True),
        ((6, 4, 4, 4), 2, False),  # eight positions in each cell
    ],
)
def test_averages_are_folded_of_up_to_four_positions_for_each_cell(shape, grid, folded):
    assert is_folded(make_head(shape, grid)) == folded


@pytest.mark.parametrize(("channels", "folded"), [(12_499, True), (12_500, False)])
def test_averages_are_folded_into_fewer_than_two_million_weights(channels, folded):
    head = make_head((channels, 4, 4), 4, n_classes=10)
    assert is_folded(head) == folded


@pytest.mark.parametrize(
    ("network_macs", "folded"),
    [(28_800.0, False), (28_801.0, True), (0.0, False), (288.0, False)],
)
def test_averages_are_folded_into_less_than_a_hundredth_of_the_network(
    network_macs, folded
):
    head = make_head((6, 4, 4), 2)  # of 3 * 6 * 16 = 288 weights
    assert is_folded(head, network_macs) == folded


def test_averages_less_a_centre_are_not_folded():
    assert not is_folded(make_head((6, 4, 4), 2, centred=True))


def test_averages_are_folded_into_nothing_but_a_linear_layer():
    linear = make_head((6, 4, 4), 2)
    others = [
        DistanceLogits(torch.ones(N_CLASSES, 24), torch.ones(N_CLASSES)),
        DirichletLogits(linear.logits, torch.eye(3), torch.ones(3), least=-30.0),
    ]
    for logits in others:
        assert not is_folded(Head(linear.pooling, logits))


@pytest.mark.parametrize(
    "pooling",
    ["none", "second_order", lambda x: x.mean((2, 3))],
    ids=["none", "second_order", "function"],
)
def test_nothing_but_averages_is_folded(pooling):
    assert not is_folded(make_head((6, 4, 4), pooling))


# The network built


class Maps(Extractor):
    """Two stages that give the samples themselves, whatever their type."""

    stage_names = ("first", "last")

    def __init__(self, macs=(1e6, 2e6), axes=(1, 1)):
        self._macs = macs
        self._axes = axes

    def begin(self, X):
        return X

    def advance(self, state, stage):
        return state, state

    def keep(self, state, rows):
        return state[rows]

    def macs(self, input_shape):
        return self._macs

    def channel_axes(self, input_shape):
        return self._axes


def make_network():
    """Return convolutions to (4, 4, 4) and (64, 4, 4), and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.Conv2d(4, 64, 3, padding=1),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.Flatten(),
            nn.Linear(1024, N_CLASSES),
        )


MACS = [4 * 9 * 16, 4 * 64 * 9 * 16, 64 * 64 * 9 * 16, 0, 1024 * 3]


def fitted(logits):
    return FittedHead("class_means", logits, lambda: np.empty((0, N_CLASSES)))


def build(pooling=2, extractor=None, dtype=np.float32, **params):
    """Return a network of an exit after the first layer, one after the third."""
    extractor = extractor or TorchExtractor(make_network(), ["0", "2"])
    linear = [make_linear(n * pooling**2, **params) for n in (4, 64)]
    logits = [*linear, NetworkLogits(np.arange(N_CLASSES), normalized=False)]
    return build_network(
        extractor,
        pooling,
        [fitted(each) for each in logits],
        shapes=[(4, 4, 4), (64, 4, 4), (3,)],
        dtypes=[np.dtype(dtype)] * 3,
        rounding=[np.zeros(n) for n in (4 * pooling**2, 64 * pooling**2, 3)],
        labels=np.array(["bird", "cat", "dog"]),
        input_shape=(1, 8, 8),
    )


@pytest.mark.parametrize("pooling", [1, 2, 4])
def test_costs_are_those_of_the_layers_and_of_what_the_heads_run(pooling):
    network = build(pooling)
    # Of sixteen positions for each cell, averages are taken first.
    positions = 1 if pooling == 1 else 16
    heads = np.array([3 * 4 * positions, 3 * 64 * positions, 0])
    folded = [isinstance(head, FoldedHead) for head in network.heads]
    assert folded == [pooling > 1, pooling > 1, False]
    stages = np.array([MACS[0], MACS[1] + MACS[2], MACS[4]])
    assert_allclose(network.costs.stages, stages / sum(MACS), rtol=1e-12)
    assert_allclose(network.costs.heads, heads / sum(MACS), rtol=1e-12)
    assert_array_equal([head.macs for head in network.heads], heads)


def test_folded_or_not_the_network_predicts_what_its_layers_and_heads_give():
    X = make_output(7, 1, 8, 8)
    layers, outputs = make_network(), [torch.from_numpy(X)]
    with torch.no_grad():
        for layer in layers:
            outputs.append(layer(outputs[-1]))
    for pooling in (1, 2):
        network = build(pooling)
        found = network.staged_proba(X, np.inf, batch_size=4)
        for proba, head, output in zip(
            found, network.heads, (outputs[1], outputs[3], outputs[5]), strict=True
        ):
            logits = output.double().numpy()
            if output.dim() == 4:
                logits = logits_by_loops(head, output.numpy(), pooling)
            assert_allclose(proba, softmax(logits, axis=1), rtol=0, atol=1e-5)


def test_labels_pooling_and_extractor_are_those_given():
    extractor = TorchExtractor(make_network(), ["0", "2"])
    network = build(2, extractor)
    assert network.extractor is extractor
    assert network.pooling == 2
    assert network.stage_names == extractor.stage_names
    assert network.labels.tolist() == ["bird", "cat", "dog"]
    assert network.n_exits == 2


@pytest.mark.parametrize(
    "macs", [[1.0, 2.0], [3.0, 2.0, 4.0], [1.0, np.nan, 2.0], [-1.0, 2.0, 3.0]], ids=str
)
def test_an_extractor_that_cannot_count_is_refused(macs):
    with pytest.raises(ValueError, match=r"macs\(\) must return 3 numbers"):
        build(extractor=Maps(macs))


@pytest.mark.parametrize("given", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("fitted_to", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_outputs_of_another_type_than_was_fitted_give_the_same(
    metric, fitted_to, given
):
    rng, y = np.random.default_rng(0), np.arange(90) % N_CLASSES
    X = rng.integers(0, 9, size=(90, 6, 4, 4)) + 2 * y[:, None, None, None]
    params = {"pooling": 2, "metric": metric, "final": "class_means"}
    clf = E2CMClassifier(Maps(), **params).fit(X.astype(fitted_to), y)
    folded = [isinstance(head, FoldedHead) for head in clf.network_.heads]
    assert folded == [metric == "mahalanobis"] * 2
    found = clf.network_.proba(X.astype(given), np.inf, batch_size=50)
    expected = clf.exit_proba(X.astype(fitted_to))[:, -1]
    assert_allclose(found, expected, rtol=0, atol=1e-5)


def build_of_maps(axes, pooling=2):
    """Return a network of maps of (4, 4, 6), and of another that tells nothing."""
    extractor = Maps(axes=axes)
    extractor.stage_names = ("told", "untold")
    return build_network(
        extractor,
        pooling,
        [fitted(NetworkLogits(np.arange(2), normalized=False))] * 2,
        shapes=[(4, 4, 6)] * 2,
        dtypes=[np.dtype(np.float32)] * 2,
        rounding=[np.zeros(6)] * 2,
        labels=np.arange(2),
        input_shape=(4, 4, 6),
    )


@pytest.mark.parametrize("pooling", [1, "auto", "second_order"])
def test_a_stage_whose_channels_nobody_knows_is_named(pooling):
    message = (
        r"'untold', 6 channels in \(4, 4, 6\)\. If that is wrong, pass .* pooling="
    )
    with pytest.warns(UserWarning, match=message) as warned:
        network = build_of_maps((1, None), pooling)
    assert "'told'" not in str(warned[0].message)
    assert [head.pooling.channels for head in network.heads] == [4, 6]


@pytest.mark.parametrize("pooling", ["none", np.asarray])
def test_nothing_is_guessed_where_channels_do_not_matter(pooling):
    network = build_of_maps((None, None), pooling)
    assert network.pooling is pooling
