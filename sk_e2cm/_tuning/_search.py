"""Thresholds for the exits: exact sweeps, and the frontier of loss against cost.

What a sample loses and costs depends on nothing but the stage at which it leaves.
With the other exits' thresholds held, the best threshold of one exit therefore
follows from sorting: what is saved by letting its k most confident samples leave
there, rather than later, is a cumulative sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import Floats
from .._utils._progress import shown
from ._problem import ThresholdProblem

N_DRAWS = 1000

# The loss that a unit of cost is worth: from less than one error in ten thousand
# samples to where nearly all leave at once.
_PRICES = np.geomspace(1e-4, 30.0, 30)

_MOST_SWEEPS = 20

_MOST_VARIED = 20

# Sums of other orders differ by as much.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Points:
    """Thresholds, and what they lose and cost.

    Parameters
    ----------
    loss, cost : ndarray of shape (n_points,)
        Mean loss, and mean cost in fractions of the full network's.

    thresholds : ndarray of shape (n_points, n_exits, n_groups)
        See `ThresholdProblem`.
    """

    loss: Floats
    cost: Floats
    thresholds: Floats

    def take(self, which: NDArray[np.intp]) -> Points:
        """Select points, in this order."""
        return Points(self.loss[which], self.cost[which], self.thresholds[which])

    def spread(self, most: int) -> Points:
        """Select at most so many points, evenly by their order, both ends included."""
        which = np.linspace(0, len(self.loss) - 1, most).round().astype(np.intp)
        return self.take(np.unique(which))

    def in_groups(self, n_groups: int) -> Points:
        """Give each of so many groups the only threshold of an exit."""
        wide = np.repeat(self.thresholds, n_groups, axis=2)
        return Points(self.loss, self.cost, wide)

    def among(self, exits: NDArray[np.intp], n_exits: int) -> Points:
        """Return the same where these are some of all exits, and the others closed."""
        n_points, _, n_groups = self.thresholds.shape
        thresholds = np.full((n_points, n_exits, n_groups), np.inf)
        thresholds[:, exits] = self.thresholds
        return Points(self.loss, self.cost, thresholds)

    def best(self, price: float) -> Floats:
        """Return the thresholds with the least loss + price * cost."""
        best: Floats = self.thresholds[(self.loss + price * self.cost).argmin()]
        return best


def concatenate(*points: Points) -> Points:
    """Put points one after the other."""
    return Points(
        np.concatenate([part.loss for part in points]),
        np.concatenate([part.cost for part in points]),
        np.concatenate([part.thresholds for part in points]),
    )


def pareto(*points: Points) -> Points:
    """Keep those that no other beats, the cheapest first."""
    together = concatenate(*points)
    return together.take(undominated(together.loss, together.cost))


def undominated(loss: Floats, cost: Floats) -> NDArray[np.intp]:
    """Return the indices of what nothing else beats in both, the cheapest first."""
    order = np.lexsort((loss, cost))
    least = np.minimum.accumulate(loss[order])
    return order[np.diff(least, prepend=np.inf) < -_ROUNDING]


def evaluate(
    problem: ThresholdProblem, thresholds: Sequence[Floats] | Floats
) -> Points:
    """Return the points of these thresholds, (n_points, n_exits, n_groups)."""
    totals = [problem.totals(each) for each in thresholds]
    loss, cost = np.reshape(totals, (-1, 2)).T
    return Points(loss, cost, np.asarray(thresholds))


def used_exits(problem: ThresholdProblem, points: Points) -> NDArray[np.intp]:
    """Return the exits at which somebody leaves at some of the points.

    Others may be open where nobody comes to them.
    """
    stages = [np.unique(problem.exits(each)) for each in points.thresholds]
    return np.setdiff1d(np.concatenate(stages), [problem.n_exits])


def search(
    problem: ThresholdProblem,
    starts: Sequence[Floats],
    rng: np.random.RandomState,
    verbose: int = 0,
) -> Points:
    """Return the best thresholds found for every cost: the Pareto set.

    Among the candidates are all thresholds that the exits can share, and the random
    ones of arXiv 2103.01148, section IV.

    Parameters
    ----------
    problem : ThresholdProblem
        What thresholds lose and cost on the samples held out.

    starts : sequence of ndarray of shape (n_exits, n_groups)
        Further thresholds to start from.

    rng : RandomState
        Draws the random ones.

    verbose : int, default=0
        Whether to draw a progress bar.
    """
    single = problem.in_groups(1)
    if problem.n_exits == 0:
        return evaluate(problem, np.empty((1, 0, problem.n_groups)))
    found = pareto(
        evaluate(single, at_one_exit(problem.n_exits)),
        shared(single),
        evaluate(single, draws(single, N_DRAWS, rng)),
    )
    found = _improve(single, found, verbose)
    if problem.n_groups > 1:
        found = pareto(found.in_groups(problem.n_groups), evaluate(problem, starts))
        found = _improve(problem, found, verbose)
    return found


def at_one_exit(n_exits: int) -> Floats:
    """Return thresholds that let all leave at one and the same stage."""
    thresholds = np.full((n_exits + 1, n_exits, 1), np.inf)
    np.fill_diagonal(thresholds[:, :, 0], 0.0)
    return thresholds


def draws(
    problem: ThresholdProblem, n_draws: int, rng: np.random.RandomState
) -> Floats:
    """Draw thresholds between the least and the largest confidence of each exit."""
    low, high = problem.confidence.min(axis=1), problem.confidence.max(axis=1)
    drawn: Floats = rng.uniform(low, high, size=(n_draws, problem.n_exits))
    return drawn[:, :, None]


def shared(
    problem: ThresholdProblem, is_open: NDArray[np.bool_] | None = None
) -> Points:
    """Return the Pareto set of one threshold for all exits that are open: all, or some.

    `is_open` has the shape (n_exits,).
    """
    n_exits, n = problem.confidence.shape
    if n_exits == 0:
        return evaluate(problem, np.empty((1, 0, 1)))
    if is_open is None:
        is_open = np.ones(n_exits, dtype=bool)
    everyone = np.arange(n)
    costs = problem.stage_cost(np.where(is_open, 0.0, np.inf)[:, None])
    at = np.stack([problem.leaving[0], costs[:, None] * problem.weight])
    # As the threshold falls, a sample moves from one record of its confidence to the
    # record before.
    at_open = np.where(is_open[:, None], problem.confidence, -np.inf)
    highest = np.maximum.accumulate(at_open, axis=0)
    stage = np.full(n, n_exits)
    passed, changes = [], []
    first, *others = np.flatnonzero(is_open).tolist()
    for exit_ in [*reversed(others), first]:
        rows = everyone
        if exit_ > first:
            rows = np.flatnonzero(highest[exit_] > highest[exit_ - 1])
        passed.append(problem.confidence[exit_, rows])
        changes.append(at[:, exit_, rows] - at[:, stage[rows], rows])
        stage[rows] = exit_
    confidence = np.concatenate(passed)
    order = (-confidence).argsort()
    threshold, possible = _between(confidence[order])
    nobody = at[:, n_exits].sum(axis=1, keepdims=True)
    changed = np.concatenate(changes, axis=1)[:, order].cumsum(axis=1)[:, possible]
    loss, cost = nobody + changed
    threshold = threshold[possible]
    best = undominated(loss, cost)
    wide = np.where(is_open, threshold[best, None], np.inf)[:, :, None]
    return Points(loss[best], cost[best], wide)


def _between(confidence: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return thresholds below each of some falling confidences, and which differ.

    They lie midway to the next, so that rounding decides nothing. Below the last, 0:
    whoever comes leaves.
    """
    following = np.append(confidence[1:], -confidence[-1:])
    middle = (confidence + following) / 2
    # Between neighbouring floats there is no middle.
    threshold = np.where(middle > following, middle, confidence)
    return threshold, confidence > following


@dataclass(frozen=True)
class Candidates:
    """Candidate thresholds of one exit, one for each distinct set of exiting samples.

    Parameters
    ----------
    group : ndarray of shape (n_candidates,)
        Whose threshold; the groups follow each other.

    threshold : ndarray of shape (n_candidates,)
        In falling order within a group.

    saved : ndarray of shape (2, n_candidates)
        Loss and cost saved if the samples of the group that reach the threshold
        leave here.
    """

    group: NDArray[np.intp]
    threshold: Floats
    saved: Floats

    def best(self, worth: Floats, fee: float, n_groups: int) -> Floats:
        """Return the best threshold of each group, if they earn the exit's fee."""
        thresholds = np.full(n_groups, np.inf)
        gains = worth @ self.saved
        earned = 0.0
        for part in _runs(self.group):
            best = part.start + int(gains[part].argmax())
            if gains[best] > 0:
                thresholds[self.group[best]] = self.threshold[best]
                earned += gains[best]
        return thresholds if earned > fee else np.full(n_groups, np.inf)


def _runs(group: NDArray[np.intp]) -> list[slice]:
    """Return where equal values follow each other."""
    bounds = np.flatnonzero(np.diff(group, prepend=-1, append=-1))
    return [slice(*pair) for pair in pairwise(bounds.tolist())]


def candidates_of(
    problem: ThresholdProblem, exit_: int, reached: NDArray[np.bool_], after: Floats
) -> Candidates:
    """Return the candidates of an exit, given who reaches it and what comes after."""
    order = problem.order[exit_]
    rows = order[reached[order]]
    group = problem.group[exit_, rows]
    confidence = problem.confidence[exit_, rows]
    saved = problem.saved(exit_, rows, after)
    threshold = np.empty(len(rows))
    possible = np.empty(len(rows), dtype=bool)
    for part in _runs(group):
        saved[:, part] = saved[:, part].cumsum(axis=1)
        threshold[part], possible[part] = _between(confidence[part])
    return Candidates(group[possible], threshold[possible], saved[:, possible])


def sweep(problem: ThresholdProblem, thresholds: Floats, price: float) -> Floats:
    """Improve one exit after the other until loss + price * cost falls no more."""
    worth = np.array([1.0, price])
    value = worth @ problem.totals(thresholds)
    for _ in range(_MOST_SWEEPS):
        better = _sweep_once(problem, thresholds, worth)
        before, value = value, worth @ problem.totals(better)
        if value >= before - _ROUNDING:
            break
        thresholds = better
    return thresholds


def _sweep_once(problem: ThresholdProblem, thresholds: Floats, worth: Floats) -> Floats:
    thresholds = thresholds.copy()
    reached = problem.reached(thresholds)
    after = problem.to_go_after(problem.n_exits - 1, thresholds)
    # From the last exit to the first: what comes later is known by then.
    for exit_ in reversed(range(problem.n_exits)):
        candidates = candidates_of(problem, exit_, reached[exit_], after)
        fee = worth[1] * problem.fee(exit_, reached, thresholds)
        thresholds[exit_] = candidates.best(worth, fee, problem.n_groups)
        after = problem.to_go_before(exit_, thresholds, after)
    return thresholds


def _improve(problem: ThresholdProblem, found: Points, verbose: int) -> Points:
    """Sweep at every price, join what neighbouring prices give, vary the best."""
    ends: list[Floats] = []
    for price in shown(
        _PRICES.tolist(),
        len(_PRICES),
        verbose=verbose,
        what="thresholds",
        unit="prices",
        n_of=lambda _: 1,
    ):
        starts = [found.best(price), *ends[-1:]]
        swept = evaluate(problem, [sweep(problem, each, price) for each in starts])
        ends.append(swept.best(price))
    found = pareto(found, evaluate(problem, ends))
    for start, end in pairwise(ends):
        for way in (join(problem, start, end), join(problem, end, start)):
            found = pareto(found, *way)
    for thresholds in found.spread(_MOST_VARIED).thresholds:
        ways = [vary(problem, thresholds, e) for e in range(problem.n_exits)]
        found = pareto(found, *ways)
    return found


def join(problem: ThresholdProblem, start: Floats, end: Floats) -> Iterator[Points]:
    """Move from start to end one exit at a time, past all of that exit's candidates.

    Prices alone find only points on the convex hull.
    """
    here = start.copy()
    for exit_ in np.flatnonzero((start != end).any(axis=1)).tolist():
        yield vary(problem, here, exit_)
        here[exit_] = end[exit_]


def vary(problem: ThresholdProblem, thresholds: Floats, exit_: int) -> Points:
    """Return the Pareto set of one change at one exit: any candidate, or closing it."""
    closed = thresholds.copy()
    closed[exit_] = np.inf
    without = evaluate(problem, closed[None])
    after = problem.to_go_after(exit_, thresholds)
    reached = problem.reached(thresholds)
    candidates = candidates_of(problem, exit_, reached[exit_], after)
    leave = reached[exit_] & problem.leaves_at(exit_, thresholds)
    saved = problem.saved(exit_, leave, after)
    group = problem.group[exit_, leave]
    now = np.stack([np.bincount(group, s, problem.n_groups) for s in saved])
    others = now.sum(axis=1, keepdims=True) - now
    loss, cost = -(others[:, candidates.group] + candidates.saved)
    fee = problem.fee(exit_, reached, thresholds)
    loss, cost = loss + without.loss, cost + without.cost + fee
    best = undominated(loss, cost)
    changed = np.repeat(thresholds[None], len(best), axis=0)
    changed[np.arange(len(best)), exit_, candidates.group[best]] = candidates.threshold[
        best
    ]
    return pareto(Points(loss[best], cost[best], changed), without)
