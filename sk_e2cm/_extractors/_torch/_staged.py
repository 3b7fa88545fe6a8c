"""A network, whole and in stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor, fx, nn

from ..._utils._arrays import as_numbers, convert, to_tensor
from ._cut import Stage, stages_of
from ._freeze import share
from ._quantized import exact_twin
from ._rows import INPUT, KeepRules, join_each


class Live(NamedTuple):
    """The values alive between two stages, what they are, and what is ahead.

    The stages too: of several forms of a network the one goes on that has begun.
    """

    values: tuple[Any, ...]
    rules: KeepRules
    ahead: tuple[KeepRules, ...]
    stages: Sequence[Stage]


@dataclass(eq=False)
class StagedNetwork:
    """A network, whole and in stages that run one after the other.

    Parameters
    ----------
    root : nn.Module
        Holds the network as ``root.network``, and the constants met in tracing.

    graph : fx.Graph
        Of what `root` computes.

    ends : sequence of fx.Node
        The last operation of each stage.

    names : sequence of str
        The module whose output each stage returns; "" is the network.

    dtype : torch.dtype
        Of the input.

    device : torch.device
        Where the weights are.

    rules : dict
        What becomes of the values alive after each stage when samples leave, by the
        shape of a sample. Empty for a shape at which it is not to be run.

    layout : torch.memory_format, default=torch.preserve_format
        Of images.
    """

    root: nn.Module
    graph: fx.Graph
    ends: Sequence[fx.Node]
    names: Sequence[str]
    dtype: torch.dtype
    device: torch.device
    rules: dict[torch.Size, tuple[KeepRules, ...]] = field(default_factory=dict)
    layout: torch.memory_format = torch.preserve_format
    stages: list[Stage] = field(init=False)

    def __post_init__(self) -> None:
        self.stages = stages_of(self.root, self.graph, self.ends)

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(name or "output" for name in self.names)

    @property
    def labels(self) -> list[str]:
        """What messages call the outputs of the stages."""
        return [repr(name) if name else "the network's output" for name in self.names]

    @property
    def whole(self) -> nn.Module:
        return self.root.get_submodule("network")

    @property
    def exact(self) -> StagedNetwork:
        """The network without the rounding of dynamic quantisation."""
        root = exact_twin(self.root)
        return self if root is self.root else replace(self, root=root)

    @property
    def is_double(self) -> bool:
        """Whether its weights are in double precision already."""
        floats = [p for p in self.root.parameters() if p.is_floating_point()]
        return bool(floats) and all(p.dtype is torch.float64 for p in floats)

    def batch(self, X: ArrayLike | Tensor) -> Tensor:
        """Return a copy of X as the network takes it: layers may work in place."""
        tensor = X.detach() if isinstance(X, Tensor) else to_tensor(as_numbers(X, "X"))
        return convert(tensor, self.device, self.dtype, self._layout_of(tensor))

    def laid_out(self, batch: Tensor) -> Tensor:
        """Return a batch in the type and the memory format of the network."""
        return batch.to(self.dtype, memory_format=self._layout_of(batch))

    def _layout_of(self, batch: Tensor) -> torch.memory_format:
        is_image = batch.dim() == 4 and self.dtype.is_floating_point
        return self.layout if is_image else torch.preserve_format

    def run(self, X: ArrayLike) -> Any:
        """Return the output of the network as a whole, up to the end of the stages."""
        # As users convert it, but never in the memory of X: layers may work in place.
        batch = to_tensor(as_numbers(X, "X")).to(self.device, self.dtype, copy=True)
        if not self.names[-1]:
            return self.whole(batch)
        values: tuple[Any, ...] = (batch,)
        for stage in self.stages:
            values = stage(*values)
        return values[0]

    def begin(self, X: ArrayLike | Tensor) -> Live:
        return self.start(self.batch(X))

    def start(self, batch: Tensor) -> Live:
        """Return the state before the first stage; the rules for it are known."""
        return Live((batch,), INPUT, self.rules[batch.shape[1:]], self.stages)

    def advance(self, live: Live, stage: int) -> tuple[Live, Tensor]:
        return self.advance_through(live, stage, stage)

    def advance_through(self, live: Live, first: int, last: int) -> tuple[Live, Tensor]:
        values = live.values
        for stage in live.stages[first : last + 1]:
            values = stage(*values)
        rules, output = live.ahead[last], values[0]
        if rules.axis:
            output = output.movedim(rules.axis, 0)
        return Live(values, rules, live.ahead, live.stages), output

    def keep(self, live: Live, rows: Any) -> Live:
        if not isinstance(rows, Tensor):
            rows = to_tensor(rows).to(self.device, torch.int64)
        values = live.rules.keep(live.values, rows)
        return Live(values, live.rules, live.ahead, live.stages)

    def join(self, states: Sequence[Live]) -> Live:
        first = states[0]
        if any(live.stages is not first.stages for live in states):
            raise ValueError("States cannot be joined: their networks differ.")
        values = join_each(first.rules.rules, [live.values for live in states])
        return first._replace(values=tuple(values))


def run_uncut(network: nn.Module, names: Sequence[str], X: Tensor) -> list[Any]:
    """Run the network as it is; return what the modules of these names return.

    The name "" stands for the full network.
    """
    # A copy, thrown away, with hooks that would be in the way elsewhere.
    network = share(network)
    seen: dict[str, Any] = {}
    for name in filter(None, names):
        network.get_submodule(name).register_forward_hook(_note(seen, name))
    seen[""] = network(X)
    return [seen.get(name) for name in names]


def _note(seen: dict[str, Any], name: str) -> Callable[..., None]:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        # A copy: the network may go on to change it in place.
        seen[name] = output.clone() if isinstance(output, Tensor) else output

    return note
