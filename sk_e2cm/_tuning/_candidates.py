"""The choice between the candidates of a search over parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import as_numbers
from ._choice import ROUNDING

Results = Mapping[str, Any]


def most_accurate(results: Results, *, max_cost: float) -> int:
    """Return the index of the most accurate of those that cost at most `max_cost`."""
    score, cost, _ = _score_and_cost(results)
    allowed = cost <= max_cost + ROUNDING  # not where NaN
    if not allowed.any():
        raise ValueError(
            f"No candidate costs at most {max_cost}: the cheapest costs "
            f"{np.nanmin(cost):.3g}. Allow more, or try lower thresholds. Above 1 the "
            "exits cost more than they save: use fewer, or a coarser pooling."
        )
    return _first_by(-score, cost, allowed)


def cheapest(results: Results, *, max_drop: float) -> int:
    """Return the index of the cheapest of those that lose at most `max_drop`."""
    score, cost, full = _score_and_cost(results)
    allowed = full - score <= max_drop + ROUNDING
    if not allowed.any():
        raise ValueError(
            f"No candidate loses at most {max_drop}: the best loses "
            f"{np.nanmin(full - score):.3g}. Allow more, or try higher thresholds."
        )
    return _first_by(cost, -score, allowed)


def _score_and_cost(
    results: Results,
) -> tuple[NDArray[np.float64], NDArray[np.float64], Any]:
    """Return score and cost of the candidates, and the score of the full network.

    Those of candidates that have failed are NaN.
    """
    if not isinstance(results, Mapping):
        raise TypeError(
            f"The cv_results_ of a search are needed, got a {type(results).__name__}."
        )
    names = [f"mean_test_{score}" for score in ("accuracy", "agreement")]
    found = [name for name in names if name in results]
    missing = {found[0] if found else names[0], "mean_test_cost"} - set(results)
    if missing:
        raise ValueError(
            f"The search's results lack {sorted(missing)}: pass "
            "scoring=accuracy_cost_scorer to it, or agreement_cost_scorer."
        )
    score, cost = (
        as_numbers(results[name], name).astype(np.float64)
        for name in (found[0], "mean_test_cost")
    )
    if score.ndim != 1 or score.shape != cost.shape:
        raise ValueError(
            f"{found[0]} has the shape {score.shape} and mean_test_cost "
            f"{cost.shape}: one number for each candidate is needed."
        )
    # One that has failed tells nothing, whichever of its scores is there.
    failed = np.isnan(score) | np.isnan(cost)
    if failed.all():
        raise ValueError(
            f"{found[0]} or mean_test_cost is NaN for every candidate: each has failed."
        )
    score, cost = np.where(failed, np.nan, score), np.where(failed, np.nan, cost)
    if found[0] == "mean_test_agreement":
        return score, cost, 1.0
    full = results.get("mean_test_full_accuracy", np.nanmax(score))
    return score, cost, np.asarray(full, dtype=np.float64)


def _first_by(
    key: NDArray[np.float64], tie_key: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> int:
    indices = np.flatnonzero(allowed)
    return int(indices[np.lexsort((tie_key[indices], key[indices]))[0]])
