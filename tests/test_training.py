"""One pass over the training data: sums over all samples, features of some."""

import joblib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._features import FullPass, row_hashes
from sk_e2cm._training import fit_exits, run_training_pass
from sk_e2cm.testing import CountingExtractor, ToyExtractor

N_CLASSES, N_FOLDS = 3, 5
WIDTHS = 32, 64  # of the two stages
BYTES_EACH = 8 * sum(WIDTHS)


def make_data(n=500, seed=0):
    """Return X, classes and weights, and a mean far from 0 for the rounding."""
    rng = np.random.default_rng(seed)
    X = 100 + rng.normal(size=(n, WIDTHS[-1]))
    return X, rng.permutation(np.arange(n) % N_CLASSES), rng.uniform(0.5, 2, n)


def train(X, classes, weight, *, batch_size=64, extractor=None, **params):
    full_pass = FullPass(
        extractor or ToyExtractor(n_stages=2),
        pooling="auto",
        batch_size=batch_size,
        memory=joblib.Memory(None),
    )
    return run_training_pass(full_pass, X, row_hashes(X), classes, weight, **params)


def train_within(n_kept, data, **params):
    """Allow working memory for the features of about this many samples."""
    with sklearn.config_context(working_memory=n_kept * BYTES_EACH / 2**20):
        return train(*data, **params)


def assert_sums_over_all(run, X, classes, weight):
    folds = row_hashes(X) % np.uint64(N_FOLDS)
    for sums, width in zip(run.sums, WIDTHS, strict=True):
        for fold in range(N_FOLDS):
            for k in range(N_CLASSES):
                rows = (folds == fold) & (classes == k)
                first = weight[rows] @ (X[rows, :width] - sums.shift)
                assert_allclose(sums.weight[fold, k], weight[rows].sum())
                assert_allclose(sums.first[fold, k], first, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 64, 500])
def test_the_sums_are_those_of_all_samples_by_fold_and_class(batch_size):
    data = make_data()
    assert_sums_over_all(train(*data, batch_size=batch_size), *data)


def test_all_features_are_kept_if_they_fit():
    X, classes, weight = make_data()
    run = train(X, classes, weight)
    assert_array_equal(run.kept, np.arange(500))
    for features, width in zip(run.features, WIDTHS, strict=True):
        assert_array_equal(features, X[:, :width])
    assert_array_equal(run.codes, classes)
    assert_array_equal(run.sample_weight, weight)
    assert_array_equal(run.folds, row_hashes(X) % np.uint64(N_FOLDS))


def test_all_features_are_kept_if_they_just_fit():
    assert len(train_within(500, make_data()).kept) == 500


@pytest.mark.parametrize("n_kept", [400, 1000, 1600])
def test_of_too_many_samples_as_many_are_kept_as_fit(n_kept):
    run = train_within(n_kept, make_data(n=2000))
    assert_allclose(len(run.kept), n_kept, rtol=0.1)


def test_the_sums_are_those_of_all_samples_even_if_few_are_kept():
    data = make_data()
    run = train_within(50, data)
    assert len(run.kept) < len(data[0])
    assert_sums_over_all(run, *data)


@pytest.mark.parametrize("batch_size", [1, 64, 500])
def test_what_is_kept_belongs_to_the_samples_that_are_kept(batch_size):
    X, classes, weight = data = make_data()
    run = train_within(100, data, batch_size=batch_size)
    for features, width in zip(run.features, WIDTHS, strict=True):
        assert_array_equal(features, X[run.kept, :width])
    assert_array_equal(run.codes, classes[run.kept])
    assert_array_equal(run.sample_weight, weight[run.kept])
    assert_array_equal(run.folds, row_hashes(X)[run.kept] % np.uint64(N_FOLDS))


def test_the_subset_is_the_same_in_any_order_of_the_samples():
    X, classes, weight = data = make_data()
    order = np.random.default_rng(1).permutation(500)
    kept = train_within(100, data).kept
    shuffled = train_within(100, (X[order], classes[order], weight[order])).kept
    assert 0 < len(kept) < 500
    assert_array_equal(np.sort(order[shuffled]), kept)


def test_the_subset_has_every_fold_and_class_in_its_share():
    run = train_within(2000, make_data(n=6000))
    assert_allclose(np.bincount(run.folds) / len(run.kept), 1 / N_FOLDS, atol=0.03)
    assert_allclose(np.bincount(run.codes) / len(run.kept), 1 / 3, atol=0.03)


def test_equal_samples_share_a_fold_and_are_kept_together():
    X, classes, weight = make_data(n=300)
    twice = [np.concatenate([a, a]) for a in (X, classes, weight)]
    run = train_within(200, twice)
    kept = np.isin(np.arange(600), run.kept)
    assert 0 < kept.sum() < 600
    assert_array_equal(kept[:300], kept[300:])
    assert_array_equal(*np.split(run.folds, 2))


@pytest.mark.parametrize("working_memory", [0, 1e-9])
def test_the_least_working_memory_is_enough_for_a_fit(working_memory):
    with sklearn.config_context(working_memory=working_memory):
        run = train(*make_data())
        exits = fit_exits(run, calibrate=True)
    assert_sums_over_all(run, *make_data())
    assert np.isfinite([exit_.inverse_temperature for exit_ in exits]).all()


def test_a_fit_is_possible_if_equal_samples_exceed_the_working_memory():
    _, classes, weight = make_data()
    run = train_within(100, (np.ones((500, WIDTHS[-1])), classes, weight))
    proba = fit_exits(run, calibrate=False)[0].proba(np.ones((1, WIDTHS[0])))
    assert_allclose(proba, 1 / N_CLASSES)


def test_every_sample_runs_through_the_network_once():
    extractor = CountingExtractor(ToyExtractor(n_stages=2))
    train(*make_data(), extractor=extractor)
    train_within(50, make_data(), extractor=extractor)
    assert_array_equal(extractor.rows, [1000, 1000])


def test_every_stage_becomes_an_exit_with_the_means_of_all_samples():
    X, classes, weight = data = make_data()
    for exit_, width in zip(
        fit_exits(train_within(100, data), calibrate=True), WIDTHS, strict=True
    ):
        for k in range(N_CLASSES):
            rows = classes == k
            mean = np.average(X[rows, :width], axis=0, weights=weight[rows])
            assert_allclose(exit_.means[k], mean, rtol=1e-12)


def test_temperatures_of_one_are_the_papers():
    run = train(*make_data())
    plain, calibrated = (fit_exits(run, calibrate=c) for c in (False, True))
    assert [exit_.inverse_temperature for exit_ in plain] == [1, 1]
    assert all(exit_.inverse_temperature != 1 for exit_ in calibrated)
