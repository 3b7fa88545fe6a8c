"""Sums, means, distances and probabilities against plain references."""

from itertools import pairwise

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from sk_e2cm._means import ClassMeans, ClassSums, fit_class_means

from .references import minimise

N_FOLDS, N_CLASSES, N_FEATURES = 3, 4, 5


def make_samples(n=200, seed=0, offset=0.0, separation=1.0):
    """Return features, folds, classes and weights; each class lies in each fold."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % N_CLASSES
    folds = (np.arange(n) // N_CLASSES) % N_FOLDS
    centres = separation * rng.normal(size=(N_CLASSES, N_FEATURES))
    features = offset + centres[classes] + rng.normal(size=(n, N_FEATURES))
    return features, folds, classes, rng.integers(1, 4, n).astype(float)


def make_sums(samples, shift=None, batches=(), second=True):
    """Sum up the samples, cut into batches at these rows."""
    features, folds, classes, weight = samples
    shift = features.mean(axis=0, dtype=np.float64) if shift is None else shift
    sums = ClassSums(N_FOLDS, N_CLASSES, shift, second=second)
    for start, stop in pairwise([0, *batches, len(features)]):
        rows = slice(start, stop)
        sums.add(features[rows], folds[rows], classes[rows], weight[rows])
    return sums


def take(samples, rows):
    return [array[rows] for array in samples]


def means_by_loops(features, classes, weight):
    means = np.zeros((N_CLASSES, features.shape[1]))
    for k in range(N_CLASSES):
        total = 0.0
        for i in np.flatnonzero(classes == k):
            means[k] += weight[i] * features[i]
            total += weight[i]
        means[k] /= total
    return means


def scatter_by_numpy(features, classes, weight):
    """Return the pooled within-class covariance from numpy.cov of each class."""
    covariance = np.zeros((N_FEATURES, N_FEATURES))
    for k in range(N_CLASSES):
        rows = classes == k
        share = weight[rows].sum() / weight.sum()
        covariance += share * np.cov(
            features[rows].T.astype(np.float64), aweights=weight[rows], bias=True
        )
    return covariance


# Sums


def test_means_are_the_weighted_means_of_each_class():
    features, _, classes, weight = samples = make_samples()
    expected = means_by_loops(features, classes, weight)
    assert_allclose(make_sums(samples).means(), expected, rtol=0, atol=1e-12)


def test_a_weight_of_three_is_three_rows():
    samples = make_samples()
    repeats = samples[3].astype(int)
    repeated = [np.repeat(array, repeats, axis=0) for array in samples]
    repeated[3] = np.ones(repeats.sum())
    shift = np.zeros(N_FEATURES)
    weighted, repeated = make_sums(samples, shift), make_sums(repeated, shift)
    assert_allclose(weighted.weight, repeated.weight)
    assert_allclose(weighted.first, repeated.first, rtol=1e-12)
    assert_allclose(weighted.second, repeated.second, rtol=1e-12)


def test_a_weight_of_zero_is_an_absent_row():
    samples = make_samples()
    absent = np.arange(200) % 5 == 0
    samples[3][absent] = 0
    shift = np.zeros(N_FEATURES)
    with_zeros, without = make_sums(samples, shift), make_sums(take(samples, ~absent))
    assert_allclose(with_zeros.weight, without.weight)
    assert_allclose(with_zeros.means(), without.means(), rtol=0, atol=1e-12)
    assert_allclose(with_zeros.covariance(), without.covariance(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batches", [(1,), (100,), (7, 8, 190), range(1, 200)])
def test_any_split_into_batches_gives_the_same_sums(batches):
    samples = make_samples()
    whole, split = make_sums(samples), make_sums(samples, batches=batches)
    assert_allclose(split.weight, whole.weight)
    assert_allclose(split.first, whole.first, rtol=0, atol=1e-10)
    assert_allclose(split.second, whole.second, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_shards", [2, 3, 7])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_merging_shards_about_different_shifts_gives_the_sums_of_all(n_shards, offset):
    samples = make_samples(offset=offset)
    rng = np.random.default_rng(1)
    whole = make_sums(samples)
    merged = make_sums(take(samples, slice(0, 0)), shift=whole.shift)
    for rows in np.array_split(rng.permutation(200), n_shards):
        shift = offset + 3 * rng.normal(size=N_FEATURES)
        merged.merge(make_sums(take(samples, rows), shift))
    assert_allclose(merged.weight, whole.weight)
    assert_allclose(merged.first, whole.first, rtol=0, atol=1e-8)
    assert_allclose(merged.second, whole.second, rtol=0, atol=1e-7)


def test_merging_leaves_the_other_sums_as_they_were():
    one, other = make_sums(make_samples(seed=0)), make_sums(make_samples(seed=1))
    before = other.weight.copy(), other.first.copy(), other.second.copy()
    one.merge(other)
    for array, copy in zip(
        (other.weight, other.first, other.second), before, strict=True
    ):
        assert np.array_equal(array, copy)


def test_sums_with_products_refuse_sums_without():
    samples = make_samples()
    with pytest.raises(ValueError, match="second"):
        make_sums(samples).merge(make_sums(samples, second=False))


@pytest.mark.parametrize("fold", range(N_FOLDS))
def test_means_without_a_fold_are_the_means_of_the_other_folds(fold):
    samples = make_samples()
    features, _, classes, weight = take(samples, samples[1] != fold)
    expected = means_by_loops(features, classes, weight)
    found = make_sums(samples).means(without_fold=fold)
    assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_class_in_one_fold_alone_keeps_its_mean_without_that_fold():
    samples = make_samples()
    samples[1][samples[2] == 2] = 1
    sums = make_sums(samples)
    alone = np.arange(N_CLASSES) == 2
    without, overall = sums.means(without_fold=1), sums.means()
    assert_allclose(without[alone], overall[alone], rtol=0, atol=1e-12)
    assert (np.abs(without - overall).max(axis=1) > 1e-3)[~alone].all()


# Covariance


def test_covariance_is_that_of_linear_discriminant_analysis():
    features, folds, classes, _ = make_samples()
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True)
    expected = lda.fit(features, classes).covariance_
    sums = make_sums((features, folds, classes, np.ones(200)), batches=(20, 90))
    assert_allclose(sums.covariance(), expected, rtol=0, atol=1e-12)


def test_weighted_covariance_is_that_of_numpy():
    features, _, classes, weight = samples = make_samples()
    expected = scatter_by_numpy(features, classes, weight)
    assert_allclose(make_sums(samples).covariance(), expected, rtol=0, atol=1e-12)


def test_covariance_of_float32_features_far_from_zero_keeps_six_digits():
    features, folds, classes, weight = make_samples(n=2000, offset=1e4)
    features = features.astype(np.float32)
    expected = scatter_by_numpy(features, classes, weight)
    sums = make_sums((features, folds, classes, weight), batches=range(100, 2000, 100))
    error = np.abs(sums.covariance() - expected).max()
    assert error < 1e-6 * np.abs(expected).max()


def test_covariance_asks_for_products():
    with pytest.raises(ValueError, match="second=True"):
        make_sums(make_samples(), second=False).covariance()


# Distances and probabilities


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
    answer = ClassMeans(make_sums(samples).means())
    assert_allclose(answer.means, nearest.centroids_, atol=1e-12)
    label = answer.proba(features).argmax(axis=1)
    assert np.array_equal(label, nearest.predict(features))
    assert 0.3 < np.average(label == classes, weights=weight) < 0.95


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

    fitted = fit_class_means(make_sums(samples), *samples, calibrate=False)
    assert fitted.inverse_temperature == 1
    assert_allclose(fitted.scale, scale, rtol=1e-10)
    fitted.inverse_temperature = beta
    assert_allclose(fitted.proba(features[:20]), expected, rtol=0, atol=1e-10)


def test_the_scale_is_the_weighted_mean_distance_over_all_samples():
    features, _, classes, weight = samples = make_samples()
    distances = cdist(features, means_by_loops(features, classes, weight))
    expected = [np.average(d, weights=weight) for d in distances.T]
    fitted = fit_class_means(make_sums(samples), *samples, calibrate=False)
    assert_allclose(fitted.scale, expected, rtol=1e-10)


def test_the_scale_of_a_subset_is_the_mean_distance_over_that_subset():
    samples = make_samples()
    sums, subset = make_sums(samples), take(samples, slice(0, 60))
    expected = np.average(cdist(subset[0], sums.means()), axis=0, weights=subset[3])
    fitted = fit_class_means(sums, *subset, calibrate=True)
    assert_allclose(fitted.scale, expected, rtol=1e-10)
    assert_allclose(fitted.means, sums.means())


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 + 0.1, 1e6 + 1 / 3])
def test_constant_features_give_uniform_probabilities(value, dtype, calibrate):
    _, folds, classes, weight = make_samples()
    features = np.full((200, N_FEATURES), value, dtype)
    samples = features, folds, classes, weight
    sums = make_sums(samples, features[:7].mean(axis=0), batches=(7, 50, 111))
    fitted = fit_class_means(sums, *samples, calibrate=calibrate)
    assert_allclose(fitted.proba(features), 1 / N_CLASSES, rtol=1e-6)


def test_memory_mapped_means_are_read_without_a_warning(tmp_path):
    # joblib hands large arrays to its workers so; torch warns once in a process.
    features, _, classes, _ = make_samples()
    answer = ClassMeans(means_by_loops(features, classes, np.ones(200)))
    joblib.dump(answer, tmp_path / "answer")
    mapped = joblib.load(tmp_path / "answer", mmap_mode="r")
    assert not mapped.means.flags.writeable
    assert_allclose(mapped.proba(features), answer.proba(features), rtol=1e-12)


def test_one_sample_costs_one_multiply_add_for_each_number_in_the_means():
    assert ClassMeans(np.zeros((7, 30))).macs == 7 * 30


# Calibration


@pytest.mark.parametrize("alone", [False, True])
def test_calibration_is_fitted_to_distances_from_means_of_other_folds(alone):
    features, folds, classes, weight = samples = make_samples(n=120)
    if alone:
        folds[classes == 3] = 2
    overall = means_by_loops(features, classes, weight)
    scale = np.average(cdist(features, overall), axis=0, weights=weight)
    logits = np.zeros((120, N_CLASSES))
    for i in range(120):
        for k in range(N_CLASSES):
            unseen = (classes == k) & (folds != folds[i])
            if not unseen.any():
                unseen = classes == k
            mean = np.average(features[unseen], axis=0, weights=weight[unseen])
            logits[i, k] = -np.linalg.norm(features[i] - mean) / scale[k]
    expected = minimise(logits, classes, weight)

    fitted = fit_class_means(make_sums(samples), *samples, calibrate=True)
    assert_allclose(fitted.inverse_temperature, expected, rtol=1e-5)
    assert_allclose(fitted.means, overall, rtol=0, atol=1e-12)
    assert_allclose(fitted.scale, scale, rtol=1e-10)


def confidence_and_accuracy(calibrate, n_features, separation):
    """Fit Gaussian classes and look at 20 000 fresh samples of them."""
    rng = np.random.default_rng(0)
    centres = separation * rng.normal(size=(N_CLASSES, n_features))

    def draw(n):
        classes = rng.integers(0, N_CLASSES, n)
        return centres[classes] + rng.normal(size=(n, n_features)), classes

    features, classes = draw(2000)
    folds, weight = rng.integers(0, N_FOLDS, 2000), np.ones(2000)
    sums = ClassSums(N_FOLDS, N_CLASSES, features.mean(axis=0))
    sums.add(features, folds, classes, weight)
    fitted = fit_class_means(
        sums, features, folds, classes, weight, calibrate=calibrate
    )
    fresh, truth = draw(20_000)
    proba = fitted.proba(fresh)
    return proba.max(axis=1).mean(), (proba.argmax(axis=1) == truth).mean()


@pytest.mark.parametrize(
    ("n_features", "separation"), [(5, 0.5), (5, 1.0), (50, 0.1), (50, 0.3)]
)
def test_calibrated_confidence_is_the_accuracy_on_fresh_data(n_features, separation):
    confidence, accuracy = confidence_and_accuracy(True, n_features, separation)
    assert 0.3 < accuracy < 0.95
    assert abs(confidence - accuracy) < 0.02


@pytest.mark.parametrize(
    ("n_features", "separation"), [(5, 0.5), (5, 1.0), (50, 0.1), (50, 0.3)]
)
def test_the_papers_confidence_is_not_the_accuracy(n_features, separation):
    confidence, accuracy = confidence_and_accuracy(False, n_features, separation)
    assert accuracy - confidence > 0.1
