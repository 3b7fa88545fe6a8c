"""Cases of scorers, curves and pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.random import Generator
from sklearn.linear_model import LogisticRegression

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV, metrics
from sk_e2cm.inspection import ExitDisplay, TradeoffDisplay, report
from sk_e2cm.testing import ToyExtractor

from .calls import careful, demand_answer, demand_refusal
from .data import make_rows
from .references import check_lazy, demand_close

Notes = list[str]
NAMES = np.array(["ant", "bee", "cat", "dog"])

mpl.use("agg")


def _fitted(rng: Generator) -> tuple[Any, np.ndarray, np.ndarray]:
    X, y = make_rows(rng, 50)
    y = NAMES[y] if rng.integers(2) else y
    return E2CMClassifier(ToyExtractor(), threshold=0.6).fit(X, y), X, y


def right_reports(rng: Generator, notes: Notes) -> str:
    """Scores against plain loops."""
    clf, X, y = _fitted(rng)
    proba, weight = clf.exit_proba(X), rng.integers(1, 4, len(X)).astype(float)
    codes = np.searchsorted(clf.classes_, y)
    stage, stages = clf.predict_exit(X), np.arange(len(X))
    right = (clf.predict(X) == y).astype(float)
    done = careful(
        lambda: metrics.accuracy_cost_scorer(clf, X, y, weight), estimator=clf, X=X, y=y
    )
    scores = demand_answer(done, "accuracy_cost_scorer")
    cost = clf.stage_cost_[stage]
    demand_close(
        "accuracy", scores["accuracy"], np.average(right, weights=weight), 1e-9
    )
    demand_close("cost", scores["cost"], np.average(cost, weights=weight), 1e-9)
    full = (proba[:, -1].argmax(axis=1) == codes).astype(float)
    demand_close(
        "full", scores["full_accuracy"], np.average(full, weights=weight), 1e-9
    )

    n_bins = int(rng.integers(1, 20))
    last = proba[:, 0]
    found = metrics.calibration_error(y, last, classes=clf.classes_, n_bins=n_bins)
    order = last.max(axis=1).argsort(kind="stable")
    gap = (last.max(axis=1) - (last.argmax(axis=1) == codes))[order]
    parts = np.array_split(gap, min(n_bins, len(gap)))
    demand_close(
        "calibration_error", found, sum(abs(p.sum()) for p in parts) / len(gap), 1e-9
    )

    thresholds = np.sort(rng.random(5))
    accuracy, costs, _ = metrics.accuracy_cost_curve(
        y, proba, clf.network_.stage_cost(0.0), thresholds, classes=clf.classes_
    )
    for i, threshold in enumerate(thresholds):
        leaves = metrics.first_exit(proba, threshold)
        said = proba[stages, leaves].argmax(axis=1)
        demand_close("accuracy of a curve", accuracy[i], np.mean(said == codes), 1e-9)
        demand_close(
            "cost of a curve",
            costs[i],
            clf.network_.stage_cost(0.0)[leaves].mean(),
            1e-9,
        )
    _draw(clf, X, y)

    shown = report(clf, None, X, y, batch_sizes=(7,), n_rounds=1)
    demand_close("score of a report", shown.score, right.mean(), 1e-9)
    demand_close("full score of a report", shown.full_score, full.mean(), 1e-9)
    demand_close("cost of a report", shown.cost, cost.mean(), 1e-9)
    leaves = np.bincount(stage, minlength=len(clf.stage_cost_)) / len(X)
    demand_close("leaves of a report", shown.leaves, leaves, 1e-9)
    return "answered"


def _draw(clf: Any, X: Any, y: Any) -> None:
    import matplotlib.pyplot as plt

    try:
        shown = ExitDisplay.from_estimator(clf, X, y)
        demand_close("counts", shown.counts.sum(), len(X), 0)
        per_stage = np.bincount(clf.predict_exit(X), minlength=len(clf.stage_cost_))
        demand_close("counts by stage", shown.counts.sum(axis=(1, 2)), per_stage, 0)
        drawn = TradeoffDisplay.from_estimator(clf, X, y)
        demand_close("chosen", drawn.chosen[1], np.mean(clf.predict(X) == y), 1e-9)
        demand_close("chosen cost", drawn.chosen[0], clf.cost(X), 1e-9)
    finally:
        plt.close("all")


def _wrong_calls(clf: Any, X: Any, y: Any, proba: Any) -> dict[str, Callable[[], Any]]:
    """Return calls that each make a mistake; the names say which."""
    cost, one = clf.network_.stage_cost(0.0), proba[:, 0]
    unknown = np.where(np.arange(len(y)) == 3, NAMES[0] + "?", y.astype(object))
    stage, said = clf.predict_exit(X), clf.predict(X)
    results = {"mean_test_accuracy": [0.9], "mean_test_cost": [0.5]}
    bad = np.where(np.arange(len(X))[:, None] == 2, np.nan, one)
    error, curve = metrics.calibration_error, metrics.accuracy_cost_curve
    k = {"classes": clf.classes_}
    calls: dict[str, Callable[[], Any]] = {
        "error: y as a column": lambda: error(y[:, None], one, **k),
        "error: logits": lambda: error(y, np.log(one + 1e-9) * 5, **k),
        "error: above 1": lambda: error(y, one * 3, **k),
        "error: NaN": lambda: error(y, bad, **k),
        "error: unknown label": lambda: error(unknown, one, **k),
        "error: one column": lambda: error(y, one.max(axis=1), **k),
        "error: three axes": lambda: error(y, proba, **k),
        "error: text": lambda: error(y, one.astype(str) + "a", **k),
        "error: no samples": lambda: error(y[:0], one[:0], **k),
        "error: lengths": lambda: error(y[1:], one, **k),
        "error: n_bins 0": lambda: error(y, one, n_bins=0, **k),
        "error: n_bins -1": lambda: error(y, one, n_bins=-1, **k),
        "error: n_bins text": lambda: error(y, one, n_bins="10", **k),
        "error: n_bins 2.5": lambda: error(y, one, n_bins=2.5, **k),
        "error: None": lambda: error(None, one, **k),
        "error: classes twice": lambda: error(
            y, one, classes=[clf.classes_[0]] * one.shape[1]
        ),
        "error: classes too few": lambda: error(y, one, classes=clf.classes_[1:]),
        "curve: costs too few": lambda: curve(y, proba, cost[1:], **k),
        "curve: costs as text": lambda: curve(y, proba, ["a"] * len(cost), **k),
        "curve: NaN cost": lambda: curve(y, proba, cost * np.nan, **k),
        "curve: two axes": lambda: curve(y, one, cost, **k),
        "curve: NaN": lambda: curve(y, proba * np.nan, cost, **k),
        "curve: logits": lambda: curve(y, -proba * 7, cost, **k),
        "curve: unknown label": lambda: curve(unknown, proba, cost, **k),
        "curve: one threshold": lambda: curve(y, proba, cost, 0.5, **k),
        "curve: NaN threshold": lambda: curve(y, proba, cost, [np.nan], **k),
        "curve: text threshold": lambda: curve(y, proba, cost, ["a"], **k),
        "curve: y as a column": lambda: curve(y[:, None], proba, cost, **k),
        "curve: no samples": lambda: curve(y[:0], proba[:0], cost, **k),
        "report: y too short": lambda: report(clf, None, X, y[1:]),
        "report: unknown label": lambda: report(clf, None, X, unknown),
        "report: not fitted": lambda: report(E2CMClassifier(), None, X, y),
        "report: another": lambda: report(LogisticRegression(), None, X, y),
        "report: network as text": lambda: report(clf, "mine", X, y),
        "report: no sizes": lambda: report(clf, None, X, y, batch_sizes=()),
        "report: n_rounds -1": lambda: report(clf, None, X, y, n_rounds=-1),
        "report: NaN max_drop": lambda: report(clf, None, X, y, max_drop=np.nan),
        "first_exit: two axes": lambda: metrics.first_exit(one, 0.5),
        "first_exit: text": lambda: metrics.first_exit(proba, "high"),
        "first_exit: NaN": lambda: metrics.first_exit(proba * np.nan, 0.5),
        "first_exit: None": lambda: metrics.first_exit(None, 0.5),
        "scorer: not fitted": lambda: metrics.accuracy_cost_scorer(
            E2CMClassifier(), X, y
        ),
        "scorer: another": lambda: metrics.accuracy_cost_scorer(
            LogisticRegression(), X, y
        ),
        "scorer: class": lambda: metrics.agreement_cost_scorer(E2CMClassifier, X),
        "scorer: y too short": lambda: metrics.accuracy_cost_scorer(clf, X, y[1:]),
        "scorer: y None": lambda: metrics.accuracy_cost_scorer(clf, X, None),
        "scorer: y as two columns": lambda: metrics.accuracy_cost_scorer(
            clf, X, np.stack([y, y], axis=1)
        ),
        "scorer: weights too short": lambda: metrics.agreement_cost_scorer(
            clf, X, sample_weight=np.ones(3)
        ),
        "scorer: negative weights": lambda: metrics.accuracy_cost_scorer(
            clf, X, y, -np.ones(len(X))
        ),
        "scorer: weights of zero": lambda: metrics.agreement_cost_scorer(
            clf, X, None, np.zeros(len(X))
        ),
        "scorer: NaN weights": lambda: metrics.accuracy_cost_scorer(
            clf, X, y, np.full(len(X), np.nan)
        ),
        "scorer: other labels": lambda: metrics.accuracy_cost_scorer(
            clf,
            X,
            np.arange(len(X)) if y.dtype.kind == "U" else NAMES[np.zeros(len(X), int)],
        ),
        "scorer: a clusterer with y": lambda: metrics.accuracy_cost_scorer(
            E2CMClusterer(ToyExtractor(), 3, random_state=0).fit(X),
            X,
            NAMES[np.ones(len(X), int)],
        ),
        "best: NaN": lambda: metrics.best_within_cost(np.nan)(results),
        "best: text": lambda: metrics.best_within_cost("0.5")(results),
        "best: None": lambda: metrics.best_within_cost(None)(results),
        "best: too little": lambda: metrics.best_within_cost(0.1)(results),
        "best: no results": lambda: metrics.best_within_cost(0.5)({}),
        "best: NaN scores": lambda: metrics.best_within_cost(0.9)(
            {"mean_test_accuracy": [np.nan], "mean_test_cost": [0.5]}
        ),
        "best: lengths": lambda: metrics.best_within_cost(0.9)(
            {"mean_test_accuracy": [0.9, 0.8], "mean_test_cost": [0.5]}
        ),
        "cheapest: text": lambda: metrics.cheapest_within_drop("0.1")(results),
        "cheapest: NaN": lambda: metrics.cheapest_within_drop(np.nan)(results),
        "cheapest: negative": lambda: metrics.cheapest_within_drop(-1)(results),
        "cheapest: no results": lambda: metrics.cheapest_within_drop(0.1)({}),
    }
    shown = ExitDisplay.from_predictions
    trade = TradeoffDisplay.from_estimator
    return calls | {
        "exits: by": lambda: ExitDisplay.from_estimator(clf, X, y, by="x"),
        "exits: not fitted": lambda: ExitDisplay.from_estimator(E2CMClassifier(), X, y),
        "exits: another": lambda: ExitDisplay.from_estimator(
            LogisticRegression(), X, y
        ),
        "exits: y too short": lambda: ExitDisplay.from_estimator(clf, X, y[1:]),
        "exits: unknown label": lambda: ExitDisplay.from_estimator(clf, X, unknown),
        "exits: ax": lambda: ExitDisplay.from_estimator(clf, X, y, ax="ax"),
        "exits: fractions": lambda: shown(y, said, stage + 0.5),
        "exits: negative": lambda: shown(y, said, stage - 1),
        "exits: too many": lambda: shown(
            y, said, stage + 5, stage_names=["a", "b", "c"]
        ),
        "exits: no samples": lambda: shown(y[:0], said[:0], stage[:0]),
        "exits: text": lambda: shown(y, said, stage.astype(str)),
        "exits: lengths": lambda: shown(y, said, stage[1:]),
        "exits: columns": lambda: shown(y[:, None], said[:, None], stage),
        "exits: other predictions": lambda: shown(y, np.full(len(y), "?"), stage),
        "trade: no X": lambda: trade(clf),
        "trade: y alone": lambda: trade(clf, y=y),
        "trade: y too short": lambda: trade(clf, X, y[1:]),
        "trade: another": lambda: trade(LogisticRegression(), X, y),
        "trade: not fitted": lambda: trade(TunedExitsCV(E2CMClassifier()), X, y),
        "trade: search not fitted": lambda: trade(TunedExitsCV(E2CMClassifier())),
        "trade: unknown label": lambda: trade(clf, X, unknown),
        "trade: columns": lambda: trade(clf, X, y[:, None]),
        "trade: ax": lambda: trade(clf, X, y, ax=3),
        "score: y too short": lambda: clf.score(X, y[1:]),
        "score: None": lambda: clf.score(X, None),
        "score: columns": lambda: clf.score(X, np.stack([y, y], axis=1)),
        "score: meta": lambda: clf.score(X, torch.ones(len(X), device="meta")),
        "score: other labels": lambda: clf.score(
            X,
            np.arange(len(X)) if y.dtype.kind == "U" else NAMES[np.zeros(len(X), int)],
        ),
    }


# scikit-learn itself takes these, as accuracy_score does.
EITHER = (
    "error: y as a column",
    "curve: y as a column",
    "exits: columns",
    "trade: columns",
    "exits: other predictions",
    "cheapest: negative",
    "scorer: a clusterer with y",
)


def wrong_reports(rng: Generator, notes: Notes) -> str:
    import matplotlib.pyplot as plt

    clf, X, y = _fitted(rng)
    calls = _wrong_calls(clf, X, y, clf.exit_proba(X))
    name = list(calls)[rng.integers(len(calls))]
    notes.append(f"{name} (labels of type {y.dtype})")
    try:
        done = careful(calls[name], estimator=clf, X=X, y=y)
        if name not in EITHER:
            demand_refusal(done, name)
    finally:
        plt.close("all")
    check_lazy(clf, X)
    return done.outcome
