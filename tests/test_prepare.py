"""Estimators get ready for requests, and predict as before."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm._extractors._torch._runner import Runner
from sk_e2cm._multi_exit._heads import Head
from sk_e2cm.testing import CountingExtractor, ToyExtractor


@pytest.fixture(scope="module")
def data(digits):
    return tuple(array[:500] for array in digits)


@pytest.fixture
def clf(data):
    return E2CMClassifier(ToyExtractor(), batch_size=32).fit(*data)


@pytest.fixture
def X(data):
    return data[0]


@pytest.mark.parametrize("n_samples", [1, 3, 50])
@pytest.mark.parametrize("threshold", [0.0, 0.9, [0.5, np.inf]], ids=str)
def test_to_prepare_runs_every_stage_on_one_sample_and_on_a_batch(
    data, n_samples, threshold
):
    X, y = data
    extractor = CountingExtractor(ToyExtractor())
    clf = E2CMClassifier(extractor, batch_size=32).fit(X, y)
    clf.set_params(threshold=threshold)
    extractor.rows[:] = 0
    assert clf.prepare(X[:n_samples]) is clf
    np.testing.assert_array_equal(extractor.rows, [33] * 3)


@pytest.fixture
def asked(monkeypatch):
    """Whose heads have run, on how many samples."""
    calls = []
    proba = Head.proba

    def counting(self, output):
        calls.append((self, len(output)))
        return proba(self, output)

    monkeypatch.setattr(Head, "proba", counting)
    return calls


def test_to_prepare_asks_open_exits_and_no_others(digits, asked):
    X, y = (a[:500] for a in digits)
    clf = E2CMClassifier(ToyExtractor(), threshold=[np.inf, 0.1], batch_size=32)
    clf.fit(X, y)
    asked.clear()
    clf.prepare(X[:2])
    _, second, last = clf.network_.heads
    assert asked == [(second, 32), (last, 32), (second, 1), (last, 1)]


def test_prepared_everything_predicts_as_before(clf, X):
    before = clf.predict_all(X)
    loaded = pickle.loads(pickle.dumps(clf)).prepare(X[:5])
    for found, expected in zip(loaded.predict_all(X), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_is_learned_of_a_shape_of_samples_is_known_once_prepared(monkeypatch):
    X = np.random.default_rng(0).normal(size=(60, 1, 6, 6)).astype(np.float32)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    clf = E2CMClassifier(TorchExtractor(network, exits=["1"])).fit(X, [0, 1] * 30)
    # As on another device, where nothing is known of the network yet.
    monkeypatch.setattr(TorchExtractor, "findings", None)
    loaded = pickle.loads(pickle.dumps(clf))
    learned = []
    learn = Runner.learn

    def noting(self, batch):
        learned.append(learn(self, batch))
        return learned[-1]

    monkeypatch.setattr(Runner, "learn", noting)
    loaded.prepare(X[:1])
    assert learned == [True, False]
    loaded.predict(X)
    assert learned == [True, False, False]


def test_tuned_estimators_and_clusterers_are_prepared_too(digits):
    X, y = (a[:600] for a in digits)
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.05, random_state=0)
    with pytest.raises(NotFittedError):
        search.prepare(X)
    before = search.fit(X, y).predict(X)
    assert search.prepare(X[:1]) is search
    np.testing.assert_array_equal(search.predict(X), before)
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0).fit(X)
    before = clusterer.predict(X)
    np.testing.assert_array_equal(clusterer.prepare(X[:1]).predict(X), before)


def test_what_cannot_be_predicted_prepares_nothing(clf, X):
    with pytest.raises(NotFittedError):
        clone(clf).prepare(X)
    with pytest.raises(ValueError, match="A single sample x is X = x"):
        clf.prepare(X[0])
    with pytest.raises(ValueError, match="0 sample"):
        clf.prepare(X[:0])
    bad = X[:2].copy()
    bad[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        clf.prepare(bad)
