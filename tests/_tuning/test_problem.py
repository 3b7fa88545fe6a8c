"""What samples lose and cost under thresholds, against loops over single samples."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._multi_exit._thresholds import first_exit
from sk_e2cm._tuning._predictions import StagePredictions
from sk_e2cm._tuning._problem import ThresholdProblem, sample_losses

INF = np.inf
THRESHOLDS = {
    "everyone leaves at once": [[0.0], [0.0], [0.0]],
    "one number": [[0.7], [0.7], [0.7]],
    "falling": [[0.9], [0.75], [0.7]],
    "first closed": [[INF], [0.7], [0.5]],
    "last two closed": [[0.6], [INF], [INF]],
    "nobody leaves": [[INF], [INF], [INF]],
}
CLASS_THRESHOLDS = {
    "all differ": [[0.9, 0.7, 0.5], [0.6, 0.8, 0.7], [0.5, 0.6, 0.9]],
    "some closed": [[INF, 0.7, INF], [0.6, INF, 0.7], [0.5, 0.6, INF]],
    "an exit closed": [[0.9, 0.7, INF], [INF, INF, INF], [0.5, INF, 0.6]],
    "nobody leaves": [[INF] * 3, [INF] * 3, [INF] * 3],
}
CASES = [
    *(pytest.param(1, value, id=name) for name, value in THRESHOLDS.items()),
    *(pytest.param(3, v, id=f"classes: {k}") for k, v in CLASS_THRESHOLDS.items()),
]


def make_problem(
    seed=0,
    n=60,
    n_exits=3,
    n_classes=3,
    n_groups=1,
    head_cost=None,
    decimals=16,
    share=1.0,
    carry=0,
):
    """Return samples that later stages are more often right about.

    This share of the losses is errors, and the others are soft. Heads carry the
    features of so many exits before.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_classes, size=n)
    confidence = 1 / n_classes + rng.beta(3, 2, (n_exits + 1, n)) * (1 - 1 / n_classes)
    skill = np.linspace(0.8, 1.0, n_exits + 1)[:, None]
    right = rng.uniform(size=confidence.shape) < skill * confidence**0.5
    other = truth + rng.integers(1, n_classes, size=right.shape)
    label = np.where(right, truth, other % n_classes)
    weight = rng.uniform(0.2, 2.0, n)
    stages = rng.uniform(0.5, 2.0, n_exits + 1)
    if head_cost is None:
        head_cost = rng.uniform(0.0, 0.05, n_exits + 1)
    heads = np.broadcast_to(head_cost, n_exits + 1).astype(float)
    going_on = rng.uniform(0.0, 0.05, n_exits + 1)
    proba = rng.dirichlet(np.ones(n_classes), n)
    soft = 1 - proba[np.arange(n), label]
    carried = [tuple(range(max(head - carry, 0), head)) for head in range(n_exits)]
    poolings = rng.uniform(0.0, 0.05, n_exits + 1) * (carry > 0)
    return ThresholdProblem(
        confidence=confidence[:-1].round(decimals),
        label=label,
        loss=share * (label != truth) + (1 - share) * soft,
        weight=weight / weight.sum(),
        costs=Costs(
            stages / stages.sum(),
            heads,
            going_on,
            poolings=poolings,
            carried=[*carried, ()] if carry else (),
        ),
        n_groups=n_groups,
    )


def with_head_costs(problem, heads):
    costs = Costs(problem.costs.stages, np.array(heads), problem.costs.going_on)
    return replace(problem, costs=costs)


def follow(problem, thresholds, sample, first=0):
    """Return where a sample leaves that comes to the first stage, and its cost."""
    cost, costs = 0.0, problem.costs
    for stage in range(first, problem.n_exits):
        cost += costs.stages[stage]
        for later in range(stage, problem.n_exits) if costs.carried else ():
            if min(thresholds[later]) < INF and stage in (*costs.carried[later], later):
                cost += costs.poolings[stage]
                break
        if min(thresholds[stage]) == INF:
            continue
        cost += costs.heads[stage]
        group = problem.label[stage, sample] if problem.n_groups > 1 else 0
        if problem.confidence[stage, sample] >= thresholds[stage][group]:
            return stage, cost
        cost += costs.of_staying(stage)
    cost += costs.stages[-1] + costs.heads[-1]
    return problem.n_exits, cost + (costs.poolings[-1] if costs.carried else 0.0)


def totals_by_loops(problem, thresholds):
    total_loss = total_cost = 0.0
    for i, weight in enumerate(problem.weight):
        stage, cost = follow(problem, thresholds, i)
        total_loss += weight * problem.loss[stage, i]
        total_cost += weight * cost
    return total_loss, total_cost


# Where samples leave


@pytest.mark.parametrize(("n_groups", "thresholds"), CASES)
def test_samples_leave_where_loops_say(n_groups, thresholds):
    problem = make_problem(n_groups=n_groups)
    thresholds = np.array(thresholds)
    stage = problem.exits(thresholds)
    reached, labels = problem.reached(thresholds), problem.labels(thresholds)
    assert reached.shape == (4, 60)
    for i in range(60):
        expected, _ = follow(problem, thresholds, i)
        assert stage[i] == expected
        assert reached[:, i].tolist() == [j <= expected for j in range(4)]
        assert labels[i] == problem.label[expected, i]


@pytest.mark.parametrize(
    "thresholds", [THRESHOLDS["falling"], CLASS_THRESHOLDS["all differ"]]
)
def test_samples_leave_at_every_stage(thresholds):
    # Otherwise the comparisons here would show little.
    thresholds = np.array(thresholds)
    stage = make_problem(n_groups=thresholds.shape[1]).exits(thresholds)
    assert (np.bincount(stage, minlength=4) > 2).all()


@pytest.mark.parametrize(("n_groups", "thresholds"), CASES)
def test_samples_leave_where_the_classifier_lets_them_leave(n_groups, thresholds):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(3), size=(50, 4))
    predictions = StagePredictions.from_proba(proba, rng.integers(3, size=50))
    cumulative, heads = np.array([10.0, 20.0, 50.0, 90.0]), np.array([1.0, 2, 3, 4])
    problem = ThresholdProblem(
        predictions.confidence[:-1],
        predictions.label,
        np.zeros((4, 50)),
        np.full(50, 1 / 50),
        Costs.from_counts(cumulative, heads),
        n_groups=n_groups,
    )
    thresholds = np.array(thresholds)
    by_class = np.broadcast_to(thresholds, (3, 3))
    expected = first_exit(proba, by_class)
    assert_array_equal(problem.exits(thresholds), expected)
    asked = np.append((by_class < INF).any(axis=1), True)
    expected = (cumulative + np.cumsum(asked * heads)) / 90
    assert_allclose(problem.stage_cost(thresholds), expected, rtol=1e-12)


def test_a_confidence_equal_to_the_threshold_is_enough():
    problem = make_problem()
    for exit_, sample in [(0, 3), (1, 5), (2, 7)]:
        thresholds = np.full((3, 1), INF)
        thresholds[exit_] = problem.confidence[exit_, sample]
        assert problem.exits(thresholds)[sample] == exit_
        to_go = problem.to_go_before(exit_, thresholds, np.full((2, 60), 99.0))
        assert (to_go[:, sample] < 99).all()
        thresholds[exit_] = np.nextafter(thresholds[exit_], 1.0)
        assert problem.exits(thresholds)[sample] == 3


@pytest.mark.parametrize(("n_groups", "thresholds"), CASES)
def test_who_is_confident_leaves_at_an_exit_whoever_comes(n_groups, thresholds):
    problem = make_problem(n_groups=n_groups)
    found = problem.leaves(np.array(thresholds))
    for exit_ in range(3):
        here = problem.leaves_at(exit_, np.array(thresholds))
        assert_array_equal(found[exit_], here)
        for i in range(60):
            group = problem.label[exit_, i] if n_groups > 1 else 0
            needed = thresholds[exit_][group]
            assert here[i] == (problem.confidence[exit_, i] >= needed)


# What they lose and cost


@pytest.mark.parametrize(("n_groups", "thresholds"), CASES)
@pytest.mark.parametrize("head_cost", [None, 0.0, 2.0])
@pytest.mark.parametrize("carry", [0, 1, 2])
def test_totals_are_sums_over_samples(n_groups, thresholds, head_cost, carry):
    problem = make_problem(n_groups=n_groups, head_cost=head_cost, carry=carry)
    found = problem.totals(np.array(thresholds))
    assert_allclose(found, totals_by_loops(problem, thresholds), rtol=1e-12)


@pytest.mark.parametrize(("n_groups", "thresholds"), CASES)
def test_a_stage_costs_the_steps_and_the_open_exits_up_to_it(n_groups, thresholds):
    problem = make_problem(n_groups=n_groups)
    expected = [0.0]
    for stage in range(4):
        asked = stage == 3 or min(thresholds[stage]) < INF
        paid = problem.costs.heads[stage] if asked else 0.0
        if stage and min(thresholds[stage - 1]) < INF:
            paid += problem.costs.of_staying(stage - 1)
        expected.append(expected[-1] + problem.costs.stages[stage] + paid)
    found = problem.stage_cost(np.array(thresholds))
    assert_allclose(found, expected[1:], rtol=1e-12)


@pytest.mark.parametrize(
    ("n_groups", "thresholds"),
    [(1, [[0.6], [INF], [0.5]]), (3, CLASS_THRESHOLDS["an exit closed"])],
)
def test_closed_exits_cost_nothing(n_groups, thresholds):
    cheap = make_problem(n_groups=n_groups, head_cost=[0.1, 0.0, 0.2, 0.3])
    dear = with_head_costs(cheap, [0.1, 1e6, 0.2, 0.3])
    thresholds = np.array(thresholds)
    assert_array_equal(cheap.totals(thresholds), dear.totals(thresholds))
    for exit_ in range(3):
        expected = cheap.to_go_after(exit_, thresholds)
        assert_array_equal(dear.to_go_after(exit_, thresholds), expected)


def test_an_exit_closed_for_some_classes_costs_all_who_come():
    free = make_problem(n_groups=3, head_cost=0.0)
    paid = with_head_costs(free, [0.0, 0.5, 0.0, 0.0])
    thresholds = np.array([[0.7, 0.7, 0.7], [INF, 0.6, INF], [0.5, 0.5, 0.5]])
    come = (free.exits(thresholds) > 0) @ free.weight
    assert 0 < come < 1
    found = paid.totals(thresholds) - free.totals(thresholds)
    assert_allclose(found, [0.0, 0.5 * come], atol=1e-12)


@pytest.mark.parametrize(("n_groups", "thresholds"), CASES)
@pytest.mark.parametrize("exit_", [0, 1, 2])
@pytest.mark.parametrize("carry", [0, 2])
def test_what_is_to_go_after_and_before_an_exit(n_groups, thresholds, exit_, carry):
    problem = make_problem(n_groups=n_groups, carry=carry)
    after = problem.to_go_after(exit_, np.array(thresholds))
    before = problem.to_go_before(exit_, np.array(thresholds), after)
    assert after.shape == before.shape == (2, 60)
    for first, found in ((exit_ + 1, after), (exit_, before)):
        for i, weight in enumerate(problem.weight):
            stage, cost = follow(problem, thresholds, i, first)
            expected = weight * problem.loss[stage, i], weight * cost
            assert_allclose(found[:, i], expected, rtol=1e-12, atol=1e-15)


def test_what_is_to_go_before_the_first_stage_adds_up_to_the_totals():
    problem = make_problem(n_groups=3)
    thresholds = np.array(CLASS_THRESHOLDS["some closed"])
    before = problem.to_go_before(0, thresholds, problem.to_go_after(0, thresholds))
    assert_allclose(before.sum(axis=1), problem.totals(thresholds), rtol=1e-12)


# Groups


def test_groups_are_the_classes_said_by_the_exit_or_one():
    problem = make_problem(n_groups=3)
    assert_array_equal(problem.group, problem.label[:-1])
    single = problem.in_groups(1)
    assert_array_equal(single.group, np.zeros((3, 60)))
    assert single.in_groups(3).group.tolist() == problem.group.tolist()


def test_equal_thresholds_for_all_classes_are_one_threshold():
    problem = make_problem(n_groups=3)
    for thresholds in map(np.array, THRESHOLDS.values()):
        found = problem.totals(thresholds.repeat(3, axis=1))
        assert_array_equal(found, problem.in_groups(1).totals(thresholds))


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("decimals", [16, 1])
def test_samples_are_in_order_by_group_then_by_falling_confidence(n_groups, decimals):
    problem = make_problem(n_groups=n_groups, decimals=decimals)
    for exit_, rows in enumerate(problem.order):
        assert sorted(rows) == list(range(60))
        keys = [(problem.group[exit_, i], -problem.confidence[exit_, i]) for i in rows]
        assert keys == sorted(keys)


# No exits


def test_without_exits_everyone_comes_to_the_only_stage():
    problem = make_problem(n_exits=0, head_cost=0.25)
    thresholds = np.full((0, 1), INF)
    assert problem.reached(thresholds).all()
    assert_array_equal(problem.exits(thresholds), np.zeros(60))
    assert_array_equal(problem.labels(thresholds), problem.label[0])
    expected = problem.loss[0] @ problem.weight, 1.25
    assert_allclose(problem.totals(thresholds), expected, rtol=1e-12)


# The losses of samples


@pytest.mark.parametrize("scoring", ["accuracy", "balanced_accuracy"])
def test_one_less_the_mean_loss_is_the_score(scoring):
    rng = np.random.default_rng(0)
    codes, weight = rng.choice(4, p=[0.6, 0.3, 0.1, 0], size=90), rng.uniform(size=90)
    label = rng.integers(0, 4, size=(3, 90))
    loss = sample_losses(scoring, label, codes, weight)
    for stage in range(3):
        if scoring == "balanced_accuracy":
            of_class = [
                np.average(label[stage, codes == k] == k, weights=weight[codes == k])
                for k in range(3)
            ]
            expected = np.mean(of_class)
        else:
            expected = np.average(label[stage] == codes, weights=weight)
        got = 1 - np.average(loss[stage], weights=weight)
        assert got == pytest.approx(expected)


def test_other_scores_are_optimised_by_way_of_accuracy():
    label, codes = np.array([[0, 1, 1], [0, 0, 1]]), np.array([0, 1, 1])
    loss = sample_losses("f1_macro", label, codes, np.ones(3))
    assert loss.tolist() == [[0, 0, 0], [0, 1, 0]]
