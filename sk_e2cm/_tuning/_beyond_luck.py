"""Thresholds that differ from exit to exit only where that is more than luck.

The best of many thresholds are the best on the samples that they were found on, and
partly for that reason. One threshold that exits share is a single number, and hardly
ever lucky: it is what others have to beat.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._multi_exit._thresholds import is_closed
from .._utils._arrays import Floats
from ._problem import ThresholdProblem
from ._search import Points, at_one_exit, evaluate, pareto, shared
from ._soft import Distinct

# So many points are compared.
_MOST_COMPARED = 200

# Rounding makes smaller ones.
_LEAST_GAIN = 1e-12

# One threshold is fitted to so many choices of open exits.
_MOST_OPENED = 50


def beyond_luck(
    problem: ThresholdProblem, points: Points, distinct: Distinct
) -> Points:
    """Return shared thresholds, and those points that beat them by more than luck.

    What a point gains over the shared threshold of its cost is shrunk, by James and
    Stein: if all exits were as good with one threshold, the best of k more would, on
    the samples that they were found on, seem better by some ``sqrt(k)`` standard errors
    of the difference (Scheffé). Of a gain of z standard errors the part
    ``1 - k / z**2`` is left, or nothing.

    Parameters
    ----------
    problem : ThresholdProblem
        For which the points were found.

    points : Points
        A Pareto set.

    distinct : Distinct
        Which of the samples are alike.

    Returns
    -------
    Points
        The Pareto set of cost and shrunk loss.
    """
    if problem.n_exits == 0:
        return points
    single = problem.in_groups(1)
    # Of a single number no choice among many is made, and no luck had.
    kept = pareto(shared(single), evaluate(single, at_one_exit(problem.n_exits)))
    kept = kept.in_groups(problem.n_groups)
    for more in (some_closed(problem, points), points):
        compared = more.spread(_MOST_COMPARED)
        kept = pareto(kept, shrunk(problem, compared, kept, distinct))
    return kept


def shrunk(
    problem: ThresholdProblem, points: Points, simple: Points, distinct: Distinct
) -> Points:
    """Return points with what is left of their gain over simple ones."""
    gain, error, rival = gains(problem, points, simple, distinct)
    has_rival = rival >= 0
    by_luck = (problem.n_exits - 1) * error**2
    left = np.maximum(gain - by_luck / np.maximum(gain, _LEAST_GAIN), 0.0)
    loss = np.where(has_rival, simple.loss[rival] - left, points.loss)
    return Points(loss, points.cost, points.thresholds)


def some_closed(problem: ThresholdProblem, points: Points) -> Points:
    """Return the Pareto set of one threshold for the exits that are open at a point.

    An exit costs something even if nobody leaves there.
    """
    single = problem.in_groups(1)
    opened = np.unique([~is_closed(each) for each in points.thresholds], axis=0)
    opened = opened[opened.any(axis=1)]
    if not len(opened):
        return points
    which = np.linspace(0, len(opened) - 1, _MOST_OPENED).round().astype(np.intp)
    found = pareto(*(shared(single, each) for each in opened[np.unique(which)]))
    return found.in_groups(problem.n_groups)


def gains(
    problem: ThresholdProblem, points: Points, simple: Points, distinct: Distinct
) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Return by how much points lose less than the best simple ones of their cost.

    Returns
    -------
    gain, error : ndarray of shape (n_points,)
        The gain and its standard error.

    rival : ndarray of shape (n_points,)
        Over which simple point; -1 where none is as cheap.
    """
    gain, error = np.zeros((2, len(points.loss)))
    rivals = simple.cost.searchsorted(points.cost, side="right") - 1
    for rival in np.unique(rivals[rivals >= 0]):
        of_rival = _losses(problem, simple.thresholds[rival])
        for each in np.flatnonzero(rivals == rival):
            saved = of_rival - _losses(problem, points.thresholds[each])
            gain[each] = problem.weight @ saved
            apart = distinct.add(problem.weight * (saved - gain[each]))
            error[each] = np.sqrt((apart**2).sum())
    return gain, error, rivals


def _losses(problem: ThresholdProblem, thresholds: Floats) -> Floats:
    """Return the loss of each sample."""
    stage: NDArray[np.intp] = problem.exits(thresholds)
    losses: Floats = problem.loss[stage, np.arange(len(stage))]
    return losses
