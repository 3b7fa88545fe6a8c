"""Thresholds of each class to start from: those of easy classes are low."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import Floats
from ._predictions import StagePredictions
from ._problem import ThresholdProblem

# The lowest and the highest threshold, as quantiles of the confidences.
_RANGES = [(0.1, 0.5), (0.25, 0.75), (0.5, 0.9), (0.5, 1.0), (0.75, 1.0)]


def starts(
    problem: ThresholdProblem, predictions: StagePredictions, codes: NDArray[np.intp]
) -> list[Floats]:
    """Return thresholds to start from where each class has its own.

    `predictions` are those of all exits for samples of these classes.
    """
    if problem.n_groups == 1 or problem.n_exits == 0:
        return []
    return class_based_thresholds(predictions.class_proba(codes), problem.confidence)


def class_based_thresholds(class_proba: Floats, confidence: Floats) -> list[Floats]:
    """Return thresholds that are low for easy classes, for several ranges.

    Görmez & Koyuncu, arXiv 2210.15621: the ease of class k is the gap between the
    two largest entries of P_k, the mean probabilities of its samples over all exits.
    It is mapped inversely onto a range [alpha, beta], the same at all exits.

    Parameters
    ----------
    class_proba : ndarray of shape (n_classes, n_classes)
        Proportional to P_k in row k.

    confidence : ndarray of shape (n_exits, n_samples)
        Whose quantiles the ranges are.

    Returns
    -------
    list of ndarray of shape (n_exits, n_classes)
    """
    total = class_proba.sum(axis=1, keepdims=True)
    largest = np.sort(class_proba / np.where(total > 0, total, 1.0), axis=1)
    ease = largest[:, -1] - largest[:, -2]
    spread = np.ptp(ease)
    hardness = (ease.max() - ease) / spread if spread > 0 else np.zeros_like(ease)
    found = []
    for alpha, beta in np.quantile(confidence, _RANGES):
        thresholds = alpha + hardness * (beta - alpha)
        found.append(np.tile(thresholds, (len(confidence), 1)))
    return found
