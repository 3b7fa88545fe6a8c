"""Stages and heads, put into a graph."""

from __future__ import annotations

from collections.abc import Mapping

from ._graph import Scope
from ._stages import ExportedStage


def called(
    scope: Scope, stage: ExportedStage, state: Mapping[str, str]
) -> dict[str, str]:
    """Run a stage and its pooling; return its values."""
    # What is not used is not there.
    taken = [state.get(value.name, "") for value in stage.takes]
    given = scope.call(stage.stage, taken)
    found = {v.name: each for v, each in zip(stage.gives, given, strict=True) if each}
    if stage.pooling is not None and stage.features is not None:
        (features,) = scope.call(stage.pooling, given[:1])
        found[stage.features.name] = features
    return found


def probabilities(scope: Scope, stage: ExportedStage, state: Mapping[str, str]) -> str:
    """Run the head of a stage."""
    values = [state[value.name] for value in stage.head_takes]
    for program in stage.head:
        values = scope.call(program, values)
    (proba,) = values
    return proba
