"""A few rows, run to learn what is alive at the cuts and to prove the cuts right."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._cut import Chain, Stage
from ._live import Cut, Rows, classify, same


@torch.inference_mode(False)  # in which tensors do not count their writes
@torch.no_grad()
def learn_cuts(chain: Chain, names: Sequence[str], batch: Tensor) -> tuple[Cut, ...]:
    """Find out what is alive after each stage, and prove that dropping rows is right.

    Parameters
    ----------
    chain : Chain
        The stages, and the network that they should compute.

    names : sequence of str
        What messages call the outputs of the stages.

    batch : tensor of shape (n_samples, ...)
        Three of its rows are run: all of them, two, and one alone.

    Returns
    -------
    tuple of Cut
        One for each stage.

    Raises
    ------
    ValueError
        If the network does not take such a batch, if a live value cannot be kept,
        if an exit has no row for each sample, if a sample alone gives something
        else than in a batch, or if the stages with rows dropped and reordered do
        not compute what the uncut network computes.
    """
    if len(batch) == 0:
        raise ValueError("X has no samples.")
    three = _three_rows(batch)
    try:
        expected = chain.whole(three.clone())
    except Exception as error:
        raise ValueError(
            f"The network does not take samples of shape {tuple(batch.shape[1:])} "
            f"and type {batch.dtype}: {error}"
        ) from error
    cuts = []
    last = torch.tensor([2], device=three.device)
    one: tuple[Any, ...] = (three[2:].clone(),)
    two: tuple[Any, ...] = (three[:2].clone(),)
    all_three: tuple[Any, ...] = (three.clone(),)
    for stage, name in zip(chain.stages, names, strict=True):
        all_three = _run_watching_aliases(stage, name, all_three)
        two = stage(*two)
        cut = _cut_after(name, two, all_three)
        one = _run_alone(stage, name, one, cut.keep(all_three, last))
        cuts.append(cut)
    _prove(chain.stages, cuts, three, expected)
    return tuple(cuts)


def _three_rows(batch: Tensor) -> Tensor:
    """Choose three rows that differ: equal rows would hide a mix-up."""
    batch = batch.nan_to_num(0.0, 0.0, 0.0) if batch.is_floating_point() else batch
    chosen: list[Tensor] = []
    for row in itertools.chain(batch, batch[:1].flip(-1), batch[:1].roll(1, -1)):
        if not any(torch.equal(row, other) for other in chosen):
            chosen.append(row)
        if len(chosen) == 3:
            return torch.stack(chosen)
    three = torch.stack([*chosen, *[chosen[0]] * (3 - len(chosen))])
    if three.is_floating_point():  # a blank batch: move its rows apart
        three = three + torch.linspace(0, 1, three.numel()).to(three).view_as(three)
    return three


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


def _cut_after(name: str, two: tuple[Any, ...], three: tuple[Any, ...]) -> Cut:
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
            return Cut(axis, tuple(rules))
    raise ValueError(
        f"{name} does not return one row for each sample: its shape is "
        f"{tuple(two[0].shape)} for two samples and {tuple(own.shape)} for three."
    )


def _prove(
    stages: Iterable[Stage], cuts: Sequence[Cut], three: Tensor, expected: Any
) -> None:
    """Run the stages with another choice of rows after each, and compare."""
    message = (
        "The stages do not compute what the uncut network computes once samples have "
        "left. Choose other exits, or split the network by hand with "
        "TorchExtractor.from_modules."
    )
    values: tuple[Any, ...] = (three.clone(),)
    rows = torch.arange(3, device=three.device)
    for stage, cut in zip(stages, cuts, strict=True):
        # 3 rows, then 2, then 3 again: the number changes at every cut.
        choice = [2, 0] if len(rows) == 3 else [1, 0, 1]
        kept = torch.tensor(choice, device=three.device)
        try:
            values = cut.keep(stage(*values), kept)
        except Exception as error:
            raise ValueError(message) from error
        rows = rows[kept]
    if not isinstance(expected, Tensor) or not same(
        values[0], expected.index_select(cuts[-1].axis, rows)
    ):
        raise ValueError(message)
