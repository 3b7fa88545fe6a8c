"""The head of the last stage, for samples that took no exit."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from .._multi_exit._heads import ClassifierLogits, NetworkLogits
from .._utils._arrays import Features, Floats
from .._utils._validation import weight_params
from ._cross_fitting import FittedHead
from ._folding import predict_proba
from ._statistics import Statistics


def choose_last_head(
    final: Any,
    head_classes: ArrayLike | None,
    by_means: FittedHead,
    statistics: Statistics,
    classes: NDArray[Any],
) -> FittedHead:
    """Return the head that `final` asks for, see `E2CMClassifier`.

    Parameters
    ----------
    final, head_classes
        As users pass them.

    by_means : FittedHead
        The class means of the last stage.

    statistics : Statistics
        Of the fit.

    classes : ndarray of shape (n_classes,)
        The labels.

    Raises
    ------
    ValueError
        If the head cannot be matched with the classes, or if a classifier has no
        probabilities.
    """
    if final not in ("auto", "network", "class_means"):
        return _fit_classifier(final, statistics, len(classes))
    if final == "class_means":
        return by_means
    if final == "network" and head_classes is None and classes.dtype.kind not in "biuf":
        raise ValueError(
            "The order of text labels in the network's output cannot be guessed. Pass "
            "head_classes= with one label for each output."
        )
    features = statistics.features[-1]
    mismatch = _mismatch(features.shape[1], head_classes, classes)
    if mismatch and (final == "network" or head_classes is not None):
        raise ValueError(mismatch)
    if mismatch:
        return by_means
    names = classes if head_classes is None else np.asarray(head_classes)
    columns = np.array([np.flatnonzero(names == label)[0] for label in classes])
    normalized = _is_normalized(features)
    separate = not normalized and _are_probabilities(features)
    logits = NetworkLogits(columns, normalized, separate)
    held_out = features[statistics.held_out]
    by_network = FittedHead("network", logits, partial(predict_proba, logits, held_out))
    worse = _accuracy(by_network, statistics) < _accuracy(by_means, statistics)
    return by_means if final == "auto" and worse else by_network


def head_labels(head_classes: ArrayLike | None, width: int) -> NDArray[Any]:
    """Return the label of each of the network's columns, by default their numbers.

    Raises
    ------
    ValueError
        If `head_classes` are not as many as the columns.
    """
    names = np.arange(width) if head_classes is None else np.asarray(head_classes)
    if names.shape != (width,):
        raise ValueError(
            f"head_classes has the shape {names.shape}, but the network's output has "
            f"{width} columns: give one label for each."
        )
    return names


def _mismatch(
    width: int, head_classes: ArrayLike | None, classes: NDArray[Any]
) -> str | None:
    """Say why the network's columns cannot stand for the classes, if they cannot."""
    if head_classes is not None:
        names = head_labels(head_classes, width)
        counts = {label: (names == label).sum() for label in classes.tolist()}
        twice = [label for label, count in counts.items() if count > 1]
        if twice:
            return f"head_classes names the labels {twice[:5]} more than once."
        missing = [label for label, count in counts.items() if count == 0]
        if missing:
            return f"head_classes lacks the labels {missing[:5]} that occur in y."
        return None
    if width != len(classes):
        return (
            f"The network's output has {width} columns, but y has {len(classes)} "
            "classes. Use final='class_means', a scikit-learn classifier, or "
            "head_classes= with one label for each column."
        )
    return None


def _is_normalized(features: Features) -> bool:
    # Sums of probabilities of which bfloat16 has kept eight bits.
    sums = features.sum(axis=1, dtype=np.float64)
    return bool((features >= 0).all() and np.allclose(sums, 1, rtol=0, atol=1e-2))


def _are_probabilities(features: Features) -> bool:
    """Tell what a sigmoid gives: numbers that fill the range from 0 to 1, and no more.

    Logits of a network that is hardly sure of anything may lie there, too, but hardly
    near both ends.
    """
    low, high = features.min(), features.max()
    return bool(0 <= low < 0.1 and 0.9 < high <= 1)


def _accuracy(head: FittedHead, statistics: Statistics) -> float:
    held_out = statistics.held_out
    right = head.out_of_fold().argmax(axis=1) == statistics.codes[held_out]
    return float(np.average(right, weights=statistics.sample_weight[held_out]))


def _fit_classifier(
    classifier: Any, statistics: Statistics, n_classes: int
) -> FittedHead:
    if not hasattr(classifier, "predict_proba"):
        raise ValueError(
            f"final={classifier!r} has no predict_proba. Choose another classifier, or "
            "wrap it in sklearn.calibration.CalibratedClassifierCV."
        )
    name = f"final={classifier!r}"
    features, held_out = statistics.features[-1], statistics.held_out

    def fitted_to(rows: NDArray[np.bool_]) -> ClassifierLogits:
        params = weight_params(name, classifier, statistics.sample_weight[rows])
        fitted = clone(classifier)
        fitted.fit(features[rows], statistics.codes[rows], **params)
        return ClassifierLogits(fitted, n_classes)

    def out_of_fold() -> Floats:
        proba = np.empty((len(held_out), n_classes))
        folds = statistics.folds[held_out]
        for fold in np.unique(folds):
            here = folds == fold
            without = fitted_to(statistics.folds != fold)
            proba[here] = predict_proba(without, features[held_out[here]])
        return proba

    everything = np.ones(len(statistics.kept), dtype=bool)
    return FittedHead("classifier", fitted_to(everything), out_of_fold)
