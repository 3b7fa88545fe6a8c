"""What comes of each sample at each stage, and how it adds up under thresholds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .._multi_exit._loop import open_steps
from .._utils._arrays import Floats


class Answers:
    """What every stage says of some samples: a class, and how sure it is.

    Parameters
    ----------
    n_stages, n_samples, n_classes : int
        How many there are.

    Attributes
    ----------
    confidence, label : ndarray of shape (n_stages, n_samples)
        The largest probability, and whose it is.

    class_proba : ndarray of shape (n_classes, n_classes)
        Sum of the exits' probabilities over the samples of each class.
    """

    def __init__(self, n_stages: int, n_samples: int, n_classes: int) -> None:
        self.confidence = np.empty((n_stages, n_samples))
        self.label = np.empty((n_stages, n_samples), dtype=np.intp)
        self.class_proba = np.zeros((n_classes, n_classes))

    def add(
        self,
        stage: int,
        proba: Floats,
        codes: NDArray[np.intp],
        rows: slice = slice(None),
    ) -> None:
        """Add the probabilities of a stage for samples of these classes."""
        label = proba.argmax(axis=1)
        self.label[stage, rows] = label
        self.confidence[stage, rows] = proba[np.arange(len(proba)), label]
        if stage < len(self.label) - 1:
            for k in np.unique(codes):
                self.class_proba[k] += proba[codes == k].sum(axis=0)


@dataclass(frozen=True)
class Outcomes:
    """What comes of each sample at each stage, nobody leaving.

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

    step_cost, exit_cost : ndarray of shape (n_exits + 1,)
        Cost of computing each stage after the one before, and of asking its exit.

    n_groups : int, default=1
        Thresholds for each exit: one, or one for each class.
    """

    confidence: Floats
    label: NDArray[np.intp]
    loss: Floats
    weight: Floats
    step_cost: Floats
    exit_cost: Floats
    n_groups: int = 1

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
        """Weighted loss, and no more cost, for who leaves: (2, n_stages, n)."""
        loss = self.loss * self.weight
        return np.stack([loss, np.zeros_like(loss)])

    def in_groups(self, n_groups: int) -> Outcomes:
        """Return the same with another number of thresholds for each exit."""
        return replace(self, n_groups=n_groups)

    def leaves(self, thresholds: Floats) -> NDArray[np.bool_]:
        """Tell who is confident at each exit, shape (n_exits, n_samples)."""
        if self.n_groups == 1:
            return self.confidence >= thresholds
        return self.confidence >= np.take_along_axis(thresholds, self.group, axis=1)

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
        return np.cumsum(open_steps(self.step_cost, self.exit_cost, thresholds))

    def totals(self, thresholds: Floats) -> Floats:
        """Return the mean loss and the mean cost."""
        stage = self.exits(thresholds)
        loss = self.leaving[0, stage, np.arange(len(stage))].sum()
        cost = self.weight @ self.stage_cost(thresholds)[stage]
        return np.array([loss, cost])

    def after(self, exit_: int, thresholds: Floats) -> Floats:
        """Return loss and cost to come for who does not leave here, (2, n)."""
        to_come = self.enter(self.n_exits, thresholds, self.leaving[:, -1])
        for later in reversed(range(exit_ + 1, self.n_exits)):
            to_come = self.meet(later, thresholds, to_come)
        return to_come

    def meet(self, exit_: int, thresholds: Floats, after: Floats) -> Floats:
        """Return loss and cost to come before a stage, from those after its exit."""
        needed = thresholds[exit_, self.group[exit_]]
        leaves = self.confidence[exit_] >= needed
        to_come = np.where(leaves, self.leaving[:, exit_], after)
        return self.enter(exit_, thresholds, to_come)

    def enter(self, stage: int, thresholds: Floats, to_come: Floats) -> Floats:
        """Add what computing a stage costs, and asking its exit if it is open."""
        cost = open_steps(self.step_cost, self.exit_cost, thresholds)[stage]
        return np.stack([to_come[0], to_come[1] + cost * self.weight])
