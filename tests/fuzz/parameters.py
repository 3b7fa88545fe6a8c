"""Right and wrong values for every parameter of every public class."""

from __future__ import annotations

import decimal
import pathlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from sklearn.cluster import DBSCAN, KMeans, MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC

from sk_e2cm import RiskControl
from sk_e2cm.testing import ToyExtractor

# The data of these cases: rows with three classes, and `ToyExtractor`'s two exits.
N_CLASSES, N_EXITS = 3, 2
HUGE = 10**400


class Value(NamedTuple):
    parameter: str
    value: Any
    right: bool


class NoComparison:
    """Refuses to be compared, as arrays in conditions do."""

    def __eq__(self, other: object) -> Any:
        raise RuntimeError("cannot be compared")

    __hash__ = object.__hash__


def flat_mean(output: Any) -> Any:
    return output.reshape(len(output), -1)


# Wrong for nearly everything; what they are right for stands in RIGHT_ALL_THE_SAME.
ODDITIES: list[Any] = [
    None,
    object(),
    NoComparison(),
    "nonsense",
    "",
    b"auto",
    -1,
    0,
    2.5,
    HUGE,
    float("nan"),
    float("-inf"),
    True,
    1j,
    decimal.Decimal("0.5"),
    [],
    {},
    {"a": 1},
    [None],
    ["a", "b"],
    np.array([0.5, 0.5, 0.5, 0.5, 0.5]),
    np.array(["a"]),
    np.zeros((2, 2, 2)),
    np.nan * np.ones(N_EXITS),
    torch.tensor([1.0, 2.0, 3.0, 4.0]),
    torch.ones(2, device="meta"),
    pd.NA,
    pd.Series([1, 2, 3, 4]),
    pd.DataFrame({"a": [1]}),
    int,
    KMeans,
    len,
    slice(None),
    np.datetime64("2020-01-01"),
    torch.nn.Identity(),
    KMeans(2),
    (x for x in ()),
]


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


# Which oddities a parameter takes, or may take: they are left out where it is attacked.
RIGHT_ALL_THE_SAME: dict[str, Any] = {
    "extractor": lambda v: v is None,
    "metric": lambda v: False,
    "pooling": lambda v: callable(v) or isinstance(v, int),
    "threshold": lambda v: (
        isinstance(v, bool | decimal.Decimal)
        or (_is(v, float) and v == v)
        or (_is(v, int) and v < HUGE)
    ),
    "calibration": lambda v: v is None,
    "final": lambda v: hasattr(v, "fit"),
    "head_classes": lambda v: v is None,
    "shrinkage": lambda v: (
        (_is(v, int) and v == 0) or isinstance(v, bool | decimal.Decimal)
    ),
    "head": lambda v: False,
    "carry": lambda v: _is(v, int) and 0 <= v <= 2,
    "batch_size": lambda v: isinstance(v, bool) or (_is(v, int) and v >= 1),
    "device": lambda v: v is None,
    "memory": lambda v: v is None or isinstance(v, str),
    "verbose": lambda v: (_is(v, int) and v >= 0) or isinstance(v, bool),
    "n_clusters": lambda v: isinstance(v, bool),
    "clusterer": lambda v: v is None or isinstance(v, KMeans),
    "random_state": lambda v: (
        v is None or (_is(v, int) and v == 0) or isinstance(v, bool)
    ),
    "estimator": lambda v: False,
    "max_cost": lambda v: v is None or (_is(v, float) and v > 0) or _is(v, int),
    "max_drop": lambda v: v is None or (_is(v, int) and v == 0),
    "scoring": lambda v: callable(v),
    "per_class": lambda v: isinstance(v, bool),
    "risk": lambda v: v is None,
    "confidence": lambda v: v is None,
    "cv": lambda v: v is None,
    "refit": lambda v: isinstance(v, bool),
}

BASE: dict[str, list[Any]] = {
    "extractor": [None, ToyExtractor(), ToyExtractor(n_stages=1), ToyExtractor(5)],
    "metric": ["euclidean", "mahalanobis", np.str_("euclidean")],
    "pooling": ["auto", "none", 1, 2, np.int64(3), flat_mean],
    "threshold": [
        0.5,
        1,
        np.float32(0.7),
        np.inf,
        -np.inf,
        [0.5, np.inf],
        (0.4, 0.8),
        np.full((N_EXITS, N_CLASSES), 0.6),
        torch.tensor([0.5, 0.9]),
        pd.Series([0.5, 0.9]),
    ],
    "calibration": ["temperature", "dirichlet", None],
    "shrinkage": ["ledoit_wolf", "oas", 0.1, 1, 1.0, np.float64(0.3)],
    "carry": [0, 1, 2, np.int64(1)],
    "batch_size": [1, 7, np.int32(16), 10**6],
    "device": [None, "cpu", torch.device("cpu")],
    "memory": [None],
    "verbose": [0, 1, False],
}
RIGHT: dict[str, dict[str, list[Any]]] = {
    "E2CMClassifier": {
        **BASE,
        "final": ["auto", "class_means", LogisticRegression(), GaussianNB()],
        "head_classes": [None, [0, 1, 2], (2, 1, 0), np.array([1, 0, 2])],
        "head": ["class_means", GaussianNB(), ("class_means", LogisticRegression())],
    },
    "E2CMClusterer": {
        **BASE,
        "n_clusters": [3, np.int64(3)],
        "clusterer": [
            None,
            KMeans(3, random_state=0),
            MiniBatchKMeans(3, random_state=0),
            GaussianMixture(3, random_state=0),
        ],
        "random_state": [0, 1, np.random.RandomState(0)],
    },
    "TunedExitsCV": {
        "max_drop": [0.0, 0.05, 0.5, np.float32(0.1)],
        "scoring": ["accuracy", "balanced_accuracy"],
        "per_class": [False, True, np.True_],
        "risk": [None, RiskControl(0.3), RiskControl(0.2, delta=0.5)],
        "confidence": [None, 0.5, 0.9],
        "cv": [
            3,
            None,
            0.3,
            KFold(3, shuffle=True, random_state=0),
            StratifiedKFold(2),
            ShuffleSplit(1, test_size=0.4, random_state=0),
        ],
        "refit": [True],
        "verbose": [0, 1, False],
        "random_state": [0, np.random.RandomState(1)],
    },
}
# Beside the oddities.
WRONG: dict[str, list[Any]] = {
    "extractor": ["resnet18", ToyExtractor, torch.nn.Linear(4, 2)],
    "metric": ["Euclidean", ["euclidean"], "cosine"],
    "pooling": [-2, 0, "max", 1.0],
    "threshold": [[0.1], [0.1, 0.2, 0.3], "0.5", [[0.5] * 4] * 2, [0.5, np.nan], [[]]],
    "calibration": ["Temperature", False, "platt"],
    "shrinkage": [-0.1, 1.1, np.nan, "lw", np.inf],
    "head": ["means", [], ["class_means"], LinearSVC(), LogisticRegression, 3, None],
    "carry": [-1, 3, 0.5, "1", True, None],
    "batch_size": [0, -1, 1.5, np.nan, "128", None, np.float64(8)],
    "device": ["gpu", "cuda:99", 7, "meta"],
    "memory": [3, object(), b"cache", ["a"]],
    "verbose": ["yes", -1, None],
    "final": ["linear", LinearSVC(), LogisticRegression, "Network", 3],
    "head_classes": [[0, 1], [0, 1, 1], [0, 1, 5], "012", 3, [[0, 1, 2]], [None] * 3],
    "n_clusters": [0, 1.5, -3, 10**6, "3", None],
    "clusterer": [KMeans, "kmeans", DBSCAN(), LogisticRegression, 3],
    "random_state": ["seed", 1.5, -1, [1, 2]],
    "estimator": [None, LogisticRegression(), "E2CMClassifier", int],
    "max_cost": [0, -1, np.nan, "0.5", 1e-9],
    "max_drop": [-0.1, np.nan, "0.01", 1, 1.0, 5, np.inf],
    "scoring": ["nonsense", None, 3, ["accuracy"]],
    "per_class": ["yes", None, 2],
    "risk": [0.1, {"alpha": 0.1}, RiskControl, "strict"],
    "confidence": [0, 1, 1.0, -0.5, 95, np.nan, "0.95", True],
    "cv": [1, 0, -3, 1.0, 0.0, "fit", 10**6, object()],
    "refit": ["yes", None, 3],
}

# What is read at each prediction, and so checked at each.
READ_AT_EACH_CALL = ("threshold", "batch_size", "device", "memory", "verbose")


def wrong_values(parameter: str) -> list[Any]:
    fits = RIGHT_ALL_THE_SAME[parameter]
    odd = []
    for value in ODDITIES:
        try:
            right = bool(fits(value))
        except Exception:
            right = False
        if not right:
            odd.append(value)
    return [*odd, *WRONG.get(parameter, [])]


def choose_value(rng: Generator, kind: str, parameters: Any = None) -> Value:
    """Return a parameter of a class with a value that is right or wrong."""
    right = RIGHT[kind]
    names = sorted(
        {*right, *(["estimator", "max_cost"] if kind == "TunedExitsCV" else [])}
    )
    if parameters is not None:
        names = [name for name in names if name in parameters]
    name = names[rng.integers(len(names))]
    if name in right and rng.integers(4) == 0:
        return Value(name, right[name][rng.integers(len(right[name]))], True)
    wrong = wrong_values(name)
    return Value(name, wrong[rng.integers(len(wrong))], False)


# The extractors' own


def torch_arguments(exits: list[str]) -> list[tuple[dict[str, Any], bool]]:
    """Return keyword arguments of `TorchExtractor`: and if right."""
    first = exits[0]
    right = [
        {"exits": exits},
        {"exits": tuple(exits)},
        {"exits": first},
        {"exits": np.array(exits)},
        {"exits": 1},
        {"exits": np.int64(1)},
        {"exits": exits, "output": "head"},
    ]
    wrong_exits: list[Any] = [
        0,
        -1,
        10**6,
        HUGE,
        True,
        1.0,
        None,
        "blocks",
        "nowhere",
        [first, first],
        [*exits, "nowhere"],
        ["head", first],
        [""],
        "",
        [3],
        [None],
        {first: 1},
        b"blocks.0",
        [first.encode()],
        object(),
        len,
        torch.nn.Identity(),
        [torch.nn.Identity()],
        np.array([1.0, 2.0]),
        first + ".",
        "." + first,
        first + ".weight",
    ]
    wrong_outputs = ["nowhere", 3, b"head", ["head"], object(), True, "blocks", "stem"]
    wrong_shapes: list[Any] = [
        "abc",
        5,
        (-1,),
        (0,),
        (1.5,),
        (None,),
        object(),
        (HUGE,),
    ]
    return [
        *((arguments, True) for arguments in right),
        *(({"exits": value}, False) for value in wrong_exits),
        *(({"exits": exits, "output": v}, False) for v in wrong_outputs),
        *(({"exits": 1, "input_shape": v}, False) for v in wrong_shapes),
    ]


def wrong_modules() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    return [*NO_MODULES, compiled]


NO_MODULES: list[Any] = [
    None,
    "resnet18",
    torch.nn.Linear,
    len,
    3,
    {},
    [torch.nn.Linear(2, 2)],
    np.zeros(3),
    torch.zeros(3),
    pathlib.Path("model.pt"),
    {"state": torch.zeros(2)},
    KMeans(2),
]

RISKS: list[tuple[dict[str, Any], bool]] = [
    ({"alpha": 0.1}, True),
    ({"alpha": np.float32(0.2), "delta": 0.3, "calibration_size": 0.4}, True),
    *(
        ({"alpha": 0.1, name: value}, False)
        for name in ("alpha", "delta", "calibration_size")
        for value in (0, 1, -0.1, 2, np.nan, None, "0.1", [0.1], HUGE, pd.NA, 1j)
    ),
]

PIPELINE_COSTS: list[tuple[Any, bool]] = [
    ([1, 2], True),
    (np.array([1.0, 0.0]), True),
    ((3, 4), True),
    (torch.tensor([1.0, 2.0]), True),
    (pd.Series([1.0, 2.0]), True),
    *(
        (value, False)
        for value in (
            None,
            3,
            [1],
            [1, 2, 3],
            [1, -1],
            [1, np.nan],
            [1, np.inf],
            ["a", "b"],
            "12",
            [[1, 2]],
            [1, 1j],
            [1, HUGE],
            [1, None],
            [1, pd.NA],
            {"a": 1, "b": 2},
            object(),
            torch.ones(2, device="meta"),
        )
    ),
]
