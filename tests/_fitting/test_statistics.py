"""One pass over the training data: sums over all samples, features of some."""

import joblib
import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm import TorchExtractor
from sk_e2cm._fitting._cross_fitting import HeadSpec, fit_class_means
from sk_e2cm._fitting._kept import Samples
from sk_e2cm._fitting._statistics import folds_by_hash
from sk_e2cm._fitting._workers import collect_statistics
from sk_e2cm._multi_exit._full_pass import FullPass
from sk_e2cm._utils._hashing import row_hashes
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from .heads import proba_by

N_CLASSES, N_FOLDS = 3, 5
WIDTHS = 32, 64  # of the two stages
BYTES_EACH = 8 * sum(WIDTHS)


def make_data(n=500, seed=0):
    """Return X, classes and weights, and a mean far from 0 for the rounding."""
    rng = np.random.default_rng(seed)
    X = 100 + rng.normal(size=(n, WIDTHS[-1]))
    return X, rng.permutation(np.arange(n) % N_CLASSES), rng.uniform(0.5, 2, n)


def collect(X, classes, weight, *, folds=None, batch_size=64, extractor=None, **params):
    """Folds follow from the samples by default."""
    hashes = row_hashes(X)
    folds = folds_by_hash(hashes) if folds is None else folds
    full_pass = FullPass(
        extractor or ToyExtractor(n_stages=2),
        pooling="auto",
        batch_size=batch_size,
        memory=joblib.Memory(None),
    )
    samples = Samples(hashes, folds, classes, weight)
    return collect_statistics(full_pass, X, samples, **params)


def collect_within(n_kept, data, **params):
    """Allow working memory for the features of about this many samples."""
    with sklearn.config_context(working_memory=n_kept * BYTES_EACH / 2**20):
        return collect(*data, **params)


def assert_sums_over_all(found, X, classes, weight, folds=None):
    folds = folds_by_hash(row_hashes(X)) if folds is None else folds
    for sums, width in zip(found.sums, WIDTHS, strict=True):
        assert_array_equal(sums.folds, np.unique(folds))
        assert sums.weight.shape == (len(sums.folds), N_CLASSES)
        for slot, fold in enumerate(sums.folds):
            inside = folds == fold
            for k in range(N_CLASSES):
                rows = inside & (classes == k)
                first = weight[rows] @ (X[rows, :width] - sums.shift)
                assert_allclose(sums.weight[slot, k], weight[rows].sum())
                assert_allclose(sums.first[slot, k], first, rtol=0, atol=1e-9)
            if sums.second is not None:
                shifted = X[inside, :width] - sums.shift
                second = (weight[inside, None] * shifted).T @ shifted
                assert_allclose(sums.second[slot], second, rtol=0, atol=1e-8)


def make_folds(n, share, seed=3):
    """Hold out this share of the samples, in one of two folds each; others are -1."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < share, rng.integers(0, 2, n), -1)


@pytest.mark.parametrize("batch_size", [1, 64, 500])
def test_the_sums_are_those_of_all_samples_by_fold_and_class(batch_size):
    data = make_data()
    assert_sums_over_all(collect(*data, batch_size=batch_size), *data)


def test_all_features_are_kept_if_they_fit():
    X, classes, weight = make_data()
    found = collect(X, classes, weight)
    assert_array_equal(found.kept, np.arange(500))
    for features, width in zip(found.features, WIDTHS, strict=True):
        assert_array_equal(features, X[:, :width])
    assert_array_equal(found.codes, classes)
    assert_array_equal(found.sample_weight, weight)
    assert_array_equal(found.folds, row_hashes(X) % np.uint64(N_FOLDS))


def test_all_features_are_kept_if_they_just_fit():
    assert len(collect_within(500, make_data()).kept) == 500


@pytest.mark.parametrize("n_kept", [400, 1000, 1600])
def test_of_too_many_samples_as_many_are_kept_as_fit(n_kept):
    found = collect_within(n_kept, make_data(n=2000))
    assert_allclose(len(found.kept), n_kept, rtol=0.1)


def test_the_sums_are_those_of_all_samples_even_if_few_are_kept():
    data = make_data()
    found = collect_within(50, data)
    assert len(found.kept) < len(data[0])
    assert_sums_over_all(found, *data)


@pytest.mark.parametrize("batch_size", [1, 64, 500])
def test_what_is_kept_belongs_to_the_samples_that_are_kept(batch_size):
    X, classes, weight = data = make_data()
    found = collect_within(100, data, batch_size=batch_size)
    for features, width in zip(found.features, WIDTHS, strict=True):
        assert_array_equal(features, X[found.kept, :width])
    assert_array_equal(found.codes, classes[found.kept])
    assert_array_equal(found.sample_weight, weight[found.kept])
    assert_array_equal(found.folds, row_hashes(X)[found.kept] % np.uint64(N_FOLDS))


def test_the_subset_is_the_same_in_any_order_of_the_samples():
    X, classes, weight = data = make_data()
    order = np.random.default_rng(1).permutation(500)
    kept = collect_within(100, data).kept
    shuffled = collect_within(100, (X[order], classes[order], weight[order])).kept
    assert 0 < len(kept) < 500
    assert_array_equal(np.sort(order[shuffled]), kept)


def test_the_subset_has_every_fold_and_class_in_its_share():
    found = collect_within(2000, make_data(n=6000))
    assert_allclose(np.bincount(found.folds) / len(found.kept), 1 / N_FOLDS, atol=0.03)
    assert_allclose(np.bincount(found.codes) / len(found.kept), 1 / 3, atol=0.03)


def test_equal_samples_share_a_fold_and_are_kept_together():
    X, classes, weight = make_data(n=300)
    twice = [np.concatenate([a, a]) for a in (X, classes, weight)]
    found = collect_within(200, twice)
    kept = np.isin(np.arange(600), found.kept)
    assert 0 < kept.sum() < 600
    assert_array_equal(kept[:300], kept[300:])
    assert_array_equal(*np.split(found.folds, 2))


@pytest.mark.parametrize("working_memory", [0, 1e-9])
def test_the_least_working_memory_is_enough_for_a_fit(working_memory):
    with sklearn.config_context(working_memory=working_memory):
        found = collect(*make_data())
        heads = list(
            fit_class_means(found, HeadSpec("euclidean", "ledoit_wolf", "temperature"))
        )
    assert_sums_over_all(found, *make_data())
    temperatures = [head.temperature for head in heads]
    assert np.isfinite(temperatures).all()


def test_a_fit_is_possible_if_equal_samples_exceed_the_working_memory():
    _, classes, weight = make_data()
    found = collect_within(100, (np.ones((500, WIDTHS[-1])), classes, weight))
    head = next(fit_class_means(found, HeadSpec("euclidean", "ledoit_wolf", None)))
    assert_allclose(proba_by(head.logits, np.ones((1, WIDTHS[0]))), 1 / N_CLASSES)


def test_every_sample_runs_through_the_network_once():
    extractor = CountingExtractor(ToyExtractor(n_stages=2))
    collect(*make_data(), extractor=extractor)
    collect_within(50, make_data(), extractor=extractor)
    collect(*make_data(), extractor=extractor, second=True)
    assert_array_equal(extractor.rows, [1500, 1500])


def test_stages_keep_their_names():
    assert collect(*make_data()).stage_names == ("part1", "part2")


@pytest.mark.parametrize("batch_size", [1, 64, 500])
@pytest.mark.parametrize("second", [False, True])
def test_the_shapes_of_outputs_are_those_of_a_sample(batch_size, second):
    found = collect(*make_data(), batch_size=batch_size, second=second)
    assert found.shapes == [(width,) for width in WIDTHS]


def test_the_shapes_of_maps_are_those_before_they_are_pooled():
    X = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32)
    layers = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.AvgPool2d(2)
    extractor = TorchExtractor(torch.nn.Sequential(*layers), ["0"])
    classes, weight = np.arange(60) % N_CLASSES, np.ones(60)
    found = collect(X, classes, weight, extractor=extractor)
    assert found.shapes == [(4, 8, 8), (4, 4, 4)]
    assert [features.shape for features in found.features] == [(60, 64), (60, 64)]


# Folds


@pytest.mark.parametrize("n_folds", [1, 2, 5])
def test_folds_by_hash_are_of_about_equal_size(n_folds):
    hashes = row_hashes(np.random.default_rng(0).normal(size=(5000, 3)))
    folds = folds_by_hash(hashes, n_folds)
    assert folds.dtype == np.intp
    assert_allclose(np.bincount(folds) / 5000, np.full(n_folds, 1 / n_folds), atol=0.03)


def test_equal_rows_share_a_fold_by_hash():
    X = np.random.default_rng(0).normal(size=(100, 3))
    folds = folds_by_hash(row_hashes(np.concatenate([X, X[::-1]])))
    assert_array_equal(folds[:100], folds[:99:-1])
    assert len(np.unique(folds)) == N_FOLDS


def test_folds_may_be_given():
    data = make_data()
    folds = np.arange(500) % 3
    found = collect(*data, folds=folds)
    assert_array_equal(found.folds, folds)
    assert_array_equal(found.held_out, np.arange(500))
    assert_sums_over_all(found, *data, folds)


@pytest.mark.parametrize("second", [False, True])
def test_samples_that_are_never_held_out_are_a_fold_of_their_own(second):
    data, folds = make_data(), make_folds(500, 0.4)
    found = collect(*data, folds=folds, second=second)
    assert len(found.sums[0].weight) == 3
    assert_sums_over_all(found, *data, folds)
    X, classes, weight = data
    rest = folds != 1
    mean = np.average(
        X[rest & (classes == 2)], axis=0, weights=weight[rest & (classes == 2)]
    )
    assert_allclose(found.sums[1].means(without_fold=1)[2], mean, rtol=1e-12)


def test_held_out_are_the_kept_samples_that_have_a_fold():
    folds = make_folds(500, 0.4)
    found = collect(*make_data(), folds=folds)
    assert_array_equal(found.kept, np.arange(500))
    assert_array_equal(found.folds, folds)
    assert_array_equal(found.held_out, np.flatnonzero(folds >= 0))
    assert 0 < len(found.held_out) < 500


def test_when_memory_is_short_samples_held_out_are_kept_first():
    folds = make_folds(1000, 0.3)
    held_out = np.flatnonzero(folds >= 0)
    found = collect_within(600, make_data(n=1000), folds=folds)
    assert len(found.kept) == 600
    assert_array_equal(found.kept[found.held_out], held_out)
    assert_array_equal(found.folds, folds[found.kept])
    assert_sums_over_all(found, *make_data(n=1000), folds)


def test_when_memory_is_too_short_for_them_only_some_held_out_are_kept():
    folds = make_folds(1000, 0.3)
    found = collect_within(150, make_data(n=1000), folds=folds)
    assert len(found.kept) == 150
    assert (found.folds >= 0).all()
    assert_array_equal(found.held_out, np.arange(150))
    assert set(found.folds) == {0, 1}


def test_equal_samples_may_be_held_out_in_different_folds():
    X, classes, weight = make_data(n=300)
    twice = [np.concatenate([a, a]) for a in (X, classes, weight)]
    folds = np.repeat([0, 1], 300)
    found = collect_within(200, twice, folds=folds)
    kept = np.isin(np.arange(600), found.kept)
    assert 0 < kept.sum() < 600
    assert_array_equal(kept[:300], kept[300:])
    assert_array_equal(found.folds, folds[found.kept])


def test_of_equal_samples_those_held_out_may_be_kept_alone():
    twice = [np.concatenate([a, a]) for a in make_data(n=300)]
    found = collect_within(150, twice, folds=np.repeat([0, -1], 300))
    assert len(found.kept) == 150
    assert_array_equal(found.folds, 0)


# Products of features


@pytest.mark.parametrize("batch_size", [1, 64, 900, 3000])
def test_products_are_summed_over_all_samples_in_batches_of_any_size(batch_size):
    data = make_data(n=2500)
    found = collect(*data, batch_size=batch_size, second=True)
    assert found.sums[0].second is not None
    assert_sums_over_all(found, *data)
    for features, width in zip(found.features, WIDTHS, strict=True):
        assert_array_equal(features, data[0][:, :width])


def test_products_are_summed_on_demand():
    assert collect(*make_data()).sums[0].second is None


@pytest.mark.parametrize(("width", "summed"), [(4096, True), (4097, False)])
def test_products_of_too_many_features_are_not_summed(width, summed):
    X, classes, weight = np.zeros((20, width)), np.arange(20) % 3, np.ones(20)
    narrow, wide = collect(X, classes, weight, second=True).sums
    assert narrow.second is not None
    assert (wide.second is not None) == summed
    assert wide.first.shape[2] == width
