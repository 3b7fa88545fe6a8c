"""What stages predict for samples that their class means have not seen."""

import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, PredefinedSplit, StratifiedKFold

from sk_e2cm import (
    E2CMClassifier,
    E2CMClusterer,
    RiskControl,
    TorchExtractor,
    TunedExitsCV,
)
from sk_e2cm._tuning import _held_out
from sk_e2cm._tuning._folds import folds_of
from sk_e2cm._tuning._held_out import (
    Data,
    HeldOutPredictions,
    cross_predict,
    predict_held_out,
)
from sk_e2cm.testing import CountingExtractor, ToyExtractor

EXACT = {
    "metric": "mahalanobis",
    "shrinkage": 0.1,
    "calibration": None,
    "final": "class_means",
}
SPLITTERS = {
    "k-fold": KFold(4, shuffle=True, random_state=0),
    "stratified": StratifiedKFold(3),
    "some never": PredefinedSplit(np.arange(240) % 4 - 1),
}


@pytest.fixture(scope="module")
def data():
    X, y = make_classification(
        n_samples=240,
        n_features=12,
        n_informative=8,
        n_classes=3,
        class_sep=1.5,
        random_state=0,
    )
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=len(X))
    return Data(X, y, weight)


def folds_by(cv, data):
    return folds_of(cv, data.X, data.y, np.random.RandomState(0))


def probabilities_by_loop(clf, data, cv):
    """Return the probabilities of all stages, and who has any."""
    proba = np.full((len(data.X), 3, 3), np.nan)
    for train, test in cv.split(data.X, data.y):
        fitted = clone(clf).fit(data.X[train], data.y[train], data.weight[train])
        proba[test] = fitted.exit_proba(data.X[test])
    return proba, ~np.isnan(proba[:, 0, 0])


# One pass


def promise(alpha=0.5):
    return RiskControl(alpha, calibration_size=0.4)


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
@pytest.mark.parametrize(
    "params",
    [
        {"cv": 5},
        {"cv": 0.3},
        {"cv": 0.3, "refit": False},
        {"cv": SPLITTERS["some never"]},
        {"cv": 5, "risk": promise()},
        {"cv": 0.3, "refit": False, "risk": promise()},
        {"cv": 5, "per_class": True},
        {"cv": 5, "scoring": "f1_macro"},
    ],
    ids=str,
)
def test_each_sample_runs_through_the_network_once(data, metric, params):
    extractor = CountingExtractor(ToyExtractor())
    clf = E2CMClassifier(extractor, metric=metric)
    TunedExitsCV(clf, max_drop=0.2, random_state=0, **params).fit(data.X, data.y)
    assert extractor.rows.tolist() == [240, 240, 240]


@pytest.mark.parametrize("risk", [None, promise()], ids=["any", "promised"])
@pytest.mark.parametrize("labels", [True, False], ids=["y", "no y"])
def test_tuning_a_fitted_estimator_runs_the_network_once(data, risk, labels):
    extractor = CountingExtractor(ToyExtractor())
    clf = E2CMClassifier(extractor).fit(data.X[:100], data.y[:100])
    extractor.rows[:] = 0
    search = TunedExitsCV(clf, max_drop=0.2, risk=risk, cv="prefit", random_state=0)
    search.fit(data.X[100:], data.y[100:] if labels else None)
    assert extractor.rows.tolist() == [140, 140, 140]


@pytest.mark.parametrize(("cached", "n_runs"), [(False, 2), (True, 1)])
def test_without_labels_the_network_runs_to_give_them(data, tmp_path, cached, n_runs):
    extractor = CountingExtractor(ToyExtractor())
    clf = E2CMClassifier(extractor, memory=tmp_path if cached else None)
    X = np.ascontiguousarray(data.X[:, :3])
    TunedExitsCV(clf, max_drop=0.99, random_state=0).fit(X)
    assert extractor.rows.tolist() == [n_runs * 240] * 3


# Samples held out


@pytest.mark.parametrize("cv", SPLITTERS.values(), ids=SPLITTERS)
def test_predictions_are_those_of_an_estimator_that_has_not_seen_the_fold(data, cv):
    clf = E2CMClassifier(ToyExtractor(), **EXACT)
    expected, held_out = probabilities_by_loop(clf, data, cv)
    found = cross_predict(clone(clf), data, folds_by(cv, data))
    proba = expected[held_out].transpose(1, 0, 2)
    assert_allclose(found.predictions.confidence, proba.max(axis=2), rtol=1e-9)
    assert_array_equal(found.predictions.label, proba.argmax(axis=2))
    assert_array_equal(found.codes, data.y[held_out])
    assert_array_equal(found.weight, data.weight[held_out])
    for k in range(3):
        of_class = expected[held_out & (data.y == k), :2].sum(axis=(0, 1))
        assert_allclose(
            found.predictions.class_proba(found.codes)[k], of_class, rtol=1e-9
        )


@pytest.mark.parametrize("cv", SPLITTERS.values(), ids=SPLITTERS)
def test_euclidean_predictions_follow_the_papers_formula(data, cv):
    paper = {"metric": "euclidean", "calibration": None}
    clf = E2CMClassifier(ToyExtractor(), final="class_means", **paper)
    found = cross_predict(clf, data, folds_by(cv, data))
    X, y, weight = data.X, data.y, data.weight
    held_out = np.zeros(len(X), dtype=bool)
    expected = np.empty((3, len(X), 3))
    for stage, n_seen in enumerate([4, 8, 12]):
        f = X[:, :n_seen]

        def distances(rows, f=f):
            means = [
                np.average(
                    f[rows][y[rows] == k], axis=0, weights=weight[rows][y[rows] == k]
                )
                for k in range(3)
            ]
            return np.linalg.norm(f[:, None] - np.array(means), axis=2)

        # The scale is that of all samples: it says nothing of the classes.
        scale = np.average(distances(np.arange(len(X))), axis=0, weights=weight)
        for train, test in cv.split(X, y):
            e = np.exp(-distances(train)[test] / scale)
            expected[stage, test] = e / e.sum(axis=1, keepdims=True)
            held_out[test] = True
    expected = expected[:, held_out]
    assert_allclose(found.predictions.confidence, expected.max(axis=2), rtol=1e-9)
    assert_array_equal(found.predictions.label, expected.argmax(axis=2))


def test_a_final_classifier_has_not_seen_the_fold(data):
    cv = SPLITTERS["k-fold"]
    clf = E2CMClassifier(ToyExtractor(), **EXACT | {"final": LogisticRegression()})
    expected, _ = probabilities_by_loop(clf, data, cv)
    found = cross_predict(clone(clf), data, folds_by(cv, data))
    assert_allclose(found.predictions.confidence[-1], expected[:, -1].max(axis=1))
    assert_array_equal(found.predictions.label[-1], expected[:, -1].argmax(axis=1))


def test_the_networks_own_predictions_are_those_of_the_network(data):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(12, 5), torch.nn.Linear(5, 3))
    X = data.X.astype(np.float32)
    clf = E2CMClassifier(TorchExtractor(network, ["0"]), final="network")
    found = cross_predict(clf, Data(X, data.y, data.weight), np.arange(240) % 5)
    with torch.no_grad():
        proba = network(torch.from_numpy(X)).double().softmax(dim=1).numpy()
    assert_allclose(found.predictions.confidence[-1], proba.max(axis=1), rtol=1e-5)
    assert_array_equal(found.predictions.label[-1], proba.argmax(axis=1))


def test_a_held_out_samples_own_label_does_not_calibrate_its_predictions(data):
    clf = E2CMClassifier(ToyExtractor(), **EXACT | {"calibration": "dirichlet"})
    folds = np.where(np.arange(240) < 120, -1, 0)
    first = cross_predict(clone(clf), data, folds)
    relabelled = data.y.copy()
    relabelled[200] = (relabelled[200] + 1) % 3
    second = cross_predict(clone(clf), Data(data.X, relabelled, data.weight), folds)
    before, after = first.predictions.confidence, second.predictions.confidence
    assert_array_equal(before[:, 80], after[:, 80])
    # Others are calibrated by it.
    assert (before != after).any(axis=0).sum() > 50


def test_the_estimator_is_fitted_to_all_samples(data):
    clf = E2CMClassifier(ToyExtractor(), **EXACT)
    found = cross_predict(clone(clf), data, folds_by(5, data))
    expected = clf.fit(data.X, data.y, data.weight).exit_proba(data.X)
    assert_allclose(found.estimator.exit_proba(data.X), expected, rtol=1e-9)


def test_past_the_working_memory_some_are_predicted_and_all_are_learnt_from(data):
    cv = SPLITTERS["k-fold"]
    clf = E2CMClassifier(ToyExtractor(), **EXACT)
    expected, _ = probabilities_by_loop(clf, data, cv)
    with sklearn.config_context(working_memory=0.02):
        found = cross_predict(clone(clf), data, folds_by(cv, data))
    assert 100 <= len(found.codes) < 200
    # All weights differ: they say which samples these are.
    rows = [np.flatnonzero(data.weight == weight).item() for weight in found.weight]
    confidence = expected[rows].max(axis=2).T
    assert_allclose(found.predictions.confidence, confidence, rtol=1e-9)
    assert_array_equal(found.codes, data.y[rows])


@pytest.mark.parametrize("risk", [None, promise()], ids=["any", "promised"])
def test_past_the_working_memory_thresholds_are_chosen(data, risk):
    clf = E2CMClassifier(ToyExtractor())
    search = TunedExitsCV(clf, max_drop=0.05, risk=risk, random_state=0)
    with sklearn.config_context(working_memory=0.001):
        search.fit(data.X, data.y)
    assert search.full_score_ - search.best_score_ <= 0.05 + 1e-9
    # Of a hundred samples, each is a point.
    assert search.full_score_ * 100 == pytest.approx(round(search.full_score_ * 100))


# A fitted estimator


@pytest.fixture
def fitted(data):
    return E2CMClassifier(ToyExtractor()).fit(data.X[:100], data.y[:100])


@pytest.mark.parametrize("most", [2**24, 9 * 7])
def test_a_fitted_estimator_is_asked_for_all_probabilities(
    fitted, data, most, monkeypatch
):
    monkeypatch.setattr(_held_out, "_MOST_PROBABILITIES", most)
    found = predict_held_out(fitted, data)
    proba = fitted.exit_proba(data.X)
    assert_allclose(found.predictions.confidence, proba.max(axis=2).T)
    assert_array_equal(found.predictions.label, proba.argmax(axis=2).T)
    assert_array_equal(found.codes, data.y)
    for k in range(3):
        of_class = proba[data.y == k, :2].sum(axis=(0, 1))
        assert_allclose(found.predictions.class_proba(found.codes)[k], of_class)


def test_without_labels_what_the_last_stage_says_is_right(fitted, data):
    found = predict_held_out(fitted, Data(data.X, None, data.weight))
    assert_array_equal(found.codes, fitted.exit_proba(data.X)[:, -1].argmax(axis=1))
    assert not found.losses("accuracy")[-1].any()


def test_what_is_spoilt_is_right_at_the_end_and_wrong_before(fitted, data):
    found = predict_held_out(fitted, data)
    label = found.predictions.label
    for stage in range(3):
        for i in range(len(data.X)):
            spoilt = label[2, i] == data.y[i] and label[stage, i] != data.y[i]
            assert found.spoilt()[stage, i] == spoilt
    assert found.spoilt()[0].any()


def test_the_problem_costs_what_the_estimator_says(fitted, data):
    found = predict_held_out(fitted, data)
    problem = found.problem(found.losses("accuracy"))
    for threshold in ([0.9, 0.9], [np.inf, 0.9], [np.inf, np.inf]):
        costs = problem.stage_cost(np.array(threshold)[:, None])
        assert_allclose(costs, fitted.set_params(threshold=threshold).stage_cost_)
    assert_allclose(problem.weight, data.weight / data.weight.sum())


# Clusters


def clusterer(**params):
    return E2CMClusterer(ToyExtractor(), n_clusters=3, random_state=0, **params)


@pytest.mark.parametrize("cv", SPLITTERS.values(), ids=SPLITTERS)
def test_exits_that_have_not_seen_the_fold_predict_clusters_found_in_all(data, cv):
    X, weight = data.X, data.weight
    unlabelled = Data(X, None, weight)
    paper = clusterer(metric="euclidean", calibration=None)
    found = cross_predict(paper, unlabelled, folds_by(cv, data))
    codes = KMeans(3, random_state=0).fit(X, sample_weight=weight).labels_
    expected, held_out = np.empty((2, len(X), 3)), np.zeros(len(X), dtype=bool)
    for stage, n_seen in enumerate([4, 8]):
        f = X[:, :n_seen]

        def distances(rows, f=f):
            means = []
            for k in range(3):
                inside = rows[codes[rows] == k]
                means.append(weight[inside] @ f[inside] / weight[inside].sum())
            return np.linalg.norm(f[:, None] - np.array(means), axis=2)

        scale = np.average(distances(np.arange(len(X))), axis=0, weights=weight)
        for train, test in cv.split(X, data.y):
            e = np.exp(-distances(train)[test] / scale)
            expected[stage, test] = e / e.sum(axis=1, keepdims=True)
            held_out[test] = True
    expected, codes = expected[:, held_out], codes[held_out]
    assert_allclose(found.predictions.confidence[:2], expected.max(axis=2), rtol=1e-9)
    assert_array_equal(found.predictions.label[:2], expected.argmax(axis=2))
    assert_array_equal(found.predictions.confidence[2], 1)
    assert_array_equal(found.predictions.label[2], codes)
    assert_array_equal(found.codes, codes)
    assert_array_equal(found.weight, weight[held_out])
    for k in range(3):
        of_cluster = expected[:, codes == k].sum(axis=(0, 1))
        assert_allclose(
            found.predictions.class_proba(found.codes)[k], of_cluster, rtol=1e-9
        )


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
@pytest.mark.parametrize("calibration", ["temperature", "dirichlet"])
def test_cross_prediction_leaves_a_clusterer_as_a_fit_does(data, metric, calibration):
    params = {"metric": metric, "calibration": calibration}
    folds = folds_by(5, data)
    held_out = cross_predict(
        clusterer(**params), Data(data.X, None, data.weight), folds
    )
    expected = clusterer(**params).fit(data.X, sample_weight=data.weight)
    assert_array_equal(held_out.codes, expected.labels_)
    for found, others in zip(
        held_out.estimator.stage_centers_, expected.stage_centers_, strict=True
    ):
        assert_allclose(found, others, rtol=1e-9)


def test_past_the_working_memory_some_are_predicted_and_all_are_clustered(data):
    folds = folds_by(5, data)
    with sklearn.config_context(working_memory=0.012):
        found = cross_predict(clusterer(), Data(data.X, None, data.weight), folds)
    assert 100 <= len(found.codes) < 200
    rows = [np.flatnonzero(data.weight == weight).item() for weight in found.weight]
    k_means = KMeans(3, random_state=0).fit(data.X, sample_weight=data.weight)
    assert_array_equal(found.codes, k_means.labels_[rows])
    assert_array_equal(found.estimator.labels_, k_means.labels_)
    # The centroids of the exits are those of some.
    for k in range(3):
        inside = np.array(rows)[found.codes == k]
        mean = np.average(data.X[inside, :4], axis=0, weights=data.weight[inside])
        assert_allclose(found.estimator.stage_centers_[0][k], mean)


def test_what_is_right_of_clusters_is_what_the_last_stage_says(data):
    fitted = clusterer().fit(data.X[:100])
    found = predict_held_out(fitted, Data(data.X, None, data.weight))
    assert_array_equal(found.codes, fitted.clusterer_.predict(data.X))
    assert_array_equal(found.predictions.label[-1], found.codes)
    assert_array_equal(found.spoilt(), found.losses("accuracy"))


# Data


@pytest.mark.parametrize("rows", [[2, 5], [2, 3, 4], [0], []], ids=str)
def test_samples_are_selected_with_their_labels_and_weights(data, rows):
    rows = np.array(rows, dtype=int)
    taken = data.take(rows)
    assert_array_equal(taken.X, data.X[rows])
    assert_array_equal(taken.y, data.y[rows])
    assert_array_equal(taken.weight, data.weight[rows])
    assert Data(data.X, None, data.weight).take(rows).y is None
    is_copy = len(rows) < 1 or rows[-1] - rows[0] >= len(rows)
    assert np.shares_memory(taken.X, data.X) != is_copy


@pytest.mark.parametrize("most", [1, 20_000, 2**24])
def test_samples_that_are_not_among_those_selected_are_not_predicted(
    fitted, data, most, monkeypatch
):
    monkeypatch.setattr("sk_e2cm._tuning._held_out._COPIED_BYTES", most)
    rows = np.flatnonzero(data.y == 1)
    found = predict_held_out(fitted, data.only(data.y == 1))
    expected = predict_held_out(fitted, data.take(rows))
    assert_array_equal(found.weight, data.weight[rows])
    assert_array_equal(found.hashes, expected.hashes)
    assert_array_equal(found.predictions.label, expected.predictions.label)
    assert data.only(data.y == 1).X is data.X


def test_samples_without_weight_alone_are_refused(fitted, data):
    with pytest.raises(ValueError, match="zero for every sample"):
        predict_held_out(fitted, data.only(data.y == 9))


def test_predictions_for_one_class_make_a_problem(fitted, data):
    found = predict_held_out(fitted, data.only(data.y == 1))
    assert isinstance(found, HeldOutPredictions)
    assert found.problem(found.losses("balanced_accuracy")).loss.max() == 1
