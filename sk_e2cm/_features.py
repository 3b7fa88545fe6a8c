"""From X to features: batches, pooling, the full pass and its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor
from torch.nn.functional import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)

from ._extractors import Extractor

Features = NDArray[np.floating]
Pooling = int | Literal["auto", "none"] | Callable[[Any], Any]

# "auto": a finer grid keeps more of an early layer's signal, but the exit's cost and
# the class means grow with it.
_LARGEST_GRID = 4
_MOST_FEATURES = 1024

_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: adaptive_avg_pool1d,
    2: adaptive_avg_pool2d,
    3: adaptive_avg_pool3d,
}


class RawFeatures(Extractor):
    """The extractor of an estimator without one: X itself is the only stage."""

    stage_names = ("X",)

    def begin(self, X: NDArray[Any]) -> NDArray[Any]:
        return X

    def advance(
        self, state: NDArray[Any], stage: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        return state, state

    def keep(self, state: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
        return state[rows]

    def macs(self, input_shape: tuple[int, ...]) -> list[float]:
        return [0.0]

    def to(self, device: str | torch.device) -> RawFeatures:
        return self  # nothing to move


def on_device(extractor: Extractor, device: str | torch.device | None) -> Extractor:
    """Return the extractor on `device`, or where it is if that is None."""
    if device is None:
        return extractor
    if not hasattr(extractor, "to"):
        raise ValueError(
            f"device={device!r} needs an extractor that can be moved: "
            f"{type(extractor).__name__} has no method to(device). Use device=None."
        )
    return extractor.to(device)


def pool(output: Any, pooling: Pooling, stage_name: str) -> Features:
    """Make one row of finite features per sample from a stage's output.

    Parameters
    ----------
    output : tensor or ndarray
        Of shape (n, d), taken as it is, (n, length, channels), or
        (n, channels, *sizes).

    pooling : {"auto", "none"}, int or callable
        See `E2CMClassifier`.

    stage_name : str
        For the message.

    Returns
    -------
    ndarray of shape (n, n_features)
        A copy or the output itself: valid until the next stage is computed.
    """
    if output.ndim > 2:
        if pooling == "none":
            output = output.reshape(len(output), -1)
        elif callable(pooling):
            output = pooling(output)
        else:
            is_tensor = isinstance(output, Tensor)
            output = output if is_tensor else torch.tensor(output)
            output = _average_over_grid(output, pooling)
    if isinstance(output, Tensor):
        output = output.float() if output.itemsize < 4 else output
        output = output.cpu().numpy()
    features = np.asarray(output)
    if features.ndim != 2:
        raise ValueError(
            f"The features of stage {stage_name!r} have the shape {features.shape}, "
            "but one row of numbers per sample is needed: pooling= must return "
            "(n_samples, n_features)."
        )
    if not np.isfinite(features).all():
        bad = ~np.isfinite(features).all(axis=1)
        raise ValueError(
            f"The output of stage {stage_name!r} contains NaN or infinity for "
            f"{bad.sum()} of {len(bad)} samples (the first is number "
            f"{bad.argmax()} of its batch). Check the network there, and the scale "
            "of X."
        )
    return features


def _average_over_grid(output: Tensor, pooling: Any) -> Tensor:
    if output.ndim == 3:  # tokens: channels come last
        output = output.movedim(2, 1)
    if output.ndim - 2 not in _AVERAGE:
        raise ValueError(
            f"Cannot pool an output of shape {tuple(output.shape)}: pass "
            "pooling='none' or a function."
        )
    if not output.is_floating_point() or output.itemsize < 4:
        output = output.float()
    channels, *sizes = output.shape[1:]
    grid = pooling
    if pooling == "auto":
        grids = range(1, _LARGEST_GRID + 1)
        fine = [g for g in grids if channels * g ** len(sizes) <= _MOST_FEATURES]
        grid = max(fine, default=1)
    # Never finer than the map itself: that would only repeat values.
    cells = [min(grid, size) for size in sizes]
    return _AVERAGE[len(sizes)](output, cells).flatten(1)


def staged_features(
    extractor: Extractor, X: NDArray[Any], pooling: Pooling, fingerprint: str = ""
) -> list[Features]:
    """Run every stage over one batch: the full path, nobody leaving.

    `fingerprint` stands for the extractor where results are cached.
    """
    state = extractor.begin(X)
    features = []
    for stage, name in enumerate(extractor.stage_names):
        state, output = extractor.advance(state, stage)
        # A copy: the next stage may overwrite this one's output.
        features.append(np.array(pool(output, pooling, name)))
    return features


class FullPass:
    """The full path over any X, batch by batch, cached where `memory` is given.

    Parameters
    ----------
    extractor : extractor
        Any.

    pooling, batch_size
        As in `E2CMClassifier`.

    memory : joblib.Memory
        Features are stored by the content of the batch and of the extractor.
    """

    def __init__(
        self,
        extractor: Extractor,
        *,
        pooling: Pooling,
        batch_size: int,
        memory: joblib.Memory,
    ) -> None:
        self.extractor = extractor
        self.pooling = pooling
        self.batch_size = batch_size
        self.compute = memory.cache(staged_features, ignore=["extractor"])
        # Hashed once: weights are many, and an extractor may count its calls.
        self.fingerprint = fingerprint_of(extractor) if memory.location else ""

    def __call__(self, X: NDArray[Any]) -> Iterator[tuple[slice, list[Features]]]:
        for rows in gen_batches(len(X), self.batch_size):
            yield (
                rows,
                self.compute(self.extractor, X[rows], self.pooling, self.fingerprint),
            )


def fingerprint_of(extractor: Extractor) -> str:
    """Return a key for the extractor's content, the same in every process."""
    fingerprint = getattr(extractor, "fingerprint", None)
    return joblib.hash(extractor) if fingerprint is None else fingerprint


def row_hashes(X: NDArray[Any]) -> NDArray[np.uint64]:
    """Return 64 bits for each row that depend on its content alone."""
    digests = b"".join(
        hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in X
    )
    return np.frombuffer(digests, dtype=np.uint64)
