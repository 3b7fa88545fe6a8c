"""Metrics, scorers and displays: right for what can be meant, or a clear error."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm.inspection import ExitDisplay, TradeoffDisplay
from sk_e2cm.metrics import (
    accuracy_cost_curve,
    accuracy_cost_scorer,
    agreement_cost_scorer,
    best_within_cost,
    calibration_error,
    cheapest_within_drop,
    first_exit,
)
from sk_e2cm.testing import ToyExtractor

mpl.use("Agg")

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 6))
y = np.digitize(X[:, 0] + X[:, 3], [-0.5, 0.5])
CLF = E2CMClassifier(ToyExtractor(), threshold=0.6).fit(X, y)
PROBA = CLF.exit_proba(X)
COST = CLF.stage_cost_
STAGE = CLF.predict_exit(X)
NAN = np.nan


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def exits(y_true, **kwargs):
    return ExitDisplay.from_predictions(y_true, CLF.predict(X), STAGE, **kwargs).counts


def points(y_true, **kwargs):
    return TradeoffDisplay.from_predictions(y_true, PROBA, COST, **kwargs).score


OF_LABELS = {
    "calibration_error": lambda y, **kw: calibration_error(y, PROBA[:, 0], **kw),
    "accuracy_cost_curve": lambda y, **kw: accuracy_cost_curve(y, PROBA, COST, **kw)[0],
    "ExitDisplay": exits,
    "TradeoffDisplay": points,
}
OF_FITTED = {
    "scorer": lambda y: list(accuracy_cost_scorer(CLF, X, y).values()),
    "ExitDisplay of a model": lambda y: ExitDisplay.from_estimator(CLF, X, y).counts,
    "TradeoffDisplay of a model": lambda y: (
        TradeoffDisplay.from_estimator(CLF, X, y).score
    ),
}
every_use = pytest.mark.parametrize(
    "use", (OF_LABELS | OF_FITTED).values(), ids=OF_LABELS | OF_FITTED
)


# Labels


@every_use
@pytest.mark.parametrize(
    "given",
    [y[:, None], y.tolist(), y.astype(object), torch.from_numpy(y), pd.Series(y)],
    ids=["column", "list", "objects", "tensor", "series"],
)
def test_labels_may_be_held_by_anything(use, given):
    np.testing.assert_array_equal(use(given), use(y))


@every_use
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (y[:-1], "inconsistent numbers of samples"),
        (np.where(y == 1, NAN, y), "contains NaN"),
        (np.where(y == 1, None, y), "contains NaN, None or NA"),
        (
            np.eye(3)[y],
            r"must have one label for each sample, got the shape \(120, 3\)",
        ),
        (None, "must have one label for each sample"),
    ],
    ids=["short", "nan", "none", "one column for each class", "nothing"],
)
def test_what_are_no_labels_is_refused(use, labels, message):
    if labels is None and use in list(OF_FITTED.values())[1:]:
        return  # what the full network answers
    with pytest.raises(ValueError, match=message):
        use(labels)


@pytest.mark.parametrize("use", OF_FITTED.values(), ids=OF_FITTED)
def test_labels_of_another_kind_are_refused(use):
    with pytest.raises(ValueError, match=r"labels \['a', 'b', 'c'\] .* none of those"):
        use(np.array(["a", "b", "c"])[y])


@pytest.mark.parametrize("use", OF_LABELS.values(), ids=OF_LABELS)
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1, 7], r"y has labels \[2\] that are none of those known: \[0, 1, 7\]"),
        (["a", "b", "c"], "that are none of those known"),
        ([0, 1, None], "classes contains NaN, None or NA"),
        (3, "classes must have one label for each sample"),
    ],
    ids=str,
)
def test_labels_that_are_none_of_the_classes(use, classes, message):
    with pytest.raises(ValueError, match=message):
        use(y, classes=classes)


@pytest.mark.parametrize("use", list(OF_LABELS.values())[:2], ids=list(OF_LABELS)[:2])
def test_classes_that_are_named_twice(use):
    with pytest.raises(ValueError, match=r"classes names a label twice|more than once"):
        use(y, classes=[0, 1, 1])


def test_text_labels_are_compared_as_such():
    names = np.array(["low", "mid", "top"])
    wanted = calibration_error(y, PROBA[:, 0])
    assert calibration_error(names[y], PROBA[:, 0]) == wanted
    shuffled = calibration_error(
        names[y], PROBA[:, 0][:, [2, 0, 1]], classes=["top", "low", "mid"]
    )
    assert shuffled == pytest.approx(wanted)


def test_many_classes_are_nothing_to_warn_of():
    proba = np.full((50, 50), 0.02)
    assert calibration_error(range(50), proba, classes=range(50)) < 1
    counts = ExitDisplay.from_predictions(range(50), range(50), [0] * 50).counts
    assert counts.sum() == 50


# Probabilities, costs, exits

OF_PROBA = {
    "calibration_error": lambda proba: calibration_error(y, proba[:, 0]),
    "accuracy_cost_curve": lambda proba: accuracy_cost_curve(y, proba, COST),
    "first_exit": lambda proba: first_exit(proba, 0.5),
    "TradeoffDisplay": lambda proba: TradeoffDisplay.from_predictions(y, proba, COST),
}


@pytest.mark.parametrize("use", OF_PROBA.values(), ids=OF_PROBA)
@pytest.mark.parametrize(
    "proba",
    [
        np.log(PROBA),
        np.log(PROBA) + 20,
        PROBA * 2,
        PROBA - 0.5,
        np.where(PROBA > 0.5, NAN, PROBA),
        100 * PROBA,
    ],
    ids=["log", "logits", "doubled", "negative", "nan", "percent"],
)
def test_what_are_no_probabilities_is_refused(use, proba):
    with pytest.raises(ValueError, match=r"proba has rows that are no probabilities"):
        use(proba)


@pytest.mark.parametrize("use", OF_PROBA.values(), ids=OF_PROBA)
@pytest.mark.parametrize(
    "kind", [lambda p: p.astype(np.float16), lambda p: np.round(p, 2), torch.from_numpy]
)
def test_probabilities_may_be_rounded(use, kind):
    assert use(kind(PROBA)) is not None


@pytest.mark.parametrize("use", list(OF_PROBA.values())[1:], ids=list(OF_PROBA)[1:])
def test_probabilities_of_one_stage_are_refused(use):
    with pytest.raises(ValueError, match=r"shape \(n_samples, n_stages, n_classes\)"):
        use(PROBA[:, 0])


@pytest.mark.parametrize("n_bins", [0, -1, 1.5, None, True, "15"], ids=str)
def test_a_number_of_bins_is_a_whole_number_from_1_on(n_bins):
    with pytest.raises(
        ValueError, match="n_bins must be a whole number from 1 on, got"
    ):
        calibration_error(y, PROBA[:, 0], n_bins=n_bins)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (COST[:-1], r"stage_cost has shape \(2,\), but there are 3 stages"),
        ([0.1, NAN, 1.0], "stage_cost has numbers that are not finite"),
        (["a", "b", "c"], "stage_cost has values of type <U1"),
        (None, "stage_cost has shape"),
    ],
    ids=str,
)
def test_costs_that_do_not_fit(cost, message):
    with pytest.raises(ValueError, match=message):
        accuracy_cost_curve(y, PROBA, cost)


@pytest.mark.parametrize(
    "stages",
    [[], STAGE - 1, STAGE + 0.5, STAGE.astype(str), 3, STAGE[:, None]],
    ids=str,
)
def test_exits_that_are_no_stages(stages):
    with pytest.raises(ValueError, match=r"exits (must be the number of a stage|has)"):
        ExitDisplay.from_predictions(y, y, stages)


def test_exits_past_the_stages_that_are_named():
    with pytest.raises(
        ValueError, match="exits has the stage 2, but stage_names names 2"
    ):
        ExitDisplay.from_predictions(y, y, STAGE, stage_names=["a", "b"])


# Estimators


@pytest.mark.parametrize("kind", ["classifier", "tuned"])
def test_scorers_and_displays_take_a_pipeline(kind):
    estimator = {
        "classifier": E2CMClassifier(ToyExtractor(), threshold=0.6),
        "tuned": TunedExitsCV(
            E2CMClassifier(ToyExtractor()), max_drop=0.1, random_state=0
        ),
    }[kind]
    scaler = StandardScaler().fit(X)
    pipeline = make_pipeline(StandardScaler(), estimator).fit(X, y)
    alone, scaled = pipeline[-1], scaler.transform(X)
    uses = [
        lambda *given: accuracy_cost_scorer(*given),
        lambda *given: agreement_cost_scorer(*given),
        lambda *given: ExitDisplay.from_estimator(*given).counts.tolist(),
        lambda *given: TradeoffDisplay.from_estimator(*given).score.tolist(),
    ]
    for use in uses:
        assert use(pipeline, X, y) == use(alone, scaled, y)
    if kind == "tuned":
        frontier = TradeoffDisplay.from_estimator(pipeline)
        np.testing.assert_array_equal(frontier.cost, alone.frontier_["cost"])


@pytest.mark.parametrize(
    "use",
    [
        accuracy_cost_scorer,
        agreement_cost_scorer,
        ExitDisplay.from_estimator,
        TradeoffDisplay.from_estimator,
    ],
)
@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), make_pipeline(StandardScaler()), None, 3]
)
def test_what_has_no_exits_is_refused(use, estimator):
    with pytest.raises(TypeError, match="needs an estimator with early exits, got"):
        use(estimator, X, y)


def test_clusters_have_no_accuracy():
    clusterer = E2CMClusterer(ToyExtractor(), 3, random_state=0).fit(X)
    with pytest.raises(ValueError, match=r"no accuracy: use\s+agreement_cost_scorer"):
        accuracy_cost_scorer(clusterer, X, y)
    for use in (ExitDisplay.from_estimator, TradeoffDisplay.from_estimator):
        use(clusterer, X, y)  # which is ignored
    assert agreement_cost_scorer(clusterer, X, y) == agreement_cost_scorer(clusterer, X)


@pytest.mark.parametrize("scorer", [accuracy_cost_scorer, agreement_cost_scorer])
@pytest.mark.parametrize(
    "weight", [np.ones(119), [NAN] * 120, -np.ones(120), "balanced"], ids=str
)
def test_weights_that_are_none(scorer, weight):
    with pytest.raises(ValueError, match=r"sample_weight|Negative"):
        scorer(CLF, X, y, weight)


# What is drawn


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExitDisplay(np.ones((3, 2, 2)), [0, 1, 2]), r"counts has the shape"),
        (lambda: ExitDisplay(None, [0, 1]), "counts has the shape"),
        (
            lambda: ExitDisplay(np.ones((3, 2, 2)), [0, 1], stage_names=["a"]),
            "counts has the shape",
        ),
        (lambda: ExitDisplay(np.ones((1, 2, 2)), [0, 1], stage_names=3), "stage_names"),
        (lambda: TradeoffDisplay([1, 2], [1], 1.0), r"cost has the shape \(2,\) and"),
        (lambda: TradeoffDisplay(["a"], [1], 1.0), "cost has values of type <U1"),
        (lambda: TradeoffDisplay([1], [1], "a"), "full_score has values of type"),
        (lambda: TradeoffDisplay([1], [1], [1, 2]), "full_score must be a number"),
        (
            lambda: TradeoffDisplay([1], [1], 1, chosen=3),
            "chosen must be cost and score",
        ),
        (lambda: TradeoffDisplay([1], [1], 1, name=3), "name must be text, got 3"),
        (lambda: TradeoffDisplay([1], [1], 1).plot(3), "ax must be axes of matplotlib"),
        (lambda: ExitDisplay(np.ones((1, 1, 2)), [0]).plot(by=3), "by must be"),
    ],
)
def test_what_cannot_be_drawn(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# Candidates of a search

CHOICES = {"cost": best_within_cost(0.6), "drop": cheapest_within_drop(0.1)}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize(
    "failed", [(NAN, NAN), (NAN, 0.0), (1.0, NAN)], ids=["both", "score", "cost"]
)
def test_a_candidate_that_failed_is_not_chosen(choose, failed):
    results = {
        "mean_test_accuracy": [failed[0], 0.88, 0.9],
        "mean_test_cost": [failed[1], 0.5, 0.9],
        "mean_test_full_accuracy": [NAN, 0.9, 0.9],
    }
    assert choose(results) == 1


@pytest.mark.parametrize(
    "choose", [best_within_cost(0.1), cheapest_within_drop(0.001)], ids=CHOICES
)
def test_if_only_failed_candidates_are_left_nothing_is_chosen(choose):
    results = {
        "mean_test_accuracy": [NAN, 0.5],
        "mean_test_cost": [0.05, 0.9],
        "mean_test_full_accuracy": [NAN, 0.9],
    }
    with pytest.raises(ValueError, match="No candidate"):
        choose(results)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_a_search_in_which_a_candidate_fails():
    search = GridSearchCV(
        E2CMClassifier(ToyExtractor()),
        {"threshold": [[0.1, 0.2, 0.3], 0.6, 0.99]},  # three for two exits
        scoring=accuracy_cost_scorer,
        refit=cheapest_within_drop(1.0),
    )
    with pytest.warns(FitFailedWarning):
        search.fit(X, y)
    assert search.best_params_ == {"threshold": 0.6}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize(
    ("results", "message"),
    [
        (None, "cv_results_ of a search are needed, got a NoneType"),
        ({}, r"lack \['mean_test_accuracy', 'mean_test_cost'\]"),
        (
            {"mean_test_accuracy": [0.9], "mean_test_cost": [1.0, 2.0]},
            "one number for each candidate",
        ),
        (
            {"mean_test_accuracy": ["a"], "mean_test_cost": [1.0]},
            "mean_test_accuracy has values of type <U1",
        ),
    ],
    ids=["none", "empty", "lengths", "text"],
)
def test_results_that_are_none(choose, results, message):
    with pytest.raises((ValueError, TypeError), match=message):
        choose(results)


@pytest.mark.parametrize("value", [None, "1%", NAN, True, [0.5]], ids=str)
@pytest.mark.parametrize("make", [best_within_cost, cheapest_within_drop])
def test_a_goal_is_a_number(make, value):
    with pytest.raises(ValueError, match=r"max_(cost|drop) must be a number, got"):
        make(value)
