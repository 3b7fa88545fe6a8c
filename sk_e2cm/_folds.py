"""Which samples are held out, and in which fold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit, check_cv, train_test_split


def folds_of(
    cv: Any, X: Any, y: NDArray[Any], rng: np.random.RandomState
) -> NDArray[np.intp]:
    """Return the fold in which each sample is held out, -1 if in none.

    Parameters
    ----------
    cv : int, float, cross-validation generator or iterable
        As in `TunedExitsCV`.

    X : array-like of shape (n_samples, ...)
        Samples.

    y : ndarray of shape (n_samples,)
        Labels.

    rng : RandomState
        Splits where `cv` is a share.

    Raises
    ------
    ValueError
        If a sample is held out twice, if a fold's other samples are not all used, or
        if they lack a class.
    """
    if isinstance(cv, float):
        splitter = StratifiedShuffleSplit(1, test_size=cv, random_state=rng)
    else:
        splitter = check_cv(cv, y, classifier=True)
    folds = np.full(len(y), -1)
    for fold, (train, test) in enumerate(splitter.split(X, y)):
        if (folds[test] >= 0).any():
            raise ValueError(
                f"cv={cv!r} holds some samples out more than once. Use a splitter like "
                "StratifiedKFold, or PredefinedSplit."
            )
        if len(train) + len(test) != len(y):
            raise ValueError(
                f"cv={cv!r} leaves samples unused: those that are not held out in a "
                "fold must all train the class means."
            )
        lacking = np.setdiff1d(y[test], y[train])
        if len(lacking):
            raise ValueError(
                f"All samples of the classes {lacking[:5].tolist()} are held out in "
                "one fold, so that the others know no such class. Use fewer folds, "
                "stratified ones, or more samples."
            )
        folds[test] = fold
    return folds


def set_aside(
    share: float, folds: NDArray[np.intp], y: Any, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Choose this share of the samples held out, of each class if that can be."""
    held_out = np.flatnonzero(folds >= 0)
    labels = None if y is None else y[held_out]
    if labels is not None and np.unique(labels, return_counts=True)[1].min() < 2:
        labels = None
    _, chosen = train_test_split(
        held_out, test_size=share, stratify=labels, random_state=rng
    )
    aside = np.zeros(len(folds), dtype=bool)
    aside[chosen] = True
    return aside
