"""Multiply-adds along a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ._frozen import device_of, like, with_tensors
from ._trace import TORCH_PATCHED, Trace


class Meter(fx.Interpreter):
    """Runs a graph and reads torch's flop counter after every operation.

    Attributes
    ----------
    macs : dict of fx.Node to float
        The multiply-adds spent on one sample by the end of each operation. The
        counter knows convolutions and matrix products, and takes a multiply-add
        for two operations.

    tensors : set of fx.Node
        The operations that return one tensor.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, X: Tensor) -> None:
        super().__init__(root, graph=graph)
        self.macs: dict[fx.Node, float] = {}
        self.tensors: set[fx.Node] = set()
        self._counter = FlopCounterMode(display=False)
        # The plain kernel, since those for one device each are not all counted.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), self._counter:
            self.run(X)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.macs[n] = self._counter.get_total_flops() / 2
        if isinstance(value, Tensor):
            self.tensors.add(n)
        return value


@torch.inference_mode(False)
def measure(trace: Trace, input_shape: tuple[int, ...], dtype: torch.dtype) -> Meter:
    """Measure one sample of this shape, without computing anything if possible.

    Raises
    ------
    ValueError
        If the network does not take this shape.
    """
    X = torch.zeros(1, *input_shape, dtype=dtype)
    here = device_of(trace.module)
    # Shapes are enough for most operations, but some need values, and a few cannot
    # work on what carries gradients.
    for device, gradients in (("meta", True), (here, True), (here, False)):
        root = _moved(trace.root, device, gradients)
        with TORCH_PATCHED:
            try:
                return Meter(root, trace.graph, X.to(device))
            except Exception as error:
                failure = error
    raise ValueError(
        f"The network does not take samples of shape {tuple(input_shape)} and type "
        f"{dtype}: {failure}"
    ) from failure


def _moved(module: nn.Module, device: torch.device | str, gradients: bool) -> nn.Module:
    """Copy `module` to a device; attention hides its operations without gradients."""

    def convert(tensor: Tensor) -> Tensor:
        there = like(tensor, tensor.to(device))
        is_weight = isinstance(there, nn.Parameter) and there.is_floating_point()
        return there.requires_grad_() if gradients and is_weight else there

    return with_tensors(module, convert)
