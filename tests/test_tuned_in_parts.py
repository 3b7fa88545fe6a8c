"""Thresholds for samples in parts are those of one fit to all that come in batches."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader, TensorDataset

from sk_e2cm import E2CMClassifier, E2CMClusterer, RiskControl, TunedExitsCV
from sk_e2cm._fitting._kept import KeptFeatures
from sk_e2cm.testing import CountingExtractor, ToyExtractor

N = 600
CLASSES = range(4)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=N)
    X = 1.5 * rng.normal(size=(4, 12))[y] + rng.normal(size=(N, 12))
    return X, y, rng.uniform(0.5, 2, N)


@pytest.fixture
def search():
    clf = E2CMClassifier(ToyExtractor())
    return TunedExitsCV(clf, max_drop=0.02, random_state=0)


@pytest.fixture
def parts():
    """Rows, in another order and in parts of unequal size."""
    order = np.random.default_rng(1).permutation(N)
    return np.split(order, [40, 250])


def in_parts(search, data, parts):
    X, y, weight = data
    search = clone(search)
    for rows in parts:
        search.partial_fit(X[rows], y[rows], CLASSES, weight[rows])
    return search


def fitted_to_batches(search, data, rows=slice(None)):
    tensors = TensorDataset(*(torch.from_numpy(array[rows]) for array in data))
    return clone(search).fit(DataLoader(tensors, batch_size=100))


def assert_same(one, other, X):
    """As far as sums are rounded otherwise in another order."""
    assert_allclose(one.exit_proba(X), other.exit_proba(X), rtol=0, atol=1e-6)
    assert_allclose(one.best_threshold_, other.best_threshold_, rtol=1e-6)
    for name in ("best_score_", "best_cost_", "full_score_", "label_share_"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6)
    assert one.drop_upper_ is other.drop_upper_ is None
    assert_array_equal(one.predict(X), other.predict(X))


SETTINGS = {
    "default": ({}, {}),
    "the paper's": ({"metric": "euclidean", "calibration": None}, {}),
    "remembering": ({"carry": 1}, {}),
    "a classifier": ({"head": LogisticRegression()}, {}),
    "three folds": ({}, {"cv": 3}),
    "of each class": ({}, {"per_class": True}),
    "at most this cost": ({}, {"max_drop": None, "max_cost": 0.5}),
    "another score": ({}, {"scoring": "balanced_accuracy"}),
}


@pytest.mark.parametrize(("inside", "params"), SETTINGS.values(), ids=SETTINGS)
def test_parts_in_any_order_give_the_thresholds_of_one_fit(
    search, data, parts, inside, params
):
    search.set_params(**params).estimator.set_params(**inside)
    expected = fitted_to_batches(search, data)
    assert_same(in_parts(search, data, parts), expected, data[0])


def test_in_the_same_order_the_frontier_is_that_of_one_fit(search, data, parts):
    # In another one rounding decides which of several points that tie are in it.
    found = in_parts(search, data, parts).frontier_
    expected = fitted_to_batches(search, data, np.concatenate(parts)).frontier_
    for name in ("cost", "score", "expected_score", "threshold"):
        assert_allclose(found[name], expected[name], rtol=1e-6)


def test_what_others_have_seen_is_merged(search, data, parts):
    first, *others = parts
    one, other = in_parts(search, data, [first]), in_parts(search, data, others)
    assert one.merge(other) is one
    assert "estimator_" not in vars(other)
    assert_same(one, fitted_to_batches(search, data), data[0])


def test_a_fresh_one_takes_what_others_have_shared(search, data, parts):
    shared = [
        in_parts(search, data, [rows]).for_sharing(features=True) for rows in parts
    ]
    total = clone(search)
    for each in shared:
        total.merge(each)
    assert_same(total, fitted_to_batches(search, data), data[0])


def test_where_memory_is_short_the_subset_is_that_of_one_fit(search, data, parts):
    widths = [
        means.shape[1] for means in clone(search).fit(*data[:2]).estimator_.class_means_
    ]
    n_bytes = 0.5 * 8 * N * sum(widths)
    with sklearn.config_context(working_memory=n_bytes / 2**20):
        found = in_parts(search, data, parts)
        found.predict(data[0])
        assert_same(found, fitted_to_batches(search, data), data[0])


def test_the_network_runs_once_over_every_sample(data, parts):
    extractor = CountingExtractor(ToyExtractor())
    search = TunedExitsCV(E2CMClassifier(extractor), max_drop=0.02, random_state=0)
    in_parts(search, data, parts).best_threshold_  # noqa: B018
    assert set(extractor.rows) == {N}


def test_thresholds_are_chosen_when_they_are_asked_for(
    search, data, parts, monkeypatch
):
    chosen = []
    finish = TunedExitsCV._finish
    monkeypatch.setattr(
        TunedExitsCV, "_finish", lambda self: chosen.append(self) or finish(self)
    )
    search = in_parts(search, data, parts)
    # Nobody who looks at it asks for them.
    assert hasattr(search, "predict")
    repr(search)
    search._repr_html_()
    assert not chosen
    search.predict(data[0])
    search.classes_  # noqa: B018
    assert len(chosen) == 1
    search.partial_fit(*data[:2])
    search.frontier_  # noqa: B018
    assert len(chosen) == 2


def test_more_may_be_added_after_predictions(search, data, parts):
    X, y, weight = data
    first, *others = parts
    search = clone(search).partial_fit(X[first], y[first], CLASSES, weight[first])
    search.predict(X)
    for rows in others:
        search.partial_fit(X[rows], y[rows], sample_weight=weight[rows])
    assert_same(search, fitted_to_batches(search, data), X)


def test_pickles_go_on(search, data, parts):
    X, y, weight = data
    first, *others = parts
    loaded = pickle.loads(pickle.dumps(in_parts(search, data, [first])))
    for rows in others:
        loaded.partial_fit(X[rows], y[rows], sample_weight=weight[rows])
    assert_same(loaded, fitted_to_batches(search, data), X)


def test_finalized_it_predicts_the_same_and_takes_no_more(search, data, parts):
    X, y, _ = data
    search = in_parts(search, data, parts)
    large, proba = len(pickle.dumps(search)), search.predict_proba(X)
    assert search.finalize() is search
    assert len(pickle.dumps(search)) < large / 2
    assert_array_equal(search.predict_proba(X), proba)
    with pytest.raises(ValueError, match="finalize drops them"):
        search.partial_fit(X, y, CLASSES)


def test_a_fit_drops_what_was_seen(search, data, parts):
    search = in_parts(search, data, parts).fit(*data[:2])
    assert "statistics_" not in vars(search)


def test_the_estimator_that_was_given_stays_as_it_is(search, data, parts):
    before = dict(vars(search.estimator))
    in_parts(search, data, parts).predict(data[0])
    assert vars(search.estimator) == before


def test_clusters_cannot_be_seen_in_parts():
    search = TunedExitsCV(E2CMClusterer(), max_drop=0.1)
    for method in ("partial_fit", "merge", "for_sharing", "finalize"):
        assert not hasattr(search, method)
        assert hasattr(TunedExitsCV(E2CMClassifier(), max_drop=0.1), method)


# What cannot be added


def check_refused(search, data, message):
    """A call is refused, and leaves what was there as it was."""
    before = dict(vars(search))
    with pytest.raises(ValueError, match=message):
        search.partial_fit(*data[:2], CLASSES)
    assert vars(search).keys() == before.keys()
    assert all(vars(search)[name] is before[name] for name in before)


REFUSED = {
    "promises": ({"risk": RiskControl(0.02)}, "risk= sets samples aside"),
    "confidence": ({"confidence": 0.9}, "confidence= sets samples aside"),
    "a share": ({"cv": 0.2}, "a number of folds, or 'prefit', as cv=; got cv=0.2"),
    "no refit": ({"refit": False}, "got cv=5 and refit=False"),
    "no goal": ({"max_drop": None}, "Give one of max_cost= and max_drop="),
    "parameters inside": ({"estimator__batch_size": 0}, "'batch_size' parameter"),
    "parameters": ({"max_drop": -1}, "'max_drop' parameter"),
}


@pytest.mark.parametrize(("params", "message"), REFUSED.values(), ids=REFUSED)
def test_what_needs_all_samples_at_once_is_refused(search, data, params, message):
    check_refused(search.set_params(**params), data, message)


def test_a_fitted_estimator_is_not_fitted_in_parts(search, data):
    search.estimator.fit(*data[:2])
    check_refused(search.set_params(cv="prefit"), data, "use a number of folds")


def test_after_a_fit_nothing_is_added(search, data):
    X, y, _ = data
    fitted = clone(search).fit(X, y)
    check_refused(fitted, data, "has no statistics left")
    with pytest.raises(ValueError, match="this estimator has none"):
        fitted.merge(clone(search).partial_fit(X, y, CLASSES))
    with pytest.raises(ValueError, match="the other estimator has none"):
        clone(search).partial_fit(X, y, CLASSES).merge(fitted)


OTHERS = {
    "folds": ({"cv": 3}, "samples in 3 folds in place of 5"),
    "network": ({"estimator__extractor": ToyExtractor(4)}, "another network"),
    "pooling": ({"estimator__pooling": "none"}, "pooling='none' in place of 'auto'"),
    "metric": ({"estimator__metric": "euclidean"}, "another metric"),
}


@pytest.mark.parametrize(("params", "message"), OTHERS.values(), ids=OTHERS)
def test_what_was_seen_otherwise_is_not_added(search, data, params, message):
    X, y, _ = data
    search.partial_fit(X, y, CLASSES)
    other = clone(search).set_params(**params).partial_fit(X, y, CLASSES)
    with pytest.raises(ValueError, match=message):
        search.merge(other)
    check_refused(search.set_params(**params), data, message)


@pytest.mark.parametrize("name", ["cv", "estimator__pooling"])
def test_parameters_that_have_changed_since_are_refused(search, data, name):
    search.partial_fit(*data[:2], CLASSES).set_params(**{name: 3})
    with pytest.raises(ValueError, match=r"cannot be added of .* in place of"):
        search.predict(data[0])


def test_other_columns_are_refused(search, data):
    X, y, _ = data
    search.partial_fit(X, y, CLASSES)
    check_refused(search, (X[:, :5], y), "5 features")
    frame = pytest.importorskip("pandas").DataFrame(X).add_prefix("x")
    named = clone(search).partial_fit(frame, y, CLASSES)
    check_refused(named, (frame[frame.columns[::-1]], y), "feature names")
    assert named.feature_names_in_.tolist() == frame.columns.tolist()


def test_labels_are_needed(search, data):
    with pytest.raises(ValueError, match="requires y to be passed"):
        search.partial_fit(data[0], classes=CLASSES)
    with pytest.raises(ValueError, match="needs classes="):
        search.partial_fit(*data[:2])


def test_thresholds_are_chosen_on_features(search, data, parts):
    here, *there = parts
    shared = in_parts(search, data, there).for_sharing()
    with pytest.raises(ValueError, match="Thresholds are chosen on features"):
        shared.predict(data[0])
    assert in_parts(search, data, [here]).merge(shared).full_score_ > 0.5


# Interrupted, in threads


def test_an_interrupted_call_changes_nothing(search, data, parts, monkeypatch):
    X, y, _ = data
    first, second, _ = parts
    one, other = (in_parts(search, data, [rows]) for rows in (first, second))
    before = one.exit_proba(X)

    def interrupt(self, other, codes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeptFeatures, "merge", interrupt)
        for add in (lambda: one.merge(other), lambda: one.partial_fit(X, y)):
            with pytest.raises(KeyboardInterrupt):
                add()
    assert_array_equal(one.finalize().exit_proba(X), before)


def test_a_choice_that_was_interrupted_can_be_made_later(
    search, data, parts, monkeypatch
):
    one = in_parts(search, data, parts)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TunedExitsCV, "_best", interrupt)
        with pytest.raises(KeyboardInterrupt):
            one.predict(data[0])
    assert_same(one, fitted_to_batches(search, data), data[0])


def test_threads_may_ask_at_once(search, data, parts):
    one = in_parts(search, data, parts)
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(one.predict, [data[0]] * 4)]
    for labels in found:
        assert_array_equal(labels, fitted_to_batches(search, data).predict(data[0]))


def test_copies_do_not_share_what_is_added(search, data, parts):
    X, y, _ = data
    one = in_parts(search, data, parts[:1])
    before = one.exit_proba(X)
    copy.copy(one).partial_fit(X, y)
    assert_array_equal(one.finalize().exit_proba(X), before)


def test_to_prepare_chooses_thresholds_first(search, data, parts):
    one = in_parts(search, data, parts)
    assert one.prepare(data[0][:1]) is one
    assert "best_threshold_" in vars(one)
