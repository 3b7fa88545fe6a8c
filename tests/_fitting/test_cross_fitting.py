"""Heads fitted from one pass, and their probabilities for samples not seen."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from scipy.special import softmax

from sk_e2cm._fitting._calibration import Temperature, fit_calibration
from sk_e2cm._fitting._cross_fitting import HeadSpec, fit_class_means
from sk_e2cm._fitting._folding import fold
from sk_e2cm._fitting._means import fit_whitened

from ..references import minimise
from ..samples import (
    N_CLASSES,
    N_FEATURES,
    N_FOLDS,
    make_hashes,
    make_samples,
    make_statistics,
    make_sums,
    means_by_loops,
    repeat,
    take,
)
from .heads import proba_by
from .held_out import proba_of

METRICS = ["euclidean", "mahalanobis"]
CALIBRATIONS = [None, "temperature", "dirichlet"]


def fit(statistics, calibration, metric="euclidean", shrinkage=0.3):
    """Return the head of the only stage."""
    spec = HeadSpec(metric, shrinkage, calibration)
    (head,) = fit_class_means(statistics, spec)
    return head


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

    head = fit(make_statistics(samples), calibration=None)
    assert head.kind == "class_means"
    assert head.temperature == 1
    assert_allclose(head.means.scale, scale, rtol=1e-10)
    logits = head.logits if beta == 1 else fold(head.means, Temperature(beta), features)
    assert_allclose(proba_by(logits, features[:20]), expected, rtol=0, atol=1e-10)


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
    statistics = make_statistics(
        (features, folds, classes, weight), shift=features[:7].mean(axis=0)
    )
    proba = proba_by(fit(statistics, calibration, metric).logits, features)
    assert_allclose(proba, 1 / N_CLASSES, rtol=1e-6)


# One head for each stage


def test_every_stage_gets_a_head_with_the_means_of_all_samples():
    samples = make_samples()
    features, folds, classes, weight = samples
    kept = np.arange(0, 200, 2)
    first = make_statistics((features[:, :2], folds, classes, weight), kept)
    last = make_statistics(samples, kept)
    statistics = replace(
        last,
        stage_names=("first", "last"),
        sums=first.sums + last.sums,
        features=first.features + last.features,
        rounding=first.rounding + last.rounding,
    )
    heads = fit_class_means(statistics, HeadSpec("euclidean", 0.3, "temperature"))
    for head, width in zip(heads, [2, N_FEATURES], strict=True):
        expected = means_by_loops(features[:, :width], classes, weight)
        assert_allclose(head.means.means, expected, rtol=0, atol=1e-12)
        assert proba_of(head).shape == (100, N_CLASSES)


def test_temperatures_of_one_are_the_papers():
    statistics = make_statistics(make_samples())
    plain, calibrated = (
        fit(statistics, calibration).temperature
        for calibration in (None, "temperature")
    )
    assert plain == 1
    assert calibrated != 1


def test_whitened_heads_are_those_of_the_sums():
    samples = make_samples()
    features, _, classes, weight = samples
    head = fit(make_statistics(samples), None, "mahalanobis", "ledoit_wolf")
    expected = fit_whitened(
        make_sums(samples), features, classes, weight, "ledoit_wolf", len(features)
    )
    scores = expected(None).scores(features)
    assert_allclose(head.means.scores(features), scores, rtol=0, atol=1e-10)
    found = proba_by(head.logits, features)
    assert_allclose(found, softmax(scores, axis=1), rtol=0, atol=1e-10)


def test_the_stage_whose_covariance_is_singular_is_named():
    features, *rest = make_samples()
    statistics = make_statistics((np.column_stack([features, features]), *rest))
    with pytest.raises(ValueError, match=r"Stage 'layer1': .*10 features is singular"):
        fit(statistics, None, "mahalanobis", shrinkage=0.0)


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

    head = fit(make_statistics(samples), "temperature")
    expected = softmax(scores / head.temperature, axis=1)
    assert_allclose(proba_of(head), expected, rtol=0, atol=1e-10)
    expected = minimise(scores, classes, weight)
    assert_allclose(1 / head.temperature, expected, rtol=1e-5)
    assert_allclose(head.means.means, overall, rtol=0, atol=1e-12)
    assert_allclose(head.means.scale, scale, rtol=1e-10)


@pytest.mark.parametrize("calibration", ["temperature", "dirichlet"])
def test_equal_rows_are_one_sample_to_the_calibration(calibration):
    features, _, classes, weight = samples = make_samples(n=60)
    times = np.repeat(np.arange(60), weight.astype(int))
    weighted = fit(make_statistics(samples), calibration)
    statistics = make_statistics(repeat(samples), hashes=make_hashes(60)[times])
    repeated = fit(statistics, calibration)
    proba = proba_by(weighted.logits, features)
    assert_allclose(proba, proba_by(repeated.logits, features), rtol=0, atol=1e-4)
    scores = unseen_scores(samples)
    expected = fit_calibration(calibration, scores, classes, weight, n_samples=60)
    expected = softmax(expected(weighted.means.scores(features)), axis=1)
    assert_allclose(proba, expected, rtol=0, atol=1e-7)


def test_samples_that_are_not_held_out_do_not_calibrate_but_have_a_share_in_the_means():
    samples = make_samples(n=120)
    samples[3][:] = 1
    _, folds, classes, _ = samples
    folds[folds == 2] = -1
    held_out = np.flatnonzero(folds >= 0)
    head = fit(make_statistics(samples), "temperature")
    scores = unseen_scores(samples, held_out)
    expected = softmax(scores / head.temperature, axis=1)
    assert_allclose(proba_of(head), expected, rtol=0, atol=1e-10)
    expected = minimise(scores, classes[held_out], np.ones(len(held_out)))
    assert_allclose(1 / head.temperature, expected, rtol=1e-5)


def confidence_and_accuracy(calibration, n_features, separation, metric="euclidean"):
    """Fit Gaussian classes and look at 20 000 fresh samples of them."""
    rng = np.random.default_rng(0)
    centres = separation * rng.normal(size=(N_CLASSES, n_features))

    def draw(n):
        classes = rng.integers(0, N_CLASSES, n)
        return centres[classes] + rng.normal(size=(n, n_features)), classes

    features, classes = draw(2000)
    folds, weight = rng.integers(0, N_FOLDS, 2000), np.ones(2000)
    statistics = make_statistics((features, folds, classes, weight))
    head = fit(statistics, calibration, metric, "ledoit_wolf")
    fresh, truth = draw(20_000)
    proba = proba_by(head.logits, fresh)
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
    statistics = make_statistics(samples, hashes=make_hashes(120))
    found = proba_of(fit(statistics, "temperature"))
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
    statistics = make_statistics(samples, hashes=hashes)
    found = proba_of(fit(statistics, "dirichlet"))
    # As near as the fit ends to where its gradient is zero.
    assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_without_calibration_they_are_the_softmax_of_the_scores(metric):
    features, folds, *_ = samples = make_samples()
    head = fit(make_statistics(samples), None, metric)
    expected = np.zeros((200, N_CLASSES))
    for here in (folds == fold_ for fold_ in range(N_FOLDS)):
        unseen = fit(make_statistics(take(samples, ~here)), None, metric).means
        # The scales are those of all samples.
        scores = unseen.scores(features[here]) * unseen.scale / head.means.scale
        expected[here] = softmax(scores, axis=1)
    assert_allclose(proba_of(head), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_there_is_a_row_of_probabilities_for_each_sample_held_out(calibration, metric):
    samples = make_samples()
    samples[1][::3] = -1
    statistics = make_statistics(samples, kept=np.arange(0, 200, 2))
    proba = proba_of(fit(statistics, calibration, metric))
    assert proba.shape == (len(statistics.held_out), N_CLASSES)
    assert 0 < len(proba) < 100
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("i", [0, 7, 50])
def test_the_scores_of_a_sample_have_not_seen_its_label(i, metric):
    samples = make_samples()
    other = [array.copy() for array in samples]
    other[2][i] = (other[2][i] + 1) % N_CLASSES
    rest = take(samples, samples[1] != samples[1][i])
    unseen = fit(make_statistics(rest), None, metric).means
    heads = [fit(make_statistics(each), None, metric) for each in (samples, other)]
    for head in heads:
        # The scales of all samples are the same for each, and depend on all labels.
        scores = unseen.scores(samples[0][[i]]) * unseen.scale / head.means.scale
        found, expected = proba_of(head)[[i]], softmax(scores, axis=1)
        assert_allclose(found, expected, rtol=0, atol=1e-10)
    before, after = (head.means.scores(samples[0][[i]]) for head in heads)
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("i", [0, 7, 50])
def test_the_dirichlet_calibration_of_a_sample_has_not_seen_its_label(i, metric):
    statistics = make_statistics(make_samples(n=120))
    codes = statistics.codes.copy()
    codes[i] = (codes[i] + 1) % N_CLASSES
    # The class means are those of the sums, and stay as they are.
    before = proba_of(fit(statistics, "dirichlet", metric))
    after = proba_of(fit(replace(statistics, codes=codes), "dirichlet", metric))
    assert_array_equal(after[i], before[i])
    assert np.abs(after - before).max() > 1e-3


def test_equal_rows_do_not_calibrate_each_other():
    samples = take(make_samples(n=120), np.repeat(np.arange(60), 2))
    statistics = make_statistics(samples, hashes=np.repeat(make_hashes(60), 2))
    codes = statistics.codes.copy()
    codes[10] = (codes[10] + 1) % N_CLASSES
    before = proba_of(fit(statistics, "dirichlet"))
    after = proba_of(fit(replace(statistics, codes=codes), "dirichlet"))
    assert_array_equal(after[10:12], before[10:12])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_labels_without_sense_are_not_foretold(calibration, metric):
    rng = np.random.default_rng(0)
    features, codes = rng.normal(size=(300, 60)), rng.integers(0, N_CLASSES, 300)
    folds = rng.integers(0, N_FOLDS, 300)
    statistics = make_statistics((features, folds, codes, np.ones(300)))
    head = fit(statistics, calibration, metric, 0.1)
    seen = head.means.scores(features).argmax(axis=1) == codes
    foretold = proba_of(head).argmax(axis=1) == codes
    assert seen.mean() > 0.5
    assert abs(foretold.mean() - 1 / N_CLASSES) < 0.06


@pytest.mark.parametrize("calibration", ["temperature", "dirichlet"])
def test_if_all_samples_are_in_one_part_all_are_calibrated_alike(calibration):
    hashes = make_hashes(60) % np.uint64(2**32)
    samples = make_samples(n=60)
    scores = unseen_scores(samples)
    expected = fit_calibration(calibration, scores, *samples[2:], n_samples=60)
    found = proba_of(fit(make_statistics(samples, hashes=hashes), calibration))
    assert_allclose(found, softmax(expected(scores), axis=1), rtol=0, atol=1e-7)
