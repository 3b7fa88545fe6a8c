"""Arrays that lie on a disk, or are not computed yet, in place of those in memory."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import PredefinedSplit

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm._fitting._statistics import folds_by_hash
from sk_e2cm._utils._hashing import row_hashes
from sk_e2cm.metrics import accuracy_cost_scorer, agreement_cost_scorer
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from .test_streams import assert_same

N = 500
READ = 100  # samples at once


class OnlySlices:
    """Gives slices and nothing else: neither all at once nor single elements."""

    def __init__(self, X):
        self.X, self.shape, self.dtype = X, X.shape, X.dtype
        self.reads = []

    def __getitem__(self, key):
        assert isinstance(key, slice)
        self.reads.append(len(self.X[key]))
        return self.X[key]

    def __array__(self, *args, **named):
        raise AssertionError("read as a whole")

    def __iter__(self):
        raise AssertionError("read element by element")


def zarr_of(X, folder):
    zarr = pytest.importorskip("zarr")
    like = {"shape": X.shape, "dtype": X.dtype, "chunks": (37, 5)[: X.ndim]}
    array = zarr.create_array(str(folder / "X.zarr"), **like)
    array[...] = X
    return array


def h5py_of(X, folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "X.h5", "w").create_dataset("X", data=X)


def dask_of(X, folder):
    return pytest.importorskip("dask.array").from_array(X, chunks=(37, 12)[: X.ndim])


KINDS = {
    "only slices": lambda X, folder: OnlySlices(X),
    "zarr": zarr_of,
    "h5py": h5py_of,
    "dask": dask_of,
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def lazy(request, tmp_path):
    return lambda X: request.param(X, tmp_path)


@pytest.fixture(autouse=True)
def few_are_read_at_once(monkeypatch):
    monkeypatch.setattr("sk_e2cm._utils._streams._READ_BYTES", READ * 12 * 4)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=N)
    X = 1.5 * rng.normal(size=(4, 12))[y] + rng.normal(size=(N, 12))
    return X.astype(np.float32), y, rng.uniform(0.5, 2, N)


@pytest.fixture(params=[{}, {"carry": 1}], ids=["default", "remembering"])
def clf(request):
    return E2CMClassifier(ToyExtractor(), batch_size=20, **request.param)


@pytest.fixture(scope="module")
def fitted(data):
    return E2CMClassifier(ToyExtractor(), threshold=0.8).fit(*data[:2])


# Fits


@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_to_a_lazy_array_is_a_fit_to_its_numbers(lazy, weighted, data, clf):
    X, *rest = data
    found = clone(clf).fit(lazy(X), *rest[: 1 + weighted])
    assert_same(found, clone(clf).fit(X, *rest[: 1 + weighted]), X)


def test_samples_without_weight_do_not_count(lazy, data, clf):
    X, y, weight = data
    weight = np.where(np.arange(N) < 130, 0, weight)
    found = clone(clf).fit(lazy(X), y, weight)
    assert_same(found, clone(clf).fit(X[130:], y[130:], weight[130:]), X)


def test_it_is_read_in_order_once_and_many_batches_at_a_time(data):
    X, y, _ = data
    given, extractor = OnlySlices(X), CountingExtractor(ToyExtractor())
    E2CMClassifier(extractor, batch_size=20).fit(given, y)
    assert given.reads == [READ] * (N // READ)
    assert set(extractor.rows) == {N}


def test_not_less_than_a_batch_is_read(data, fitted):
    given = OnlySlices(data[0])
    clone(fitted).set_params(batch_size=150).fit(given, data[1])
    assert given.reads == [150, 150, 150, 50]


@pytest.mark.parametrize(
    "kind", [list, torch.tensor, np.array, lambda y: np.array(y)[:, None]]
)
@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def test_labels_may_be_whatever_they_may_be_beside_an_array(kind, data, fitted):
    X, y, _ = data
    found = clone(fitted).fit(OnlySlices(X), kind(y.tolist()))
    assert_same(found, fitted, X)


def test_labels_may_be_lazy_too(lazy, data, fitted, tmp_path):
    dataset = pytest.importorskip("h5py").File(tmp_path / "y.h5", "w")
    y = dataset.create_dataset("y", data=data[1])
    assert_same(clone(fitted).fit(lazy(data[0]), y), fitted, data[0])


def test_lazy_arrays_may_be_added_to_others(lazy, data, clf):
    X, y, weight = data
    found = clone(clf).partial_fit(lazy(X[:300]), y[:300], range(4), weight[:300])
    found.partial_fit(X[300:], y[300:], sample_weight=weight[300:])
    assert_same(found, clone(clf).fit(X, y, weight), X)


def test_images_run_through_a_network(tmp_path):
    images = np.random.default_rng(0).random((80, 1, 8, 8)).astype(np.float32)
    y = np.arange(80) % 2
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
    clf = E2CMClassifier(TorchExtractor(network, ["0"]), batch_size=16)
    found = clone(clf).fit(OnlySlices(images), y)
    assert_same(found, clone(clf).fit(images, y), images)


@pytest.mark.parametrize("weighted", [False, True])
def test_clusters_are_those_of_all_in_the_order_of_their_hashes(lazy, weighted, data):
    X, y, weight = data
    weight = weight if weighted else np.ones(N)
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0)
    found = clone(clusterer).fit(lazy(X), y, weight)
    order = row_hashes(X).argsort(kind="stable")
    expected = clone(clusterer).fit(X[order], sample_weight=weight[order])
    assert_allclose(found.cluster_centers_, expected.cluster_centers_, atol=1e-5)
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), atol=1e-5)
    assert found.labels_ is None


# Predictions and scores


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_exit", "exit_proba", "cost"]
)
def test_predictions_are_those_for_its_numbers(lazy, method, data, fitted):
    X = data[0]
    found = getattr(fitted, method)(lazy(X))
    assert_allclose(found, getattr(fitted, method)(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["staged_predict", "staged_predict_proba"])
def test_staged_predictions_are_those_for_its_numbers(lazy, method, data, fitted):
    X = data[0]
    found = [*getattr(fitted, method)(lazy(X))]
    assert_allclose(found, [*getattr(fitted, method)(X)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", ["none", "some", "with zeros"])
def test_scores_are_those_of_its_numbers(lazy, weights, data, fitted):
    X, y, weight = data
    weight = np.where(np.arange(N) < 230, 0, weight) if "zeros" in weights else weight
    rest = y, None if weights == "none" else weight
    given = lazy(X)
    assert fitted.score(given, *rest) == pytest.approx(fitted.score(X, *rest))
    found = accuracy_cost_scorer(fitted, given, *rest)
    assert found == pytest.approx(accuracy_cost_scorer(fitted, X, *rest))
    found = agreement_cost_scorer(fitted, given, *rest)
    assert found == pytest.approx(agreement_cost_scorer(fitted, X, *rest))


# Tuning


def frontier_of(search):
    return [search.frontier_[name] for name in ("cost", "score", "expected_score")]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("weights", ["none", "some", "with zeros"])
def test_thresholds_of_a_fitted_estimator_are_those_of_all(
    lazy, labelled, weights, data
):
    X, y, weight = data
    clf = E2CMClassifier(ToyExtractor(), batch_size=20).fit(X[:200], y[:200])
    weight = np.where(np.arange(N) < 230, 0, weight) if "zeros" in weights else weight
    weight = None if weights == "none" else weight[200:]
    y = y[200:] if labelled else None
    found, expected = (
        TunedExitsCV(clf, max_drop=0.02, cv="prefit", random_state=0).fit(X, y, weight)
        for X in (lazy(X[200:]), X[200:])
    )
    assert_allclose(frontier_of(found), frontier_of(expected), rtol=0, atol=1e-9)
    assert_allclose(found.best_threshold_, expected.best_threshold_, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_folds_follow_from_the_content(lazy, weighted, data, clf):
    X, *rest = data
    rest = rest[: 1 + weighted]
    search = TunedExitsCV(clf, max_drop=0.05, cv=3, random_state=0)
    found = clone(search).fit(lazy(X), *rest)
    folds = PredefinedSplit(folds_by_hash(row_hashes(X), 3))
    expected = clone(search).set_params(cv=folds).fit(X, *rest)
    assert_allclose(frontier_of(found), frontier_of(expected), rtol=0, atol=1e-9)
    assert_array_equal(found.predict(X), expected.predict(X))


def test_clusters_are_tuned_without_labels(lazy, data):
    X, y, _ = data
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0)
    search = TunedExitsCV(clusterer, max_drop=0.05, random_state=0).fit(lazy(X), y)
    assert search.full_score_ == 1
    assert search.best_score_ >= 0.95


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"confidence": 0.9}, "confidence= sets samples aside"),
        ({"cv": 0.2}, "folds follow from the content.*got cv=0.2"),
        ({"refit": False}, "got cv=5 and refit=False"),
    ],
)
def test_what_needs_samples_by_their_number_is_refused(params, message, data):
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.02, **params)
    with pytest.raises(ValueError, match=message):
        search.fit(OnlySlices(data[0]), data[1])


def test_scores_other_than_agreement_need_labels(data, fitted):
    search = TunedExitsCV(fitted, max_drop=0.02, cv="prefit", scoring="f1_macro")
    with pytest.raises(ValueError, match="scoring='f1_macro' needs labels"):
        search.fit(OnlySlices(data[0]))


# What cannot be used


def calls(fitted):
    clf = clone(fitted)
    return [
        clf.fit,
        lambda X, y, weight=None: clf.partial_fit(X, y, range(4), weight),
        fitted.score,
        lambda *args: accuracy_cost_scorer(fitted, *args),
        TunedExitsCV(clf, max_drop=0.05).fit,
        TunedExitsCV(fitted, max_drop=0.05, cv="prefit").fit,
    ]


def test_labels_and_weights_of_another_length_are_refused(lazy, data, fitted):
    X, y, weight = data
    given = lazy(X)
    for call in calls(fitted):
        with pytest.raises(ValueError, match=r"numbers of samples: \[500, 499\]"):
            call(given, y[1:])
        with pytest.raises(ValueError, match=r"sample_weight\.shape == \(499,\)"):
            call(given, y, weight[1:])


def test_a_fit_without_labels_is_refused(lazy, data, fitted):
    X = lazy(data[0])
    for call in (clone(fitted).fit, TunedExitsCV(fitted, max_drop=0.05).fit):
        with pytest.raises(ValueError, match=r"requires y|takes cv=.prefit"):
            call(X)


def test_the_batch_at_fault_is_named(lazy, data, clf):
    X, y, _ = data
    X = X.copy()
    X[155, 3] = np.nan
    with pytest.raises(ValueError, match="Batch 7: Input X contains NaN"):
        clone(clf).fit(lazy(X), y)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda X: X[:0], "0 sample"),
        (lambda X: X[:, :, None] + 1j, "Complex data not supported"),
        (lambda X: X.astype(str), "numbers are needed"),
        (lambda X: np.array([[None, [2]]] * N, dtype=object), "X must hold numbers"),
    ],
    ids=["no samples", "complex", "text", "objects"],
)
def test_what_holds_no_numbers_is_refused(kind, message, data, fitted):
    X, y, _ = data
    X = kind(X)
    with pytest.raises((TypeError, ValueError), match=message):
        clone(fitted).fit(OnlySlices(X), y[: len(X)])


@pytest.mark.parametrize("place", [np.s_[:, 0], np.s_[0, 0]], ids=["one", "none"])
@pytest.mark.parametrize("kind", [zarr_of, h5py_of, dask_of])
def test_fewer_than_two_axes_are_refused_as_those_of_arrays(
    kind, place, data, fitted, tmp_path
):
    lazy, errors = kind(data[0][place], tmp_path), []
    for X in (lazy, np.asarray(lazy)):
        with pytest.raises((TypeError, ValueError)) as error:
            clone(fitted).fit(X, data[1])
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_an_unknown_number_of_samples_is_refused(data, fitted):
    X = dask_of(data[0], None)
    some = X[X[:, 0] > 0]
    with pytest.raises(ValueError, match=r"unknown number .*compute_chunk_sizes\(\)"):
        fitted.predict(some)
    assert_array_equal(
        fitted.predict(some.compute_chunk_sizes()), fitted.predict(some.compute())
    )


def test_seconds_are_measured_on_samples_in_memory(lazy, data, fitted):
    with pytest.raises(TypeError, match=r"in memory here, got one of .*X\[:1000\]"):
        fitted.measure_seconds(lazy(data[0]))


def test_tables_are_not_lazy(data):
    table = pytest.importorskip("pandas").DataFrame(data[0]).add_prefix("x")
    table = table.rename(columns={"x0": "dtype", "x1": "shape"})
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0).fit(table)
    assert len(clusterer.labels_) == N
