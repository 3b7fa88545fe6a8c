"""Estimators whose exits remember the exits before, or have other heads."""

import pickle
import time
import warnings
from copy import copy

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from torch import nn

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor
from sk_e2cm._fitting._statistics import folds_by_hash
from sk_e2cm._multi_exit._pooling import GridAverage
from sk_e2cm._utils._hashing import row_hashes
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from ._multi_exit.test_seconds import PLAIN, STAGES, Clock, Timed
from ._multi_exit.test_seconds import make_data as make_timed_data
from .references import leave

INF = np.inf
CHANNELS, SIDES = (2, 3, 4), (4, 4, 2)


def make_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(16, 5)),
        ).eval()


@pytest.fixture(scope="module")
def extractor():
    return TorchExtractor(make_network(), ["0", "1", "2"])


@pytest.fixture(scope="module")
def data():
    """Return pictures of three classes that hardly differ."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    patterns = rng.normal(size=(3, 1, 4, 4))
    return (0.5 * patterns[y] + rng.normal(size=(300, 1, 4, 4))).astype(np.float32), y


KINDS = {
    "carry one": {"carry": 1},
    "carry two": {"carry": 2, "pooling": 2},
    "carry, second order": {"carry": 1, "pooling": "second_order"},
    "carry, dirichlet": {"carry": 1, "calibration": "dirichlet"},
    "a classifier": {"head": LogisticRegression()},
    "a perceptron": {"head": MLPClassifier((4,), max_iter=20, random_state=0)},
    "as it is": {"head": GaussianNB()},
    "a combination": {"head": ["class_means", LogisticRegression()], "pooling": 1},
    "carry, a combination": {
        "carry": 1,
        "head": ("class_means", LogisticRegression()),
    },
}


def make(extractor, **params):
    return E2CMClassifier(extractor, **{"pooling": 1} | params)


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def fitted(request, extractor, data):
    return make(extractor, **request.param).fit(*data)


# Predictions


def test_predictions_agree_with_the_probabilities_of_all_stages(fitted, data):
    clf, X = copy(fitted), data[0][::4]
    proba = clf.exit_proba(X)
    for threshold, batch_size in [
        (0.5, 1),
        ([INF, 0.5, 0.6], 30),
        ([0.6, INF, INF], 300),
        ([INF, INF, 0.5], 30),
    ]:
        clf.set_params(threshold=threshold, batch_size=batch_size)
        limits = np.broadcast_to(threshold, 3)
        clear = (abs(proba[:, :3].max(axis=2) - limits) > 1e-4).all(axis=1)
        stage, label = leave(proba, limits)
        assert clear.mean() > 0.9
        assert_array_equal(clf.predict_exit(X)[clear], stage[clear])
        assert_array_equal(clf.predict(X)[clear], clf.classes_[label[clear]])
        expected = proba[np.arange(len(X)), stage]
        assert_allclose(clf.predict_proba(X)[clear], expected[clear], atol=1e-4)


def test_clones_and_pickles_are_the_same(fitted, data):
    (X, y), clf = data, fitted
    expected = clf.exit_proba(X)
    again = pickle.loads(pickle.dumps(clf))
    # Tensors that lie otherwise in memory are multiplied in another order.
    assert_allclose(again.exit_proba(X), expected, rtol=0, atol=1e-6)
    assert_array_equal(again.stage_cost_, clf.stage_cost_)
    assert_allclose(clone(clf).fit(X, y).exit_proba(X), expected, rtol=0, atol=1e-6)


def test_one_pass_of_the_network_is_enough(data):
    X, y = data
    counting = CountingExtractor(ToyExtractor(4))
    flat = X.reshape(300, -1)
    for params in ({"carry": 2}, {"head": LogisticRegression()}):
        counting.rows[:] = 0
        E2CMClassifier(counting, **params).fit(flat, y)
        assert counting.rows.tolist() == [300] * 4


class Counting(GaussianNB):
    """Notes of how many samples it was fitted to."""

    sizes = []

    def fit(self, X, y, sample_weight=None):
        self.sizes.append(len(X))
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize(("many", "n_fits"), [(301, 6), (300, 2)])
def test_to_many_samples_classifiers_are_fitted_twice(data, monkeypatch, many, n_fits):
    monkeypatch.setattr("sk_e2cm._base._MANY", many)
    monkeypatch.setattr(Counting, "sizes", [])
    X, y = data[0].reshape(300, -1), data[1]
    E2CMClassifier(ToyExtractor(3), head=Counting()).fit(X, y)
    of_exits = np.reshape(Counting.sizes, (2, n_fits))
    assert (of_exits[:, 0] == 300).all()
    left_out = (300 - of_exits[:, 1:]).sum(axis=1)
    assert (left_out == 300).all() if n_fits == 6 else (left_out > 0).all()


def test_many_copies_of_few_samples_are_held_out_though_none_is_in_the_first_fold(
    monkeypatch,
):
    monkeypatch.setattr("sk_e2cm._base._MANY", 100)
    few = np.random.default_rng(0).normal(size=(12, 4))
    few = few[folds_by_hash(row_hashes(few)) > 0]
    X, y = few.repeat(30, axis=0), (np.arange(len(few)) % 2).repeat(30)
    clf = E2CMClassifier(ToyExtractor(3), head=GaussianNB()).fit(X, y)
    assert np.isfinite(clf.temperature_).all()


@pytest.mark.parametrize("calibration", [None, "temperature"])
@pytest.mark.parametrize("n_rare", [1, 2, 3])
def test_no_class_is_held_out_from_a_classifier_as_a_whole(n_rare, calibration):
    X = np.random.default_rng(0).normal(size=(120, 4))
    first = folds_by_hash(row_hashes(X)) == 0
    y = np.arange(120) % 2
    y[np.flatnonzero(first)[:n_rare]] = 2
    clf = E2CMClassifier(ToyExtractor(3), head=GaussianNB(), calibration=calibration)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # there may be a single one
        proba = clf.fit(X, y).exit_proba(X)
    assert proba[y == 2, 0, 2].mean() > proba[y < 2, 0, 2].mean()


@pytest.mark.parametrize("carry", [1, 2])
def test_exits_that_remember_have_means_of_what_they_carry(extractor, data, carry):
    X, y = data
    clf = make(extractor, carry=carry).fit(X, y)
    plain = make(extractor).fit(X, y)
    own = [means.shape[1] for means in plain.class_means_]
    for stage, means in enumerate(clf.class_means_):
        first = max(stage - carry, 0) if stage < 3 else 3
        assert means.shape == (3, sum(own[first : stage + 1]))
    assert_allclose(clf.class_means_[0], plain.class_means_[0], atol=1e-6)
    assert_allclose(clf.class_means_[3], plain.class_means_[3], atol=1e-6)


def test_without_class_means_there_are_none_to_show(extractor, data):
    clf = make(extractor, head=GaussianNB()).fit(*data)
    assert clf.class_means_[:3] == clf.metric_[:3] == [None] * 3
    assert clf.class_means_[3].shape[0] == 3
    assert clf.metric_reason_ is None


# Costs


def test_the_pooling_of_a_closed_exit_is_paid_for_where_it_is_carried(extractor, data):
    clf = make(extractor, carry=1, pooling="second_order", final="class_means")
    clf.fit(*data)
    cumulative = np.asarray(extractor.macs((1, 4, 4)), dtype=float)
    # Mean products of all pairs of channels, at each position.
    products = [c**2 * s**2 for c, s in zip(CHANNELS, SIDES, strict=True)]
    for threshold, pooled in [
        ([0.9, 0.9, 0.9], [1, 1, 1]),
        ([INF, 0.9, INF], [1, 1, 0]),
        ([INF, INF, 0.9], [0, 1, 1]),
        ([0.9, INF, INF], [1, 0, 0]),
        ([INF, INF, INF], [0, 0, 0]),
    ]:
        added = np.append(np.multiply(pooled, products), 0)
        for stage, means in enumerate(clf.class_means_):
            if stage == 3 or threshold[stage] < INF:
                added[stage] += means.size
        expected = (cumulative + added.cumsum()) / cumulative[-1]
        clf.set_params(threshold=threshold)
        assert_allclose(clf.stage_cost_, expected, rtol=1e-12)


def test_costs_in_seconds_count_it_too(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    poolings = {2: 1e-4, 4: 2e-4, 5: 0.0}
    average = GridAverage.forward

    def forward(self, output):
        clock.now += poolings[output.shape[1]] * len(output)
        return average(self, output)

    class TimedMaps(Timed):
        def channel_axes(self, input_shape):
            return [1, 1, 1]

    monkeypatch.setattr(GridAverage, "forward", forward)
    X, y = make_timed_data()
    clf = E2CMClassifier(
        TimedMaps(clock), carry=1, cost_unit="seconds", batch_size=16
    ).fit(X, y)
    assert_allclose(clf.seconds_.poolings, list(poolings.values()), atol=1e-9)
    for threshold, pooled in [
        ([0.9, 0.9], [1, 1, 0]),
        ([INF, 0.9], [1, 1, 0]),
        ([0.9, INF], [1, 0, 0]),
        ([INF, INF], [0, 0, 0]),
    ]:
        clf.set_params(threshold=threshold)
        paid = np.multiply(pooled, list(poolings.values()))
        expected = np.cumsum(STAGES + paid) / PLAIN
        assert_allclose(clf.stage_cost_, expected, rtol=1e-6)
        before = clock.now
        clf.predict(X)
        assert_allclose((clock.now - before) / PLAIN / len(X), clf.cost(X), rtol=1e-6)


# Searches, data frames, few samples


def test_a_grid_search_tries_heads_and_what_is_carried(extractor, data):
    X, y = data
    heads = ["class_means", LogisticRegression(), ["class_means", GaussianNB()]]
    grid = {"head": heads, "carry": [0, 1]}
    search = GridSearchCV(make(extractor), grid, cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    assert_array_equal(search.predict(X), clone(best).fit(X, y).predict(X))


def test_columns_of_a_data_frame_are_known(data):
    X, y = data[0].reshape(300, -1)[:, :6], data[1]
    frame = pd.DataFrame(X, columns=list("abcdef"))
    clf = E2CMClassifier(ToyExtractor(), carry=1).fit(frame, y)
    assert clf.feature_names_in_.tolist() == list("abcdef")
    expected = E2CMClassifier(ToyExtractor(), carry=1).fit(X, y).exit_proba(X)
    assert_array_equal(clf.exit_proba(frame), expected)


def test_of_few_samples_nothing_is_carried_and_that_is_said(data):
    X, y = data[0].reshape(300, -1)[:29], data[1][:29]
    clf = E2CMClassifier(ToyExtractor(), carry=2).fit(X, y)
    assert clf.metric_ == ["euclidean"] * 3
    assert clf.metric_reason_.endswith("there are 29. Nothing is carried, either.")
    assert all(head.carried == () for head in clf.network_.heads)
    expected = E2CMClassifier(ToyExtractor(), metric="euclidean").fit(X, y)
    assert_allclose(clf.exit_proba(X), expected.exit_proba(X), atol=1e-12)
    assert E2CMClassifier(ToyExtractor()).fit(X, y).metric_reason_.endswith("are 29.")


@pytest.mark.parametrize("kind", [E2CMClassifier, E2CMClusterer])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"carry": 1, "metric": "euclidean"}, "carry=1 takes metric='mahalanobis'"),
        ({"carry": 2, "pooling": "none"}, r"carry=2 joins.*pooling='none'"),
        ({"carry": 1, "pooling": abs}, "carry=1 joins.*pooling=<built-in"),
        ({"carry": -1}, r"'carry' parameter.*int in the range \[0, 2\]"),
        ({"carry": 3}, r"'carry' parameter.*int in the range \[0, 2\]"),
        ({"carry": 0.5}, r"'carry' parameter.*int in the range \[0, 2\]"),
    ],
)
def test_what_cannot_be_carried_is_refused(data, kind, params, message):
    X, y = data[0].reshape(300, -1), data[1]
    with pytest.raises(ValueError, match=message):
        kind(ToyExtractor(), **params).fit(X, y)


@pytest.mark.parametrize("carry", [0, 1])
def test_clusters_of_features_too_large_to_be_squared_are_refused(carry):
    layers = [nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(2)]
    for layer, factor in zip(layers, (1e200, 1e-200), strict=True):
        nn.init.constant_(layer.weight, factor)
    network = nn.Sequential(*layers)
    extractor = TorchExtractor(network, exits=["0"])
    X = np.random.default_rng(0).normal(size=(100, 1))
    clusterer = E2CMClusterer(extractor, 2, carry=carry)
    with pytest.raises(ValueError, match=r"stage '0' .*squares overflow or vanish"):
        clusterer.fit(X)


def test_exits_that_remember_are_no_layers(extractor, data):
    clf = make(extractor, carry=1, final="class_means").fit(*data)
    with pytest.raises(ValueError, match=r"stage '1' takes features of other stages"):
        clf.to_linear()


@pytest.mark.parametrize("params", [{}, {"head": LogisticRegression()}])
def test_exits_that_do_not_are(extractor, data, params):
    X, y = data
    clf = make(extractor, **params).fit(X, y)
    proba = clf.exit_proba(X)
    state, network = torch.from_numpy(X), make_network()
    for stage, layers in enumerate(clf.to_linear()):
        state = network[stage](state)
        found = layers(state).softmax(dim=1).detach()
        assert_allclose(found, proba[:, stage], rtol=0, atol=1e-4)
