"""Labels: what they may be, and which class each stands for."""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d

from ._arrays import to_array
from ._warnings import warn


def as_labels(y: Any, name: str = "y", *, warn: bool = False) -> NDArray[Any]:
    """Return one label for each sample; tensors are copied to the CPU.

    Raises
    ------
    ValueError
        If there are several for each, if some are missing, or if text is mixed with
        other kinds.
    """
    labels = to_array(y, name)
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        raise ValueError(
            f"{name} must have one label for each sample, got the shape {labels.shape}."
        )
    labels = column_or_1d(labels, warn=warn)
    is_list = isinstance(y, (list, tuple))
    if labels.dtype.kind not in "OUT":
        _refuse_missing(name, labels != labels)  # as NaN and NaT differ from themselves
        return labels
    # NumPy makes text of whatever is beside text in a list, of NaN too.
    given = np.asarray(y, dtype=object).ravel() if is_list else labels
    _refuse_missing(name, [_is_missing(label) for label in given])
    is_text = {isinstance(label, str) for label in given}
    if len(is_text) == 2:
        raise ValueError(
            f"{name} mixes text with other kinds of labels: {_some(given.tolist())}."
        )
    if not all(isinstance(label, (Number, np.generic)) for label in labels):
        return labels
    # Numbers in an array of objects are numbers.
    plain = np.asarray(labels.tolist())
    return plain if plain.dtype.kind in "biuf" else labels


def _refuse_missing(name: str, missing: ArrayLike) -> None:
    rows = np.flatnonzero(missing)
    if len(rows):
        raise ValueError(
            f"{name} contains NaN, None or NA: {len(rows)} of {np.size(missing)} "
            f"labels are missing, the first is number {rows[0]}. Every sample needs "
            "one."
        )


def labels_like(y: Any, labels: NDArray[Any], name: str = "y") -> NDArray[Any]:
    """Return one label for each sample, of the kind of those that are known.

    Raises
    ------
    ValueError
        If they are of another kind, besides what `as_labels` refuses.
    """
    given = as_labels(y, name)
    if _kind(given) != _kind(labels):
        raise ValueError(_unknown(name, np.unique(given), labels))
    return given


def _is_missing(label: Any) -> bool:
    # NaN is not equal to itself, and of pandas.NA nobody knows.
    same = label == label
    return label is None or not isinstance(same, (bool, np.bool_)) or not same


def _kind(labels: NDArray[Any]) -> str:
    kind = labels.dtype.kind
    return "number" if kind in "biuf" else "text" if kind in "OUT" else kind


def _unknown(name: str, unknown: NDArray[Any], labels: NDArray[Any]) -> str:
    return (
        f"{name} has labels {unknown[:5].tolist()} that are none of those known: "
        f"{_some(np.unique(labels).tolist())}."
    )


def _some(values: list[Any]) -> str:
    return f"{values[:5]}".removesuffix("]") + (", ...]" if len(values) > 5 else "]")


def check_classes(
    classes: NDArray[Any],
    n_distinct: NDArray[np.intp],
    weight: NDArray[Any],
    *,
    calibrate: bool,
) -> NDArray[np.bool_]:
    """Return which classes have a single sample, which cannot be held out.

    None, if nothing is calibrated.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Their labels.

    n_distinct, weight : ndarray of shape (n_classes,)
        How many distinct samples they have, and the weight of all. Equal ones are one
        sample with the sum of their weights.

    calibrate : bool
        Whether anything is calibrated.

    Raises
    ------
    ValueError
        If there is a single class, or nothing to calibrate on.

    Warns
    -----
    UserWarning
        If some are, with their classes.
    """
    if len(classes) < 2:
        raise ValueError(
            f"y has {len(classes)} class, {classes.tolist()}, and at least two are "
            "needed. Samples of weight zero do not count."
        )
    if not calibrate:
        return np.zeros(len(classes), dtype=bool)
    alone: NDArray[np.bool_] = (n_distinct == 1) & (weight <= 1)
    if alone.all():
        raise ValueError(
            "Calibration needs a class of at least two distinct samples, and each of "
            f"those in y has only one sample: {classes[:5].tolist()}. Add samples, or "
            "use calibration=None."
        )
    if alone.any():
        warn(
            f"These classes have only one sample: {classes[alone][:5].tolist()}. It is "
            "their mean, and says nothing of how sure of them one may be: they are "
            "left out of the calibration."
        )
    return alone


def codes_of(y: Any, labels: NDArray[Any]) -> NDArray[np.intp]:
    """Return the index of each label.

    Raises
    ------
    ValueError
        If a label is none of them.
    """
    y = labels_like(y, labels)
    unknown = np.setdiff1d(y, labels)
    if len(unknown):
        raise ValueError(_unknown("y", unknown, labels))
    order = labels.argsort()
    codes: NDArray[np.intp] = order[np.searchsorted(labels, y, sorter=order)]
    return codes


def labels_of(y: NDArray[Any], classes: Any, n_classes: int) -> NDArray[Any]:
    """Return the label of each column, by default the sorted labels of y.

    Raises
    ------
    ValueError
        If they are not as many as the columns.
    """
    labels = np.unique(y) if classes is None else labels_like(classes, y, "classes")
    if len(np.unique(labels)) < len(labels):
        raise ValueError(
            f"classes has a label more than once: {_some(labels.tolist())}."
        )
    if len(labels) != n_classes:
        raise ValueError(
            f"There are {len(labels)} labels for {n_classes} columns of probabilities: "
            "pass classes= with one for each column."
        )
    return labels
