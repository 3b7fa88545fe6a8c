"""Accuracy against cost: scorers, curves, and ways to choose between candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_clusterer
from sklearn.utils import check_consistent_length

from ._delegation import with_exits
from ._early_exit import accuracy
from ._multi_exit._thresholds import check_thresholds, first_exit
from ._tuning._candidates import Results, cheapest, most_accurate
from ._tuning._problem import ThresholdProblem
from ._tuning._search import evaluate, shared
from ._utils._arrays import as_numbers, as_proba
from ._utils._labels import as_labels, codes_of, labels_of
from ._utils._streams import SampleBatch, as_one
from ._utils._validation import check_weight, is_number, is_whole

__all__ = [
    "accuracy_cost_curve",
    "accuracy_cost_scorer",
    "agreement_cost_scorer",
    "best_within_cost",
    "calibration_error",
    "cheapest_within_drop",
    "first_exit",
]


def accuracy_cost_scorer(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    sample_weight: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Score accuracy and cost from one run of the network.

    To be passed to ``GridSearchCV`` as ``scoring``, with `best_within_cost` or
    `cheapest_within_drop` as ``refit``. The estimator's `memory` is used.

    Parameters
    ----------
    estimator : E2CMClassifier, TunedExitsCV or Pipeline
        Fitted; a pipeline ends in one of these.

    X : array-like of shape (n_samples, ...), DataLoader or Dataset
        Samples, none of which the network was trained on; of torch's loaders and
        datasets batches of (X, y) or (X, y, weight).

    y : array-like of shape (n_samples,), default=None
        True labels. None where they come with X.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    dict
        ``"accuracy"``; ``"cost"``, the mean fraction of the network's multiply-adds,
        or of its time, as the estimator's ``cost_unit`` says;
        ``"full_accuracy"``, the accuracy of this estimator with all exits closed.

    Notes
    -----
    With a callable ``refit`` scikit-learn sets no ``best_score_``, and
    ``search.score`` fails: use ``search.best_estimator_.score``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_e2cm import E2CMClassifier
    >>> from sk_e2cm.metrics import accuracy_cost_scorer
    >>> from sk_e2cm.testing import ToyExtractor
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = E2CMClassifier(ToyExtractor()).fit(X, y)
    >>> sorted(accuracy_cost_scorer(clf, X, y))
    ['accuracy', 'cost', 'full_accuracy']
    """
    inside, X = with_exits(estimator, X)
    if is_clusterer(inside):
        raise ValueError(
            "The numbers of clusters are no labels, and so have no accuracy: use "
            "agreement_cost_scorer."
        )
    parts = inside._scored_parts(X, y, sample_weight)
    labels, full_labels, cost, y, weight = _early_and_full(parts)
    return {
        "accuracy": accuracy(y, labels, weight),
        "cost": float(np.average(cost, weights=weight)),
        "full_accuracy": accuracy(y, full_labels, weight),
    }


def agreement_cost_scorer(
    estimator: Any,
    X: ArrayLike,
    y: Any = None,
    sample_weight: NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Score agreement with the full network, and cost, from one run of the network.

    To be passed to ``GridSearchCV`` as ``scoring``, with `best_within_cost` or
    `cheapest_within_drop` as ``refit``. It needs no labels: what early exits answer is
    compared with what the last stage answers. The estimator's `memory` is used.

    Parameters
    ----------
    estimator : E2CMClusterer, E2CMClassifier, TunedExitsCV or Pipeline
        Fitted; a pipeline ends in one of these.

    X : array-like of shape (n_samples, ...), DataLoader or Dataset
        Samples, none of which the network was trained on.

    y : object, default=None
        Ignored.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples. None where they come with X.

    Returns
    -------
    dict
        ``"agreement"``, the share of samples that get the label they get with all exits
        closed; ``"cost"``, the mean fraction of the network's multiply-adds, or of its
        time, as the estimator's ``cost_unit`` says.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sk_e2cm import E2CMClusterer
    >>> from sk_e2cm.metrics import agreement_cost_scorer, cheapest_within_drop
    >>> from sk_e2cm.testing import ToyExtractor
    >>> X, _ = load_iris(return_X_y=True)
    >>> search = GridSearchCV(
    ...     E2CMClusterer(ToyExtractor(), n_clusters=3, random_state=0),
    ...     {"threshold": [0.5, 0.9, 1.0]},
    ...     scoring=agreement_cost_scorer,
    ...     refit=cheapest_within_drop(0.05),
    ... ).fit(X)
    >>> agreement_cost_scorer(search.best_estimator_, X)["agreement"] >= 0.95
    True
    """
    inside, X = with_exits(estimator, X)
    parts = inside._scored_parts(X, None, sample_weight, labelled=False)
    labels, full_labels, cost, _, weight = _early_and_full(parts)
    return {
        "agreement": float(np.average(labels == full_labels, weights=weight)),
        "cost": float(np.average(cost, weights=weight)),
    }


def _early_and_full(parts: Iterable[tuple[Any, SampleBatch]]) -> tuple[Any, ...]:
    """Return labels with early exits, labels without, costs, true labels, weights."""
    found = []
    for own, batch in parts:
        stage, labels, full_labels = own._early_and_full(batch.X)
        cost = own.stage_cost_[stage]
        found.append((labels, full_labels, cost, batch.y, batch.sample_weight))
    labels, full_labels, cost, y, weight = as_one(found)
    return labels, full_labels, cost, y, check_weight(weight, len(labels))


def accuracy_cost_curve(
    y_true: ArrayLike,
    exit_proba: ArrayLike,
    stage_cost: ArrayLike,
    thresholds: ArrayLike | None = None,
    *,
    classes: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return accuracy and cost for many thresholds, from one run of the network.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels.

    exit_proba : array-like of shape (n_samples, n_exits + 1, n_classes)
        Probabilities of all stages, as `exit_proba` of an estimator returns them.

    stage_cost : array-like of shape (n_exits + 1,)
        Cost of exiting at each stage: ``network_.stage_cost(0.0)`` of an estimator is
        that with all exits open. It is taken as it is, also for thresholds that close
        an exit.

    thresholds : array-like, default=None
        What each point of the curve uses, along the first axis: numbers that all exits
        share, shape (n_points,), one per exit, (n_points, n_exits), or one per exit and
        class, (n_points, n_exits, n_classes). By default the numbers of which no other
        is more accurate at no more cost.

    classes : array-like of shape (n_classes,), default=None
        The label of each column; by default the sorted labels of `y_true`.

    Returns
    -------
    accuracy, cost : ndarray of shape (n_points,)
        In the order of `thresholds`; by default by rising cost.

    thresholds : ndarray of shape (n_points, ...)
        As passed, or those chosen, of shape (n_points,).

    Raises
    ------
    ValueError
        If the arguments do not fit together, or if a label is none of `classes`.

    See Also
    --------
    sk_e2cm.inspection.TradeoffDisplay : Draws the curve.

    Examples
    --------
    >>> from sk_e2cm.metrics import accuracy_cost_curve
    >>> exit_proba = [[[0.8, 0.2], [0.9, 0.1]], [[0.6, 0.4], [0.3, 0.7]]]
    >>> accuracy, cost, _ = accuracy_cost_curve(
    ...     [0, 1], exit_proba, stage_cost=[0.5, 1.0], thresholds=[0.5, 0.7, 1.0])
    >>> accuracy, cost
    (array([0.5, 1. , 1. ]), array([0.5 , 0.75, 1.  ]))
    """
    proba = as_proba(exit_proba, "exit_proba", "n_samples", "n_stages", "n_classes")
    y_true = as_labels(y_true, "y_true")
    check_consistent_length(y_true, proba)
    labels = labels_of(y_true, classes, proba.shape[2])
    codes = codes_of(y_true, labels)
    stage_cost = as_numbers(stage_cost, "stage_cost").astype(np.float64)
    if stage_cost.shape != proba.shape[1:2]:
        raise ValueError(
            f"stage_cost has shape {stage_cost.shape}, but there are {proba.shape[1]} "
            "stages: give one number for each."
        )
    if not np.isfinite(stage_cost).all():
        raise ValueError(f"stage_cost has numbers that are not finite: {stage_cost}.")
    problem = ThresholdProblem.from_proba(codes, proba, stage_cost)
    if thresholds is None:
        points = shared(problem)
        if problem.n_exits == 0:
            return 1.0 - points.loss, points.cost, np.array([np.inf])
        return 1.0 - points.loss, points.cost, points.thresholds[:, 0, 0]
    given = as_numbers(thresholds, "thresholds").astype(np.float64)
    if given.ndim == 0 or not len(given):
        raise ValueError("thresholds must be a sequence: one for each point.")
    shape = problem.n_exits, proba.shape[2]
    checked = [check_thresholds(each, *shape) for each in given]
    n_groups = proba.shape[2] if given.ndim == 3 else 1
    points = evaluate(problem.in_groups(n_groups), checked)
    return 1.0 - points.loss, points.cost, given


def calibration_error(
    y_true: ArrayLike,
    proba: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    n_bins: int = 15,
) -> float:
    """Return by how much confidence and accuracy differ: the calibration error.

    The expected calibration error of [1]_, equation 3, over bins of equal size rather
    than equal width: samples are sorted by their largest probability, and of each bin
    the mean of these probabilities is compared with the share that is right.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels.

    proba : array-like of shape (n_samples, n_classes)
        Probabilities, such as ``exit_proba(X)[:, j]`` of exit j.

    classes : array-like of shape (n_classes,), default=None
        The label of each column; by default the sorted labels of `y_true`.

    n_bins : int, default=15
        Number of bins.

    Returns
    -------
    float
        Mean absolute difference, from 0 to 1.

    Raises
    ------
    ValueError
        If the arguments do not fit together, if `proba` holds no probabilities, or if
        a label is none of `classes`.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern
       Neural Networks", ICML 2017, arXiv 1706.04599.

    Examples
    --------
    >>> from sk_e2cm.metrics import calibration_error
    >>> calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]], n_bins=1)
    0.25
    """
    if not is_whole(n_bins) or n_bins < 1:
        raise ValueError(f"n_bins must be a whole number from 1 on, got {n_bins!r}.")
    proba = as_proba(proba, "proba", "n_samples", "n_classes")
    y_true = as_labels(y_true, "y_true")
    check_consistent_length(y_true, proba)
    labels = labels_of(y_true, classes, proba.shape[1])
    right = proba.argmax(axis=1) == codes_of(y_true, labels)
    # Samples that are equally sure count alike, whichever bins they fall into.
    confidence, which, counts = np.unique(
        proba.max(axis=1), return_inverse=True, return_counts=True
    )
    gap = np.repeat(confidence - np.bincount(which, right) / counts, counts)
    bins = np.array_split(gap, min(n_bins, len(gap)))
    return float(sum(abs(each.sum()) for each in bins) / len(gap))


def best_within_cost(max_cost: float) -> Callable[[Results], int]:
    """Choose the most accurate candidate that costs at most `max_cost`.

    Parameters
    ----------
    max_cost : float
        In fractions of the network's multiply-adds, or of its time.

    Returns
    -------
    callable
        Takes the ``cv_results_`` of a search scored by `accuracy_cost_scorer` or
        `agreement_cost_scorer` and returns the index of the best candidate; ties go
        to the cheapest. It raises ValueError if every candidate costs more.

    Examples
    --------
    >>> from sk_e2cm.metrics import best_within_cost
    >>> choose = best_within_cost(0.5)
    >>> choose({"mean_test_accuracy": [0.9, 0.8, 0.7], "mean_test_cost": [1, 0.5, 0.2]})
    1
    """
    return partial(most_accurate, max_cost=_number("max_cost", max_cost))


def cheapest_within_drop(max_drop: float) -> Callable[[Results], int]:
    """Choose the cheapest candidate that loses at most `max_drop` of accuracy.

    Parameters
    ----------
    max_drop : float
        Against the same estimator with all exits closed: 0.01 is one point. Of
        agreement, what is lacking to 1.

    Returns
    -------
    callable
        Takes the ``cv_results_`` of a search scored by `accuracy_cost_scorer` or
        `agreement_cost_scorer` and returns the index of the best candidate; ties go to
        the most accurate. It raises ValueError if every candidate loses more. Where
        accuracies come without ``full_accuracy``, the most accurate candidate takes its
        place.

    Examples
    --------
    >>> from sk_e2cm.metrics import cheapest_within_drop
    >>> choose = cheapest_within_drop(0.1)
    >>> choose({"mean_test_accuracy": [0.9, 0.8, 0.7], "mean_test_cost": [1, 0.5, 0.2]})
    1
    """
    return partial(cheapest, max_drop=_number("max_drop", max_drop))


def _number(name: str, value: Any) -> float:
    if not is_number(value) or np.isnan(float(value)):
        raise ValueError(f"{name} must be a number, got {value!r}.")
    return float(value)
