"""Sums, means and covariances against plain references."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

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


def test_means_are_the_weighted_means_of_each_class():
    features, _, classes, weight = samples = make_samples()
    expected = means_by_loops(features, classes, weight)
    assert_allclose(make_sums(samples).means(), expected, rtol=0, atol=1e-12)


def test_a_weight_of_three_is_three_rows():
    samples = make_samples()
    shift = np.zeros(N_FEATURES)
    weighted, repeated = make_sums(samples, shift), make_sums(repeat(samples), shift)
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


# Without a fold


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


@pytest.mark.parametrize("fold", [None, *range(N_FOLDS)])
def test_priors_are_the_shares_of_the_weight_in_the_other_folds(fold):
    samples = make_samples(n=90)  # of uneven classes
    rest = samples[1] != fold
    _, _, classes, weight = take(samples, rest)
    expected = [weight[classes == k].sum() / weight.sum() for k in range(N_CLASSES)]
    found = make_sums(samples).priors(without_fold=fold)
    assert_allclose(found, expected, rtol=1e-12)
    assert np.ptp(found) > 0.01


def test_a_class_in_one_fold_alone_keeps_its_weight_in_the_priors():
    samples = make_samples()
    _, folds, classes, weight = samples
    folds[classes == 2] = 1
    used = (folds != 1) | (classes == 2)
    expected = np.bincount(classes[used], weight[used]) / weight[used].sum()
    found = make_sums(samples).priors(without_fold=1)
    assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("fold", range(N_FOLDS))
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_covariance_without_a_fold_is_that_of_the_other_folds(offset, fold):
    samples = make_samples(offset=offset)
    features, _, classes, weight = take(samples, samples[1] != fold)
    expected = scatter_by_numpy(features, classes, weight)
    sums = make_sums(samples, samples[0][:20].mean(axis=0), batches=(20, 90))
    found = sums.covariance(without_fold=fold)
    assert_allclose(found, expected, rtol=0, atol=1e-11)
    assert np.abs(found - sums.covariance()).max() > 1e-3


def test_a_class_in_one_fold_alone_does_not_count_in_the_covariance_without_it():
    samples = make_samples()
    _, folds, classes, _ = samples
    folds[classes == 2] = 1
    rest, _, rest_classes, weight = take(samples, folds != 1)
    assert 2 not in rest_classes
    expected = scatter_by_numpy(rest, rest_classes, weight)
    found = make_sums(samples).covariance(without_fold=1)
    assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_if_all_samples_lie_in_one_fold_nothing_changes_without_it():
    samples = make_samples()
    samples[1][:] = 1
    sums = make_sums(samples)
    assert_allclose(sums.means(without_fold=1), sums.means(), rtol=1e-12)
    assert_allclose(sums.priors(without_fold=1), sums.priors(), rtol=1e-12)
    assert_allclose(sums.covariance(without_fold=1), sums.covariance(), rtol=1e-12)
    features, _, classes, weight = samples
    expected = scatter_by_numpy(features, classes, weight)
    assert_allclose(sums.covariance(without_fold=1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fold", range(N_FOLDS))
def test_merged_sums_give_the_covariance_without_a_fold(fold):
    samples = make_samples(offset=100.0)
    one = make_sums(take(samples, slice(0, 70)))
    one.merge(make_sums(take(samples, slice(70, 200)), np.full(N_FEATURES, 98.0)))
    features, _, classes, weight = take(samples, samples[1] != fold)
    expected = scatter_by_numpy(features, classes, weight)
    assert_allclose(one.covariance(without_fold=fold), expected, rtol=0, atol=1e-11)


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
