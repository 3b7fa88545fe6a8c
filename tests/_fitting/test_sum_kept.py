"""Sums of classes that are known after the pass only, over the features kept."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._fitting._cross_fitting import HeadSpec, fit_class_means
from sk_e2cm._fitting._kept import KeptFeatures, Samples
from sk_e2cm._fitting._statistics import folds_by_hash, sum_kept
from sk_e2cm._multi_exit._full_pass import Batch
from sk_e2cm._utils._hashing import row_hashes

from .held_out import proba_of
from .test_statistics import (
    BYTES_EACH,
    WIDTHS,
    assert_sums_over_all,
    collect,
    collect_within,
    make_data,
    make_folds,
)


def keep(X, *, batch_size=64, widths=WIDTHS, working_memory=1024):
    """Return the features kept of stages of these widths."""
    kept = KeptFeatures()
    hashes, zeros = row_hashes(X), np.zeros(len(X), dtype=np.intp)
    samples = Samples(hashes, zeros, zeros, np.ones(len(X)))
    with sklearn.config_context(working_memory=working_memory):
        for start in range(0, len(X), batch_size):
            rows = slice(start, min(start + batch_size, len(X)))
            features = [X[rows, :width] for width in widths]
            rounding = [np.zeros(width) for width in widths]
            shapes = [(width,) for width in widths]
            kept.add(Batch(rows, features, shapes, rounding), samples.take(rows))
        return kept.finish(), hashes


def sum_up(found, classes, weight, folds=None, **params):
    kept, hashes = found
    names = [f"part{stage + 1}" for stage in range(len(kept.features))]
    folds = folds_by_hash(hashes) if folds is None else folds
    return sum_kept(names, kept, Samples(hashes, folds, classes, weight), **params)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.4], ids=["all", "some held out"])
@pytest.mark.parametrize("n", [500, 2500])
def test_sums_after_the_pass_are_those_of_the_pass(n, share, second):
    X, classes, weight = data = make_data(n)
    folds = make_folds(n, share)
    expected = collect(*data, folds=folds, second=second)
    found = sum_up(keep(X), classes, weight, folds, second=second)
    assert_sums_over_all(found, *data, folds)
    assert (found.sums[0].second is not None) == second
    others = {"sums", "n_distinct", "stage_names", "rounding"}
    for name in vars(expected).keys() - others:
        np.testing.assert_equal(getattr(found, name), getattr(expected, name))
    assert found.stage_names == expected.stage_names
    assert found.n_distinct == expected.n_distinct == n
    for sums, others in zip(found.sums, expected.sums, strict=True):
        assert_allclose(sums.weight, others.weight, rtol=1e-12)
        assert_allclose(sums.means(0), others.means(0), rtol=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_heads_after_the_pass_are_those_of_the_pass(metric):
    X, classes, weight = make_data()
    X[:, 5] += classes
    spec, second = HeadSpec(metric, "oas", "temperature"), metric == "mahalanobis"
    found = sum_up(keep(X), classes, weight, second=second)
    expected = fit_class_means(collect(X, classes, weight, second=second), spec)
    for head, other in zip(fit_class_means(found, spec), expected, strict=True):
        assert_allclose(proba_of(head), proba_of(other), rtol=1e-7)
        assert_allclose(head.means.means, other.means.means, rtol=1e-12)
        assert head.temperature == pytest.approx(other.temperature)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1], ids=str)
def test_of_a_subset_the_sums_are_those_of_the_subset(share, second):
    data, folds = make_data(n=1000), make_folds(1000, share)
    kept = keep(data[0], working_memory=300 * BYTES_EACH / 2**20)
    found = sum_up(kept, *data[1:], folds, second=second)
    assert len(found.kept) == found.n_distinct == 300
    X, *of_rows = (array[found.kept] for array in (*data, folds))
    assert_sums_over_all(found, X, *of_rows)
    assert_array_equal([found.codes, found.sample_weight, found.folds], of_rows)
    assert_array_equal(found.hashes, row_hashes(X))


@pytest.mark.parametrize("working_memory", [1024, 0])
def test_without_stages_there_is_nothing_to_sum(working_memory):
    X, _, weight = make_data()
    kept = keep(X, widths=(), working_memory=working_memory)
    # Each sample a cluster: it does not matter which are kept.
    found = sum_up(kept, np.arange(500), weight)
    assert found.sums == found.features == []
    assert_array_equal(found.codes, found.kept)
    assert_array_equal(found.sample_weight, weight[found.kept])


def test_after_the_pass_the_subset_is_uniform_whoever_is_held_out():
    data, folds = make_data(n=1000), make_folds(1000, 0.3)
    kept = keep(data[0], working_memory=300 * BYTES_EACH / 2**20)
    found = sum_up(kept, *data[1:], folds)
    assert 0.2 < (found.folds >= 0).mean() < 0.4


def test_nobody_held_out_among_those_kept_is_an_error():
    X, classes, weight = make_data(n=1000)
    kept = keep(X, working_memory=0)
    folds = np.zeros(1000, dtype=int)
    folds[kept[0].rows] = -1
    with pytest.raises(ValueError, match=r"belong to any fold\. Give"):
        sum_up(kept, classes, weight, folds)


def test_clusters_of_which_no_sample_was_kept_are_named():
    X, classes, weight = make_data(n=1000)
    kept = keep(X, working_memory=0)
    lost = np.setdiff1d(np.arange(1000), kept[0].rows)
    classes[lost[:3]] = 3, 5, 3
    classes[kept[0].rows[0]] = 4
    message = (
        r"100 of 1000 samples .*clusters \[3, 5\]\. Give .*working_memory=.*coarse"
    )
    with pytest.raises(ValueError, match=message):
        sum_up(kept, classes, weight)
    classes[lost[:8]] = np.arange(8) + 5
    with pytest.raises(ValueError, match=r"clusters \[5, 6, 7, 8, 9\]\. Give"):
        sum_up(kept, classes, weight)


def test_products_of_too_many_features_are_not_summed_after_the_pass_either():
    kept = keep(np.eye(20, 5000), widths=(10, 5000))
    narrow, wide = sum_up(kept, np.arange(20) % 3, np.ones(20), second=True).sums
    assert narrow.second is not None
    assert wide.second is None


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
@pytest.mark.parametrize("n_kept", [150, 1000])
def test_features_are_kept_of_batches_of_any_size(n_kept, batch_size):
    X, classes, weight = make_data(n=600)
    X = X.astype(np.float32)  # of half as many bytes
    memory = n_kept * BYTES_EACH / 2 / 2**20
    kept = keep(X, batch_size=batch_size, working_memory=memory)
    assert len(kept[0].rows) == min(n_kept, 600)
    for features, width in zip(kept[0].features, WIDTHS, strict=True):
        assert features.dtype == np.float32
        assert_array_equal(features, X[kept[0].rows, :width])
    assert_array_equal(
        kept[0].rows, collect_within(n_kept / 2, (X, classes, weight)).kept
    )
