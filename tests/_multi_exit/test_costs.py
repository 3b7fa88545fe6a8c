"""What leaving at each stage costs."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._extractors import RawFeatures
from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._multi_exit._thresholds import check_thresholds

INF = np.inf


def make_costs(macs=(100, 200, 400), heads=(10, 20, 30)):
    return Costs.from_counts(np.array(macs, float), np.array(heads, float))


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        # (100 + 10, 200 + 10 + 20, 400 + 10 + 20 + 30) / 400
        (0.5, [0.275, 0.575, 1.15]),
        ([0.5, 0.5], [0.275, 0.575, 1.15]),
        ([INF, 0.5], [0.25, 0.55, 1.125]),
        ([0.5, INF], [0.275, 0.525, 1.1]),
        ([INF, INF], [0.25, 0.5, 1.075]),
        ([[INF, INF, 0.5], [INF, INF, INF]], [0.275, 0.525, 1.1]),
    ],
)
def test_a_stage_costs_the_network_and_the_open_exits_up_to_it(thresholds, expected):
    thresholds = check_thresholds(thresholds, 2, 3)
    assert_allclose(make_costs().cumulative(thresholds), expected, rtol=1e-15)


def test_closed_exits_and_a_free_answer_cost_the_network():
    found = make_costs(heads=[10, 20, 0]).cumulative(np.full((2, 3), INF))
    assert_array_equal(found, [0.25, 0.5, 1.0])


def test_exits_by_which_nobody_leaves_are_paid_for_all_the_same():
    found = make_costs().cumulative(np.full((2, 1), 1.5))
    assert_allclose(found, [0.275, 0.575, 1.15], rtol=1e-15)


@pytest.mark.parametrize("n_groups", [1, 3, 7])
def test_thresholds_may_be_those_of_any_groups(n_groups):
    thresholds = np.full((2, n_groups), INF)
    thresholds[1, -1] = 0.5
    found = make_costs().cumulative(thresholds)
    assert_allclose(found, [0.25, 0.55, 1.125], rtol=1e-15)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_a_network_the_only_stage_costs_one(n_classes):
    costs = make_costs(RawFeatures().macs((5,)), [5.0 * n_classes])
    assert costs.cumulative(np.ones((0, n_classes))).tolist() == [1.0]


def test_without_a_network_an_answer_of_unknown_cost_costs_one():
    assert make_costs([0], [0]).cumulative(np.ones((0, 3))).tolist() == [1.0]


def test_shares_are_what_each_stage_and_each_exit_adds():
    costs = make_costs()
    assert_allclose(costs.stages, [0.25, 0.25, 0.5], rtol=1e-15)
    assert_allclose(costs.heads, [0.025, 0.05, 0.075], rtol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_costs_are_the_shares_of_what_a_sample_has_met(seed):
    rng = np.random.default_rng(seed)
    costs = make_costs(rng.uniform(0, 100, 5).cumsum(), rng.uniform(0, 20, 5))
    thresholds = np.where(rng.random((4, 3)) < 0.7, INF, 0.5)
    added, cumulative = costs.added(thresholds), costs.cumulative(thresholds)
    for stage in range(5):
        cost = 0.0
        for j in range(stage + 1):
            here = costs.stages[j]
            if j == 4 or (thresholds[j] < INF).any():
                here += costs.heads[j]
            cost += here
        assert_allclose(added[stage], here, rtol=1e-12)
        assert_allclose(cumulative[stage], cost, rtol=1e-12)


def test_the_unit_of_cost_does_not_matter():
    one, other = make_costs(), make_costs([0.1, 0.2, 0.4], [0.01, 0.02, 0.03])
    assert_allclose(one.stages, other.stages, rtol=1e-12)
    assert_allclose(one.heads, other.heads, rtol=1e-12)


def test_without_a_network_shares_are_those_of_the_exits():
    costs = make_costs([0, 0], [10, 30])
    assert costs.stages.tolist() == [0.0, 0.0]
    assert costs.heads.tolist() == [0.25, 0.75]


def test_if_nothing_is_counted_all_stages_cost_the_same():
    costs = make_costs([0, 0, 0], [0, 0, 0])
    assert costs.stages.tolist() == [1.0, 0.0, 0.0]
    assert costs.heads.tolist() == [0.0, 0.0, 0.0]
    assert costs.cumulative(np.ones((2, 3))).tolist() == [1.0, 1.0, 1.0]


def test_stages_before_the_network_begins_are_free():
    costs = make_costs([0, 50, 50], [5, 5, 0])
    assert costs.stages.tolist() == [0.0, 1.0, 0.0]
    assert costs.heads.tolist() == [0.1, 0.1, 0.0]
    found = costs.cumulative(np.ones((2, 3)))
    assert_allclose(found, [0.1, 1.2, 1.2], rtol=1e-15)


# Features that later heads carry


CARRIED = ((), (0,), (0, 1), (1, 2), ())


def make_carrying(seed=0, carried=CARRIED):
    """Return costs of five stages whose heads carry the features of earlier ones."""
    rng = np.random.default_rng(seed)
    stages, heads, poolings = rng.uniform(1, 100, (3, 5))
    costs = Costs.from_counts(stages.cumsum(), heads, poolings, carried)
    return replace(costs, going_on=rng.uniform(0, 0.1, 5))


def make_thresholds(is_open):
    return np.where(is_open, 0.5, INF)[:, None]


EVERY_CHOICE = list(product([True, False], repeat=4))


@pytest.mark.parametrize("is_open", EVERY_CHOICE)
def test_a_pooling_is_paid_where_its_head_runs_or_a_later_one_carries_it(is_open):
    costs = make_carrying()
    runs = [*is_open, True]
    for stage, found in enumerate(costs.added(make_thresholds(is_open))):
        expected = costs.stages[stage] + runs[stage] * costs.heads[stage]
        if any(runs[h] and stage in (*CARRIED[h], h) for h in range(stage, 5)):
            expected += costs.poolings[stage]
        assert_allclose(found, expected, rtol=1e-12)


def test_stages_poolings_and_heads_are_shares_of_the_network():
    cumulative, heads, poolings = np.array([[2.0, 8], [1, 2], [3, 4]])
    costs = Costs.from_counts(cumulative, heads, poolings, [(), (0,)])
    assert_allclose(costs.stages, [0.25, 0.75], rtol=1e-15)
    assert_allclose(costs.heads, [0.125, 0.25], rtol=1e-15)
    assert_allclose(costs.poolings, [0.375, 0.5], rtol=1e-15)


def test_without_a_network_poolings_are_a_part_of_the_whole():
    poolings = np.array([5.0, 15.0])
    costs = Costs.from_counts(np.zeros(2), np.array([10.0, 30.0]), poolings)
    assert_allclose(costs.added(np.zeros((1, 1))).sum(), 1)


@pytest.mark.parametrize("is_open", EVERY_CHOICE)
@pytest.mark.parametrize("carried", [CARRIED, ()], ids=["carrying", "not carrying"])
def test_opening_an_exit_costs_those_who_stay_by_how_much_all_costs_rise(
    is_open, carried
):
    costs = make_carrying(carried=carried)
    for exit_ in range(4):
        opened, closed = (np.array(is_open) for _ in range(2))
        opened[exit_], closed[exit_] = True, False
        with_, without = (
            costs.cumulative(make_thresholds(each)) for each in (opened, closed)
        )
        found = costs.opening(exit_, make_thresholds(is_open))
        # Who goes on after the exit has paid for all of it.
        later = slice(exit_ + 1, None)
        assert_allclose(found.cumsum()[later], (with_ - without)[later], atol=1e-12)
        assert_array_equal(found[later], 0)


@pytest.mark.parametrize("is_open", EVERY_CHOICE[:-1])
@pytest.mark.parametrize("carries", [True, False])
def test_without_closed_exits_what_is_left_costs_the_same(is_open, carries):
    exits = np.flatnonzero(is_open)
    # Only features of exits that are open are carried.
    carried = [tuple(s for s in of_head if is_open[s]) for of_head in CARRIED]
    costs = make_carrying(carried=carried if carries else ())
    expected = costs.cumulative(make_thresholds(is_open))[[*exits, 4]]
    found = costs.of_exits(exits).cumulative(np.full((len(exits), 1), 0.5))
    assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_exits_that_are_left_may_be_closed_all_the_same(seed):
    exits = np.array([0, 2, 3])
    costs = make_carrying(seed, carried=((), (), (0,), (2,), ()))
    is_open = np.random.default_rng(seed).random(3) < 0.5
    among = np.zeros(4, dtype=bool)
    among[exits] = is_open
    expected = costs.cumulative(make_thresholds(among))[[*exits, 4]]
    found = costs.of_exits(exits).cumulative(make_thresholds(is_open))
    assert_allclose(found, expected, rtol=1e-12)


def test_costs_that_are_one_number_for_all_stages_stay_so():
    costs = make_costs().of_exits(np.array([1]))
    assert costs.going_on == costs.poolings == 0
    assert_allclose(costs.cumulative(np.full((1, 1), 0.5)), [0.55, 1.125])
