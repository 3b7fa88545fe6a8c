"""What a sample pays for, up to where it exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import Floats
from ._thresholds import is_closed


@dataclass(frozen=True)
class Costs:
    """What each stage adds to the cost of a sample, and what running its head adds.

    In fractions of the full network's cost.

    Parameters
    ----------
    stages, heads : ndarray of shape (n_exits + 1,)
        The last head always runs, the others only at open exits.

    going_on : ndarray of shape (n_exits + 1,), or 0.0
        What a sample pays that stays at an open exit: being copied costs time.

    unit : str, default="multiply-adds"
        Of what these are fractions: of the network's multiply-adds, or of its time.

    poolings : ndarray of shape (n_exits + 1,), or 0.0
        What pooling each stage's output adds, if that is not in `heads`. It is paid
        where the head runs, or a later one that carries the features.

    carried : sequence of tuple of int, default=()
        For each head the earlier stages whose features it carries; none by default.
    """

    stages: Floats
    heads: Floats
    going_on: Floats | float = 0.0
    unit: str = "multiply-adds"
    poolings: Floats | float = 0.0
    carried: Sequence[tuple[int, ...]] = ()

    def opening(self, exit_: int, thresholds: Floats) -> Floats:
        """Return what an open exit adds where nobody leaves, shape (n_exits + 1,).

        To the cost of a sample at each stage that it comes to; `thresholds` say which
        of the other exits are open.
        """
        with_, without = thresholds.copy(), thresholds.copy()
        with_[exit_], without[exit_] = 0.0, np.inf
        more = self.added(with_) - self.added(without)
        more[exit_] += self.of_staying(exit_)
        return more

    def of_staying(self, exit_: int) -> float:
        """Return what staying at an open exit costs, its head apart."""
        going_on = self.going_on
        return going_on if isinstance(going_on, float) else float(going_on[exit_])

    @classmethod
    def from_counts(
        cls,
        cumulative: Floats,
        heads: Floats,
        poolings: Floats | float = 0.0,
        carried: Sequence[tuple[int, ...]] = (),
    ) -> Self:
        """Divide by what the full network takes or, without a network, the heads.

        Parameters
        ----------
        cumulative : ndarray of shape (n_exits + 1,)
            From the input to the end of each stage.

        heads : ndarray of shape (n_exits + 1,)
            Of each head, in the same unit.

        poolings, carried
            Likewise, see above.
        """
        stages = np.diff(cumulative, prepend=0.0)
        whole = cumulative[-1] or (heads + poolings).sum()
        if whole == 0:  # nothing is counted, so that no exit saves anything
            stages, whole = np.append(1.0, np.zeros(len(stages) - 1)), 1.0
        return cls(
            stages / whole, heads / whole, poolings=poolings / whole, carried=carried
        )

    def added(self, thresholds: Floats) -> Floats:
        """Return what each stage, its pooling and its head add, shape (n_exits + 1,).

        The head of a closed exit does not run, and costs nothing. Its pooling does
        if an open exit carries its features.

        Parameters
        ----------
        thresholds : ndarray of shape (n_exits, n_groups)
            Which exits are open.
        """
        runs = np.append(~is_closed(thresholds), True)
        return self.stages + runs * self.heads + self._pooled(runs) * self.poolings

    def _pooled(self, runs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which stages' features are needed, given which heads run."""
        if not self.carried:
            return runs
        pooled = runs.copy()
        for head in np.flatnonzero(runs).tolist():
            pooled[list(self.carried[head])] = True
        return pooled

    def of_exits(self, exits: NDArray[np.intp]) -> Costs:
        """Return the costs if all exits but these are closed for ever.

        Parameters
        ----------
        exits : ndarray of shape (n_kept,)
            In ascending order; the last stage is not among them.
        """
        kept = np.append(exits, len(self.stages) - 1)

        def of(each: Any) -> Any:
            return each if isinstance(each, float) else each[kept]

        ends = np.cumsum(self.stages)[kept]
        place = {int(stage): i for i, stage in enumerate(kept)}
        carried: list[tuple[int, ...]] = []
        if self.carried:
            carried = [tuple(place[s] for s in self.carried[k]) for k in place]
        return replace(
            self,
            stages=np.diff(ends, prepend=0.0),
            heads=self.heads[kept],
            going_on=of(self.going_on),
            poolings=of(self.poolings),
            carried=carried,
        )

    def cumulative(self, thresholds: Floats) -> Floats:
        """Return the cost of a sample that exits at each stage, (n_exits + 1,).

        It pays for every open exit up to the one it takes, so that the last may
        exceed 1.
        """
        staying = (
            ~is_closed(thresholds)
            * np.broadcast_to(self.going_on, len(self.stages))[:-1]
        )
        return np.cumsum(self.added(thresholds) + np.append(0.0, staying))
