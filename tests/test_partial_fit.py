"""Fits in parts give what one fit to everything gives."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from sk_e2cm import E2CMClassifier
from sk_e2cm._fitting._kept import KeptFeatures
from sk_e2cm.testing import CountingExtractor, ToyExtractor

N = 600
NAMES = np.array(["ant", "bee", "cat", "dog"])


def make_data(seed=0, n=N):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=n)
    X = 1.5 * rng.normal(size=(4, 12))[y] + rng.normal(size=(n, 12))
    return X, NAMES[y], rng.uniform(0.5, 2, n)


def parts_of(n, n_parts, seed=1):
    """Split into parts of unequal size, in another order."""
    order = np.random.default_rng(seed).permutation(n)
    return np.array_split(order, np.arange(1, n_parts) ** 2 * n // n_parts**2)


def in_parts(clf, data, parts):
    X, y, weight = data
    clf = clone(clf)
    for rows in parts:
        clf.partial_fit(X[rows], y[rows], NAMES, weight[rows])
    return clf


def assert_same(one, other, X, tolerance=1e-9):
    assert_array_equal(one.classes_, other.classes_)
    assert_allclose(one.exit_proba(X), other.exit_proba(X), rtol=0, atol=tolerance)
    assert_allclose(one.temperature_, other.temperature_, rtol=1e-6)
    assert one.metric_ == other.metric_
    assert one.final_ == other.final_
    assert_array_equal(one.predict(X), other.predict(X))


SETTINGS = {
    "default": {},
    "the paper's": {"metric": "euclidean", "calibration": None},
    "Euclidean": {"metric": "euclidean"},
    "Dirichlet": {"calibration": "dirichlet"},
    "remembering": {"carry": 1},
    "a classifier": {"head": LogisticRegression()},
    "a combination": {"head": ["class_means", LogisticRegression()]},
    "a classifier at the end": {"final": LogisticRegression()},
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def clf(request):
    return E2CMClassifier(ToyExtractor(), **request.param)


@pytest.mark.parametrize("n_parts", [1, 2, 7])
def test_parts_in_any_order_give_the_exits_of_one_fit(clf, n_parts):
    X, y, weight = data = make_data()
    found = in_parts(clf, data, parts_of(N, n_parts))
    assert_same(found, clone(clf).fit(X, y, weight), X, 1e-6)


def test_what_others_have_seen_is_merged(clf):
    X, y, weight = data = make_data()
    one, other = (in_parts(clf, data, [rows]) for rows in parts_of(N, 2))
    before = other.exit_proba(X)
    assert one.merge(other) is one
    assert_same(one, clone(clf).fit(X, y, weight), X, 1e-6)
    assert_array_equal(other.exit_proba(X), before)


@pytest.fixture
def data():
    return make_data()


@pytest.fixture
def default():
    return E2CMClassifier(ToyExtractor())


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_where_memory_is_short_the_subset_is_that_of_one_fit(share):
    X, y, weight = data = make_data(n=2000)
    clf = E2CMClassifier(ToyExtractor(), calibration="dirichlet")
    widths = [f.shape[1] for f in clf.fit(X, y).class_means_]
    parts = parts_of(2000, 5)
    n_bytes = 8 * 2000 * sum(widths)
    with sklearn.config_context(working_memory=share * n_bytes / 2**20):
        expected = clone(clf).fit(X, y, weight)
        found = in_parts(clf, data, parts)
        found.exit_proba(X)
        merged = in_parts(clf, data, parts[:2]).merge(in_parts(clf, data, parts[2:]))
        merged.exit_proba(X)
    whole = clone(clf).fit(X, y, weight).exit_proba(X)
    assert np.abs(whole - expected.exit_proba(X)).max() > 1e-6
    assert_same(found, expected, X, 1e-6)
    assert_same(merged, expected, X, 1e-6)


def test_the_network_runs_once_over_every_sample(data):
    extractor = CountingExtractor(ToyExtractor())
    found = in_parts(E2CMClassifier(extractor), data, parts_of(N, 4))
    found.temperature_  # noqa: B018
    assert set(extractor.rows) == {N}


def test_exits_are_finished_when_they_are_asked_for(data, default, monkeypatch):
    finished = []
    finish = E2CMClassifier._finish
    monkeypatch.setattr(
        E2CMClassifier, "_finish", lambda self: finished.append(self) or finish(self)
    )
    clf = in_parts(default, data, parts_of(N, 3))
    assert not finished
    clf.predict(data[0])
    clf.classes_  # noqa: B018
    assert len(finished) == 1
    clf.partial_fit(data[0], data[1])
    clf.network_  # noqa: B018
    assert len(finished) == 2


def test_more_may_be_added_after_exits_were_used(data, default):
    X, y, weight = data
    clf = clone(default).partial_fit(X[:300], y[:300], NAMES, weight[:300])
    clf.predict(X)
    clf.partial_fit(X[300:], y[300:], sample_weight=weight[300:])
    assert_same(clf, clone(default).fit(X, y, weight), X)


def test_classes_may_be_named_later(data, default):
    X, y, _ = data
    early = np.isin(y, ["bee", "dog"])
    clf = clone(default).partial_fit(X[early], y[early], ["dog", "bee"])
    assert clf.classes_.tolist() == ["bee", "dog"]
    clf.partial_fit(X[~early], y[~early], ["cat", "ant"])
    assert_same(clf, clone(default).fit(X, y), X)


def test_a_class_without_samples_is_left_out(data, default):
    X, y, _ = data
    clf = clone(default).partial_fit(X, y, [*NAMES, "eel"])
    assert_array_equal(clf.classes_, NAMES)


def test_a_class_of_one_sample_is_left_out_of_the_calibration(data, default):
    X, y, _ = data
    rows = np.flatnonzero((y != "dog") | (np.cumsum(y == "dog") == 1))
    parts = clone(default)
    for some in np.array_split(rows, 3):
        parts.partial_fit(X[some], y[some], NAMES)
    with pytest.warns(UserWarning, match=r"only one sample: \['dog'\]"):
        expected = clone(default).fit(X[rows], y[rows])
    with pytest.warns(UserWarning, match=r"only one sample: \['dog'\]"):
        assert_same(parts, expected, X)


def test_pickles_and_copies_go_on(data, default):
    X, y, weight = data
    clf = clone(default).partial_fit(X[:200], y[:200], NAMES, weight[:200])
    again = pickle.loads(pickle.dumps(clf))
    again.partial_fit(X[200:], y[200:], sample_weight=weight[200:])
    assert_same(again, clone(default).fit(X, y, weight), X)


def test_finalized_it_is_as_small_as_a_fit(data, default):
    X, y, weight = data
    clf = in_parts(default, data, parts_of(N, 3))
    large, proba = len(pickle.dumps(clf)), clf.exit_proba(X)
    assert clf.finalize() is clf
    small = len(pickle.dumps(clone(default).fit(X, y, weight)))
    assert len(pickle.dumps(clf)) == pytest.approx(small, rel=0.01)
    assert large > 5 * small
    assert_array_equal(clf.exit_proba(X), proba)


def test_a_fit_keeps_no_statistics_and_drops_those_there_were(data, default):
    X, y, weight = data
    clf = in_parts(default, data, parts_of(N, 3)).fit(X, y, weight)
    assert "statistics_" not in vars(clf)


# What cannot be added


def check_refused(clf, X, y, message, *args):
    """A call is refused, and leaves what was there as it was."""
    before = dict(vars(clf))
    with pytest.raises(ValueError, match=message):
        clf.partial_fit(X, y, *args)
    assert vars(clf).keys() == before.keys()
    assert all(vars(clf)[name] is before[name] for name in before)


def test_the_first_call_needs_the_classes(data, default):
    check_refused(default, *data[:2], "first call of partial_fit needs classes=")


def test_labels_that_nobody_has_named_are_refused(data, default):
    X, y, _ = data
    check_refused(default, X, y, r"labels \['dog'\] that are none of", NAMES[:3])
    clf = clone(default).partial_fit(X, y, NAMES)
    expected = clf.exit_proba(X)
    check_refused(clf, X[:1], ["eel"], r"labels \['eel'\] that are none of")
    assert_array_equal(clf.exit_proba(X), expected)


def test_after_a_fit_nothing_is_added(data, default):
    X, y, _ = data
    clf = clone(default).fit(X, y)
    check_refused(clf, X, y, r"has no statistics left\. fit keeps no statistics", NAMES)
    with pytest.raises(ValueError, match=r"this estimator has none\. fit keeps no"):
        clf.merge(clone(default).partial_fit(X, y, NAMES))
    with pytest.raises(ValueError, match="the other estimator has none"):
        clone(default).partial_fit(X, y, NAMES).merge(clf)


def test_nan_is_refused(data, default):
    X, y, _ = data
    clf = clone(default).partial_fit(X, y, NAMES)
    bad = X.copy()
    bad[7, 3] = np.nan
    check_refused(clf, bad, y, "NaN")


OTHERS = {
    "network": ({"extractor": ToyExtractor(4)}, "another network"),
    "pooling": ({"pooling": "none"}, "pooling='none' in place of 'auto'"),
    "metric": ({"metric": "euclidean"}, "another metric"),
}


@pytest.mark.parametrize(("params", "message"), OTHERS.values(), ids=OTHERS)
def test_other_features_are_not_added(data, default, params, message):
    X, y, _ = data
    clf = clone(default).partial_fit(X, y, NAMES)
    other = clone(default).set_params(**params).partial_fit(X, y, NAMES)
    with pytest.raises(ValueError, match=message):
        clf.merge(other)
    clf.set_params(**params)
    check_refused(clf, X, y, message)


def test_samples_of_another_shape_are_refused(data, default):
    X, y, _ = data
    clf = clone(default).partial_fit(X, y, NAMES)
    check_refused(clf, X[:, :5], y, "features")


def test_unfitted_there_is_nothing_to_predict_with(default):
    assert not hasattr(default, "network_")
    with pytest.raises(ValueError, match="not fitted"):
        default.predict(np.zeros((2, 12)))


# Sums that are shared


SUMS_ALONE = {"calibration": None, "final": "class_means", "shrinkage": "oas"}


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_of_shared_sums_the_means_are_those_of_all(data, metric):
    X, y, weight = data
    clf = E2CMClassifier(ToyExtractor(), metric=metric, **SUMS_ALONE)
    here, there = parts_of(N, 2)
    shared = in_parts(clf, data, [there]).for_sharing()
    found = in_parts(clf, data, [here]).merge(shared)
    expected = clone(clf).fit(X, y, weight)
    for one, other in zip(found.class_means_, expected.class_means_, strict=True):
        assert_allclose(one, other, rtol=0, atol=1e-12)
    if metric == "mahalanobis":  # nothing of it needs features
        assert_allclose(found.exit_proba(X), expected.exit_proba(X), atol=1e-9)


def test_with_features_the_exits_are_those_of_all(clf, data):
    X, y, weight = data
    here, there = parts_of(N, 2)
    shared = in_parts(clf, data, [there]).for_sharing(features=True)
    found = in_parts(clf, data, [here]).merge(shared)
    assert_same(found, clone(clf).fit(X, y, weight), X, 1e-6)


def test_calibration_is_that_of_the_features_kept_here(data, default):
    here, there = parts_of(N, 2)
    receiver = in_parts(default, data, [here])
    alone = receiver.temperature_
    receiver.merge(in_parts(default, data, [there]).for_sharing())
    assert len(receiver.statistics_.finish().statistics.kept) == len(here)
    assert (receiver.temperature_ != alone).all()
    assert_allclose(receiver.temperature_, alone, rtol=0.5)


def test_nothing_of_a_sample_is_in_what_is_shared(data, default):
    clf = in_parts(default, data, parts_of(N, 2))
    shared = clf.for_sharing()
    assert len(pickle.dumps(shared)) < len(pickle.dumps(clf)) / 2
    running = shared.statistics_.running
    assert not len(running._distinct())
    assert not len(running.finish().kept)
    assert not len(shared.statistics_.some)
    assert len(clf.statistics_.some)
    assert_array_equal(running.n_distinct(), clf.statistics_.running.n_distinct())


def test_sums_alone_are_enough_for_exits_that_need_no_more(data):
    X, y, weight = data
    clf = E2CMClassifier(ToyExtractor(), **SUMS_ALONE)
    shared = [in_parts(clf, data, [rows]).for_sharing() for rows in parts_of(N, 3)]
    found = shared[0].merge(shared[1]).merge(shared[2])
    expected = clone(clf).fit(X, y, weight)
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), atol=1e-9)


def test_the_scale_by_sums_alone_bounds_the_papers(data):
    X, y, weight = data
    clf = E2CMClassifier(ToyExtractor(), metric="euclidean", **SUMS_ALONE)
    found = in_parts(clf, data, parts_of(N, 3)).for_sharing().distance_scale_
    expected = clone(clf).fit(X, y, weight)
    for scale, papers, means in zip(
        found, expected.distance_scale_, expected.class_means_, strict=True
    ):
        features = X[:, : means.shape[1]]
        squared = ((features[:, None] - means) ** 2).sum(axis=2)
        assert_allclose(scale, np.sqrt(np.average(squared, axis=0, weights=weight)))
        assert (scale >= papers).all()


NEEDS_FEATURES = {
    "calibration": {"calibration": "temperature"},
    "final": {"final": "auto"},
    "head": {"head": LogisticRegression()},
    "carry": {"carry": 1},
    "shrinkage": {"shrinkage": "ledoit_wolf"},
}


@pytest.mark.parametrize("name", NEEDS_FEATURES)
def test_what_needs_features_is_refused_by_name(data, name):
    clf = E2CMClassifier(ToyExtractor(), **SUMS_ALONE | NEEDS_FEATURES[name])
    shared = in_parts(clf, data, parts_of(N, 1)).for_sharing()
    with pytest.raises(ValueError, match=f"can be fitted with {name}="):
        shared.predict(data[0])


def test_without_statistics_there_is_nothing_to_share(data, default):
    with pytest.raises(ValueError, match="no statistics to share"):
        clone(default).fit(*data[:2]).for_sharing()


# Interrupted, in threads, with oneself


def test_an_interrupted_merge_changes_nothing(data, default, monkeypatch):
    X, y, _ = data
    one = clone(default).partial_fit(X[:100], y[:100], NAMES)
    other = clone(default).partial_fit(X[100:], y[100:], NAMES)
    before = one.exit_proba(X)

    def interrupt(self, other, codes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeptFeatures, "merge", interrupt)
        for add in (
            lambda: one.merge(other),
            lambda: one.partial_fit(X[100:], y[100:]),
        ):
            with pytest.raises(KeyboardInterrupt):
                add()
    assert_array_equal(one.finalize().exit_proba(X), before)


def test_where_memory_is_lacking_while_exits_are_finished_they_can_be_later(
    data, default, monkeypatch
):
    X, y, _ = data
    clf = clone(default)
    for rows in (slice(100), slice(100, None)):
        clf.partial_fit(X[rows], y[rows], NAMES)
    expected = clone(default).fit(X, y).exit_proba(X)
    concatenate, calls = np.concatenate, []

    def lacking(arrays, *args, **kwargs):
        calls.append(arrays)
        if len(calls) == 12:
            raise MemoryError
        return concatenate(arrays, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(np, "concatenate", lacking)
        with pytest.raises(MemoryError):
            clf.predict(X)
    assert_allclose(clf.exit_proba(X), expected, rtol=0, atol=1e-6)


def test_threads_may_finish_the_exits_at_once(data, default):
    X, y, _ = data
    clf = clone(default)
    for rows in (slice(100), slice(100, None)):
        clf.partial_fit(X[rows], y[rows], NAMES)
    with ThreadPoolExecutor(6) as pool:
        found = [*pool.map(clf.predict, [X] * 6)]
    for labels in found:
        assert_array_equal(labels, clone(default).fit(X, y).predict(X))


def test_merged_with_itself_every_sample_counts_twice(data, default):
    X, y, _ = data
    clf = clone(default).partial_fit(X, y, NAMES)
    found = clf.merge(clf).exit_proba(X)
    twice = clone(default).fit(np.concatenate([X, X]), np.concatenate([y, y]))
    assert_allclose(found, twice.exit_proba(X), rtol=0, atol=1e-6)


def test_a_fresh_estimator_takes_what_others_have_seen(data, default):
    X, y, _ = data
    parts = [
        clone(default).partial_fit(X[i::2], y[i::2], NAMES).for_sharing(features=True)
        for i in range(2)
    ]
    total = clone(default)
    for part in parts:
        total.merge(part)
    expected = clone(default).fit(X, y)
    assert_allclose(total.exit_proba(X), expected.exit_proba(X), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="another metric"):
        E2CMClassifier(ToyExtractor()).merge(
            E2CMClassifier(ToyExtractor(), metric="euclidean").partial_fit(X, y, NAMES)
        )


def test_copies_do_not_share_what_is_added(data, default):
    X, y, _ = data
    clf = clone(default).partial_fit(X[:100], y[:100], NAMES)
    before = clf.exit_proba(X)
    copy.copy(clf).partial_fit(X[100:], y[100:])
    assert_array_equal(clf.finalize().exit_proba(X), before)


def test_labels_of_another_kind_are_refused(data, default):
    X, y, _ = data
    numbers = np.unique(y, return_inverse=True)[1]
    clf = clone(default).partial_fit(X, y, NAMES)
    with pytest.raises(ValueError, match="none of those known"):
        clf.partial_fit(X, numbers, classes=range(4))
    with pytest.raises(ValueError, match="none of those known"):
        clf.merge(clone(default).partial_fit(X, numbers, classes=range(4)))
    assert_array_equal(clf.classes_, np.unique(y))


def test_another_metric_than_that_of_the_sums_is_refused(data):
    X, y, _ = data
    clf = E2CMClassifier(ToyExtractor(), metric="euclidean").partial_fit(X, y, NAMES)
    clf.set_params(metric="mahalanobis")
    with pytest.raises(ValueError, match="another metric"):
        clf.predict(X)
    whitened = E2CMClassifier(ToyExtractor()).partial_fit(X, y, NAMES)
    found = whitened.set_params(metric="euclidean").exit_proba(X)
    expected = E2CMClassifier(ToyExtractor(), metric="euclidean").fit(X, y)
    assert_allclose(found, expected.exit_proba(X), rtol=0, atol=1e-6)


def test_seconds_need_samples_to_measure_on(data):
    X, y, _ = data
    plain = {"calibration": None, "final": "class_means", "shrinkage": "oas"}
    clf = E2CMClassifier(ToyExtractor(), cost_unit="seconds", **plain)
    shared = clf.partial_fit(X, y, NAMES).for_sharing()
    with pytest.raises(ValueError, match="needs samples to measure on"):
        shared.predict(X)


def test_to_show_an_estimator_is_not_to_finish_its_exits(data, default):
    X, y, _ = data
    clf = clone(default).partial_fit(X[y == "ant"], y[y == "ant"], NAMES)
    assert "E2CMClassifier" in clf._repr_html_()
    assert "network_" not in vars(clf)
    assert "statistics_" in dir(clf)
    clf.partial_fit(X, y).predict(X)
    assert {"network_", "classes_", "extractor_"} <= {*dir(clf)}
