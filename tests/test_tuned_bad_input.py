"""Every mistake in choosing thresholds gives an error that says what to do."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sk_e2cm import E2CMClassifier, RiskControl, TorchExtractor, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

X, y = make_classification(
    n_samples=200,
    n_features=12,
    n_informative=8,
    n_classes=3,
    class_sep=1.5,
    random_state=0,
)
CVS = pytest.mark.parametrize("cv", [5, 0.3, "prefit"])


@pytest.fixture
def clf():
    return E2CMClassifier(ToyExtractor()).fit(X, y)


def tuned(estimator, **params):
    return TunedExitsCV(estimator, **{"max_drop": 0.1, "random_state": 0} | params)


# Goals


def test_no_goal(clf):
    with pytest.raises(ValueError, match="Give one of max_cost= and max_drop=: the"):
        tuned(clf, max_drop=None).fit(X, y)


@pytest.mark.parametrize("risk", [None, RiskControl(0.2)], ids=["any", "promised"])
def test_two_goals(clf, risk):
    with pytest.raises(ValueError, match="Give only one of max_cost= and max_drop="):
        tuned(clf, max_cost=0.5, risk=risk).fit(X, y)


@pytest.mark.parametrize(
    "goal",
    [{"max_cost": 0.0}, {"max_cost": -1.0}, {"max_drop": -0.01}, {"max_drop": "1%"}],
    ids=str,
)
def test_goals_that_are_no_shares(clf, goal):
    name = next(iter(goal))
    with pytest.raises(ValueError, match=f"'{name}' parameter of TunedExitsCV must be"):
        tuned(clf, **{"max_drop": None} | goal).fit(X, y)


@pytest.mark.parametrize("scoring", ["accuracy", "balanced_accuracy", "f1_macro"])
@pytest.mark.parametrize("max_drop", [1, 1.0, 5])
def test_a_drop_in_percent(clf, max_drop, scoring):
    with pytest.raises(ValueError, match=f"max_drop={max_drop!r} would allow any loss"):
        tuned(clf, max_drop=max_drop, scoring=scoring).fit(X, y)


def test_a_drop_of_an_error_may_be_larger_than_1(clf):
    error = "neg_mean_absolute_error"
    search = tuned(clf, max_drop=1.5, scoring=error, cv="prefit").fit(X, y)
    assert search.full_score_ - search.best_score_ <= 1.5


@CVS
def test_a_cost_in_percent(clf, cv):
    with pytest.raises(ValueError, match=r"max_cost=40 would allow any cost: .*=0\.4"):
        tuned(clf, max_drop=None, max_cost=40, cv=cv).fit(X, y)


@pytest.mark.parametrize("confidence", [0, 0.4, 1, 95, "95%", np.nan])
def test_confidence_that_is_no_probability(clf, confidence):
    with pytest.raises(ValueError, match="'confidence' parameter of TunedExitsCV must"):
        tuned(clf, confidence=confidence).fit(X, y)


NO_CONFIDENCE = {
    "needs max_drop=, in place of max_cost=": {"max_drop": None, "max_cost": 0.5},
    "only one of confidence= and risk=": {"risk": RiskControl(0.2)},
    "takes scoring='accuracy' only; got 'f1_macro'": {"scoring": "f1_macro"},
    "accuracy' only; got 'balanced_accuracy'": {"scoring": "balanced_accuracy"},
}


@pytest.mark.parametrize(("match", "params"), NO_CONFIDENCE.items())
def test_what_confidence_cannot_be_had_in(clf, match, params):
    with pytest.raises(ValueError, match=match):
        tuned(clf, **{"confidence": 0.9} | params).fit(X, y)


def test_confidence_takes_no_weights(clf):
    with pytest.raises(ValueError, match=r"confidence= .* does not take sample_weight"):
        tuned(clf, confidence=0.9).fit(X, y, np.ones(200))


@CVS
def test_a_cost_that_cannot_be_met(clf, cv):
    search = tuned(clf, max_drop=None, cv=cv)
    # The first stage sees 4 of 12 features, and has 3 means of them.
    least = (4000 + 3 * 4) / 12000
    with pytest.raises(ValueError, match=f"cannot be met: .* cost is {least:.4g}, in"):
        search.set_params(max_cost=0.33).fit(X, y)
    search.set_params(max_cost=least).fit(X, y)
    assert search.best_cost_ == pytest.approx(least)
    assert not search.predict_exit(X).any()


def test_nobody_may_leave_early():
    # What all exits say is the same, and asking costs.
    class Constant(ToyExtractor):
        def advance(self, state, stage):
            return state, state[:, :2] if stage == 2 else np.zeros((len(state), 2))

    search = tuned(E2CMClassifier(Constant()), max_drop=0.0)
    with pytest.warns(UserWarning, match="close every exit: nothing will leave early"):
        search.fit(X, y)
    assert np.isposinf(search.best_threshold_).all()
    assert search.best_score_ == search.full_score_


# Estimators


NO_EXITS = {
    "network": nn.Linear(12, 3),
    "classifier": LogisticRegression(),
    "fitted": LogisticRegression().fit(X, y),
    "pipeline": make_pipeline(StandardScaler(), E2CMClassifier()),
    "class": E2CMClassifier,
    "none": None,
}


@pytest.mark.parametrize("estimator", NO_EXITS.values(), ids=NO_EXITS)
@CVS
def test_what_has_no_exits(estimator, cv):
    name = type(estimator).__name__
    with pytest.raises(TypeError, match=f"E2CMClassifier or .*, got {name}.*put"):
        tuned(estimator, cv=cv).fit(X, y)


def test_an_estimator_that_is_not_fitted():
    with pytest.raises(NotFittedError, match="E2CMClassifier instance is not fitted"):
        tuned(E2CMClassifier(), cv="prefit").fit(X, y)


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize(
    "mistake",
    [{"metric": "cosine"}, {"calibration": "platt"}, {"shrinkage": 2.0}],
    ids=lambda mistake: next(iter(mistake)),
)
def test_mistakes_in_the_estimators_parameters(mistake, refit):
    clf = E2CMClassifier(ToyExtractor(), **mistake)
    name = next(iter(mistake))
    with pytest.raises(ValueError, match=f"'{name}' parameter of E2CMClassifier must"):
        tuned(clf, cv=0.3, refit=refit).fit(X, y)


def test_a_bare_network_as_extractor():
    with pytest.raises(ValueError, match=r"torch module, Linear\. Cut it into stages"):
        tuned(E2CMClassifier(nn.Linear(12, 3))).fit(X, y)
    with pytest.raises(ValueError, match=r"torch module, Linear\. Cut it into stages"):
        tuned(E2CMClassifier(nn.Linear(12, 3))).fit(X)


# Data


@CVS
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_or_infinity_in_x(clf, value, cv):
    bad = X.copy()
    bad[3, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        tuned(clf, cv=cv).fit(bad, y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        tuned(clf, cv=cv, risk=RiskControl(0.2)).fit(bad, y)


@CVS
def test_labels_or_weights_of_another_length(clf, cv):
    search = tuned(clf, cv=cv)
    with pytest.raises(ValueError, match=r"inconsistent numbers .* \[200, 199\]"):
        search.fit(X, y[:-1])
    with pytest.raises(ValueError, match=r"sample_weight\.shape == \(199,\)"):
        search.fit(X, y, np.ones(199))


@CVS
def test_weights_that_are_zero_or_negative(clf, cv):
    with pytest.raises(ValueError, match="zero for every sample"):
        tuned(clf, cv=cv).fit(X, y, np.zeros(200))
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        tuned(clf, cv=cv).fit(X, y, -np.ones(200))


@CVS
def test_labels_that_are_measurements(clf, cv):
    with pytest.raises(
        ValueError, match=r"Unknown label type|continuous|not fitted on"
    ):
        tuned(clf, cv=cv).fit(X, X[:, 0])


@CVS
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_missing(clf, value, cv):
    labels = np.where(y == 1, value, y)
    with pytest.raises(ValueError, match=r"NaN|infinity|not fitted on: \[(nan|inf)\]"):
        tuned(clf, cv=cv).fit(X, labels)


@pytest.mark.parametrize(
    ("labels", "unknown"),
    [(y + 1, r"\[3\]"), (np.array(["a", "b", "c"])[y], r"\['a', 'b', 'c'\]")],
    ids=["number", "text"],
)
def test_labels_that_a_fitted_estimator_does_not_know(clf, labels, unknown):
    with pytest.raises(ValueError, match=f"labels {unknown} that are none of those"):
        tuned(clf, cv="prefit").fit(X, labels)


@pytest.mark.parametrize("cv", [5, 0.3])
def test_one_class_only(clf, cv):
    with pytest.raises(ValueError, match="y has 1 class"):
        tuned(clf, cv=cv).fit(X, np.zeros(200, dtype=int))


@CVS
def test_no_samples(clf, cv):
    with pytest.raises(ValueError, match="0 sample"):
        tuned(clf, cv=cv).fit(X[:0], y[:0])


@pytest.mark.parametrize("labels", [y, None], ids=["y", "no y"])
def test_x_of_a_shape_that_the_network_does_not_take(labels):
    clf = E2CMClassifier(
        TorchExtractor(nn.Sequential(nn.Linear(12, 4), nn.ReLU()), ["0"])
    )
    with pytest.raises(ValueError, match=r"does not take samples of shape \(5,\)"):
        tuned(clf).fit(X[:, :5].astype(np.float32), labels)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_samples_of_different_shapes(clf, make):
    with pytest.raises(ValueError, match=r"such as \(4,\) and \(5,\)"):
        tuned(clf).fit([make(4), make(5), make(4)], [0, 1, 0])


# Afterwards


MISTAKES = {
    "cost": ({"max_cost": 0.1, "max_drop": None}, y),
    "cv": ({"cv": [(np.arange(50), np.arange(50))]}, y),
    "refit": ({"refit": False}, y),
    "scoring": ({"scoring": "neg_log_loss"}, y),
    "labels": ({}, y[:-1]),
    "estimator": ({"estimator": LogisticRegression()}, y),
}


@pytest.mark.parametrize(("mistake", "labels"), MISTAKES.values(), ids=MISTAKES)
def test_a_failed_fit_leaves_what_was_fitted_as_it_was(mistake, labels):
    search = tuned(E2CMClassifier(ToyExtractor())).fit(X, y)
    before, inside = dict(vars(search)), dict(vars(search.estimator_))
    expected = search.predict_proba(X)
    good = {name: getattr(search, name) for name in mistake}
    with pytest.raises((ValueError, TypeError)):
        search.set_params(**mistake).fit(X[:, ::-1], labels)
    search.set_params(**good)
    assert vars(search) == before
    assert vars(search.estimator_) == inside
    np.testing.assert_array_equal(search.predict_proba(X), expected)


# Promises on few samples


@pytest.mark.parametrize("size", [0.96, 0.999])
def test_too_few_samples_to_set_aside(clf, size):
    search = tuned(clf, risk=RiskControl(0.2, calibration_size=size), cv="prefit")
    with pytest.raises(ValueError, match=r"risk= .* sets \d+ of 20 samples .* aside"):
        search.fit(X[:20], y[:20])


@pytest.mark.parametrize(
    ("goal", "advice"),
    [
        ({"max_drop": None}, "Allow a larger risk, hold out more samples"),
        ({"max_drop": 0.1}, "Allow a larger drop or risk, hold out more samples"),
        ({"max_drop": None, "max_cost": 1.1}, "Allow a larger cost or risk"),
    ],
    ids=str,
)
def test_if_no_promise_can_be_given_what_was_asked_is_named(clf, goal, advice):
    search = tuned(clf, risk=RiskControl(0.001), cv="prefit", **goal)
    with pytest.warns(UserWarning, match=advice):
        search.fit(X, y)
