"""Upper bounds of the drop: the test by hand, and whether it keeps its level."""

from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import beta

from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._tuning._confidence import DropTest, p_value, upper_bound, with_cautious
from sk_e2cm._tuning._held_out import HeldOutPredictions
from sk_e2cm._tuning._search import concatenate, evaluate, pareto, search

from .predictions import predictions_of

N_DRAWS = 300


def chances(n, loss, gain):
    """Return the probability of every number lost and gained, (n + 1, n + 1)."""
    table = np.zeros((n + 1, n + 1))
    for lost in range(n + 1):
        for gained in range(n + 1 - lost):
            ways = comb(n, lost) * comb(n - lost, gained)
            rest = (1 - loss - gain) ** (n - lost - gained)
            table[lost, gained] = ways * loss**lost * gain**gained * rest
    return table


def likeliest_gain(lost, gained, n, drop):
    """Return by search the gain that explains the counts best, given the drop."""
    gain = np.linspace(max(0, -drop), (1 - drop) / 2, 20_001)[1:-1]
    rest = n - lost - gained
    likelihood = lost * np.log(np.maximum(gain + drop, 1e-300))
    likelihood += gained * np.log(gain) + rest * np.log(1 - 2 * gain - drop)
    return gain[likelihood.argmax()]


# The test


@pytest.mark.parametrize("drop", [-0.05, 0.0, 0.01, 0.1, 0.4])
@pytest.mark.parametrize("counts", [(0, 3), (1, 1), (4, 2), (2, 9), (7, 3)])
def test_the_p_value_is_that_of_the_likeliest_gain(counts, drop):
    n = 25
    gain = likeliest_gain(*counts, n, drop)
    net = np.subtract.outer(np.arange(n + 1), np.arange(n + 1))
    expected = chances(n, gain + drop, gain)[net <= counts[0] - counts[1]].sum()
    assert_allclose(p_value(*counts, n, drop), expected, atol=2e-4)


@pytest.mark.parametrize("n", [1, 40, 300, 10_000])
@pytest.mark.parametrize("drop", [0.0, 0.01, 0.2, 1.0])
def test_without_gains_the_test_is_the_binomial_one(n, drop):
    for lost in {0, 1, n // 100, n // 2, n}:
        if lost / n > drop > 0:  # there, a gain is likelier than none
            continue
        expected = beta.cdf(1 - drop, n - lost, lost + 1) if lost < n else 1.0
        if lost <= drop * n:
            assert_allclose(p_value(lost, 0, n, drop), expected, atol=1e-9)


@pytest.mark.parametrize(("lost", "n"), [(0, 300), (3, 300), (10, 100), (0, 1)])
def test_without_gains_the_bound_is_that_of_clopper_and_pearson(lost, n):
    expected = beta.ppf(0.95, lost + 1, n - lost)
    assert_allclose(upper_bound(lost, 0, n, 0.95), expected, rtol=1e-4)


@pytest.mark.parametrize("n", [20, 40])
@pytest.mark.parametrize("drop", [0.0, 0.02, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("gain", [0.0, 0.01, 0.05, 0.2])
def test_a_drop_too_large_passes_no_more_often_than_it_may(n, drop, gain):
    table = chances(n, gain + drop, gain)
    likely = np.argwhere(table > 1e-7)
    passes = [p_value(*counts, n, drop) <= 0.05 for counts in likely.tolist()]
    assert table[tuple(likely[passes].T)].sum() <= 0.05 + 1e-4


def test_the_bound_falls_with_gains_and_with_samples():
    by_gains = [upper_bound(10, gained, 500, 0.95) for gained in range(0, 30, 5)]
    assert (np.diff(by_gains) < 0).all()
    assert by_gains[-1] < 0  # early exits are better
    by_samples = [upper_bound(n // 100, 0, n, 0.95) for n in (100, 1000, 10_000)]
    assert (np.diff(by_samples) < 0).all()
    assert 0.01 < by_samples[-1] < 0.013


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize(
    "counts", [(0, 0), (3, 0), (0, 4), (5, 5), (40, 60), (100, 0), (0, 100)]
)
def test_bound_and_test_say_the_same(counts, confidence):
    bound = upper_bound(*counts, 100, confidence)
    assert (counts[0] - counts[1]) / 100 <= bound <= 1
    assert p_value(*counts, 100, min(bound + 1e-3, 1.0)) <= 1 - confidence or bound == 1
    if bound > (counts[0] - counts[1]) / 100 + 2e-3:
        assert p_value(*counts, 100, bound - 1e-3) > 1 - confidence


# The candidates


def make_pool(n=20_000, seed=0):
    """Return what three stages predict for many samples, of which others are drawn."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(4, size=n)
    # Who is hard for the last stage is hard for the exits, too.
    margin = [[0.7], [0.8], [0.9]] - rng.uniform(size=n) + rng.normal(0, 0.1, (3, n))
    label = np.where(margin > 0, codes, (codes + rng.integers(1, 4, (3, n))) % 4)
    unsure = np.exp(-4 * np.abs(margin + rng.normal(0, 0.1, (3, n))))
    return 1 - 0.75 * unsure * rng.uniform(0.5, 1.0, (3, n)), label, codes


POOL = make_pool()


def held_out(rows):
    confidence, label, codes = POOL
    of_rows = confidence[:, rows], label[:, rows], codes[rows]
    predictions = predictions_of(*of_rows, n_classes=4)
    costs = Costs.from_counts(np.array([10.0, 50, 90]), np.ones(3))
    estimator = SimpleNamespace(network_=SimpleNamespace(costs=costs))
    counted = np.ones(len(rows)), rows.astype(np.uint64)
    return HeldOutPredictions(estimator, predictions, codes[rows], *counted)


def candidates(rows):
    """Return the frontier of these samples, and more and more cautious thresholds."""
    found = held_out(rows)
    problem = found.problem(found.losses("accuracy"))
    points = pareto(search(problem, [], np.random.RandomState(0)))
    points = concatenate(points, evaluate(problem, np.full((1, 2, 1), np.inf)))
    return with_cautious(problem, points)


def drops(thresholds):
    """Return the drops in all of the pool."""
    found = held_out(np.arange(len(POOL[2])))
    problem = found.problem(found.losses("accuracy"))
    loss = evaluate(problem, thresholds).loss
    return loss - problem.loss[-1].mean()


@pytest.mark.parametrize("max_drop", [0.0, 0.03, 0.06])
def test_what_passes_drops_too_much_as_seldom_as_it_says(max_drop):
    points = candidates(np.random.default_rng(0).integers(20_000, size=200))
    true_drops = drops(points.thresholds)
    rng = np.random.default_rng(1)
    largest = np.empty(N_DRAWS)
    for draw in range(N_DRAWS):
        test = DropTest(held_out(rng.integers(20_000, size=600)), max_drop, 0.9)
        n_passed = len(test.passed(points).loss)
        largest[draw] = true_drops[-n_passed:].max()
    standard_error = (0.1 * 0.9 / N_DRAWS) ** 0.5
    # But for the rounding of a mean.
    assert (largest > max_drop + 1e-12).mean() <= 0.1 + 2 * standard_error
    assert (true_drops > max_drop).any()
    if max_drop:  # and not because nothing passes
        assert np.median(largest) > max_drop / 3


@pytest.mark.parametrize("n_groups", [1, 4])
def test_more_cautious_thresholds_let_fewer_and_more_confident_samples_leave(n_groups):
    found = held_out(np.arange(300))
    problem = found.problem(found.losses("accuracy"), n_groups)
    thresholds = np.full((3, 2, n_groups), np.inf)
    thresholds[0] = 0.3
    thresholds[1] = [[0.7], [0.8]]
    points = evaluate(problem, thresholds)
    more = with_cautious(problem, points)
    assert_array_equal(more.thresholds[:2], thresholds[:2])
    assert_array_equal(more.thresholds[-1], thresholds[2])
    leaving = [(problem.exits(each) < 2).mean() for each in more.thresholds[1:]]
    assert (np.diff(leaving) < 0).all()
    at_first = (problem.exits(more.thresholds[5]) == 0).mean()  # with a share of .6
    assert at_first == pytest.approx(
        0.6 * (problem.exits(thresholds[1]) == 0).mean(), abs=0.01
    )
    assert (np.diff(more.thresholds[1:-1], axis=0) >= 0).all()
    again = evaluate(problem, more.thresholds)
    assert_allclose(more.loss, again.loss)
    assert_allclose(more.cost, again.cost)


def test_a_network_without_exits_has_no_thresholds_to_be_cautious_with():
    found = held_out(np.arange(50))
    problem = found.problem(found.losses("accuracy"))
    closed = evaluate(problem, np.full((2, 2, 1), np.inf))
    assert np.isposinf(with_cautious(problem, closed).thresholds).all()


def test_points_pass_from_the_full_network_up_to_the_first_that_fails():
    points = candidates(np.arange(300))
    test = DropTest(held_out(np.arange(300, 900)), 0.03, 0.95)
    passed = test.passed(points)
    n_passed = len(passed.loss)
    assert 1 < n_passed < len(points.loss)
    assert_array_equal(passed.thresholds, points.thresholds[-n_passed:])
    within = [test.upper(each) <= 0.03 for each in points.thresholds]
    assert all(within[-n_passed:])
    assert not within[-n_passed - 1]


def test_with_too_few_samples_nothing_but_the_full_network_passes():
    points = candidates(np.arange(300))
    # 0.99 ** 298 is more than .05, so that not even no loss at all is enough.
    passed = DropTest(held_out(np.arange(298)), 0.01, 0.95).passed(points)
    assert_array_equal(passed.thresholds, [[[np.inf], [np.inf]]])


def test_the_full_network_loses_nothing():
    assert (
        DropTest(held_out(np.arange(5)), 0.01, 0.95).upper(np.full((2, 1), np.inf)) == 0
    )


def test_samples_are_counted_that_exits_spoil_or_put_right():
    rows = np.arange(2000)
    thresholds = np.array([[0.5], [0.6]])
    confidence, label, codes = (part[..., rows] for part in POOL)
    stage = np.where(confidence[0] >= 0.5, 0, np.where(confidence[1] >= 0.6, 1, 2))
    early, full = label[stage, rows] == codes, label[2] == codes
    expected = (full & ~early).sum(), (early & ~full).sum(), 2000
    assert DropTest(held_out(rows), 0.01, 0.95).count(thresholds) == expected
    assert min(expected) > 0
