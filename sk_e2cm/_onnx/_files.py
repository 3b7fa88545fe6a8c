"""Graphs on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import GraphProto, helper

from .._utils._files import replacing
from ._graph import domains
from ._sklearn import ML_VERSION

# What onnxruntime 1.18 of 2024 reads, and those after it.
_IR_VERSION = 10

# protobuf holds no more.
_MOST_BYTES = 2**31 - 2**24


def write_model(
    path: Path, graph: GraphProto, opset: int, facts: Mapping[str, str] | None = None
) -> None:
    """Check a graph and write it, with its weights if these are below 2 GB.

    Those of larger ones lie in a file beside it, as ONNX has it.

    Parameters
    ----------
    path : Path
        Of the file; what is there is replaced once all is written.

    graph : GraphProto
        The graph.

    opset : int
        The version of its operations.

    facts : dict of str
        The metadata.
    """
    known = {"": opset, "ai.onnx.ml": ML_VERSION}
    versions = [helper.make_opsetid(name, known[name]) for name in domains(graph)]
    model = helper.make_model(
        graph, opset_imports=versions, ir_version=_IR_VERSION, producer_name="sk_e2cm"
    )
    helper.set_model_props(model, dict(facts or {}))
    is_large = model.ByteSize() > _MOST_BYTES
    if not is_large:
        onnx.checker.check_model(model, full_check=True)
    with replacing(path) as written:
        weights = f"{path.name}.data"
        onnx.save_model(
            model, written, save_as_external_data=is_large, location=weights
        )
        if is_large:
            onnx.checker.check_model(str(written))
            written.with_name(weights).replace(path.with_name(weights))
