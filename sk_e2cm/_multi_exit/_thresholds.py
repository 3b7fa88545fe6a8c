"""Thresholds: their shape, and who is confident enough to leave."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._utils._arrays import Floats


def check_thresholds(threshold: ArrayLike, n_exits: int, n_classes: int) -> Floats:
    """Bring a user's threshold into the shape (n_exits, n_classes) or (n_exits, 1).

    The second where the classes share what each exit asks for.

    Raises
    ------
    ValueError
        If it is NaN or has another shape.
    """
    given = np.asarray(threshold, dtype=np.float64)
    if np.isnan(given).any():
        raise ValueError("threshold contains NaN. Use numpy.inf to close an exit.")
    if given.ndim == 0:
        return np.full((n_exits, 1), given)
    if given.shape == (n_exits,):
        return given[:, None]
    if given.shape != (n_exits, n_classes):
        raise ValueError(
            f"threshold has shape {given.shape}. It must be a number, have shape "
            f"({n_exits},), one per exit, or shape ({n_exits}, {n_classes}), one per "
            "exit and class."
        )
    return given


def is_closed(thresholds: Floats) -> NDArray[np.bool_]:
    """Tell which exits nobody is to be asked at: all their thresholds are infinite."""
    return np.asarray((thresholds == np.inf).all(axis=1))


def stays(confidence: Any, label: Any, thresholds: Any) -> Any:
    """Tell which samples are not confident enough to leave at one exit.

    Whoever is not below the threshold leaves, NaN too, so that the stage at which it
    arose is known.

    Parameters
    ----------
    confidence : ndarray or tensor of shape (n_samples,)
        The largest probability of each sample.

    label : ndarray or tensor of int, shape (n_samples,)
        Whose probability that is.

    thresholds : ndarray or tensor of shape (n_classes,) or (1,), or float
        The exit's threshold for each class, or the one that they share.

    Returns
    -------
    ndarray or tensor of bool, shape (n_samples,)
    """
    shared = isinstance(thresholds, float) or len(thresholds) == 1
    return confidence < (thresholds if shared else thresholds[label])


def first_exit(proba: Floats, thresholds: Floats) -> NDArray[np.intp]:
    """Return the stage at which each sample exits, from all probabilities.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_exits + 1, n_classes)
        Of every stage, nobody leaving.

    thresholds : ndarray of shape (n_exits, n_classes) or (n_exits, 1)
        See `stays`.

    Returns
    -------
    ndarray of shape (n_samples,)
        From 0 to the number of exits.
    """
    leaves = np.ones(proba.shape[:2], dtype=bool)  # nobody stays at the last stage
    for exit_, needed in enumerate(thresholds):
        here = proba[:, exit_]
        leaves[:, exit_] = ~stays(here.max(axis=1), here.argmax(axis=1), needed)
    return leaves.argmax(axis=1)
