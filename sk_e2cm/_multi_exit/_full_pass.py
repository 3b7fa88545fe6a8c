"""From X to features: the full pass over all batches, and its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from .._extractors import Extractor
from .._utils._arrays import Features
from .._utils._hashing import content_hash
from ._pooling import Pooling, pool, pooling_macs


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


def staged_features(
    extractor: Extractor, X: NDArray[Any], pooling: Pooling, key: str = ""
) -> list[Features]:
    """Run every stage over one batch: the full path, nobody leaving.

    `key` stands for the extractor and the pooling where results are cached.
    """
    state = extractor.begin(X)
    features = []
    for stage, name in enumerate(extractor.stage_names):
        state, output = extractor.advance(state, stage)
        # A copy: the next stage may overwrite this one's output.
        features.append(np.array(pool(output, pooling, name, np.arange(len(X)))))
    return features


def staged_pooling_macs(
    extractor: Extractor, X: NDArray[Any], pooling: Pooling
) -> NDArray[np.float64]:
    """Return what pooling a sample takes at each stage, in multiply-adds."""
    macs = np.zeros(len(extractor.stage_names))
    if pooling != "second_order":
        return macs
    state = extractor.begin(X)
    for stage in range(len(macs)):
        state, output = extractor.advance(state, stage)
        macs[stage] = pooling_macs(output, pooling)
    return macs


class FullPass:
    """The full path over any X, batch by batch, cached where `memory` is given.

    Parameters
    ----------
    extractor : extractor
        Any.

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
        pooling: Pooling,
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

    def __call__(self, X: NDArray[Any]) -> Iterator[tuple[slice, list[Features]]]:
        for rows in gen_batches(len(X), self.batch_size):
            yield rows, self.compute(self.extractor, X[rows], self.pooling, self.key)
            if self.verbose:
                _draw_progress(rows.stop, len(X))


def _draw_progress(done: int, total: int) -> None:
    bar = "#" * (30 * done // total)
    end = "\n" if done == total else ""
    print(f"\r[sk_e2cm] {bar:-<30} {done} of {total} samples", end=end, flush=True)


def fingerprint_of(extractor: Extractor) -> str:
    """Return a key for the extractor's content, the same in every process."""
    fingerprint = getattr(extractor, "fingerprint", None)
    return content_hash(extractor) if fingerprint is None else fingerprint


def row_hashes(X: NDArray[Any]) -> NDArray[np.uint64]:
    """Return 64 bits for each row that depend on its content alone."""
    digests = b"".join(
        hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in X
    )
    return np.frombuffer(digests, dtype=np.uint64)
