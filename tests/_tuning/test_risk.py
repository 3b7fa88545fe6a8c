"""Promises: the p-values by hand, and whether the promise is kept."""

from functools import cache
from math import ceil, comb, e, exp, log
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm import RiskControl
from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._tuning._held_out import HeldOutPredictions
from sk_e2cm._tuning._risk import p_value, promised
from sk_e2cm._tuning._search import Points, evaluate, search

from .predictions import predictions_of

N_DRAWS = 1000


def binomial(count, n, p):
    return comb(n, count) * p**count * (1 - p) ** (n - count)


def p_by_hand(count, n, alpha):
    """Proposition 3 of arXiv 2110.01052, for this many bad samples of n."""
    risk = count / n
    if risk >= alpha:
        hoeffding = 1.0
    else:
        divergence = (1 - risk) * log((1 - risk) / (1 - alpha))
        if count:
            divergence += risk * log(risk / alpha)
        hoeffding = exp(-n * divergence)
    bentkus = e * sum(binomial(k, n, alpha) for k in range(count + 1))
    return min(hoeffding, bentkus, 1.0)


# The p-value


@pytest.mark.parametrize("n", [1, 20, 100, 400])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2, 0.7])
def test_p_values_are_those_of_the_formulas(n, alpha):
    counts = np.arange(n + 1)
    expected = [p_by_hand(count, n, alpha) for count in counts.tolist()]
    assert_allclose(p_value(counts / n, n, alpha), expected, rtol=1e-8)


def test_both_bounds_are_of_use():
    n, alpha = 400, 0.1
    risk = np.arange(n + 1) / n
    found = p_value(risk, n, alpha)
    bentkus = [
        e * sum(binomial(k, n, alpha) for k in range(count + 1)) for count in range(40)
    ]
    assert (found[:40] < np.array(bentkus) * 0.99).any()
    assert (np.isclose(found[:40], bentkus) & (found[:40] < 1)).any()


def test_a_mean_of_losses_that_is_no_share_of_samples_counts_the_sample_begun():
    n, alpha = 50, 0.3
    below = p_value(np.array([4.5 / n]), n, alpha)
    bentkus = e * sum(binomial(k, n, alpha) for k in range(6))
    divergence = 0.09 * log(0.09 / alpha) + 0.91 * log(0.91 / 0.7)
    assert_allclose(below, min(bentkus, exp(-n * divergence)), rtol=1e-9)


@pytest.mark.parametrize("n", [30, 70, 300])
def test_rounding_in_the_mean_changes_nothing(n):
    weight = np.full(n, 1 / n)
    risk = np.array([weight[:count].sum() for count in range(n + 1)])
    assert (risk != np.arange(n + 1) / n).any()
    expected = [p_by_hand(count, n, 0.4) for count in range(n + 1)]
    assert_allclose(p_value(risk, n, 0.4), expected, rtol=1e-8)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5])
def test_p_values_rise_with_the_risk_to_1_at_the_risk_allowed(alpha):
    n = 200
    found = p_value(np.arange(n + 1) / n, n, alpha)
    allowed = round(alpha * n)
    assert (np.diff(found[:allowed]) >= 0).all()
    assert found[0] < 0.2
    assert_allclose(found[allowed:], 1.0, rtol=1e-12)


@pytest.mark.parametrize("n", [20, 100, 400])
@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_a_risk_too_high_passes_no_more_often_than_promised(n, alpha, delta, factor):
    passes = p_value(np.arange(n + 1) / n, n, alpha) <= delta
    counts = np.flatnonzero(passes).tolist()
    often = sum(binomial(count, n, factor * alpha) for count in counts)
    assert often <= delta


@pytest.mark.parametrize("delta", [0.01, 0.1, 0.3])
def test_risks_well_below_what_is_allowed_pass_nearly_always(delta):
    n, alpha = 400, 0.1
    passes = p_value(np.arange(n + 1) / n, n, alpha) <= delta
    counts = np.flatnonzero(passes).tolist()
    assert sum(binomial(count, n, 0.04) for count in counts) > 0.97


# The candidates


@pytest.mark.parametrize(
    ("risks", "n_promised"),
    [
        ([0.0, 0.01, 0.02], 3),
        ([0.0, 0.01, 0.5, 0.0, 0.0], 2),  # who follows a failure is not tested
        ([0.5, 0.0, 0.0], 0),
        ([0.0, 0.09, 0.0], 1),  # below alpha, but not by enough
        ([0.0], 1),
        ([], 0),
    ],
)
def test_the_promise_is_given_up_to_the_first_candidate_that_fails(risks, n_promised):
    found = RiskControl(0.1, 0.1).n_promised(np.array(risks), 200)
    assert found == n_promised
    assert type(found) is int


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_the_least_number_of_samples_is_that_of_no_bad_ones(alpha, delta):
    # All of n samples are good with probability (1 - alpha)**n.
    least = ceil(log(delta) / log(1 - alpha))
    promise = RiskControl(alpha, delta)
    assert promise.n_promised(np.zeros(1), least - 1) == 0
    assert promise.n_promised(np.zeros(1), least) == 1
    assert least <= log(1 / delta) / alpha + 1


@pytest.mark.parametrize("name", ["alpha", "delta", "calibration_size"])
@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.1, 1.5, np.nan, np.inf])
def test_shares_that_are_none_are_refused(name, value):
    params = {"alpha": 0.1, name: value}
    with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1, got"):
        RiskControl(**params)


def test_a_promise_does_not_change():
    promise = RiskControl(0.1)
    assert (promise.delta, promise.calibration_size) == (0.1, 0.5)
    with pytest.raises(AttributeError):
        promise.alpha = 0.2
    assert promise == RiskControl(0.1, 0.1, 0.5)


# Is the promise kept?


def tolerated(delta):
    """Return the share of draws that may break it: two standard errors more."""
    return delta + 2 * (delta * (1 - delta) / N_DRAWS) ** 0.5


CANDIDATES = {
    "rising": np.linspace(0.0, 0.2, 41),
    "most are just too risky": np.r_[0.0, np.full(30, 0.0505)],
    "in no order": np.r_[0.01, 0.03, 0.02, 0.06, 0.01, 0.055, 0.2, 0.04],
}


def riskiest_promised(promise, true_risk, together=True, n=300):
    """Return the largest risk promised to be small, for many calibration sets."""
    rng = np.random.default_rng(0)
    riskiest = np.empty(N_DRAWS)
    for draw in range(N_DRAWS):
        if together:  # who is spoilt by one is spoilt by any that is riskier
            risks = np.searchsorted(np.sort(rng.uniform(size=n)), true_risk) / n
        else:
            risks = rng.binomial(n, true_risk) / n
        n_promised = promise.n_promised(risks, n)
        riskiest[draw] = true_risk[:n_promised].max(initial=0.0)
    return riskiest


@pytest.mark.parametrize("true_risk", CANDIDATES.values(), ids=CANDIDATES)
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("delta", [0.1, 0.3])
def test_the_promise_is_kept_as_often_as_it_says(true_risk, together, delta):
    riskiest = riskiest_promised(RiskControl(0.05, delta), true_risk, together)
    assert (riskiest > 0.05).mean() <= tolerated(delta)


def test_the_promise_is_given_for_more_than_the_safest():
    riskiest = riskiest_promised(RiskControl(0.05, 0.1), CANDIDATES["rising"])
    assert (riskiest > 0.05 / 3).mean() > 0.8


@cache
def make_pool(n=20_000, seed=0):
    """Return what three stages predict for many samples, of which others are drawn."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(4, size=n)
    # Who is hard for the last stage is hard for the exits, too.
    margin = [[0.7], [0.8], [0.9]] - rng.uniform(size=n) + rng.normal(0, 0.1, (3, n))
    right = margin > 0
    label = np.where(right, codes, (codes + rng.integers(1, 4, (3, n))) % 4)
    unsure = np.exp(-4 * np.abs(margin + rng.normal(0, 0.1, (3, n))))
    confidence = 1 - 0.75 * unsure * rng.uniform(0.5, 1.0, (3, n))
    return confidence, label, codes


def make_held_out(rows):
    confidence, label, codes = make_pool()
    of_rows = confidence[:, rows], label[:, rows], codes[rows]
    predictions = predictions_of(*of_rows, n_classes=4)
    costs = Costs.from_counts(np.array([10.0, 50, 90]), np.ones(3))
    estimator = SimpleNamespace(network_=SimpleNamespace(costs=costs))
    counted = np.ones(len(rows)), rows.astype(np.uint64)
    return HeldOutPredictions(estimator, predictions, codes[rows], *counted)


def true_risk(thresholds):
    """Return the share of the pool that the last stage has right and the exit wrong."""
    confidence, label, codes = make_pool()
    predicted = label[2]
    for exit_ in (1, 0):
        leaves = confidence[exit_] >= thresholds[exit_, 0]
        predicted = np.where(leaves, label[exit_], predicted)
    return ((label[2] == codes) & (predicted != codes)).mean()


@cache
def make_candidates(n_candidates=20):
    """Return points found with other samples, with their true risk for a loss."""
    held_out = make_held_out(np.random.default_rng(1).integers(20_000, size=200))
    problem = held_out.problem(held_out.losses("accuracy"))
    found = search(problem, [], np.random.RandomState(0))
    which = np.linspace(0, len(found.loss) - 1, n_candidates).round().astype(int)
    thresholds = [*found.thresholds[np.unique(which)], np.full((2, 1), np.inf)]
    points = evaluate(problem, thresholds)
    risks = np.array([true_risk(each) for each in points.thresholds])
    return Points(risks, points.cost, points.thresholds)


def test_thresholds_promised_spoil_too_much_no_more_often_than_it_says():
    candidates, alpha, delta = make_candidates(), 0.1, 0.1
    promise = RiskControl(alpha, delta)
    rng = np.random.default_rng(2)
    riskiest = np.empty(N_DRAWS)
    for draw in range(N_DRAWS):
        calibration = make_held_out(rng.integers(20_000, size=300))
        found = promised(promise, candidates, calibration)
        assert found.cost[-1] == candidates.cost[-1]  # the full network's
        riskiest[draw] = found.loss.max()
    assert (riskiest > alpha).mean() <= tolerated(delta)
    # And it is no empty promise.
    assert (candidates.loss > alpha).any()
    assert (riskiest > alpha / 3).mean() > 0.9


def test_thresholds_promised_are_the_cheapest_first():
    candidates = make_candidates()
    calibration = make_held_out(np.random.default_rng(2).integers(20_000, size=300))
    found = promised(RiskControl(0.1), candidates, calibration)
    n_promised = len(found.cost)
    assert 1 < n_promised < len(candidates.cost)
    assert_array_equal(found.cost, candidates.cost[-n_promised:])
    assert_array_equal(found.thresholds, candidates.thresholds[-n_promised:])


def test_with_too_few_samples_nothing_but_the_full_network_is_promised():
    calibration = make_held_out(np.arange(10))
    found = promised(RiskControl(0.05), make_candidates(), calibration)
    assert_array_equal(found.thresholds, [[[np.inf], [np.inf]]])
