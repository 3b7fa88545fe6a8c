"""From one graph to a chain of stages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import MethodType, SimpleNamespace
from typing import Any

from torch import fx, nn

from ._rows import Liveness

# Takes the values that the stage before it returned. The first of the values that it
# returns is the exit's own.
Stage = Callable[..., tuple[Any, ...]]


def stages_of(root: nn.Module, graph: fx.Graph, ends: Sequence[fx.Node]) -> list[Stage]:
    """Cut `graph` after each of `ends`, for the weights of `root`."""
    return [_forward_of(stage) for stage in cut(root, graph, ends)]


def _forward_of(stage: fx.GraphModule) -> Stage:
    """Return the stage's forward, with all that it uses looked up beforehand.

    A module finds its parts more slowly than it computes a small layer, and calling it
    takes time, too.
    """
    parts = SimpleNamespace()
    for node in stage.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        # What lies inside a module that is used as a whole is found by that module.
        *path, name = str(node.target).split(".")
        here: Any = parts
        for step in path:
            if isinstance(here, SimpleNamespace):
                here = vars(here).setdefault(step, SimpleNamespace())
        if isinstance(here, SimpleNamespace):
            setattr(here, name, attrgetter(str(node.target))(stage))
    return MethodType(type(stage).forward, parts)


def cut(
    root: nn.Module, graph: fx.Graph, ends: Sequence[fx.Node]
) -> list[fx.GraphModule]:
    """Cut `graph` after each of `ends`, the last of which is the whole's output.

    A stage takes the values that the stage before it returned, the first one the
    graph's input. It returns its end's value, then what later stages still need.
    What comes after the last end is left out.
    """
    live = Liveness(graph, ends[-1])
    nodes = list(graph.nodes)
    bounds = [live.order[end] for end in ends]
    members: list[list[fx.Node]] = [[] for _ in ends]
    for node in nodes[: bounds[-1] + 1]:
        if node.op not in ("placeholder", "get_attr"):
            members[bisect_left(bounds, live.order[node])].append(node)

    stages = []
    takes = [node for node in nodes if node.op == "placeholder"]
    for end, body in zip(ends, members, strict=True):
        gives = [end, *(value for value in live.after(end) if value is not end)]
        stages.append(fx.GraphModule(root, _stage(takes, body, gives)))
        takes = gives
    return stages


def _stage(
    takes: Sequence[fx.Node], body: Sequence[fx.Node], gives: Sequence[fx.Node]
) -> fx.Graph:
    stage = fx.Graph()
    copies = {value: stage.placeholder(value.name) for value in takes}

    def copy_of(value: fx.Node) -> fx.Node:
        if value not in copies:  # a weight or constant, read where it is used
            copies[value] = stage.node_copy(value)
            if str(value.target).startswith("_tensor_constant"):
                # Made anew by each forward of the network, which may write to it.
                copies[value] = stage.call_method("clone", (copies[value],))
        return copies[value]

    for node in body:
        copies[node] = stage.node_copy(node, copy_of)
    stage.output(tuple(copy_of(value) for value in gives))
    return stage
