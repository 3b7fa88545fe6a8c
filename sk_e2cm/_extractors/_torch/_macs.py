"""Multiply-adds along a graph, and the table that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ._freeze import device_of_weights, like, with_tensors
from ._quantized import exact_twin, hidden_macs
from ._state import random_state_kept
from ._trace import TORCH_PATCHED, Trace

Shape = tuple[int, ...]


def _matrix_vector(matrix: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _recurrent(X: Shape, W_input: Shape, W_hidden: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(X[:-1]) * (prod(W_input) + prod(W_hidden))


def _bilinear(X: Shape, W: Shape, *_: Any, **__: Any) -> int:
    return 2 * X[0] * prod(W)


# Operations that torch's counter takes for free.
_MORE_FLOPS = {
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten._trilinear: _bilinear,
}


_HEADER = ("stage", "module", "output shape", "multiply-adds", "share")


class Meter(fx.Interpreter):
    """Runs a graph and reads torch's flop counter after every operation.

    Attributes
    ----------
    macs : dict of fx.Node to float
        The multiply-adds spent on one sample by the end of each operation. The
        counter knows convolutions and matrix products, and takes a multiply-add
        for two operations.

    shapes : dict of fx.Node to tuple of int
        For the operations that return one tensor, its shape for one sample.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, X: Tensor) -> None:
        super().__init__(root, graph=graph)
        self.macs: dict[fx.Node, float] = {}
        self.shapes: dict[fx.Node, Shape] = {}
        self._hidden = 0.0
        self._counter = FlopCounterMode(display=False, custom_mapping=_MORE_FLOPS)
        # The plain kernel, since those for one device each are not all counted.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), self._counter:
            self.run(X)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        # The interpreter passes lists that cannot be changed, but some code does.
        return _thawed(super().fetch_args_kwargs_from_env(n))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_module(target, args, kwargs)
        given = next(iter((*args, *kwargs.values())), None)
        self._hidden += hidden_macs(self.fetch_attr(target), given, value)
        return value

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.macs[n] = self._counter.get_total_flops() / 2 + self._hidden
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


def _thawed(value: Any) -> Any:
    if isinstance(value, list):
        return [_thawed(item) for item in value]
    if type(value) is tuple:
        return tuple(_thawed(item) for item in value)
    return value


@random_state_kept()
@torch.inference_mode(False)
def measure(
    trace: Trace,
    shapes: Iterable[Shape],
    dtype: torch.dtype,
    row: Tensor | None = None,
) -> Meter:
    """Measure one sample, without computing anything if possible.

    Parameters
    ----------
    trace : Trace
        Of the network.

    shapes : iterable of tuple of int
        The first one that the network takes is measured.

    dtype : torch.dtype
        Of the sample.

    row : tensor of shape (1, ...), default=None
        A real sample, for networks that do not take zeros.

    Raises
    ------
    ValueError
        If the network takes none of the shapes.
    """
    shapes = list(shapes)
    here = device_of_weights(trace.module)
    failure: Exception | None = None
    exact = exact_twin(trace.root)
    # Shapes are enough for most operations, but some need values, and a few cannot
    # work on what carries gradients.
    for device, gradients in (("meta", True), (here, True), (here, False)):
        root = _moved(exact, device, gradients)
        tried = [torch.zeros(1, *shape, dtype=dtype, device=device) for shape in shapes]
        if row is not None and device == here:
            tried.append(row)
        for X in tried:
            with TORCH_PATCHED:
                try:
                    return Meter(root, trace.graph, X)
                except Exception as error:
                    failure = error
    reason, *_ = str(failure).split("\n\nWhile executing")  # added by torch.fx
    raise ValueError(
        f"The network does not take samples of shape "
        f"{' or '.join(map(str, shapes))} and type {dtype}: {reason}"
    ) from failure


def _moved(module: nn.Module, device: torch.device | str, gradients: bool) -> nn.Module:
    """Copy `module` to a device; attention hides its operations without gradients."""

    def convert(tensor: Tensor) -> Tensor:
        there = like(tensor, tensor.to(device))
        is_weight = isinstance(there, nn.Parameter) and there.is_floating_point()
        return there.requires_grad_() if gradients and is_weight else there

    return with_tensors(module, convert)


def summarize(
    meter: Meter,
    start: fx.Node,
    names: Sequence[str],
    modules: Sequence[nn.Module],
    ends: Sequence[fx.Node],
) -> str:
    """Return a line for the input and for each stage, with the cost up to there."""
    whole = meter.macs[ends[-1]] or 1.0
    rows = [_HEADER, ("input", "", str(meter.shapes[start]), "0", "0.000")]
    for name, module, end in zip(names, modules, ends, strict=True):
        macs = meter.macs[end]
        shape = meter.shapes.get(end, "no tensor")
        rows.append(
            (
                name,
                type(module).__name__,
                str(shape),
                f"{macs:,.0f}",
                f"{macs / whole:.3f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{widths[0]}}  {kind:{widths[1]}}  {shape:{widths[2]}}  "
        f"{macs:>{widths[3]}}  {share:>{widths[4]}}"
        for name, kind, shape, macs, share in rows
    )
