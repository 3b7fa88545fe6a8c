"""The choice among thresholds: by the cost or the drop that is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._frontier import Frontier

# Means over folds, and sums over samples, are off in the last digit.
ROUNDING = 1e-9

# The exits cost something, too, but seldom as much as their network.
_MOST_COST = 2.0


def check_drop(max_drop: float | None, scoring: Any) -> None:
    """Refuse a percentage.

    Raises
    ------
    ValueError
        If the drop is 1 or more, and the score is a share.
    """
    # Errors, and the scores that users make, may be of any size.
    is_share = isinstance(scoring, str) and not scoring.startswith("neg_")
    if max_drop is not None and max_drop >= 1 and is_share:
        raise ValueError(
            f"max_drop={max_drop!r} would allow any loss: it is a share and not a "
            "percentage. One point of accuracy is max_drop=0.01."
        )


def choose(
    frontier: Frontier,
    max_cost: float | None,
    max_drop: float | None,
    of_which: str = "",
    unit: str = "multiply-adds",
) -> int | None:
    """Return the index of the point that is asked for, None for the full network.

    Parameters
    ----------
    frontier : Frontier
        What can be chosen. The drop is one of the score itself, the most accurate are
        those by the expected score.

    max_cost, max_drop : float or None
        As in `TunedExitsCV`; without both, the cheapest.

    of_which : str, default=""
        Says, after a space, which points these are.

    unit : str, default="multiply-adds"
        Of what costs are fractions, see `Costs`.

    Raises
    ------
    ValueError
        If the cost cannot be met, or is a percentage.
    """
    if max_cost is None:
        most = np.inf if max_drop is None else max_drop + ROUNDING
        allowed = frontier.full_score - frontier.score <= most
        return int(allowed.argmax()) if allowed.any() else None
    points = frontier.points
    allowed = points.cost <= max_cost + ROUNDING
    if not allowed.any():
        raise ValueError(
            f"max_cost={max_cost} cannot be met: the least possible cost{of_which} is "
            f"{points.cost.min():.4g}, in fractions of the network's {unit}. "
            "Allow more, or add an earlier exit."
        )
    if max_cost > _MOST_COST and allowed.all():
        raise ValueError(
            f"max_cost={max_cost} would allow any cost: it is a fraction of the "
            f"network's {unit} and not a percentage. 40% is max_cost=0.4."
        )
    return int(np.flatnonzero(allowed)[-1])
