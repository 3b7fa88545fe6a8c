"""Thresholds that differ gain what is more than luck."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._tuning._beyond_luck import beyond_luck, gains, shrunk, some_closed
from sk_e2cm._tuning._search import Points, concatenate, pareto, shared
from sk_e2cm._tuning._soft import Distinct

from .test_problem import follow, make_problem, totals_by_loops
from .test_search import check_right, find, matched_by

INF = np.inf


def apart(n):
    return Distinct(np.arange(n), np.arange(n))


def is_shared(thresholds):
    finite = thresholds[thresholds < INF]
    return len(np.unique(finite)) <= 1


def make_unequal(n=1500, seed=0):
    """Return exits of which the first is too sure and the second too modest."""
    problem = make_problem(seed, n=n, n_exits=2, head_cost=0.0)
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.4, 1.0, (2, n))  # chance to be right
    loss = np.stack([*(rng.uniform(size=(2, n)) > truth), rng.uniform(size=n) > 0.95])
    surely = np.stack([0.8 + 0.2 * truth[0], 0.8 * truth[1]])
    return replace(problem, confidence=surely, loss=loss.astype(float))


def make_alike(n=400, n_exits=6, seed=0):
    """Return exits that are right as often whatever their confidence: all is luck."""
    problem = make_problem(seed, n=n, n_exits=n_exits, head_cost=0.0)
    wrong = np.random.default_rng(seed).uniform(size=problem.loss.shape) > 0.7
    return replace(problem, loss=wrong.astype(float))


@pytest.mark.parametrize("n_groups", [1, 3])
def test_gains_and_their_errors_are_those_of_sums_over_samples(n_groups):
    problem = make_problem(n_groups=n_groups, share=0.4)
    points, n = find(problem), 60
    simple = shared(problem.in_groups(1)).in_groups(n_groups)
    # Every fifth sample is a copy of the one before.
    which = np.arange(n) - np.arange(n) // 5 - (np.arange(n) % 5 == 4)
    first = np.unique(which, return_index=True)[1]
    _, which = np.unique(which, return_inverse=True)
    distinct = Distinct(first, which)
    *found, rival = map(np.array, gains(problem, points, simple, distinct))
    for each, cost in enumerate(points.cost):
        rivals = np.flatnonzero(simple.cost <= cost)
        if not len(rivals):
            assert rival[each] == -1
            continue
        assert rival[each] == rivals[-1]
        saved = np.zeros(n)
        for i in range(n):
            before, _ = follow(problem, simple.thresholds[rivals[-1]], i)
            after, _ = follow(problem, points.thresholds[each], i)
            saved[i] = problem.loss[before, i] - problem.loss[after, i]
        gain = (problem.weight * saved).sum()
        variance = 0.0
        for k in range(len(first)):
            copies = which == k
            variance += (problem.weight * (saved - gain))[copies].sum() ** 2
        got = found[0][each], found[1][each]
        assert_allclose(got, [gain, variance**0.5], atol=1e-12)


def test_of_a_gain_of_z_errors_james_and_stein_leave_a_part():
    problem = make_problem(n=300)
    points, simple = find(problem), shared(problem)
    gain, error, rival = gains(problem, points, simple, apart(300))
    found = shrunk(problem, points, simple, apart(300))
    assert_array_equal(found.cost, points.cost)
    assert_array_equal(found.thresholds, points.thresholds)
    parts = []
    for each, loss in enumerate(found.loss):
        if rival[each] < 0:
            assert loss == points.loss[each]
            continue
        part = 0.0
        if gain[each] > 0 and error[each] > 0:
            part = max(0.0, 1 - 2 / (gain[each] / error[each]) ** 2)  # of three exits
        parts.append(part)
        assert loss == pytest.approx(simple.loss[rival[each]] - part * gain[each])
    assert min(parts) == 0 < max(parts) < 1


@pytest.mark.parametrize("n_groups", [1, 3])
def test_what_is_kept_is_a_pareto_set_of_what_was_found_and_of_shared_thresholds(
    n_groups,
):
    problem = make_problem(n_groups=n_groups)
    points = find(problem)
    kept = beyond_luck(problem, points, apart(60))
    assert (np.diff(kept.cost) > 0).all()
    assert (np.diff(kept.loss) < 0).all()
    loss, cost = np.transpose([totals_by_loops(problem, e) for e in kept.thresholds])
    assert_allclose(kept.cost, cost)
    assert (kept.loss >= loss - 1e-12).all()
    for thresholds in kept.thresholds:
        was_found = (points.thresholds == thresholds).all(axis=(1, 2)).any()
        assert was_found or is_shared(thresholds[thresholds > 0])
    assert matched_by(shared(problem.in_groups(1)), kept).all()


def test_thresholds_are_shared_by_the_exits_that_are_open_at_a_point():
    problem = make_problem(n_groups=3)
    points = find(problem)
    found = some_closed(problem, points)
    check_right(problem, found)
    opened = {tuple((each < INF).any(axis=1)) for each in points.thresholds}
    assert len(opened) > 2
    for is_open in opened - {(False,) * 3}:
        each = shared(problem.in_groups(1), np.array(is_open))
        assert matched_by(each, found).all()
    for thresholds in found.thresholds:
        assert is_shared(thresholds)
        assert tuple((thresholds < INF).any(axis=1)) in opened


def test_exits_that_cost_more_than_they_save_are_closed():
    dear = make_problem(n=1000, head_cost=[0.0, 0.4, 0.0, 0.0])
    kept = beyond_luck(dear, find(dear), apart(1000))
    paid = [
        (each[1] < INF).any() and dear.reached(each)[1].any()
        for each in kept.thresholds
    ]
    assert np.mean(paid) < 0.2


def test_exits_that_differ_get_thresholds_that_differ():
    problem = make_unequal()
    points = find(problem)
    kept = beyond_luck(problem, points, apart(1500))
    differ = [not is_shared(each) for each in kept.thresholds]
    assert np.mean(differ) > 0.5
    middle = np.flatnonzero(kept.cost <= 0.6)[-1]
    simple = shared(problem)
    rival = np.flatnonzero(simple.cost <= 0.6)[-1]
    assert kept.loss[middle] < simple.loss[rival] - 0.01


def part_left(problem):
    """Return the part of the gains over a shared threshold that is left."""
    points, simple = find(problem), shared(problem)
    distinct = apart(len(problem.weight))
    gain, _, rival = gains(problem, points, simple, distinct)
    left = simple.loss[rival] - shrunk(problem, points, simple, distinct).loss
    return left[rival >= 0].sum() / gain[rival >= 0].sum()


@pytest.mark.parametrize("seed", range(3))
def test_little_is_left_of_gains_by_luck_and_most_of_others(seed):
    assert part_left(make_alike(seed=seed)) < 0.5
    assert part_left(make_unequal(seed=seed)) > 0.8


def test_copies_of_the_samples_make_no_luck_significant():
    problem = make_alike(seed=1)
    points = find(problem)
    kept = beyond_luck(problem, points, apart(400))
    copied = replace(
        problem,
        confidence=np.tile(problem.confidence, 50),
        label=np.tile(problem.label, 50),
        loss=np.tile(problem.loss, 50),
        weight=np.tile(problem.weight, 50) / 50,
    )
    copies = Distinct(np.arange(400), np.tile(np.arange(400), 50))
    again = beyond_luck(copied, points, copies)
    assert_allclose(again.loss, kept.loss, atol=1e-12)
    by_luck = beyond_luck(copied, points, apart(400 * 50))
    n_differ = sum(not is_shared(each) for each in by_luck.thresholds)
    assert n_differ > 3 * sum(not is_shared(each) for each in kept.thresholds)


def test_what_is_cheaper_than_all_shared_thresholds_is_kept():
    problem = make_problem()
    points = find(problem)
    cheapest = points.take(np.array([0]))
    cheaper = Points(cheapest.loss, cheapest.cost / 2, cheapest.thresholds)
    kept = beyond_luck(problem, pareto(concatenate(points, cheaper)), apart(60))
    assert kept.cost[0] == cheaper.cost[0]


def test_a_single_exit_has_no_others_to_share_with():
    problem = make_problem(n_exits=1)
    points = find(problem)
    kept = beyond_luck(problem, points, apart(60))
    assert matched_by(points, kept).all()


def test_without_exits_nothing_is_left_to_luck():
    problem = make_problem(n_exits=0)
    points = find(problem)
    assert beyond_luck(problem, points, apart(60)) is points
