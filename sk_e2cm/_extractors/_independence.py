"""The check, on real samples, that what a stage computes for a sample is its own.

Samples leave, and the others go on in smaller batches. So it must not matter to a
sample who else is there, where it stands in the batch, or what was computed before.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._utils._arrays import SampleRows, as_floats
from ._outputs import checked_output, state_and_output
from ._protocol import Extractor, has, optional, through
from ._tolerance import EXACT, LENIENT, MixedSamples, Precision, Tolerance

# Running so many in several ways takes about one percent of a pass over 10,000.
_MOST_SAMPLES = 64
_MOST_ALONE = 8

# When a sample gets other values.
_AGAIN = (
    "when the same batch is run again: it draws random numbers, or keeps something "
    "from one batch to the next"
)
_COMPANY = "when other samples are beside it: it mixes the samples of a batch"
_PART = "when others have left, or in another order: it mixes the samples of a batch"
_ALONE = "when it is alone: it mixes the samples of a batch, or uses their number"
_JOINED = "when the states of two batches are joined"
_AT_ONCE = "by advance_through than by advance, which must compute the same"


def verify(extractor: Extractor, X: NDArray[Any]) -> None:
    """Check with some of these samples that samples may leave.

    Raises
    ------
    ValueError
        If what a stage computes for a sample depends on others.
    """
    own = optional(extractor, "verify")
    if own is None:
        check_independence(extractor, some_samples(X))
    else:
        own(X)


def some_samples(X: SampleRows) -> NDArray[Any]:
    """Return samples from everywhere in X, so that they come from many batches."""
    which = np.linspace(0, len(X) - 1, min(len(X), _MOST_SAMPLES)).round()
    return X[np.unique(which.astype(np.intp))]


def check_independence(
    extractor: Any, samples: NDArray[Any], precision: Precision = LENIENT
) -> None:
    """Compare samples in one batch with the same samples in others, at every stage.

    Every other sample makes up the batch. It is run again; with half of its samples
    replaced by those left over; in another order, samples leaving after each stage;
    in two batches that are joined after each stage; some samples each alone; and
    through all stages at once.

    Parameters
    ----------
    extractor : Extractor
        Or what has `stage_names`, `begin`, `advance` and `keep` as one.

    samples : ndarray of shape (n_samples, ...)
        Real ones: made-up samples may be alike in what a network mixes.

    precision : Precision, default=LENIENT
        What rounding may do.

    Raises
    ------
    MixedSamples
        With the first stage that computes something else for a sample.
    """
    same_size, other_size = precision
    n_pairs = len(samples) // 2
    batch, others = samples[: 2 * n_pairs : 2], samples[1 : 2 * n_pairs : 2]
    if n_pairs < 2:
        batch, others = samples, np.roll(samples, 1, axis=0)
    mixed = batch.copy()
    mixed[1::2] = others[1::2]
    everyone = np.arange(len(batch))
    half = np.where(everyone % 2, -1, everyone)
    shuffled = np.random.default_rng(0).permutation(len(batch))

    whole = _Run(extractor, batch, everyone, EXACT, "")
    again = _Run(extractor, batch, everyone, same_size, _AGAIN)
    company = _Run(extractor, mixed, half, same_size, _COMPANY)
    part = _Run(extractor, batch[shuffled], shuffled, other_size, _PART)
    alone = [
        _Run(extractor, batch[[row]], everyone[[row]], other_size, _ALONE)
        for row in everyone[:: math.ceil(len(batch) / _MOST_ALONE)]
    ]
    joined = _Joined(extractor, batch, everyone, other_size, _JOINED)
    runs = [again, company, part, *alone, *[joined] * has(extractor, "join")]
    for stage, name in enumerate(extractor.stage_names):
        whole.advance(stage)
        expected = whole.output.clone()  # the next run may overwrite it
        for run in runs:
            run.advance(stage)
            run.compare(expected, name)
        n_kept = math.ceil(0.75 * len(part.rows))
        part.keep(np.arange(len(part.rows))[::-1][:n_kept])
    at_once = _Run(extractor, batch[:4], everyone[:4], other_size, _AT_ONCE)
    at_once.advance_through_all()
    at_once.compare(expected, extractor.stage_names[-1])


class _Run:
    """A batch on its way through the stages.

    Parameters
    ----------
    extractor : Extractor
        Runs it.

    batch : ndarray of shape (n_samples, ...)
        What is run.

    rows : ndarray of shape (n_samples,)
        Which samples these are in the batch to be compared with; -1 for others.

    tolerance : Tolerance
        By how much they may differ.

    when : str
        What is special here.
    """

    output: Tensor

    def __init__(
        self,
        extractor: Any,
        batch: NDArray[Any],
        rows: NDArray[np.intp],
        tolerance: Tolerance,
        when: str,
    ) -> None:
        self.extractor = extractor
        self.state = extractor.begin(batch)
        self.rows = rows
        self.tolerance = tolerance
        self.when = when

    def advance(self, stage: int) -> None:
        self._note("advance", stage, self.extractor.advance(self.state, stage))

    def advance_through_all(self) -> None:
        last = len(self.extractor.stage_names) - 1
        returned = through(self.extractor)(self.state, 0, last)
        self._note("advance_through", last, returned)

    def _note(self, member: str, stage: int, returned: Any) -> None:
        self.state, output = state_and_output(self.extractor, returned, member)
        name = self.extractor.stage_names[stage]
        output = checked_output(self.extractor, output, name, len(self.rows))
        self.output = output if isinstance(output, Tensor) else as_floats(output)

    def keep(self, which: NDArray[np.intp]) -> None:
        self.state = self.part(which)
        self.rows = self.rows[which]

    def part(self, which: NDArray[np.intp]) -> Any:
        """Return the state of some of the samples."""
        kept: Any = which
        if hasattr(self.extractor, "device"):
            kept = torch.from_numpy(which.copy()).to(self.output.device)
        return self.extractor.keep(self.state, kept)

    def compare(self, whole: Tensor, name: str) -> None:
        compared = np.flatnonzero(self.rows >= 0)
        own = self.output[torch.from_numpy(compared)]
        expected = whole[torch.from_numpy(self.rows[compared])]
        if not self.tolerance.agree(own, expected, axis=0, among=whole):
            given, before = tuple(own.shape[1:]), tuple(expected.shape[1:])
            what = "values" if given == before else f"values of {given}, not {before},"
            raise MixedSamples(
                f"{name!r} gives a sample other {what} {self.when}. Choose another "
                "exit, or mend the network."
            )


class _Joined(_Run):
    """A batch that is split and joined before each stage but the first."""

    def advance(self, stage: int) -> None:
        if stage == 0 or len(self.rows) < 2:
            super().advance(stage)
            return
        split = np.array_split(np.random.default_rng(stage).permutation(self.rows), 2)
        where = np.argsort(self.rows)  # all are there, in some order
        parts = [self.part(where[rows]) for rows in split]
        try:
            self.state = self.extractor.join(parts)
            self.rows = np.concatenate(split)
            super().advance(stage)
        except Exception as error:
            raise ValueError(
                f"{type(self.extractor).__name__}.join returned a state that is not "
                f"that of all samples, in their order: {error}"
            ) from error
