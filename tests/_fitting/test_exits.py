"""Class means that remember the exits before, against formulas in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.naive_bayes import GaussianNB

from sk_e2cm._fitting._cross_fitting import HeadSpec
from sk_e2cm._fitting._exits import fit_exits, fit_stages, refit_exits
from sk_e2cm._fitting._statistics import folds_by_hash

from ..references import minimise
from ..samples import make_hashes
from .heads import proba_by
from .held_out import proba_of
from .stages import make_stages, statistics_of, unseen, whitened_scores

SHRINKAGE = 0.3
CALIBRATIONS = [None, "temperature", "dirichlet"]


def spec_of(carry, calibration=None, shrinkage=SHRINKAGE):
    return HeadSpec("mahalanobis", shrinkage, calibration, carry)


def fit(samples, carry=1, exits=None, **params):
    exits = range(len(samples[0])) if exits is None else exits
    spec = spec_of(carry, **params)
    return list(fit_exits(statistics_of(samples), spec, exits))


def by_numpy(samples, carry, temperatures):
    """Yield the features, scores and out-of-fold scores of each exit in turn."""
    features, folds, codes, given = samples
    weight = given
    for stage, temperature in enumerate(temperatures):
        joined = np.hstack(features[max(stage - carry, 0) : stage + 1])
        now = features, folds, codes, weight
        scores = whitened_scores(joined, codes, weight, joined, SHRINKAGE)
        of_others = unseen(now, joined, whitened_scores)
        yield joined, scores, of_others
        proba = softmax(of_others / temperature, axis=1)
        emphasis = np.sqrt(1.05 - proba[np.arange(len(codes)), codes])
        weight = given * emphasis / emphasis.mean()


# Formulas


@pytest.mark.parametrize("carry", [1, 2])
@pytest.mark.parametrize("calibration", [None, "temperature"])
def test_an_exit_whitens_the_features_of_those_before_and_its_own(carry, calibration):
    samples = make_stages()
    heads = fit(samples, carry, calibration=calibration)
    temperatures = [head.temperature for head in heads]
    expected = by_numpy(samples, carry, temperatures)
    for head, (joined, scores, of_others) in zip(heads, expected, strict=True):
        given = softmax(scores / head.temperature, axis=1)
        assert_allclose(proba_by(head.logits, joined), given, rtol=0, atol=1e-9)
        given = softmax(of_others / head.temperature, axis=1)
        assert_allclose(proba_of(head), given, rtol=0, atol=1e-9)


def test_temperatures_are_fitted_to_what_has_not_seen_a_sample():
    samples = make_stages()
    samples[3][:] *= len(samples[2]) / samples[3].sum()  # the reference counts them so
    heads = fit(samples, calibration="temperature")
    temperatures = [head.temperature for head in heads]
    expected = by_numpy(samples, 1, temperatures)
    for head, (_, _, of_others) in zip(heads, expected, strict=True):
        beta = minimise(of_others, samples[2], samples[3])
        assert_allclose(1 / head.temperature, beta, rtol=1e-4)


@pytest.mark.parametrize("carry", [1, 2])
def test_first_exits_carry_what_there_is(carry):
    heads = fit(make_stages(widths=(2, 3, 4, 2)), carry)
    expected = [tuple(range(max(s - carry, 0), s)) for s in range(4)]
    assert [head.carried for head in heads] == expected
    widths = [head.means.means.shape[1] for head in heads]
    assert widths == ([2, 5, 7, 6] if carry == 1 else [2, 5, 9, 9])


def test_the_last_stage_carries_nothing_and_weighs_samples_as_they_are():
    samples = make_stages()
    features, _, codes, weight = samples
    *exits, last = fit_stages(statistics_of(samples), spec_of(2))
    for head, same in zip(exits, fit(samples, 2, exits=[0, 1]), strict=True):
        assert head.carried == same.carried
        assert_array_equal(proba_of(head), proba_of(same))
    scores = whitened_scores(features[-1], codes, weight, features[-1], SHRINKAGE)
    assert last.carried == ()
    found = proba_by(last.logits, features[-1])
    assert_allclose(found, softmax(scores, axis=1), rtol=0, atol=1e-9)


def test_an_exit_that_carries_less_than_it_sees_is_worse():
    # Otherwise there would be little to remember.
    samples = make_stages(n=600, widths=(3, 3), n_classes=4)
    samples[0][1][:, 0] = 0  # what the second stage lacks, the first has seen
    codes = np.arange(4)[samples[2]]
    right = [
        (proba_of(fit(samples, carry)[1]).argmax(axis=1) == codes).mean()
        for carry in (1, 0)
    ]
    assert right[0] > right[1]


# Samples


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("shrinkage", [SHRINKAGE, "ledoit_wolf"])
def test_a_weight_is_a_number_of_equal_samples(calibration, shrinkage):
    features, folds, codes, weight = samples = make_stages(n=90)
    times = weight.astype(int)
    repeated = (
        [f.repeat(times, axis=0) for f in features],
        *(array.repeat(times) for array in (folds, codes, np.ones(90))),
    )
    hashes = make_hashes(90).repeat(times)
    spec = spec_of(1, calibration, shrinkage)
    one = fit_exits(statistics_of(samples), spec, range(3))
    other = fit_exits(statistics_of(repeated, hashes, 90), spec, range(3))
    for head, same in zip(one, other, strict=True):
        tolerance = 1e-4 if calibration else 1e-9
        assert_allclose(head.means.means, same.means.means, atol=tolerance)
        assert_allclose(head.means.coef, same.means.coef, rtol=tolerance, atol=1e-9)
        found = proba_of(head).repeat(times, axis=0)
        assert_allclose(found, proba_of(same), rtol=0, atol=10 * tolerance)


def test_samples_that_are_not_held_out_have_an_emphasis_by_folds_of_their_own():
    features, folds, codes, weight = make_stages()
    n = len(codes)
    folds = np.where(np.arange(n) % 4 == 0, -1, folds)
    heads = fit((features, folds, codes, weight))
    # As if they were held out in folds that follow from their hashes.
    others = 3 + folds_by_hash(make_hashes(n))
    filled = np.where(folds < 0, others, folds)
    expected = by_numpy((features, filled, codes, weight), 1, [1.0] * 3)
    for head, (joined, scores, of_others) in zip(heads, expected, strict=True):
        given = softmax(scores, axis=1)
        assert_allclose(proba_by(head.logits, joined), given, rtol=0, atol=1e-9)
        given = softmax(of_others[folds >= 0], axis=1)
        assert_allclose(proba_of(head), given, rtol=0, atol=1e-9)


# Some of the exits


@pytest.mark.parametrize("exits", [[0], [2], [0, 2], [1, 3], [0, 1, 3]])
@pytest.mark.parametrize("carry", [1, 2])
def test_exits_are_fitted_anew_as_if_there_were_no_others(exits, carry):
    samples = make_stages(widths=(2, 3, 4, 2))
    features, *rest = samples
    statistics, spec = statistics_of(samples), spec_of(carry, "temperature")
    heads = fit(samples, carry, calibration="temperature")
    set_ = refit_exits(statistics, spec, heads, list, exits)
    alone = fit(([features[s] for s in exits], *rest), carry, calibration="temperature")
    for stage, head, same in zip(exits, [set_[s] for s in exits], alone, strict=True):
        carried = tuple(exits[place] for place in same.carried)
        assert head.carried == carried
        joined = np.hstack([features[s] for s in (*carried, stage)])
        assert_allclose(
            proba_by(head.logits, joined),
            proba_by(same.logits, joined),
            rtol=0,
            atol=1e-12,
        )
        assert_array_equal(proba_of(head), proba_of(same))
    for stage in {0, 1, 2, 3} - set(exits):
        assert set_[stage] is heads[stage]


# What cannot be fitted


def test_too_many_features_to_join_are_refused_by_name(monkeypatch):
    monkeypatch.setattr("sk_e2cm._fitting._exits.MOST_FEATURES", 6)
    message = r"Stage 'c': carry=1 joins 7 features of the stages \['b', 'c'\].*most 6"
    with pytest.raises(ValueError, match=message):
        fit(make_stages())


def test_a_stage_that_is_too_wide_itself_neither_carries_nor_is_carried(monkeypatch):
    for module in ("_exits", "_statistics"):
        monkeypatch.setattr(f"sk_e2cm._fitting.{module}.MOST_FEATURES", 6)
    heads = fit(make_stages(widths=(2, 7, 3, 3)), carry=2)
    assert [head.carried for head in heads] == [(), (), (0,), (2,)]
    assert [head.means.metric == "euclidean" for head in heads] == [0, 1, 0, 0]


def test_classifiers_take_as_many_features_as_there_are(monkeypatch):
    monkeypatch.setattr("sk_e2cm._fitting._exits.MOST_FEATURES", 6)
    spec = spec_of(carry=1)._replace(parts=(GaussianNB(),))
    heads = list(fit_exits(statistics_of(make_stages()), spec, range(3)))
    assert [head.carried for head in heads] == [(), (0,), (1,)]


def test_the_stage_whose_covariance_is_singular_is_named():
    features, *rest = make_stages()
    features[1] = features[0]
    with pytest.raises(ValueError, match=r"Stage 'b': .*4 features is singular"):
        fit((features, *rest), shrinkage=0.0)


def test_features_that_are_carried_may_have_another_type():
    features, *rest = make_stages()
    mixed = [features[0].astype(np.float32), *features[1:]]
    for head, same in zip(fit((mixed, *rest)), fit((features, *rest)), strict=True):
        assert_allclose(head.means.means, same.means.means, atol=1e-5)
        assert_allclose(proba_of(head), proba_of(same), atol=1e-4)


def test_rounding_of_carried_features_counts():
    samples = make_stages()
    statistics = statistics_of(samples)
    rounding = [np.array([1e3, 0.0]), *statistics.rounding[1:]]
    (_, head, _) = fit_exits(
        replace(statistics, rounding=rounding), spec_of(1), range(3)
    )
    # A feature that deviates by rounding alone has no influence.
    assert_array_equal(head.means.coef[0], 0)
    assert (head.means.coef[1:] != 0).all()
