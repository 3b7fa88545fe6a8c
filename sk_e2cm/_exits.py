"""The lazy loop, and the decision to leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._extractors._protocol import Extractor
from ._pooling import Features, Pooling, pool

Floats = NDArray[np.float64]


class Head(Protocol):
    """What a stage makes of its features."""

    @property
    def macs(self) -> int:
        """Multiply-adds spent on one sample."""

    def proba(self, features: Features) -> Floats:
        """Return probabilities of shape (n_samples, n_classes)."""


class Step(NamedTuple):
    """One stage of the loop: who was still there, and what it said of them."""

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
    """Run one batch stage by stage; who is sure of an answer leaves.

    A sample that has left is not computed again: it is dropped from the batch
    before the next stage runs. The loop ends with the last sample.

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
        Whether an exit that nobody can take is passed by. Otherwise it is asked
        all the same.

    Yields
    ------
    Step
        For each stage that was asked.
    """
    closed = skip_closed & _is_closed(thresholds)
    last = len(thresholds)
    rows = np.arange(len(X))
    state = extractor.begin(X)
    for stage, name in enumerate(extractor.stage_names):
        state, output = extractor.advance(state, stage)
        if stage < last and closed[stage]:
            continue
        proba = heads[stage].proba(pool(output, pooling, name))
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
    """Tell which samples are sure enough: max_k P_k >= T_k, for that k.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_classes)
        One exit's.

    thresholds : ndarray of shape (n_classes,)
        That exit's.

    Returns
    -------
    ndarray of shape (n_samples,)
        Booleans.
    """
    label = proba.argmax(axis=1)
    return proba[np.arange(len(proba)), label] >= thresholds[label]


def first_exit(proba: Floats, thresholds: Floats) -> NDArray[np.intp]:
    """Return the stage at which each sample leaves, from everything all exits say.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, J + 1, n_classes)
        As of the full path.

    thresholds : ndarray of shape (J, n_classes)
        See `is_confident`.

    Returns
    -------
    ndarray of shape (n_samples,)
        From 0 to J.
    """
    left = np.ones(proba.shape[:2], dtype=bool)  # the last stage always heads
    for exit_, threshold in enumerate(thresholds):
        left[:, exit_] = is_confident(proba[:, exit_], threshold)
    return left.argmax(axis=1)


def _is_closed(thresholds: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isposinf(thresholds).all(axis=1))


def check_thresholds(threshold: ArrayLike, n_exits: int, n_classes: int) -> Floats:
    """Bring a user's threshold into the shape (n_exits, n_classes).

    Raises
    ------
    ValueError
        If it is of another length, or NaN.
    """
    given = np.asarray(threshold, dtype=np.float64)
    if np.isnan(given).any():
        raise ValueError("threshold contains NaN. Use numpy.inf to close an exit.")
    if given.ndim == 1 and len(given) == n_exits:
        given = given[:, None]
    elif given.ndim != 0 and given.shape != (n_exits, n_classes):
        raise ValueError(
            f"threshold has the shape {given.shape}. With {n_exits} exits and "
            f"{n_classes} classes it must be one number, {n_exits} numbers (one per "
            f"exit), or of shape ({n_exits}, {n_classes}) (per exit and class)."
        )
    return np.broadcast_to(given, (n_exits, n_classes))


def stage_costs(macs: Floats, heads: Sequence[Head], thresholds: Floats) -> Floats:
    """Return what a sample costs that leaves at each stage.

    Parameters
    ----------
    macs : ndarray of shape (J + 1,)
        Cumulative multiply-adds of the network by stage.

    heads : sequence of length J + 1
        An exit that is not closed is paid for by all who pass it.

    thresholds : ndarray of shape (J, n_classes)
        Which exits are open.

    Returns
    -------
    ndarray of shape (J + 1,)
        In fractions of the whole network; the last may exceed 1. Without a network
        the heads' own arithmetic is the whole.
    """
    own = np.array([answer.macs for answer in heads], dtype=np.float64)
    own[:-1][_is_closed(thresholds)] = 0.0
    spent = macs + own.cumsum()
    whole = macs[-1] or spent[-1]
    return spent / whole if whole > 0 else np.ones_like(spent)
