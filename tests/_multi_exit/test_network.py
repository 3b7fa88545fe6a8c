"""A network with its exits: what it answers, where, and what it leaves undone."""

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from sk_e2cm._extractors import RawFeatures
from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._multi_exit._full_pass import FullPass
from sk_e2cm._multi_exit._network import MultiExitNetwork
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from ..references import leave
from .networks import (
    EXTRACTORS,
    LABELS,
    N_CLASSES,
    N_STAGES,
    THRESHOLDS,
    answers,
    full_proba,
    make_network,
    make_X,
)

INF = np.inf


def by_class(network, threshold):
    return np.broadcast_to(network.thresholds(threshold), (N_STAGES - 1, N_CLASSES))


def count_calls(network):
    """Return a list to which the network's heads add their stage when called."""
    called = []
    for stage, head in enumerate(network.heads):
        head.register_forward_pre_hook(lambda *_, stage=stage: called.append(stage))
    return called


# Where samples leave, and with what


@pytest.mark.parametrize("make", EXTRACTORS.values(), ids=EXTRACTORS)
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_samples_leave_at_the_first_exit_that_is_sure(make, threshold, batch_size):
    X, network = make_X(), make_network(make())
    proba = full_proba(network, X)
    stage, label = leave(proba, by_class(network, threshold))
    found = network.exits(X, threshold, batch_size=batch_size)
    assert_array_equal(found.stage, stage)
    assert_array_equal(found.label, label)
    at_exit = network.proba(X, threshold, batch_size=batch_size)
    assert at_exit.dtype == np.float64
    assert_allclose(at_exit, proba[np.arange(200), stage], rtol=0, atol=1e-6)


def test_samples_leave_everywhere():
    # Otherwise the comparisons would show little.
    stage, label = make_network().exits(make_X(), 0.8, batch_size=64)
    assert (np.bincount(stage, minlength=N_STAGES) > 5).all()
    assert (np.bincount(label, minlength=N_CLASSES) > 5).all()


def test_answers_are_in_the_order_of_the_samples():
    X, network = make_X(), make_network()
    order = np.random.default_rng(1).permutation(len(X))
    for found, expected in zip(
        answers(network, X=X[order]), answers(network, X=X), strict=True
    ):
        assert_allclose(found, expected[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_staged_probabilities_are_those_known_after_each_stage(threshold, batch_size):
    X, network = make_X(), make_network()
    proba = full_proba(network, X)
    last, _ = leave(proba, by_class(network, threshold))
    found = network.staged_proba(X, threshold, batch_size=batch_size)
    assert found.shape == (N_STAGES, len(X), N_CLASSES)
    for stage in range(N_STAGES):
        for i in range(len(X)):
            expected = proba[i, min(stage, last[i])]
            assert_allclose(found[stage, i], expected, rtol=0, atol=1e-12)


def test_closed_exits_are_asked_for_staged_probabilities():
    network = make_network()
    called = count_calls(network)
    network.staged_proba(make_X(), INF, batch_size=1000)
    assert called == [0, 1, 2, 3]


@pytest.mark.parametrize("make", EXTRACTORS.values(), ids=EXTRACTORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_of_pooled_features_are_those_of_all_stages(make, dtype):
    X, network = make_X(dtype=dtype), make_network(make())
    full_pass = FullPass(
        network.extractor, pooling="auto", batch_size=64, memory=joblib.Memory(None)
    )
    found = np.concatenate([network.proba_of_features(b) for b in full_pass(X)])
    assert found.dtype == np.float64
    assert_allclose(found, full_proba(network, X), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answers_have_the_precision_of_the_heads(dtype):
    network = make_network(dtype=dtype)
    X = make_X(dtype=np.dtype(str(dtype).removeprefix("torch.")))
    found = network.staged_proba(X, 1.5, batch_size=64)
    for head in network.heads:
        head.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    seen = []
    network.exits(X, 1.5, batch_size=1000)
    assert seen == [dtype] * N_STAGES
    atol = 1e-12 if dtype == torch.float64 else 1e-5
    expected = full_proba(network, X).swapaxes(0, 1)
    assert_allclose(found, expected, rtol=0, atol=atol)


def test_without_exits_everyone_is_answered_by_the_only_stage():
    head = make_network().heads[-1]
    network = MultiExitNetwork(
        RawFeatures(),
        [head],
        LABELS,
        Costs.from_counts(np.zeros(1), np.ones(1)),
        "auto",
    )
    X = make_X()
    weight, bias = head.logits.weight.numpy(), head.logits.bias.numpy()
    expected = softmax(X @ weight.T + bias, axis=1)
    stage, label, proba = answers(network)
    assert network.n_exits == 0
    assert_array_equal(stage, 0)
    assert_array_equal(label, expected.argmax(axis=1))
    assert_allclose(proba, expected, rtol=0, atol=1e-12)
    assert_allclose(network.staged_proba(X, 0.5, batch_size=64), [expected], atol=1e-12)
    assert network.stage_cost(0.5).tolist() == [1.0]


# What is left undone


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("ask", ["exits", "proba"])
def test_closed_exits_are_not_asked_at_all(threshold, ask):
    X, network = make_X(), make_network()
    thresholds = by_class(network, threshold)
    stage, _ = leave(full_proba(network, X), thresholds)
    called = count_calls(network)
    getattr(network, ask)(X, threshold, batch_size=1000)
    is_open = [*(thresholds < INF).any(axis=1), True]
    assert called == [j for j in range(stage.max() + 1) if is_open[j]]


def test_a_threshold_above_one_asks_every_exit_and_nobody_leaves():
    network = make_network()
    called = count_calls(network)
    assert_array_equal(network.exits(make_X(), 1.5, batch_size=1000).stage, 3)
    assert called == [0, 1, 2, 3]
    expected = np.array([108, 216, 324, 432]) / 400
    assert_allclose(network.stage_cost(1.5), expected, rtol=1e-12)


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_who_has_left_is_not_computed_again(threshold):
    counting = CountingExtractor(ToyExtractor(N_STAGES))
    network = make_network(counting)
    counting.rows[:] = 0
    stage, _ = network.exits(make_X(), threshold, batch_size=64)
    assert counting.rows.tolist() == [(stage >= j).sum() for j in range(N_STAGES)]


# Thresholds, costs and labels


def test_thresholds_are_what_users_give():
    network = make_network()
    assert network.thresholds(0.5).tolist() == [[0.5]] * 3
    assert network.thresholds([0.5, 0.6, INF]).tolist() == [[0.5], [0.6], [INF]]
    with pytest.raises(ValueError, match=r"threshold has shape \(2,\)"):
        network.exits(make_X(), [0.5, 0.5], batch_size=64)


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_a_stage_costs_what_was_computed_up_to_it(threshold):
    network = make_network()
    cost, expected = 0.0, []
    for stage in range(N_STAGES):
        is_last = stage == N_STAGES - 1
        is_asked = is_last or (by_class(network, threshold)[stage] < INF).any()
        cost += (100 + 8 * is_asked) / 400
        expected.append(cost)
    assert_allclose(network.stage_cost(threshold), expected, rtol=1e-12)


def test_labels_are_those_of_the_likeliest_columns():
    network = make_network()
    proba = full_proba(network, make_X())
    stage = np.arange(len(proba)) % N_STAGES
    expected = [LABELS[p[j].argmax()] for p, j in zip(proba, stage, strict=True)]
    assert network.labels_at(proba, stage).tolist() == expected
    expected = [LABELS[p[2].argmax()] for p in proba]
    assert network.labels_at(proba, 2).tolist() == expected
    assert tuple(network.stage_names) == ("part1", "part2", "part3", "part4")
    assert network.n_exits == 3
