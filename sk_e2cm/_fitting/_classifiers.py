"""Scikit-learn classifiers as heads of exits, and combinations of heads."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from .._multi_exit._estimator_logits import as_logits, codes_known
from .._utils._arrays import Features, Floats
from .._utils._validation import check_has_proba, weight_params
from ._cross_fitting import StageInputs
from ._kept import moments
from ._scores import ClassifierScores
from ._statistics import Statistics

# The mean of a row's squares, when it is scaled. Measured at exits 2, 3 and 5 of a
# ResNet-20 on CIFAR-10, of 1,056 and more features of which each had variance 1: a
# perceptron was right for .755, .779 and .852 of the test images, a logistic regression
# for .750 at exit 3; with rows of this size for .771, .789 and .851, and for .752.
# Regularisation and learning rates are made for fewer features.
_ROW_SQUARES = 10.0


def check_head(head: Any) -> tuple[Any, ...]:
    """Return what stands at an exit, one or several, as users say it.

    Raises
    ------
    ValueError
        If a classifier has no probabilities, or if there is nothing to combine.
    """
    several = isinstance(head, (list, tuple))
    parts = tuple(head) if several else (head,)
    for part in parts:
        if isinstance(part, str):
            if part != "class_means":
                raise ValueError(
                    f"head={head!r} must be 'class_means', a classifier, or a list of "
                    "these."
                )
        elif isinstance(part, type) or not hasattr(part, "fit"):
            raise ValueError(
                f"head={head!r} holds {part!r}, which is no classifier. Make one: "
                "LogisticRegression(), say."
            )
        else:
            check_has_proba(f"head={part!r}", part)
    n_means = sum(isinstance(part, str) for part in parts)
    if several and (len(parts) < 2 or n_means > 1):
        raise ValueError(
            f"head={head!r} leaves nothing to combine: give at least two, of which "
            "'class_means' is at most one."
        )
    return parts


def fit_classifier(
    classifier: Any,
    statistics: Statistics,
    inputs: StageInputs,
    without_fold: int | None,
) -> ClassifierScores:
    """Fit a classifier to the samples of all folds but one (None: to all).

    Features are scaled before it, see `_scaling`.

    Raises
    ------
    ValueError
        If it cannot be fitted, or has not seen all classes.
    """
    name = f"head={classifier!r}"
    rows = statistics.outside(without_fold)
    codes, weight = statistics.codes[rows], statistics.sample_weight[rows]
    params = weight_params(name, classifier, weight)
    fitted = clone(classifier, safe=False)  # others' objects are copied
    scaled = inputs.features[rows]
    mean, scale = _scaling(scaled, weight, inputs.rounding)
    scaled -= mean
    scaled /= scale
    n_classes = int(statistics.codes.max()) + 1
    try:
        with warnings.catch_warnings():
            # Of each fold and exit anew; the calibration sees how good it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.fit(scaled, codes, **params)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be fitted{_but_for(without_fold)}: {error}"
        ) from error
    unseen = np.setdiff1d(np.arange(n_classes), codes_known(fitted, n_classes, "head"))
    if len(unseen):
        raise ValueError(
            f"{name} has not seen the classes number {unseen[:5].tolist()} (of the "
            f"sorted labels, from 0){_but_for(without_fold)}. Fit on more samples of "
            "them, or without them."
        )
    return ClassifierScores(as_logits(fitted, n_classes, mean, scale, scaled))


def _but_for(fold: int | None) -> str:
    return "" if fold is None else f" to what lies outside fold {fold}"


def _scaling(
    features: Features, weight: Floats, rounding: Floats
) -> tuple[Features, Features]:
    """Return what features are made smaller by, and what they are divided by.

    The latter is the same number of standard deviations for all, at least one; it is
    infinite for features that deviate by no more than rounding makes.
    """
    mean, variance = moments(features, weight)
    of_numbers = 10 * np.finfo(features.dtype).eps * np.abs(mean)
    informative = np.sqrt(variance) > np.maximum(rounding, of_numbers)
    deviations = np.sqrt(max(informative.sum() / _ROW_SQUARES, 1.0))
    scale = np.where(informative, deviations * np.sqrt(variance), np.inf)
    return mean.astype(features.dtype), scale.astype(features.dtype)
