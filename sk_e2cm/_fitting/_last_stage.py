"""The head of the last stage, for samples that took no exit."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from .._multi_exit._estimator_logits import ClassifierLogits
from .._multi_exit._logits import NetworkLogits
from .._utils._arrays import Features
from .._utils._validation import check_has_proba, weight_params
from .._utils._warnings import warn
from ._cross_fitting import FittedHead
from ._folding import predict_proba
from ._kept import chunks
from ._statistics import Statistics
from ._unseen import Block, held_out_blocks


def choose_last_head(
    final: Any,
    head_classes: ArrayLike | None,
    by_means: FittedHead,
    statistics: Statistics,
    classes: NDArray[Any],
    *,
    is_network: bool = True,
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

    is_network : bool, default=True
        Whether the last stage is that of a network, of which a head may be expected.

    Raises
    ------
    ValueError
        If the head cannot be matched with the classes, or if a classifier has no
        probabilities.

    Warns
    -----
    UserWarning
        If "auto" takes the class means though the network has a column for each class.
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
    columns = _columns(final, head_classes, statistics, classes)
    if columns is None:
        return by_means
    normalized = _is_normalized(features)
    separate = not normalized and _are_probabilities(features)
    logits = NetworkLogits(columns, normalized, separate)
    # A copy stays here when the head moves to the network's device.
    of_samples = statistics, len(classes), copy.deepcopy(logits)
    by_network = FittedHead("network", logits, partial(_by_network, *of_samples))
    if final == "network":
        return by_network
    of_network = _accuracy(by_network, statistics)
    of_means = _accuracy(by_means, statistics)
    if of_network >= of_means:
        return by_network
    if not is_network:  # features that happen to be as many as the classes
        return by_means
    warn(
        "final='auto' takes the class means of the last stage, which are right for "
        f"{of_means:.2%} of the samples, in place of the network's own head, right for "
        f"{of_network:.2%}. Where that is a surprise: are the labels in another order "
        "than the network's outputs (pass head_classes=), does X hold pictures of "
        "0..255 in place of normalised ones, or was the network trained on something "
        "else? To settle it, pass final='class_means' or 'network'."
    )
    return by_means


def _by_network(
    statistics: Statistics, n_classes: int, logits: NetworkLogits
) -> Iterator[Block]:
    """Yield the probabilities of the samples held out, block by block."""
    features, held_out = statistics.features[-1], statistics.held_out
    for places in held_out_blocks(statistics, n_classes):
        yield places, predict_proba(logits, features[held_out[places]])


def own_answers(outputs: Iterable[Features]) -> tuple[NDArray[np.intp], int]:
    """Return which column the network's own head answers, and how many it has.

    `outputs` come batch by batch. Whether they are probabilities all of them tell.
    """
    answers: dict[bool, list[NDArray[np.intp]]] = {False: [], True: []}
    normalized, width = True, 0
    for features in outputs:
        width = _n_columns(features)
        normalized = normalized and _is_normalized(features)
        for are_proba, found in answers.items():
            logits = NetworkLogits(np.arange(width), are_proba)
            found.append(predict_proba(logits, features).argmax(axis=1))
    return np.concatenate(answers[normalized]), width


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
            f"{width} columns: give one label for each. A single output has two, for "
            "low and for high."
        )
    return names


def _columns(
    final: str,
    head_classes: ArrayLike | None,
    statistics: Statistics,
    classes: NDArray[Any],
) -> NDArray[np.intp] | None:
    """Return the column of the network's output of each class.

    None if it has no such columns, and "auto" may do without.

    Raises
    ------
    ValueError
        If `head_classes` do not fit, or if there are no such columns.
    """
    features = statistics.features[-1]
    width = _n_columns(features)
    if head_classes is not None:
        names = head_labels(head_classes, width)
        _check_names(names, classes)
        return np.array([np.flatnonzero(names == label)[0] for label in classes])
    if width == len(classes):
        return np.arange(width)
    numbers = _column_numbers(classes, width)
    if numbers is not None and _are_scores(numbers, statistics):
        return numbers
    if final == "network":
        raise ValueError(
            f"The network's output has {features.shape[1]} columns, but y has "
            f"{len(classes)} classes. Use final='class_means', a scikit-learn "
            "classifier, or head_classes= with one label for each column."
        )
    return None


def _n_columns(features: Features) -> int:
    """Return the number of classes that the network's outputs tell apart."""
    return max(features.shape[1], 2)


def _check_names(names: NDArray[Any], classes: NDArray[Any]) -> None:
    """Refuse names of columns that do not name each class once."""
    counts = {label: (names == label).sum() for label in classes.tolist()}
    twice = [label for label, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"head_classes names the labels {twice[:5]} more than once.")
    missing = [label for label, count in counts.items() if count == 0]
    if missing:
        raise ValueError(
            f"head_classes lacks the labels {missing[:5]} that occur in y: it is "
            f"{names.tolist()!r:.60}."
        )


def _column_numbers(classes: NDArray[Any], width: int) -> NDArray[np.intp] | None:
    """Return labels that are whole numbers and may be those of columns, if they are."""
    labels = np.asarray(classes.tolist())  # of objects, what they are
    if labels.dtype.kind not in "iuf" or labels.min() < 0 or labels.max() >= width:
        return None
    numbers = labels.astype(np.intp)
    return numbers if (numbers == labels).all() else None


def _are_scores(numbers: NDArray[np.intp], statistics: Statistics) -> bool:
    """Tell scores of classes, some of which do not occur in y, from other features.

    The labels reach beyond a quarter of the columns, or the largest columns are right
    more often than one answer for all.
    """
    features, weight = statistics.features[-1], statistics.sample_weight
    if 4 * (numbers.max() + 1) > features.shape[1]:
        return True
    right = features.argmax(axis=1) == numbers[statistics.codes]
    return bool(weight @ right > np.bincount(statistics.codes, weight).max())


def _is_normalized(features: Features) -> bool:
    """Tell whether the outputs are probabilities; a single one is of a sigmoid."""
    if features.shape[1] == 1:
        return bool(((features >= 0) & (features <= 1)).all())
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
    label = np.empty(len(held_out), dtype=np.intp)
    for places, proba in head.out_of_fold():
        label[places] = proba.argmax(axis=1)
    right = label == statistics.codes[held_out]
    return float(np.average(right, weights=statistics.sample_weight[held_out]))


def _fit_classifier(
    classifier: Any, statistics: Statistics, n_classes: int
) -> FittedHead:
    name = f"final={classifier!r}"
    check_has_proba(name, classifier)
    features, held_out = statistics.features[-1], statistics.held_out

    @cache
    def without(fold: int | None) -> ClassifierLogits:
        rows = statistics.outside(fold)
        params = weight_params(name, classifier, statistics.sample_weight[rows])
        fitted = clone(classifier)
        fitted.fit(features[rows], statistics.codes[rows], **params)
        return ClassifierLogits(fitted, n_classes)

    def out_of_fold() -> Iterator[Block]:
        folds = statistics.folds[held_out]
        for fold in np.unique(folds).tolist():
            for places in chunks(np.flatnonzero(folds == fold)):
                some = features[held_out[places]]
                yield places, predict_proba(without(fold), some)

    return FittedHead("classifier", without(None), out_of_fold)
