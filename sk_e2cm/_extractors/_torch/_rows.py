"""What is alive between two stages, and what dropping samples does to it.

Each live value is computed twice, in a batch of two rows and in a batch of three whose
first two rows are the same. What differs tells what it is: one row per sample, the
number of rows, or a constant. Anything else is refused, since nobody could say
what is left of it when samples leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType, NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx


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


@dataclass(frozen=True)
class Count:
    """A multiple of the number of samples."""

    per_sample: int

    def keep(self, value: int, rows: Tensor) -> int:
        return self.per_sample * len(rows)


@dataclass(frozen=True)
class Constant:
    """The same for every batch."""

    def keep(self, value: Any, rows: Tensor) -> Any:
        return value


@dataclass(frozen=True)
class Each:
    """A tuple or list, of whatever type, with a rule for each of its values."""

    rules: tuple[Rule, ...]

    def keep(self, value: Any, rows: Tensor) -> Any:
        kept = [rule.keep(v, rows) for rule, v in zip(self.rules, value, strict=True)]
        make = getattr(value, "_make", type(value))  # a named tuple has names to keep
        return make(kept)


Rule = Rows | Count | Constant | Each


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


# Values of these types say all by being equal or not.
_PLAIN = (int, float, str, slice, NoneType, EllipsisType, torch.dtype, torch.device)

# Before the first stage only the input is alive.
INPUT = KeepRules(0, (Rows(0, 1),))


def classify(two: Any, three: Any) -> Rule:
    """Return the rule for a value that is `two` and `three` in these batches.

    Raises
    ------
    ValueError
        With the reason, if dropping samples has no clear meaning.
    """
    if isinstance(two, Tensor) and isinstance(three, Tensor):
        return _classify_tensors(two, three)
    if isinstance(two, (tuple, list)) and len(two) == len(three):
        return Each(tuple(classify(a, b) for a, b in zip(two, three, strict=True)))
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


def _classify_tensors(two: Tensor, three: Tensor) -> Rule:
    if two.shape == three.shape:
        if three.numel() == 0:
            raise ValueError("is empty for three samples, so what it is stays unknown")
        if same(two, three):
            return Constant()
        raise ValueError(
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
            if same(two, three.narrow(axis, 0, length)):
                return Rows(axis, length // 2)
            raise ValueError(
                "has other values for a sample when the batch is larger: it mixes "
                "the samples of a batch"
            )
    raise ValueError(
        f"has the shape {tuple(two.shape)} for two samples and {tuple(three.shape)} "
        "for three"
    )


def same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors agree but for rounding."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    finite = b[b.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    # Batches of other sizes run other kernels, and rounding adds up over the layers;
    # a wrong row errs by far more.
    eps = torch.finfo(a.dtype).eps
    tolerance = min(4 * eps**0.5, max(16 * eps, 1e-3)) * scale
    return torch.allclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True)
