"""The head of the last stage, for samples that took no exit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from ._exits import Head
from ._means import ClassMeans, Floats
from ._pooling import Features
from ._training import TrainingPass


class NetworkHead:
    """The network's own head: its last stage gives one logit per column.

    Parameters
    ----------
    columns : ndarray of shape (n_classes,)
        Where each class is found.

    normalized : bool
        Whether the network ends in a softmax already.
    """

    macs = 0  # part of the network's

    def __init__(self, columns: NDArray[np.intp], normalized: bool) -> None:
        self.columns = columns
        self.normalized = normalized

    def proba(self, features: Features) -> Floats:
        logits = features[:, self.columns].astype(np.float64)
        if self.normalized:
            logits = np.log(np.maximum(logits, np.finfo(np.float64).tiny))
        return softmax(logits, axis=1)


class LastClassifier:
    """A scikit-learn classifier fitted on the last stage's features."""

    def __init__(self, classifier: Any, n_classes: int) -> None:
        self.classifier = classifier
        self.n_classes = n_classes

    @property
    def macs(self) -> int:
        """Multiply-adds of a linear classifier; others are not counted."""
        return int(np.size(getattr(self.classifier, "coef_", ())))

    def proba(self, features: Features) -> Floats:
        proba = np.zeros((len(features), self.n_classes))
        proba[:, self.classifier.classes_] = self.classifier.predict_proba(features)
        return proba


def choose_final(
    final: Any,
    head_classes: ArrayLike | None,
    class_means: ClassMeans,
    run: TrainingPass,
    classes: NDArray[Any],
) -> tuple[str, Head]:
    """Return the name and the head that `final` asks for, see `E2CMClassifier`.

    Raises
    ------
    ValueError
        If the head cannot be matched with the classes, or if a classifier has no
        probabilities.
    """
    features = run.features[-1]
    if final == "class_means":
        return "class_means", class_means
    if final not in ("auto", "network"):
        return "classifier", _fit_classifier(final, run, len(classes))
    if final == "network" and head_classes is None and classes.dtype.kind not in "biuf":
        raise ValueError(
            "The order of text labels in the network's output cannot be guessed. Pass "
            "head_classes= with one label for each output."
        )
    mismatch = _mismatch(features.shape[1], head_classes, classes)
    if mismatch and (final == "network" or head_classes is not None):
        raise ValueError(mismatch)
    if mismatch:
        return "class_means", class_means
    names = classes if head_classes is None else np.asarray(head_classes)
    columns = np.array([np.flatnonzero(names == label)[0] for label in classes])
    head = NetworkHead(columns, _is_normalized(features))
    if final == "auto" and _accuracy(head, run) < _accuracy(class_means, run):
        return "class_means", class_means
    return "network", head


def _mismatch(
    width: int, head_classes: ArrayLike | None, classes: NDArray[Any]
) -> str | None:
    """Say why the network's columns cannot stand for the classes, if they cannot."""
    if head_classes is not None:
        names = np.asarray(head_classes)
        if names.shape != (width,):
            return (
                f"head_classes has the shape {names.shape}, but the network's output "
                f"has {width} columns: give one label for each."
            )
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
    return bool(
        (features >= 0).all() and np.allclose(features.sum(axis=1), 1, atol=1e-3)
    )


def _accuracy(head: Head, run: TrainingPass) -> float:
    right = head.proba(run.features[-1]).argmax(axis=1) == run.codes
    return float(np.average(right, weights=run.sample_weight))


def _fit_classifier(
    classifier: Any, run: TrainingPass, n_classes: int
) -> LastClassifier:
    if not hasattr(classifier, "predict_proba"):
        raise ValueError(
            f"final={classifier!r} has no predict_proba. Choose another classifier, or "
            "wrap it in sklearn.calibration.CalibratedClassifierCV."
        )
    fitted = clone(classifier)
    weights = {}
    if has_fit_parameter(fitted, "sample_weight"):
        weights["sample_weight"] = run.sample_weight
    elif np.ptp(run.sample_weight) > 0:
        raise ValueError(
            f"final={classifier!r} does not take sample_weight. Choose another "
            "classifier, or fit without weights."
        )
    fitted.fit(run.features[-1], run.codes, **weights)
    return LastClassifier(fitted, n_classes)
