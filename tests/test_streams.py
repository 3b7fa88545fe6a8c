"""Datasets and loaders of torch in place of arrays."""

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, PredefinedSplit
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm._fitting._statistics import folds_by_hash
from sk_e2cm._utils._hashing import row_hashes
from sk_e2cm.metrics import accuracy_cost_scorer, best_within_cost
from sk_e2cm.testing import CountingExtractor, ToyExtractor

N = 500


def make_data(n=N, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=n)
    X = 1.5 * rng.normal(size=(4, 12))[y] + rng.normal(size=(n, 12))
    return X.astype(np.float32), y, rng.uniform(0.5, 2, n)


def dataset_of(*arrays):
    return TensorDataset(*map(torch.tensor, arrays))


def loader_of(*arrays, **options):
    return DataLoader(dataset_of(*arrays), **{"batch_size": 37, **options})


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(params=[{}, {"carry": 1}], ids=["default", "remembering"])
def clf(request):
    return E2CMClassifier(ToyExtractor(), **request.param)


@pytest.fixture(scope="module")
def fitted(data):
    return E2CMClassifier(ToyExtractor(), threshold=0.8).fit(*data[:2])


def assert_same(one, other, X):
    assert_array_equal(one.classes_, other.classes_)
    assert_allclose(one.exit_proba(X), other.exit_proba(X), rtol=0, atol=1e-5)
    assert_allclose(one.temperature_, other.temperature_, rtol=1e-4)


# Fits


class Pairs(Dataset):
    """Pairs of NumPy's values, as many users write them."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i], int(self.y[i])


class Lists(Dataset):
    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, i):
        return [torch.tensor(array[i]) for array in self.arrays]


INPUTS = {
    "a dataset": lambda X, y: dataset_of(X, y),
    "a dataset of lists": Lists,
    "a dataset of NumPy's values": Pairs,
    "a part of a dataset": lambda X, y: Subset(dataset_of(X, y), range(len(X))),
    "a loader": loader_of,
    "a shuffled loader": lambda X, y: loader_of(X, y, shuffle=True),
    "a loader of single samples": lambda X, y: loader_of(X, y, batch_size=1),
    "a loader of all": lambda X, y: loader_of(X, y, batch_size=len(X)),
    "a loader with workers": lambda X, y: loader_of(X, y, num_workers=1),
}


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_a_fit_to_batches_is_a_fit_to_all(make, data, clf):
    X, y, _ = data
    found = clone(clf).fit(make(X, y))
    assert_same(found, clone(clf).fit(X, y), X)
    assert "statistics_" not in vars(found)


@pytest.mark.parametrize("make", [dataset_of, loader_of])
def test_weights_may_come_with_the_samples(make, data, clf):
    X, y, weight = data
    found = clone(clf).fit(make(X, y, weight))
    assert_same(found, clone(clf).fit(X, y, weight), X)


def test_samples_without_weight_do_not_count(data, clf):
    X, y, weight = data
    weight = np.where(np.arange(N) < 100, 0, weight)
    found = clone(clf).fit(loader_of(X, y, weight))
    assert_same(found, clone(clf).fit(X[100:], y[100:], weight[100:]), X)


def test_loaders_may_be_added_to_one_another_and_to_arrays(data, clf):
    X, y, _ = data
    found = clone(clf).partial_fit(loader_of(X[:200], y[:200]), classes=range(4))
    found.partial_fit(dataset_of(X[200:300], y[200:300]))
    found.partial_fit(X[300:], y[300:])
    assert_same(found, clone(clf).fit(X, y), X)


def test_the_network_runs_once_over_a_loader(data):
    extractor = CountingExtractor(ToyExtractor())
    E2CMClassifier(extractor).fit(loader_of(*data[:2]))
    assert set(extractor.rows) == {N}


def test_labels_may_be_missing_in_some_batches(data, clf):
    X, y, _ = data
    order = y.argsort(kind="stable")
    found = clone(clf).fit(loader_of(X[order], y[order]))
    assert_same(found, clone(clf).fit(X, y), X)


def test_images_of_a_loader_run_through_a_network():
    images = torch.rand(80, 1, 8, 8)
    y = np.arange(80) % 2
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
    clf = E2CMClassifier(TorchExtractor(network, ["0"]))
    loader = DataLoader(TensorDataset(images, torch.tensor(y)), batch_size=16)
    found = clone(clf).fit(loader)
    assert_same(found, clone(clf).fit(images, y), images)


def test_the_size_of_batches_may_be_a_number_of_numpy(data):
    X, y, _ = data
    clf = E2CMClassifier(ToyExtractor(), batch_size=np.int64(32)).fit(dataset_of(X, y))
    assert clf.predict(dataset_of(X)).shape == y.shape


def test_a_dataset_draws_no_random_numbers_of_others(data):
    X, y, _ = data
    before = torch.get_rng_state()
    E2CMClassifier(ToyExtractor()).fit(dataset_of(X, y)).predict(dataset_of(X))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_threshold_that_does_not_fit_is_refused_before_the_pass(data):
    X, y, _ = data
    extractor = CountingExtractor(ToyExtractor())
    clf = E2CMClassifier(extractor, threshold=[0.5] * 7)
    with pytest.raises(ValueError, match=r"threshold has shape \(7,\)"):
        clf.fit(loader_of(X, y))
    assert not sum(extractor.rows)


# Predictions

METHODS = ["predict", "predict_proba", "predict_exit", "exit_proba"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["(X,)", "(X, y)", "(X, y, weight)", "dataset"])
@pytest.mark.parametrize("part_bytes", [1, 5000, 2**26])
def test_predictions_for_batches_are_those_for_all(
    method, kind, part_bytes, data, fitted, monkeypatch
):
    monkeypatch.setattr("sk_e2cm._utils._streams._READ_BYTES", part_bytes)
    X, y, weight = data
    streams = {
        "(X,)": loader_of(X),
        "(X, y)": loader_of(X, y),
        "(X, y, weight)": loader_of(X, y, weight),
        "dataset": dataset_of(X, y),
    }
    found = getattr(fitted, method)(streams[kind])
    assert_allclose(found, getattr(fitted, method)(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["staged_predict", "staged_predict_proba"])
def test_staged_predictions_for_batches_are_those_for_all(method, data, fitted):
    X, y, _ = data
    found = [*getattr(fitted, method)(loader_of(X, y))]
    assert_allclose(found, [*getattr(fitted, method)(X)], rtol=0, atol=1e-6)


def test_samples_without_a_tuple_are_samples(data, fitted):
    X, _, _ = data
    loader = DataLoader(torch.tensor(X), batch_size=20)
    assert_array_equal(fitted.predict(loader), fitted.predict(X))


def test_costs_and_scores_are_those_of_all(data, fitted, tmp_path):
    X, y, weight = data
    assert fitted.cost(loader_of(X, y)) == pytest.approx(fitted.cost(X))
    for params in ({}, {"memory": str(tmp_path)}):
        clf = clone(fitted).set_params(**params).fit(X, y)
        assert clf.score(loader_of(X, y)) == clf.score(X, y)
        expected = clf.score(X, y, weight)
        assert clf.score(loader_of(X, y, weight)) == pytest.approx(expected)
        assert clf.score(loader_of(X, y, weight, shuffle=True)) == pytest.approx(
            expected
        )


def test_a_tuned_estimator_predicts_batches_too(data):
    X, y, _ = data
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.05).fit(X, y)
    assert_array_equal(search.predict(loader_of(X)), search.predict(X))


# What cannot be used


def check_refused(clf, X, error, message, **named):
    before = dict(vars(clf))
    with pytest.raises(error, match=message):
        clf.fit(X, **named)
    assert vars(clf).keys() == before.keys()
    assert all(vars(clf)[name] is before[name] for name in before)


def test_labels_beside_a_loader_are_refused(data, fitted):
    X, y, weight = data
    message = r"Labels and weights come from the DataLoader, as \(X, y\)"
    check_refused(fitted, loader_of(X, y), ValueError, message, y=y)
    check_refused(fitted, loader_of(X), ValueError, message, y=y)
    check_refused(fitted, loader_of(X, y), ValueError, message, sample_weight=weight)


def test_a_loader_without_labels_is_refused(data, fitted):
    check_refused(
        fitted, loader_of(data[0]), ValueError, "Batches 0 to 1: .*requires y"
    )


def test_a_shuffled_loader_has_no_predictions(data, fitted):
    X, y, _ = data
    for method in METHODS:
        with pytest.raises(ValueError, match=r"is shuffled.*shuffle=False"):
            getattr(fitted, method)(loader_of(X, y, shuffle=True))


class Batches(IterableDataset):
    """Yields these batches, or some other ones at a certain place."""

    def __init__(self, X, y, at=None, other=None):
        self.parts = [(X[i : i + 50], y[i : i + 50]) for i in range(0, len(X), 50)]
        if at is not None:
            self.parts[at] = other

    def __iter__(self):
        return iter(self.parts)


def batches_of(X, y, at=None, other=None):
    return DataLoader(Batches(X, y, at, other), batch_size=None)


def test_batches_of_ones_own_are_used(data, clf):
    X, y, _ = data
    assert_same(clone(clf).fit(batches_of(X, y)), clone(clf).fit(X, y), X)


NAN = np.full((3, 12), np.nan, np.float32)
FEW = np.zeros((3, 12), np.float32)
BAD = {
    "another shape": ((FEW[:, :5], [0, 1, 2]), "samples have the shape"),
    "another type": ((FEW.astype(int), [0, 1, 2]), "samples have the type int64"),
    "NaN": ((NAN, [0, 1, 2]), "NaN"),
    "labels that are too few": ((FEW, [0, 1]), "inconsistent numbers of samples"),
    "labels of another kind": ((FEW, [0.5, 1, 2]), "label type|continuous"),
}


@pytest.mark.parametrize(("other", "message"), BAD.values(), ids=BAD)
def test_the_batch_at_fault_is_named(other, message, data, fitted):
    X, y, _ = data
    stream = batches_of(X, y, 7, other)
    check_refused(fitted, stream, ValueError, f"Batch 7: .*{message}")


def test_a_network_that_gives_nan_is_named_with_batch_and_stage(data):
    class Root(torch.nn.Module):
        def forward(self, x):
            return torch.sqrt(x)

    X, y, _ = data
    X = np.abs(X)
    X[370, 2] = -1
    extractor = TorchExtractor(torch.nn.Sequential(Root(), torch.nn.Identity()), ["0"])
    with pytest.raises(ValueError, match="Batch 7: The output of stage '0' contains"):
        E2CMClassifier(extractor).fit(loader_of(X, y, batch_size=50))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X": np.zeros(3)}, "got a dict of 1"),
        ((1, 2, 3, 4), "got a (tuple|list) of 4"),
    ],
)
def test_batches_of_other_kinds_are_refused(given, message, data, fitted):
    stream = batches_of(*data[:2], 2, given)
    check_refused(fitted, stream, TypeError, message)


def test_an_empty_loader_is_refused(fitted):
    empty = loader_of(np.zeros((0, 12)), np.zeros(0))
    check_refused(fitted, empty, ValueError, "has given no batch. Is it empty")
    with pytest.raises(ValueError, match="has given no batch"):
        fitted.predict(empty)


def test_a_loader_that_can_be_read_once_only_is_refused_the_second_time(data, clf):
    class Once(IterableDataset):
        def __init__(self, parts):
            self.parts = iter(parts)

        def __iter__(self):
            return self.parts

    X, y, _ = data
    once = DataLoader(Once(Batches(X, y)), batch_size=None)
    clf = clone(clf).fit(once)
    with pytest.raises(ValueError, match="can it be read once only"):
        clf.predict(once)


def test_an_interrupt_leaves_what_was_there(data, clf):
    class Interrupted(Batches):
        def __iter__(self):
            yield from self.parts[:4]
            raise KeyboardInterrupt

    X, y, _ = data
    stream = DataLoader(Interrupted(X, y), batch_size=None)
    check_refused(clone(clf).fit(X, y), stream, KeyboardInterrupt, None)
    parts = clone(clf).partial_fit(X, y, range(4))
    expected = parts.exit_proba(X)
    with pytest.raises(KeyboardInterrupt):
        parts.partial_fit(stream)
    assert_array_equal(parts.exit_proba(X), expected)


def test_weights_that_are_all_zero_are_refused(data, fitted):
    X, y, _ = data
    stream = loader_of(X, y, np.zeros(N))
    check_refused(fitted, stream, ValueError, "zero for every sample")


# Clusters


@pytest.fixture(
    params=[{}, {"carry": 1}, {"clusterer": GaussianMixture(4, random_state=0)}],
    ids=str,
)
def clusterer(request):
    return E2CMClusterer(ToyExtractor(), 4, random_state=0, **request.param)


def by_hash(X):
    return X[row_hashes(X).argsort(kind="stable")]


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_clusters_of_batches_are_those_of_all_in_the_order_of_their_hashes(make, data):
    X, y, _ = data
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0)
    found, expected = clone(clusterer).fit(make(X, y)), clone(clusterer)
    expected.fit(by_hash(X))
    assert_allclose(found.cluster_centers_, expected.cluster_centers_, atol=1e-5)
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), atol=1e-5)
    assert found.labels_ is None


def test_clusterers_and_weights_are_those_that_a_fit_takes(data, clusterer):
    X, _, _ = data
    weight = 1 + np.abs(X[:, 0])
    if clusterer.clusterer is not None:
        weight = np.ones(N)
    found = clone(clusterer).fit(loader_of(X, np.zeros(N), weight, batch_size=128))
    weight = weight[row_hashes(X).argsort(kind="stable")]
    expected = clone(clusterer).fit(by_hash(X), sample_weight=weight)
    assert_allclose(found.cluster_centers_, expected.cluster_centers_, atol=1e-5)
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), atol=1e-5)


def test_of_more_than_the_memory_holds_a_subset_makes_the_clusters():
    X, y, _ = make_data(4000)
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0)
    with sklearn.config_context(working_memory=0.05):
        found = clusterer.fit(loader_of(X))
        assert 200 < len(found.clusterer_.labels_) < 3000
    assert adjusted_rand_score(found.predict(loader_of(X)), y) > 0.8


def test_the_clusters_of_a_stream_are_predicted_in_a_second_pass(data):
    X, _, _ = data
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0)
    found = clone(clusterer).fit_predict(loader_of(X))
    expected = clone(clusterer).fit(loader_of(X))
    assert_array_equal(found, expected.exit_proba(X)[:, -1].argmax(axis=1))


def test_clusters_of_a_bad_batch_are_refused(data):
    X, y, _ = data
    fitted = E2CMClusterer(ToyExtractor(), 4, random_state=0).fit(X)
    for other, message in (BAD["another shape"], BAD["NaN"]):
        stream = batches_of(X, y, 7, other)
        check_refused(fitted, stream, ValueError, f"Batch 7: .*{message}")


def test_a_stream_with_fewer_samples_than_clusters_is_refused(data):
    clusterer = E2CMClusterer(ToyExtractor(), 8)
    with pytest.raises(ValueError, match="n_clusters=8 is more than there are"):
        clusterer.fit(loader_of(data[0][:5]))


# Tuning


@pytest.fixture(scope="module")
def held_out():
    return make_data(seed=0, n=900)


def frontier_of(search):
    return [search.frontier_[name] for name in ("cost", "score", "expected_score")]


def test_batches_without_weight_count_neither_for_thresholds_nor_for_scores(held_out):
    X, y, weight = held_out
    weight = np.where(np.arange(len(X)) < 500, 0, weight)
    clf = E2CMClassifier(ToyExtractor()).fit(X[:400], y[:400])
    search = TunedExitsCV(clf, max_drop=0.02, cv="prefit", random_state=0)
    found = frontier_of(search.fit(loader_of(X, y, weight)))
    assert_allclose(found, frontier_of(search.fit(X[500:], y[500:], weight[500:])))
    scores = accuracy_cost_scorer(clf, loader_of(X, y, weight))
    assert scores == pytest.approx(accuracy_cost_scorer(clf, X, y, weight))


@pytest.mark.parametrize("make", [dataset_of, loader_of])
@pytest.mark.parametrize("weighted", [False, True])
def test_thresholds_of_a_fitted_estimator_are_those_of_all(make, weighted, held_out):
    X, y, weight = held_out
    clf = E2CMClassifier(ToyExtractor()).fit(X[:400], y[:400])
    rest = (X[400:], y[400:], weight[400:])[: 2 + weighted]
    found, expected = (
        TunedExitsCV(clf, max_drop=0.02, cv="prefit", random_state=0).fit(*given)
        for given in ([make(*rest)], rest)
    )
    assert_allclose(frontier_of(found), frontier_of(expected), rtol=0, atol=1e-9)
    assert_allclose(found.best_threshold_, expected.best_threshold_, atol=1e-5)
    assert found.label_share_ == pytest.approx(expected.label_share_)


def test_without_labels_thresholds_agree_with_the_full_network(held_out):
    X, y, _ = held_out
    clf = E2CMClassifier(ToyExtractor()).fit(X[:400], y[:400])
    found, expected = (
        TunedExitsCV(clf, max_drop=0.02, cv="prefit", random_state=0).fit(given)
        for given in (loader_of(X[400:]), X[400:])
    )
    assert found.full_score_ == expected.full_score_ == 1
    assert_allclose(frontier_of(found), frontier_of(expected), rtol=0, atol=1e-9)


def test_a_score_that_needs_labels_is_refused_without_them(held_out):
    X, y, _ = held_out
    clf = E2CMClassifier(ToyExtractor()).fit(X[:400], y[:400])
    search = TunedExitsCV(
        clf, max_drop=0.02, cv="prefit", scoring="balanced_accuracy", random_state=0
    )
    for given in (loader_of(X[400:]), X[400:]):
        with pytest.raises(ValueError, match="'balanced_accuracy' needs labels"):
            search.fit(given)


@pytest.mark.parametrize("n_folds", [3, 5])
@pytest.mark.parametrize("params", [{}, {"carry": 1}], ids=str)
def test_folds_of_a_stream_follow_from_the_content(n_folds, params, held_out):
    X, y, _ = held_out
    clf = E2CMClassifier(ToyExtractor(), **params)
    search = TunedExitsCV(clf, max_drop=0.02, cv=n_folds, random_state=0)
    found = clone(search).fit(loader_of(X, y))
    folds = PredefinedSplit(folds_by_hash(row_hashes(X), n_folds))
    expected = clone(search).set_params(cv=folds).fit(X, y)
    best = found.best_cost_, found.best_score_
    assert best == pytest.approx((expected.best_cost_, expected.best_score_), abs=0.01)
    assert (found.predict(X) == expected.predict(X)).mean() > 0.99


def test_the_network_runs_once_while_thresholds_are_tuned(held_out):
    X, y, _ = held_out
    extractor = CountingExtractor(ToyExtractor())
    search = TunedExitsCV(E2CMClassifier(extractor), max_drop=0.02, random_state=0)
    search.fit(loader_of(X, y))
    assert set(extractor.rows) == {len(X)}


def test_clusters_are_tuned_over_a_stream(held_out):
    X, _, _ = held_out
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0)
    search = TunedExitsCV(clusterer, max_drop=0.05, random_state=0).fit(loader_of(X))
    assert search.full_score_ == 1
    assert search.best_score_ >= 0.95
    assert search.best_cost_ < 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"confidence": 0.9}, "confidence= sets samples aside"),
        ({"cv": 0.2}, "folds follow from the content.*got cv=0.2"),
        ({"refit": False}, "got cv=5 and refit=False"),
    ],
)
def test_what_a_stream_has_no_parts_for_is_refused(params, message, held_out):
    X, y, _ = held_out
    clf = E2CMClassifier(ToyExtractor())
    search = TunedExitsCV(clf, max_drop=0.02, **params)
    with pytest.raises(ValueError, match=message):
        search.fit(loader_of(X, y))
    with pytest.raises(ValueError, match="Labels and weights come from the"):
        TunedExitsCV(clf, max_drop=0.02).fit(loader_of(X, y), y)


@pytest.mark.parametrize(
    "make", [dataset_of, Pairs, Lists], ids=["tensors", "pairs", "lists"]
)
def test_a_grid_search_ranges_over_a_dataset(make, held_out):
    X, y, _ = held_out
    search = GridSearchCV(
        E2CMClassifier(ToyExtractor()),
        {"threshold": [0.6, 0.9], "metric": ["euclidean", "mahalanobis"]},
        scoring=accuracy_cost_scorer,
        refit=best_within_cost(0.9),
        cv=KFold(3, shuffle=True, random_state=0),
    )
    found, expected = clone(search).fit(make(X, y)), clone(search).fit(X, y)
    assert found.best_params_ == expected.best_params_
    for name in ("mean_test_accuracy", "mean_test_cost"):
        assert_allclose(found.cv_results_[name], expected.cv_results_[name], atol=0.005)
    assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-4)


def test_lists_of_arrays_are_samples_if_all_are_of_one_shape(data):
    X, y, _ = data
    halves = [[sample[:6], sample[6:]] for sample in X]
    clf = E2CMClassifier(threshold=0.8, pooling="none")
    found = clf.fit(halves, y).predict_proba(halves)
    as_array = X.reshape(-1, 2, 6)
    assert_array_equal(clf.fit(as_array, y).predict_proba(as_array), found)


def test_lists_of_numbers_are_no_samples_with_labels(fitted):
    X = np.zeros((3, 12)).tolist()
    assert fitted.predict(X).shape == (3,)
    assert fitted.predict([np.zeros(12)] * 2).shape == (2,)


# Labels of lists


class OfBatches(IterableDataset):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def loader_of_batches(*batches):
    return DataLoader(OfBatches(batches), batch_size=None)


@pytest.mark.parametrize(
    "labels",
    [["a", float("nan")], ["a", None], ["a", 1]],
    ids=["missing", "none", "mixed"],
)
def test_labels_that_an_array_must_not_have_are_refused(labels, clf):
    X = np.random.default_rng(0).normal(size=(600, 12))
    y = labels * 300
    with pytest.raises(ValueError, match="y "):
        clone(clf).fit(X, y)
    with pytest.raises(ValueError, match="Batch 0: y "):
        clone(clf).fit(loader_of_batches((X, y)))


def test_small_batches_with_labels_of_two_kinds_are_refused(clf):
    X = np.random.default_rng(0).normal(size=(600, 12))
    y = np.arange(600) % 4
    batches = (X[:8], y[:8].tolist()), (X[8:], np.array([*"abcd"])[y[8:]].tolist())
    with pytest.raises(ValueError, match=r"Batch 1: y has labels .* none of those"):
        clone(clf).fit(loader_of_batches(*batches))


def test_half_precision_of_other_kinds_goes_where_it_does_as_an_array(data, clf):
    X, y, _ = data
    low = torch.from_numpy(X).bfloat16()
    numbers = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    found = clone(clf).fit(TensorDataset(low, numbers)).exit_proba(low)
    expected = clone(clf).fit(low, numbers).exit_proba(low)
    assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("beside", [{"id": 1}, [[1], [1, 2]], None])
def test_predictions_do_not_look_at_what_comes_beside(beside, data, fitted):
    X, _, _ = data
    given = loader_of_batches((X[:300], beside), (X[300:], beside))
    assert_array_equal(fitted.predict(given), fitted.predict(X))
