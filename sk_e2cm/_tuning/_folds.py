"""Which samples are held out, and in which fold."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import (
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
    check_cv,
    train_test_split,
)
from torch import Tensor


def folds_of(
    cv: Any, X: Any, y: NDArray[Any] | None, rng: np.random.RandomState
) -> NDArray[np.intp]:
    """Return the fold in which each sample is held out, -1 if in none.

    Parameters
    ----------
    cv : int, float, cross-validation generator or iterable
        As in `TunedExitsCV`.

    X : array-like of shape (n_samples, ...)
        Samples.

    y : ndarray of shape (n_samples,) or None
        Labels, if there are any.

    rng : RandomState
        Splits where `cv` is a share, or a number and there are no labels.

    Raises
    ------
    ValueError
        If a sample is held out twice, or if a fold's other samples are not all used.
    """
    n_samples = len(X)
    splitter = _splitter(cv, y, rng)
    folds = np.full(n_samples, -1)
    for fold, split in enumerate(splitter.split(X, y)):
        try:
            train, test = (np.arange(n_samples)[part] for part in split)
        except IndexError as error:
            raise ValueError(
                f"cv gives rows that X, with {n_samples} samples, does not have: "
                f"{error}."
            ) from None
        if (folds[test] >= 0).any():
            raise ValueError(
                "cv holds some samples out more than once. Use a splitter like "
                "StratifiedKFold, or PredefinedSplit."
            )
        if len(np.union1d(train, test)) != n_samples:
            raise ValueError(
                "cv leaves samples unused: those that are not held out in a fold must "
                "all train the class means."
            )
        folds[test] = fold
    return folds


def _splitter(cv: Any, y: NDArray[Any] | None, rng: np.random.RandomState) -> Any:
    if isinstance(cv, Real) and not isinstance(cv, Integral):
        split = ShuffleSplit if y is None else StratifiedShuffleSplit
        return split(1, test_size=float(cv), random_state=rng)
    if (cv is None or isinstance(cv, Integral)) and y is None:
        # Where samples are sorted, each fold would hold out whole clusters.
        n_folds = check_cv(cv).get_n_splits()
        return KFold(n_folds, shuffle=True, random_state=rng)
    if not hasattr(cv, "get_n_splits") and isinstance(cv, Iterable):
        cv = _checked_pairs(cv)
    splitter = check_cv(cv, y, classifier=True)
    if y is None and isinstance(splitter, (StratifiedKFold, StratifiedShuffleSplit)):
        raise ValueError(
            f"cv={cv!r} needs labels, and clusters have none beforehand. Use a number "
            "of folds, or KFold(shuffle=True)."
        )
    return splitter


def spare_singletons(folds: NDArray[np.intp], y: Any) -> NDArray[np.intp]:
    """Hold no sample out that is the only one of its class."""
    if y is None:
        return folds
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    return np.where(counts[codes] == 1, -1, folds)


def _checked_pairs(cv: Iterable[Any]) -> list[Any]:
    pairs = [cv] if isinstance(cv, Tensor) else list(cv)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                "cv must be a number, a splitter, or pairs of the rows to train on and "
                f"those to hold out; cv={cv!r:.60} has {pair!r:.60} instead of one."
            )
    return pairs


def check_folds(folds: NDArray[np.intp], y: NDArray[Any] | None) -> None:
    """Refuse folds that hold out nothing, or all that is known of a class.

    Raises
    ------
    ValueError
        If no sample is held out, or all samples of a class are in one fold.
    """
    if (folds < 0).all():
        raise ValueError("cv holds no samples out: there is nothing to choose on.")
    if (folds == folds[0]).all():
        raise ValueError(
            "cv holds all samples out in one fold: none are left that could say "
            "anything about them. Use more folds."
        )
    if y is None:
        return
    for fold in range(int(folds.max()) + 1):
        inside = folds == fold
        lacking = np.setdiff1d(y[inside], y[~inside])
        if len(lacking):
            raise ValueError(
                f"All samples of the classes {lacking[:5].tolist()} are held out in "
                "one fold, so that the others know no such class. Use fewer folds, "
                "stratified ones, or more samples."
            )


def set_aside(
    share: float, folds: NDArray[np.intp], y: Any, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Choose this share of the samples held out, of each class if that can be."""
    held_out = np.flatnonzero(folds >= 0)
    n_aside = int(np.ceil(share * len(held_out)))
    if not 0 < n_aside < len(held_out):
        raise ValueError(
            f"risk= or confidence= sets {n_aside} of {len(held_out)} samples held out "
            f"aside, a share of {share}: some are needed for the promise, and some to "
            "choose thresholds on. Use more samples, or another calibration_size of "
            "RiskControl."
        )
    labels = None
    if y is not None:
        counts = np.unique(y[held_out], return_counts=True)[1]
        smaller = min(share, 1 - share) * len(held_out)
        if counts.min() >= 2 and len(counts) <= int(smaller):
            labels = y[held_out]
    _, chosen = train_test_split(
        held_out, test_size=share, stratify=labels, random_state=rng
    )
    aside = np.zeros(len(folds), dtype=bool)
    aside[chosen] = True
    return aside


def spare_whole_classes(aside: NDArray[np.bool_], y: Any) -> NDArray[np.bool_]:
    """Set no class aside as a whole: those that are fitted to the rest must know it."""
    return aside if y is None else aside & np.isin(y, y[~aside])
