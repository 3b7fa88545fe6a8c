"""From torch to ONNX: all parts of a network, exported together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ._graph import Program
from ._parts import Part


def export_parts(parts: Sequence[Part], opset: int) -> list[Program]:
    """Export modules, each as a program of its own.

    Parameters
    ----------
    parts : sequence of Part
        The modules.

    opset : int
        The version of the operations.

    Raises
    ------
    ValueError
        With the part that torch cannot write.
    """
    try:
        return _export_together(parts, opset)
    except Exception:
        # One after the other, to find the one at fault.
        return [_export_alone(part, opset) for part in parts]


def _export_alone(part: Part, opset: int) -> Program:
    try:
        (program,) = _export_together([part], opset)
    except Exception as error:
        hint = ""
        if torch.__version__ < "2.10":
            hint = f" (torch 2.10 and later write more than {torch.__version__})"
        raise ValueError(
            f"{part.what} cannot be written to ONNX by torch.onnx: "
            f"{reason_of(error)}{hint}"
        ) from error
    return program


def reason_of(error: BaseException) -> str:
    """Return the first line of what an error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Together(nn.Module):
    """Runs several modules, each on inputs of its own.

    torch takes most of a second to begin and to end an export, of however little.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part.module.eval() for part in parts)
        self.n_inputs = [len(part.example) for part in parts]

    def run(self, *inputs: Tensor) -> list[tuple[Tensor, ...]]:
        """Return the outputs of each."""
        given = iter(inputs)
        found = [
            part(*islice(given, n))
            for part, n in zip(self.parts, self.n_inputs, strict=True)
        ]
        return [each if isinstance(each, tuple) else (each,) for each in found]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for outputs in self.run(*inputs) for output in outputs)


def _export_together(parts: Sequence[Part], opset: int) -> list[Program]:
    together = _Together(parts)
    # Copies, since torch takes one tensor that is given twice for one input.
    inputs = tuple(tensor.clone() for part in parts for tensor in part.example)
    n_outputs = [len(each) for each in together.run(*(t.clone() for t in inputs))]
    lengths = tuple(_lengths(parts))
    with warnings.catch_warnings():
        # Of torch's own, about functions that it calls itself.
        warnings.simplefilter("ignore")
        exported = torch.export.export(
            together, inputs, dynamic_shapes=(lengths,), strict=False
        )
        written = torch.onnx.export(
            exported, (), dynamo=True, opset_version=opset, verbose=False
        )
    assert written is not None
    model = written.model_proto
    (version,) = (each.version for each in model.opset_import if not each.domain)
    if version != opset:
        raise ValueError(f"it writes version {version} of the operations, not {opset}")
    whole = Program.of(model.graph)
    names_in, names_out = iter(whole.inputs), iter(whole.outputs)
    return [
        whole.part(list(islice(names_in, n_in)), list(islice(names_out, n_out)))
        for n_in, n_out in zip(together.n_inputs, n_outputs, strict=True)
    ]


def _lengths(parts: Sequence[Part]) -> Iterator[dict[int, Any]]:
    """Yield which axis of each input has as many entries as there are samples."""
    for i, part in enumerate(parts):
        # Of each part its own, so that none reads the number from another's input.
        n_samples = torch.export.Dim(f"n_{i}")
        for rows in part.rows:
            length: Any = n_samples
            if rows.per_sample > 1:
                length = rows.per_sample * n_samples
            yield {rows.axis: length}
