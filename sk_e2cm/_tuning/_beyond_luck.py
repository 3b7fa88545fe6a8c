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
_MOST_COMPARED = 1000

# One threshold is fitted to so many choices of open exits.
_MOST_OPENED = 50


def beyond_luck(
    problem: ThresholdProblem, points: Points, distinct: Distinct
) -> Points:
    """Keep the points that beat shared thresholds by more than luck, and add these.

    If the exits were all as good with one threshold, the best of k more would, on the
    samples that they were found on, seem better by some ``sqrt(k)`` standard errors of
    the difference (Scheffé): that much is asked for.

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
        A Pareto set.
    """
    if problem.n_exits == 0:
        return points
    simple = shared_points(problem, points)
    points = points.spread(_MOST_COMPARED)
    luck = np.sqrt(problem.n_exits - 1)
    gain, error = gains(problem, points, simple, distinct)
    return pareto(points.take(np.flatnonzero(gain >= luck * error)), simple)


def shared_points(problem: ThresholdProblem, points: Points) -> Points:
    """Return the Pareto set of thresholds that exits share, apart from closed ones.

    Which exits are open is taken from the points: closing some saves what they cost,
    and that is no luck.
    """
    single = problem.in_groups(1)
    opened = np.unique([~is_closed(each) for each in points.thresholds], axis=0)
    opened = opened[opened.any(axis=1)]
    which = np.linspace(0, len(opened) - 1, _MOST_OPENED).round().astype(np.intp)
    everything = np.ones((1, problem.n_exits), dtype=bool)
    opened = np.concatenate([everything, opened[np.unique(which)]])
    found = pareto(
        evaluate(single, at_one_exit(problem.n_exits)),
        *(shared(single, each) for each in opened),
    )
    wide = np.repeat(found.thresholds, problem.n_groups, axis=2)
    return Points(found.loss, found.cost, wide)


def gains(
    problem: ThresholdProblem, points: Points, simple: Points, distinct: Distinct
) -> tuple[Floats, Floats]:
    """Return by how much points lose less than simple ones that cost no more.

    With the standard error of that, both of shape (n_points,). Nothing is as cheap as
    the cheapest points: these gain infinitely much.
    """
    gain, error = np.full((2, len(points.loss)), np.inf)
    error[:] = 0.0
    rivals = simple.cost.searchsorted(points.cost, side="right") - 1
    for rival in np.unique(rivals[rivals >= 0]):
        of_rival = _losses(problem, simple.thresholds[rival])
        for each in np.flatnonzero(rivals == rival):
            saved = of_rival - _losses(problem, points.thresholds[each])
            gain[each] = problem.weight @ saved
            apart = distinct.add(problem.weight * (saved - gain[each]))
            error[each] = np.sqrt((apart**2).sum())
    return gain, error


def _losses(problem: ThresholdProblem, thresholds: Floats) -> Floats:
    """Return the loss of each sample."""
    stage: NDArray[np.intp] = problem.exits(thresholds)
    losses: Floats = problem.loss[stage, np.arange(len(stage))]
    return losses
