"""Cases of parameters: what is wrong is named, at fit and at each call after it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sk_e2cm import (
    E2CMClassifier,
    E2CMClusterer,
    PipelineExtractor,
    RiskControl,
    TorchExtractor,
    TunedExitsCV,
)
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from .calls import (
    ask,
    careful,
    check_sound,
    demand_answer,
    demand_refusal,
    demand_same,
    everything,
    methods_of,
)
from .data import Samples, make_samples
from .networks import make_network
from .parameters import (
    N_CLASSES,
    PIPELINE_COSTS,
    READ_AT_EACH_CALL,
    RISKS,
    Value,
    choose_value,
    torch_arguments,
    wrong_modules,
)
from .references import check_lazy
from .verdict import Attempt, Fault

Notes = list[str]


def _rows(rng: Generator, n: int = 45) -> Samples:
    y = rng.permutation(np.arange(n) % N_CLASSES)
    centres = rng.normal(size=(N_CLASSES, 3))
    return Samples(1.5 * centres[y] + rng.normal(size=(n, 3)), y)


def _estimator(kind: str) -> Any:
    extractor = ToyExtractor()
    if kind == "E2CMClusterer":
        return E2CMClusterer(extractor, n_clusters=N_CLASSES, random_state=0)
    clf = E2CMClassifier(extractor, threshold=0.6)
    if kind == "E2CMClassifier":
        return clf
    return TunedExitsCV(clf, max_drop=0.1, cv=2, random_state=0)


def _set(estimator: Any, value: Value) -> None:
    if value.parameter == "max_cost":
        estimator.set_params(max_drop=None)
    if value.parameter == "device" and value.right:
        estimator.set_params(extractor=None)
    if value.parameter == "extractor" and np.ndim(estimator.threshold):
        estimator.set_params(threshold=0.6)
    estimator.set_params(**{value.parameter: value.value})


def says(value: Any, text: str) -> bool:
    """Tell whether a message says what was given: its repr, text, type or shape."""
    said = {type(value).__name__, getattr(value, "__name__", type(value).__name__)}
    for show in (repr, str, lambda v: str(tuple(np.shape(v))), lambda v: str(len(v))):
        try:
            said.add(show(value)[:30])
        except Exception:
            continue
    inside = value if isinstance(value, list | tuple) else []
    said |= {repr(each) for each in inside} | {str(len(inside))}
    numbers = re.findall(r"\d+\.?\d*|nan|NaN", text)
    if isinstance(value, np.ndarray | torch.Tensor) and numbers:
        return True
    text = text.lower()
    return any(each and each.lower() in text for each in said) or "nan" in text


def _demand_named(done: Attempt, value: Value) -> str:
    demand_refusal(done, f"{value.parameter}={value.value!r:.100}")
    if not says(value.value, str(done.error)):
        raise Fault(
            f"an error does not say what {value.parameter}={value.value!r:.60} was: "
            f"{str(done.error)[:200]}"
        )
    return done.outcome


KINDS = ("E2CMClassifier", "E2CMClusterer", "TunedExitsCV")


def parameter_at_fit(rng: Generator, notes: Notes) -> str:
    kind = KINDS[rng.integers(len(KINDS))]
    X, y = _rows(rng)
    estimator, value = _estimator(kind), choose_value(rng, kind)
    notes.append(f"{kind}({value.parameter}={value.value!r:.100})")
    names = (value.parameter, *((kind,) if value.parameter == "estimator" else ()))
    before_fit = bool(rng.integers(2))
    if before_fit:
        estimator.fit(X, y)
        expected = everything(estimator, X)
    old = estimator.get_params(deep=False)
    _set(estimator, value)
    done = careful(
        lambda: estimator.fit(X[::-1], y[::-1]),
        estimator=estimator,
        names=() if value.right else names,
        X=X,
        y=y,
    )
    if value.right:
        demand_answer(done, notes[-1])
        check_lazy(estimator, X)
        clone(estimator)
        return "answered"
    outcome = _demand_named(done, value)
    if before_fit:
        estimator.set_params(**old)
        demand_same("after a failed fit", everything(estimator, X), expected)
    return outcome


def parameter_after_fit(rng: Generator, notes: Notes) -> str:
    """What is read at each call is checked at each call, and reset is as before."""
    kind = ("E2CMClassifier", "E2CMClusterer")[rng.integers(2)]
    X, y = _rows(rng)
    estimator = _estimator(kind).fit(X, y)
    value = choose_value(rng, kind, READ_AT_EACH_CALL)
    if value.parameter == "device" and value.value is not None and value.right:
        estimator.set_params(extractor=None).fit(X, y)
    expected = everything(estimator, X)
    old = getattr(estimator, value.parameter)
    estimator.set_params(**{value.parameter: value.value})
    # Some are read by the passes over all stages alone.
    methods = methods_of(estimator)
    if value.parameter in ("memory", "verbose"):
        methods = [m for m in methods if m in ("exit_proba", "transform")]
    if value.parameter == "threshold":
        methods = [m for m in methods if m not in ("exit_proba", "transform")]
        methods.append("stage_cost_")
    if value.parameter == "batch_size" and value.right:
        methods = [m for m in methods if m != "cost"]
    method = methods[rng.integers(len(methods))]
    notes.append(
        f"{kind}.{method} after set_params({value.parameter}={value.value!r:.100})"
    )

    def call() -> Any:
        return (
            estimator.stage_cost_
            if method == "stage_cost_"
            else ask(estimator, method, X)
        )

    names = () if value.right else (value.parameter,)
    done = careful(call, estimator=estimator, names=names, X=X)
    if not value.right:
        _demand_named(done, value)
    else:
        answer = np.asarray(demand_answer(done, notes[-1]))
        if value.parameter != "threshold":
            demand_same(notes[-1], {method: answer}, {method: expected[method]})
        else:
            check_lazy(estimator, X)
    estimator.set_params(**{value.parameter: old})
    demand_same("after resetting", everything(estimator, X), expected)
    return done.outcome


def unknown_parameter(rng: Generator, notes: Notes) -> str:
    kind = KINDS[rng.integers(len(KINDS))]
    X, y = _rows(rng)
    estimator = _estimator(kind).fit(X, y)
    expected = everything(estimator, X)
    name = ("thresholds", "treshold", "x__y", "estimator__nothing", "fit")[
        rng.integers(5)
    ]
    notes.append(f"{kind}.set_params({name}=1)")
    done = careful(lambda: estimator.set_params(**{name: 1}), estimator=estimator)
    demand_refusal(done, notes[-1])
    demand_same("after a failed set_params", everything(estimator, X), expected)
    return done.outcome


def not_fitted(rng: Generator, notes: Notes) -> str:
    kind = KINDS[rng.integers(len(KINDS))]
    X, _ = _rows(rng)
    estimator = _estimator(kind)
    of_classifier = [] if kind == "E2CMClusterer" else ["score"]
    methods = [*methods_of(estimator), "stage_cost_", *of_classifier]
    method = methods[rng.integers(len(methods))]
    notes.append(f"{kind}.{method} before fit")

    def call() -> Any:
        if method.endswith("_"):
            return getattr(estimator, method)
        if method == "score":
            return estimator.score(X, np.zeros(len(X)))
        return ask(estimator, method, X)

    done = careful(call, names=(kind, "E2CMClassifier", method), estimator=estimator)
    return demand_refusal(done, notes[-1]).outcome


def torch_extractor(rng: Generator, notes: Notes) -> str:
    made = make_network(rng, "rows", ending="plain", dtype=torch.float32)
    samples = make_samples(rng, made, 24)
    if rng.integers(6) == 0:
        modules = wrong_modules()
        module = modules[rng.integers(len(modules))]
        notes.append(f"TorchExtractor({module!r:.100})")
        done = careful(
            lambda: TorchExtractor(module, ["0"]), names=("module", "compiled network")
        )
        return demand_refusal(done, notes[-1]).outcome
    arguments = torch_arguments(made.exits)
    given, right = arguments[rng.integers(len(arguments))]
    if right and isinstance(given["exits"], int | np.integer):
        given = {**given, "input_shape": made.shape}
    notes += [str(made), f"TorchExtractor({given!r:.200})"]

    def call() -> Any:
        return TorchExtractor(made.network, **given)

    done = careful(call, network=made.network)
    if not right:
        return demand_refusal(done, notes[-1]).outcome
    extractor = demand_answer(done, notes[-1])
    clf = E2CMClassifier(extractor, final="class_means")
    demand_answer(careful(lambda: clf.fit(*samples)), notes[-1])
    check_lazy(clf, samples.X)
    return _shapes(rng, notes, extractor, made.shape)


def _shapes(
    rng: Generator, notes: Notes, extractor: Any, shape: tuple[int, ...]
) -> str:
    """`macs` and `summary` of shapes that are none."""
    wrong = [(7, 7), (), (-1,), (0,), "abc", (1.5,), (None,), 10**400, object()]
    given: Any = wrong[rng.integers(len(wrong))]
    notes.append(f"macs({given!r:.100})")
    done = careful(lambda: extractor.macs(given), names=("shape", "input_shape"))
    demand_refusal(done, notes[-1])
    costs = demand_answer(careful(lambda: extractor.macs(shape)), "macs")
    if not (np.diff(costs) >= 0).all():
        raise Fault(f"macs fall: {costs}")
    return "answered"


def pipeline_extractor(rng: Generator, notes: Notes) -> str:
    X, y = _rows(rng)
    fitted = make_pipeline(StandardScaler(), PolynomialFeatures(2)).fit(X)
    if rng.integers(3) == 0:
        wrong: list[Any] = [
            [],
            None,
            3,
            "scaler",
            [StandardScaler()],
            [StandardScaler],
            make_pipeline(StandardScaler(), PolynomialFeatures()),
            [fitted[0], None],
            [fitted[0], "passthrough"],
            {"a": fitted[0]},
            [len],
            object(),
        ]
        given = wrong[rng.integers(len(wrong))]
        notes.append(f"PipelineExtractor({given!r:.100})")
        done = careful(
            lambda: PipelineExtractor(given, costs=[1, 2]),
            names=("Step", "PipelineExtractor", "transformers", "costs", "is a class"),
        )
        return demand_refusal(done, notes[-1]).outcome
    costs, right = PIPELINE_COSTS[rng.integers(len(PIPELINE_COSTS))]
    notes.append(f"costs={costs!r:.100}")
    done = careful(
        lambda: PipelineExtractor(fitted, costs=costs),
        names=() if right else ("costs",),
    )
    if not right:
        return _demand_named(done, Value("costs", costs, False))
    clf = E2CMClassifier(demand_answer(done, notes[-1]), threshold=0.6)
    demand_answer(careful(lambda: clf.fit(X, y), X=X, y=y), notes[-1])
    check_lazy(clf, X)
    return "answered"


def risk_control(rng: Generator, notes: Notes) -> str:
    given, right = RISKS[rng.integers(len(RISKS))]
    notes.append(f"RiskControl({given!r:.100})")
    done = careful(
        lambda: RiskControl(**given),
        names=() if right else ("alpha", "delta", "calibration_size"),
    )
    if not right:
        return demand_refusal(done, notes[-1]).outcome
    X, y = _rows(rng, 90)
    promise = demand_answer(done, notes[-1])
    search = TunedExitsCV(
        E2CMClassifier(ToyExtractor()), risk=promise, cv=2, random_state=0
    )
    demand_answer(careful(lambda: search.fit(X, y), X=X, y=y), notes[-1])
    check_sound(search, X)
    return "answered"


def testing_extractors(rng: Generator, notes: Notes) -> str:
    wrong = [0, -1, 2.5, "3", None, [3], True, np.nan]
    given: Any = wrong[rng.integers(len(wrong))]
    X, y = _rows(rng)
    if rng.integers(2):
        notes.append(f"ToyExtractor({given!r:.60})")
        done = careful(lambda: E2CMClassifier(ToyExtractor(given)).fit(X, y))
        if given is True:
            return done.outcome
    else:
        notes.append(f"CountingExtractor({given!r:.60})")
        done = careful(lambda: E2CMClassifier(CountingExtractor(given)).fit(X, y))
    return demand_refusal(done, notes[-1]).outcome


@contextmanager
def working_directory() -> Iterator[str]:
    """Work in a folder that is gone afterwards."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
