"""What is alive between two stages, and what dropping samples does to it.

Each live value is computed twice, in a batch of two rows and in a batch of three whose
first two rows are the same. What differs tells what it is: one row per sample, the
number of rows, or a constant. Anything else is refused, since nobody could say
what is left of it when samples leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType, NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .._tolerance import EXACT, MixedSamples, Tolerance


class Liveness:
    """Which values are alive where in a graph that is run up to the node `last`.

    Weights and constants never are: each stage reads its own.
    """

    def __init__(self, graph: fx.Graph, last: fx.Node) -> None:
        order = {node: i for i, node in enumerate(graph.nodes)}
        self.order = order
        self._needed_until = {
            node: max(
                (order[u] for u in node.users if order[u] <= order[last]), default=-1
            )
            for node in order
            if node.op != "get_attr"
        }

    def after(self, end: fx.Node) -> list[fx.Node]:
        """Return the values computed up to `end` that are used after it."""
        return [
            node
            for node, until in self._needed_until.items()
            if self.order[node] <= self.order[end] < until
        ]


@dataclass(frozen=True)
class Rows:
    """`per_sample` neighbouring entries along `axis` belong to each sample."""

    axis: int
    per_sample: int

    def keep(self, value: Tensor, rows: Tensor) -> Tensor:
        if self.per_sample > 1:
            within = torch.arange(self.per_sample, device=rows.device)
            rows = (rows[:, None] * self.per_sample + within).flatten()
        if value.dim() > 3 and self.axis == 0 and value.stride(1) == 1:
            # index_select gives up the channels-last format, but is the quickest.
            return value.movedim(1, -1).index_select(0, rows).movedim(-1, 1)
        return value.index_select(self.axis, rows)

    def join(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values), dim=self.axis)


@dataclass(frozen=True)
class Count:
    """A multiple of the number of samples."""

    per_sample: int

    def keep(self, value: int, rows: Tensor) -> int:
        return self.per_sample * len(rows)

    def join(self, values: Sequence[int]) -> int:
        return sum(values)


@dataclass(frozen=True)
class Constant:
    """The same for every batch."""

    def keep(self, value: Any, rows: Tensor) -> Any:
        return value

    def join(self, values: Sequence[Any]) -> Any:
        first = values[0]
        if not all(_is_equal(first, value) for value in values[1:]):
            raise ValueError(
                "States cannot be joined: a value that was the same for every batch "
                f"is not, {first!r:.60} in one and something else in another."
            )
        return first


@dataclass(frozen=True)
class Each:
    """A tuple or list, of whatever type, with a rule for each of its values."""

    rules: tuple[Rule, ...]

    def keep(self, value: Any, rows: Tensor) -> Any:
        kept = [rule.keep(v, rows) for rule, v in zip(self.rules, value, strict=True)]
        return same_kind(value, kept)

    def join(self, values: Sequence[Any]) -> Any:
        return same_kind(values[0], join_each(self.rules, values))


def same_kind(value: Any, parts: Sequence[Any]) -> Any:
    """Return these parts as a tuple or list of the type of `value`."""
    make = getattr(value, "_make", type(value))  # a named tuple has names to keep
    return make(parts)


def _is_equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and a.is_floating_point():
        is_alike = a.shape == b.shape and a.dtype == b.dtype
        return is_alike and torch.allclose(a, b, rtol=1e-5, equal_nan=True)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


Rule = Rows | Count | Constant | Each


def join_each(rules: Sequence[Rule], states: Sequence[Sequence[Any]]) -> list[Any]:
    """Join the values of several batches, each by its rule.

    Raises
    ------
    ValueError
        If constants are not equal.
    """
    by_value = zip(*states, strict=True)
    return [rule.join(values) for rule, values in zip(rules, by_value, strict=True)]


class KeepRules(NamedTuple):
    """What is alive after one stage.

    Parameters
    ----------
    axis : int
        Where the first value, the exit's own, has its rows.

    rules : tuple of Rule
        One for each value.
    """

    axis: int
    rules: tuple[Rule, ...]

    def keep(self, values: tuple[Any, ...], rows: Tensor) -> tuple[Any, ...]:
        """Reduce the values to these rows."""
        return tuple(
            rule.keep(value, rows)
            for rule, value in zip(self.rules, values, strict=True)
        )

    def agree(
        self,
        values: tuple[Any, ...],
        whole: tuple[Any, ...],
        rows: Sequence[int],
        tolerance: Tolerance,
    ) -> bool:
        """Tell whether the first rows of `values` are these rows of `whole`."""
        return all(
            _agree(rule, value, of_whole, rows, tolerance)
            for rule, value, of_whole in zip(self.rules, values, whole, strict=True)
        )


def _agree(
    rule: Rule, value: Any, whole: Any, rows: Sequence[int], tolerance: Tolerance
) -> bool:
    match rule:
        case Each(rules):
            parts = zip(rules, value, whole, strict=True)
            return all(_agree(*part, rows, tolerance) for part in parts)
        case Rows(axis):
            first = torch.arange(len(rows), device=whole.device)
            own = rule.keep(value, first)
            expected = rule.keep(whole, torch.tensor(rows, device=whole.device))
            return tolerance.agree(own, expected, axis, among=whole)
        case Constant() if isinstance(value, Tensor):
            return tolerance.agree(value, whole, None, among=whole)
        case Constant():
            return bool(value == whole)
    return True  # a number of rows is what it is


# Values of these types say all by being equal or not.
_PLAIN = (int, float, str, slice, NoneType, EllipsisType, torch.dtype, torch.device)

# Before the first stage only the input is alive.
INPUT = KeepRules(0, (Rows(0, 1),))


def classify(two: Any, three: Any, tolerance: Tolerance = EXACT) -> Rule:
    """Return the rule for a value that is `two` and `three` in these batches.

    Raises
    ------
    ValueError
        With the reason, if dropping samples has no clear meaning.

    MixedSamples
        If that is so because values differ by more than `tolerance`.
    """
    if isinstance(two, Tensor) and isinstance(three, Tensor):
        return _classify_tensors(two, three, tolerance)
    if isinstance(two, (tuple, list)) and len(two) == len(three):
        pairs = zip(two, three, strict=True)
        return Each(tuple(classify(a, b, tolerance) for a, b in pairs))
    if type(two) is not type(three) or not isinstance(two, _PLAIN):
        raise ValueError(
            f"is a {type(two).__name__} for two samples and a "
            f"{type(three).__name__} for three"
        )
    if two == three:
        return Constant()
    if isinstance(two, int) and two % 2 == 0 and three * 2 == two * 3:
        return Count(two // 2)
    raise ValueError(f"is {two!r} for two samples and {three!r} for three")


def _classify_tensors(two: Tensor, three: Tensor, tolerance: Tolerance) -> Rule:
    if two.shape == three.shape:
        if three.numel() == 0:
            raise ValueError("is empty for three samples, so what it is stays unknown")
        if tolerance.agree(two, three, axis=None, among=three):
            return Constant()
        raise MixedSamples(
            f"has the shape {tuple(two.shape)} for two samples and for three, with "
            "other values: it mixes the samples of a batch"
        )
    axes = [
        i for i in range(min(two.dim(), three.dim())) if two.shape[i] != three.shape[i]
    ]
    if two.dim() == three.dim() and len(axes) == 1:
        (axis,) = axes
        length = two.shape[axis]
        if length % 2 == 0 and three.shape[axis] * 2 == length * 3:
            first_two = three.narrow(axis, 0, length)
            if tolerance.agree(two, first_two, axis=axis, among=three):
                return Rows(axis, length // 2)
            raise MixedSamples(
                "has other values for a sample when the batch is larger: it mixes "
                "the samples of a batch"
            )
    raise ValueError(
        f"has the shape {tuple(two.shape)} for two samples and {tuple(three.shape)} "
        "for three"
    )
