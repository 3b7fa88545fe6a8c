"""A few rows, run to learn what is alive at the cuts and to prove the cuts right."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._tolerance import IN_DOUBLE, LENIENT, STRICT, MixedSamples, Precision, Tolerance
from ._cut import Stage
from ._double import InDouble, in_double
from ._rows import KeepRules, Rows, classify
from ._staged import StagedNetwork, run_uncut
from ._state import StatefulNetwork, refuse_state

T = TypeVar("T")

# The operations are the same, and seldom computed by other algorithms. A network that
# chooses a lower precision itself would be the same in double.
_AS_TRACED = Tolerance(1e-3, 1e-5, 1e-4, 16)

# Rows that differ by less, relative to their size, could hide that they are mixed.
_ALIKE = 0.1


def decide(network: StagedNetwork, check: Callable[[StagedNetwork, Precision], T]) -> T:
    """Check a network in its own precision and, in case of doubt, in double precision.

    The first is the quicker by far, and rules out most of what goes wrong; the second
    tells rounding from what is wrong. What cannot be computed in double precision is
    checked in its own once more, with more allowed for rounding.

    Parameters
    ----------
    network : StagedNetwork
        The network.

    check : callable
        Takes a network and what rounding may do in it. It raises MixedSamples where
        two computations differ by more.
    """
    if network.is_double:
        return check(network, IN_DOUBLE)
    with contextlib.suppress(MixedSamples):
        return check(network, STRICT)
    try:
        with InDouble():
            return check(in_double(network), IN_DOUBLE)
    except MixedSamples:
        raise
    except Exception:  # Anything may be raised by what knows single precision only.
        return check(network, LENIENT)


@torch.inference_mode(False)  # in which tensors do not count their writes
@torch.no_grad()
def learn_keep_rules(network: StagedNetwork, three: Tensor) -> tuple[KeepRules, ...]:
    """Find out what is alive after each stage, and prove that dropping rows is right.

    Parameters
    ----------
    network : StagedNetwork
        The network.

    three : tensor of shape (3, ...)
        Rows that it takes. They are run together, two of them, and one alone.

    Returns
    -------
    tuple of KeepRules
        One for each stage.

    Raises
    ------
    ValueError
        If a live value cannot be kept, if an exit has no row for each sample, if a
        sample in other company, or alone, gives something else, or if the stages, with
        rows dropped and reordered or not, do not compute what the uncut network
        computes.
    """
    return decide(network, partial(_learn, three=three))


@torch.inference_mode(False)
@torch.no_grad()
def three_rows_taken_by(network: StagedNetwork, batch: Tensor) -> Tensor:
    """Return rows that the network takes, from a batch or made of it.

    Raises
    ------
    ValueError
        If the network does not take such a batch, draws random numbers or keeps
        something between calls.
    """
    if len(batch) == 0 or batch.numel() == 0:
        raise ValueError(
            f"X has no samples, or empty ones: its shape is {batch.shape}."
        )
    failure: Exception | None = None
    for three in map(network.laid_out, _candidates(batch)):
        try:
            refuse_state(network.whole, three, network.names[-1])
        except StatefulNetwork:
            raise
        except Exception as error:
            failure = failure or error
        else:
            return three
    raise ValueError(
        f"The network does not take samples of shape {tuple(batch.shape[1:])} "
        f"and type {batch.dtype}: {failure}"
    ) from failure


def _candidates(batch: Tensor) -> Iterator[Tensor]:
    """Yield batches of three rows: such as differ, and if they are refused, one row."""
    yield _three_rows(batch)
    yield batch[:1].repeat_interleave(3, 0)


def _three_rows(batch: Tensor) -> Tensor:
    """Choose three rows that differ: rows that are alike would hide a mix-up.

    Where the batch has fewer, rows are made up, with other means and maxima.
    """
    batch = batch.nan_to_num(0.0, 0.0, 0.0) if batch.is_floating_point() else batch
    first = batch[:1]
    made_up = [first.flip(-1) / 2, first.roll(1, -1) / 4]
    if not batch.is_floating_point():
        # Of token ids only those that are there are sure to exist.
        made_up = [first.flip(-1), torch.full_like(first, int(first.flatten()[0]))]
    chosen: list[Tensor] = []
    for row in itertools.chain(batch, *made_up):
        if not any(_alike(row, other) for other in chosen):
            chosen.append(row)
        if len(chosen) == 3:
            return torch.stack(chosen)
    three = torch.stack([*chosen, *[chosen[0]] * (3 - len(chosen))])
    return _moved_apart(three)


def _alike(row: Tensor, other: Tensor) -> bool:
    if not row.is_floating_point():
        return torch.equal(row, other)
    return bool((row - other).abs().max() <= _ALIKE * row.abs().max())


def _moved_apart(three: Tensor) -> Tensor:
    """Make the rows of a batch differ that is blank, or nearly the same everywhere."""
    steps = torch.arange(three.numel(), device=three.device).view_as(three)
    if three.is_floating_point():
        scale = three.abs().max().clamp(min=1.0)
        return three + scale * (steps / three.numel()).to(three.dtype)
    # Of token ids only 0 and 1 are sure to exist, beside those that are there.
    return torch.where((steps + steps // three[0].numel()) % 3 == 0, three == 0, three)


def _learn(
    network: StagedNetwork, precision: Precision, three: Tensor
) -> tuple[KeepRules, ...]:
    three = network.laid_out(three)
    expected = run_uncut(network.whole, network.names, three.clone())
    same_size, other_size = precision
    found = []
    all_three: tuple[Any, ...] = (three.clone(),)
    others: tuple[Any, ...] = (three[[0, 1, 0]],)
    two: tuple[Any, ...] = (three[:2].clone(),)
    one: tuple[Any, ...] = (three[2:].clone(),)
    for stage, label, value in zip(
        network.stages, network.labels, expected, strict=True
    ):
        all_three = _run_watching_aliases(stage, label, all_three)
        two = stage(*two)
        rules = rules_after(label, two, all_three, other_size)
        others = stage(*others)
        if not rules.agree(others, all_three, [0, 1], same_size):
            raise MixedSamples(
                f"{label} has other values for a sample when its batch holds other "
                f"samples beside it: it mixes the samples of a batch. {_ADVICE}"
            )
        _check_traced(label, all_three[0], value, rules.axis)
        one = _run_alone(stage, label, one)
        if not rules.agree(one, all_three, [2], other_size):
            raise MixedSamples(
                f"{label} gives another result for one sample alone than in a batch "
                f"(its shape is {tuple(one[0].shape)}): it mixes samples, or squeezes "
                "an axis of length 1 away. Choose another exit, or mend it."
            )
        found.append(rules)
    prove(network.stages, found, three, expected, other_size)
    return tuple(found)


_ADVICE = (
    "Samples cannot leave there: choose another exit, or mend the network "
    "(batch_first? BatchNorm without statistics? noise?)."
)


def _check_traced(label: str, traced: Tensor, expected: Any, axis: int) -> None:
    """Refuse a stage that is not what the network itself computes."""
    if isinstance(expected, Tensor) and expected.is_nested:
        return  # tokens packed by torch; what comes of them is compared later
    if not isinstance(expected, Tensor) or not _AS_TRACED.agree(
        traced, expected, axis, among=expected
    ):
        raise ValueError(
            f"{label} is another value in the uncut network than in the one traced by "
            "torch.fx. Is it changed in place after it was computed, or does the way "
            "to it depend on types or contexts (isinstance, autocast)? Choose another "
            "exit, or split the network by hand with TorchExtractor.from_modules."
        )


def _run_watching_aliases(
    stage: Stage, label: str, values: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Run a stage; refuse it if it writes into memory that two live values share.

    Once rows are dropped each value has memory of its own, and the other one would
    miss the write.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    writes = [tensor._version for tensor in tensors]
    after = stage(*values)
    written = [
        tensor.untyped_storage().data_ptr()
        for tensor, before in zip(tensors, writes, strict=True)
        if tensor._version != before
    ]
    if len(set(written)) < len(written):
        raise ValueError(
            f"The stage that ends with {label} writes in place into a value that is "
            "alive twice before it. Choose another exit before this stage."
        )
    return after


def _run_alone(stage: Stage, label: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    try:
        return stage(*values)
    except Exception as error:
        raise ValueError(
            f"{label} cannot be computed for one sample alone, as it must be when all "
            f"others have left: {error}"
        ) from error


def rules_after(
    label: str, two: tuple[Any, ...], three: tuple[Any, ...], tolerance: Tolerance
) -> KeepRules:
    own = three[0]
    if not isinstance(own, Tensor):
        raise ValueError(
            f"{label} returns a {type(own).__name__} and not one tensor. Name a "
            "module that returns the tensor you need."
        )
    if own.is_complex():
        raise ValueError(f"{label} returns complex numbers; name a module before it.")
    rules = []
    for i, (a, b) in enumerate(zip(two, three, strict=True)):
        try:
            rules.append(classify(a, b, tolerance))
        except ValueError as error:
            what = f"A value that is alive after {label}" if i else label
            raise type(error)(f"{what} {error}. {_ADVICE}") from None
    match rules[0]:
        case Rows(axis, per_sample=1):
            return KeepRules(axis, tuple(rules))
    raise ValueError(
        f"{label} does not return one row for each sample: its shape is "
        f"{tuple(two[0].shape)} for two samples and {tuple(own.shape)} for three."
    )


def prove(
    stages: Sequence[Stage],
    all_rules: Sequence[KeepRules],
    three: Tensor,
    expected: Sequence[Any],
    tolerance: Tolerance,
) -> None:
    """Run the stages with another choice of rows after each, and compare them all."""
    message = (
        "The stages do not compute what the uncut network computes once samples have "
        "left. Choose other exits, or split the network by hand with "
        "TorchExtractor.from_modules."
    )
    values: tuple[Any, ...] = (three.clone(),)
    rows = torch.arange(3, device=three.device)
    for stage, rules, whole in zip(stages, all_rules, expected, strict=True):
        # 3 rows, then 2, then 3 again: the number changes at every cut.
        choice = [2, 0] if len(rows) == 3 else [1, 0, 1]
        kept = torch.tensor(choice, device=three.device)
        try:
            values = rules.keep(stage(*values), kept)
        except Exception as error:
            raise ValueError(message) from error
        rows = rows[kept]
        if not whole.is_nested and not tolerance.agree(
            values[0], whole.index_select(rules.axis, rows), rules.axis, among=whole
        ):
            raise MixedSamples(message)
