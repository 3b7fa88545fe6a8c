"""The problem of choosing thresholds: losses, costs, and how they add up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._multi_exit._costs import Costs
from .._multi_exit._thresholds import is_closed, stays
from .._utils._arrays import Floats


@dataclass(frozen=True)
class ThresholdProblem:
    """Losses and costs of samples at every stage, to be traded by thresholds.

    Parameters
    ----------
    confidence : ndarray of shape (n_exits, n_samples)
        Largest probability at each exit.

    label : ndarray of shape (n_exits + 1, n_samples)
        The most probable class at each stage.

    loss : ndarray of shape (n_exits + 1, n_samples)
        Loss of a sample that leaves at each stage.

    weight : ndarray of shape (n_samples,)
        Weights that sum to 1.

    costs : Costs
        Of the stages, and of running their heads.

    n_groups : int, default=1
        Thresholds for each exit: one, or one for each class.
    """

    confidence: Floats
    label: NDArray[np.intp]
    loss: Floats
    weight: Floats
    costs: Costs
    n_groups: int = 1

    @classmethod
    def from_proba(
        cls, codes: NDArray[np.intp], proba: Floats, stage_cost: Floats
    ) -> Self:
        """Return the problem of errors against cost, all samples weighted equally.

        Parameters
        ----------
        codes : ndarray of shape (n_samples,)
            True classes.

        proba : ndarray of shape (n_samples, n_exits + 1, n_classes)
            Of all stages, nobody leaving.

        stage_cost : ndarray of shape (n_exits + 1,)
            Of exiting at each stage, whichever exits are open.
        """
        n_samples, n_stages, _ = proba.shape
        label = proba.argmax(axis=2).T
        return cls(
            confidence=proba.max(axis=2).T[:-1],
            label=label,
            loss=(label != codes).astype(np.float64),
            weight=np.full(n_samples, 1.0 / n_samples),
            costs=Costs(np.diff(stage_cost, prepend=0.0), np.zeros(n_stages)),
        )

    @property
    def n_exits(self) -> int:
        """Number of exits."""
        return len(self.confidence)

    @cached_property
    def group(self) -> NDArray[np.intp]:
        """Which of its thresholds each exit compares a sample with."""
        label = self.label[:-1]
        return np.zeros_like(label) if self.n_groups == 1 else label

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Samples at each exit by group, the most confident first."""
        order = np.empty(self.confidence.shape, dtype=np.intp)
        for exit_, confidence in enumerate(self.confidence):
            order[exit_] = np.lexsort((-confidence, self.group[exit_]))
        return order

    @cached_property
    def leaving(self) -> Floats:
        """Weighted loss and further cost, zero, of a sample that exits at each stage.

        Shape (2, n_stages, n_samples).
        """
        loss = self.loss * self.weight
        return np.stack([loss, np.zeros_like(loss)])

    def in_groups(self, n_groups: int) -> ThresholdProblem:
        """Return the same with another number of thresholds for each exit."""
        return replace(self, n_groups=n_groups)

    def of_exits(self, exits: NDArray[np.intp]) -> ThresholdProblem:
        """Return the problem if all exits but these are closed for ever."""
        stages = np.append(exits, self.n_exits)
        return replace(
            self,
            confidence=self.confidence[exits],
            label=self.label[stages],
            loss=self.loss[stages],
            costs=self.costs.of_exits(exits),
        )

    def leaves(self, thresholds: Floats) -> NDArray[np.bool_]:
        """Tell who is confident at each exit, shape (n_exits, n_samples)."""
        leaves = np.empty(self.confidence.shape, dtype=bool)
        for exit_ in range(self.n_exits):
            leaves[exit_] = self.leaves_at(exit_, thresholds)
        return leaves

    def leaves_at(self, exit_: int, thresholds: Floats) -> NDArray[np.bool_]:
        """Tell who is confident at one exit, shape (n_samples,)."""
        here = self.confidence[exit_], self.group[exit_]
        return ~stays(*here, thresholds[exit_])

    def reached(self, thresholds: Floats) -> NDArray[np.bool_]:
        """Tell who comes to each stage, shape (n_exits + 1, n_samples)."""
        reached = np.ones((self.n_exits + 1, len(self.weight)), dtype=bool)
        np.logical_and.accumulate(~self.leaves(thresholds), axis=0, out=reached[1:])
        return reached

    def exits(self, thresholds: Floats) -> NDArray[np.intp]:
        """Return the stage at which each sample leaves."""
        return self.reached(thresholds).sum(axis=0) - 1

    def labels(self, thresholds: Floats) -> NDArray[np.intp]:
        """Return the class that each sample leaves with."""
        stage = self.exits(thresholds)
        return self.label[stage, np.arange(len(stage))]

    def stage_cost(self, thresholds: Floats) -> Floats:
        """Return what a sample costs that leaves at each stage."""
        return self.costs.cumulative(thresholds)

    def totals(self, thresholds: Floats) -> Floats:
        """Return the mean loss and the mean cost."""
        stage = self.exits(thresholds)
        loss = self.leaving[0, stage, np.arange(len(stage))].sum()
        cost = self.weight @ self.stage_cost(thresholds)[stage]
        return np.array([loss, cost])

    def to_go_after(self, exit_: int, thresholds: Floats) -> Floats:
        """Return loss and cost to go of a sample that does not leave here, (2, n)."""
        last = self.leaving[:, -1]
        to_go = self._to_go_before_stage(self.n_exits, thresholds, last)
        for later in reversed(range(exit_ + 1, self.n_exits)):
            to_go = self.to_go_before(later, thresholds, to_go)
        return to_go

    def to_go_before(self, exit_: int, thresholds: Floats, after: Floats) -> Floats:
        """Return loss and cost to go before a stage, from those after its exit."""
        leaves = self.leaves_at(exit_, thresholds)
        is_open = not is_closed(thresholds)[exit_]
        staying = self._after_staying(exit_, after) if is_open else after
        to_go = np.where(leaves, self.leaving[:, exit_], staying)
        return self._to_go_before_stage(exit_, thresholds, to_go)

    def saved(self, exit_: int, rows: NDArray[Any], after: Floats) -> Floats:
        """Return what samples save that leave at an open exit, (2, n_rows).

        `rows` tells which, and `after` is what all have to go if they stay.
        """
        staying = self._after_staying(exit_, after)
        difference: Floats = staying[:, rows] - self.leaving[:, exit_, rows]
        return difference

    def _after_staying(self, exit_: int, after: Floats) -> Floats:
        """Return loss and cost to go of a sample that stays at an open exit, (2, n)."""
        cost = self.costs.of_staying(exit_) * self.weight
        return np.stack([after[0], after[1] + cost])

    def fee(self, exit_: int, reached: NDArray[np.bool_], thresholds: Floats) -> float:
        """Return what an open exit costs if all who reach it stay.

        `reached` tells who comes to each stage, (n_exits + 1, n_samples), and
        `thresholds` which of the others are open.
        """
        opening = self.costs.opening(exit_, thresholds)
        stages = np.flatnonzero(opening)
        return float(opening[stages] @ (reached[stages] @ self.weight))

    def _to_go_before_stage(
        self, stage: int, thresholds: Floats, to_go: Floats
    ) -> Floats:
        """Add what computing a stage costs, and its head if the exit is open."""
        cost = self.costs.added(thresholds)[stage]
        return np.stack([to_go[0], to_go[1] + cost * self.weight])


def check_has_labels(scoring: Any, has_labels: bool) -> None:
    """Refuse scores that need labels where there are none.

    Raises
    ------
    ValueError
        If it is so.
    """
    if not has_labels and scoring != "accuracy":
        raise ValueError(
            f"scoring={scoring!r} needs labels: without y, and for clusters, use "
            "scoring='accuracy', which is agreement with the full network."
        )


def class_weights(
    scoring: Any, codes: NDArray[np.intp], weight: Floats, n_classes: int
) -> Floats:
    """Return the loss where a sample of each class is answered wrong.

    One less the weighted mean of such losses is the accuracy, or the balanced accuracy.
    Any other score is optimised by way of the accuracy.
    """
    if scoring != "balanced_accuracy":
        return np.ones(n_classes)
    share = np.bincount(codes, weight, n_classes) / weight.sum()
    found = np.zeros(n_classes)
    np.divide(1.0, np.count_nonzero(share) * share, out=found, where=share > 0)
    return found


def sample_losses(
    scoring: Any, label: NDArray[np.intp], codes: NDArray[np.intp], weight: Floats
) -> Floats:
    """Return the loss of each sample at each stage, (n_stages, n_samples).

    See `class_weights`.
    """
    n_classes = int(codes.max()) + 1
    wrong = (label != codes).astype(np.float64)
    return wrong * class_weights(scoring, codes, weight, n_classes)[codes]
