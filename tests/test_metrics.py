"""Accuracy against cost, and the choice between candidates."""

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm import E2CMClassifier
from sk_e2cm.metrics import (
    accuracy_cost_scorer,
    best_within_cost,
    calibration_error,
    cheapest_within_drop,
)
from sk_e2cm.testing import CountingExtractor, ToyExtractor

NAN = np.nan
THRESHOLDS = np.linspace(0.3, 0.99, 20)
FOLDS = KFold(5, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def data():
    return make_classification(
        n_samples=300,
        n_features=12,
        n_informative=8,
        n_classes=3,
        class_sep=1.5,
        random_state=0,
    )


@pytest.fixture(scope="module")
def clf(data):
    X, y = data
    return E2CMClassifier(ToyExtractor(3), threshold=0.6).fit(X[:200], y[:200])


def accuracy(predicted, y, weight=None):
    return np.average(np.asarray(predicted) == np.asarray(y), weights=weight)


# The scorer


def test_samples_leave_at_every_stage(clf, data):
    # Otherwise the scores below would show little.
    stages = np.bincount(clf.predict_exit(data[0]), minlength=3)
    assert (stages > 10).all()


@pytest.mark.parametrize("threshold", [0.6, [0.8, 0.5], np.inf, 0.0])
def test_scores_are_those_of_predict_and_cost(clf, data, threshold):
    X, y = data
    clf = pickle.loads(pickle.dumps(clf)).set_params(threshold=threshold)
    scores = accuracy_cost_scorer(clf, X, y)
    assert set(scores) == {"accuracy", "cost", "full_accuracy"}
    assert_allclose(scores["accuracy"], accuracy(clf.predict(X), y))
    assert_allclose(scores["cost"], clf.cost(X))
    clf.set_params(threshold=np.inf)
    assert_allclose(scores["full_accuracy"], accuracy(clf.predict(X), y))


def test_scores_are_plain_numbers(clf, data):
    assert all(type(s) is float for s in accuracy_cost_scorer(clf, *data).values())


def test_scores_of_weighted_samples_are_those_of_repeated_ones(clf, data):
    X, y = data
    weight = np.random.default_rng(0).integers(1, 4, len(X))
    weighted = accuracy_cost_scorer(clf, X, y, sample_weight=weight)
    repeated = accuracy_cost_scorer(clf, X.repeat(weight, axis=0), y.repeat(weight))
    assert weighted == pytest.approx(repeated, rel=1e-9)
    assert weighted != pytest.approx(accuracy_cost_scorer(clf, X, y), rel=1e-9)


@pytest.mark.parametrize("as_y", [list, pd.Series, lambda y: y.astype(object)])
def test_labels_may_be_text_in_any_container(data, as_y):
    X, y = data
    names = np.array(["bird", "cat", "dog"])[y]
    clf = E2CMClassifier(ToyExtractor(3), threshold=0.6).fit(X, names)
    scores = accuracy_cost_scorer(clf, X, as_y(names))
    assert_allclose(scores["accuracy"], accuracy(clf.predict(X), names))
    assert scores["full_accuracy"] > 0.5


@pytest.mark.parametrize("as_y", [lambda y: y[:1], lambda y: y[:-1]])
def test_labels_of_another_length_are_refused(clf, data, as_y):
    X, y = data
    with pytest.raises(ValueError):  # noqa: PT011
        accuracy_cost_scorer(clf, X, as_y(y))


def test_labels_may_be_a_column(clf, data):
    X, y = data
    expected = accuracy_cost_scorer(clf, X, y)
    assert accuracy_cost_scorer(clf, X, y[:, None]) == expected


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_scores_of_a_pipeline_are_those_of_its_last_step(data, n_steps):
    X, y = data
    scalers = [StandardScaler() for _ in range(n_steps - 1)]
    pipeline = make_pipeline(*scalers, E2CMClassifier(ToyExtractor(3), threshold=0.6))
    pipeline.fit(X, y)
    scores = accuracy_cost_scorer(pipeline, X, y)
    assert_allclose(scores["accuracy"], accuracy(pipeline.predict(X), y))
    transformed = StandardScaler().fit_transform(X) if scalers else X
    assert_allclose(scores["cost"], pipeline[-1].cost(transformed))


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())],
)
def test_estimators_without_early_exits_are_refused(data, estimator):
    with pytest.raises(TypeError, match="early exits, got LogisticRegression"):
        accuracy_cost_scorer(estimator.fit(*data), *data)


# The calibration error


def calibration_error_by_loop(y, proba, classes, n_bins):
    """Sort, deal into bins of equal size, and compare; one sample at a time."""
    samples = sorted(
        (max(row), classes[row.tolist().index(max(row))] == label)
        for row, label in zip(proba, y, strict=True)
    )
    error, start = 0.0, 0
    for b in range(n_bins):
        size = len(samples) // n_bins + (b < len(samples) % n_bins)
        confidence = sum(c for c, _ in samples[start : start + size])
        n_right = sum(right for _, right in samples[start : start + size])
        error += abs(confidence - n_right) / len(samples)
        start += size
    return error


@pytest.mark.parametrize("n_bins", [1, 2, 7, 15, 200])
@pytest.mark.parametrize("classes", [[0, 1, 2, 3], ["d", "a", "c", "b"]], ids=str)
def test_the_calibration_error_is_what_a_plain_loop_finds(n_bins, classes):
    rng = np.random.default_rng(0)
    proba, y = rng.dirichlet(np.ones(4), size=200), rng.choice(classes, size=200)
    error = calibration_error(y, proba, classes=classes, n_bins=n_bins)
    assert type(error) is float
    assert_allclose(error, calibration_error_by_loop(y, proba, classes, n_bins))


def test_by_default_there_are_fifteen_bins_and_columns_are_sorted_labels():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(3), size=100)
    y = np.array(["b", "a", "c"])[rng.integers(0, 3, size=100)]
    expected = calibration_error_by_loop(y, proba, ["a", "b", "c"], 15)
    assert_allclose(calibration_error(y.tolist(), proba.tolist()), expected)


def test_fewer_samples_than_bins_are_a_bin_each():
    proba = [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]
    assert_allclose(calibration_error([0, 1, 1], proba), (0.1 + 0.4 + 0.8) / 3)


def test_certainty_that_is_right_has_no_error_and_that_is_wrong_has_all():
    y = np.arange(30) % 3
    assert calibration_error(y, np.eye(3)[y]) == 0
    assert calibration_error(y, np.eye(3)[y - 1]) == 1


def test_samples_that_are_equally_sure_count_alike_whatever_their_order():
    y = np.repeat([0, 1], [780, 220])
    proba = np.tile([0.75, 0.25], (1000, 1))
    # By hand: .75 are said to be right, and .78 are.
    for order in (np.arange(1000), np.random.default_rng(0).permutation(1000)):
        assert_allclose(calibration_error(y[order], proba[order]), 0.03, atol=1e-12)


def test_calibrated_probabilities_err_less(data):
    X, y = data
    errors = {}
    for calibration in (None, "temperature"):
        params = {"metric": "euclidean", "calibration": calibration}
        clf = E2CMClassifier(ToyExtractor(3), **params)
        proba = clf.fit(X[:200], y[:200]).exit_proba(X[200:])
        errors[calibration] = calibration_error(y[200:], proba[:, 0], n_bins=5)
    assert errors["temperature"] < errors[None]


def test_probabilities_of_other_samples_or_classes_are_refused():
    proba = np.full((4, 3), 1 / 3)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        calibration_error([0, 1, 2], proba)
    with pytest.raises(ValueError, match="classes"):
        calibration_error([0, 1, 1, 0], proba)


# The choice


def results(accuracy, cost, full=None):
    """Return what matters of ``cv_results_``."""
    found = {"mean_test_accuracy": np.array(accuracy), "mean_test_cost": np.array(cost)}
    return found if full is None else found | {"mean_test_full_accuracy": full}


@pytest.mark.parametrize(
    ("max_cost", "accuracy", "cost", "best"),
    [
        (0.5, [0.9, 0.8, 0.7], [1.0, 0.5, 0.2], 1),
        (0.4, [0.9, 0.8, 0.7], [1.0, 0.5, 0.2], 2),
        (1.0, [0.9, 0.8, 0.7], [1.0, 0.5, 0.2], 0),
        (9.0, [0.7, 0.8, 0.9], [1.0, 0.5, 0.2], 2),
        (0.5, [0.9, 0.8, 0.8], [1.0, 0.5, 0.2], 2),  # of equals the cheapest
        (0.5, [0.9, 0.8, 0.8], [1.0, 0.2, 0.2], 1),  # then the first
        (0.5, [0.1, 0.9, 0.2], [0.5, 0.6, 0.5], 2),
        (0.5, [NAN, 0.8], [NAN, 0.5], 1),
        (0.5, [NAN, 0.8], [0.1, 0.5], 1),
        (0.5, [0.9, 0.8], [NAN, 0.5], 1),
    ],
)
def test_the_most_accurate_of_the_affordable_is_chosen(max_cost, accuracy, cost, best):
    chosen = best_within_cost(max_cost)(results(accuracy, cost))
    assert chosen == best
    assert type(chosen) is int


@pytest.mark.parametrize(
    ("max_drop", "accuracy", "cost", "full", "best"),
    [
        (0.02, [0.9, 0.89, 0.7], [1.0, 0.5, 0.2], [0.9] * 3, 1),
        (0.30, [0.9, 0.89, 0.7], [1.0, 0.5, 0.2], [0.9] * 3, 2),
        (0.00, [0.9, 0.89, 0.7], [1.0, 0.5, 0.2], [0.9] * 3, 0),
        (0.00, [0.9, 0.95, 0.7], [1.0, 0.5, 0.2], [0.9] * 3, 1),  # gains are welcome
        (0.02, [0.9, 0.89, 0.88], [1.0, 0.5, 0.5], [0.9] * 3, 1),  # equals: accuracy
        (0.02, [0.9, 0.89, 0.89], [1.0, 0.5, 0.5], [0.9] * 3, 1),  # then the first
        (0.02, [0.9, 0.79], [1.0, 0.5], [0.9, 0.8], 1),  # each against its own network
        (0.02, [0.9, 0.89, 0.7], [1.0, 0.5, 0.2], None, 1),
        (0.02, [NAN, 0.9, 0.89], [NAN, 1.0, 0.5], [NAN, 0.9, 0.9], 2),
        (0.02, [NAN, 0.9, 0.89], [0.1, 1.0, 0.5], None, 2),
        (-0.01, [0.9, 0.92], [0.5, 1.0], [0.9] * 2, 1),
    ],
)
def test_the_cheapest_of_the_accurate_is_chosen(max_drop, accuracy, cost, full, best):
    chosen = cheapest_within_drop(max_drop)(results(accuracy, cost, full))
    assert chosen == best
    assert type(chosen) is int


@pytest.mark.parametrize(
    ("full", "accuracy", "max_drop"),
    [(0.9, 0.89, 0.01), (0.75, 0.7, 0.05), (0.93, 0.92, 0.01)],
)
def test_a_drop_of_exactly_what_is_allowed_is_allowed(full, accuracy, max_drop):
    choose = cheapest_within_drop(max_drop)
    assert choose(results([full, accuracy], [1.0, 0.5], [full] * 2)) == 1


def test_a_cost_of_exactly_what_is_allowed_is_allowed():
    mean_cost = np.mean([0.1, 0.2])
    assert mean_cost > 0.15  # in its last bit
    assert best_within_cost(0.15)(results([0.9, 0.8], [mean_cost, 0.1])) == 0


def test_nothing_affordable_is_an_error_that_names_the_cheapest():
    with pytest.raises(ValueError, match=r"costs at most 0.1: the cheapest costs 0.25"):
        best_within_cost(0.1)(results([0.9, 0.8, NAN], [0.5, 0.25, NAN]))


def test_nothing_accurate_is_an_error_that_names_the_least_loss():
    with pytest.raises(ValueError, match=r"loses at most 0.01: the best loses 0.05"):
        cheapest_within_drop(0.01)(results([0.85, 0.8], [0.5, 0.2], [0.9, 0.9]))


@pytest.mark.parametrize("choose", [best_within_cost(1), cheapest_within_drop(1)])
def test_a_search_whose_candidates_have_all_failed_is_an_error(choose):
    with pytest.raises(ValueError, match="has failed"):
        choose(results([NAN, NAN], [NAN, NAN], [NAN, NAN]))


@pytest.mark.parametrize("missing", ["mean_test_accuracy", "mean_test_cost"])
@pytest.mark.parametrize("choose", [best_within_cost(1), cheapest_within_drop(1)])
def test_results_of_another_scorer_are_refused(choose, missing):
    found = results([0.9], [0.5])
    del found[missing]
    with pytest.raises(ValueError, match=f"lack .*{missing}.*accuracy_cost_scorer"):
        choose(found)


@pytest.mark.parametrize("choose", [best_within_cost(0.5), cheapest_within_drop(0.1)])
def test_choices_can_be_pickled(choose):
    found = results([0.9, 0.8, 0.85], [1.0, 0.5, 0.5])
    assert pickle.loads(pickle.dumps(choose))(found) == choose(found) == 2


# Searches


def search(extractor, data, memory, **params):
    return GridSearchCV(
        E2CMClassifier(extractor, memory=str(memory)),
        {"threshold": THRESHOLDS},
        cv=FOLDS,
        error_score="raise",
        **params,
    ).fit(*data)


TWO_SCORES = {"scoring": accuracy_cost_scorer, "refit": best_within_cost(0.8)}


@pytest.mark.parametrize("params", [TWO_SCORES, {}], ids=["two scores", "default"])
def test_a_search_runs_the_network_once_for_each_fold(data, tmp_path, params):
    extractor = CountingExtractor(ToyExtractor(3))
    search(extractor, data, tmp_path, **params)
    # Five folds of 240 + 60 samples, and 300 for the estimator that is kept.
    assert_array_equal(extractor.rows, [6 * 300] * 3)


def test_a_search_with_other_thresholds_runs_nothing_again(data, tmp_path):
    extractor = CountingExtractor(ToyExtractor(3))
    search(extractor, data, tmp_path, **TWO_SCORES)
    extractor.rows[:] = 0
    other = cheapest_within_drop(0.05)
    found = search(extractor, data, tmp_path, scoring=accuracy_cost_scorer, refit=other)
    assert_array_equal(extractor.rows, [0, 0, 0])
    assert found.best_params_["threshold"] in THRESHOLDS


def test_a_search_finds_what_fitting_by_hand_finds(data, tmp_path):
    X, y = data
    found = search(ToyExtractor(3), data, tmp_path, **TWO_SCORES)
    expected = np.zeros((5, len(THRESHOLDS), 2))
    for fold, (train, test) in enumerate(FOLDS.split(X)):
        for i, threshold in enumerate(THRESHOLDS):
            clf = E2CMClassifier(ToyExtractor(3), threshold=threshold)
            clf.fit(X[train], y[train])
            right = accuracy(clf.predict(X[test]), y[test])
            expected[fold, i] = right, clf.cost(X[test])
    accuracies, costs = expected.mean(axis=0).T
    assert_allclose(found.cv_results_["mean_test_accuracy"], accuracies, atol=1e-12)
    assert_allclose(found.cv_results_["mean_test_cost"], costs, atol=1e-12)
    assert (costs <= 0.8).any()
    assert (costs > 0.8).any()
    assert costs[found.best_index_] <= 0.8
    assert accuracies[found.best_index_] == accuracies[costs <= 0.8].max()


def test_the_default_score_is_the_accuracy_with_and_without_a_cache(data, tmp_path):
    X, y = data
    weight = np.random.default_rng(0).uniform(size=len(X))
    for memory in (None, str(tmp_path)):
        clf = E2CMClassifier(ToyExtractor(3), threshold=0.6, memory=memory).fit(X, y)
        expected = accuracy(clf.predict(X), y, weight)
        assert_allclose(clf.score(X, y, sample_weight=weight), expected)
