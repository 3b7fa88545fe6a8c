"""Thresholds as an input of a graph, and who stays by them."""

from __future__ import annotations

import numpy as np

from .._multi_exit._thresholds import is_closed
from .._utils._arrays import Floats
from ._graph import Scope, Type


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
        self._shape = len(fitted), n_classes
        self.closed = is_closed(fitted)

    @property
    def inputs(self) -> list[tuple[str, Type]]:
        """The inputs of the graph: none if the network has no exits."""
        of_input = Type(np.dtype(np.float64), (len(self._fitted), "n_thresholds"))
        return [("thresholds", of_input)] if len(self._fitted) else []

    @property
    def defaults(self) -> dict[str, Floats]:
        """The values that inputs have if they are not given."""
        return {"thresholds": self._fitted} if len(self._fitted) else {}

    def read(self, scope: Scope) -> str:
        """Return one threshold for each exit and class."""
        if not len(self._fitted):
            return ""
        # onnxruntime names the operation that fails where they have another shape.
        message = f"thresholds must have shape ({self._shape[0]}, 1) or {self._shape}"
        shape = scope.constant(self._shape)
        return scope.op("Expand", "thresholds", shape, name=message)


def is_open(scope: Scope, needed: str) -> str:
    """Tell whether any of the thresholds of an exit is finite."""
    lowest = scope.op("ReduceMin", needed, keepdims=0)
    return scope.op("Less", lowest, scope.constant(np.inf))


def stays(scope: Scope, proba: str, needed: str) -> str:
    """Tell which samples are not confident enough to leave; NaN leaves.

    Parameters
    ----------
    scope : Scope
        Where this is computed.

    proba : str
        The probabilities at an exit.

    needed : str
        Its threshold for each class.
    """
    confidence = scope.op("ReduceMax", proba, scope.constant([1]), keepdims=0)
    column = scope.op("ArgMax", proba, axis=1, keepdims=0)
    return scope.op("Less", confidence, scope.op("Gather", needed, column))
