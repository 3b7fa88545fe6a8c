"""Cases of searches, heads, caches, interruptions, and objects of the user."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import balanced_accuracy_score
from sklearn.naive_bayes import GaussianNB
from torch import nn

from sk_e2cm import (
    E2CMClassifier,
    E2CMClusterer,
    Extractor,
    TorchExtractor,
    TunedExitsCV,
)
from sk_e2cm.testing import ToyExtractor

from .calls import (
    careful,
    check_sound,
    classifier_for,
    cut,
    demand_answer,
    demand_refusal,
    demand_same,
    everything,
    fit,
)
from .cases_parameters import working_directory
from .data import Samples, make_rows, make_samples
from .networks import make_network
from .references import check_lazy, demand_close, demand_equal, exempt
from .verdict import OURS, Expected, Fault, digest

Notes = list[str]


# Searches


def search(rng: Generator, notes: Notes) -> str:
    """Thresholds keep what was asked for, measured again from the start."""
    X, y = make_rows(rng, 100)
    goals: list[dict[str, Any]] = [
        {"max_drop": float(rng.choice([0.0, 0.02, 0.2]))},
        {"max_cost": float(rng.choice([0.5, 0.9, 1.2]))},
        {"max_drop": 0.05, "confidence": float(rng.choice([0.6, 0.9]))},
    ]
    goal = goals[rng.integers(len(goals))]
    clf = classifier_for(rng, ToyExtractor(), pooling="auto")
    prefit = bool(rng.integers(2)) and "confidence" not in goal
    scoring = ("accuracy", "balanced_accuracy")[rng.integers(2)]
    tuned = TunedExitsCV(
        clf,
        cv="prefit" if prefit else 2,
        scoring=scoring,
        per_class=bool(rng.integers(2)),
        random_state=0,
    )
    done = careful(lambda: tuned.set_params(**goal))
    demand_answer(done, f"set_params({goal})")
    notes.append(repr(tuned))
    if prefit:
        clf.fit(X[:50], y[:50])
    train = X[50:], y[50:]
    before = digest(clf)
    done = careful(lambda: tuned.fit(*train), estimator=tuned, X=X, y=y)
    if digest(clf) != before:
        raise Fault("the estimator that was passed has changed")
    if done.error is not None and "max_cost" in goal:
        return done.outcome
    demand_answer(done, notes[0])
    _check_goal(tuned, goal)
    check_lazy(tuned, X)
    if prefit:
        _check_measured(tuned, *train, scoring)
    frontier = {k: v.copy() for k, v in tuned.frontier_.items()}
    threshold = np.array(tuned.estimator_.threshold)
    tuned.best_threshold_[...] = -1.0  # the user's to write to
    for name, value in frontier.items():
        demand_equal(
            f"frontier_[{name!r}] after best_threshold_ was written to",
            tuned.frontier_[name],
            value,
        )
    demand_equal(
        "estimator_.threshold, written to", tuned.estimator_.threshold, threshold
    )
    return "answered"


def _check_goal(tuned: Any, goal: dict[str, Any]) -> None:
    drop = tuned.full_score_ - tuned.best_score_
    if drop > goal.get("max_drop", 1) + 1e-9:
        raise Fault(f"drops by {drop}")
    if tuned.best_cost_ > goal.get("max_cost", 9) + 1e-9:
        raise Fault(f"costs {tuned.best_cost_}")
    costs, scores = tuned.frontier_["cost"], tuned.frontier_["score"]
    if (np.diff(costs) <= 0).any() or (np.diff(scores) <= 0).any():
        raise Fault("the frontier does not rise")
    demand_equal(
        "estimator_.threshold", tuned.estimator_.threshold, tuned.best_threshold_
    )


def _check_measured(tuned: Any, X: Any, y: Any, scoring: str) -> None:
    """With cv="prefit" the figures are those of the estimator on these samples."""
    proba = tuned.exit_proba(X)
    near = exempt(proba, tuned.best_threshold_, 1e-6).mean()
    score = (
        balanced_accuracy_score
        if scoring.startswith("b")
        else (lambda a, b: float(np.mean(a == b)))
    )
    slack = 1e-9 + near * len(X)  # one near sample of a small class may count for much
    full = tuned.classes_[proba[:, -1].argmax(axis=1)]
    demand_close("full_score_", tuned.full_score_, score(y, full), 1e-9 + near)
    demand_close("best_score_", tuned.best_score_, score(y, tuned.predict(X)), slack)
    demand_close("best_cost_", tuned.best_cost_, tuned.cost(X), slack)


# Heads


def _trained(rng: Generator, n_outputs: int, n_absent: int = 0) -> tuple[Any, Any, Any]:
    """Return a network whose own head is good, and samples of its first columns."""
    n, width = 80, 6
    n_seen = n_outputs - n_absent
    seen = np.sort(rng.choice(n_outputs, n_seen, replace=False))
    y = seen[rng.permutation(np.arange(n) % n_seen)]
    centres = 3 * rng.normal(size=(n_outputs, width))
    X = (centres[y] + rng.normal(size=(n, width))).astype(np.float32)
    layers = OrderedDict(
        first=nn.Linear(width, width), last=nn.Linear(width, n_outputs)
    )
    network = nn.Sequential(layers)
    with torch.no_grad():
        network.first.weight.copy_(torch.eye(width))
        network.first.bias.zero_()
        network.last.weight.copy_(torch.from_numpy(centres))
        network.last.bias.copy_(torch.from_numpy(-(centres**2).sum(1) / 2))
    return network, X, y


def heads(rng: Generator, notes: Notes) -> str:
    """The network's own head is used, or is rejected with a warning."""
    n_outputs = int(rng.integers(3, 7))
    absent = int(rng.integers(0, n_outputs - 1))
    network, X, y = _trained(rng, n_outputs, absent)
    with torch.inference_mode():
        logits = network(torch.from_numpy(X)).double().numpy()
    names = rng.permutation(np.array(["ant", "bee", "cat", "dog", "eel", "fox"]))[
        :n_outputs
    ]
    case = ("columns", "names", "head_classes", "scaled", "shuffled")[rng.integers(5)]
    params: dict[str, Any] = {}
    given, labels = X, y
    if case == "names":
        labels = names[y]
    elif case == "head_classes":
        params, labels = {"head_classes": names}, names[y]
    elif case == "scaled":
        given = np.clip(X * 40 + 128, 0, 255).astype(np.float32)
    elif case == "shuffled":
        labels = (y + 1) % n_outputs
    notes.append(f"{case}, {n_outputs} outputs, {absent} absent")
    clf = E2CMClassifier(TorchExtractor(network, ["first"]), threshold=np.inf, **params)
    done = careful(lambda: clf.fit(given, labels), X=given, y=labels, network=network)
    demand_answer(done, notes[-1])
    if clf.final_ != "network":
        said = [text for text in done.warned if "final" in text or "head" in text]
        usable = absent == 0 or case != "names"
        if usable and not said:
            raise Fault("the network's own head is dropped without a word")
        if case in ("columns", "head_classes") and usable:
            raise Fault(f"a right head is rejected ({case}, {absent} absent)")
        return "answered"
    check_lazy(clf, given)
    if case in ("columns", "head_classes"):
        columns = (
            np.unique(y)
            if case == "columns"
            else [list(names).index(label) for label in clf.classes_]
        )
        expected = softmax(logits[:, columns], axis=1)
        whole = softmax(logits, axis=1)[:, columns]
        proba = clf.predict_proba(given)
        if not np.allclose(proba, whole / whole.sum(axis=1, keepdims=True), atol=1e-3):
            demand_close("the head's probabilities", proba, expected, 1e-3)
    return "answered"


def one_output(rng: Generator, notes: Notes) -> str:
    """Networks with one output for two classes."""
    ending = ("plain", "vector")[rng.integers(2)]
    network, X, y = _trained(rng, 2)
    with torch.no_grad():
        last = nn.Linear(6, 1)
        last.weight.copy_(network.last.weight[1:] - network.last.weight[:1])
        last.bias.copy_(network.last.bias[1:] - network.last.bias[:1])
    network.last = last if ending == "plain" else nn.Sequential(last, nn.Flatten(0))
    final = ("auto", "network")[rng.integers(2)]
    names = np.array(["no", "yes"])[y] if final == "auto" and rng.integers(2) else y
    notes.append(f"{ending}, final={final}, y {names.dtype}")
    clf = E2CMClassifier(
        TorchExtractor(network, ["first"]), final=final, threshold=np.inf
    )
    done = careful(lambda: clf.fit(X, names), X=X, y=names, network=network)
    demand_answer(done, "a network of one output")
    check_lazy(clf, X)
    if clf.final_ == "network":
        with torch.inference_mode():
            logit = network(torch.from_numpy(X)).double().numpy().reshape(-1)
        demand_close("sigmoid", clf.predict_proba(X)[:, 1], expit(logit), 1e-3)
    return "answered"


def kinds_of_numbers(rng: Generator, notes: Notes) -> str:
    """Pictures of 0..255 where fractions were fitted, or the other way: a warning."""
    made = make_network(rng, "images", dtype=torch.float32)
    X, y = make_samples(rng, made, 30)
    clf = E2CMClassifier(demand_answer(cut(made), "a network"), threshold=0.6)
    X = (X - X.min()) / np.ptp(X)
    whole = (X * 255).astype(np.uint8)
    fitted, asked = (X, whole) if rng.integers(2) else (whole, X)
    notes.append(f"fitted on {fitted.dtype}, asked of {asked.dtype}")
    demand_answer(fit(clf, Samples(fitted, y), made.network), "pictures")
    done = careful(lambda: clf.predict(asked), estimator=clf, X=asked)
    if done.error is None and not done.warned:
        raise Fault("another kind of numbers than at fit is taken without a word")
    same = careful(lambda: clf.predict(fitted), estimator=clf, X=fitted)
    demand_answer(same, "the same kind")
    if same.warned:
        raise Fault(f"the same kind of numbers gives a warning: {same.warned[0]}")
    return done.outcome


# Caches

_OWN = """
from sk_e2cm import Extractor

def helper(x):
    return x {helper}

class Base(Extractor):
    scale = {base}
    def keep(self, state, rows):
        return state[rows]

class Own(Base):
    stage_names = ("half", "all")
    class Inner:
        def __call__(self, x):
            return x {inner}
    def begin(self, X):
        return X
    def advance(self, state, stage):
        seen = helper(self.Inner()(state)) * self.scale {own}
        return state, seen[:, :2] if stage == 0 else seen
    def macs(self, input_shape):
        return [1.0, 2.0]
"""


def _own_extractor(changes: dict[str, str]) -> Any:
    parts = {"helper": "+ 0", "base": "1.0", "inner": "+ 0", "own": "+ 0", **changes}
    module = types.ModuleType("own_extractor")
    sys.modules[module.__name__] = module
    exec(_OWN.format(**parts), vars(module))
    return module.Own()


def memory(rng: Generator, notes: Notes) -> str:
    """What is cached is never what another extractor, or other code, has computed."""
    X, y = make_rows(rng, 40)
    X = np.column_stack([X, X[:, 0] ** 2])
    place = ("", "cache", "path")[rng.integers(3)]
    if rng.integers(2):
        part = ("helper", "base", "inner", "own")[rng.integers(4)]
        change = "3.0" if part == "base" else "** 3"
        pair = [_own_extractor({}), lambda: _own_extractor({part: change})]
        notes.append(f"memory={place!r}, own extractor, {part} changed")
    else:
        networks = [make_network(rng, "rows", dtype=torch.float32) for _ in range(2)]
        X = np.resize(X, (len(X), *networks[0].shape)).astype(np.float32)
        X += rng.normal(size=X.shape).astype(np.float32)
        pair = [TorchExtractor(m.network, m.exits) for m in networks]
        notes.append(f"memory={place!r}, {networks[0]}, {networks[1]}")
    with working_directory() as folder:
        for extractor in pair:
            if isinstance(extractor, types.FunctionType):
                extractor = extractor()
            clf = E2CMClassifier(extractor, metric="euclidean", final="class_means")
            expected = clf.fit(X, y).exit_proba(X)
            given: Any = {"path": __import__("pathlib").Path(folder)}.get(place, place)
            clf.set_params(memory=given)
            for _ in range(2):
                done = careful(lambda clf=clf: clf.fit(X, y), estimator=clf, X=X, y=y)
                if done.error is not None:
                    return done.outcome
                demand_close("with memory", clf.exit_proba(X), expected, 1e-6)
                demand_close(
                    "score", clf.score(X, y), np.mean(clf.predict(X) == y), 1e-9
                )
    return "answered"


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
    after = everything(clf, X)
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
    found = everything(clf, X)
    fitted_labels = hasattr(clf, "labels_") and len(clf.labels_) == len(X)
    try:
        demand_same("an interrupted fit", found, after)
        if kind == 0 and set(clf.classes_) != set(other[1]):
            raise Fault(f"an interrupted fit has left classes_ {clf.classes_}")
    except Fault:
        demand_same("an interrupted fit", found, new)
        if kind == 0 and set(clf.classes_) != set(y):
            raise Fault(
                f"an interrupted fit has left classes_ {clf.classes_}"
            ) from None
    del fitted_labels
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
        self.calls += 1
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
            "fractions": labels + 0.5,
            "NaN": labels * np.nan,
            "nothing": None,
            "columns": np.eye(2)[labels],
        }.get(self.how, labels)


ODD_CLUSTERERS = ("one cluster", "fewer", "fractions", "NaN", "nothing", "columns")


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
