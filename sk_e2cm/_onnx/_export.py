"""From a fitted estimator to files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .._multi_exit._network import MultiExitNetwork
from .._multi_exit._thresholds import is_closed
from .._utils._arrays import Floats
from .._utils._validation import is_whole
from ._files import write_model
from ._folder import write_folder
from ._one_file import one_graph
from ._parts import parts_of
from ._stages import ExportedStage, export_stages
from ._thresholds import Thresholds

# torch writes these, and has them translated to later ones.
OLDEST_OPSET = 18

# What onnxruntime computes in single precision only, on a CPU.
_SINGLE_ONLY = {"Conv", "ConvTranspose", "AveragePool", "GRU", "LSTM", "RNN"}


def check_opset(opset: Any) -> int:
    """Return the version of the operations.

    Raises
    ------
    ValueError
        If torch does not write it, or the package onnx does not know it.
    """
    newest = onnx.defs.onnx_opset_version()
    if not is_whole(opset) or not OLDEST_OPSET <= opset <= newest:
        raise ValueError(
            f"opset={opset!r} must be a whole number from {OLDEST_OPSET}, the oldest "
            f"that torch writes, to {newest}, the newest that the package onnx knows."
        )
    return int(opset)


def export(
    network: MultiExitNetwork,
    thresholds: Floats,
    input_shape: tuple[int, ...],
    path: Path,
    *,
    single_file: bool,
    only_open: bool,
    opset: int,
    facts: Mapping[str, Any],
) -> None:
    """Write a network with its exits: see `to_onnx`.

    Parameters
    ----------
    network : MultiExitNetwork
        On the CPU, over a `TorchExtractor`.

    thresholds : ndarray of shape (n_exits, 1) or (n_exits, n_classes)
        The fitted ones.

    input_shape : tuple of int
        Of one sample.

    path : Path
        Of the file or the folder.

    single_file, only_open, opset
        See `to_onnx`.

    facts : dict of str
        What the file, or the manifest, says besides.
    """
    kept = _open_stages(network, thresholds) if only_open else range(len(network.heads))
    stages = export_stages(parts_of(network, input_shape, kept), opset)
    _refuse_double_maps(stages)
    thresholds = thresholds[list(kept)[:-1]]
    labels = _as_onnx(network.labels)
    if single_file:
        graph = one_graph(stages, Thresholds(thresholds, len(labels)), labels)
        of_file = {**facts, "classes": labels.tolist()}
        texts = {name: json.dumps(value) for name, value in of_file.items()}
        write_model(path, graph, opset, texts)
    else:
        write_folder(
            path, stages, thresholds=thresholds, labels=labels, opset=opset, facts=facts
        )


def _refuse_double_maps(stages: Sequence[ExportedStage]) -> None:
    """Refuse maps in double precision, which onnxruntime does not compute."""
    for stage in stages:
        kinds = sorted(_SINGLE_ONLY & {node.op_type for node in stage.stage.nodes})
        values = (*stage.takes, *stage.gives)
        if kinds and any(value.type.dtype == np.float64 for value in values):
            raise ValueError(
                f"Stage {stage.name!r} has {', '.join(kinds)} in double precision, "
                "which onnxruntime does not compute: pass "
                "TorchExtractor(module.float(), ...)."
            )


def _open_stages(network: MultiExitNetwork, thresholds: Floats) -> list[int]:
    """Return the exits that are open, those that these carry, and the last stage."""
    needed = {*np.flatnonzero(~is_closed(thresholds)).tolist(), network.n_exits}
    carried = {stage for number in needed for stage in network.heads[number].carried}
    return sorted(needed | carried)


def _as_onnx(labels: np.ndarray) -> np.ndarray:
    """Return labels of a type that ONNX has: integers of 64 bits, floats, strings."""
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f":
        return labels.astype(np.float64)
    return labels if labels.dtype.kind == "b" else labels.astype(object)
