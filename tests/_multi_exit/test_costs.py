"""What leaving at each stage costs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._multi_exit._full_pass import RawFeatures
from sk_e2cm._multi_exit._loop import check_thresholds, cost_shares, stage_costs

INF = np.inf


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        # (100 + 10, 200 + 10 + 20, 400 + 10 + 20 + 30) / 400
        ([0.5, 0.5], [0.275, 0.575, 1.15]),
        ([INF, 0.5], [0.25, 0.55, 1.125]),
        ([0.5, INF], [0.275, 0.525, 1.1]),
        ([INF, INF], [0.25, 0.5, 1.075]),
        ([[INF, INF, 0.5], [INF, INF, INF]], [0.275, 0.525, 1.1]),
    ],
)
def test_a_stage_costs_the_network_and_the_open_exits_up_to_it(thresholds, expected):
    exit_macs = np.array([10.0, 20.0, 30.0])
    macs = np.array([100.0, 200.0, 400.0])
    thresholds = check_thresholds(thresholds, 2, 3)
    assert_allclose(stage_costs(macs, exit_macs, thresholds), expected, rtol=1e-15)


def test_closed_exits_and_a_free_answer_cost_the_network():
    exit_macs = np.array([10.0, 20.0, 0.0])
    macs = np.array([100.0, 200.0, 400.0])
    found = stage_costs(macs, exit_macs, np.full((2, 3), INF))
    assert_array_equal(found, [0.25, 0.5, 1.0])


@pytest.mark.parametrize("n_groups", [1, 3, 7])
def test_thresholds_may_be_those_of_any_groups(n_groups):
    exit_macs = np.array([10.0, 20.0, 30.0])
    macs = np.array([100.0, 200.0, 400.0])
    thresholds = np.full((2, n_groups), INF)
    thresholds[1, -1] = 0.5
    found = stage_costs(macs, exit_macs, thresholds)
    assert_allclose(found, [0.25, 0.55, 1.125], rtol=1e-15)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_a_network_the_only_stage_costs_one(n_classes):
    macs = np.asarray(RawFeatures().macs((5,)))
    exit_macs = np.array([5.0 * n_classes])
    assert stage_costs(macs, exit_macs, np.ones((0, n_classes))).tolist() == [1.0]


def test_without_a_network_an_answer_of_unknown_cost_costs_one():
    found = stage_costs(np.zeros(1), np.zeros(1), np.ones((0, 3)))
    assert found.tolist() == [1.0]


def test_shares_are_what_each_stage_and_each_exit_adds():
    macs, exit_macs = np.array([100.0, 200.0, 400.0]), np.array([10.0, 20.0, 30.0])
    steps, own = cost_shares(macs, exit_macs)
    assert_allclose(steps, [0.25, 0.25, 0.5], rtol=1e-15)
    assert_allclose(own, [0.025, 0.05, 0.075], rtol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_costs_are_the_shares_of_what_a_sample_has_met(seed):
    rng = np.random.default_rng(seed)
    macs, exit_macs = rng.uniform(0, 100, 5).cumsum(), rng.uniform(0, 20, 5)
    thresholds = np.where(rng.random((4, 3)) < 0.7, INF, 0.5)
    steps, own = cost_shares(macs, exit_macs)
    found = stage_costs(macs, exit_macs, thresholds)
    for stage in range(5):
        cost = 0.0
        for j in range(stage + 1):
            cost += steps[j]
            if j == 4 or (thresholds[j] < INF).any():
                cost += own[j]
        assert_allclose(found[stage], cost, rtol=1e-12)


def test_without_a_network_shares_are_those_of_the_exits():
    steps, own = cost_shares(np.zeros(2), np.array([10.0, 30.0]))
    assert steps.tolist() == [0.0, 0.0]
    assert own.tolist() == [0.25, 0.75]


def test_if_nothing_is_counted_all_stages_cost_the_same():
    steps, own = cost_shares(np.zeros(3), np.zeros(3))
    assert steps.tolist() == [1.0, 0.0, 0.0]
    assert own.tolist() == [0.0, 0.0, 0.0]
    found = stage_costs(np.zeros(3), np.zeros(3), np.ones((2, 3)))
    assert found.tolist() == [1.0, 1.0, 1.0]


def test_stages_before_the_network_begins_are_free():
    macs, exit_macs = np.array([0.0, 50.0, 50.0]), np.array([5.0, 5.0, 0.0])
    steps, own = cost_shares(macs, exit_macs)
    assert steps.tolist() == [0.0, 1.0, 0.0]
    assert own.tolist() == [0.1, 0.1, 0.0]
    found = stage_costs(macs, exit_macs, np.ones((2, 3)))
    assert_allclose(found, [0.1, 1.2, 1.2], rtol=1e-15)
