"""Thresholds, and clusters, where exits remember the exits before."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import PredefinedSplit

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm._fitting._exits import refit_exits
from sk_e2cm.testing import ToyExtractor

from .references import leave

INF = np.inf


class Parts(ToyExtractor):
    """Each stage sees so many features, each at this cost."""

    def __init__(self, *ends, price=1000.0):
        super().__init__(len(ends))
        self.ends, self.price = ends, price

    def macs(self, input_shape):
        return self.price * np.array(self.ends)

    def _n_seen(self, n_features):
        return np.array(self.ends)


def make_parts(n=360):
    """Return samples of which the second and the third part say nothing."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    X = rng.normal(size=(n, 10))
    X[:, :2] += rng.normal(size=(3, 2))[y]
    X[:, 6:] += 1.5 * rng.normal(size=(3, 4))[y]
    return X, y


@pytest.fixture
def refitted(monkeypatch):
    """Return a list of the exits that were fitted anew."""
    exits = []

    def refit(*args):
        exits[:] = args[-1]
        return refit_exits(*args)

    monkeypatch.setattr("sk_e2cm._base.refit_exits", refit)
    return exits


@pytest.mark.parametrize("price", [5.0, 10.0])  # exits are dear
@pytest.mark.parametrize("goal", [{"max_cost": 0.9}, {"max_drop": 0.02}])
def test_exits_never_taken_are_closed_and_the_others_are_fitted_without_them(
    price, goal, refitted
):
    X, y = make_parts()
    folds = np.arange(360) // 3 % 3
    clf = E2CMClassifier(Parts(2, 4, 6, 8, 10, price=price), carry=1)
    search = TunedExitsCV(clf, cv=PredefinedSplit(folds), random_state=0, **goal)
    search.fit(X, y)
    kept = refitted
    assert 0 < len(kept) < 4
    dropped = np.setdiff1d(range(4), kept)
    assert (search.frontier_["threshold"][:, dropped] == INF).all()
    assert (search.best_threshold_[dropped] == INF).all()

    left = [*kept, 4]
    alone = E2CMClassifier(Parts(*(2 * s + 2 for s in left), price=price), carry=1)
    alone._cross_fit(X, y, None, folds)
    alone.set_params(threshold=search.best_threshold_[kept])
    assert_allclose(search.exit_proba(X)[:, left], alone.exit_proba(X), atol=1e-9)
    assert_allclose(search.stage_cost_[left], alone.stage_cost_, rtol=1e-12)
    assert_array_equal(search.predict(X), alone.predict(X))


@pytest.mark.parametrize("price", [1.0, 5.0])
def test_without_refit_they_are_fitted_to_what_is_not_held_out(price, refitted):
    X, y = make_parts()
    folds = np.where(np.arange(360) // 3 % 3, -1, 0)
    clf = E2CMClassifier(Parts(2, 4, 6, 8, 10, price=price), carry=1)
    params = {"max_drop": 0.02, "refit": False, "random_state": 0}
    search = TunedExitsCV(clf, cv=PredefinedSplit(folds), **params).fit(X, y)
    assert 0 < len(refitted) < 4
    left = [*refitted, 4]
    alone = E2CMClassifier(Parts(*(2 * s + 2 for s in left)), carry=1)
    expected = alone.fit(X[folds < 0], y[folds < 0]).exit_proba(X)
    assert_allclose(search.exit_proba(X)[:, left], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("cv", "refit"), [(3, True), (0.3, True), (0.3, False), ("prefit", True)]
)
def test_what_is_chosen_agrees_with_the_probabilities_of_all_stages(cv, refit):
    X, y = make_parts()
    clf = E2CMClassifier(Parts(2, 4, 6, 8, 10, price=10.0), carry=1)
    clf.fit(X[:180], y[:180])
    search = TunedExitsCV(clf, max_drop=0.05, cv=cv, refit=refit, random_state=0)
    search.fit(X[180:], y[180:])
    stage, label = leave(search.exit_proba(X), search.best_threshold_)
    assert_array_equal(search.predict_exit(X), stage)
    assert_array_equal(search.predict(X), label)
    assert_allclose(search.cost(X), search.stage_cost_[stage].mean())


# Clusters


@pytest.mark.parametrize("carry", [1, 2])
def test_a_clusterers_exits_may_remember(carry):
    X, _ = make_parts()
    clusterer = E2CMClusterer(
        Parts(2, 6, 8, 10), 3, carry=carry, random_state=0, threshold=[0.5, INF, 0.5]
    ).fit(X)
    proba = clusterer.exit_proba(X)
    stage, label = leave(proba, [0.5, INF, 0.5])
    assert_array_equal(clusterer.predict_exit(X), stage)
    assert_array_equal(clusterer.predict(X), label)
    assert_array_equal(proba[:, -1].argmax(axis=1), clusterer.labels_)
    widths = [centers.shape[1] for centers in clusterer.stage_centers_]
    assert widths == ([2, 8, 14, 10] if carry == 1 else [2, 8, 16, 10])
    search = TunedExitsCV(clusterer, max_drop=0.1, cv=3, random_state=0).fit(X)
    assert search.full_score_ - search.best_score_ <= 0.1


def test_of_few_samples_a_clusterer_carries_nothing_and_that_is_said():
    X, _ = make_parts(29)
    make = {"extractor": ToyExtractor(), "n_clusters": 3, "random_state": 0}
    clusterer = E2CMClusterer(carry=1, **make).fit(X)
    assert clusterer.metric_reason_.endswith("Nothing is carried, either.")
    expected = E2CMClusterer(metric="euclidean", **make).fit(X).exit_proba(X)
    assert_allclose(clusterer.exit_proba(X), expected, rtol=0, atol=1e-12)
