"""Scores by class means against plain references: by distance, and whitened."""

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf, oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from sk_e2cm._fitting._means import (
    METRICS,
    ClassMeans,
    LinearMeans,
    fit_euclidean,
    fit_means,
    fit_whitened,
)

from ..samples import (
    N_CLASSES,
    N_FEATURES,
    N_FOLDS,
    make_samples,
    make_sums,
    means_by_loops,
    repeat,
    scatter_by_numpy,
    take,
)


def euclidean(samples, without_fold=None):
    features, _, _, weight = samples
    return fit_euclidean(make_sums(samples), features, weight)(without_fold)


def whitened(samples, shrinkage, without_fold=None, sums=None):
    features, _, classes, weight = samples
    sums = make_sums(samples) if sums is None else sums
    return fit_whitened(sums, features, classes, weight, shrinkage)(without_fold)


def make_correlated(n=200, **params):
    features, *rest = make_samples(n, **params)
    mixing = np.random.default_rng(4).normal(size=(N_FEATURES, N_FEATURES))
    return features @ mixing, *rest


def residuals_of(samples):
    features, _, classes, weight = samples
    return features - means_by_loops(features, classes, weight)[classes]


def less_the_first(scores):
    """Only differences between classes matter."""
    return scores - scores[:, :1]


def with_columns(samples, columns):
    return [np.column_stack([samples[0], columns]), *samples[1:]]


# Distances


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_distances_are_those_of_scipy(offset, dtype):
    rng = np.random.default_rng(0)
    means = offset + rng.normal(size=(N_CLASSES, N_FEATURES))
    features = (offset + 2 * rng.normal(size=(50, N_FEATURES))).astype(dtype)
    expected = cdist(features.astype(np.float64), means)
    assert_allclose(ClassMeans(means).distances(features), expected, atol=1e-7)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_distances_of_nearly_identical_points_are_those_of_scipy(offset, spread):
    rng = np.random.default_rng(0)
    means = offset + spread * rng.normal(size=(N_CLASSES, N_FEATURES))
    step = 1e-5 * spread * rng.normal(size=means.shape)
    features = np.concatenate([means, means + step])
    expected = cdist(features, means)
    found = ClassMeans(means).distances(features)
    assert_allclose(found, expected, rtol=0, atol=2e-7 * spread)


def test_the_nearest_mean_wins_as_in_nearest_centroid():
    features, _, classes, weight = samples = make_samples(separation=0.5)
    samples[3][:] = 1
    nearest = NearestCentroid().fit(features, classes)
    means = ClassMeans(make_sums(samples).means())
    assert_allclose(means.means, nearest.centroids_, atol=1e-12)
    label = means.scores(features).argmax(axis=1)
    assert np.array_equal(label, nearest.predict(features))
    assert 0.3 < np.average(label == classes, weights=weight) < 0.95


def test_scores_are_distances_in_units_of_the_scale():
    features, _, classes, weight = make_samples()
    means = means_by_loops(features, classes, weight)
    scale = np.array([1.0, 2.0, 0.5, 3.0])
    expected = -cdist(features, means) / scale
    assert_allclose(ClassMeans(means, scale).scores(features), expected, atol=1e-12)
    assert_allclose(ClassMeans(means).scores(features), expected * scale, atol=1e-12)


def test_the_scale_is_the_weighted_mean_distance_over_all_samples():
    features, _, classes, weight = samples = make_samples()
    distances = cdist(features, means_by_loops(features, classes, weight))
    expected = [np.average(d, weights=weight) for d in distances.T]
    assert_allclose(euclidean(samples).scale, expected, rtol=1e-10)


def test_the_scale_of_a_subset_is_the_mean_distance_over_that_subset():
    samples = make_samples()
    sums, subset = make_sums(samples), take(samples, slice(0, 60))
    expected = np.average(cdist(subset[0], sums.means()), axis=0, weights=subset[3])
    fitted = fit_euclidean(sums, subset[0], subset[3])(None)
    assert_allclose(fitted.scale, expected, rtol=1e-10)
    assert_allclose(fitted.means, sums.means())


@pytest.mark.parametrize("fold", range(N_FOLDS))
def test_without_a_fold_only_the_means_are_others(fold):
    samples = make_samples()
    features, _, classes, weight = take(samples, samples[1] != fold)
    expected = means_by_loops(features, classes, weight)
    found = euclidean(samples, without_fold=fold)
    assert_allclose(found.means, expected, rtol=0, atol=1e-12)
    assert_allclose(found.scale, euclidean(samples).scale)


def test_memory_mapped_means_are_read_without_a_warning(tmp_path):
    # joblib hands large arrays to its workers so; torch warns once in a process.
    samples = make_samples()
    for means in (euclidean(samples), whitened(samples, 0.1)):
        joblib.dump(means, tmp_path / "means")
        mapped = joblib.load(tmp_path / "means", mmap_mode="r")
        assert not mapped.means.flags.writeable
        expected = means.scores(samples[0])
        assert_allclose(mapped.scores(samples[0]), expected, rtol=1e-12)


# Metrics


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("fold", [None, 1])
def test_the_metric_says_which_means_are_fitted(metric, fold):
    features, _, classes, weight = samples = make_samples()
    sums = make_sums(samples)
    expected = {
        "euclidean": fit_euclidean(sums, features, weight),
        "mahalanobis": fit_whitened(sums, features, classes, weight, "oas", 90),
    }
    found = fit_means(
        metric, sums, features, classes, weight, shrinkage="oas", n_samples=90
    )(fold)
    expected = expected[metric](fold)
    assert np.array_equal(found.scores(features), expected.scores(features))
    assert np.array_equal(found.means, expected.means)


# Linear means


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_linear_scores_are_linear_in_what_features_are_less_their_centre(offset):
    rng = np.random.default_rng(0)
    coef, intercept = rng.normal(size=(N_FEATURES, N_CLASSES)), rng.normal(size=4)
    means = rng.normal(size=(N_CLASSES, N_FEATURES)) + offset
    features, centre = rng.normal(size=(9, N_FEATURES)), np.full(N_FEATURES, offset)
    expected = np.array(
        [intercept + sum(x * c for x, c in zip(f, coef, strict=True)) for f in features]
    )
    linear = LinearMeans(means, coef, intercept, centre)
    assert_allclose(linear.scores(features + offset), expected, rtol=0, atol=1e-8)
    assert linear.scale.tolist() == [1.0] * N_CLASSES


def test_whitened_means_are_linear_about_the_middle_of_the_means():
    features, *_ = samples = make_correlated(offset=100.0)
    found = whitened(samples, 0.1)
    assert isinstance(found, LinearMeans)
    assert_allclose(found.centre, found.means.mean(axis=0), rtol=1e-12)
    expected = (features - found.centre) @ found.coef + found.intercept
    assert_allclose(found.scores(features), expected, rtol=0, atol=1e-9)


# Whitened means


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.7, 1.0])
def test_a_number_gives_linear_discriminant_analysis_of_standardised_features(
    shrinkage,
):
    features, _, classes, _ = samples = make_correlated(n=90)
    samples[3][:] = 1
    standardised = features / residuals_of(samples).std(axis=0)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    lda.fit(standardised, classes)
    scores = whitened(samples, shrinkage).scores(features)
    expected = less_the_first(lda.decision_function(standardised))
    assert_allclose(less_the_first(scores), expected, rtol=0, atol=1e-9)
    assert np.array_equal(scores.argmax(axis=1), lda.predict(standardised))


@pytest.mark.parametrize(
    ("name", "formula"), [("ledoit_wolf", ledoit_wolf), ("oas", oas)]
)
@pytest.mark.parametrize("n", [20, 90])
def test_a_formula_gives_the_scores_of_scikit_learns_intensity(n, name, formula):
    samples = make_correlated(n=n)
    samples[3][:] = 1
    residuals = residuals_of(samples)
    _, intensity = formula(residuals / residuals.std(axis=0), assume_centered=True)
    assert 0.001 < intensity < 0.999
    expected = whitened(samples, intensity).scores(samples[0])
    found = whitened(samples, name).scores(samples[0])
    assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("intensity", [0.0, 0.2])
def test_scores_are_mahalanobis_distances_and_the_log_of_the_priors(intensity):
    features, _, classes, weight = samples = make_correlated(separation=2.0)
    weight[classes == 1] *= 5
    covariance = scatter_by_numpy(features, classes, weight)
    variance = np.diag(np.diag(covariance))
    inverse = np.linalg.inv((1 - intensity) * covariance + intensity * variance)
    means = means_by_loops(features, classes, weight)
    expected = np.zeros((200, N_CLASSES))
    for k in range(N_CLASSES):
        prior = weight[classes == k].sum() / weight.sum()
        for i in range(200):
            step = features[i] - means[k]
            expected[i, k] = np.log(prior) - step @ inverse @ step / 2
    found = whitened(samples, intensity)
    scores = less_the_first(found.scores(features))
    assert_allclose(scores, less_the_first(expected), rtol=0, atol=1e-9)
    assert_allclose(found.means, means, rtol=0, atol=1e-12)
    assert found.scale.tolist() == [1.0] * N_CLASSES


@pytest.mark.parametrize("shrinkage", [0.0, "ledoit_wolf", "oas"])
def test_float32_features_far_from_zero_give_the_scores_of_those_near_it(shrinkage):
    features, *rest = make_correlated(n=600)
    # Multiples of what float32 can hold at 10 000, so that adding it loses nothing.
    features = np.round(features * 1024) / 1024
    moved = (features + 1e4).astype(np.float32)
    assert np.array_equal(moved.astype(np.float64) - 1e4, features)
    sums = make_sums((moved, *rest), moved[:50].mean(axis=0), batches=(50, 300))
    expected = whitened((features, *rest), shrinkage).scores(features)
    found = whitened((moved, *rest), shrinkage, sums=sums).scores(moved)
    assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, "ledoit_wolf", "oas"])
@pytest.mark.parametrize("least", [1e-3, 1e-12])
def test_the_units_of_the_features_do_not_matter(least, shrinkage):
    features, *rest = samples = make_correlated()
    units = np.array([least, 0.3, 1.0, 20.0, 1e3])
    expected = whitened(samples, shrinkage).scores(features)
    found = whitened((features * units, *rest), shrinkage).scores(features * units)
    assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 + 1 / 3])
def test_features_that_are_constant_say_nothing(value, shrinkage):
    samples = make_correlated()
    dead = with_columns(samples, np.full((200, 3), value))
    expected = whitened(samples, shrinkage).scores(samples[0])
    found = whitened(dead, shrinkage)
    assert_allclose(found.scores(dead[0]), expected, rtol=0, atol=1e-9)
    alive = with_columns(samples, value + np.ones((200, 3)))[0]
    scores = less_the_first(found.scores(alive))
    assert_allclose(scores, less_the_first(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "formula"), [("ledoit_wolf", ledoit_wolf), ("oas", oas)]
)
def test_constant_features_count_in_the_formulas_as_zeros(name, formula):
    samples = make_correlated()
    samples[3][:] = 1
    residuals = residuals_of(samples)
    zeros = np.zeros((200, 3))
    standardised = np.column_stack([residuals / residuals.std(axis=0), zeros])
    _, intensity = formula(standardised, assume_centered=True)
    expected = whitened(samples, intensity).scores(samples[0])
    dead = with_columns(samples, zeros + 0.1)
    found = whitened(dead, name).scores(dead[0])
    assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(take(make_correlated(), slice(0, 8)), id="few samples"),
        pytest.param(
            with_columns(make_correlated(), make_correlated()[0][:, 1]), id="a copy"
        ),
    ],
)
def test_a_singular_covariance_asks_for_shrinkage_or_a_coarser_pooling(samples):
    n, d = samples[0].shape
    message = rf"{d} features is singular.*{samples[3].sum():g} samples.*pooling"
    with pytest.raises(ValueError, match=message) as error:
        whitened(samples, 0.0)
    assert "shrinkage='ledoit_wolf', a number above 0" in str(error.value)
    for shrinkage in (0.01, "ledoit_wolf", "oas"):
        scores = whitened(samples, shrinkage).scores(samples[0])
        assert np.isfinite(scores).all()
        assert scores.shape == (n, N_CLASSES)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, "ledoit_wolf", "oas"])
@pytest.mark.parametrize(
    "decimals",
    [0, None],
)
def test_classes_that_are_points_are_told_apart_in_units_of_how_far_they_lie_apart(
    decimals, shrinkage
):
    _, folds, classes, weight = make_correlated()
    centres = 4 * np.random.default_rng(0).normal(size=(N_CLASSES, N_FEATURES))
    if decimals is not None:
        centres = centres.round(decimals)
    samples = centres[classes], folds, classes, weight
    new = np.random.default_rng(1).normal(size=(20, N_FEATURES))
    prior = np.bincount(classes, weight) / weight.sum()
    unit = np.ptp(centres, axis=0) / np.sqrt(weight.sum())
    distances = cdist(new / unit, centres / unit)
    expected = less_the_first(np.log(prior) - distances**2 / 2)
    shift = np.zeros(N_FEATURES)
    found = whitened(samples, shrinkage, sums=make_sums(samples, shift))
    assert_allclose(less_the_first(found.scores(new)), expected, rtol=1e-9)


def with_rounding(samples, metric, rounding, without_fold=None):
    features, _, classes, weight = samples
    return fit_means(
        metric,
        make_sums(samples),
        features,
        classes,
        weight,
        shrinkage="ledoit_wolf",
        rounding=rounding,
    )(without_fold)


@pytest.mark.parametrize("fold", [None, 1])
def test_features_that_deviate_by_rounding_say_nothing(fold):
    samples = make_correlated()
    noise = 1e-3 * np.random.default_rng(0).normal(size=(200, 3))
    noisy, dead = with_columns(samples, 1e3 + noise), with_columns(samples, 0 * noise)
    rounding = np.repeat([0.0, 5e-3], [N_FEATURES, 3])
    found = with_rounding(noisy, "mahalanobis", rounding, fold)
    expected = with_rounding(dead, "mahalanobis", rounding, fold)
    scores = found.scores(noisy[0]), expected.scores(dead[0])
    assert_allclose(*map(less_the_first, scores), rtol=0, atol=1e-9)
    means = with_rounding(noisy, "euclidean", rounding, fold)
    assert np.ptp(means.means[:, -3:], axis=0).max() == 0
    assert_allclose(means.means[0, -3:], 1e3, rtol=1e-6)


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_if_all_features_deviate_by_rounding_the_priors_answer(metric):
    _, folds, classes, weight = make_samples(n=90)
    noise = 1e-9 * np.random.default_rng(0).normal(size=(90, N_FEATURES))
    samples = noise, folds, classes, weight
    found = with_rounding(samples, metric, np.full(N_FEATURES, 5e-9))
    assert found.scale.tolist() == [1.0] * N_CLASSES
    prior = np.bincount(classes, weight) / weight.sum()
    expected = np.log(prior) if metric == "mahalanobis" else np.zeros(N_CLASSES)
    scores = less_the_first(found.scores(noise))
    assert_allclose(
        scores, np.tile(expected - expected[0], (90, 1)), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("noise", [0.0, 1e-11], ids=["exact", "rounded"])
def test_a_feature_that_is_constant_within_the_classes_decides_in_any_unit(
    noise, shift, unit
):
    samples = make_correlated()
    drawn = noise * np.random.default_rng(0).normal(size=200)
    plain = with_columns(samples, samples[2] % 2)
    expected = with_rounding(plain, "mahalanobis", 0.0).scores(plain[0])
    moved = with_columns(samples, unit * (samples[2] % 2 + shift + drawn))
    rounding = np.append(np.zeros(N_FEATURES), 1e-10 * unit)
    found = with_rounding(moved, "mahalanobis", rounding).scores(moved[0])
    assert_allclose(*map(less_the_first, (found, expected)), rtol=1e-6, atol=1e-6)
    assert (found.argmax(axis=1) % 2 == samples[2] % 2).all()


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, "ledoit_wolf", "oas"])
def test_a_weight_of_three_is_three_samples(shrinkage):
    samples = make_correlated(n=60)
    expected = whitened(repeat(samples), shrinkage).scores(samples[0])
    found = whitened(samples, shrinkage).scores(samples[0])
    assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fold", range(N_FOLDS))
@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_leaving_a_fold_out_is_a_fit_to_the_rest(shrinkage, fold):
    samples = make_correlated(n=90)
    expected = whitened(take(samples, samples[1] != fold), shrinkage)
    found = whitened(samples, shrinkage, without_fold=fold)
    assert_allclose(found.means, expected.means, rtol=0, atol=1e-12)
    scores = found.scores(samples[0]), expected.scores(samples[0])
    assert_allclose(*scores, rtol=0, atol=1e-9)
    overall = whitened(samples, shrinkage).scores(samples[0])
    assert np.abs(less_the_first(scores[0] - overall)).max() > 0.1


@pytest.mark.parametrize("name", ["ledoit_wolf", "oas"])
def test_the_intensity_is_the_same_without_any_fold(name):
    samples = make_correlated(n=90)
    samples[3][:] = 1
    residuals = residuals_of(samples)
    formula = {"ledoit_wolf": ledoit_wolf, "oas": oas}[name]
    _, intensity = formula(residuals / residuals.std(axis=0), assume_centered=True)
    expected = whitened(samples, intensity, without_fold=1).scores(samples[0])
    found = whitened(samples, name, without_fold=1).scores(samples[0])
    assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_feature_that_varies_in_one_fold_alone_says_nothing_without_it():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        samples = make_correlated()
        samples[3][:] = rng.uniform(0.5, 2, 200)
        rare = 1e4 * (np.arange(200) == 4)
        assert samples[1][4] == 1
        samples = with_columns(samples, rare)
        found = whitened(samples, 0.2, without_fold=1)
        new = samples[0][:20].copy()
        expected = less_the_first(found.scores(new * (np.arange(6) < 5)))
        new[:, -1] = 1e4
        scores = less_the_first(found.scores(new))
        assert_allclose(scores, expected, rtol=0, atol=1e-6)
