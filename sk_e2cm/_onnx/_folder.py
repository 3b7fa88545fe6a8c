"""One graph for each stage, and a manifest that says how they follow one another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto

from .. import onnx_exits
from .._utils._arrays import Floats
from .._utils._files import replacing
from ._calls import called, probabilities
from ._files import write_model
from ._graph import Scope, Type
from ._stages import ExportedStage, Value, needed_from


def write_folder(
    folder: Path,
    stages: Sequence[ExportedStage],
    *,
    thresholds: Floats,
    labels: np.ndarray,
    opset: int,
    facts: Mapping[str, Any],
) -> None:
    """Write a new folder: a graph for each stage, a manifest, and what runs them.

    Parameters
    ----------
    folder : Path
        Where there is nothing yet.

    stages : sequence of ExportedStage
        All stages.

    thresholds : ndarray of shape (n_exits, 1) or (n_exits, n_classes)
        The fitted ones.

    labels : ndarray of shape (n_classes,)
        What the columns of the probabilities stand for.

    opset : int
        The version of the operations.

    facts : dict of str
        What the manifest says besides.
    """
    with replacing(folder) as written:
        written.mkdir()
        of_stages = []
        for i, stage in enumerate(stages):
            flow = _flow(stages, i)
            name = f"stage_{i}.onnx"
            graph = _graph_of(stage, flow["makes"], len(labels))
            write_model(written / name, graph, opset)
            about = {"name": stage.name, "number": stage.number, "file": name}
            of_stages.append(about | flow)
        manifest = {
            "format": onnx_exits.FORMAT,
            **facts,
            "classes": labels.tolist(),
            # JSON knows no infinity; every probability is above 0.
            "thresholds": [
                [None if t == np.inf else max(t, 0.0) for t in row]
                for row in thresholds.tolist()
            ],
            "stages": of_stages,
            "values": {
                value.name: _described(value)
                for stage in stages
                for value in (*stage.takes, *stage.made)
            },
        }
        text = json.dumps(manifest, indent=2, allow_nan=False)
        (written / onnx_exits.MANIFEST).write_text(text + "\n", encoding="utf-8")
        shutil.copyfile(onnx_exits.__file__, written / "onnx_exits.py")


def _flow(stages: Sequence[ExportedStage], i: int) -> dict[str, list[str]]:
    """Say what a stage takes and makes, and what is needed after it."""
    stage = stages[i]
    after = needed_from(stages, i + 1)
    made = {value.name for value in stage.made}
    return {
        "takes": [value.name for value in stage.used],
        "makes": [value.name for value in after if value.name in made],
        "keeps": [value.name for value in after],
    }


def _described(value: Value) -> dict[str, Any]:
    shape = list(value.type.shape)
    shape[value.rows.axis] = None
    return {
        "dtype": value.type.dtype.name,
        "shape": shape,
        "axis": value.rows.axis,
        "per_sample": value.rows.per_sample,
    }


def _graph_of(stage: ExportedStage, makes: Sequence[str], n_classes: int) -> GraphProto:
    """Return the graph of one stage and its head."""
    scope = Scope()
    taken = {value.name: value.name for value in stage.used}
    state = taken | called(scope, stage, taken)
    proba = scope.named(probabilities(scope, stage, state), "probabilities")
    made = [
        (scope.named(state[value.name], value.name), value.type)
        for value in stage.made
        if value.name in makes
    ]
    inputs = [(value.name, value.type) for value in stage.used]
    of_proba = Type(np.dtype(np.float64), ("n_samples", n_classes))
    return scope.graph("stage", inputs, [(proba, of_proba), *made])
