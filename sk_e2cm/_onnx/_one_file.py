"""One graph in which samples leave: later stages run inside branches of earlier ones.

If any sample stays, its rows are taken, the next stage runs, and the results are put
back. The first stage is in a branch, too, so that nothing is computed of no samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from onnx import GraphProto

from ._calls import called, probabilities
from ._graph import Scope, Type
from ._stages import ExportedStage, Value, needed_from
from ._thresholds import Threshold, Thresholds

_INTEGERS = np.dtype(np.int64)
_FLOATS = np.dtype(np.float64)


class Result(NamedTuple):
    """What samples leave with: probabilities and stages."""

    probabilities: str
    exit: str


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
    n_samples = _n_samples(scope, X)
    nest = _Nest(stages, thresholds.read(scope), len(labels))
    found = nest.enter_first(scope, n_samples)
    column = scope.op("ArgMax", found.probabilities, axis=1, keepdims=0)
    label = scope.op("Gather", scope.constant(labels), column)
    outputs = [
        (scope.named(label, "label"), Type(labels.dtype, ("n_samples",))),
        (
            scope.named(found.probabilities, "probabilities"),
            Type(_FLOATS, ("n_samples", len(labels))),
        ),
        (scope.named(found.exit, "exit"), Type(_INTEGERS, ("n_samples",))),
    ]
    inputs = [("X", X.type), *thresholds.inputs]
    return scope.graph("early_exits", inputs, outputs, thresholds.defaults)


class _Nest:
    """Puts stages into branches.

    Parameters
    ----------
    stages : sequence of ExportedStage
        All stages.

    exits : sequence of Threshold
        When samples leave.

    n_classes : int
        Number of columns of the probabilities.
    """

    def __init__(
        self,
        stages: Sequence[ExportedStage],
        exits: Sequence[Threshold],
        n_classes: int,
    ) -> None:
        self._stages = stages
        self._exits = exits
        self._n_classes = n_classes
        self._types = [Type(_FLOATS, (None, n_classes)), Type(_INTEGERS, (None,))]

    def enter_first(self, scope: Scope, n_samples: str) -> Result:
        """Run all stages if there are samples."""
        inside, outside = scope.branch(), scope.branch()
        found = self._run(inside, 0, {"X": "X"}, n_samples)
        # Of constants without samples OpenVINO does not know the number of axes.
        nothing = Result(
            outside.op(
                "Expand",
                outside.constant([[0.0]]),
                outside.constant([0, self._n_classes]),
            ),
            outside.op("Expand", outside.constant([0]), outside.constant([0])),
        )
        is_any = scope.op("Greater", n_samples, scope.constant(0))
        return self._chosen(scope, is_any, (inside, found), (outside, nothing))

    def _run(
        self, scope: Scope, i: int, state: Mapping[str, str], n_samples: str
    ) -> Result:
        """Run a stage and those after it, for samples that are there."""
        stage = self._stages[i]
        state = {**state, **called(scope, stage, state)}
        length = scope.op("Reshape", n_samples, scope.constant([1]))
        here = scope.op("Expand", scope.constant([i]), length)
        if i == len(self._exits):
            return Result(probabilities(scope, stage, state), here)
        proba = self._proba_if_open(scope, i, state, length)
        stays = self._exits[i].stays(scope, proba)
        rows = scope.op("Reshape", scope.op("NonZero", stays), scope.constant([-1]))
        return self._go_on(scope, i + 1, state, rows, Result(proba, here))

    def _go_on(
        self, scope: Scope, i: int, state: Mapping[str, str], rows: str, left: Result
    ) -> Result:
        """Run stage `i` for the samples that stay, if there are any."""
        n_stay = scope.op("Size", rows)
        inside, outside = scope.branch(), scope.branch()
        kept = {
            value.name: _of_rows(inside, state[value.name], rows, value)
            for value in needed_from(self._stages, i)
        }
        found = self._run(inside, i, kept, n_stay)
        places = inside.op("Unsqueeze", rows, inside.constant([1]))
        put_back = Result(
            *(
                inside.op("ScatterND", before, places, after)
                for before, after in zip(left, found, strict=True)
            )
        )
        same = Result(*(outside.op("Identity", value) for value in left))
        is_any = scope.op("Greater", n_stay, scope.constant(0))
        return self._chosen(scope, is_any, (inside, put_back), (outside, same))

    def _proba_if_open(
        self, scope: Scope, i: int, state: Mapping[str, str], length: str
    ) -> str:
        """Return the probabilities at an exit; zeros if it is closed."""
        inside, outside = scope.branch(), scope.branch()
        proba = probabilities(inside, self._stages[i], state)
        shape = outside.op(
            "Concat", length, outside.constant([self._n_classes]), axis=0
        )
        zeros = outside.op("Expand", outside.constant(0.0), shape)
        (found,) = scope.choose(
            self._exits[i].is_open,
            (inside, [proba]),
            (outside, [zeros]),
            self._types[:1],
        )
        return found

    def _chosen(
        self,
        scope: Scope,
        condition: str,
        then: tuple[Scope, Result],
        otherwise: tuple[Scope, Result],
    ) -> Result:
        return Result(*scope.choose(condition, then, otherwise, self._types))


def _n_samples(scope: Scope, value: Value) -> str:
    shape = scope.op("Shape", value.name)
    return scope.op("Gather", shape, scope.constant(value.rows.axis))


def _of_rows(scope: Scope, taken: str, rows: str, value: Value) -> str:
    """Take the entries of some samples."""
    n_each = value.rows.per_sample
    if n_each > 1:
        first = scope.op("Mul", rows, scope.constant(n_each))
        column = scope.op("Unsqueeze", first, scope.constant([1]))
        each = scope.op("Add", column, scope.constant(np.arange(n_each)))
        rows = scope.op("Reshape", each, scope.constant([-1]))
    return scope.op("Gather", taken, rows, axis=value.rows.axis)
