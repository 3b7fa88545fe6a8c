"""One graph in which samples leave: later stages run inside branches of earlier ones.

If any sample stays, its rows are taken, the next stage runs, and the results are put
back. The first stage is in a branch, too, so that nothing is computed of no samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto

from ._calls import called, probabilities
from ._graph import Scope, Type
from ._stages import ExportedStage, Value, needed_from
from ._thresholds import Thresholds, is_open, stays

_INTEGERS = np.dtype(np.int64)
_FLOATS = np.dtype(np.float64)


def one_graph(
    stages: Sequence[ExportedStage], thresholds: Thresholds, labels: np.ndarray
) -> GraphProto:
    """Return a graph from samples and thresholds to labels, probabilities and exits.

    Parameters
    ----------
    stages : sequence of ExportedStage
        All stages.

    thresholds : Thresholds
        The input for these.

    labels : ndarray of shape (n_classes,)
        What the columns of the probabilities stand for.
    """
    scope = Scope()
    (X,) = stages[0].takes
    nest = _Nest(stages, thresholds.read(scope), thresholds.closed, len(labels))
    found = nest.enter_first(scope, _n_samples(scope, X))
    last = scope.constant(len(labels))
    columns = scope.constant(np.arange(len(labels)))
    proba = scope.op("Gather", found, columns, axis=1)
    exit_ = scope.op(
        "Cast", scope.op("Gather", found, last, axis=1), to=TensorProto.INT64
    )
    column = scope.op("ArgMax", proba, axis=1, keepdims=0)
    label = scope.op("Gather", scope.constant(labels), column)
    outputs = [
        (scope.named(label, "label"), Type(labels.dtype, ("n_samples",))),
        (
            scope.named(proba, "probabilities"),
            Type(_FLOATS, ("n_samples", len(labels))),
        ),
        (scope.named(exit_, "exit"), Type(_INTEGERS, ("n_samples",))),
    ]
    inputs = [("X", X.type), *thresholds.inputs]
    return scope.graph("early_exits", inputs, outputs, thresholds.defaults)


class _Nest:
    """Puts stages into branches.

    What samples leave with is one value: their probabilities and, in a last column, the
    stage. Each operation costs about as much as a small layer for one sample, and so
    there are to be few.

    Parameters
    ----------
    stages : sequence of ExportedStage
        All stages.

    thresholds : str
        One for each exit and class.

    closed : ndarray of bool, shape (n_exits,)
        Which exits are closed by default. Their heads run only where other thresholds
        open them; the others always do.

    n_classes : int
        Number of columns of the probabilities.
    """

    def __init__(
        self,
        stages: Sequence[ExportedStage],
        thresholds: str,
        closed: NDArray[np.bool_],
        n_classes: int,
    ) -> None:
        self._stages = stages
        self._thresholds = thresholds
        self._closed = closed
        self._n_classes = n_classes
        self._of_result = Type(_FLOATS, (None, n_classes + 1))

    def enter_first(self, scope: Scope, n_samples: str) -> str:
        """Run all stages if there are samples; return what these leave with."""
        inside, outside = scope.branch(), scope.branch()
        found = self._run(inside, 0, {"X": "X"}, n_samples)
        # Of constants without samples OpenVINO does not know the number of axes.
        shape = outside.constant([0, self._n_classes + 1])
        nothing = outside.op("Expand", outside.constant([[0.0]]), shape)
        is_any = scope.op("Greater", n_samples, scope.constant(0))
        return scope.choose(
            is_any, (inside, found), (outside, nothing), self._of_result
        )

    def _run(
        self, scope: Scope, i: int, state: Mapping[str, str], n_samples: str
    ) -> str:
        """Run a stage and those after it, for samples that are there."""
        stage = self._stages[i]
        state = {**state, **called(scope, stage, state)}
        if i == len(self._closed):
            return _at(scope, probabilities(scope, stage, state), stage.number)
        needed = scope.op("Gather", self._thresholds, scope.constant(i), axis=0)
        if self._closed[i]:
            proba = self._proba_if_open(scope, stage, state, needed, n_samples)
        else:
            proba = probabilities(scope, stage, state)
        # Which samples go on, as a column.
        rows = scope.op("Transpose", scope.op("NonZero", stays(scope, proba, needed)))
        return self._go_on(scope, i + 1, state, rows, _at(scope, proba, stage.number))

    def _go_on(
        self, scope: Scope, i: int, state: Mapping[str, str], rows: str, left: str
    ) -> str:
        """Run stage `i` for the samples that stay, if there are any."""
        n_stay = scope.op("Size", rows)
        inside, outside = scope.branch(), scope.branch()
        kept = {
            value.name: _of_rows(inside, state[value.name], rows, value)
            for value in needed_from(self._stages, i)
        }
        found = self._run(inside, i, kept, n_stay)
        put_back = inside.op("ScatterND", left, rows, found)
        same = outside.op("Identity", left)
        is_any = scope.op("Greater", n_stay, scope.constant(0))
        return scope.choose(
            is_any, (inside, put_back), (outside, same), self._of_result
        )

    def _proba_if_open(
        self,
        scope: Scope,
        stage: ExportedStage,
        state: Mapping[str, str],
        needed: str,
        n_samples: str,
    ) -> str:
        """Return the probabilities at an exit; zeros if it is closed."""
        inside, outside = scope.branch(), scope.branch()
        proba = probabilities(inside, stage, state)
        length = outside.op("Reshape", n_samples, outside.constant([1]))
        n_classes = outside.constant([self._n_classes])
        shape = outside.op("Concat", length, n_classes, axis=0)
        zeros = outside.op("Expand", outside.constant(0.0), shape)
        of_proba = Type(_FLOATS, (None, self._n_classes))
        condition = is_open(scope, needed)
        return scope.choose(condition, (inside, proba), (outside, zeros), of_proba)


def _at(scope: Scope, proba: str, number: int) -> str:
    """Return probabilities with a further column: the number of the stage."""
    pads, value = scope.constant([0, 0, 0, 1]), scope.constant(float(number))
    return scope.op("Pad", proba, pads, value)


def _n_samples(scope: Scope, value: Value) -> str:
    shape = scope.op("Shape", value.name)
    return scope.op("Gather", shape, scope.constant(value.rows.axis))


def _of_rows(scope: Scope, taken: str, rows: str, value: Value) -> str:
    """Take the entries of some samples; `rows` is a column."""
    axis, n_each = value.rows.axis, value.rows.per_sample
    if (axis, n_each) == (0, 1):
        return scope.op("GatherND", taken, rows)
    first = scope.op("Mul", rows, scope.constant(n_each))
    each = scope.op("Add", first, scope.constant(np.arange(n_each)))
    entries = scope.op("Reshape", each, scope.constant([-1]))
    return scope.op("Gather", taken, entries, axis=axis)
