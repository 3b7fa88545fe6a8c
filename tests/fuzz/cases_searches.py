"""Cases of searches for thresholds, and of the network's own head."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from scipy.special import expit, softmax
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

from .calls import careful, classifier_for, cut, demand_answer, fit
from .data import Samples, make_rows, make_samples
from .networks import make_network
from .references import check_lazy, demand_close, demand_equal, exempt
from .verdict import Fault, digest

Notes = list[str]


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
    scoring = "accuracy" if "confidence" in goal else scoring
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
    costs, scores = tuned.frontier_["cost"], tuned.frontier_["expected_score"]
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
