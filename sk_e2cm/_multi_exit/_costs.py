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

    unit : str, default="multiply-adds"
        Of what these are fractions: of the network's multiply-adds, or of its time.
    """

    stages: Floats
    heads: Floats
    unit: str = "multiply-adds"

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
        """Return what each stage adds under these thresholds, shape (n_exits + 1,).

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
        return np.cumsum(self.added(thresholds))
