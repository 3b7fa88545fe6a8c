"""Features of the one pass that are kept: those that fit into memory, or all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from .._multi_exit._full_pass import Batch, Shape
from .._utils._arrays import Features, Floats

# However small the working memory is.
_FEWEST_KEPT = 100

# Samples whose features are joined, or used, at once.
CHUNK = 1024


class KeptFeatures:
    """The features of as many samples as fit into scikit-learn's ``working_memory``.

    If not all do, a uniform subset, which follows from the hash of each row, so that a
    sample of weight 2 and two equal samples are treated alike.

    Parameters
    ----------
    hashes : ndarray of shape (n_samples,)
        Of all samples.

    first : ndarray of shape (n_samples,), default=None
        Which samples are kept before all others; by default none are.

    everything : bool, default=False
        Keep those of all samples: in a temporary file where they do not fit.

    Attributes
    ----------
    features : list of ndarray of shape (n_kept, n_features)
        One per stage.

    shapes : list of tuple of int
        Of the outputs that they were pooled from.

    rounding : list of ndarray of shape (n_features,)
        How far rounding may move each feature, in any batch.

    rows : ndarray of shape (n_kept,)
        Which samples these are.
    """

    def __init__(
        self,
        hashes: NDArray[np.uint64],
        first: NDArray[np.bool_] | None = None,
        *,
        everything: bool = False,
    ) -> None:
        self.hashes = hashes
        self.everything = everything
        self.first = np.zeros(len(hashes), dtype=bool) if first is None else first
        self.features: list[Features] = []
        self.shapes: list[Shape] = []
        self.rounding: list[Floats] = []
        self.rows = np.empty(0, dtype=np.intp)

    def add(self, batch: Batch) -> None:
        """Add the features of these samples at every stage, if they are kept."""
        rows = batch.rows
        if rows.start == 0:
            n_bytes_each = sum(features[0].nbytes for features in batch.features)
            self.rows = _affordable(self.hashes, self.first, n_bytes_each)
            in_file = self.everything and len(self.rows) < len(self.hashes)
            if in_file:
                self.rows = np.arange(len(self.hashes))
            self.shapes = batch.shapes
            self.rounding = batch.rounding
            self.features = [
                _empty(len(self.rows), features, in_file=in_file)
                for features in batch.features
            ]
        here = (self.rows >= rows.start) & (self.rows < rows.stop)
        for stored, features in zip(self.features, batch.features, strict=True):
            stored[here] = features[self.rows[here] - rows.start]
        self.rounding = largest(self.rounding, batch.rounding)


def largest(one: Sequence[Floats], other: Sequence[Floats]) -> list[Floats]:
    """Return the larger of each two numbers, stage by stage."""
    return [np.maximum(*each) for each in zip(one, other, strict=True)]


def _empty(n_rows: int, like: Features, *, in_file: bool) -> Features:
    shape = n_rows, like.shape[1]
    if not in_file:
        return np.empty(shape, like.dtype)
    # It is gone when nothing refers to it any more.
    with tempfile.TemporaryFile() as file:
        _reserve(file, n_rows * like[0].nbytes)
        return np.memmap(file, like.dtype, mode="w+", shape=shape)


def _reserve(file: IO[bytes], n_bytes: int) -> None:
    """Refuse a disk that is too full; found out later, it would end the process.

    Raises
    ------
    OSError
        If it is.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except OSError as error:
        # Not every file system can tell.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"The features of a stage take {n_bytes / 2**30:.2f} GiB, and the "
                f"disk of {tempfile.gettempdir()!r} has no room for them. Name another "
                "by the environment variable TMPDIR, or keep them in memory by "
                "sklearn.set_config(working_memory=...).",
            ) from error


class JoinedFeatures:
    """Features of several stages side by side, joined where rows are asked for.

    Parameters
    ----------
    parts : sequence of ndarray of shape (n_samples, n_features)
        One for each of the stages.
    """

    def __init__(self, parts: Sequence[Features]) -> None:
        self.parts = parts
        self.shape = len(parts[0]), sum(part.shape[1] for part in parts)
        self.dtype = np.result_type(*parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Features:
        return np.hstack([part[rows] for part in self.parts])


SampleFeatures = Features | JoinedFeatures


def chunks(rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Split rows, of which there may be none, into as many as are used at once."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _affordable(
    hashes: NDArray[np.uint64], first: NDArray[np.bool_], n_bytes_each: int
) -> NDArray[np.intp]:
    """Return which samples' features fit into scikit-learn's working memory."""
    n = len(hashes)
    budget = sklearn.get_config()["working_memory"] * 2**20
    n_kept = max(int(min(budget / max(n_bytes_each, 1), n)), min(n, _FEWEST_KEPT))
    order = np.lexsort((hashes, ~first))
    last = order[n_kept - 1]
    # All rows that equal the last one are kept with it.
    equal = (hashes == hashes[last]) & (first == first[last])
    chosen = np.zeros(n, dtype=bool)
    chosen[order[:n_kept]] = True
    return np.flatnonzero(chosen | equal)
