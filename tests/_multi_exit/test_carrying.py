"""The loop where heads carry the features of exits before, against all stages."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._multi_exit._full_pass import FullPass
from sk_e2cm._multi_exit._heads import Head
from sk_e2cm._multi_exit._logits import DistanceLogits, LinearLogits, WeightedLogits
from sk_e2cm._multi_exit._loop import LazyLoop
from sk_e2cm._multi_exit._network import MultiExitNetwork
from sk_e2cm._multi_exit._pooling import Flatten, make_pooling
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from ..references import leave
from .networks import (
    EXTRACTORS,
    INF,
    LABELS,
    N_CLASSES,
    N_FEATURES,
    N_STAGES,
    THRESHOLDS,
    Minimal,
    make_X,
)
from .test_loop import MEMORY_ERRORS, RunningSum, Small


class JoiningSum(RunningSum):
    """Writes every output to the same memory, and joins those who wait."""

    def join(self, states):
        return tuple(np.concatenate(parts) for parts in zip(*states, strict=True))


MAKE = {
    **EXTRACTORS,
    "overwrites": RunningSum,
    "overwrites, joins": JoiningSum,
}
FAST = {"toy": ToyExtractor, "overwrites, joins": JoiningSum}


class Noting(Flatten):
    """Notes how many rows it was asked for."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, output):
        self.rows.append(len(output))
        return super().forward(output)


def stage_features(extractor, X):
    """Return the outputs of all stages, each in memory of its own."""
    state, features = extractor.begin(X), []
    for stage in range(N_STAGES):
        state, output = extractor.advance(state, stage)
        features.append(np.asarray(output).astype(np.float64))
    return features


def carried_by(carry, stage):
    return () if stage == N_STAGES - 1 else tuple(range(max(stage - carry, 0), stage))


def make_carrying(extractor=None, carry=1, seed=5):
    """Return a network whose heads are linear, with weights that are random."""
    extractor = ToyExtractor(N_STAGES) if extractor is None else extractor
    rng, heads = np.random.default_rng(seed), []
    sizes = [f.shape[1] for f in stage_features(extractor, make_X(1, dtype=np.float32))]
    for stage, name in enumerate(extractor.stage_names):
        carried = carried_by(carry, stage)
        d = sum(sizes[s] for s in (*carried, stage))
        weight, bias = rng.normal(size=(N_CLASSES, d)), rng.normal(size=N_CLASSES)
        logits = LinearLogits(torch.tensor(weight), torch.tensor(bias))
        named = {"stage_name": name, "n_features": d, "carried": carried}
        heads.append(Head(Noting(), logits, **named))
    costs = Costs.from_counts(
        np.array([100.0, 200, 300, 400]),
        np.full(4, 8.0),
        np.full(4, 2.0),
        tuple(head.carried for head in heads),
    )
    return MultiExitNetwork(extractor, heads, LABELS, costs, "auto")


def proba_by_numpy(network, X):
    """Return the probabilities of all stages: (n_samples, n_stages, n_classes)."""
    features, stages = stage_features(network.extractor, X), []
    for stage, head in enumerate(network.heads):
        joined = np.hstack([features[s] for s in (*head.carried, stage)])
        weight, bias = head.logits.weight.numpy(), head.logits.bias.numpy()
        stages.append(softmax(joined @ weight.T + bias, axis=1))
    return np.stack(stages, axis=1)


def by_class(threshold):
    thresholds = np.asarray(threshold, dtype=float)
    if thresholds.ndim == 1:
        thresholds = thresholds[:, None]
    return np.broadcast_to(thresholds, (N_STAGES - 1, N_CLASSES))


def pooled(network):
    """Return how many rows each stage has pooled, and forget it."""
    found = [sum(head.pooling.rows) for head in network.heads]
    for head in network.heads:
        head.pooling.rows.clear()
    return found


def in_full(network, X):
    """Return the probabilities of all stages from features, nobody leaving."""
    memory = joblib.Memory(None)
    full = FullPass(network.extractor, pooling="auto", batch_size=64, memory=memory)
    return np.concatenate([network.proba_of_features(batch) for batch in full(X)])


# Where samples leave, and with what


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("carry", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 64, 1000])
def test_samples_leave_at_the_first_exit_that_is_sure(
    make, threshold, carry, batch_size
):
    X, network = make_X(100), make_carrying(make(), carry)
    proba = proba_by_numpy(network, X)
    stage, label = leave(proba, by_class(threshold))
    found = network.exits(X, threshold, batch_size=batch_size)
    assert_array_equal(found.stage, stage)
    assert_array_equal(found.label, label)
    at_exit = network.proba(X, threshold, batch_size=batch_size)
    assert_allclose(at_exit, proba[np.arange(len(X)), stage], rtol=0, atol=1e-5)


@pytest.mark.parametrize("carry", [1, 2])
def test_samples_leave_at_every_stage(carry):
    # Otherwise the comparison above would show little.
    X, network = make_X(), make_carrying(carry=carry)
    stage = network.exits(X, 0.8, batch_size=64).stage
    assert (np.bincount(stage, minlength=N_STAGES) > 5).all()


@pytest.mark.parametrize("make", FAST.values(), ids=FAST)
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("batch_size", [1, 64])
def test_staged_probabilities_run_closed_exits_too(make, threshold, batch_size):
    X, network = make_X(), make_carrying(make() if make is JoiningSum else None, 2)
    proba = proba_by_numpy(network, X)
    stage, _ = leave(proba, by_class(threshold))
    found = network.staged_proba(X, threshold, batch_size=batch_size)
    for j in range(N_STAGES):
        expected = proba[np.arange(len(X)), np.minimum(j, stage)]
        assert_allclose(found[j], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("carry", [1, 2])
def test_probabilities_of_features_are_those_of_the_network(carry):
    X, network = make_X(), make_carrying(carry=carry)
    expected = proba_by_numpy(network, X)
    assert_allclose(in_full(network, X), expected, rtol=0, atol=1e-12)


def test_a_copy_from_a_pickle_carries_the_same():
    X, network = make_X(), make_carrying(carry=2)
    again = pickle.loads(pickle.dumps(network))
    found = again.proba(X, 0.8, batch_size=64)
    assert_array_equal(found, network.proba(X, 0.8, batch_size=64))
    assert_array_equal(again.stage_cost(0.8), network.stage_cost(0.8))


def test_heads_may_carry_any_earlier_stages():
    X, network = make_X(), make_carrying(JoiningSum())
    heads, rng = list(network.heads), np.random.default_rng(0)
    for stage, carried in {2: (0,), 3: (0, 1)}.items():
        weight = torch.tensor(rng.normal(size=(N_CLASSES, 2 * len(carried) + 2)))
        logits = LinearLogits(weight, torch.zeros(N_CLASSES, dtype=torch.float64))
        heads[stage] = Head(Noting(), logits, carried=carried)
    network = MultiExitNetwork(network.extractor, heads, LABELS, network.costs, "auto")
    stage, label = leave(proba_by_numpy(network, X), by_class([INF, 0.7, 0.7]))
    found = network.exits(X, [INF, 0.7, 0.7], batch_size=16)
    assert_array_equal(found.stage, stage)
    assert_array_equal(found.label, label)


# What is run


@pytest.mark.parametrize("carry", [1, 2])
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_what_no_head_needs_is_not_pooled(carry, threshold):
    X, network = make_X(), make_carrying(carry=carry)
    stage = network.exits(X, threshold, batch_size=16).stage
    is_open = [*(by_class(threshold) < INF).any(axis=1), True]
    expected = []
    for j in range(N_STAGES):
        needed = any(
            is_open[h] and j in (*network.heads[h].carried, h) for h in range(N_STAGES)
        )
        expected.append((stage >= j).sum() if needed else 0)
    assert pooled(network) == expected


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("batch_size", [1, 37])
def test_a_stage_computes_those_who_have_not_left_before(threshold, batch_size):
    extractor, X = CountingExtractor(ToyExtractor(N_STAGES)), make_X()
    network = make_carrying(extractor, 2)
    extractor.rows[:] = 0
    stage = network.exits(X, threshold, batch_size=batch_size).stage
    assert_array_equal(extractor.rows, [(stage >= j).sum() for j in range(N_STAGES)])


def test_features_are_forgotten_when_no_head_to_come_takes_them():
    network, X = make_carrying(carry=1), make_X()
    loop = LazyLoop(network.extractor, network.heads, [0.6] * 3, X, 16)
    waited = set()
    for _ in loop.run():
        for stop, groups in enumerate(loop._waiting):
            for group in groups:
                waited.add(stop)
                assert list(group.carried) == ([stop] if stop < 2 else [])
                assert all(len(f) == group.size for f in group.carried.values())
    assert waited == {0, 1, 2}


@pytest.mark.parametrize("pooling", ["auto", 2, "none", "second_order"])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2), (3, 4, 4), (3, 5, 4)])
def test_pooled_features_are_not_the_memory_of_the_output(shape, pooling):
    output = np.random.default_rng(0).normal(size=(5, *shape))
    pooling = make_pooling(pooling, "a", shape, torch.float64, 1 if shape[1:] else None)
    features = Head(pooling, LinearLogits(torch.empty(0), torch.empty(0))).pooled(
        output
    )
    before = features.clone()
    output[:] = 0
    assert_array_equal(features, before)


# Batches that the memory does not hold


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stage", range(N_STAGES))
def test_a_batch_too_large_for_the_memory_is_halved_and_nothing_is_lost(stage, error):
    X, network = make_X(), make_carrying(Small(stage, 9, error), 2)
    expected = make_carrying(carry=2).proba(X, 0.8, batch_size=80)
    with pytest.warns(UserWarning, match="smaller batch_size"):
        found = network.proba(X, 0.8, batch_size=80)
    assert_allclose(found, expected, rtol=0, atol=1e-12)


# NaN


@pytest.mark.parametrize("batch_size", [1, 10])
@pytest.mark.parametrize("ask", ["exits", "proba", "staged_proba"])
def test_an_output_that_is_not_finite_names_its_stage_and_sample(ask, batch_size):
    network, X = make_carrying(Minimal()), make_X(10)
    X[[5, 6], 2] = np.nan  # of the second stage
    first = 5 % batch_size
    with pytest.raises(ValueError, match=rf"stage 'b'.*number {first} of its batch"):
        getattr(network, ask)(X, 1.5, batch_size=batch_size)


def test_numbers_too_large_for_single_precision_are_added_up_in_double():
    network, X = make_carrying(JoiningSum(), 2), make_X(10)
    X[7, 1] = 1e30
    heads = [
        Head(
            head.pooling,
            WeightedLogits([squares_of(head.n_features)], torch.ones(1), -30.0),
            carried=head.carried,
        )
        for head in network.heads
    ]
    network = MultiExitNetwork(network.extractor, heads, LABELS, network.costs, "auto")
    found = network.staged_proba(X, [1.5, INF, 1.5], batch_size=4)
    assert np.isfinite(found).all()
    expected = in_full(network, X).swapaxes(0, 1)
    assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_numbers_that_are_not_finite_are_named_by_the_stage_they_were_carried_from():
    class Spoils(Minimal):
        def advance(self, state, stage):
            state, output = super().advance(state, stage)
            bad = (stage == 0) & (state[:, :1] > 2)
            return state, np.where(bad, np.nan, output)

    X = np.zeros((10, N_FEATURES))
    X[4, 0] = 3
    network = make_carrying(Spoils())
    with pytest.raises(ValueError, match=r"output of stage 'a'.*number 4 of its batch"):
        network.exits(X, [INF, 1.5, INF], batch_size=10)
    network.exits(X, [INF, INF, 1.5], batch_size=10)


def squares_of(n_features):
    means = torch.arange(float(N_CLASSES * n_features)).reshape(N_CLASSES, -1)
    return DistanceLogits(means, torch.ones(N_CLASSES))


# Weighted sums


@pytest.mark.parametrize("weights", [[0.5, 0.5], [2.0, 0.0], [0.3, 1.4]])
def test_weighted_logits_are_sums_of_log_probabilities(weights):
    rng = np.random.default_rng(0)
    features, coef = rng.normal(size=(20, 4)), rng.normal(size=(2, N_CLASSES, 4))
    parts = [LinearLogits(torch.tensor(w), torch.zeros(N_CLASSES)) for w in coef]
    parts = [part.double() for part in parts]
    logits = WeightedLogits(parts, torch.tensor(weights), least=-30.0).double()
    expected = sum(
        b * np.log(softmax(features @ w.T, axis=1))
        for b, w in zip(weights, coef, strict=True)
    )
    found = softmax(logits(torch.tensor(features)).numpy(), axis=1)
    assert_allclose(found, softmax(expected, axis=1), rtol=1e-6)
    assert logits.macs == sum(part.macs for part in parts)


@pytest.mark.parametrize("factor", [0.2, 3.0])
@pytest.mark.parametrize("centre", [None, torch.ones(4)])
def test_sharpened_logits_are_larger_by_a_factor(factor, centre):
    logits = LinearLogits(torch.randn(3, 4), torch.randn(3), centre)
    features = torch.randn(10, 4)
    found = logits.sharpened(factor)(features)
    assert_allclose(found, factor * logits(features), rtol=1e-4, atol=1e-6)
