"""What is alive between two stages, and what dropping samples does to it.

Each live value is met twice, in a batch of two rows and in a batch of three whose
first two rows are the same. What differs tells what it is: one row per sample, the
number of rows, or a constant. Anything else is refused, since nobody could say
what is left of it when samples leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """`per_sample` neighbouring entries along `axis` belong to each sample."""

    axis: int
    per_sample: int

    def keep(self, value: Tensor, rows: Tensor) -> Tensor:
        if self.per_sample > 1:
            within = torch.arange(self.per_sample, device=rows.device)
            rows = (rows[:, None] * self.per_sample + within).flatten()
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
    """A tuple or list of values, each with a rule of its own."""

    rules: tuple[Rule, ...]

    def keep(self, value: Sequence[Any], rows: Tensor) -> tuple[Any, ...] | list[Any]:
        kept = [rule.keep(v, rows) for rule, v in zip(self.rules, value, strict=True)]
        return kept if isinstance(value, list) else tuple(kept)


Rule = Rows | Count | Constant | Each
Stage = Callable[..., tuple[Any, ...]]


class Cut(NamedTuple):
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


# Before the first stage only the input is alive.
INPUT = Cut(0, (Rows(0, 1),))


@torch.inference_mode()
def learn_cuts(
    stages: Sequence[Stage],
    names: Sequence[str],
    whole: Callable[[Tensor], Any],
    batch: Tensor,
) -> tuple[Cut, ...]:
    """Find out what is alive after each stage, and prove that dropping rows is right.

    Parameters
    ----------
    stages : sequence of callable
        Each takes the values that the one before it returned. The first of the
        values is the exit's own.

    names : sequence of str
        What to call the stages.

    whole : callable
        The uncut network, up to the end of the last stage.

    batch : tensor of shape (n_samples, ...)
        Three of its rows are run.

    Returns
    -------
    tuple of Cut
        One for each stage.

    Raises
    ------
    ValueError
        If the network does not take such a batch, if a live value cannot be kept,
        if an exit has no row for each sample, or if the stages with rows dropped
        and reordered do not compute what the uncut network computes.
    """
    three = _three_rows(batch)
    try:
        expected = whole(three.clone())
    except Exception as error:
        raise ValueError(
            f"The network does not take samples of shape {tuple(batch.shape[1:])} "
            f"and type {batch.dtype}: {error}"
        ) from error
    cuts = []
    a: tuple[Any, ...] = (three[:2].clone(),)
    b: tuple[Any, ...] = (three.clone(),)
    for stage, name in zip(stages, names, strict=True):
        a, b = stage(*a), stage(*b)
        cuts.append(_cut_after(name, a, b))
    _prove(stages, cuts, three, expected)
    return tuple(cuts)


def _three_rows(batch: Tensor) -> Tensor:
    """Choose three rows, different ones if there are: equal rows hide a mix-up."""
    if len(batch) >= 3:
        return batch[:: (len(batch) - 1) // 2][:3]
    return torch.cat([batch, batch.flip(-1), batch.roll(1, -1)])[:3]


def _cut_after(name: str, two: tuple[Any, ...], three: tuple[Any, ...]) -> Cut:
    own = three[0]
    if not isinstance(own, Tensor):
        raise ValueError(
            f"{name!r} returns a {type(own).__name__} and not one tensor. Name a "
            "module that returns the tensor you need."
        )
    rules = []
    for i, (a, b) in enumerate(zip(two, three, strict=True)):
        try:
            rules.append(classify(a, b))
        except ValueError as error:
            what = f"A value that is alive after {name!r}" if i else f"{name!r}"
            raise ValueError(
                f"{what} {error}. Samples cannot leave there; choose another exit."
            ) from None
    match rules[0]:
        case Rows(axis, per_sample=1):
            return Cut(axis, tuple(rules))
    raise ValueError(
        f"{name!r} does not return one row for each sample: its shape is "
        f"{tuple(two[0].shape)} for two samples and {tuple(own.shape)} for three."
    )


def _prove(
    stages: Sequence[Stage], cuts: Sequence[Cut], three: Tensor, expected: Any
) -> None:
    """Run the stages with another choice of rows after each, and compare."""
    values: tuple[Any, ...] = (three.clone(),)
    rows = torch.arange(3, device=three.device)
    for stage, cut in zip(stages, cuts, strict=True):
        # 3 rows, then 2, then 3 again: the number changes at every cut.
        choice = [2, 0] if len(rows) == 3 else [1, 0, 1]
        kept = torch.tensor(choice, device=three.device)
        values = cut.keep(stage(*values), kept)
        rows = rows[kept]
    if not isinstance(expected, Tensor) or not same(
        values[0], expected.index_select(cuts[-1].axis, rows)
    ):
        raise ValueError(
            "The stages do not compute what the uncut network computes once samples "
            "have left. Choose other exits, or split the network by hand with "
            "TorchExtractor.from_modules."
        )


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
    if type(two) is type(three):
        if two == three:
            return Constant()
        if isinstance(two, int) and two % 2 == 0 and three * 2 == two * 3:
            return Count(two // 2)
    raise ValueError(f"is {two!r} for two samples and {three!r} for three")


def _classify_tensors(two: Tensor, three: Tensor) -> Rule:
    if two.shape == three.shape:
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
    # Batches of other sizes run other kernels; a wrong row errs by far more than
    # the root of the precision.
    finite = b[b.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    tolerance = 4 * torch.finfo(a.dtype).eps ** 0.5 * scale
    return torch.allclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True)
