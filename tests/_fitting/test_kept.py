"""Features of all samples, in memory or in a file, and those that are joined."""

import errno
import io

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from sk_e2cm import E2CMClassifier, E2CMClusterer
from sk_e2cm._fitting._kept import CHUNK, JoinedFeatures, KeptFeatures, Samples, chunks
from sk_e2cm._fitting._statistics import sum_over
from sk_e2cm._multi_exit._full_pass import Batch
from sk_e2cm.testing import ToyExtractor

from ..samples import make_hashes, make_samples, make_sums

WIDTHS = (2, 5)


def make_features(n=300, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, width)).astype(dtype) for width in WIDTHS]


def keep(features, batch_size=64, working_memory=1024, **params):
    n = len(features[0])
    kept = KeptFeatures(**params)
    zeros = np.zeros(n, dtype=np.intp)
    samples = Samples(make_hashes(n), zeros, zeros, np.ones(n))
    with sklearn.config_context(working_memory=working_memory):
        for start in range(0, n, batch_size):
            rows = slice(start, min(start + batch_size, n))
            rounding = [np.full(width, float(start)) for width in WIDTHS]
            shapes = [(width,) for width in WIDTHS]
            batch = Batch(rows, [f[rows] for f in features], shapes, rounding)
            kept.add(batch, samples.take(rows))
        return kept.finish()


# Everything is kept


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("memory", [1e-6, 1024], ids=["in a file", "in memory"])
def test_all_features_are_kept_whatever_the_memory(batch_size, dtype, memory):
    features = make_features(dtype=dtype)
    kept = keep(features, batch_size, memory, everything=True)
    for found, expected in zip(kept.features, features, strict=True):
        assert isinstance(found, np.memmap) == (memory < 1)
        assert found.dtype == dtype
        assert_array_equal(found, expected)
    assert_array_equal(kept.rows, np.arange(300))
    last = float(range(0, 300, batch_size)[-1])
    assert all((moved == last).all() for moved in kept.rounding)


def test_features_in_a_file_are_there_as_long_as_anybody_has_them():
    features = keep(make_features(), working_memory=1e-6, everything=True).features
    assert_array_equal(features[1], make_features()[1])


class Full(io.BytesIO):
    """A file on a disk that is full."""

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_is_found_out_while_features_are_written(monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(OSError, match=r"is full, which had to take.*TMPDIR"):
        keep(make_features(), working_memory=1e-6, everything=True)
    keep(make_features(), everything=True)


def make_data(n=240):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    return rng.normal(size=(n, 6)) + y[:, None], y, rng.uniform(0.5, 2, n)


HEADS = {
    "class means that remember": {"carry": 2},
    "Euclidean class means": {
        "metric": "euclidean",
        "head": ["class_means", GaussianNB()],
    },
    "a classifier": {"head": LogisticRegression()},
    "a combination": {"head": ["class_means", LogisticRegression()]},
}


@pytest.mark.parametrize("params", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("calibration", ["temperature", "dirichlet"])
def test_a_fit_from_a_file_is_the_same_bit_for_bit(params, calibration):
    X, y, weight = make_data()
    clf = E2CMClassifier(ToyExtractor(4), calibration=calibration, **params)
    expected = clf.fit(X, y, weight).exit_proba(X)
    with sklearn.config_context(working_memory=1e-6):
        found = clf.fit(X, y, weight).exit_proba(X)
    assert_array_equal(found, expected)


def test_a_clusterer_fits_from_a_file_too():
    X, _, _ = make_data()
    clusterer = E2CMClusterer(ToyExtractor(4), 3, carry=1, random_state=0)
    expected = clusterer.fit(X).exit_proba(X)
    with sklearn.config_context(working_memory=1e-6):
        assert_array_equal(clusterer.fit(X).exit_proba(X), expected)


# Joined features


@pytest.mark.parametrize(
    "rows",
    [slice(0), slice(None), slice(None, None, 7), slice(3, 20), np.array([5, 1, 1])],
    ids=str,
)
def test_features_are_joined_where_rows_are_asked_for(rows):
    parts = make_features()
    joined = JoinedFeatures(parts)
    assert joined.shape == (300, 7)
    assert len(joined) == 300
    assert_array_equal(joined[rows], np.hstack(parts)[rows])


def test_what_is_joined_may_be_written_to():
    (part, _) = make_features()
    joined = JoinedFeatures([part])[:]
    joined[:] = 0
    assert_array_equal(part, make_features()[0])


def test_joined_features_have_the_type_that_holds_all():
    one, other = make_features()
    joined = JoinedFeatures([one.astype(np.float32), other])
    assert joined.dtype == joined[:3].dtype == np.float64
    same = JoinedFeatures([one.astype(np.float32)])
    assert same.dtype == same[:3].dtype == np.float32


@pytest.mark.parametrize("n", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_are_all_rows_in_order(n):
    found = list(chunks(np.arange(n)))
    assert_array_equal(np.concatenate([np.empty(0, int), *found]), np.arange(n))
    assert all(0 < len(part) <= CHUNK for part in found)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("summed_at_once", [7, 4096])
def test_sums_over_kept_features_are_those_of_the_pass(
    second, summed_at_once, monkeypatch
):
    monkeypatch.setattr("sk_e2cm._fitting._statistics._SUMMED", summed_at_once)
    features, *rest = samples = make_samples()
    parts = JoinedFeatures([features[:, :2], features[:, 2:]])
    found, expected = sum_over(parts, *rest, second=second), make_sums(samples)
    for fold in (None, 0, 2):
        np.testing.assert_allclose(found.means(fold), expected.means(fold), atol=1e-12)
        if second:
            np.testing.assert_allclose(
                found.covariance(fold), expected.covariance(fold), atol=1e-12
            )
    assert (found.second is None) != second


def test_a_row_that_comes_again_and_again_does_not_fill_the_memory():
    rng = np.random.default_rng(0)
    kept = KeptFeatures()
    with sklearn.config_context(working_memory=0.01):
        for _ in range(30):
            hashes = rng.integers(2**63, size=100).astype(np.uint64)
            hashes[::2] = 2**60  # small, but not the smallest
            features = [rng.normal(size=(100, 4))]
            nothing = np.zeros(100, dtype=np.intp)
            samples = Samples(hashes, nothing, nothing, np.ones(100))
            batch = Batch(slice(0, 100), features, [(4,)], [np.zeros(4)])
            kept.add(batch, samples)
            assert kept._n_stored() < 1000
    found = kept.finish().samples.hashes
    assert len(found) == len(np.unique(found)) >= 100
