"""Cases of interruptions, and of objects of the user."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.random import Generator
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.naive_bayes import GaussianNB

from sk_e2cm import E2CMClassifier, E2CMClusterer, Extractor, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

from .calls import (
    careful,
    check_sound,
    classifier_for,
    demand_refusal,
    demand_same,
    everything,
)
from .data import make_rows
from .verdict import OURS, Expected, Fault

Notes = list[str]


# Interruptions


def interrupted(rng: Generator, notes: Notes) -> str:
    """Stopped on any line of a fit, an estimator is what it was or what it becomes."""
    X, y = make_rows(rng, 40)
    kind = rng.integers(3)
    clf: Any = E2CMClassifier(ToyExtractor(), threshold=0.6)
    if kind == 1:
        clf = E2CMClusterer(ToyExtractor(), n_clusters=3, random_state=0)
    elif kind == 2:
        clf = TunedExitsCV(clf, max_drop=0.1, cv=2, random_state=0)
    other = (
        np.ascontiguousarray(X[::-1, ::-1]) * 2,
        np.array(["a", "b", "c", "d", "e"])[y],
    )
    clf.fit(*other)
    old = everything(clf, X)
    lines = _lines_of(lambda: clf.fit(X, y))
    new = everything(clf, X)
    clf.fit(*other)
    # The last lines are where what was fitted is set.
    at = (
        lines - int(rng.integers(0, 40))
        if rng.integers(4)
        else int(rng.integers(lines))
    )
    notes.append(f"{type(clf).__name__}, stopped at line {at} of {lines}")
    stopped = _lines_of(lambda: clf.fit(X, y), stop_at=at) <= at
    found, is_old = everything(clf, X), True
    try:
        demand_same("an interrupted fit", found, old)
    except Fault:
        is_old = False
        demand_same("an interrupted fit", found, new)
    if kind == 0 and set(clf.classes_) != set(other[1] if is_old else y):
        raise Fault(f"an interrupted fit has left classes_ {clf.classes_}")
    return "refused" if stopped else "answered"


def _lines_of(call: Any, stop_at: int = -1) -> int:
    """Count the lines run in the package's public modules; interrupt at one of them."""
    count = 0
    rooms = {
        f"{OURS}/{name}.py" for name in ("_base", "_classifier", "_clusterer", "_tuned")
    }

    def on_line(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == stop_at:
                raise KeyboardInterrupt
        return on_line

    def on_call(frame: Any, event: str, _: Any) -> Any:
        return on_line if frame.f_code.co_filename in rooms else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return count


# Objects of the user


class Misbehaving(ToyExtractor):
    """An extractor of the user that does one thing wrong."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.calls = how, 0

    def begin(self, X: Any) -> Any:
        self.calls += len(X) == 16  # of the pass over all samples
        if self.how == "raises":
            raise Expected("of the user")
        return super().begin(X)

    def advance(self, state: Any, stage: int) -> Any:
        state, output = super().advance(state, stage)
        match self.how:
            case "another width later" if self.calls > 1:
                output = output[:, :1]
            case "zero width":
                output = output[:, :0]
            case "fewer rows":
                output = output[1:]
            case "NaN":
                output = output * np.nan
            case "text":
                output = output.astype(str)
            case "objects":
                output = np.full(output.shape, None)
            case "complex":
                output = output * 1j
            case "nothing":
                output = None
            case "a number":
                output = 1.0
            case "a list":
                output = output.tolist()
        return state, output

    def keep(self, state: Any, rows: Any) -> Any:
        return state if self.how == "keeps all" else super().keep(state, rows)

    def macs(self, input_shape: Any) -> Any:
        costs = {"falling": [3, 2, 1], "too few": [1], "no costs": None}
        costs |= {"text costs": ["a", "b", "c"], "endless": [1, 2, np.inf]}
        return costs.get(self.how, super().macs(input_shape))


MISBEHAVIOURS = (
    "another width later",
    "zero width",
    "fewer rows",
    "NaN",
    "text",
    "objects",
    "complex",
    "nothing",
    "a number",
    "keeps all",
    "falling",
    "too few",
    "no costs",
    "text costs",
    "endless",
)


class OddClassifier(ClassifierMixin, BaseEstimator):
    """A last classifier that does one thing wrong."""

    def __init__(self, how: str = "") -> None:
        self.how = how

    def fit(self, X: Any, y: Any) -> Any:
        if self.how == "raises":
            raise Expected("of the user")
        self.inside_ = GaussianNB().fit(X, y)
        self.classes_ = self.inside_.classes_
        return self

    def predict_proba(self, X: Any) -> Any:
        proba = self.inside_.predict_proba(X)
        return {
            "NaN": proba * np.nan,
            "some NaN": np.where(np.arange(len(X))[:, None] == 0, np.nan, proba),
            "one column": proba[:, :1],
            "a column more": np.column_stack([proba, proba[:, 0]]),
            "labels": proba.argmax(axis=1),
            "fewer rows": proba[1:],
            "nothing": None,
            "text": proba.astype(str),
            "below 0": proba - 1.0,
        }.get(self.how, proba)


ODD_CLASSIFIERS = ("NaN", "some NaN", "one column", "a column more", "labels",
                   "fewer rows", "nothing", "text", "below 0")  # fmt: skip


class OddClusterer(BaseEstimator):
    def __init__(self, how: str = "") -> None:
        self.how = how

    def fit(self, X: Any, y: Any = None) -> Any:
        if self.how == "raises":
            raise Expected("of the user")
        return self

    def predict(self, X: Any) -> Any:
        labels = (np.asarray(X)[:, 0] > np.median(np.asarray(X)[:, 0])).astype(int)
        return {
            "one cluster": labels * 0,
            "fewer": labels[1:],
            "text": np.array(["a", "b"])[labels],
            "NaN": labels * np.nan,
            "nothing": None,
            "columns": np.eye(2)[labels],
        }.get(self.how, labels)


ODD_CLUSTERERS = ("one cluster", "fewer", "NaN", "nothing", "columns")


def objects_of_users(rng: Generator, notes: Notes) -> str:
    X, y = make_rows(rng, 40)
    X = np.column_stack([X, X])
    estimator: Any
    match rng.integers(4):
        case 0:
            how = [*MISBEHAVIOURS, "raises"][rng.integers(len(MISBEHAVIOURS) + 1)]
            estimator = classifier_for(
                rng, Misbehaving(how), pooling="auto", threshold=0.5, batch_size=16
            )
        case 1:
            how = [*ODD_CLASSIFIERS, "raises"][rng.integers(len(ODD_CLASSIFIERS) + 1)]
            estimator = E2CMClassifier(ToyExtractor(), final=OddClassifier(how))
        case 2:
            how = [*ODD_CLUSTERERS, "raises"][rng.integers(len(ODD_CLUSTERERS) + 1)]
            estimator = E2CMClusterer(ToyExtractor(), clusterer=OddClusterer(how))
        case _:
            poolings = {
                "text": lambda output: np.full((len(output), 2), "a"),
                "one row": lambda output: np.ones((1, 2)),
                "no columns": lambda output: np.ones((len(output), 0)),
                "nothing": lambda output: None,
                "complex": lambda output: 1j * np.ones((len(output), 2)),
                "raises": _raise,
                "NaN": lambda output: np.full((len(output), 2), np.nan),
            }
            how = list(poolings)[rng.integers(len(poolings))]
            estimator = E2CMClassifier(TwoAxes(), pooling=poolings[how])
    notes += [repr(estimator), how]
    done = careful(lambda: estimator.fit(X, y), estimator=estimator, X=X, y=y)
    if done.error is None:
        done = careful(lambda: check_sound(estimator, X), estimator=estimator, X=X)
        if how == "keeps all":
            return done.outcome
    return demand_refusal(done, f"{type(estimator).__name__}: {how}").outcome


def _raise(output: Any) -> Any:
    raise Expected("of the user")


class TwoAxes(Extractor):
    """Its outputs are maps, so that they are pooled."""

    stage_names = ("first", "last")

    def begin(self, X: Any) -> Any:
        return X[:, None, :]

    def advance(self, state: Any, stage: int) -> Any:
        return state, state

    def keep(self, state: Any, rows: Any) -> Any:
        return state[rows]

    def macs(self, input_shape: Any) -> Any:
        return [1.0, 2.0]
