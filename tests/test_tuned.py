"""Thresholds that are chosen: the cheapest, or the most accurate, that are allowed."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import NotFittedError
from torch import nn

from sk_e2cm import E2CMClassifier, RiskControl, TorchExtractor, TunedExitsCV
from sk_e2cm._tuning._confidence import upper_bound
from sk_e2cm._tuning._folds import folds_of, set_aside
from sk_e2cm.testing import ToyExtractor

from .references import best_powers, leave

GOALS = [{"max_cost": 0.5}, {"max_cost": 0.9}, {"max_drop": 0.0}, {"max_drop": 0.05}]
PREDICTIONS = ["predict", "predict_proba", "predict_exit", "exit_proba", "cost"]


def make_data(n_samples, class_sep=1.5):
    return make_classification(
        n_samples=n_samples,
        n_features=12,
        n_informative=8,
        n_classes=3,
        class_sep=class_sep,
        random_state=0,
    )


@pytest.fixture(scope="module")
def data():
    return make_data(300)


@pytest.fixture(scope="module")
def clf(data):
    X, y = data
    return E2CMClassifier(ToyExtractor()).fit(X[:100], y[:100])


@pytest.fixture(scope="module")
def held_out(data):
    return data[0][100:], data[1][100:]


def tuned(estimator=None, **params):
    if estimator is None:
        estimator = E2CMClassifier(ToyExtractor())
    return TunedExitsCV(estimator, **{"random_state": 0} | params)


def cost_by_stage(thresholds):
    """Return the cost of an exit at each stage of ToyExtractor, of 12 features."""
    costs, total = [], 0.0
    for stage, n_seen in enumerate([4, 8, 12]):
        total += 4000
        if stage == 2 or not np.isposinf(thresholds[stage]).all():
            total += 3 * n_seen
        costs.append(total / 12000)
    return np.array(costs)


# What is chosen


@pytest.mark.parametrize("goal", GOALS, ids=str)
@pytest.mark.parametrize("cv", [5, 0.4, "prefit"])
def test_what_is_chosen_is_allowed_and_nothing_allowed_is_better(data, clf, goal, cv):
    search = tuned(clf, cv=cv, **goal).fit(*data)
    cost, score = search.frontier_["cost"], search.frontier_["score"]
    expected = search.frontier_["expected_score"]
    best = int(np.flatnonzero(cost == search.best_cost_).item())
    assert score[best] == search.best_score_
    assert_array_equal(search.frontier_["threshold"][best], search.best_threshold_)
    assert_array_equal(search.estimator_.threshold, search.best_threshold_)
    if "max_cost" in goal:
        assert search.best_cost_ <= goal["max_cost"]
        assert expected[best] == expected[cost <= goal["max_cost"]].max()
    else:
        drop = search.full_score_ - score
        assert drop[best] <= goal["max_drop"] + 1e-9
        assert (drop[:best] > goal["max_drop"]).all()


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("cv", [5, "prefit"])
def test_the_frontier_is_a_pareto_set(data, clf, cv, per_class):
    search = tuned(clf, max_drop=0.02, cv=cv, per_class=per_class).fit(*data)
    cost, expected = search.frontier_["cost"], search.frontier_["expected_score"]
    assert (np.diff(cost) > 0).all()
    assert (np.diff(expected) > 0).all()
    assert search.frontier_["threshold"].shape == (len(cost), 2, 3)[: 2 + per_class]


@pytest.mark.parametrize("per_class", [False, True])
def test_the_frontier_is_what_the_estimator_scores_and_costs(clf, held_out, per_class):
    X, y = held_out
    params = {"cv": "prefit", "per_class": per_class}
    search = tuned(clf, max_drop=0.02, **params).fit(X, y)
    proba, frontier = search.estimator_.exit_proba(X), search.frontier_
    names = "cost", "score", "threshold"
    for cost, score, thresholds in zip(*map(frontier.get, names), strict=True):
        stage, label = leave(proba, thresholds)
        assert np.mean(label == y) == pytest.approx(score)
        assert cost_by_stage(thresholds)[stage].mean() == pytest.approx(cost)
    full = (proba[:, -1].argmax(axis=1) == y).mean()
    assert search.full_score_ == pytest.approx(full)


@pytest.mark.parametrize("per_class", [False, True])
def test_lazy_predictions_have_the_score_and_the_cost(clf, held_out, per_class):
    X, y = held_out
    search = tuned(clf, max_drop=0.02, cv="prefit", per_class=per_class).fit(X, y)
    limits = np.broadcast_to(search.best_threshold_.reshape(2, -1), (2, 3))
    proba = search.exit_proba(X)
    chosen = np.take_along_axis(limits.T, proba[:, :2].argmax(axis=2), axis=0)
    clear = (abs(proba[:, :2].max(axis=2) - chosen) > 1e-5).all(axis=1)
    n_unclear = (~clear).sum() / len(X)
    assert n_unclear < 0.02
    off = n_unclear + 1e-9
    assert search.score(X, y) == pytest.approx(search.best_score_, abs=off)
    assert search.cost(X) == pytest.approx(search.best_cost_, abs=off)


def test_the_same_random_state_chooses_the_same(data):
    first, again = (tuned(max_drop=0.02, cv=0.4).fit(*data) for _ in range(2))
    for part, values in first.frontier_.items():
        assert_array_equal(again.frontier_[part], values)
    other = tuned(max_drop=0.02, cv=0.4, random_state=1).fit(*data)
    assert other.full_score_ != first.full_score_


def right_by_formula(search, proba, y):
    """Return a function from thresholds to how likely samples are answered right."""
    together, _ = best_powers(proba.swapaxes(0, 1), y, np.ones(len(y)))
    share = search.label_share_

    def expected(thresholds):
        _, label = leave(proba, thresholds)
        likely = together[np.arange(len(y)), label]
        return share * (label == y) + (1 - share) * likely

    return expected


def test_no_shared_threshold_is_expected_to_be_better_than_the_frontier(clf, held_out):
    X, y = held_out
    search = tuned(clf, max_drop=0.02, cv="prefit").fit(X, y)
    assert 0 < search.label_share_ < 1
    proba = clf.exit_proba(X)
    cost, expected = search.frontier_["cost"], search.frontier_["expected_score"]
    by_formula = right_by_formula(search, proba, y)
    for threshold in np.quantile(proba[:, :2].max(axis=2), np.linspace(0, 1, 21)):
        stage, _ = leave(proba, [threshold, threshold])
        affordable = cost <= cost_by_stage([0, 0])[stage].mean() + 1e-9
        other = by_formula([threshold, threshold]).mean()
        assert expected[affordable].max() >= other - 1e-4


def test_what_is_expected_of_a_shared_threshold_follows_the_formula(clf, held_out):
    X, y = held_out
    search = tuned(clf, max_drop=0.02, cv="prefit").fit(X, y)
    proba, frontier = clf.exit_proba(X), search.frontier_
    by_formula, n_shared = right_by_formula(search, proba, y), 0
    for thresholds, expected in zip(
        frontier["threshold"], frontier["expected_score"], strict=True
    ):
        found = by_formula(thresholds).mean()
        if thresholds[0] == thresholds[1]:
            n_shared += 1
            assert expected == pytest.approx(found, abs=1e-4)
        else:  # what they gain over a shared one is shrunk
            assert expected <= found + 1e-4
    assert n_shared > 5


def test_the_drop_is_one_of_the_score_itself(clf, held_out):
    X, y = held_out
    full = (clf.exit_proba(X)[:, -1].argmax(axis=1) == y).mean()
    for max_drop in (0.0, 0.02, 0.05, 0.1):
        search = tuned(clf, max_drop=max_drop, cv="prefit").fit(X, y)
        _, label = leave(clf.exit_proba(X), search.best_threshold_)
        assert full - (label == y).mean() <= max_drop + 1e-9
        cheaper = search.frontier_["cost"] < search.best_cost_
        assert (full - search.frontier_["score"][cheaper] > max_drop).all()


def test_labels_count_alone_if_they_are_the_answers_and_nearly_if_they_never_are(
    clf, held_out
):
    X, _ = held_out
    said = clf.exit_proba(X)[:, -1].argmax(axis=1)
    search = tuned(clf, max_drop=0.02, cv="prefit")
    assert search.fit(X, said).label_share_ == 1
    assert search.fit(X, (said + 1) % 3).label_share_ > 0.8


def test_classes_have_thresholds_of_their_own(clf, held_out):
    search = tuned(clf, max_drop=0.02, cv="prefit", per_class=True).fit(*held_out)
    assert search.best_threshold_.shape == (2, 3)
    thresholds = search.frontier_["threshold"]
    assert (thresholds != thresholds[..., :1]).any()


# The estimator


def test_a_fitted_estimator_is_left_as_it_is(clf, held_out):
    before, proba = dict(vars(clf)), clf.predict_proba(held_out[0])
    search = tuned(clf, max_drop=0.05, cv="prefit").fit(*held_out)
    assert vars(clf) == before
    assert clf.threshold == 0.9
    assert_array_equal(clf.predict_proba(held_out[0]), proba)
    assert search.estimator_.class_means_ is clf.class_means_


@pytest.mark.parametrize("cv", [5, 0.4])
def test_the_estimator_is_cloned_and_fitted_to_all_samples(data, cv):
    unfitted = E2CMClassifier(ToyExtractor())
    search = tuned(unfitted, max_drop=0.05, cv=cv).fit(*data)
    assert not hasattr(unfitted, "classes_")
    assert search.estimator is unfitted
    expected = clone(unfitted).fit(*data).class_means_
    for means, others in zip(search.estimator_.class_means_, expected, strict=True):
        assert_allclose(means, others)


@pytest.mark.parametrize("method", PREDICTIONS)
def test_predictions_are_those_of_the_estimator(data, method):
    search = tuned(max_drop=0.05).fit(*data)
    expected = getattr(search.estimator_, method)(data[0])
    assert_array_equal(getattr(search, method)(data[0]), expected)


def test_stages_scores_and_attributes_are_those_of_the_estimator(data):
    search = tuned(max_drop=0.05).fit(*data)
    inside, (X, y) = search.estimator_, data
    for method in ("staged_predict", "staged_predict_proba"):
        steps = list(getattr(search, method)(X))
        assert_array_equal(steps, list(getattr(inside, method)(X)))
        assert len(steps) == 3
    weight = np.arange(300)
    assert search.score(X, y, weight) == inside.score(X, y, weight)
    assert search.score(X, y) == (search.predict(X) == y).mean()
    assert_array_equal(search.classes_, [0, 1, 2])
    assert_array_equal(search.stage_cost_, inside.stage_cost_)
    assert search.n_features_in_ == 12
    assert not hasattr(search, "feature_names_in_")


def test_prediction_before_fit(data):
    search = tuned(max_drop=0.05)
    for method in [*PREDICTIONS, "score"]:
        with pytest.raises(NotFittedError):
            getattr(search, method)(data[0])
    for method in (search.staged_predict, search.staged_predict_proba):
        with pytest.raises(NotFittedError):
            next(method(data[0]))
    for name in ("classes_", "n_features_in_", "feature_names_in_", "stage_cost_"):
        assert not hasattr(search, name)


def test_pickles_predict_the_same_and_clones_are_not_fitted(data):
    search = tuned(max_drop=0.05, risk=RiskControl(0.2)).fit(*data)
    copy = pickle.loads(pickle.dumps(search))
    assert_array_equal(copy.predict_proba(data[0]), search.predict_proba(data[0]))
    assert_array_equal(copy.best_threshold_, search.best_threshold_)
    assert not hasattr(clone(search), "estimator_")
    assert clone(search).risk == search.risk


@pytest.mark.parametrize("per_class", [False, True])
def test_a_network_without_exits_keeps_all_samples(data, per_class):
    search = tuned(E2CMClassifier(), max_drop=0.0, per_class=per_class)
    with pytest.warns(UserWarning, match="no exits.*give it an extractor"):
        search.fit(*data)
    assert search.frontier_["cost"] == pytest.approx([1.0])
    assert search.best_score_ == search.full_score_
    assert not search.predict_exit(data[0]).any()


# Without labels


@pytest.fixture
def network(data):
    """Return a network that gives each of its three answers about as often."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()
        network = nn.Sequential(*body, nn.Linear(32, 3))
    with torch.no_grad():
        network[-1].bias -= network(torch.from_numpy(data[0]).float()).mean(dim=0)
    return network


def test_without_labels_a_fitted_estimator_agrees_with_itself(clf, held_out):
    X, _ = held_out
    search = tuned(clf, max_drop=0.05, cv="prefit").fit(X)
    full = search.exit_proba(X)[:, -1].argmax(axis=1)
    assert search.full_score_ == 1
    assert np.mean(search.predict(X) == full) == pytest.approx(search.best_score_)
    assert 0.95 <= search.best_score_ < 1


@pytest.mark.parametrize("cv", [5, 0.3], ids=str)
@pytest.mark.parametrize("names", [None, ["c", "a", "b"]], ids=["numbers", "names"])
def test_without_labels_the_networks_answers_are_right(data, network, cv, names):
    X = data[0].astype(np.float32)
    extractor = TorchExtractor(network, ["1"])
    clf = E2CMClassifier(extractor, metric="mahalanobis", head_classes=names)
    with torch.no_grad():
        answers = network(torch.from_numpy(X)).argmax(dim=1).numpy()
    answers = answers if names is None else np.array(names)[answers]
    unlabelled = tuned(clf, max_drop=0.2, cv=cv).fit(X)
    labelled = tuned(clf, max_drop=0.2, cv=cv).fit(X, answers)
    assert unlabelled.full_score_ == 1
    assert unlabelled.estimator_.final_ == "network"
    assert_array_equal(unlabelled.classes_, np.unique(answers))
    for part, values in labelled.frontier_.items():
        assert_array_equal(unlabelled.frontier_[part], values)


def test_without_labels_an_answer_that_is_never_given_does_not_matter(data, network):
    network[-1].bias.data[2] = -1e4
    clf = E2CMClassifier(TorchExtractor(network, ["1"]), metric="mahalanobis")
    search = tuned(clf, max_drop=0.2).fit(data[0].astype(np.float32))
    assert search.full_score_ == 1
    assert search.estimator_.final_ == "network"


@pytest.mark.parametrize("cv", [5, "prefit"])
def test_without_labels_only_agreement_can_be_scored(data, clf, cv):
    with pytest.raises(ValueError, match=r"needs labels: without y.*agreement"):
        tuned(clf, max_drop=0.1, cv=cv, scoring="f1_macro").fit(data[0])


# Promises


@pytest.mark.parametrize("cv", [5, 0.5, "prefit"])
def test_what_is_promised_depends_on_no_sample_that_was_set_aside(data, clf, cv):
    X, y = data
    # It is kept by whatever candidate.
    risk = RiskControl(0.95, calibration_size=0.3)
    folds = np.zeros(300, dtype=int)
    rng = np.random.RandomState(0)
    if cv == 0.5:
        folds = folds_of(cv, X, y, rng)
    aside = set_aside(0.3, folds, y, rng)
    noise = np.where(aside[:, None], np.random.default_rng(0).normal(size=X.shape), X)
    search = tuned(clf, risk=risk, cv=cv)
    frontier, means = search.fit(X, y).frontier_, search.estimator_.class_means_
    other = tuned(clf, risk=risk, cv=cv).fit(noise, y)
    for part, values in frontier.items():
        assert_array_equal(other.frontier_[part], values)
    assert_array_equal(other.estimator_.class_means_[0], means[0])
    if cv == 5:
        used = clone(clf).fit(X[~aside], y[~aside])
        assert_allclose(means[0], used.class_means_[0])


def test_without_another_goal_the_cheapest_that_is_promised_is_chosen(data):
    search = tuned(risk=RiskControl(0.2)).fit(*data)
    assert search.best_cost_ == search.frontier_["cost"][0]
    free = tuned(max_drop=0.99).fit(*data)
    assert free.best_cost_ < search.best_cost_ < 1


def test_a_promise_and_another_goal_are_both_met(data):
    search = tuned(risk=RiskControl(0.3), max_drop=0.05).fit(*data)
    assert search.full_score_ - search.best_score_ <= 0.05 + 1e-9
    cheapest = tuned(risk=RiskControl(0.3)).fit(*data)
    assert cheapest.best_cost_ <= search.best_cost_


def test_a_promise_is_kept_on_new_samples():
    X, y = make_data(12_000, class_sep=2.5)
    clf = E2CMClassifier(ToyExtractor()).fit(X[:500], y[:500])
    X_new, y_new = X[5000:], y[5000:]
    right = clf.exit_proba(X_new)[:, -1].argmax(axis=1) == y_new
    spoilt = []
    for start in range(500, 5000, 450):
        part = slice(start, start + 450)
        search = tuned(clf, risk=RiskControl(0.12, delta=0.1), cv="prefit")
        search.fit(X[part], y[part])
        spoilt.append(np.mean(right & (search.predict(X_new) != y_new)))
    assert np.mean(np.array(spoilt) > 0.12) <= 0.1
    assert min(spoilt) > 0.01


def test_a_promise_that_cannot_be_kept_closes_all_exits_and_says_so(data):
    search = tuned(risk=RiskControl(0.001))
    with pytest.warns(UserWarning, match="close every exit.*set aside.*too few"):
        search.fit(*data)
    assert np.isposinf(search.best_threshold_).all()
    assert search.frontier_["score"].tolist() == [search.full_score_]
    assert (search.predict_exit(data[0]) == 2).all()


def test_weights_and_promises_do_not_go_together(data):
    with pytest.raises(ValueError, match="does not take sample_weight"):
        tuned(risk=RiskControl(0.2)).fit(*data, sample_weight=np.ones(300))


# Confidence


@pytest.mark.parametrize("cv", [5, 0.5, "prefit"])
@pytest.mark.parametrize("per_class", [False, True])
def test_with_confidence_the_bound_stays_within_the_drop(data, clf, cv, per_class):
    params = {"max_drop": 0.3, "cv": cv, "per_class": per_class}
    search = tuned(clf, confidence=0.9, **params).fit(*data)
    assert 0 < search.drop_upper_ <= 0.3
    assert search.full_score_ - search.best_score_ <= 0.3 + 1e-9
    surer = tuned(clf, confidence=0.99, **params).fit(*data)
    assert surer.best_cost_ >= search.best_cost_
    free = tuned(clf, **params).fit(*data)
    assert free.best_cost_ < search.best_cost_ < 1.1
    assert free.drop_upper_ is None


def test_the_bound_is_that_of_the_samples_set_aside(data, clf):
    X, y = data
    search = tuned(clf, max_drop=0.2, confidence=0.9, cv="prefit").fit(X, y)
    aside = set_aside(0.5, np.zeros(300, dtype=int), y, np.random.RandomState(0))
    proba = search.exit_proba(X[aside])
    _, label = leave(proba, search.best_threshold_)
    right, full = label == y[aside], proba[:, -1].argmax(axis=1) == y[aside]
    counts = (full & ~right).sum(), (right & ~full).sum(), aside.sum()
    assert search.drop_upper_ == pytest.approx(upper_bound(*counts, 0.9))


@pytest.mark.parametrize("cv", [5, "prefit"])
def test_what_is_found_depends_on_no_sample_that_was_set_aside(data, clf, cv):
    X, y = data
    aside = set_aside(0.5, np.zeros(300, dtype=int), y, np.random.RandomState(0))
    noise = np.where(aside[:, None], 1.01 * X, X)
    # Whatever is tested passes.
    search = tuned(clf, max_drop=0.95, confidence=0.5, cv=cv)
    frontier = search.fit(X, y).frontier_
    for part, values in search.fit(noise, y).frontier_.items():
        assert_array_equal(values, frontier[part])


def test_with_confidence_the_drop_on_new_samples_is_seldom_larger():
    X, y = make_data(12_000, class_sep=2.5)
    clf = E2CMClassifier(ToyExtractor()).fit(X[:500], y[:500])
    X_new, y_new = X[5000:], y[5000:]
    full = np.mean(clf.exit_proba(X_new)[:, -1].argmax(axis=1) == y_new)
    drops = []
    for start in range(500, 5000, 450):
        part = slice(start, start + 450)
        search = tuned(clf, max_drop=0.1, confidence=0.9, cv="prefit")
        search.fit(X[part], y[part])
        drops.append(full - search.score(X_new, y_new))
    assert np.mean(np.array(drops) > 0.1) <= 0.2  # one of ten, or two by chance
    assert max(drops) > 0.01


def test_without_labels_confidence_is_of_agreement(data, clf):
    search = tuned(clf, max_drop=0.2, confidence=0.9, cv="prefit").fit(data[0])
    assert search.full_score_ == 1
    assert search.best_cost_ < 1
    assert 0 < search.drop_upper_ <= 0.2


def test_with_too_few_samples_to_be_sure_all_exits_are_closed(data):
    search = tuned(max_drop=0.01, confidence=0.95)
    with pytest.warns(
        UserWarning, match=r"close every exit.*\d+ samples were set aside.*too few"
    ):
        search.fit(*data)
    assert search.drop_upper_ == 0
    assert search.best_score_ == search.full_score_


def test_another_fit_without_confidence_forgets_the_bound(data):
    search = tuned(max_drop=0.2, confidence=0.9).fit(*data)
    assert search.drop_upper_ > 0
    assert search.set_params(confidence=None).fit(*data).drop_upper_ is None


def test_without_labels_a_network_of_one_answer_is_said_to_be_one():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    with torch.no_grad():
        network[1].bias[2] += 100
    search = TunedExitsCV(E2CMClassifier(TorchExtractor(network, ["0"])), max_drop=0.1)
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    with pytest.raises(ValueError, match="they are 2 for every sample"):
        search.fit(X)


@pytest.mark.parametrize("cv", [3, "prefit"])
@pytest.mark.usefixtures("plain_bars")
def test_verbose_draws_passes_and_the_search_and_is_not_passed_on(cv, capsys):
    X, y = load_iris(return_X_y=True)
    clf = E2CMClassifier(ToyExtractor()).fit(X, y)
    quiet = TunedExitsCV(clf, max_drop=0.1, cv=cv, random_state=0).fit(X, y)
    assert capsys.readouterr().err == ""
    search = copy.copy(quiet).set_params(verbose=1).fit(X, y)
    drawn = capsys.readouterr().err
    assert "150 of 150 samples" in drawn
    assert "thresholds: " in drawn
    assert drawn.count("\n") == 2
    np.testing.assert_array_equal(search.best_threshold_, quiet.best_threshold_)
    assert search.estimator_.verbose == 0
    search.predict(X)
    assert capsys.readouterr().err == ""
