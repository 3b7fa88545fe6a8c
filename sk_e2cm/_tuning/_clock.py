"""Whether thresholds make predictions quicker, by the clock."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._multi_exit._thresholds import is_closed
from .._utils._arrays import Floats
from .._utils._compat import _safe_indexing
from .._utils._streams import batches_of, is_stream, with_enough_first
from .._utils._warnings import warn
from ._held_out import HeldOutPredictions

# Samples that are timed, at most, and batches, at least.
_MOST_SAMPLES, _FEWEST_BATCHES = 2000, 4


def is_slower(
    held_out: HeldOutPredictions, thresholds: Floats, max_cost: float | None
) -> bool:
    """Tell whether closing all exits is quicker, where costs are in seconds.

    What stages and exits take adds up, but for what caches and small batches do: the
    thresholds that were chosen by sums are timed as a whole.

    Parameters
    ----------
    held_out : HeldOutPredictions
        Of the estimator, with samples to time.

    thresholds : ndarray of shape (n_exits, n_groups)
        Those to be used.

    max_cost : float or None
        What was asked for.

    Warns
    -----
    UserWarning
        With what was measured, if it is.
    """
    estimator = held_out.estimator
    network = estimator.network_
    if network.costs.unit != "time" or is_closed(thresholds).all():
        return False
    most = max(_MOST_SAMPLES, _FEWEST_BATCHES * estimator.batch_size)
    X = estimator._check_X(_some(held_out.X, most, estimator.batch_size))
    threshold = thresholds[:, 0] if thresholds.shape[1] == 1 else thresholds
    found = network.race(X, threshold, estimator.batch_size, estimator.device)
    if found.early < found.closed:
        return False
    closed = found.closed / found.plain
    missed = max_cost is not None and closed > max_cost
    warn(
        "By the clock, leaving early with the thresholds chosen takes "
        f"{found.early / found.plain:.2f} of the network's own time, and running it "
        f"to the end {closed:.2f}: all exits are closed."
        + f" That is more than max_cost={max_cost}, which cannot be met."
        * missed
    )
    return True


def _some(X: Any, most: int, batch_size: int) -> Any:
    """Return at most so many samples, from all over an array."""
    if is_stream(X):
        first = with_enough_first(batches_of(X, batch_size=batch_size), most)
        return next(first).X[:most]
    rows = np.unique(np.linspace(0, len(X) - 1, min(len(X), most)).astype(np.intp))
    return _safe_indexing(X, rows)
