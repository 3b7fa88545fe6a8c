"""What one pass over the training data adds up and keeps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from .._multi_exit._full_pass import Batch, Shape
from .._utils._arrays import Features, Floats, largest
from ._kept import CHUNK, Kept, KeptFeatures, SampleFeatures, Samples
from ._sums import ClassSums

N_FOLDS = 5

# Samples whose products are summed at once, if their features were kept.
_SUMMED = 4096

# Bytes of features whose products are summed at once.
_CHUNK_BYTES = 2**27

# Squares of features that are larger, or all smaller than its inverse, leave the range
# of double precision.
_LARGEST = 1e150

# What is remembered of every sample.
_SEEN = np.dtype([("hash", np.uint64), ("code", np.intp)])

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

    def outside(self, fold: int | None) -> NDArray[np.intp]:
        """Return the places of the kept samples that a fold does not hold out.

        None holds nobody out.
        """
        if fold is None:
            return np.arange(len(self.folds))
        return np.flatnonzero(self.folds != fold)

    def take_classes(self, codes: NDArray[np.intp]) -> Statistics:
        """Return these with class ``codes[k]`` in place of class k."""
        places = np.empty(int(codes.max()) + 1, dtype=np.intp)
        places[codes] = np.arange(len(codes))
        sums = [each.take_classes(codes) for each in self.sums]
        return replace(self, sums=sums, codes=places[self.codes])

    def set_apart(self, classes: NDArray[np.bool_]) -> Statistics:
        """Return these with no sample of some classes held out."""
        return replace(self, folds=np.where(classes[self.codes], -1, self.folds))

    @cached_property
    def held_out(self) -> NDArray[np.intp]:
        """Which of the kept samples are held out in some fold."""
        return np.flatnonzero(self.folds >= 0)


def folds_by_hash(
    hashes: NDArray[np.uint64], n_folds: int = N_FOLDS
) -> NDArray[np.intp]:
    """Return folds in which equal rows are together."""
    return (hashes % np.uint64(n_folds)).astype(np.intp)


def n_distinct_of(
    hashes: NDArray[np.uint64], codes: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return how many distinct samples each class has."""
    distinct = np.unique(np.stack([codes, hashes.view(np.int64)]), axis=1)
    return np.bincount(distinct[0])


def in_one_fold(folds: NDArray[np.intp], codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which samples lie in one fold with all others of their class."""
    n_classes = int(codes.max()) + 1
    first, last = np.full(n_classes, folds.max() + 1), np.full(n_classes, -1)
    np.minimum.at(first, codes, folds)
    np.maximum.at(last, codes, folds)
    return (first == last)[codes]


class RunningStatistics:
    """What exits follow from, summed up over samples as they come.

    In whatever order, and by whoever has seen them: it adds and merges, and gives the
    same to rounding.

    Parameters
    ----------
    stage_names : sequence of str
        Names of the stages.

    second : bool, default=False
        Whether to sum products too, of stages that are not too wide for it.

    everything : bool, default=False
        Keep the features of all samples, and sum nothing.
    """

    def __init__(
        self,
        stage_names: Sequence[str],
        *,
        second: bool = False,
        everything: bool = False,
    ) -> None:
        self.stage_names = tuple(stage_names)
        self.second = second
        self.sums: list[ClassSums] = []
        self.kept = KeptFeatures(everything=everything)
        self._seen: list[NDArray[Any]] = []
        self._counted = np.zeros(0, dtype=np.intp)
        self._pending: list[tuple[Batch, Samples]] = []

    def copy(self) -> RunningStatistics:
        """Return the same statistics, to which others may be added."""
        found = copy.copy(self)
        found.sums = [each.copy() for each in self.sums]
        found.kept = self.kept.copy()
        found._seen, found._pending = [*self._seen], [*self._pending]
        return found

    def of_none(self) -> RunningStatistics:
        """Return statistics of the same kind, of no samples yet."""
        return RunningStatistics(
            self.stage_names, second=self.second, everything=self.kept.everything
        )

    def add(self, batch: Batch, samples: Samples) -> None:
        """Add the samples of a batch, with their features at every stage.

        Raises
        ------
        ValueError
            If their squares overflow, or vanish.
        """
        check_batch(self.stage_names, batch)
        seen = np.empty(len(samples.hashes), _SEEN)
        seen["hash"], seen["code"] = samples.hashes, samples.codes
        self._seen.append(seen)
        self.kept.add(batch, samples)
        if not self.kept.everything:
            self._pending.append((batch, samples))
            self._sum_if_many()

    def merge(self, other: RunningStatistics, codes: NDArray[np.intp]) -> None:
        """Add what another has seen, whose class k is called ``codes[k]`` here."""
        n_classes = max(int(codes.max(initial=-1)) + 1, len(self._counted))
        counted = np.pad(self._counted, (0, n_classes - len(self._counted)))
        counted[codes[: len(other._counted)]] += other._counted
        self._counted = counted
        for seen in other._seen:
            renamed = seen.copy()
            renamed["code"] = codes[seen["code"]]
            self._seen.append(renamed)
        self.kept.merge(other.kept, codes)
        for stage, others in enumerate(other.sums):
            if stage == len(self.sums):
                self.sums.append(ClassSums(others.shift, second=others.has_products))
            self.sums[stage].merge(others, codes)
        self._pending += [
            (batch, samples._replace(codes=codes[samples.codes]))
            for batch, samples in other._pending
        ]
        self._sum_if_many()

    def n_distinct(self) -> NDArray[np.intp]:
        """Return how many distinct samples each class has, as far as one has any."""
        distinct = self._distinct()
        found = n_distinct_of(distinct["hash"].copy(), distinct["code"])
        n_classes = max(len(found), len(self._counted))
        counts = np.zeros(n_classes, dtype=np.intp)
        counts[: len(found)] += found
        counts[: len(self._counted)] += self._counted
        return counts

    def for_sharing(self) -> RunningStatistics:
        """Return the sums and counts alone: no features, no hashes."""
        self._sum_pending()
        found = RunningStatistics(self.stage_names, second=self.second)
        found.sums = self.sums
        found.kept = self.kept.of_none()
        found._counted = self.n_distinct()
        return found

    def finish(self) -> Statistics:
        """Return all of it; more may be added afterwards."""
        self._sum_pending()
        n_distinct = len(np.unique(self._distinct()["hash"]))
        n_distinct += int(self._counted.sum())
        return _statistics_of(
            self.stage_names, self.sums, self.kept.finish(), n_distinct
        )

    def _distinct(self) -> NDArray[Any]:
        """Return hash and class of the distinct samples."""
        if len(self._seen) != 1:
            self._seen = [np.unique(np.concatenate([np.empty(0, _SEEN), *self._seen]))]
        return self._seen[0]

    def _sum_if_many(self) -> None:
        """Whatever the size of batches, adding to a covariance takes its time."""
        n_rows = sum(len(samples.hashes) for _, samples in self._pending)
        n_bytes = sum(f.nbytes for batch, _ in self._pending for f in batch.features)
        if not self.second or n_rows >= CHUNK or n_bytes >= _CHUNK_BYTES:
            self._sum_pending()

    def _sum_pending(self) -> None:
        if not self._pending:
            return
        batches, samples = zip(*self._pending, strict=True)
        self._pending = []
        known = Samples(*map(np.concatenate, zip(*samples, strict=True)))
        stages = zip(*(batch.features for batch in batches), strict=True)
        for stage, of_batches in enumerate(stages):
            features = np.concatenate(of_batches)
            if stage == len(self.sums):
                self.sums.append(empty_sums(features, second=self.second))
            self.sums[stage].add(features, known.folds, known.codes, known.weight)


def sum_kept(
    stage_names: Sequence[str],
    kept: Kept,
    samples: Samples,
    *,
    second: bool = False,
    everything: bool = False,
) -> Statistics:
    """Sum over the samples kept, when their classes are known after the pass only.

    `samples` are all of them. With `everything` nothing is summed.

    Raises
    ------
    ValueError
        If all samples of a class, all that are held out in some fold, or all others are
        among those that were not kept.
    """
    some = samples.take(kept.rows)
    lacking = np.setdiff1d(samples.codes, some.codes)
    one_sided = np.ptp(some.folds) == 0 and np.ptp(samples.folds) > 0
    if len(stage_names) and (len(lacking) or one_sided):
        lost = "another fold or none" if some.folds[0] >= 0 else "any fold"
        of_whom = f"the clusters {lacking[:5].tolist()}" if len(lacking) else lost
        raise ValueError(
            f"The features of {len(kept.rows)} of {len(samples.codes)} samples fit "
            "into scikit-learn's working_memory, and none of them belong to "
            f"{of_whom}. Give it more, by sklearn.set_config(working_memory=...), ask "
            "for fewer clusters, or use a coarser pooling."
        )
    sums = [
        sum_over(features, some.folds, some.codes, some.weight, second=second)
        for features in (() if everything else kept.features)
    ]
    n_distinct = len(np.unique(some.hashes))
    return _statistics_of(stage_names, sums, kept._replace(samples=some), n_distinct)


def _statistics_of(
    stage_names: Sequence[str], sums: list[ClassSums], kept: Kept, n_distinct: int
) -> Statistics:
    return Statistics(
        stage_names=tuple(stage_names),
        sums=sums,
        features=kept.features,
        shapes=kept.shapes,
        rounding=kept.rounding,
        kept=kept.rows,
        hashes=kept.samples.hashes,
        folds=kept.samples.folds,
        codes=kept.samples.codes,
        sample_weight=kept.samples.weight,
        n_distinct=n_distinct,
    )


def empty_sums(features: Features, *, second: bool) -> ClassSums:
    """Return sums about the mean of some features, nothing summed yet."""
    shift = features.mean(axis=0, dtype=np.float64)
    return ClassSums(shift, second=second and len(shift) <= MOST_FEATURES)


def sum_over(
    features: SampleFeatures,
    folds: NDArray[np.intp],
    codes: NDArray[np.intp],
    sample_weight: Floats,
    *,
    second: bool = False,
) -> ClassSums:
    """Sum over features that were kept."""
    sums = empty_sums(features[:CHUNK], second=second)
    # Fold by fold: adding to a large covariance takes its time.
    for fold in np.unique(folds):
        of_fold = np.flatnonzero(folds == fold)
        for part in gen_batches(len(of_fold), _SUMMED):
            rows = of_fold[part]
            sums.add(features[rows], folds[rows], codes[rows], sample_weight[rows])
    return sums


def check_batch(stage_names: Sequence[str], batch: Batch) -> None:
    """Refuse features whose squares overflow, or vanish."""
    for name, features in zip(stage_names, batch.features, strict=True):
        size = largest(features)
        if size > _LARGEST or 0 < size < 1 / _LARGEST:
            raise ValueError(
                f"The features of stage {name!r} are as large as {size:.3g}, and "
                f"their squares overflow or vanish; from {1 / _LARGEST:g} to "
                f"{_LARGEST:g} is allowed. Rescale X, or that stage's output."
            )
