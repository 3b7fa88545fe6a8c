"""Graphs of ONNX, put together from operations and from exported programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from onnx import (
    AttributeProto,
    GraphProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)

# Of an axis: so long, or of the length that this name stands for.
Length = int | str | None


class Type(NamedTuple):
    """The type of a value: what its numbers are, and the lengths of its axes."""

    dtype: np.dtype[Any]
    shape: tuple[Length, ...]


@dataclass(frozen=True)
class Program:
    """Nodes to be put into graphs, as a function is called.

    Parameters
    ----------
    inputs, outputs : list of str
        Names of values. An output may be an input, or a weight.

    nodes : list of NodeProto
        In an order in which they can run.

    weights : list of TensorProto
        Of these nodes alone.
    """

    inputs: list[str]
    outputs: list[str]
    nodes: list[NodeProto]
    weights: list[TensorProto]

    @classmethod
    def of(cls, graph: GraphProto) -> Program:
        """Return a graph as a program."""
        inputs, outputs = (
            [v.name for v in each] for each in (graph.input, graph.output)
        )
        return cls(inputs, outputs, list(graph.node), list(graph.initializer))

    def part(self, inputs: list[str], outputs: list[str]) -> Program:
        """Return what computes some of the outputs, from some of the inputs."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(_names_read(node))
                nodes.append(node)
        weights = [weight for weight in self.weights if weight.name in needed]
        return Program(inputs, outputs, nodes[::-1], weights)

    @property
    def used(self) -> list[bool]:
        """Whether anything is computed from each of the inputs."""
        names = {name for node in self.nodes for name in _names_read(node)}
        return [name in names for name in self.inputs]


class Scope:
    """The nodes and the weights of one graph, or of a branch inside another.

    Names are unique in all scopes of a file, and those of the scopes around are known
    in a branch. Weights lie in the scope where they are used: onnxruntime prepares the
    weights of a convolution beforehand only if they are in the same graph.

    Parameters
    ----------
    numbers : iterator of int, default=None
        Of a scope around; by default there is none.
    """

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        self._numbers = count() if numbers is None else numbers
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def branch(self) -> Scope:
        """Return an empty scope inside of this one."""
        return Scope(self._numbers)

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operation; return the name of its output."""
        output = self._new_name(kind)
        node = helper.make_node(kind, inputs, [output], name or output, **attributes)
        self._nodes.append(node)
        return output

    def constant(self, values: ArrayLike) -> str:
        """Add a constant; strings are given as an array of objects."""
        name = self._new_name("constant")
        self._weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def call(self, program: Program, inputs: Sequence[str]) -> list[str]:
        """Add all that a program computes from these inputs; return its outputs."""
        names = dict(zip(program.inputs, inputs, strict=True))
        for weight in program.weights:
            copied = TensorProto()
            copied.CopyFrom(weight)
            copied.name = names[weight.name] = self._new_name("weight")
            self._weights.append(copied)
        self._nodes.extend(self._renamed(node, names) for node in program.nodes)
        return [names[name] for name in program.outputs]

    def choose(
        self,
        condition: str,
        then: tuple[Scope, str],
        otherwise: tuple[Scope, str],
        type_: Type,
    ) -> str:
        """Run one of two branches, each given with its value; return that."""
        output = self._new_name("If")
        branches = {
            f"{name}_branch": scope.graph(name, [], [(value, type_)])
            for name, (scope, value) in (("then", then), ("else", otherwise))
        }
        self._nodes.append(
            helper.make_node("If", [condition], [output], output, **branches)
        )
        return output

    def named(self, value: str, name: str) -> str:
        """Give a value a name that others know; return it."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name))
        return name

    def graph(
        self,
        name: str,
        inputs: Sequence[tuple[str, Type]],
        outputs: Sequence[tuple[str, Type]],
        overridable: Mapping[str, np.ndarray] | None = None,
    ) -> GraphProto:
        """Return the graph; `overridable` has the values of inputs that may be left."""
        defaults = [
            numpy_helper.from_array(values, name)
            for name, values in (overridable or {}).items()
        ]
        return helper.make_graph(
            self._nodes,
            name,
            [_value_info(*each) for each in inputs],
            [_value_info(*each) for each in outputs],
            [*self._weights, *defaults],
        )

    def _new_name(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers)}"

    def _renamed(self, node: NodeProto, names: dict[str, str]) -> NodeProto:
        """Return a copy of a node under names of this file; `names` learns its own."""
        copied = NodeProto()
        copied.CopyFrom(node)
        copied.ClearField("metadata_props")
        copied.doc_string = ""
        copied.input[:] = [names[each] if each else "" for each in node.input]
        for each in node.output:
            if each:
                names[each] = self._new_name(node.op_type)
        copied.output[:] = [names[each] if each else "" for each in node.output]
        copied.name = self._new_name(node.op_type)
        for branch in _branches(copied):
            self._rename_branch(branch, dict(names))
        return copied

    def _rename_branch(self, graph: GraphProto, names: dict[str, str]) -> None:
        for value in (*graph.initializer, *graph.input):
            names[value.name] = self._new_name("value")
            value.name = names[value.name]
        nodes = [self._renamed(node, names) for node in graph.node]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        for value in graph.output:
            value.name = names[value.name]


def domains(graph: GraphProto) -> list[str]:
    """Return whose operations a graph uses, ONNX's own, "", always."""
    found = {""}.union(node.domain for node in _all_nodes(graph.node))
    return sorted(found)


def _names_read(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, and some of its branches' own."""
    for each in _all_nodes([node]):
        yield from each.input
        for branch in _branches(each):
            yield from (value.name for value in branch.output)


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, and those in their branches."""
    for node in nodes:
        yield node
        for branch in _branches(node):
            yield from _all_nodes(branch.node)


def _branches(node: NodeProto) -> list[GraphProto]:
    return [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def _value_info(name: str, type_: Type) -> Any:
    element = helper.np_dtype_to_tensor_dtype(type_.dtype)
    return helper.make_tensor_value_info(name, element, type_.shape)
