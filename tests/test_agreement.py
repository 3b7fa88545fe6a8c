"""Agreement with the full network against cost, and the choice between candidates."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm.metrics import (
    accuracy_cost_scorer,
    agreement_cost_scorer,
    best_within_cost,
    cheapest_within_drop,
)
from sk_e2cm.testing import CountingExtractor, ToyExtractor

NAN = np.nan
THRESHOLDS = np.linspace(0.3, 0.99, 15)
FOLDS = KFold(4, shuffle=True, random_state=0)
NAMES = np.array(["bird", "cat", "dog", "owl"])


@pytest.fixture(scope="module")
def data():
    X, y = make_blobs(300, 12, centers=4, cluster_std=4.0, random_state=0)
    return X, NAMES[y]


def clusterer(extractor=None, **params):
    extractor = ToyExtractor() if extractor is None else extractor
    return E2CMClusterer(extractor, n_clusters=4, random_state=0, **params)


ESTIMATORS = {
    "clusterer": clusterer(threshold=0.7),
    "classifier": E2CMClassifier(ToyExtractor(), threshold=0.7),
    "tuned clusters": TunedExitsCV(clusterer(), max_drop=0.1, random_state=0),
    "tuned classes": TunedExitsCV(
        E2CMClassifier(ToyExtractor()), max_drop=0.1, random_state=0
    ),
}
EVERY_ESTIMATOR = pytest.mark.parametrize(
    "estimator", ESTIMATORS.values(), ids=ESTIMATORS
)


def scores_by_hand(estimator, X, weight=None):
    """Return agreement and cost from the probabilities, one sample at a time."""
    inside = getattr(estimator, "estimator_", estimator)
    n_stages = len(inside.stage_cost_)
    limits = np.broadcast_to(inside.threshold, n_stages - 1)
    agrees, cost = [], []
    for proba in inside.exit_proba(X):
        stage = 0
        while stage < n_stages - 1 and max(proba[stage]) < limits[stage]:
            stage += 1
        agrees.append(proba[stage].argmax() == proba[-1].argmax())
        cost.append(inside.stage_cost_[stage])
    return {
        "agreement": np.average(agrees, weights=weight),
        "cost": np.average(cost, weights=weight),
    }


# The scorer


@EVERY_ESTIMATOR
def test_scores_are_those_of_a_plain_loop(data, estimator):
    X, y = data
    fitted = clone(estimator).fit(X[:200], y[:200])
    scores = agreement_cost_scorer(fitted, X[200:])
    assert set(scores) == {"agreement", "cost"}
    assert scores == pytest.approx(scores_by_hand(fitted, X[200:]))
    assert 0.8 < scores["agreement"] < 1
    assert 0.33 < scores["cost"] < 0.9


@EVERY_ESTIMATOR
def test_scores_are_those_of_predictions_with_and_without_exits(data, estimator):
    X, y = data
    fitted = clone(estimator).fit(X[:200], y[:200])
    inside = clone(getattr(fitted, "estimator_", fitted)).fit(X[:200], y[:200])
    # No confidence is so near to these that the last bits of lazy ones matter.
    inside.set_params(threshold=[0.6789, 0.7654])
    scores = agreement_cost_scorer(inside, X)
    assert scores["cost"] == pytest.approx(inside.cost(X))
    early, full = inside.predict(X), inside.set_params(threshold=np.inf).predict(X)
    assert scores["agreement"] == pytest.approx(np.mean(early == full))


@EVERY_ESTIMATOR
def test_scores_of_batches_are_those_of_all_whatever_their_order(data, estimator):
    X, y = data
    fitted = clone(estimator).fit(X[:200], y[:200])
    weight = np.random.default_rng(0).uniform(0.5, 2, 100)
    expected = agreement_cost_scorer(fitted, X[200:], sample_weight=weight)
    batches = TensorDataset(*map(torch.tensor, (X[200:], np.zeros(100), weight)))
    for given in (batches, DataLoader(batches, batch_size=32, shuffle=True)):
        assert agreement_cost_scorer(fitted, given) == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [np.inf, [np.inf, np.inf], 1.1])
def test_whoever_goes_all_the_way_agrees(data, threshold):
    X, _ = data
    fitted = clusterer().fit(X).set_params(threshold=threshold)
    scores = agreement_cost_scorer(fitted, X)
    assert scores["agreement"] == 1
    assert scores["cost"] == pytest.approx(fitted.stage_cost_[-1])


@EVERY_ESTIMATOR
def test_scores_of_weighted_samples_are_those_of_repeated_ones(data, estimator):
    X, y = data
    fitted = clone(estimator).fit(X[:200], y[:200])
    weight = np.random.default_rng(0).integers(0, 4, 100)
    weighted = agreement_cost_scorer(fitted, X[200:], sample_weight=weight)
    assert weighted == pytest.approx(scores_by_hand(fitted, X[200:], weight))
    repeated = agreement_cost_scorer(fitted, X[200:].repeat(weight, axis=0))
    assert weighted == pytest.approx(repeated)
    assert weighted != pytest.approx(agreement_cost_scorer(fitted, X[200:]))


@EVERY_ESTIMATOR
@pytest.mark.parametrize("as_y", [lambda y: y[::-1], lambda y: y[:3], lambda y: NAN])
def test_labels_are_ignored(data, estimator, as_y):
    X, y = data
    fitted = clone(estimator).fit(X, y)
    expected = agreement_cost_scorer(fitted, X)
    assert agreement_cost_scorer(fitted, X, as_y(y)) == expected


@EVERY_ESTIMATOR
@pytest.mark.parametrize("n_scalers", [0, 1, 2])
def test_scores_of_a_pipeline_are_those_of_its_last_step(data, estimator, n_scalers):
    X, y = data
    scalers = [StandardScaler() for _ in range(n_scalers)]
    pipeline = make_pipeline(*scalers, clone(estimator)).fit(X, y)
    transformed = StandardScaler().fit_transform(X) if scalers else X
    scores = agreement_cost_scorer(pipeline, X)
    assert scores == pytest.approx(scores_by_hand(pipeline[-1], transformed))


@EVERY_ESTIMATOR
def test_scores_are_plain_numbers(data, estimator):
    scores = agreement_cost_scorer(clone(estimator).fit(*data), data[0])
    assert all(type(score) is float for score in scores.values())


def test_a_classifiers_agreement_is_not_its_accuracy(data):
    X, y = data
    fitted = E2CMClassifier(ToyExtractor(), threshold=0.6).fit(X[:50], y[:50])
    scores = agreement_cost_scorer(fitted, X, y)
    others = accuracy_cost_scorer(fitted, X, y)
    assert scores["cost"] == others["cost"]
    assert scores["agreement"] != others["accuracy"]
    # Who agrees is as right as the full network.
    lost = others["full_accuracy"] - others["accuracy"]
    assert lost <= 1 - scores["agreement"] + 1e-9


class Unfinished(BaseEstimator):
    """Has clusters, but no exits."""

    def predict(self, X):
        return np.zeros(len(X))


@pytest.mark.parametrize(
    "estimator",
    [
        KMeans(4),
        LogisticRegression(),
        make_pipeline(StandardScaler(), KMeans(4)),
        Unfinished(),
        None,
    ],
    ids=["k-means", "classifier", "pipeline", "other", "none"],
)
def test_estimators_without_early_exits_are_refused(data, estimator):
    if hasattr(estimator, "fit"):
        estimator = clone(estimator).fit(*data)
    with pytest.raises(TypeError, match=r"needs an estimator with early exits, got \w"):
        agreement_cost_scorer(estimator, data[0])


def test_scores_come_from_one_run_of_the_network(data):
    X, _ = data
    extractor = CountingExtractor(ToyExtractor())
    fitted = clusterer(extractor).fit(X)
    extractor.rows[:] = 0
    agreement_cost_scorer(fitted, X)
    assert extractor.rows.tolist() == [300, 300, 300]


# The choice


def results(agreement, cost, **others):
    """Return what matters of ``cv_results_``."""
    return {
        "mean_test_agreement": np.array(agreement),
        "mean_test_cost": np.array(cost),
        **others,
    }


@pytest.mark.parametrize(
    ("choose", "agreement", "cost", "best"),
    [
        (best_within_cost(0.5), [1.0, 0.8, 0.7], [1.0, 0.5, 0.2], 1),
        (best_within_cost(0.5), [1.0, 0.8, 0.8], [1.0, 0.5, 0.2], 2),
        (best_within_cost(0.5), [NAN, 0.8], [NAN, 0.5], 1),
        (cheapest_within_drop(0.05), [1.0, 0.95, 0.9], [1.0, 0.5, 0.2], 1),
        (cheapest_within_drop(0.0), [0.99, 1.0, 1.0], [0.1, 0.6, 0.5], 2),
        (cheapest_within_drop(0.2), [1.0, 0.85, 0.9], [1.0, 0.5, 0.5], 2),
        # What is lacking to 1, not to the best that was tried.
        (cheapest_within_drop(0.1), [0.92, 0.9, 0.85], [0.8, 0.5, 0.2], 1),
        (cheapest_within_drop(0.1), [NAN, 0.92], [NAN, 0.5], 1),
    ],
)
def test_candidates_are_chosen_by_agreement(choose, agreement, cost, best):
    chosen = choose(results(agreement, cost))
    assert chosen == pickle.loads(pickle.dumps(choose))(results(agreement, cost))
    assert chosen == best
    assert type(chosen) is int


def test_nothing_that_is_allowed_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match=r"loses at most 0.01: the best loses 0.05"):
        cheapest_within_drop(0.01)(results([0.95, 0.9, NAN], [0.5, 0.2, NAN]))
    with pytest.raises(ValueError, match=r"costs at most 0.1: the cheapest costs 0.2"):
        best_within_cost(0.1)(results([0.95, 0.9], [0.5, 0.2]))


@pytest.mark.parametrize("choose", [best_within_cost(1), cheapest_within_drop(1)])
def test_a_search_that_lacks_a_score_is_told_which(choose):
    with pytest.raises(ValueError, match=r"lack .*mean_test_cost.*agreement_cost_sc"):
        choose({"mean_test_agreement": np.ones(2)})
    with pytest.raises(ValueError, match=r"lack .*mean_test_accuracy.*agreement_cost"):
        choose({"mean_test_cost": np.ones(2)})
    with pytest.raises(ValueError, match="has failed"):
        choose(results([NAN, NAN], [NAN, NAN]))


def test_where_there_is_accuracy_too_it_decides():
    accuracy = {"mean_test_accuracy": np.array([0.8, 0.9])}
    found = results([1.0, 0.9], [0.5, 0.5], **accuracy)
    assert best_within_cost(0.5)(found) == 1
    assert cheapest_within_drop(0.02)(found) == 1


# Searches


def search(estimator, X, refit, y=None, grid=None):
    return GridSearchCV(
        estimator,
        {"threshold": THRESHOLDS} if grid is None else grid,
        scoring=agreement_cost_scorer,
        refit=refit,
        cv=FOLDS,
        error_score="raise",
    ).fit(X, y)


@pytest.mark.parametrize("goal", ["cost", "drop"])
def test_a_search_finds_what_fitting_by_hand_finds(data, goal):
    X, y = data
    refit = best_within_cost(0.5) if goal == "cost" else cheapest_within_drop(0.02)
    found = search(clusterer(), X, refit)
    expected = np.zeros((4, len(THRESHOLDS), 2))
    for fold, (train, test) in enumerate(FOLDS.split(X)):
        fitted = clusterer().fit(X[train])
        for i, threshold in enumerate(THRESHOLDS):
            scores = scores_by_hand(fitted.set_params(threshold=threshold), X[test])
            expected[fold, i] = list(scores.values())
    agreement, cost = expected.mean(axis=0).T
    assert_allclose(found.cv_results_["mean_test_agreement"], agreement)
    assert_allclose(found.cv_results_["mean_test_cost"], cost)
    best = found.best_index_
    if goal == "cost":
        assert (cost > 0.5).any()
        assert cost[best] <= 0.5
        assert agreement[best] == pytest.approx(agreement[cost <= 0.5].max())
    else:
        assert (agreement < 0.98).any()
        assert agreement[best] >= 0.98 - 1e-9
        assert cost[best] == pytest.approx(cost[agreement >= 0.98 - 1e-9].min())
    assert found.best_estimator_.threshold == THRESHOLDS[best]
    assert_array_equal(found.predict(X), found.best_estimator_.predict(X))
    labelled = search(clusterer(), X, refit, y)
    assert labelled.best_index_ == best


def test_a_search_with_a_cache_runs_the_network_once_for_each_fold(data, tmp_path):
    extractor = CountingExtractor(ToyExtractor())
    search(clusterer(extractor, memory=tmp_path), data[0], best_within_cost(0.8))
    # Four folds of 225 + 75 samples, and 300 for the estimator that is kept.
    assert_array_equal(extractor.rows, [5 * 300] * 3)


def test_thresholds_of_a_pipeline_may_be_searched(data):
    pipeline = make_pipeline(StandardScaler(), clusterer())
    grid = {"e2cmclusterer__threshold": THRESHOLDS}
    found = search(pipeline, data[0], cheapest_within_drop(0.05), grid=grid)
    best = found.best_index_
    assert found.cv_results_["mean_test_agreement"][best] >= 0.95 - 1e-9
    assert found.cv_results_["mean_test_cost"][best] < 1
    assert found.best_estimator_[-1].threshold == THRESHOLDS[best]


def test_methods_of_tuned_exits_may_be_searched(data):
    tuned = TunedExitsCV(clusterer(), max_drop=0.05, random_state=0)
    grid = {"estimator__metric": ["euclidean", "mahalanobis"]}
    found = search(tuned, data[0], cheapest_within_drop(0.1), grid=grid)
    agreement = found.cv_results_["mean_test_agreement"]
    assert (agreement >= 0.9).any()
    allowed = np.where(agreement >= 0.9 - 1e-9, found.cv_results_["mean_test_cost"], 9)
    assert found.best_index_ == allowed.argmin()
