"""NaN that arises on the way: where, and whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._extractors import Extractor, through
from .._utils._arrays import Floats
from ._full_pass import check_finite, how_many
from ._heads import Head
from ._loop import Step, StepsOnHost


def batches_with_nan(steps: StepsOnHost, batch_size: int) -> set[int]:
    """Return the first samples of the batches in which a confidence is NaN.

    Whose confidence is NaN leaves at once.
    """
    starts: set[int] = set()
    for rows, confidence in zip(steps.rows, steps.of("confidence"), strict=True):
        bad = np.isnan(confidence)
        if bad.any():
            if isinstance(rows, slice):
                rows = np.arange(rows.start, rows.stop)
            starts.update((rows[bad] // batch_size * batch_size).tolist())
    return starts


def refuse_nan(confidence: Floats, stage_name: str, rows: NDArray[np.intp]) -> None:
    """Refuse NaN that has arisen in a head; `rows` are the samples of the batch.

    Raises
    ------
    ValueError
        With the stage, and the first sample that is concerned.
    """
    if np.isnan(confidence).any():
        bad = rows[np.isnan(confidence)]
        raise ValueError(
            f"The head of stage {stage_name!r} returns NaN for {how_many(bad, rows)}, "
            "though the stage's output is finite: are its numbers too large to be "
            "squared?"
        )


@torch.inference_mode()
def refuse_nan_in(
    extractor: Extractor, heads: Sequence[Head], X: NDArray[Any], steps: Sequence[Step]
) -> None:
    """Refuse NaN in a batch, of a stage whose output is at fault or whose head is.

    Parameters
    ----------
    extractor : Extractor
        The network in stages.

    heads : sequence of Head
        One for each.

    X : ndarray of shape (n_samples, ...)
        The batch.

    steps : sequence of Step
        What the loop has made of it, in double precision.

    Raises
    ------
    ValueError
        With the stage, and the first sample that is concerned.
    """
    step = next((s for s in steps if s.confidence.isnan().any()), None)
    if step is None:
        return
    everybody = np.arange(len(X))
    there = step.rows if isinstance(step.rows, slice) else step.rows.cpu().numpy()
    rows = everybody[there]
    confidence = step.confidence.cpu().numpy()
    bad = np.isnan(confidence)
    # The others may be more than the memory holds.
    state, first = extractor.begin(X[rows[bad]]), 0
    for stage in (*heads[step.stage].carried, step.stage):
        state, output = through(extractor)(state, first, stage)
        first = stage + 1
        pooled = heads[stage].pooling(output)
        finite = pooled.isfinite().all(dim=1, keepdim=True).cpu().numpy()
        features = np.zeros((len(rows), 1))
        features[bad] = np.where(finite, 0.0, np.nan)
        check_finite(features, extractor.stage_names[stage], rows)
    refuse_nan(confidence, extractor.stage_names[step.stage], rows)
