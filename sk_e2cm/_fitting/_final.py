"""The head of the last stage, for samples that took no exit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from .._multi_exit._heads import ClassifierHead, Head, NetworkHead
from .._utils._arrays import Features, Floats
from .._utils._validation import weight_params
from ._cross_fitting import FittedExit, Method, out_of_fold
from ._statistics import TrainingPass


class Final(NamedTuple):
    """The last stage's head.

    Parameters
    ----------
    name : {"network", "class_means", "classifier", "clusterer"}
        What it is.

    head : Head
        Fitted on all samples.

    out_of_fold : callable
        Returns the probabilities of the samples held out, (n_held_out, n_classes),
        from what has not seen them.
    """

    name: str
    head: Head
    out_of_fold: Callable[[], Floats]


class HeldOut(NamedTuple):
    """A fit, and through it what every stage says of the samples held out."""

    run: TrainingPass
    method: Method
    exits: list[FittedExit]
    final: Final

    @property
    def codes(self) -> NDArray[np.intp]:
        """What is right: indices of their classes."""
        return self.run.codes[self.run.held_out]

    @property
    def rows(self) -> NDArray[np.intp]:
        """Which samples of the fit these are; those without weight do not count."""
        return self.run.kept[self.run.held_out]

    def probas(self) -> Iterator[Floats]:
        """Yield the probabilities of each stage, (n_held_out, n_classes)."""
        for exit_ in self.exits:
            yield out_of_fold(self.run, self.method, exit_)
        yield self.final.out_of_fold()


def choose_final(
    final: Any,
    head_classes: ArrayLike | None,
    last: FittedExit,
    run: TrainingPass,
    method: Method,
    classes: NDArray[Any],
) -> Final:
    """Return the head that `final` asks for, see `E2CMClassifier`.

    Raises
    ------
    ValueError
        If the head cannot be matched with the classes, or if a classifier has no
        probabilities.
    """
    if final not in ("auto", "network", "class_means"):
        return _fit_classifier(final, run, len(classes))
    by_means = Final("class_means", last.head, partial(out_of_fold, run, method, last))
    if final == "class_means":
        return by_means
    if final == "network" and head_classes is None and classes.dtype.kind not in "biuf":
        raise ValueError(
            "The order of text labels in the network's output cannot be guessed. Pass "
            "head_classes= with one label for each output."
        )
    features = run.features[-1]
    mismatch = _mismatch(features.shape[1], head_classes, classes)
    if mismatch and (final == "network" or head_classes is not None):
        raise ValueError(mismatch)
    if mismatch:
        return by_means
    names = classes if head_classes is None else np.asarray(head_classes)
    columns = np.array([np.flatnonzero(names == label)[0] for label in classes])
    head = NetworkHead(columns, _is_normalized(features))
    by_network = Final("network", head, lambda: head.proba(features[run.held_out]))
    if final == "auto" and _accuracy(by_network, run) < _accuracy(by_means, run):
        return by_means
    return by_network


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
    return bool(
        (features >= 0).all() and np.allclose(features.sum(axis=1), 1, atol=1e-3)
    )


def _accuracy(final: Final, run: TrainingPass) -> float:
    right = final.out_of_fold().argmax(axis=1) == run.codes[run.held_out]
    return float(np.average(right, weights=run.sample_weight[run.held_out]))


def _fit_classifier(classifier: Any, run: TrainingPass, n_classes: int) -> Final:
    if not hasattr(classifier, "predict_proba"):
        raise ValueError(
            f"final={classifier!r} has no predict_proba. Choose another classifier, or "
            "wrap it in sklearn.calibration.CalibratedClassifierCV."
        )
    name = f"final={classifier!r}"

    def fitted_to(rows: NDArray[np.bool_]) -> ClassifierHead:
        params = weight_params(name, classifier, run.sample_weight[rows])
        fitted = clone(classifier)
        fitted.fit(run.features[-1][rows], run.codes[rows], **params)
        return ClassifierHead(fitted, n_classes)

    def cross_fitted() -> Floats:
        proba = np.empty((len(run.held_out), n_classes))
        folds = run.folds[run.held_out]
        for fold in np.unique(folds):
            here = folds == fold
            features = run.features[-1][run.held_out[here]]
            proba[here] = fitted_to(run.folds != fold).proba(features)
        return proba

    everything = np.ones(len(run.kept), dtype=bool)
    return Final("classifier", fitted_to(everything), cross_fitted)
