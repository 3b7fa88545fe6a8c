"""How cases call: with every change watched, and every answer checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV

from .data import Samples
from .networks import Made
from .references import demand_proba
from .verdict import Attempt, Fault, attempt, digest, untouched

PREDICTIONS = (
    "predict",
    "predict_exit",
    "staged_predict",
    "exit_proba",
    "cost",
)
POOLINGS = ("auto", "auto", 1, 2, "none", "second_order")
PROBABILITIES = ("predict_proba", "staged_predict_proba")


def careful(
    call: Callable[[], Any],
    *,
    estimator: Any = None,
    names: tuple[str, ...] = (),
    **kept: Any,
) -> Attempt:
    """Attempt a call; refuse changes of `kept`, and of the estimator if it fails."""
    before, done = digest(estimator), None
    try:
        with untouched(**kept):
            done = attempt(call, names=names)
    except Fault as fault:
        if done is None:
            raise
        raise Fault(
            f"{fault} by a call that was {done.outcome}: {done.error}"
        ) from fault
    if done.error is not None and digest(estimator) != before:
        raise Fault(f"a failed call has changed the estimator: {done.error}")
    return done


def demand_answer(done: Attempt, what: str) -> Any:
    if done.error is not None:
        text = " ".join(str(done.error).split())[:300]
        raise Fault(f"{what} is refused: {type(done.error).__name__}: {text}")
    return done.answer


def demand_refusal(done: Attempt, what: str) -> Attempt:
    if done.error is None:
        raise Fault(f"{what} is accepted")
    return done


def methods_of(estimator: Any) -> list[str]:
    extra = [m for m in PROBABILITIES if hasattr(estimator, m)]
    return [
        *PREDICTIONS,
        *extra,
        *(["transform"] if hasattr(estimator, "transform") else []),
    ]


def ask(estimator: Any, method: str, X: Any) -> Any:
    answer = getattr(estimator, method)(X)
    return list(answer) if method.startswith("staged") else answer


def everything(estimator: Any, X: Any) -> dict[str, Any]:
    """Return the answers of all methods, to be compared."""
    return {m: np.asarray(ask(estimator, m, X)) for m in methods_of(estimator)}


def demand_same(what: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    for method, answer in expected.items():
        other = found[method]
        same = other.shape == answer.shape and (
            np.allclose(other, answer, atol=1e-5)
            if answer.dtype.kind == "f"
            else (other == answer).all()
        )
        if not same:
            raise Fault(f"{what}: {method} gives something else")


def check_sound(estimator: Any, X: Any) -> None:
    """Whatever was passed, answers are as many as the samples, and probabilities."""
    proba = estimator.exit_proba(X)
    demand_proba("exit_proba", proba)
    labels = estimator.predict(X)
    if len(labels) != len(proba):
        raise Fault(f"{len(labels)} answers for {len(proba)} samples")


# Estimators


def a_threshold(rng: Generator) -> float:
    return float(rng.choice([0.4, 0.55, 0.7, 0.9, np.inf]))


def classifier_for(rng: Generator, extractor: Any, **given: Any) -> E2CMClassifier:
    params: dict[str, Any] = {
        "metric": ("euclidean", "mahalanobis")[rng.integers(2)],
        "pooling": POOLINGS[rng.integers(len(POOLINGS))],
        "threshold": a_threshold(rng),
        "calibration": ("temperature", "temperature", None, "dirichlet")[
            rng.integers(4)
        ],
        "batch_size": int(rng.choice([5, 16, 128])),
        **given,
    }
    if rng.integers(3) == 0:
        del params["metric"]  # the default
    whitened = params.get("metric", "mahalanobis") == "mahalanobis"
    if whitened and not (callable(params["pooling"]) or params["pooling"] == "none"):
        params["carry"] = int(rng.choice([0, 0, 1, 2]))
    return E2CMClassifier(extractor, **params)


def clusterer_for(rng: Generator, extractor: Any, n: int) -> E2CMClusterer:
    return E2CMClusterer(
        extractor,
        n_clusters=n,
        threshold=a_threshold(rng),
        metric=("euclidean", "mahalanobis")[rng.integers(2)],
        batch_size=int(rng.choice([16, 128])),
        random_state=0,
    )


def any_estimator(rng: Generator, extractor: Any, n_classes: int) -> Any:
    """Return a classifier most often, a clusterer, or a search for thresholds."""
    kind = rng.integers(6)
    if kind == 4:
        return clusterer_for(rng, extractor, n_classes)
    final = ("auto", "network", "class_means")[rng.integers(3)]
    clf = classifier_for(rng, extractor, final=final)
    if kind == 5:
        return TunedExitsCV(clf, max_drop=0.1, cv=3, random_state=0)
    return clf


def cut(made: Made) -> Attempt:
    """Cut a network into stages, which leaves it as it is."""
    return careful(
        lambda: TorchExtractor(made.network, made.exits), network=made.network
    )


def fit(estimator: Any, samples: Samples, network: Any = None) -> Attempt:
    X, y = samples
    return careful(
        lambda: estimator.fit(X, y), estimator=estimator, X=X, y=y, network=network
    )
