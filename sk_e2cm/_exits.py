"""The lazy loop over the stages, and the decision to exit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._extractors import Extractor
from ._means import Floats
from ._pooling import Features, Pooling, pool


class Head(Protocol):
    """Turns the features of one stage into class probabilities."""

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""

    def proba(self, features: Features) -> Floats:
        """Return probabilities of shape (n_samples, n_classes)."""


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
    closed = skip_closed & _is_closed(thresholds)
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


def _is_closed(thresholds: Floats) -> NDArray[np.bool_]:
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


def stage_costs(macs: Floats, heads: Sequence[Head], thresholds: Floats) -> Floats:
    """Return the cost of a sample that exits at each stage.

    Parameters
    ----------
    macs : ndarray of shape (J + 1,)
        Cumulative multiply-adds of the network by stage.

    heads : sequence of length J + 1
        A sample pays for every open exit up to the one it takes.

    thresholds : ndarray of shape (J, n_classes)
        Which exits are open.

    Returns
    -------
    ndarray of shape (J + 1,)
        Fractions of the network's multiply-adds; the last may exceed 1. Without a
        network, fractions of the heads' own.
    """
    own = np.array([head.macs for head in heads], dtype=np.float64)
    own[:-1][_is_closed(thresholds)] = 0.0
    spent = macs + own.cumsum()
    whole = macs[-1] or spent[-1]
    return spent / whole if whole > 0 else np.ones_like(spent)
