"""The lazy loop over the stages: confident samples leave, the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._extractors import Extractor, checked_output, state_and_output, through
from ._heads import Head
from ._thresholds import stays


class Step(NamedTuple):
    """One open exit, or the last stage: what it says of the samples that are there.

    Parameters
    ----------
    stage : int
        Which it is.

    rows : tensor of shape (n_there,) or None
        Which samples of the batch are there; None for all of them.

    proba : tensor of shape (n_there, n_classes)
        Probabilities of the classes.

    confidence, label : tensor of shape (n_there,)
        The largest probability, and whose it is.
    """

    stage: int
    rows: Tensor | None
    proba: Tensor
    confidence: Tensor
    label: Tensor


def run_lazily(
    extractor: Extractor,
    heads: Sequence[Head],
    X: NDArray[Any],
    thresholds: Sequence[Tensor | float | None],
) -> list[Step]:
    """Run one batch stage by stage; confident samples exit.

    A sample that has left is not computed again: it is dropped from the batch before
    the next stage runs. The loop stops when no sample is left. Stages between open
    exits are run as one, and nothing but whether samples stay leaves the device.

    Parameters
    ----------
    extractor : extractor
        With J + 1 stages.

    heads : sequence of length J + 1
        One for each stage, on the device of the extractor.

    X : ndarray of shape (n_samples, ...)
        One batch.

    thresholds : sequence of length J
        For each exit a number, or a tensor of one for each class, or None if its head
        is not to be run.

    Returns
    -------
    list of Step
        For each stage whose head has run, in order. A sample leaves at the last one
        where it is.
    """
    # Others may compute gradients, or keep what they have made.
    with torch.inference_mode(hasattr(extractor, "device")):
        return _run(extractor, heads, X, thresholds)


def _run(
    extractor: Extractor,
    heads: Sequence[Head],
    X: NDArray[Any],
    thresholds: Sequence[Tensor | float | None],
) -> list[Step]:
    names = extractor.stage_names
    has_device = hasattr(extractor, "device")
    advance = through(extractor)
    state, n, rows = extractor.begin(X), len(X), None
    steps: list[Step] = []
    done = 0
    for stage, needed in enumerate([*thresholds, None]):
        is_last = stage == len(thresholds)
        if needed is None and not is_last:
            continue
        returned = advance(state, done, stage)
        state, output = state_and_output(extractor, returned, "advance_through")
        output = checked_output(extractor, output, names[stage], n)
        proba = heads[stage].proba(output)
        confidence, label = proba.max(dim=1)
        steps.append(Step(stage, rows, proba, confidence, label))
        if needed is None:
            break
        done = stage + 1
        if n == 1:  # no need of rows
            if not stays(confidence.item(), label, needed):
                break
            continue
        kept = stays(confidence, label, needed).nonzero().squeeze(1)
        n_before, n = n, kept.shape[0]
        if n == 0:
            break
        if n < n_before:
            rows = kept if rows is None else rows[kept]
            state = extractor.keep(state, kept if has_device else kept.numpy())
    return steps


class LastSteps:
    """The step at which each sample of a batch leaves.

    Parameters
    ----------
    steps : list of Step
        As `run_lazily` returned them.

    Attributes
    ----------
    stage : ndarray of int, shape (n_samples,)
        The stage of that step.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        if steps[-1].rows is None:  # everybody is there to the last
            self._steps = steps[-1:]
            self.stage = np.full(steps[-1].label.shape, steps[-1].stage)
            return
        everybody = sum(step.rows is None for step in steps) - 1
        self._steps = steps[everybody:]
        counts = [step.label.shape[0] for step in self._steps]
        later = [step.rows for step in self._steps if step.rows is not None]
        rows = torch.cat(later).cpu().numpy()
        # Of equal rows NumPy assigns the last.
        self._row = np.arange(counts[0])
        self._row[rows] = np.arange(counts[0], sum(counts))
        self.stage = np.repeat([step.stage for step in self._steps], counts)[self._row]

    def of(self, field: str) -> NDArray[Any]:
        """Return the "proba", "confidence" or "label" of each sample at its step."""
        values = [getattr(step, field) for step in self._steps]
        if len(values) == 1:
            return values[0].cpu().numpy()
        return torch.cat(values).cpu().numpy()[self._row]
