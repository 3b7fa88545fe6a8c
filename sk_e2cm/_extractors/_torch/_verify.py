"""A few rows, run to learn what is alive at the cuts and to prove the cuts right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._cut import Stage
from ._freeze import share
from ._rows import KeepRules, Rows, classify, same

# Rows that differ by less, relative to their size, could hide that they are mixed.
_ALIKE = 0.1


@torch.inference_mode(False)  # in which tensors do not count their writes
@torch.no_grad()
def learn_keep_rules(
    stages: Sequence[Stage],
    names: Sequence[str],
    uncut: Callable[[Tensor], list[Any]],
    batch: Tensor,
) -> tuple[KeepRules, ...]:
    """Find out what is alive after each stage, and prove that dropping rows is right.

    Parameters
    ----------
    stages : sequence of callable
        Each takes the values that the one before it returned. The first of the
        values is the exit's own.

    names : sequence of str
        What messages call the outputs of the stages.

    uncut : callable
        Returns the outputs of all stages as the uncut network computes them.

    batch : tensor of shape (n_samples, ...)
        Three of its rows are run: all of them, two, and one alone.

    Returns
    -------
    tuple of KeepRules
        One for each stage.

    Raises
    ------
    ValueError
        If the network does not take such a batch, if a live value cannot be kept,
        if an exit has no row for each sample, if a sample alone gives something
        else than in a batch, or if the stages, with rows dropped and reordered or
        not, do not compute what the uncut network computes.
    """
    if len(batch) == 0:
        raise ValueError("X has no samples.")
    three = _three_rows(batch)
    try:
        expected = uncut(three.clone())
    except Exception as error:
        raise ValueError(
            f"The network does not take samples of shape {tuple(batch.shape[1:])} "
            f"and type {batch.dtype}: {error}"
        ) from error
    found = []
    last = torch.tensor([2], device=three.device)
    one: tuple[Any, ...] = (three[2:].clone(),)
    two: tuple[Any, ...] = (three[:2].clone(),)
    all_three: tuple[Any, ...] = (three.clone(),)
    for stage, name, value in zip(stages, names, expected, strict=True):
        all_three = _run_watching_aliases(stage, name, all_three)
        two = stage(*two)
        rules = _rules_after(name, two, all_three)
        _check_traced(name, all_three[0], value)
        one = _run_alone(stage, name, one, rules.keep(all_three, last))
        found.append(rules)
    _prove(stages, found, three, expected)
    return tuple(found)


def _check_traced(name: str, traced: Tensor, expected: Any) -> None:
    """Refuse a stage that is not what the network itself computes."""
    if isinstance(expected, Tensor) and expected.is_nested:
        return  # tokens packed by torch; what comes of them is compared later
    if not isinstance(expected, Tensor) or not same(traced, expected):
        raise ValueError(
            f"{name} is another value in the uncut network than in the one traced by "
            "torch.fx. Is it changed in place after it was computed, or does the way "
            "to it depend on types or contexts (isinstance, autocast)? Choose another "
            "exit, or split the network by hand with TorchExtractor.from_modules."
        )


def _three_rows(batch: Tensor) -> Tensor:
    """Choose three rows that differ: rows that are alike would hide a mix-up."""
    batch = batch.nan_to_num(0.0, 0.0, 0.0) if batch.is_floating_point() else batch
    chosen: list[Tensor] = []
    for row in itertools.chain(batch, batch[:1].flip(-1), batch[:1].roll(1, -1)):
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


def _run_watching_aliases(
    stage: Stage, name: str, values: tuple[Any, ...]
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
            f"The stage that ends with {name} writes in place into a value that is "
            "alive twice before it. Choose another exit before this stage."
        )
    return after


def _run_alone(
    stage: Stage, name: str, values: tuple[Any, ...], expected: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Run a stage for the last row alone; refuse another result than in the batch."""
    try:
        after = stage(*values)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be computed for one sample alone, as it must be when all "
            f"others have left: {error}"
        ) from error
    for a, b in zip(after, expected, strict=True):
        if isinstance(a, Tensor) and not same(a, b):
            raise ValueError(
                f"{name} gives another result for one sample alone than in a batch "
                f"(shapes {tuple(a.shape)} and {tuple(b.shape)}): it mixes samples, or "
                "squeezes an axis of length 1 away. Choose another exit, or mend it."
            )
    return after


def _rules_after(name: str, two: tuple[Any, ...], three: tuple[Any, ...]) -> KeepRules:
    own = three[0]
    if not isinstance(own, Tensor):
        raise ValueError(
            f"{name} returns a {type(own).__name__} and not one tensor. Name a "
            "module that returns the tensor you need."
        )
    if own.is_complex():
        raise ValueError(f"{name} returns complex numbers; name a module before it.")
    rules = []
    for i, (a, b) in enumerate(zip(two, three, strict=True)):
        try:
            rules.append(classify(a, b))
        except ValueError as error:
            what = f"A value that is alive after {name}" if i else name
            raise ValueError(
                f"{what} {error}. Samples cannot leave there: choose another exit, "
                "or mend the network (batch_first? BatchNorm without statistics? "
                "noise?)."
            ) from None
    match rules[0]:
        case Rows(axis, per_sample=1):
            return KeepRules(axis, tuple(rules))
    raise ValueError(
        f"{name} does not return one row for each sample: its shape is "
        f"{tuple(two[0].shape)} for two samples and {tuple(own.shape)} for three."
    )


def _prove(
    stages: Sequence[Stage],
    all_rules: Sequence[KeepRules],
    three: Tensor,
    expected: Sequence[Any],
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
        if not whole.is_nested and not same(
            values[0], whole.index_select(rules.axis, rows)
        ):
            raise ValueError(message)


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
