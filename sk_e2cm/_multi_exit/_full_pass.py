"""All stages for all samples, nobody leaving: features batch by batch, cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from .._extractors import Extractor, device_of, fingerprint_of, state_and_output
from .._utils._arrays import Features, as_floats, to_numpy
from .._utils._hashing import content_hash
from ._loop import checked_output
from ._pooling import PoolingSpec, make_pooling

Shape = tuple[int, ...]


class Batch(NamedTuple):
    """What every stage makes of some samples.

    Parameters
    ----------
    rows : slice
        Which samples these are.

    features : list of ndarray of shape (n_samples, n_features)
        The pooled output of each stage.

    shapes : list of tuple of int
        Of each stage's output for one sample, before it was pooled.
    """

    rows: slice
    features: list[Features]
    shapes: list[Shape]


def staged_features(
    extractor: Extractor, X: NDArray[Any], pooling: PoolingSpec, key: str = ""
) -> tuple[list[Features], list[Shape]]:
    """Run every stage over one batch; return its features and its outputs' shapes.

    `key` stands for the extractor and the pooling where results are cached.
    """
    state = extractor.begin(X)
    features, shapes = [], []
    for stage, name in enumerate(extractor.stage_names):
        returned = extractor.advance(state, stage)
        state, output = state_and_output(extractor, returned)
        output = checked_output(extractor, output, name, len(X))
        shapes.append(tuple(np.shape(output)[1:]))
        pool = make_pooling(pooling, name, shapes[-1], as_floats(output[:0]).dtype)
        with torch.inference_mode():
            pooled = pool.to(device_of(extractor))(output)
        # A copy: the next stage may overwrite this one's output.
        features.append(to_numpy(pooled))
        check_finite(features[-1], name, np.arange(len(X)))
    return features, shapes


def check_finite(features: Features, stage_name: str, rows: NDArray[np.intp]) -> None:
    """Refuse features with NaN or infinity; `rows` are the samples of the batch.

    Raises
    ------
    ValueError
        With the stage, and the first sample that is at fault.
    """
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        bad = rows[~finite]
        raise ValueError(
            f"The output of stage {stage_name!r} contains NaN or infinity for "
            f"{counted(bad, rows)}. Check that layer and the scale of X."
        )


def counted(bad: NDArray[np.intp], rows: NDArray[np.intp]) -> str:
    """Say how many samples of a batch are concerned, and which is the first."""
    return (
        f"{len(bad)} of {len(rows)} samples (the first is number {bad[0]} of its batch)"
    )


class FullPass:
    """The full network over any X, batch by batch, cached where `memory` is given.

    Parameters
    ----------
    extractor : extractor
        Any with the members of `Extractor`.

    pooling, batch_size
        As in `E2CMClassifier`.

    memory : joblib.Memory
        Features are stored by the content of the batch, of the extractor and of
        the pooling.

    verbose : int, default=0
        Whether to draw a progress bar.
    """

    def __init__(
        self,
        extractor: Extractor,
        *,
        pooling: PoolingSpec,
        batch_size: int,
        memory: joblib.Memory,
        verbose: int = 0,
    ) -> None:
        self.extractor = extractor
        self.pooling = pooling
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute = memory.cache(staged_features, ignore=["extractor", "pooling"])
        # Made once: weights are many, and an extractor may count its calls.
        self.key = ""
        if memory.location:
            self.key = content_hash((fingerprint_of(extractor), pooling))

    @property
    def stage_names(self) -> Sequence[str]:
        """The exits, and the last stage."""
        return self.extractor.stage_names

    def __call__(self, X: NDArray[Any]) -> Iterator[Batch]:
        for start in range(0, len(X), self.batch_size):
            rows = slice(start, min(start + self.batch_size, len(X)))
            found = self.compute(self.extractor, X[rows], self.pooling, self.key)
            yield Batch(rows, *found)
            if self.verbose:
                _draw_progress(rows.stop, len(X))


def _draw_progress(done: int, total: int) -> None:
    bar = "#" * (30 * done // total)
    end = "\n" if done == total else ""
    print(f"\r[sk_e2cm] {bar:-<30} {done} of {total} samples", end=end, flush=True)
