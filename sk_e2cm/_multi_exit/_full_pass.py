"""All stages for all samples, nobody leaving: features batch by batch, cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from .._extractors import (
    Extractor,
    channel_axes_of,
    checked_output,
    device_of,
    fingerprint_of,
    some_samples,
    state_and_output,
    verify,
)
from .._utils._arrays import (
    Features,
    Floats,
    SampleRows,
    as_floats,
    resolution,
    to_numpy,
)
from .._utils._hashing import content_hash
from .._utils._memory import halving
from ._heads import check_width
from ._pooling import Pooling, PoolingSpec, make_pooling

Shape = tuple[int, ...]

# Rounding errors in units of the last place: of a network's output, and of an average,
# in those of what it is taken of. That may be a map less its mean, as after instance
# normalisation, and then has the errors of the mean.
_ULPS = 4.0
_ULPS_OF_AVERAGED = 100.0

# Samples of a batch whose maps tell how much averages cancel.
_LOOKED_AT = 8


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

    rounding : list of ndarray of shape (n_features,)
        How far rounding may move each feature of each stage.
    """

    rows: slice
    features: list[Features]
    shapes: list[Shape]
    rounding: list[Floats]

    @property
    def n_samples(self) -> int:
        """How many they are."""
        return len(self.features[0])


def staged_features(
    extractor: Extractor,
    X: NDArray[Any],
    pooling: PoolingSpec,
    channel_axes: Sequence[int | None],
    key: str,
) -> tuple[list[Features], list[Shape], list[Floats]]:
    """Run every stage over one batch; return what `Batch` holds of it.

    `channel_axes` are those of the stages. `key` stands for the extractor and the
    pooling where results are cached.
    """
    state = extractor.begin(X)
    features, shapes, rounding = [], [], []
    for stage, name in enumerate(extractor.stage_names):
        returned = extractor.advance(state, stage)
        state, output = state_and_output(extractor, returned)
        output = checked_output(extractor, output, name, len(X))
        shapes.append(tuple(np.shape(output)[1:]))
        dtype = as_floats(output[:0]).dtype
        pool = make_pooling(pooling, name, shapes[-1], dtype, channel_axes[stage])
        pool = pool.to(device_of(extractor))
        with torch.inference_mode():
            pooled = pool(output)
        # A copy: the next stage may overwrite this one's output.
        features.append(to_numpy(pooled))
        if not features[-1].shape[1]:
            raise ValueError(
                f"Stage {name!r} has no features: its output, or what pooling= makes "
                f"of it, has the shape {features[-1].shape}. Choose another exit or "
                "pooling."
            )
        check_finite(features[-1], name, np.arange(len(X)))
        rounding.append(_rounding(pool, output, features[-1]))
    return features, shapes, rounding


@torch.inference_mode()
def _rounding(pooling: Pooling, output: Any, features: Features) -> Floats:
    """Return how far rounding may move each feature, (n_features,).

    Relative to its size, and to that of the numbers that have cancelled in it.
    """
    eps, given = resolution(features), resolution(output)
    with np.errstate(over="ignore"):  # too large, which a fit refuses
        size = np.abs(features).mean(axis=0, dtype=np.float64)
    varied = torch.as_tensor(pooling.variation(output[:_LOOKED_AT]))
    averaged = to_numpy(varied).astype(np.float64)
    averaged = averaged.mean(axis=0) if averaged.ndim else averaged
    # An output in low precision has been rounded once, by half of its last place.
    of_output = max(_ULPS * eps, given / 2)
    of_averaged = max(_ULPS_OF_AVERAGED * eps, given)
    found: Floats = of_output * size + of_averaged * averaged
    return found


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
            f"{how_many(bad, rows)}. Check that layer and the scale of X."
        )


def how_many(bad: NDArray[np.intp], rows: NDArray[np.intp]) -> str:
    """Say how many samples of a batch are concerned, and which is the first."""
    return (
        f"{len(bad)} of {len(rows)} samples (the first is number {bad[0]} of its batch)"
    )


def _verified(
    extractor: Extractor, X: NDArray[Any], looked_at: NDArray[Any], key: str
) -> bool:
    """Check X; where it is remembered, `looked_at` and `key` stand for what was."""
    verify(extractor, X)
    return True


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
    """

    def __init__(
        self,
        extractor: Extractor,
        *,
        pooling: PoolingSpec,
        batch_size: int,
        memory: joblib.Memory,
    ) -> None:
        self.extractor = extractor
        self.pooling = pooling
        self.batch_size = batch_size
        self.memory = memory
        self.compute = memory.cache(staged_features, ignore=["extractor", "pooling"])
        self._verify = memory.cache(_verified, ignore=["extractor", "X"])
        # Made once: weights are many, and an extractor may count its calls.
        self.key = ""
        if memory.location is not None:  # "" is the current folder
            parts = (staged_features, fingerprint_of(extractor), pooling)
            self.key = content_hash(parts)

    @property
    def stage_names(self) -> Sequence[str]:
        """The exits, and the last stage."""
        return self.extractor.stage_names

    def verify(self, X: SampleRows) -> None:
        """Check with some of these samples that samples may leave.

        Raises
        ------
        ValueError
            If what a stage computes for a sample depends on others.
        """
        samples = some_samples(X)

        def check(n_samples: int) -> None:
            some = samples[:n_samples]
            # Extractors of users take arrays.
            whole = n_samples == len(samples) and isinstance(X, np.ndarray)
            self._verify(self.extractor, X if whole else some, some, self.key)

        halving(check, len(samples), device_of(self.extractor))

    def __call__(self, X: SampleRows) -> Iterator[Batch]:
        axes = channel_axes_of(self.extractor, X.shape[1:])
        widths: list[int] = []
        for batch in self._batches(X, axes):
            widths = widths or [features.shape[1] for features in batch.features]
            for name, features, width in zip(
                self.stage_names, batch.features, widths, strict=True
            ):
                check_width(name, features.shape[1], width)
            yield batch

    def _batches(
        self, X: SampleRows, channel_axes: Sequence[int | None]
    ) -> Iterator[Batch]:
        """Run batch by batch, and smaller ones if the memory does not hold them."""
        start, size = 0, self.batch_size
        while start < len(X):
            run = partial(self._batch, X, start, channel_axes)
            n_samples = min(size, len(X) - start)
            batch = halving(run, n_samples, device_of(self.extractor))
            size = min(size, batch.rows.stop - start)
            start = batch.rows.stop
            yield batch

    def _batch(
        self,
        X: SampleRows,
        start: int,
        channel_axes: Sequence[int | None],
        n_samples: int,
    ) -> Batch:
        rows = slice(start, start + n_samples)
        found = self.compute(
            self.extractor, X[rows], self.pooling, channel_axes, self.key
        )
        return Batch(rows, *found)
