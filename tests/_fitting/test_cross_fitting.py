"""Exits fitted from one pass, and what they say of samples they have not seen."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from scipy.special import softmax

from sk_e2cm._fitting._calibration import fit_calibration
from sk_e2cm._fitting._cross_fitting import Method, fit_exits, out_of_fold
from sk_e2cm._fitting._means import fit_whitened

from ..references import minimise
from ..samples import (
    N_CLASSES,
    N_FEATURES,
    N_FOLDS,
    make_hashes,
    make_run,
    make_samples,
    make_sums,
    means_by_loops,
    repeat,
    take,
)

METRICS = ["euclidean", "mahalanobis"]
CALIBRATIONS = [None, "temperature", "dirichlet"]


def fit(run, calibration, metric="euclidean", shrinkage=0.3):
    """Return the method, and the exit of the only stage."""
    method = Method(metric, shrinkage, calibration)
    (exit_,) = fit_exits(run, method)
    return method, exit_


def unseen_scores(samples, rows=None):
    """Return -distances to means without the sample's fold, in units of the scale."""
    features, folds, classes, weight = samples
    rows = np.arange(len(features)) if rows is None else rows
    overall = means_by_loops(features, classes, weight)
    scale = np.average(cdist(features, overall), axis=0, weights=weight)
    scores = np.zeros((len(rows), N_CLASSES))
    for row, i in enumerate(rows):
        for k in range(N_CLASSES):
            unseen = (classes == k) & (folds != folds[i])
            if not unseen.any():
                unseen = classes == k
            mean = np.average(features[unseen], axis=0, weights=weight[unseen])
            scores[row, k] = -np.linalg.norm(features[i] - mean) / scale[k]
    return scores


# The paper's probabilities


@pytest.mark.parametrize("beta", [1.0, 0.3, 7.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_probabilities_are_the_papers_softmax_of_normalised_distances(beta, offset):
    features, _, classes, _ = samples = make_samples(offset=offset)
    samples[3][:] = 1
    expected = np.zeros((20, N_CLASSES))
    scale = np.zeros(N_CLASSES)
    means = means_by_loops(features, classes, np.ones(200))
    for k in range(N_CLASSES):
        for x in features:
            scale[k] += np.sqrt(((x - means[k]) ** 2).sum()) / len(features)
    for i in range(20):
        for k in range(N_CLASSES):
            distance = np.sqrt(((features[i] - means[k]) ** 2).sum())
            expected[i, k] = np.exp(-beta * distance / scale[k])
        expected[i] /= expected[i].sum()

    head = fit(make_run(samples), calibration=None)[1].head
    assert head.calibration.inverse_temperature == 1
    assert_allclose(head.means.scale, scale, rtol=1e-10)
    head.calibration.inverse_temperature = beta
    assert_allclose(head.proba(features[:20]), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 + 0.1, 1e6 + 1 / 3])
def test_constant_features_tell_no_class_from_another(
    value, dtype, metric, calibration
):
    _, folds, classes, weight = make_samples()
    features = np.full((200, N_FEATURES), value, dtype)
    if metric == "mahalanobis" or calibration == "dirichlet":
        weight[:] = 1  # or else the likelier classes are those of more weight
    run = make_run((features, folds, classes, weight), shift=features[:7].mean(axis=0))
    proba = fit(run, calibration, metric)[1].head.proba(features)
    assert_allclose(proba, 1 / N_CLASSES, rtol=1e-6)


# One exit for each stage


def test_every_stage_becomes_an_exit_with_the_means_of_all_samples():
    samples = make_samples()
    features, folds, classes, weight = samples
    kept = np.arange(0, 200, 2)
    first = make_run((features[:, :2], folds, classes, weight), kept)
    last = make_run(samples, kept)
    run = replace(
        last,
        stage_names=("first", "last"),
        sums=first.sums + last.sums,
        features=first.features + last.features,
    )
    exits = list(fit_exits(run, Method("euclidean", 0.3, "temperature")))
    for exit_, width in zip(exits, [2, N_FEATURES], strict=True):
        expected = means_by_loops(features[:, :width], classes, weight)
        assert_allclose(exit_.head.means.means, expected, rtol=0, atol=1e-12)
        assert exit_.scores.shape == (100, N_CLASSES)


def test_temperatures_of_one_are_the_papers():
    run = make_run(make_samples())
    plain, calibrated = (
        fit(run, calibration)[1].head.calibration.inverse_temperature
        for calibration in (None, "temperature")
    )
    assert plain == 1
    assert calibrated != 1


def test_whitened_exits_are_those_of_the_sums():
    samples = make_samples()
    features, _, classes, weight = samples
    _, exit_ = fit(make_run(samples), None, "mahalanobis", "ledoit_wolf")
    expected = fit_whitened(
        make_sums(samples), features, classes, weight, "ledoit_wolf", len(features)
    )
    scores = expected(None).scores(features)
    assert_allclose(exit_.head.means.scores(features), scores, rtol=0, atol=1e-10)
    found = exit_.head.proba(features)
    assert_allclose(found, softmax(scores, axis=1), rtol=0, atol=1e-10)


def test_the_stage_whose_covariance_is_singular_is_named():
    features, *rest = make_samples()
    run = make_run((np.column_stack([features, features]), *rest))
    with pytest.raises(ValueError, match=r"Stage 'layer1': .*10 features is singular"):
        fit(run, None, "mahalanobis", shrinkage=0.0)


# Calibration


@pytest.mark.parametrize("alone", [False, True])
def test_calibration_is_fitted_to_distances_from_means_of_other_folds(alone):
    features, folds, classes, weight = samples = make_samples(n=120)
    weight *= 120 / weight.sum()  # the reference counts samples by their weight
    if alone:
        folds[classes == 3] = 2
    overall = means_by_loops(features, classes, weight)
    scale = np.average(cdist(features, overall), axis=0, weights=weight)
    scores = unseen_scores(samples)

    _, exit_ = fit(make_run(samples), "temperature")
    assert_allclose(exit_.scores, scores, rtol=0, atol=1e-10)
    expected = minimise(scores, classes, weight)
    found = exit_.head.calibration.inverse_temperature
    assert_allclose(found, expected, rtol=1e-5)
    assert_allclose(exit_.head.means.means, overall, rtol=0, atol=1e-12)
    assert_allclose(exit_.head.means.scale, scale, rtol=1e-10)


@pytest.mark.parametrize("calibration", ["temperature", "dirichlet"])
def test_equal_rows_are_one_sample_to_the_calibration(calibration):
    features, _, classes, weight = samples = make_samples(n=60)
    times = np.repeat(np.arange(60), weight.astype(int))
    weighted = fit(make_run(samples), calibration)[1].head
    run = make_run(repeat(samples), hashes=make_hashes(60)[times])
    repeated = fit(run, calibration)[1].head
    proba = weighted.proba(features)
    assert_allclose(proba, repeated.proba(features), rtol=0, atol=1e-4)
    scores = fit(make_run(samples), None)[1].scores
    expected = fit_calibration(calibration, scores, classes, weight, n_samples=60)
    found = weighted.calibration(scores)
    assert_allclose(found, expected(scores), rtol=0, atol=1e-10)


def test_samples_that_are_not_held_out_do_not_calibrate_but_have_a_share_in_the_means():
    samples = make_samples(n=120)
    samples[3][:] = 1
    _, folds, classes, _ = samples
    folds[folds == 2] = -1
    held_out = np.flatnonzero(folds >= 0)
    _, exit_ = fit(make_run(samples), "temperature")
    scores = unseen_scores(samples, held_out)
    assert_allclose(exit_.scores, scores, rtol=0, atol=1e-10)
    expected = minimise(scores, classes[held_out], np.ones(len(held_out)))
    found = exit_.head.calibration.inverse_temperature
    assert_allclose(found, expected, rtol=1e-5)


def confidence_and_accuracy(calibration, n_features, separation, metric="euclidean"):
    """Fit Gaussian classes and look at 20 000 fresh samples of them."""
    rng = np.random.default_rng(0)
    centres = separation * rng.normal(size=(N_CLASSES, n_features))

    def draw(n):
        classes = rng.integers(0, N_CLASSES, n)
        return centres[classes] + rng.normal(size=(n, n_features)), classes

    features, classes = draw(2000)
    folds, weight = rng.integers(0, N_FOLDS, 2000), np.ones(2000)
    run = make_run((features, folds, classes, weight))
    head = fit(run, calibration, metric, "ledoit_wolf")[1].head
    fresh, truth = draw(20_000)
    proba = head.proba(fresh)
    return proba.max(axis=1).mean(), (proba.argmax(axis=1) == truth).mean()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("calibration", ["temperature", "dirichlet"])
@pytest.mark.parametrize(
    ("n_features", "separation"), [(5, 0.5), (5, 1.0), (50, 0.1), (50, 0.3)]
)
def test_calibrated_confidence_is_the_accuracy_on_fresh_data(
    n_features, separation, calibration, metric
):
    confidence, accuracy = confidence_and_accuracy(
        calibration, n_features, separation, metric
    )
    assert 0.3 < accuracy < 0.95
    assert abs(confidence - accuracy) < 0.02


@pytest.mark.parametrize(
    ("n_features", "separation"), [(5, 0.5), (5, 1.0), (50, 0.1), (50, 0.3)]
)
def test_the_papers_confidence_is_not_the_accuracy(n_features, separation):
    confidence, accuracy = confidence_and_accuracy(None, n_features, separation)
    assert accuracy - confidence > 0.1


# Out of fold


def test_out_of_fold_temperatures_are_those_of_all_samples_held_out():
    samples = make_samples(n=120)
    samples[3][:] = 1
    scores = unseen_scores(samples)
    beta = minimise(scores, samples[2], np.ones(120))
    run = make_run(samples, hashes=make_hashes(120))
    found = out_of_fold(run, *fit(run, "temperature"))
    assert_allclose(found, softmax(beta * scores, axis=1), rtol=0, atol=1e-5)


def test_out_of_fold_dirichlet_is_fitted_to_the_other_half_of_the_samples():
    samples = make_samples(n=120)
    samples[3][:] = 1
    classes, hashes = samples[2], make_hashes(120)
    scores = unseen_scores(samples)
    expected = np.zeros((120, N_CLASSES))
    halves = (hashes >> np.uint64(32)) % np.uint64(2)
    for half in range(2):
        inside, outside = halves == half, halves != half
        other = scores[outside], classes[outside], np.ones(outside.sum())
        calibration = fit_calibration("dirichlet", *other)
        expected[inside] = softmax(calibration(scores[inside]), axis=1)
    run = make_run(samples, hashes=hashes)
    found = out_of_fold(run, *fit(run, "dirichlet"))
    assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_without_calibration_they_are_the_softmax_of_the_scores(metric):
    run = make_run(make_samples())
    method, exit_ = fit(run, None, metric)
    expected = softmax(exit_.scores, axis=1)
    assert_allclose(out_of_fold(run, method, exit_), expected, rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_there_is_a_row_of_probabilities_for_each_sample_held_out(calibration, metric):
    samples = make_samples()
    samples[1][::3] = -1
    run = make_run(samples, kept=np.arange(0, 200, 2))
    proba = out_of_fold(run, *fit(run, calibration, metric))
    assert proba.shape == (len(run.held_out), N_CLASSES)
    assert 0 < len(proba) < 100
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("i", [0, 7, 50])
def test_the_scores_of_a_sample_have_not_seen_its_label(i, metric):
    samples = make_samples()
    other = [array.copy() for array in samples]
    other[2][i] = (other[2][i] + 1) % N_CLASSES
    before, after = (fit(make_run(each), None, metric)[1] for each in (samples, other))
    # The scales of all samples are the same for each, and depend on all labels.
    found = after.scores[i] * after.head.means.scale
    expected = before.scores[i] * before.head.means.scale
    assert_allclose(found, expected, rtol=0, atol=1e-10)
    features = samples[0][[i]]
    fitted = before.head.means.scores(features), after.head.means.scores(features)
    assert np.abs(fitted[0] - fitted[1]).max() > 1e-3


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("i", [0, 7, 50])
def test_the_dirichlet_calibration_of_a_sample_has_not_seen_its_label(i, metric):
    run = make_run(make_samples(n=120))
    method, exit_ = fit(run, "dirichlet", metric)
    codes = run.codes.copy()
    codes[i] = (codes[i] + 1) % N_CLASSES
    before = out_of_fold(run, method, exit_)
    after = out_of_fold(replace(run, codes=codes), method, exit_)
    assert_array_equal(after[i], before[i])
    assert np.abs(after - before).max() > 1e-3


def test_equal_rows_do_not_calibrate_each_other():
    samples = take(make_samples(n=120), np.repeat(np.arange(60), 2))
    run = make_run(samples, hashes=np.repeat(make_hashes(60), 2))
    method, exit_ = fit(run, "dirichlet")
    codes = run.codes.copy()
    codes[10] = (codes[10] + 1) % N_CLASSES
    before = out_of_fold(run, method, exit_)
    after = out_of_fold(replace(run, codes=codes), method, exit_)
    assert_array_equal(after[10:12], before[10:12])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_labels_without_sense_are_not_foretold(calibration, metric):
    rng = np.random.default_rng(0)
    features, codes = rng.normal(size=(300, 60)), rng.integers(0, N_CLASSES, 300)
    folds = rng.integers(0, N_FOLDS, 300)
    run = make_run((features, folds, codes, np.ones(300)))
    method, exit_ = fit(run, calibration, metric, 0.1)
    seen = exit_.head.means.scores(features).argmax(axis=1) == codes
    foretold = out_of_fold(run, method, exit_).argmax(axis=1) == codes
    assert seen.mean() > 0.5
    assert abs(foretold.mean() - 1 / N_CLASSES) < 0.06


@pytest.mark.parametrize("calibration", ["temperature", "dirichlet"])
def test_if_all_samples_are_in_one_part_all_are_calibrated_alike(calibration):
    hashes = make_hashes(60) % np.uint64(2**32)
    run = make_run(make_samples(n=60), hashes=hashes)
    method, exit_ = fit(run, calibration)
    expected = softmax(exit_.head.calibration(exit_.scores), axis=1)
    assert_allclose(out_of_fold(run, method, exit_), expected, rtol=1e-12)
