"""Multiply-adds along a graph, and places evenly spaced by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from ._cut import Liveness
from ._frozen import device_of, like, with_tensors
from ._trace import Trace

_SIDES = (224, 32, 28, 64, 96, 128, 8, 16, 256, 299, 384, 512)


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
        with torch.enable_grad(), self._counter:
            self.run(X)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.macs[n] = self._counter.get_total_flops() / 2
        if isinstance(value, Tensor):
            self.tensors.add(n)
        return value


def measure(trace: Trace, input_shape: tuple[int, ...], dtype: torch.dtype) -> Meter:
    """Measure one sample of this shape, without computing anything if possible."""
    X = torch.zeros(1, *input_shape, dtype=dtype)
    try:
        return Meter(_on_meta(trace.root), trace.graph, X.to("meta"))
    except RuntimeError:  # an operation that needs values, not shapes alone
        return Meter(trace.root, trace.graph, X.to(device_of(trace.module)))


def _on_meta(module: nn.Module) -> nn.Module:
    # With gradients, or attention takes a fast path that hides its operations.
    return with_tensors(
        module, lambda t: like(t, t.to("meta")).requires_grad_(t.is_floating_point())
    )


def evenly_spaced(
    trace: Trace,
    n_exits: int,
    last: fx.Node,
    input_shape: tuple[int, ...] | None,
    dtype: torch.dtype,
) -> tuple[str, ...]:
    """Return the names of `n_exits` modules that split the cost up to `last` evenly."""
    if n_exits < 1:
        raise ValueError(f"exits={n_exits}: at least one exit is needed.")
    meter = _measure_plausibly(trace, input_shape, dtype)
    macs = meter.macs
    places = {
        node: name
        for node, name in _places(trace).items()
        if node in meter.tensors and 0 < macs[node] < macs[last]
    }
    # One value alive is a place between blocks; within a block a skip is alive too.
    live = Liveness(trace.graph, last)
    clean = {node: name for node, name in places.items() if len(live.after(node)) == 1}
    for candidates in (clean, places):
        # Of places at the same cost the last: it has seen most.
        by_cost = {macs[node]: name for node, name in candidates.items()}
        if len(by_cost) >= n_exits:
            break
    else:
        raise ValueError(
            f"exits={n_exits}, but the network has only {len(by_cost)} places to "
            f"leave: {', '.join(by_cost.values()) or 'none'}."
        )
    targets = macs[last] * np.arange(1, n_exits + 1) / (n_exits + 1)
    misses = targets[:, None] - np.array(list(by_cost))
    _, chosen = linear_sum_assignment(misses**2)
    names = list(by_cost.values())
    return tuple(names[i] for i in sorted(chosen))


def _places(trace: Trace) -> dict[fx.Node, str]:
    """Return the values that a module returns, in order, with the module's name.

    Of several modules that return the same value the outermost gives the name.
    """
    names = {module: name for name, module in trace.module.named_modules() if name}
    at: dict[fx.Node, str] = {}
    for module, values in trace.returned.items():
        if module in names and len(values) == 1 and isinstance(values[0], fx.Proxy):
            node = values[0].node
            at[node] = min(at.get(node, names[module]), names[module], key=len)
    return {node: at[node] for node in trace.graph.nodes if node in at}


def _measure_plausibly(
    trace: Trace, input_shape: tuple[int, ...] | None, dtype: torch.dtype
) -> Meter:
    """Measure at `input_shape`, or at the first shape that the network takes.

    Where the exits come to lie depends little on the size of the images.
    """
    if input_shape is not None:
        return measure(trace, tuple(input_shape), dtype)
    for shape in _plausible_shapes(trace.module):
        try:
            return measure(trace, shape, dtype)
        except (RuntimeError, ValueError, AssertionError):
            continue
    raise ValueError(
        "exits= as a number needs the shape of one sample to count the cost: pass "
        "input_shape=, for instance input_shape=(3, 224, 224), or name the exits."
    )


def _plausible_shapes(module: nn.Module) -> Iterator[tuple[int, ...]]:
    for first in module.modules():
        if isinstance(first, nn.Linear):
            yield (first.in_features,)
        elif isinstance(first, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            n_axes = len(first.kernel_size)
            yield from ((first.in_channels, *[side] * n_axes) for side in _SIDES)
        elif isinstance(first, nn.Embedding):
            yield from ((side,) for side in _SIDES)
        else:
            continue
        return
