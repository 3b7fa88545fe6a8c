"""The one pass over the training data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from ._arrays import Features, Floats
from ._features import FullPass
from ._sums import ClassSums

N_FOLDS = 5

# Samples whose products are summed at once, and the bytes of their features.
_CHUNK = 1024
_CHUNK_BYTES = 2**27

# However small the working memory is.
_FEWEST_KEPT = 100

# Covariances of more features would need gigabytes.
_MOST_FEATURES = 4096


@dataclass
class TrainingPass:
    """Result of one run of the network over the training data.

    Parameters
    ----------
    stage_names : tuple of str
        Names of the stages.

    sums : list of ClassSums
        One per stage, over all samples. Those that are not held out in any fold are
        the last of its folds.

    features : list of ndarray of shape (n_kept, n_features)
        One per stage, of the samples that were kept.

    kept : ndarray of shape (n_kept,)
        The rows of these samples.

    hashes, folds, codes, sample_weight : ndarray of shape (n_kept,)
        Of the kept samples; folds are -1 where a sample is not held out, and codes
        are the indices of their classes.

    n_distinct : int
        Number of distinct rows among all samples.
    """

    stage_names: tuple[str, ...]
    sums: list[ClassSums]
    features: list[Features]
    kept: NDArray[np.intp]
    hashes: NDArray[np.uint64]
    folds: NDArray[np.intp]
    codes: NDArray[np.intp]
    sample_weight: Floats
    n_distinct: int

    @cached_property
    def held_out(self) -> NDArray[np.intp]:
        """Which of the kept samples are held out in some fold."""
        return np.flatnonzero(self.folds >= 0)


def folds_by_hash(
    hashes: NDArray[np.uint64], n_folds: int = N_FOLDS
) -> NDArray[np.intp]:
    """Return folds in which equal rows are together."""
    return (hashes % np.uint64(n_folds)).astype(np.intp)


def run_training_pass(
    full_pass: FullPass,
    X: NDArray[Any],
    hashes: NDArray[np.uint64],
    folds: NDArray[np.intp],
    codes: NDArray[np.intp],
    sample_weight: NDArray[np.float64],
    *,
    second: bool = False,
) -> TrainingPass:
    """Run the network once; sum over all samples and keep the features of some.

    All are kept if they fit into scikit-learn's ``working_memory``, otherwise a
    uniform subset, of the samples held out if these alone are too many. The subset
    follows from the hash of each row, so that a sample of weight 2 and two equal
    samples are treated alike.

    Raises
    ------
    ValueError
        If `second` is asked of too many features.
    """
    n_classes = int(codes.max()) + 1
    n_folds = int(folds.max()) + 1
    slots = np.where(folds < 0, n_folds, folds)
    shape = int(slots.max()) + 1, n_classes
    sums: list[ClassSums] = []
    features: list[Features] = []
    kept = np.empty(0, dtype=np.intp)
    batches = full_pass(X)
    for rows, batch in _in_chunks(batches) if second else batches:
        if not sums:
            if second:
                _check_widths(full_pass.extractor.stage_names, batch)
            shifts = [f.mean(axis=0, dtype=np.float64) for f in batch]
            sums = [ClassSums(*shape, shift, second=second) for shift in shifts]
            n_bytes_each = sum(f[0].nbytes for f in batch)
            kept = _affordable(hashes, folds, n_bytes_each)
            features = [np.empty((len(kept), f.shape[1]), f.dtype) for f in batch]
        here = (kept >= rows.start) & (kept < rows.stop)
        for summed, stored, f in zip(sums, features, batch, strict=True):
            summed.add(f, slots[rows], codes[rows], sample_weight[rows])
            stored[here] = f[kept[here] - rows.start]
    return TrainingPass(
        tuple(full_pass.extractor.stage_names),
        sums,
        features,
        kept,
        hashes[kept],
        folds[kept],
        codes[kept],
        sample_weight[kept],
        n_distinct=len(np.unique(hashes)),
    )


def _in_chunks(
    batches: Iterator[tuple[slice, list[Features]]],
) -> Iterator[tuple[slice, list[Features]]]:
    """Join batches: whatever their size, adding to a covariance takes its time."""
    pending: list[list[Features]] = []
    start, n_bytes = 0, 0
    for rows, batch in batches:
        pending.append(batch)
        n_bytes += sum(f.nbytes for f in batch)
        if rows.stop - start >= _CHUNK or n_bytes >= _CHUNK_BYTES:
            yield slice(start, rows.stop), _joined(pending)
            pending, start, n_bytes = [], rows.stop, 0
    if pending:
        yield slice(start, rows.stop), _joined(pending)


def _joined(batches: list[list[Features]]) -> list[Features]:
    return [np.concatenate(stage) for stage in zip(*batches, strict=True)]


def _check_widths(stage_names: Sequence[str], batch: list[Features]) -> None:
    for name, f in zip(stage_names, batch, strict=True):
        d = f.shape[1]
        if d > _MOST_FEATURES:
            raise ValueError(
                f"Stage {name!r} has {d} features, and their covariance would take "
                f"{d * d * 8 / 2**30:.1f} GiB for each fold; at most {_MOST_FEATURES} "
                "are allowed. Use a coarser pooling, such as pooling='auto' or "
                "pooling=1."
            )


def _affordable(
    hashes: NDArray[np.uint64], folds: NDArray[np.intp], n_bytes_each: int
) -> NDArray[np.intp]:
    """Return which samples' features fit into scikit-learn's working memory."""
    n = len(hashes)
    budget = sklearn.get_config()["working_memory"] * 2**20
    n_kept = max(int(min(budget / n_bytes_each, n)), min(n, _FEWEST_KEPT))
    order = np.lexsort((hashes, folds < 0))
    last = order[n_kept - 1]
    # All rows that equal the last one are kept with it.
    equal = (hashes == hashes[last]) & ((folds < 0) == (folds < 0)[last])
    chosen = np.zeros(n, dtype=bool)
    chosen[order[:n_kept]] = True
    return np.flatnonzero(chosen | equal)
