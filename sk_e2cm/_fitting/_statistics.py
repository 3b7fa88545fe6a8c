"""What one pass over the training data adds up and keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from .._multi_exit._full_pass import Batch, FullPass, Shape
from .._utils._arrays import Features, Floats
from ._kept import CHUNK, KeptFeatures, SampleFeatures, largest
from ._sums import ClassSums

N_FOLDS = 5

# Samples whose products are summed at once, if their features were kept.
_SUMMED = 4096

# Bytes of features whose products are summed at once.
_CHUNK_BYTES = 2**27

# Squares of features that are larger, or all smaller than its inverse, leave the range
# of double precision.
_LARGEST = 1e150

# Covariances of more features would need gigabytes.
MOST_FEATURES = 4096


@dataclass(frozen=True)
class Statistics:
    """What one run of the network over the training data leaves behind.

    The samples summed are all of them, or those that were kept (`sum_kept`).

    Parameters
    ----------
    stage_names : tuple of str
        Names of the stages.

    sums : list of ClassSums
        One per stage; none if the features of all samples were kept in their place.
        Samples that are not held out in any fold are the last of its folds.

    features : list of ndarray of shape (n_kept, n_features)
        One per stage, of the samples that were kept.

    shapes : list of tuple of int
        Of the output of each stage for one sample, before it was pooled.

    rounding : list of ndarray of shape (n_features,)
        How far rounding may move each feature of each stage.

    kept : ndarray of shape (n_kept,)
        The rows of these samples.

    hashes, folds, codes, sample_weight : ndarray of shape (n_kept,)
        Of the kept samples; folds are -1 where a sample is not held out, and codes
        are the indices of their classes.

    n_distinct : int
        Number of distinct rows among the samples summed.
    """

    stage_names: tuple[str, ...]
    sums: list[ClassSums]
    features: list[Features]
    shapes: list[Shape]
    rounding: list[Floats]
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


def in_one_fold(folds: NDArray[np.intp], codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which samples lie in one fold with all others of their class."""
    n_classes = int(codes.max()) + 1
    first, last = np.full(n_classes, folds.max() + 1), np.full(n_classes, -1)
    np.minimum.at(first, codes, folds)
    np.maximum.at(last, codes, folds)
    return (first == last)[codes]


def collect_statistics(
    full_pass: FullPass,
    X: NDArray[Any],
    hashes: NDArray[np.uint64],
    folds: NDArray[np.intp],
    codes: NDArray[np.intp],
    sample_weight: NDArray[np.float64],
    *,
    second: bool = False,
    everything: bool = False,
) -> Statistics:
    """Run the network once; sum over all samples and keep the features of some.

    `second` is whether to sum products too, of stages that are not too wide for it.
    With `everything`, the features of all samples are kept and nothing is summed.
    """
    stage_names = full_pass.stage_names
    summed = StageSums(stage_names, folds, codes, sample_weight, second=second)
    kept = KeptFeatures(hashes, first=folds >= 0, everything=everything)
    batches = full_pass(X)
    for batch in _in_chunks(batches) if second and not everything else batches:
        if everything:
            summed.check(batch)
        else:
            summed.add(batch)
        kept.add(batch)
    n_distinct = len(np.unique(hashes))
    return _statistics_of(summed, kept, folds, codes, sample_weight, n_distinct)


def sum_kept(
    stage_names: Sequence[str],
    kept: KeptFeatures,
    folds: NDArray[np.intp],
    codes: NDArray[np.intp],
    sample_weight: NDArray[np.float64],
    *,
    second: bool = False,
) -> Statistics:
    """Sum over the samples kept, when their classes are known after the pass only.

    Raises
    ------
    ValueError
        If all samples of a class, all that are held out in some fold, or all others are
        among those that were not kept.
    """
    kept_folds, kept_codes = folds[kept.rows], codes[kept.rows]
    kept_weight = sample_weight[kept.rows]
    lacking = np.setdiff1d(codes, kept_codes)
    one_sided = np.ptp(kept_folds) == 0 and np.ptp(folds) > 0
    if len(stage_names) and (len(lacking) or one_sided):
        lost = "another fold or none" if kept_folds[0] >= 0 else "any fold"
        of_whom = f"the clusters {lacking[:5].tolist()}" if len(lacking) else lost
        raise ValueError(
            f"The features of {len(kept.rows)} of {len(codes)} samples fit into "
            f"scikit-learn's working_memory, and none of them belong to {of_whom}. "
            "Give it more, by sklearn.set_config(working_memory=...), ask for fewer "
            "clusters, or use a coarser pooling."
        )
    summed = StageSums(stage_names, kept_folds, kept_codes, kept_weight, second=second)
    for rows in () if kept.everything else gen_batches(len(kept.rows), CHUNK):
        features = [features[rows] for features in kept.features]
        summed.add(Batch(rows, features, kept.shapes, kept.rounding))
    n_distinct = len(np.unique(kept.hashes[kept.rows]))
    return _statistics_of(summed, kept, folds, codes, sample_weight, n_distinct)


def _statistics_of(
    summed: StageSums,
    kept: KeptFeatures,
    folds: NDArray[np.intp],
    codes: NDArray[np.intp],
    sample_weight: Floats,
    n_distinct: int,
) -> Statistics:
    return Statistics(
        stage_names=tuple(summed.stage_names),
        sums=summed.sums,
        features=kept.features,
        shapes=kept.shapes,
        rounding=kept.rounding,
        kept=kept.rows,
        hashes=kept.hashes[kept.rows],
        folds=folds[kept.rows],
        codes=codes[kept.rows],
        sample_weight=sample_weight[kept.rows],
        n_distinct=n_distinct,
    )


class StageSums:
    """The sums of every stage, over batches.

    Parameters
    ----------
    stage_names : sequence of str
        Names of the stages.

    folds, codes, sample_weight : ndarray of shape (n_samples,)
        Of all samples, see `Statistics`.

    second : bool
        Whether to sum products too, of stages of at most `MOST_FEATURES`.
    """

    def __init__(
        self,
        stage_names: Sequence[str],
        folds: NDArray[np.intp],
        codes: NDArray[np.intp],
        sample_weight: Floats,
        *,
        second: bool,
    ) -> None:
        self.stage_names = stage_names
        n_folds = int(folds.max()) + 1
        self.slots = np.where(folds < 0, n_folds, folds)
        self.codes = codes
        self.sample_weight = sample_weight
        self.second = second
        self.sums: list[ClassSums] = []

    def check(self, batch: Batch) -> None:
        """Refuse features that cannot be summed."""
        for name, features in zip(self.stage_names, batch.features, strict=True):
            check_squares(name, features)

    def add(self, batch: Batch) -> None:
        """Add the features of these samples at every stage."""
        rows = batch.rows
        self.check(batch)
        if rows.start == 0:
            self.sums = self._empty_sums(batch.features)
        of_rows = self.slots[rows], self.codes[rows], self.sample_weight[rows]
        for summed, features in zip(self.sums, batch.features, strict=True):
            summed.add(features, *of_rows)

    def _empty_sums(self, features: list[Features]) -> list[ClassSums]:
        shape = int(self.slots.max()) + 1, int(self.codes.max()) + 1
        shifts = [of_stage.mean(axis=0, dtype=np.float64) for of_stage in features]
        return [
            ClassSums(*shape, shift, second=self.second and len(shift) <= MOST_FEATURES)
            for shift in shifts
        ]


def sum_over(
    features: SampleFeatures,
    folds: NDArray[np.intp],
    codes: NDArray[np.intp],
    sample_weight: Floats,
    *,
    second: bool = False,
) -> ClassSums:
    """Sum over features that were kept; every sample belongs to a fold."""
    shift = features[:CHUNK].mean(axis=0, dtype=np.float64)
    shape = int(folds.max()) + 1, int(codes.max()) + 1
    sums = ClassSums(*shape, shift, second=second and len(shift) <= MOST_FEATURES)
    # Fold by fold: adding to a large covariance takes its time.
    for fold in np.unique(folds):
        of_fold = np.flatnonzero(folds == fold)
        for part in gen_batches(len(of_fold), _SUMMED):
            rows = of_fold[part]
            sums.add(features[rows], folds[rows], codes[rows], sample_weight[rows])
    return sums


def _in_chunks(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Join batches: whatever their size, adding to a covariance takes its time."""
    pending: list[Batch] = []
    for batch in batches:
        pending.append(batch)
        n_rows = batch.rows.stop - pending[0].rows.start
        n_bytes = sum(features.nbytes for each in pending for features in each.features)
        if n_rows >= CHUNK or n_bytes >= _CHUNK_BYTES:
            yield _joined(pending)
            pending = []
    if pending:
        yield _joined(pending)


def _joined(batches: list[Batch]) -> Batch:
    rows = slice(batches[0].rows.start, batches[-1].rows.stop)
    stages = zip(*(batch.features for batch in batches), strict=True)
    features = [np.concatenate(stage) for stage in stages]
    rounding = reduce(largest, (batch.rounding for batch in batches))
    return Batch(rows, features, batches[0].shapes, rounding)


def check_squares(stage_name: str, features: Features) -> None:
    """Refuse features whose squares overflow, or vanish."""
    size = max(float(features.max()), -float(features.min()))
    if size > _LARGEST or 0 < size < 1 / _LARGEST:
        raise ValueError(
            f"The features of stage {stage_name!r} are as large as {size:.3g}, and "
            f"their squares overflow or vanish; from {1 / _LARGEST:g} to {_LARGEST:g} "
            "is allowed. Rescale X, or that stage's output."
        )
