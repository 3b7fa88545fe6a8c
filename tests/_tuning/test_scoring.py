"""Scores, and thresholds that are chosen by them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_classification
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    fbeta_score,
    make_scorer,
)

from sk_e2cm import E2CMClassifier, TunedExitsCV
from sk_e2cm._tuning import _scoring
from sk_e2cm.testing import ToyExtractor

NAMES = np.array(["bird", "cat", "dog"])


@pytest.fixture(scope="module")
def data():
    """Return samples of unequal classes."""
    X, y = make_classification(
        n_samples=400,
        n_features=12,
        n_informative=8,
        n_classes=3,
        weights=[0.7, 0.2],
        class_sep=1.5,
        random_state=0,
    )
    return X, NAMES[y]


@pytest.fixture(scope="module")
def clf(data):
    X, y = data
    return E2CMClassifier(ToyExtractor()).fit(X[:150], y[:150])


@pytest.fixture(scope="module")
def held_out(data):
    return data[0][150:], data[1][150:]


def tuned(clf, **params):
    return TunedExitsCV(clf, cv="prefit", random_state=0, **params)


def f1_macro(y_true, y_pred, sample_weight=None):
    return f1_score(y_true, y_pred, average="macro", sample_weight=sample_weight)


def f2_of_dogs(y_true, y_pred, sample_weight=None):
    labels = {"labels": ["dog"], "average": "macro", "sample_weight": sample_weight}
    return fbeta_score(y_true, y_pred, beta=2, **labels)


SCORES = {
    "accuracy": ("accuracy", accuracy_score),
    "balanced": ("balanced_accuracy", balanced_accuracy_score),
    "f1_macro": ("f1_macro", f1_macro),
    "made": (make_scorer(f1_score, average="macro", pos_label=None), f1_macro),
    "one class": (make_scorer(f2_of_dogs), f2_of_dogs),
}


@pytest.fixture(params=SCORES.values(), ids=SCORES)
def score(request):
    return request.param


# Which scores are refused


def nothing(y_true, y_pred):
    return np.nan


def plain(estimator, X, y):
    return estimator.score(X, y)


def test_a_score_that_is_no_number_is_refused(clf, held_out):
    with pytest.raises(ValueError, match="returns nan for some of the predictions"):
        tuned(clf, max_drop=0.02, scoring=make_scorer(nothing)).fit(*held_out)


def test_a_scorer_that_takes_no_weights_is_told_from_one_that_is_none(clf, held_out):
    weight = np.random.default_rng(0).uniform(size=len(held_out[0]))
    search = tuned(clf, max_drop=0.02, scoring=plain)
    search.fit(*held_out)
    with pytest.raises(TypeError, match="and sample_weight, which were given"):
        search.fit(*held_out, weight)


# What the scores are


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_the_frontier_has_the_scores_of_the_predictions(clf, held_out, score, weighted):
    (X, y), (scoring, metric) = held_out, score
    weight = np.ones(len(X))
    if weighted:
        weight = np.random.default_rng(0).uniform(size=len(X))
    search = tuned(clf, max_drop=0.02, scoring=scoring).fit(X, y, weight)
    estimator, frontier = search.estimator_, search.frontier_

    def measured(threshold):
        estimator.set_params(threshold=threshold)
        predicted, stage = estimator.predict(X), estimator.predict_exit(X)
        cost = np.average(estimator.stage_cost_[stage], weights=weight)
        return metric(y, predicted, sample_weight=weight), cost

    for i in range(0, len(frontier["score"]), 5):
        expected = frontier["score"][i], frontier["cost"][i]
        assert measured(frontier["threshold"][i]) == pytest.approx(expected)
    best = search.best_score_, search.best_cost_
    assert measured(search.best_threshold_) == pytest.approx(best)
    assert measured(np.inf)[0] == pytest.approx(search.full_score_)
    assert len(frontier["score"]) > 10


def test_rising_cost_buys_a_better_expected_score(clf, held_out, score):
    frontier = tuned(clf, max_drop=0.02, scoring=score[0]).fit(*held_out).frontier_
    assert (np.diff(frontier["expected_score"]) > 0).all()
    assert (np.diff(frontier["cost"]) > 0).all()


@pytest.mark.parametrize("name", ["f1_macro", "made", "one class"])
def test_a_score_that_is_no_mean_is_its_own_expectation(clf, held_out, name):
    scoring = SCORES[name][0]
    frontier = tuned(clf, max_drop=0.02, scoring=scoring).fit(*held_out).frontier_
    assert_array_equal(frontier["expected_score"], frontier["score"])


def test_what_is_chosen_differs_with_the_score(clf, held_out):
    (X, y), found = held_out, {}
    for scoring in ("accuracy", "balanced_accuracy"):
        search = tuned(clf, max_cost=0.6, scoring=scoring, per_class=True).fit(X, y)
        found[scoring] = balanced_accuracy_score(y, search.predict(X))
    assert found["balanced_accuracy"] > found["accuracy"]


def test_a_scorer_of_accuracy_chooses_as_well_as_accuracy(clf, held_out):
    by_name = tuned(clf, max_drop=0.02).fit(*held_out)
    scorer = make_scorer(accuracy_score)
    by_scorer = tuned(clf, max_drop=0.02, scoring=scorer).fit(*held_out)
    assert by_scorer.best_score_ == pytest.approx(by_name.best_score_)
    assert by_scorer.best_cost_ == pytest.approx(by_name.best_cost_)


def test_scores_are_those_of_samples_that_the_means_have_not_seen(data, score):
    X, y = data
    params = {"metric": "mahalanobis", "shrinkage": 0.1, "calibration": None}
    clf = E2CMClassifier(ToyExtractor(), final="class_means", **params)
    folds = [
        (np.flatnonzero(np.arange(400) % 4 != k), np.arange(k, 400, 4))
        for k in range(4)
    ]
    search = TunedExitsCV(
        clf, max_drop=0.02, scoring=score[0], cv=folds, random_state=0
    ).fit(X, y)
    predicted = np.empty_like(y)
    for train, test in folds:
        clf.set_params(threshold=search.best_threshold_).fit(X[train], y[train])
        predicted[test] = clf.predict(X[test])
    assert score[1](y, predicted) == pytest.approx(search.best_score_)


# Weights


def test_samples_of_weight_two_are_two_samples(clf, held_out, score):
    (X, y), scoring = held_out, score[0]
    weight = np.random.default_rng(0).integers(0, 4, size=len(X))
    weighted = tuned(clf, max_drop=0.1, scoring=scoring).fit(X, y, weight)
    repeated = tuned(clf, max_drop=0.1, scoring=scoring).fit(
        X.repeat(weight, axis=0), y.repeat(weight)
    )
    # Not the thresholds: of those that give the same, rounding chooses.
    for part in ("cost", "score", "expected_score"):
        assert_allclose(weighted.frontier_[part], repeated.frontier_[part])
    assert weighted.full_score_ == pytest.approx(repeated.full_score_)
    assert weighted.best_cost_ == pytest.approx(repeated.best_cost_)


def test_weights_change_what_is_chosen(clf, held_out, score):
    X, y = held_out
    weight = np.where(y == "dog", 10.0, 1.0)
    search = tuned(clf, max_cost=0.6, scoring=score[0])
    alike = search.fit(X, y).best_threshold_
    assert (search.fit(X, y, weight).best_threshold_ != alike).any()


def test_the_size_of_the_weights_does_not_matter(clf, held_out, score):
    X, y = held_out
    weight = np.random.default_rng(0).uniform(size=len(X))
    search = tuned(clf, max_drop=0.02, scoring=score[0])
    small = search.fit(X, y, weight).frontier_["score"]
    assert_allclose(search.fit(X, y, 1024 * weight).frontier_["score"], small)


# Scorers


def test_some_candidates_are_scored_the_full_network_among_them(
    clf, held_out, monkeypatch
):
    (X, y), asked = held_out, []

    def judge(y_true, y_pred):
        asked.append(y_pred)
        return f1_macro(y_true, y_pred)

    monkeypatch.setattr(_scoring, "_MOST_SCORED", 7)
    search = tuned(clf, max_drop=0.1, scoring=make_scorer(judge)).fit(X, y)
    assert len(asked) == 7
    full = search.estimator_.set_params(threshold=np.inf).predict(X)
    assert_array_equal(asked[-1], full)
    assert search.full_score_ == pytest.approx(f1_macro(y, full))


def test_a_scorer_may_be_a_function_of_an_estimator(clf, held_out):
    def predicts_dogs(estimator, X, y):
        assert estimator.classes_.tolist() == NAMES.tolist()
        return (estimator.predict(X) == "dog").mean()

    X, y = held_out
    search = tuned(clf, max_drop=1.0, scoring=predicts_dogs).fit(X, y)
    assert search.best_score_ == pytest.approx((search.predict(X) == "dog").mean())


@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc_ovr"])
def test_scores_of_probabilities_are_refused(clf, held_out, scoring):
    with pytest.raises(ValueError, match="needs more than predictions"):
        tuned(clf, max_drop=0.02, scoring=scoring).fit(*held_out)


def test_a_score_that_scikit_learn_does_not_know_is_refused(clf, held_out):
    with pytest.raises(ValueError, match="'sharpness' is not a valid scoring value"):
        tuned(clf, max_drop=0.02, scoring="sharpness").fit(*held_out)


def test_a_score_must_be_a_name_or_a_scorer(clf, held_out):
    with pytest.raises(ValueError, match="'scoring' parameter of TunedExitsCV must be"):
        tuned(clf, max_drop=0.02, scoring=3).fit(*held_out)
