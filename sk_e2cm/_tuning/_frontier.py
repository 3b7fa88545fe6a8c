"""The frontier: what thresholds are expected to score, and what they do score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._utils._arrays import Floats
from ._held_out import HeldOutPredictions
from ._scoring import ADDITIVE, rescored
from ._search import Points, evaluate, pareto

# So many points are kept.
_MOST_POINTS = 1000


@dataclass(frozen=True)
class Frontier:
    """The Pareto set of cost and expected score, and the score itself.

    Parameters
    ----------
    points : Points
        The cheapest first; their loss is one less the expected score.

    score : ndarray of shape (n_points,)
        On the samples held out, by their labels.

    full_score : float
        If nobody leaves early.
    """

    points: Points
    score: Floats
    full_score: float

    def at(self, which: int) -> tuple[Points, float]:
        """Return one point and its score."""
        return self.points.take(np.array([which])), float(self.score[which])


def frontier_of(scoring: Any, points: Points, held_out: HeldOutPredictions) -> Frontier:
    """Score points, and keep those that no other beats.

    A score that is no mean over samples is its own expectation.

    Parameters
    ----------
    scoring : str or scorer
        As in `TunedExitsCV`.

    points : Points
        With expected losses; the last is the full network.

    held_out : HeldOutPredictions
        For the samples that are scored.

    Raises
    ------
    ValueError
        If the score needs more than predictions.
    """
    n_groups = points.thresholds.shape[2]
    problem = held_out.problem(held_out.losses(scoring), n_groups)
    if scoring in ADDITIVE:
        (full_loss,) = evaluate(problem, points.thresholds[-1:]).loss
        points = pareto(points).spread(_MOST_POINTS)
        loss = evaluate(problem, points.thresholds).loss
    else:
        labels = held_out.estimator.network_.labels
        points = rescored(scoring, points, problem, labels, held_out.codes)
        full_loss = points.loss[-1]
        points = pareto(points)
        loss = points.loss
    return Frontier(points, 1.0 - loss, float(1.0 - full_loss))
