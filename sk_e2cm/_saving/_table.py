"""The classes that a file may name: nothing else is ever made of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, SGDClassifier

from .._extractors._torch._rows import Constant, Count, Each, KeepRules, Rows
from .._multi_exit._costs import Costs
from .._multi_exit._estimator_logits import ClassifierLogits, ClustererLogits
from .._multi_exit._heads import FoldedHead, Head
from .._multi_exit._logits import (
    DirichletLogits,
    DistanceLogits,
    LinearLogits,
    NetworkLogits,
    WeightedLogits,
)
from .._multi_exit._pooling import Flatten, GridAverage, SecondOrder
from .._multi_exit._seconds import Seconds
from .._tuning._risk import RiskControl


def _by_name(*classes: type) -> dict[str, type]:
    return {each.__name__: each for each in classes}


# Made again by their constructors, of attributes that are called as its parameters.
OWN = _by_name(
    ClassifierLogits,
    ClustererLogits,
    Constant,
    Costs,
    Count,
    DirichletLogits,
    DistanceLogits,
    Each,
    Flatten,
    FoldedHead,
    GridAverage,
    Head,
    KeepRules,
    LinearLogits,
    NetworkLogits,
    RiskControl,
    Rows,
    Seconds,
    SecondOrder,
    WeightedLogits,
)

# Made again of parameters and of public fitted attributes.
LINEAR = _by_name(LinearDiscriminantAnalysis, LogisticRegression, SGDClassifier)
CLUSTERERS = _by_name(KMeans, MiniBatchKMeans)
ESTIMATORS = LINEAR | CLUSTERERS


def parameters_of(value: Any) -> dict[str, Any]:
    """Return what the constructor of one of our own classes takes to make it again."""
    return {name: getattr(value, name) for name in _signature(type(value))}


def estimator_parts(estimator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters of an estimator that are not defaults, and what it learnt.

    Defaults are left to the version of scikit-learn that loads it: some are no longer
    taken by later ones.
    """
    parameters = estimator.get_params(deep=False)
    defaults = _signature(type(estimator))
    changed = {
        name: value
        for name, value in parameters.items()
        if not _is_same(value, defaults[name].default)
    }
    fitted = {
        name: value
        for name, value in vars(estimator).items()
        if name.endswith("_") and not name.startswith("_")
    }
    return changed, fitted


def make_estimator(
    name: str, parameters: Mapping[str, Any], fitted: Mapping[str, Any]
) -> Any:
    """Return an estimator of scikit-learn with what it had learnt."""
    estimator = ESTIMATORS[name](**parameters)
    if fitted and name in CLUSTERERS:
        _fit_to_anything(estimator, fitted["cluster_centers_"])
    vars(estimator).update(fitted)
    return estimator


def _fit_to_anything(clusterer: Any, centers: Any) -> None:
    """Fit k-means, so that it has whatever its own version needs besides centers."""
    parameters = clusterer.get_params()
    points = np.arange(centers.size, dtype=centers.dtype).reshape(centers.shape)
    clusterer.set_params(init=points, n_init=1, max_iter=1, n_clusters=len(points))
    clusterer.fit(points)
    clusterer.set_params(**parameters)


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and value == default)


def _signature(cls: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    found = inspect.signature(cls).parameters
    # Of a class without a constructor, those of nn.Module.
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: each for name, each in found.items() if each.kind not in several}
