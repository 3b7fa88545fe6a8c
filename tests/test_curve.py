"""Who leaves where, and accuracy against cost, against plain loops."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm import E2CMClassifier
from sk_e2cm.inspection import TradeoffDisplay
from sk_e2cm.metrics import accuracy_cost_curve, first_exit
from sk_e2cm.testing import ToyExtractor

from .references import leave

N, N_STAGES, N_CLASSES = 120, 4, 3
STAGE_COST = np.array([0.2, 0.45, 0.7, 1.1])
INF = np.inf
THRESHOLDS = {
    "a number": 0.7,
    "by exit": [0.8, 0.6, 0.5],
    "by class": [[0.5, 0.6, INF], [0.5, INF, 0.6], [0.9, 0.5, 0.4]],
    "closed": INF,
    "all leave": 0.0,
}


def make_predictions(seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(N_CLASSES, size=N)
    logits = rng.normal(size=(N, N_STAGES, N_CLASSES))
    logits[np.arange(N), :, y] += np.arange(1, N_STAGES + 1)
    proba = np.exp(logits)
    return y, proba / proba.sum(axis=2, keepdims=True)


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_samples_exit_first_where_they_are_confident(threshold):
    _, proba = make_predictions()
    shape = (3, 3) if np.ndim(threshold) == 2 else 3
    stage, _ = leave(proba, np.broadcast_to(threshold, shape))
    assert_array_equal(first_exit(proba.tolist(), threshold), stage)


@pytest.mark.parametrize("threshold", [0.3, [0.9, INF, 0.6]])
def test_the_exits_are_those_of_the_estimator(threshold):
    rng = np.random.default_rng(0)
    y = np.arange(200) % 3
    X = rng.normal(size=(200, 8)) + y[:, None]
    clf = E2CMClassifier(ToyExtractor(3), threshold=0.5).fit(X, y)
    threshold = threshold[:2] if np.ndim(threshold) else threshold
    found = first_exit(clf.exit_proba(X), threshold)
    assert_array_equal(found, clf.set_params(threshold=threshold).predict_exit(X))


@pytest.mark.parametrize("threshold", [[0.5, 0.6], np.nan, np.ones((2, 3))])
def test_thresholds_of_another_shape_are_refused(threshold):
    _, proba = make_predictions()
    with pytest.raises(ValueError, match="threshold"):
        first_exit(proba, threshold)


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 3, 3)])
def test_accuracy_and_cost_are_what_a_plain_loop_finds(shape):
    y, proba = make_predictions()
    thresholds = np.random.default_rng(1).uniform(0.3, 1.0, size=shape)
    accuracy, cost, used = accuracy_cost_curve(y, proba, STAGE_COST, thresholds)
    assert_array_equal(used, thresholds)
    for i, threshold in enumerate(thresholds):
        given = np.broadcast_to(threshold, (3, 3)[: max(threshold.ndim, 1)])
        stage, label = leave(proba, given)
        assert accuracy[i] == pytest.approx((label == y).mean())
        assert cost[i] == pytest.approx(STAGE_COST[stage].mean())


def test_by_default_the_curve_is_the_best_that_one_number_can_do():
    y, proba = make_predictions()
    accuracy, cost, thresholds = accuracy_cost_curve(y, proba, STAGE_COST)
    assert (np.diff(cost) > 0).all()
    assert (np.diff(accuracy) > 0).all()
    again = accuracy_cost_curve(y, proba, STAGE_COST, thresholds)
    assert_allclose(again[0], accuracy)
    assert_allclose(again[1], cost)
    every = np.unique([*proba[:, :-1].max(axis=2).ravel(), 0.0, 2.0])
    others = accuracy_cost_curve(y, proba, STAGE_COST, every)
    for other_accuracy, other_cost in zip(*others[:2], strict=True):
        within = cost <= other_cost + 1e-12
        assert accuracy[within].max() >= other_accuracy - 1e-12


def test_labels_may_be_text_in_any_order():
    y, proba = make_predictions()
    names = np.array(["cat", "ant", "bee"])
    found = accuracy_cost_curve(names[y], proba, STAGE_COST, [0.6], classes=names)
    expected = accuracy_cost_curve(y, proba, STAGE_COST, [0.6])
    assert_array_equal(found, expected)


def test_labels_of_another_length_or_name_are_refused():
    y, proba = make_predictions()
    with pytest.raises(ValueError, match="inconsistent"):
        accuracy_cost_curve(y[:-1], proba, STAGE_COST)
    with pytest.raises(ValueError, match="none of those known"):
        accuracy_cost_curve(y, proba, STAGE_COST, classes=[1, 2, 3])


def test_the_display_draws_the_curve():
    y, proba = make_predictions()
    display = TradeoffDisplay.from_predictions(y, proba, STAGE_COST)
    accuracy, cost, _ = accuracy_cost_curve(y, proba, STAGE_COST)
    assert_array_equal(display.cost, cost)
    assert_array_equal(display.score, accuracy)
