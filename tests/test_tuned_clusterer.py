"""Thresholds that are chosen for clusters: by agreement with the full network."""

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_clusterer
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm import E2CMClusterer, RiskControl, TunedExitsCV
from sk_e2cm._tuning._confidence import upper_bound
from sk_e2cm._tuning._folds import folds_of, set_aside
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from .references import leave

N, N_CLUSTERS = 300, 4
GOALS = [{"max_cost": 0.4}, {"max_cost": 0.9}, {"max_drop": 0.0}, {"max_drop": 0.05}]
CVS = {
    "number": 5,
    "share": 0.4,
    "splitter": PredefinedSplit(np.arange(N) % 4 - 1),
    "prefit": "prefit",
}
EVERY_CV = pytest.mark.parametrize("cv", CVS.values(), ids=CVS)


@pytest.fixture(scope="module")
def X():
    return make_blobs(N, 12, centers=N_CLUSTERS, cluster_std=4.0, random_state=0)[0]


@pytest.fixture(scope="module")
def fitted(X):
    return make_clusterer().fit(X[:150])


@pytest.fixture(scope="module")
def search(X):
    """Return a search to look at."""
    return tuned(max_drop=0.05).fit(X)


def make_clusterer(extractor=None, **params):
    extractor = ToyExtractor() if extractor is None else extractor
    defaults = {"n_clusters": N_CLUSTERS, "random_state": 0}
    return E2CMClusterer(extractor, **defaults | params)


def tuned(estimator=None, **params):
    estimator = make_clusterer() if estimator is None else estimator
    return TunedExitsCV(estimator, **{"random_state": 0} | params)


def cost_by_stage(thresholds):
    """Return the cost of an exit at each stage of ToyExtractor, of 12 features."""
    costs, total = [], 0.0
    for stage, n_seen in enumerate([4, 8, 12]):
        total += 4000
        if stage == 2 or not np.isposinf(thresholds[stage]).all():
            total += N_CLUSTERS * n_seen
        costs.append(total / 12000)
    return np.array(costs)


def assert_frontier_is_that_of(search, proba, weight=None):
    """Compare with agreement and cost by hand, given what the stages say."""
    full = proba[:, -1].argmax(axis=1)
    names = "cost", "score", "threshold"
    for cost, score, thresholds in zip(*map(search.frontier_.get, names), strict=True):
        stage, label = leave(proba, thresholds)
        assert score == pytest.approx(np.average(label == full, weights=weight))
        costs = cost_by_stage(thresholds)[stage]
        assert cost == pytest.approx(np.average(costs, weights=weight))


# What is chosen


@pytest.mark.parametrize("goal", GOALS, ids=str)
@EVERY_CV
def test_what_is_chosen_is_allowed_and_nothing_allowed_is_better(X, fitted, goal, cv):
    search = tuned(fitted, cv=cv, **goal).fit(X)
    cost, score = search.frontier_["cost"], search.frontier_["score"]
    best = int(np.flatnonzero(cost == search.best_cost_).item())
    assert score[best] == search.best_score_
    assert_array_equal(search.frontier_["threshold"][best], search.best_threshold_)
    assert_array_equal(search.estimator_.threshold, search.best_threshold_)
    expected = search.frontier_["expected_score"]
    assert search.full_score_ == score.max() == expected.max() == 1
    assert (np.diff(cost) > 0).all()
    assert (np.diff(expected) > 0).all()
    assert search.label_share_ == 1
    assert (expected <= score + 1e-9).all()
    if "max_cost" in goal:
        assert search.best_cost_ <= goal["max_cost"]
        assert expected[best] == expected[cost <= goal["max_cost"]].max()
    else:
        assert search.best_score_ >= 1 - goal["max_drop"] - 1e-9
        assert (score[:best] < 1 - goal["max_drop"]).all()


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
@pytest.mark.parametrize("per_class", [False, True])
def test_the_score_is_agreement_with_full_depth(X, metric, per_class):
    fitted = make_clusterer(metric=metric).fit(X[:150])
    search = tuned(fitted, max_drop=0.05, cv="prefit", per_class=per_class)
    proba = search.fit(X[150:]).exit_proba(X[150:])
    assert_array_equal(proba[:, -1].argmax(axis=1), fitted.clusterer_.predict(X[150:]))
    assert_frontier_is_that_of(search, proba)
    assert search.best_threshold_.shape == (2, N_CLUSTERS)[: 1 + per_class]
    assert 0.95 <= search.best_score_ < 1
    assert search.best_cost_ < 0.5


@pytest.mark.parametrize(
    "cv",
    [KFold(4, shuffle=True, random_state=0), CVS["splitter"]],
    ids=["all held out", "some never"],
)
def test_scores_are_those_of_centroids_without_the_fold(X, cv):
    # By the paper's formulas, in plain NumPy.
    codes = KMeans(N_CLUSTERS, random_state=0).fit(X).labels_
    proba, held_out = np.empty((N, 3, N_CLUSTERS)), np.zeros(N, dtype=bool)
    proba[:, 2] = np.eye(N_CLUSTERS)[codes]
    for stage, n_seen in enumerate([4, 8]):
        f = X[:, :n_seen]

        def distances(rows, f=f):
            means = [f[rows][codes[rows] == k].mean(axis=0) for k in range(N_CLUSTERS)]
            return np.linalg.norm(f[:, None] - np.array(means), axis=2)

        scale = distances(np.arange(N)).mean(axis=0)
        for train, test in cv.split(X):
            e = np.exp(-distances(train)[test] / scale)
            proba[test, stage] = e / e.sum(axis=1, keepdims=True)
            held_out[test] = True
    paper = make_clusterer(metric="euclidean", calibration=None)
    search = tuned(paper, max_drop=0.05, cv=cv).fit(X)
    # Those who leave at a threshold are as sure as it says, but for the last bits.
    search.frontier_["threshold"] -= 1e-12
    assert_frontier_is_that_of(search, proba[held_out])
    assert len(search.frontier_["cost"]) > 5


def test_without_refit_clusters_are_those_of_who_is_never_held_out(X):
    train = folds_of(0.3, X, None, np.random.RandomState(0)) < 0
    search = tuned(max_drop=0.05, cv=0.3, refit=False).fit(X)
    expected = make_clusterer().fit(X[train])
    assert_array_equal(search.exit_proba(X), expected.exit_proba(X))
    assert_array_equal(search.estimator_.labels_, expected.labels_)
    assert_frontier_is_that_of(search, expected.exit_proba(X[~train]))


@pytest.mark.parametrize("cv", [5, 0.4])
def test_with_refit_clusters_are_those_of_all(X, cv):
    unfitted = make_clusterer()
    search = tuned(unfitted, max_drop=0.05, cv=cv).fit(X)
    expected = make_clusterer().fit(X)
    assert search.estimator is unfitted
    assert not hasattr(unfitted, "labels_")
    assert_array_equal(search.estimator_.labels_, expected.labels_)
    assert_allclose(search.estimator_.stage_centers_[0], expected.stage_centers_[0])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cv", [5, 0.4])
def test_any_clusterer_may_find_the_clusters(X, cv, frozen):
    mixture = GaussianMixture(3, random_state=0)
    expected = clone(mixture).fit(X).predict(X)
    given = FrozenEstimator(mixture.fit(X)) if frozen else mixture
    search = tuned(make_clusterer(clusterer=given), max_drop=0.05, cv=cv).fit(X)
    full = search.exit_proba(X)[:, -1].argmax(axis=1)
    assert_array_equal(full, expected)
    assert search.best_score_ >= 0.95


@pytest.mark.parametrize("per_class", [False, True])
def test_of_one_cluster_every_sample_leaves_at_the_first_exit(X, per_class):
    estimator = make_clusterer(n_clusters=1)
    search = tuned(estimator, max_drop=0.0, per_class=per_class).fit(X)
    assert search.best_score_ == 1
    assert search.best_cost_ == pytest.approx((4000 + 4) / 12000)
    assert not search.predict_exit(X).any()


# What is given


@pytest.mark.parametrize("cv", [5, "prefit"])
@pytest.mark.parametrize(
    "y",
    [np.arange(N) % 2, np.full(N, np.nan), ["a", "b"], np.zeros((N, 2)), "none"],
    ids=["labels", "missing", "short", "two columns", "text"],
)
def test_labels_are_ignored(X, fitted, cv, y):
    expected = tuned(fitted, max_drop=0.05, cv=cv).fit(X).frontier_
    found = tuned(fitted, max_drop=0.05, cv=cv).fit(X, y).frontier_
    for part, values in expected.items():
        assert_array_equal(found[part], values)


@pytest.mark.parametrize("cv", [0.4, "prefit", 5])
@pytest.mark.parametrize("y", [None, np.arange(N) % 2], ids=["no y", "y"])
@pytest.mark.parametrize(
    "scoring", ["balanced_accuracy", "f1_macro", get_scorer("rand_score")], ids=str
)
def test_agreement_is_the_only_score(X, fitted, cv, y, scoring):
    with pytest.raises(ValueError, match=r"scoring=.* needs labels.*agreement with"):
        tuned(fitted, max_drop=0.05, cv=cv, scoring=scoring).fit(X, y)


def test_weights_count_in_scores_and_costs(X, fitted):
    weight = np.random.default_rng(0).uniform(0, 3, 150)
    search = tuned(fitted, max_drop=0.05, cv="prefit")
    search.fit(X[150:], sample_weight=weight)
    assert_frontier_is_that_of(search, search.exit_proba(X[150:]), weight)
    plain = tuned(fitted, max_drop=0.05, cv="prefit").fit(X[150:])
    assert plain.best_cost_ != search.best_cost_


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("cv", [CVS["splitter"], "prefit"], ids=["splitter", "prefit"])
def test_samples_without_weight_are_ignored(X, fitted, cv, refit):
    weight = np.random.default_rng(0).integers(0, 3, N).astype(float)
    used = weight > 0
    noise = np.where(used[:, None], X, 1e3)
    search = tuned(fitted, max_drop=0.05, cv=cv, refit=refit)
    search.fit(noise, sample_weight=weight)
    if cv != "prefit":
        cv = PredefinedSplit(cv.test_fold[used])
    expected = tuned(fitted, max_drop=0.05, cv=cv, refit=refit)
    expected.fit(X[used], sample_weight=weight[used])
    for part, values in expected.frontier_.items():
        assert_allclose(search.frontier_[part], values)
    assert_allclose(search.exit_proba(X), expected.exit_proba(X))


@pytest.mark.parametrize("cv", [5, 0.4])
def test_the_same_random_state_chooses_the_same(X, cv):
    first, again, other = (
        tuned(max_drop=0.05, cv=cv, random_state=seed).fit(X) for seed in (0, 0, 1)
    )
    for part, values in first.frontier_.items():
        assert_array_equal(again.frontier_[part], values)
    assert_array_equal(again.predict(X), first.predict(X))
    assert other.best_cost_ != first.best_cost_


# Runs of the network


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
@pytest.mark.parametrize(
    "params",
    [
        {"cv": 5},
        {"cv": 0.3},
        {"cv": 0.3, "refit": False},
        {"cv": CVS["splitter"]},
        {"cv": 5, "per_class": True},
        {"cv": 5, "risk": RiskControl(0.5)},
        {"cv": 0.4, "refit": False, "risk": RiskControl(0.5)},
    ],
    ids=str,
)
def test_each_sample_runs_through_the_network_once(X, metric, params):
    extractor = CountingExtractor(ToyExtractor())
    estimator = make_clusterer(extractor, metric=metric)
    tuned(estimator, max_drop=0.2, **params).fit(X)
    assert extractor.rows.tolist() == [N, N, N]


@pytest.mark.parametrize("risk", [None, RiskControl(0.5)], ids=["any", "promised"])
def test_tuning_a_fitted_clusterer_runs_the_network_once(X, risk):
    extractor = CountingExtractor(ToyExtractor())
    fitted = make_clusterer(extractor).fit(X[:150])
    extractor.rows[:] = 0
    tuned(fitted, max_drop=0.2, risk=risk, cv="prefit").fit(X[150:])
    assert extractor.rows.tolist() == [150, 150, 150]


# Promises


@pytest.mark.parametrize("cv", [5, 0.5, "prefit"])
def test_what_is_promised_depends_on_no_sample_that_was_set_aside(X, fitted, cv):
    # It is kept by whatever candidate.
    risk = RiskControl(0.95, calibration_size=0.3)
    folds, rng = np.zeros(N, dtype=int), np.random.RandomState(0)
    if cv != "prefit":
        folds = folds_of(cv, X, None, rng)
    aside = set_aside(0.3, folds, None, rng)
    noise = np.where(aside[:, None], np.random.default_rng(0).normal(size=X.shape), X)
    search, other = (
        tuned(fitted, risk=risk, cv=cv).fit(samples) for samples in (X, noise)
    )
    for part, values in search.frontier_.items():
        assert_array_equal(other.frontier_[part], values)
    assert_array_equal(other.exit_proba(X), search.exit_proba(X))


def test_the_cheapest_that_is_promised_is_chosen(X):
    search = tuned(risk=RiskControl(0.2)).fit(X)
    assert search.best_cost_ == search.frontier_["cost"][0]
    assert tuned(max_drop=0.99).fit(X).best_cost_ < search.best_cost_ < 1


def test_a_promise_is_kept_on_the_samples_set_aside(X, fitted):
    risk = RiskControl(0.2)
    aside = set_aside(0.5, np.zeros(150), None, np.random.RandomState(0))
    search = tuned(fitted, risk=risk, cv="prefit").fit(X[150:])
    proba = search.exit_proba(X[150:][aside])
    _, label = leave(proba, search.best_threshold_)
    spoilt = np.mean(label != proba[:, -1].argmax(axis=1))
    assert risk.n_promised(np.array([spoilt]), aside.sum()) == 1


# The estimator


@pytest.mark.parametrize("method", ["predict", "predict_exit", "exit_proba", "cost"])
def test_predictions_are_those_of_the_clusterer(X, search, method):
    expected = getattr(search.estimator_, method)(X)
    assert_array_equal(getattr(search, method)(X), expected)


def test_stages_and_attributes_are_those_of_the_clusterer(X, search):
    inside = search.estimator_
    steps = list(search.staged_predict(X))
    assert_array_equal(steps, list(inside.staged_predict(X)))
    assert_array_equal(steps[-1], search.predict(X))
    assert_array_equal(search.stage_cost_, inside.stage_cost_)
    assert search.n_features_in_ == 12
    assert not hasattr(search, "feature_names_in_")


@pytest.mark.parametrize("is_fitted", [False, True])
def test_clusters_have_no_classes_and_no_score(X, search, is_fitted):
    search = search if is_fitted else clone(search)
    for name in ("classes_", "predict_proba", "staged_predict_proba", "score"):
        assert not hasattr(search, name)
    assert is_clusterer(search)
    assert not is_classifier(search)


def test_prediction_before_fit(X, search):
    unfitted = clone(search)
    for name in ("predict", "predict_exit", "exit_proba", "cost"):
        with pytest.raises(NotFittedError):
            getattr(unfitted, name)(X)
    for name in ("n_features_in_", "stage_cost_"):
        assert not hasattr(unfitted, name)
    with pytest.raises(NotFittedError, match="E2CMClusterer instance is not fitted"):
        tuned(max_drop=0.05, cv="prefit").fit(X)


def test_pickles_predict_the_same_and_clones_are_not_fitted(X, search):
    copy = pickle.loads(pickle.dumps(search))
    assert_array_equal(copy.predict(X), search.predict(X))
    assert_array_equal(copy.best_threshold_, search.best_threshold_)
    unfitted = clone(search)
    assert not hasattr(unfitted, "estimator_")
    assert unfitted.estimator.n_clusters == N_CLUSTERS
    again = unfitted.fit(X)
    assert_array_equal(again.best_threshold_, search.best_threshold_)


@pytest.mark.parametrize("y", [None, np.arange(N) % 2], ids=["no y", "y"])
def test_in_a_pipeline_the_samples_are_those_it_makes(X, y):
    pipeline = make_pipeline(StandardScaler(), tuned(max_drop=0.05)).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    expected = tuned(max_drop=0.05).fit(scaled)
    assert is_clusterer(pipeline)
    assert_array_equal(pipeline.predict(X), expected.predict(scaled))
    assert_array_equal(pipeline[-1].best_threshold_, expected.best_threshold_)


def test_columns_of_a_data_frame_are_known(X, search):
    frame = pd.DataFrame(X, columns=list("abcdefghijkl"))
    found = clone(search).fit(frame)
    assert found.feature_names_in_.tolist() == list("abcdefghijkl")
    assert_array_equal(found.predict(frame), search.predict(X))


def test_with_confidence_the_bound_is_of_agreement(X, fitted):
    search = tuned(fitted, max_drop=0.2, confidence=0.9, cv="prefit").fit(X[150:])
    aside = set_aside(0.5, np.zeros(len(X) - 150), None, np.random.RandomState(0))
    proba = search.exit_proba(X[150:][aside])
    _, label = leave(proba, search.best_threshold_)
    lost = (label != proba[:, -1].argmax(axis=1)).sum()
    assert search.drop_upper_ == pytest.approx(upper_bound(lost, 0, aside.sum(), 0.9))
    assert 0 < search.drop_upper_ <= 0.2
