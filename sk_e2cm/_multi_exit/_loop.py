"""The lazy loop over the stages: confident samples leave, the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._extractors import (
    Extractor,
    checked_output,
    device_of,
    has,
    state_and_output,
    through,
)
from .._utils._memory import is_out_of_memory, release_memory, warn_of_smaller_batches
from ._heads import Head
from ._thresholds import stays

Rows = slice | Tensor

# With fewer samples at once a CPU takes longer for each; with more than the second
# number it takes no less, since they leave its caches.
_ENOUGH = 32
_FULL = 64


class Step(NamedTuple):
    """One open exit, or the last stage: what it says of samples that are there.

    Parameters
    ----------
    stage : int
        Which it is.

    rows : slice, or tensor of shape (n_there,)
        Which samples of X these are.

    proba : tensor of shape (n_there, n_classes)
        Probabilities of the classes.

    largest : tuple of tensor, each of shape (n_there,), or None
        The largest probability, and whose it is; None where that was not needed.
    """

    stage: int
    rows: Rows
    proba: Tensor
    largest: tuple[Tensor, Tensor] | None

    @property
    def confidence(self) -> Tensor:
        """The largest probability, shape (n_there,)."""
        return (self.largest or self.proba.max(dim=1))[0]

    @property
    def label(self) -> Tensor:
        """Whose it is, shape (n_there,)."""
        return (self.largest or self.proba.max(dim=1))[1]


class Group(NamedTuple):
    """Samples that are computed together.

    Parameters
    ----------
    state : Any
        The extractor's.

    rows : slice, or tensor of shape (size,)
        Which samples of X these are.

    size : int
        How many.

    carried : dict of int to tensor of shape (size, n_features)
        The features of stages before, as far as heads to come take them.
    """

    state: Any
    rows: Rows
    size: int
    carried: Mapping[int, Tensor] = MappingProxyType({})


class LazyLoop:
    """Runs samples stage by stage; confident ones exit, the others are joined.

    A sample that has left is not computed again: it is dropped before the next stage
    runs. Stages between open exits are run as one, and nothing but how many samples
    stay leaves the device. Where few of a batch stay, they wait for those of the next
    batches, so that later stages run full; in this way one batch at most waits at each
    open exit. An extractor without `join` runs batch by batch.

    Parameters
    ----------
    extractor : extractor
        With J + 1 stages.

    heads : sequence of length J + 1
        One for each stage, on the device of the extractor.

    thresholds : sequence of length J
        For each exit a number, or a tensor of one for each class, or None if its head
        is not to be run.

    X : ndarray of shape (n_samples, ...)
        Samples.

    batch_size : int
        Samples run at once.

    halves : bool, default=True
        Whether to run half of the samples at once, and so on, where the memory of the
        device does not hold more.
    """

    def __init__(
        self,
        extractor: Extractor,
        heads: Sequence[Head],
        thresholds: Sequence[Tensor | float | None],
        X: NDArray[Any],
        batch_size: int,
        *,
        halves: bool = True,
    ) -> None:
        self._extractor = extractor
        self._heads = heads
        self._X = X
        needed = [*thresholds, None]
        last = len(thresholds)
        asked = [s for s in range(last) if needed[s] is not None] + [last]
        carried = {stage: heads[stage].carried for stage in asked}
        self._stops = sorted({*asked, *chain(*carried.values())})
        self._needed = [needed[stop] for stop in self._stops]
        self._asked = [stop in carried for stop in self._stops]
        # Whose features are wanted after each stop.
        self._wanted = [
            {s for head, of_head in carried.items() if head > stop for s in of_head}
            for stop in self._stops
        ]
        self._carries = any(self._wanted)
        self._advance = through(extractor)
        self._names = extractor.stage_names
        self._has_device = hasattr(extractor, "device")
        self._device = device_of(extractor)
        self._set_size(batch_size)
        self._joins = len(X) > batch_size and has(extractor, "join")
        self._waiting: list[list[Group]] = [[] for _ in self._stops]
        self._running: Rows = slice(0, 0)
        self._n_running = 0
        self._steps: list[Step] = []
        self._halves = halves
        self._is_exhausted = False

    def _set_size(self, n_samples: int) -> None:
        on_cpu = self._device.type == "cpu"
        self._size = n_samples
        self._full = min(n_samples, _FULL) if on_cpu else n_samples
        self._enough = min(n_samples, _ENOUGH) if on_cpu else n_samples

    def run(self) -> Iterator[list[Step]]:
        """Yield the steps in the order in which they are made.

        A sample leaves at the last one where it is.
        """
        start = 0
        while start < len(self._X):
            rows = slice(start, min(start + self._size, len(self._X)))
            start = rows.stop
            yield from self._without_exhaustion(rows, is_last=start == len(self._X))

    def _without_exhaustion(self, rows: Rows, is_last: bool) -> Iterator[list[Step]]:
        """Run some samples, in smaller batches if the memory does not hold them."""
        try:
            yield self._run(rows, is_last)
            return
        except Exception as error:
            waiting = sum(group.size for groups in self._waiting for group in groups)
            is_one = self._n_running + waiting == 1
            if not self._halves or is_one or not is_out_of_memory(error):
                raise
        # Not within the except clause, which keeps the tensors of the stack alive.
        self._set_size(max(min(self._size, self._n_running) // 2, 1))
        again = self._unfinished()
        release_memory(self._device)
        if not self._is_exhausted:
            warn_of_smaller_batches()
        self._is_exhausted = True
        yield self._steps  # of those who have left before
        while len(again):
            part, again = again[: self._size], again[self._size :]
            yield from self._without_exhaustion(part, is_last and not len(again))

    def _unfinished(self) -> Tensor:
        """Forget all that is under way; return which samples that were."""
        groups = [group for groups in self._waiting for group in groups]
        rows = [self._running, *(group.rows for group in groups)]
        self._waiting = [[] for _ in self._stops]
        return torch.cat([self._as_tensor(each).cpu() for each in rows]).unique()

    def _run(self, rows: Rows, is_last: bool) -> list[Step]:
        batch = self._X[rows if isinstance(rows, slice) else rows.numpy()]
        self._steps, self._running, self._n_running = [], rows, len(batch)
        # Others may compute gradients, or keep what they have made.
        with torch.inference_mode(self._has_device):
            if isinstance(rows, Tensor):
                rows = rows.to(self._device)
            self._go(Group(self._extractor.begin(batch), rows, len(batch)), 0)
            if is_last:
                for stop in range(len(self._stops)):
                    if self._waiting[stop]:
                        group = self._join(self._waiting[stop])
                        self._waiting[stop] = []
                        self._go(group, stop + 1)
        return self._steps

    def _go(self, group: Group | None, stop: int) -> None:
        """Run a group from stop to stop until all have left, or wait."""
        while group is not None:
            self._running, self._n_running = group.rows, group.size
            stage, needed = self._stops[stop], self._needed[stop]
            first = self._stops[stop - 1] + 1 if stop else 0
            returned = self._advance(group.state, first, stage)
            state, output = state_and_output(
                self._extractor, returned, "advance_through"
            )
            output = checked_output(
                self._extractor, output, self._names[stage], group.size
            )
            group = group._replace(state=state)
            if self._carries:
                proba, group = self._remembering(stop, group, output)
                if proba is None:
                    stop += 1
                    continue
            else:
                proba = self._heads[stage].proba(output)
            if group.size == 1 or needed is None:
                self._steps.append(Step(stage, group.rows, proba, None))
                if needed is None or not _stays_alone(proba, needed):
                    return
                if self._joins:
                    group = self._next(
                        stop, group, torch.tensor([0], device=proba.device)
                    )
            else:
                confidence, label = proba.max(dim=1)
                step = Step(stage, group.rows, proba, (confidence, label))
                self._steps.append(step)
                kept = stays(confidence, label, needed).nonzero().squeeze(1)
                group = self._next(stop, group, kept)
            stop += 1

    def _remembering(
        self, stop: int, group: Group, output: Any
    ) -> tuple[Tensor | None, Group]:
        """Return the probabilities, if they are asked for, and who carries what on."""
        stage = self._stops[stop]
        head = self._heads[stage]
        known = {**group.carried, stage: head.pooled(output)}
        proba = None
        if self._asked[stop]:
            proba = head.proba_of([known[s] for s in (*head.carried, stage)])
        wanted = {s: known[s] for s in known if s in self._wanted[stop]}
        return proba, group._replace(carried=wanted)

    def _next(self, stop: int, group: Group, kept: Tensor) -> Group | None:
        """Return who goes on: who has stayed, or those together with who has waited."""
        n = kept.shape[0]
        if n == 0:
            return None
        if not self._joins or n >= self._enough:
            return self._keep(group, kept)
        waiting = self._waiting[stop]
        missing = self._full - sum(each.size for each in waiting)
        if n < missing:
            waiting.append(self._keep(group, kept))
            return None
        full = [*waiting, self._keep(group, kept[:missing])]
        rest = [self._keep(group, kept[missing:])] if n > missing else []
        # Nobody is taken from those who wait before the memory has held them all.
        joined = self._join(full)
        self._waiting[stop] = rest
        return joined

    def _keep(self, group: Group, kept: Tensor) -> Group:
        n = kept.shape[0]
        if n == group.size:
            return group
        rows: Any = kept if self._has_device else kept.numpy()
        state = self._extractor.keep(group.state, rows)
        carried = {stage: f[kept] for stage, f in group.carried.items()}
        if isinstance(group.rows, Tensor):
            return Group(state, group.rows[kept], n, carried)
        start = group.rows.start
        return Group(state, kept + start if start else kept, n, carried)

    def _join(self, groups: list[Group]) -> Group:
        if len(groups) == 1:
            return groups[0]
        rows = torch.cat([self._as_tensor(group.rows) for group in groups])
        carried = {
            stage: torch.cat([group.carried[stage] for group in groups])
            for stage in groups[0].carried
        }
        extractor: Any = self._extractor
        state = extractor.join([group.state for group in groups])
        return Group(state, rows, len(rows), carried)

    def _as_tensor(self, rows: Rows) -> Tensor:
        if isinstance(rows, slice):
            return torch.arange(rows.start, rows.stop, device=self._device)
        return rows


def _stays_alone(proba: Tensor, needed: Tensor | float) -> bool:
    """Tell whether the only sample stays; of few numbers Python finds the largest."""
    (values,) = proba.tolist()
    confidence = max(values)
    return bool(stays(confidence, values.index(confidence), needed))


class StepsOnHost:
    """Steps whose values are arrays.

    Parameters
    ----------
    steps : sequence of Step
        As `LazyLoop` yields them.

    every : bool, default=True
        Whether to keep steps that others follow for the same samples.

    first_row : int, default=0
        What to add to the numbers of the samples.

    Attributes
    ----------
    stages : list of int
        The stage of each step.

    rows : list of slice or ndarray
        Which samples are there.
    """

    def __init__(
        self, steps: Sequence[Step], *, every: bool = True, first_row: int = 0
    ) -> None:
        following = [step.rows for step in steps[1:]]
        self._steps = [
            step
            for step, rows in zip_longest(steps, following)
            if every or rows is not step.rows
        ]
        self.stages = [step.stage for step in self._steps]
        tensors = [s.rows for s in self._steps if isinstance(s.rows, Tensor)]
        arrays = iter(_to_host(tensors))
        self.rows: list[slice | NDArray[np.intp]] = []
        for step in self._steps:
            if isinstance(step.rows, slice):
                start, stop = step.rows.start + first_row, step.rows.stop + first_row
                self.rows.append(slice(start, stop))
            else:
                self.rows.append(next(arrays) + first_row)

    def of(self, field: str) -> list[NDArray[Any]]:
        """Return the "proba", "confidence" or "label" of each step."""
        return _to_host([getattr(step, field) for step in self._steps])


def _to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Return arrays; from another device all are copied at once."""
    if len(tensors) > 1 and tensors[0].device.type != "cpu":
        sizes = [len(tensor) for tensor in tensors]
        together = torch.cat(list(tensors)).cpu().numpy()
        return np.split(together, np.cumsum(sizes)[:-1])
    return [tensor.cpu().numpy() for tensor in tensors]
