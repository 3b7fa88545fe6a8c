"""The lazy loop over the stages, and the decision to exit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._extractors import Extractor
from .._utils._arrays import Floats
from ._heads import Head
from ._pooling import Pooling, pool


class Step(NamedTuple):
    """One stage of the loop: the samples still there, and which of them exit."""

    stage: int
    rows: NDArray[np.intp]
    proba: Floats
    leaves: NDArray[np.bool_]


def run_lazily(
    extractor: Extractor,
    X: NDArray[Any],
    heads: Sequence[Head],
    thresholds: Floats,
    pooling: Pooling,
    *,
    skip_closed: bool = True,
) -> Iterator[Step]:
    """Run one batch stage by stage; confident samples exit.

    A sample that has left is not computed again: it is dropped from the batch
    before the next stage runs. The loop stops when no sample is left.

    Parameters
    ----------
    extractor : extractor
        With J + 1 stages.

    X : ndarray of shape (n_samples, ...)
        One batch.

    heads : sequence of length J + 1
        One for each stage.

    thresholds : ndarray of shape (J, n_classes)
        See `is_confident`.

    pooling
        See `pool`.

    skip_closed : bool, default=True
        Skip the heads of exits whose thresholds are all infinite.

    Yields
    ------
    Step
        For each stage whose head was asked.
    """
    closed = skip_closed & is_closed(thresholds)
    last = len(thresholds)
    rows = np.arange(len(X))
    state = extractor.begin(X)
    for stage, name in enumerate(extractor.stage_names):
        state, output = extractor.advance(state, stage)
        if stage < last and closed[stage]:
            continue
        proba = heads[stage].proba(pool(output, pooling, name, rows))
        if stage == last:
            leaves = np.ones(len(rows), dtype=bool)
        else:
            leaves = is_confident(proba, thresholds[stage])
        yield Step(stage, rows, proba, leaves)
        if leaves.all():
            return
        if leaves.any():
            stay = np.flatnonzero(~leaves)
            rows = rows[stay]
            state = extractor.keep(state, stay)


def is_confident(proba: Floats, thresholds: Floats) -> NDArray[np.bool_]:
    """Tell which samples reach the threshold of their most probable class.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_classes)
        Probabilities P_k at one exit.

    thresholds : ndarray of shape (n_classes,)
        Thresholds T_k of that exit.

    Returns
    -------
    ndarray of shape (n_samples,)
        Whether P_k >= T_k for k = argmax P.
    """
    label = proba.argmax(axis=1)
    return proba[np.arange(len(proba)), label] >= thresholds[label]


def first_exit(proba: Floats, thresholds: Floats) -> NDArray[np.intp]:
    """Return the stage at which each sample exits, from all probabilities.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, J + 1, n_classes)
        From the full path.

    thresholds : ndarray of shape (J, n_classes)
        See `is_confident`.

    Returns
    -------
    ndarray of shape (n_samples,)
        From 0 to J.
    """
    left = np.ones(proba.shape[:2], dtype=bool)  # at the last stage all exit
    for exit_, threshold in enumerate(thresholds):
        left[:, exit_] = is_confident(proba[:, exit_], threshold)
    return left.argmax(axis=1)


def is_closed(thresholds: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isposinf(thresholds).all(axis=1))


def check_thresholds(threshold: ArrayLike, n_exits: int, n_classes: int) -> Floats:
    """Broadcast a user's threshold to the shape (n_exits, n_classes).

    Raises
    ------
    ValueError
        If it is NaN or has another shape.
    """
    given = np.asarray(threshold, dtype=np.float64)
    if np.isnan(given).any():
        raise ValueError("threshold contains NaN. Use numpy.inf to close an exit.")
    if given.ndim == 1 and len(given) == n_exits:
        given = given[:, None]
    elif given.ndim != 0 and given.shape != (n_exits, n_classes):
        raise ValueError(
            f"threshold has shape {given.shape}. It must be a number, have shape "
            f"({n_exits},), one per exit, or shape ({n_exits}, {n_classes}), one per "
            "exit and class."
        )
    return np.broadcast_to(given, (n_exits, n_classes))


def cost_shares(macs: Floats, exit_macs: Floats) -> tuple[Floats, Floats]:
    """Return what each stage, and asking its exit, adds to the cost of a sample.

    Parameters
    ----------
    macs : ndarray of shape (J + 1,)
        Cumulative multiply-adds of the network by stage.

    exit_macs : ndarray of shape (J + 1,)
        Multiply-adds of each exit, and of what is added to the last stage.

    Returns
    -------
    tuple of ndarray of shape (J + 1,)
        Fractions of the network's multiply-adds; without a network, of the exits'.
    """
    steps = np.diff(macs, prepend=0.0)
    whole = macs[-1] or exit_macs.sum()
    if whole == 0:  # nothing is counted, so that no exit saves anything
        return np.append(1.0, np.zeros(len(macs) - 1)), exit_macs
    return steps / whole, exit_macs / whole


def open_steps(steps: Floats, own: Floats, thresholds: Floats) -> Floats:
    """Return what a sample pays at each stage it reaches: closed exits cost nothing.

    `steps` and `own` are those of `cost_shares`.
    """
    asked = np.append(~is_closed(thresholds), True)
    return steps + asked * own


def stage_costs(macs: Floats, exit_macs: Floats, thresholds: Floats) -> Floats:
    """Return the cost of a sample that exits at each stage.

    A sample pays for every open exit up to the one it takes.

    Parameters
    ----------
    macs, exit_macs
        See `cost_shares`.

    thresholds : ndarray of shape (J, n_groups)
        Which exits are open.

    Returns
    -------
    ndarray of shape (J + 1,)
        Fractions of the network's multiply-adds; the last may exceed 1.
    """
    return np.cumsum(open_steps(*cost_shares(macs, exit_macs), thresholds))
