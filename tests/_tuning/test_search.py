"""Thresholds against brute force: candidates, sweeps, and the frontier."""

from dataclasses import replace
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._tuning._search import (
    N_DRAWS,
    Points,
    candidates_of,
    draws,
    evaluate,
    pareto,
    search,
    shared,
    sweep,
    used_exits,
    vary,
)

from .test_problem import make_problem, totals_by_loops

INF = np.inf
PRICES = [1e-3, 0.05, 0.3, 1.0, 5.0]
# Confidences of one decimal are full of ties.
PROBLEMS = {
    "one threshold": {},
    "ties": {"decimals": 1},
    "free exits": {"head_cost": 0.0},
    "dear exits": {"head_cost": 0.2},
    "one exit": {"n_exits": 1},
    "five exits": {"n_exits": 5},
    "soft losses": {"share": 0.2},
    "by class": {"n_groups": 3},
    "by class, soft losses": {"n_groups": 3, "share": 0.2},
    "by class, ties": {"n_groups": 3, "decimals": 1},
    "by class, dear exits": {"n_groups": 3, "head_cost": 0.2},
    "remembering one": {"n_exits": 4, "carry": 1},
    "remembering two": {"n_exits": 4, "carry": 2},
    "by class, remembering": {"n_groups": 3, "carry": 2},
}
problems = pytest.mark.parametrize("params", PROBLEMS.values(), ids=PROBLEMS)


def distinct(confidence):
    """Return a threshold between any two neighbouring confidences, 0, and infinity."""
    known = np.unique(confidence)
    return [0.0, *(known[1:] + known[:-1]) / 2, INF]


def matched_by(points, other):
    """Tell for each of some points whether another set has one as good or better."""
    cheap = other.cost <= points.cost[:, None] + 1e-12
    return (cheap & (other.loss <= points.loss[:, None] + 1e-12)).any(axis=1)


def check_equal(found, expected):
    assert_allclose(found.cost, expected.cost, rtol=0, atol=1e-12)
    assert_allclose(found.loss, expected.loss, rtol=0, atol=1e-12)


def check_right(problem, points):
    """Check that points lose and cost what loops say."""
    expected = [totals_by_loops(problem, each) for each in points.thresholds]
    found = np.column_stack([points.loss, points.cost])
    assert_allclose(found, expected, rtol=0, atol=1e-12)


def make_thresholds(problem, seed=0):
    shape = problem.n_exits, problem.n_groups
    return np.random.default_rng(seed).uniform(0.7, 0.95, shape)


def find(problem, seed=0):
    """Search from some thresholds on, as a search by class needs."""
    starts = [make_thresholds(problem)]
    return search(problem, starts, np.random.RandomState(seed))


@cache
def problem_and_frontier(name, seed=0):
    problem = make_problem(seed, **PROBLEMS[name])
    return problem, find(problem, seed)


# Points


def make_points(seed, n=60):
    """Return points with many equal losses and costs, and their numbers."""
    loss, cost = np.random.default_rng(seed).integers(1, 12, (2, n)) / 12
    loss = np.maximum(loss, np.round(12 - 12 * cost) / 12)
    return Points(loss, cost, np.arange(n).reshape(n, 1, 1))


@pytest.mark.parametrize("seed", range(5))
def test_the_pareto_set_is_what_no_other_point_beats_the_cheapest_first(seed):
    points = make_points(seed)
    pairs = set(zip(points.cost.tolist(), points.loss.tolist(), strict=True))
    expected = [
        (cost, loss)
        for cost, loss in sorted(pairs)
        if not any(c <= cost and x <= loss and (c, x) != (cost, loss) for c, x in pairs)
    ]
    assert len(expected) > 5
    found = pareto(points.take(np.arange(25)), points.take(np.arange(25, 60)))
    assert list(zip(found.cost.tolist(), found.loss.tolist(), strict=True)) == expected
    assert (np.diff(found.loss) < 0).all()
    number = found.thresholds[:, 0, 0]
    assert_array_equal(points.cost[number], found.cost)
    assert_array_equal(points.loss[number], found.loss)


def test_points_of_some_exits_close_the_others():
    points = Points(np.zeros(2), np.ones(2), np.arange(12.0).reshape(2, 2, 3))
    found = points.among(np.array([1, 3]), 5)
    assert found.thresholds.shape == (2, 5, 3)
    assert_array_equal(found.thresholds[:, [1, 3]], points.thresholds)
    assert_array_equal(found.thresholds[:, [0, 2, 4]], INF)
    assert_array_equal(found.loss, points.loss)
    assert_array_equal(found.cost, points.cost)


def test_exits_are_used_where_somebody_leaves_and_not_where_they_are_open():
    problem = make_problem(n_exits=4)
    thresholds = np.array([[INF, 0.7, INF, 2.0], [INF, 0.0, 0.5, 0.5]])[:, :, None]
    points = evaluate(problem, thresholds)
    assert used_exits(problem, points).tolist() == [1]
    points = evaluate(problem, [*thresholds, np.full((4, 1), 0.7)])
    assert used_exits(problem, points).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("price", PRICES)
def test_the_best_point_has_the_least_loss_and_price_of_its_cost(price):
    points = make_points(1)
    worth = [loss + price * c for loss, c in zip(points.loss, points.cost, strict=True)]
    assert worth[points.best(price).item()] == min(worth)


# Shared thresholds, and random ones


@problems
def test_shared_thresholds_are_the_best_of_all_that_differ(params):
    problem = make_problem(**params).in_groups(1)
    # Who has been surer at an earlier exit has left there.
    highest = np.maximum.accumulate(problem.confidence, axis=0)
    # Sharing infinity closes all exits, which is left to others.
    candidates = np.array(distinct(highest)[:-1])
    everything = np.tile(candidates[:, None, None], (1, problem.n_exits, 1))
    expected = pareto(evaluate(problem, everything))
    found = shared(problem)
    check_equal(found, expected)
    check_right(problem, found)
    assert_allclose(found.thresholds, expected.thresholds, rtol=0, atol=1e-15)
    assert len(found.loss) > 3


@problems
def test_one_threshold_may_be_shared_by_some_exits_while_others_are_closed(params):
    problem = make_problem(**params).in_groups(1)
    for n_open in range(1, problem.n_exits + 1):
        for is_open in combinations(range(problem.n_exits), n_open):
            mask = np.isin(np.arange(problem.n_exits), is_open)
            candidates = np.array(distinct(problem.confidence[mask])[:-1])
            thresholds = np.where(mask, candidates[:, None], INF)[:, :, None]
            # The last candidate lets nobody leave, though exits are open.
            nobody = np.where(mask, 1.0, INF)[None, :, None]
            found = shared(problem, mask)
            check_right(problem, found)
            assert matched_by(evaluate(problem, thresholds), found).all()
            assert matched_by(found, evaluate(problem, [*thresholds, *nobody])).all()


def test_sharing_more_thresholds_than_those_is_of_no_use():
    problem = make_problem()
    others = np.linspace(0.0, 1.0, 2000)[:, None, None].repeat(3, axis=1)
    assert matched_by(evaluate(problem, others), shared(problem)).all()


def test_random_thresholds_lie_between_the_confidences_of_their_exit():
    problem = make_problem()
    drawn = draws(problem, 500, np.random.RandomState(0))
    assert drawn.shape == (500, 3, 1)
    for exit_, confidence in enumerate(problem.confidence):
        low, high = drawn[:, exit_].min(), drawn[:, exit_].max()
        assert confidence.min() <= low <= high <= confidence.max()
        assert high - low > 0.95 * np.ptp(confidence)


# One exit


@problems
@pytest.mark.parametrize("exit_", [0, -1])
def test_candidates_are_all_thresholds_that_differ_and_what_they_save(params, exit_):
    problem = make_problem(**params)
    exit_ = range(problem.n_exits)[exit_]
    thresholds = make_thresholds(problem)
    reached = problem.reached(thresholds)[exit_]
    after = problem.to_go_after(exit_, thresholds)
    found = candidates_of(problem, exit_, reached, after)

    closed = thresholds.copy()
    closed[exit_] = INF
    useless = closed.copy()
    useless[exit_] = 1.5
    base = np.array(totals_by_loops(problem, useless))
    for group in range(problem.n_groups):
        mine = reached & (problem.group[exit_] == group)
        confidence = problem.confidence[exit_, mine]
        expected = distinct(confidence)[-2::-1]
        which = np.flatnonzero(found.group == group)
        assert_allclose(found.threshold[which], expected, rtol=0, atol=1e-15)
        for each, threshold in zip(which, expected, strict=True):
            opened = closed.copy()
            opened[exit_, group] = threshold
            saved = base - totals_by_loops(problem, opened)
            assert_allclose(found.saved[:, each], saved, rtol=0, atol=1e-12)
    assert (np.diff(found.group) >= 0).all()
    assert len(found.threshold) > 2


@problems
@pytest.mark.parametrize("exit_", [0, -1])
@pytest.mark.parametrize("at_first", ["open", "closed"])
def test_varying_an_exit_gives_the_best_of_the_candidates_and_closing(
    params, exit_, at_first
):
    problem = make_problem(**params)
    exit_ = range(problem.n_exits)[exit_]
    thresholds = make_thresholds(problem)
    if at_first == "closed":
        thresholds[exit_] = INF
    closed = thresholds.copy()
    closed[exit_] = INF
    changed = [closed]
    for group in range(problem.n_groups):
        mine = problem.reached(thresholds)[exit_] & (problem.group[exit_] == group)
        for value in distinct(problem.confidence[exit_, mine])[:-1]:
            changed.append(thresholds.copy())
            changed[-1][exit_, group] = value
    expected = pareto(evaluate(problem, changed))
    found = vary(problem, thresholds, exit_)
    check_equal(found, expected)
    check_right(problem, found)
    assert_allclose(found.thresholds, expected.thresholds, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n_groups", [1, 3])
def test_an_exit_that_nobody_reaches_can_only_be_closed(n_groups):
    thresholds = np.full((3, n_groups), INF)
    thresholds[0] = 0.0
    problem = make_problem(n_groups=n_groups)
    found = vary(problem, thresholds, 1)
    check_equal(found, evaluate(problem, thresholds[None]))


# Sweeps


def least_by_one_change(problem, thresholds, price):
    """Return the least loss and price that a change at a single exit can give."""
    least = INF
    for exit_ in range(problem.n_exits):
        reached = problem.reached(thresholds)[exit_]
        choices = []
        for group in range(problem.n_groups):
            mine = reached & (problem.group[exit_] == group)
            choices.append(distinct(problem.confidence[exit_, mine]))
        for values in product(*choices):
            changed = thresholds.copy()
            changed[exit_] = values
            least = min(least, np.array([1, price]) @ problem.totals(changed))
    return least


@problems
@pytest.mark.parametrize("price", PRICES)
def test_after_a_sweep_no_single_exit_can_be_improved(params, price):
    if "n_groups" in params:
        params = params | {"n": 16, "n_classes": 2, "n_groups": 2}
    for seed in range(3):
        problem = make_problem(seed, **params)
        start = make_thresholds(problem)
        swept = sweep(problem, start, price)
        worth = np.array([1.0, price]) @ totals_by_loops(problem, swept)
        assert worth <= np.array([1.0, price]) @ totals_by_loops(problem, start)
        assert worth <= least_by_one_change(problem, swept, price) + 1e-12


@problems
def test_swept_thresholds_lie_midway_between_confidences_of_the_samples(params):
    problem = make_problem(**params)
    start = np.full((problem.n_exits, problem.n_groups), INF)
    n_open = 0
    for price in PRICES:
        for exit_, thresholds in enumerate(sweep(problem, start, price)):
            known = np.unique(problem.confidence[exit_])
            midway = np.array([0.0, *map(np.mean, combinations(known, 2))])
            for threshold in thresholds[thresholds < INF]:
                assert np.abs(threshold - midway).min() < 1e-15
                n_open += 1
    assert n_open > 3


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("price", PRICES)
def test_a_sweep_closes_exits_that_cost_more_than_they_save(n_groups, price):
    problem = make_problem(n_groups=n_groups, head_cost=[0.0, 2.0, 0.0, 0.0])
    # An exit that is right where the last stage is wrong may be worth its cost.
    problem = replace(problem, loss=problem.loss * [[1], [1], [1], [0]])
    swept = sweep(problem, np.full((3, n_groups), 0.6), price)
    assert (swept[1] == INF).all()
    assert price < 0.1 or (swept[[0, 2]] < INF).any()


# The frontier


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_frontier_is_right_and_never_worse_than_what_it_starts_from(name):
    problem, found = problem_and_frontier(name)
    check_right(problem, found)
    assert (np.diff(found.cost) > 0).all()
    assert (np.diff(found.loss) < 0).all()
    single = problem.in_groups(1)
    drawn = draws(single, N_DRAWS, np.random.RandomState(0))
    nobody = np.full((1, problem.n_exits, 1), INF)
    for points in (shared(single), evaluate(single, [*drawn, *nobody])):
        assert matched_by(points, found).all()
    if problem.n_groups > 1:
        start = evaluate(problem, [make_thresholds(problem)])
        assert matched_by(start, found).all()


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("seed", range(2))
def test_hardly_any_other_random_thresholds_are_better(name, seed):
    problem, found = problem_and_frontier(name, seed)
    rng = np.random.RandomState(seed + 100)
    drawn = [draws(problem, 1000, rng) for _ in range(problem.n_groups)]
    other = evaluate(problem, np.concatenate(drawn, axis=2))
    for price in np.geomspace(1e-3, 20.0, 30):
        least = (other.loss + price * other.cost).min()
        assert (found.loss + price * found.cost).min() < least + 0.01
    assert matched_by(other, found).mean() > 0.95


@pytest.mark.parametrize("decimals", [16, 1])
@pytest.mark.parametrize("head_cost", [0.0, 0.05, 2.0])
def test_with_one_exit_nothing_is_better(decimals, head_cost):
    problem = make_problem(n_exits=1, head_cost=head_cost, decimals=decimals)
    values = np.array(distinct(problem.confidence))
    found = find(problem)
    check_equal(found, pareto(evaluate(problem, values[:, None, None])))


@pytest.mark.parametrize(("n_exits", "n_groups", "n"), [(2, 1, 10), (1, 2, 12)])
def test_with_few_samples_hardly_anything_is_better(n_exits, n_groups, n):
    n_matched = n_points = 0
    for seed in range(6):
        problem = make_problem(seed, n, n_exits, n_classes=2, n_groups=n_groups)
        values = map(distinct, problem.confidence.repeat(n_groups, axis=0))
        everything = np.array(list(product(*values))).reshape(-1, n_exits, n_groups)
        best = pareto(evaluate(problem, everything))
        found = find(problem)
        assert matched_by(found, best).all()
        n_matched += matched_by(best, found).sum()
        n_points += len(best.loss)
    assert n_points > 15
    assert n_matched > 0.9 * n_points


@pytest.mark.parametrize("n_groups", [1, 3])
def test_nobody_on_the_frontier_pays_for_an_exit_that_costs_too_much(n_groups):
    problem = make_problem(n_groups=n_groups, head_cost=[0.0, 5.0, 0.0, 0.0])
    problem = replace(problem, loss=problem.loss * [[1], [1], [1], [0]])
    found = find(problem)
    for thresholds in found.thresholds:
        is_open = (thresholds < INF).any(axis=1)
        assert not (is_open[1] and problem.reached(thresholds)[1].any())
    assert len(found.loss) > 5


def test_without_exits_the_frontier_is_the_network():
    problem = make_problem(n_exits=0, head_cost=0.25)
    found = find(problem)
    assert found.thresholds.shape == (1, 0, 1)
    assert_allclose(found.cost, [1.25])
    assert_allclose(found.loss, [problem.weight @ problem.loss[0]])
