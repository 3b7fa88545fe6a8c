"""Thresholds as an input of a graph, and who stays by them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._utils._arrays import Floats
from ._graph import Scope, Type


@dataclass(frozen=True)
class Threshold:
    """Of one exit.

    Parameters
    ----------
    needed : str
        One for each class.

    is_open : str
        Whether any of them is finite.
    """

    needed: str
    is_open: str

    def stays(self, scope: Scope, proba: str) -> str:
        """Tell which samples are not confident enough to leave; NaN leaves."""
        confidence = scope.op("ReduceMax", proba, scope.constant([1]), keepdims=0)
        column = scope.op("ArgMax", proba, axis=1, keepdims=0)
        needed = scope.op("Gather", self.needed, column)
        return scope.op("Less", confidence, needed)


class Thresholds:
    """The input named thresholds, which has the fitted ones by default.

    Parameters
    ----------
    fitted : ndarray of shape (n_exits, 1) or (n_exits, n_classes)
        Those.

    n_classes : int
        How many there may be for each exit, if not one.
    """

    def __init__(self, fitted: Floats, n_classes: int) -> None:
        self._fitted = fitted
        self._n_exits = len(fitted)
        self._n_classes = n_classes

    @property
    def inputs(self) -> list[tuple[str, Type]]:
        """The inputs of the graph: none if the network has no exits."""
        shape = (self._n_exits, "n_thresholds")
        of_input = Type(np.dtype(np.float64), shape)
        return [("thresholds", of_input)] if self._n_exits else []

    @property
    def defaults(self) -> dict[str, Floats]:
        return {"thresholds": self._fitted} if self._n_exits else {}

    def read(self, scope: Scope) -> list[Threshold]:
        """Return those of each exit."""
        if not self._n_exits:
            return []
        shape = (self._n_exits, self._n_classes)
        # onnxruntime names the operation that fails where they have another shape.
        message = f"thresholds must have shape ({shape[0]}, 1) or {shape}"
        everything = scope.op(
            "Expand", "thresholds", scope.constant(shape), name=message
        )
        infinity = scope.constant(np.inf)
        found = []
        for exit_ in range(self._n_exits):
            needed = scope.op("Gather", everything, scope.constant(exit_), axis=0)
            lowest = scope.op("ReduceMin", needed, keepdims=0)
            found.append(Threshold(needed, scope.op("Less", lowest, infinity)))
        return found
