"""What a sample pays for, up to where it exits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

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
    """

    stages: Floats
    heads: Floats
    going_on: Floats | float = 0.0
    unit: str = "multiply-adds"

    def fee(self, exit_: int) -> float:
        """Return what an open exit adds to the cost of a sample that stays there."""
        return float(self.heads[exit_]) + self.of_staying(exit_)

    def of_staying(self, exit_: int) -> float:
        """Return what staying at an open exit costs, its head apart."""
        going_on = self.going_on
        return going_on if isinstance(going_on, float) else float(going_on[exit_])

    @classmethod
    def from_counts(cls, cumulative: Floats, heads: Floats) -> Self:
        """Divide by what the full network takes or, without a network, the heads.

        Parameters
        ----------
        cumulative : ndarray of shape (n_exits + 1,)
            From the input to the end of each stage.

        heads : ndarray of shape (n_exits + 1,)
            Of each head, in the same unit.
        """
        stages = np.diff(cumulative, prepend=0.0)
        whole = cumulative[-1] or heads.sum()
        if whole == 0:  # nothing is counted, so that no exit saves anything
            return cls(np.append(1.0, np.zeros(len(stages) - 1)), heads)
        return cls(stages / whole, heads / whole)

    def added(self, thresholds: Floats) -> Floats:
        """Return what each stage and its head add, shape (n_exits + 1,).

        The head of a closed exit does not run, and costs nothing.

        Parameters
        ----------
        thresholds : ndarray of shape (n_exits, n_groups)
            Which exits are open.
        """
        runs = np.append(~is_closed(thresholds), True)
        return self.stages + runs * self.heads

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
