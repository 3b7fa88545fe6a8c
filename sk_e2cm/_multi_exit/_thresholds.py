"""Thresholds: their shape, and who is confident enough to leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._utils._arrays import Floats, as_numbers, as_proba


def check_thresholds(
    threshold: ArrayLike, n_exits: int, n_classes: int | None
) -> Floats:
    """Bring a user's threshold into the shape (n_exits, n_classes) or (n_exits, 1).

    The second if all classes share an exit's threshold. If `n_classes` is None, their
    number is not known yet, and any will do.

    Raises
    ------
    TypeError, ValueError
        If it is no number, NaN, or has another shape.
    """
    given = as_numbers(threshold, "threshold")
    if given.dtype.kind == "b":
        raise ValueError(f"threshold must be a number, got {threshold!r:.60}.")
    given = given.astype(np.float64)
    if np.isnan(given).any():
        raise ValueError("threshold contains NaN. Use numpy.inf to close an exit.")
    if given.ndim == 0:
        return np.full((n_exits, 1), given)
    if given.shape == (n_exits,):
        return given[:, None]
    n_columns = given.shape[-1] if n_classes is None else n_classes
    if given.shape != (n_exits, n_columns):
        raise ValueError(
            f"threshold has shape {given.shape}. It must be a number, have shape "
            f"({n_exits},), one per exit, or shape ({n_exits}, {n_columns}), one per "
            "exit and class."
        )
    return given


def is_closed(thresholds: Floats) -> NDArray[np.bool_]:
    """Tell which exits are closed: all their thresholds are infinite."""
    return np.asarray((thresholds == np.inf).all(axis=1))


def needed_on(
    thresholds: Floats, device: torch.device, *, run_closed: bool
) -> list[Tensor | float | None]:
    """Return what `LazyLoop` takes: None for exits that are not to be run."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    needed: list[Tensor | float | None] = []
    closed = is_closed(thresholds).tolist()
    for each, skip in zip(thresholds.tolist(), closed, strict=True):
        if skip and not run_closed:
            needed.append(None)
        elif len(each) == 1:
            needed.append(each[0])
        else:
            needed.append(torch.tensor(each, dtype=dtype, device=device))
    return needed


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


def first_exit(exit_proba: ArrayLike, threshold: ArrayLike) -> NDArray[np.intp]:
    """Return the stage at which each sample exits.

    Parameters
    ----------
    exit_proba : array-like of shape (n_samples, n_exits + 1, n_classes)
        Probabilities of all stages, as `exit_proba` of an estimator returns them.

    threshold : float or array-like
        See `E2CMClassifier`: one number, one per exit, or one per exit and class.

    Returns
    -------
    ndarray of shape (n_samples,)
        From 0, the first exit, to the number of exits, the last stage: what
        ``predict_exit`` returns with this `threshold`.

    Raises
    ------
    ValueError
        If `threshold` is NaN or has another shape, or if `exit_proba` holds no
        probabilities.

    Examples
    --------
    >>> from sk_e2cm.metrics import first_exit
    >>> exit_proba = [[[0.8, 0.2], [0.9, 0.1]], [[0.4, 0.6], [0.3, 0.7]]]
    >>> first_exit(exit_proba, threshold=0.75)
    array([0, 1])
    """
    proba = as_proba(exit_proba, "exit_proba", "n_samples", "n_stages", "n_classes")
    _, n_stages, n_classes = proba.shape
    leaves = np.ones(proba.shape[:2], dtype=bool)  # nobody stays at the last stage
    thresholds = check_thresholds(threshold, n_stages - 1, n_classes)
    for exit_, needed in enumerate(thresholds):
        here = proba[:, exit_]
        leaves[:, exit_] = ~stays(here.max(axis=1), here.argmax(axis=1), needed)
    return leaves.argmax(axis=1)
