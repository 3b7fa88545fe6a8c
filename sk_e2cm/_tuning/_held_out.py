"""What the stages of a fitted estimator predict for samples held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length

from .._fitting._cross_fitting import CrossFit
from .._fitting._labelled import LabelledStatistics
from .._utils._arrays import Floats
from .._utils._compat import _safe_indexing
from .._utils._hashing import row_hashes
from .._utils._labels import codes_of
from .._utils._progress import shown
from .._utils._streams import batches_of, in_large_parts, is_stream, n_samples_of
from .._utils._validation import NO_WEIGHT, check_weight
from ._predictions import StagePredictions
from ._problem import (
    ThresholdProblem,
    check_has_labels,
    class_weights,
    sample_losses,
)
from ._soft import Distinct, SoftTargets, distinct_samples, soft_targets

# Probabilities of this many samples, stages and classes are held at once.
_MOST_PROBABILITIES = 2**24

# And so many bytes of samples, where others between them do not count.
_COPIED_BYTES = 2**23


@dataclass(frozen=True)
class Data:
    """Samples, their labels if they have any, and their weights.

    Samples without weight do not count. Of a loader there are neither labels nor
    weights: they come with the samples.
    """

    X: Any
    y: Any
    weight: Any

    def only(self, which: NDArray[np.bool_]) -> Data:
        """Select samples: X, which may be larger than memory, stays as it is."""
        return replace(self, weight=np.where(which, self.weight, 0.0))

    def take(self, rows: NDArray[np.intp]) -> Data:
        """Return samples by their rows, in rising order; neighbours are not copied."""
        which: Any = rows
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            which = slice(rows[0], rows[-1] + 1)
        y = None if self.y is None else self.y[which]
        return Data(_safe_indexing(self.X, which), y, self.weight[which])


@dataclass(frozen=True)
class HeldOutPredictions:
    """A fitted estimator, and what its stages predict for samples it has not seen.

    Parameters
    ----------
    estimator : estimator with early exits
        Fitted.

    predictions : StagePredictions
        Of all stages.

    codes : ndarray of shape (n_samples,)
        The true labels, as indices into those of the network.

    weight : ndarray of shape (n_samples,)
        Weights of the samples.

    hashes : ndarray of shape (n_samples,)
        Of the content of each.

    X : array-like of shape (n_all_samples, ...)
        These samples, maybe among others.

    exits : ndarray of shape (n_open,), default=None
        Those that were fitted as if there were no others; by default all exits.

    refit : callable, default=None
        Returns the predictions of such exits, given which. None where exits carry
        nothing from one another, or are not to be fitted anew.
    """

    estimator: Any
    predictions: StagePredictions
    codes: NDArray[np.intp]
    weight: Floats
    hashes: NDArray[np.uint64]
    X: Any = None
    exits: NDArray[np.intp] | None = None
    refit: Callable[[NDArray[np.intp]], HeldOutPredictions] | None = None

    @cached_property
    def distinct(self) -> Distinct:
        """Which of the samples are alike."""
        return distinct_samples(self.hashes, self.codes)

    def problem(self, loss: Floats, n_groups: int = 1) -> ThresholdProblem:
        """Return the problem of choosing thresholds, given losses at each stage."""
        return ThresholdProblem(
            confidence=self.predictions.confidence[:-1],
            label=self.predictions.label,
            loss=loss,
            weight=self.weight / self.weight.sum(),
            costs=self.estimator.network_.costs,
            n_groups=n_groups,
        )

    def losses(self, scoring: Any) -> Floats:
        """See `sample_losses`."""
        return sample_losses(scoring, self.predictions.label, self.codes, self.weight)

    def targets(self, scoring: Any) -> SoftTargets:
        """See `soft_targets`."""
        n_classes = self.predictions.n_classes
        class_weight = class_weights(scoring, self.codes, self.weight, n_classes)
        return soft_targets(
            self.predictions, self.codes, self.weight, class_weight, self.distinct
        )

    def spoilt(self) -> Floats:
        """Return 1 where a stage is wrong and the last is right, else 0."""
        right = self.predictions.label == self.codes
        return (right[-1] & ~right).astype(np.float64)


def predict_held_out(
    estimator: Any, data: Data, scoring: Any = "accuracy"
) -> HeldOutPredictions:
    """Predict with every stage of a fitted estimator, in one pass of the network.

    Raises
    ------
    ValueError
        If no sample counts, or if a stream lacks labels that `scoring` needs.
    """
    network = estimator.network_
    n_numbers = (network.n_exits + 1) * len(network.labels)
    size = _MOST_PROBABILITIES // n_numbers
    parts = _parts(data, size, estimator.batch_size, scoring)
    total = n_samples_of(data.X)
    if not is_stream(data.X):
        total = int(np.count_nonzero(data.weight))
    quiet = estimator._quiet()
    drawn = shown(
        parts,
        total,
        verbose=estimator.verbose,
        what="held out",
        n_of=lambda part: len(part.weight),
    )
    found = [_predict_part(quiet, part) for part in drawn]
    if not found:
        raise ValueError(NO_WEIGHT)
    of_each, codes, weight, hashes = zip(*found, strict=True)
    return HeldOutPredictions(
        estimator,
        StagePredictions.joined(of_each),
        np.concatenate(codes),
        np.concatenate(weight),
        np.concatenate(hashes),
        data.X,
    )


def _parts(data: Data, size: int, batch_size: int, scoring: Any) -> Iterator[Data]:
    """Yield samples that count, so many or fewer at once, in whole batches."""
    if not is_stream(data.X):
        yield from _counting(data, size, batch_size)
        return
    batches = batches_of(data.X, data.y, data.weight, batch_size=batch_size)
    for batch in in_large_parts(batch for batch in batches if batch.counts):
        check_has_labels(scoring, batch.y is not None)
        with batch.named():
            check_consistent_length(batch.X, batch.y)
            weight = check_weight(batch.sample_weight, len(batch.X))
        yield from _counting(Data(batch.X, batch.y, weight), size, batch_size)


def _counting(data: Data, size: int, batch_size: int) -> Iterator[Data]:
    """Yield those of some samples that count."""
    rows = np.flatnonzero(data.weight)
    if 0 < len(rows) < len(data.weight):
        n_bytes = np.asarray(data.take(rows[:1]).X).nbytes
        size = min(size, _COPIED_BYTES // max(n_bytes, 1))
    # Whole batches, which `memory` knows again.
    size = max(size // batch_size, 1) * batch_size
    for start in range(0, len(rows), size):
        yield data.take(rows[start : start + size])


def _predict_part(
    estimator: Any, data: Data
) -> tuple[StagePredictions, NDArray[np.intp], Floats, NDArray[np.uint64]]:
    """Return predictions, classes, weights and hashes."""
    labels = estimator.network_.labels
    proba = estimator.exit_proba(data.X)
    codes = proba[:, -1].argmax(axis=1)
    if data.y is not None:
        codes = codes_of(data.y, labels)
    predictions = StagePredictions.from_proba(proba, codes)
    return predictions, codes, data.weight, row_hashes(np.asarray(data.X))


def cross_predict(
    estimator: Any, data: Data, folds: NDArray[np.intp]
) -> HeldOutPredictions:
    """Fit to all samples; predict each fold with exits fitted without it.

    `folds` are those of the samples that count. Where their features do not fit into
    scikit-learn's ``working_memory``, only some are predicted.
    """
    cross_fit = estimator._cross_fit(data.X, data.y, data.weight, folds)
    return _of_cross_fit(estimator, data.X, cross_fit)


def cross_predict_stream(
    estimator: Any, data: Data, n_folds: int
) -> HeldOutPredictions:
    """Fit to a stream; predict each fold with exits fitted without it.

    Of as many samples as are kept; their folds follow from their content.
    """
    cross_fit = estimator._fit_stream(data.X, data.y, data.weight, n_folds=n_folds)
    return _of_cross_fit(estimator, data.X, cross_fit)


def cross_predict_seen(estimator: Any, seen: LabelledStatistics) -> HeldOutPredictions:
    """Fit to what was seen in parts; predict each fold with exits fitted without it.

    Of as many samples as are kept.
    """
    n_folds = seen.source.n_folds
    cross_fit = estimator._fit_seen(seen, in_parts=False, n_folds=n_folds)
    return _of_cross_fit(estimator, seen.some, cross_fit)


def _of_cross_fit(
    estimator: Any,
    X: Any,
    cross_fit: CrossFit,
    exits: NDArray[np.intp] | None = None,
) -> HeldOutPredictions:
    codes = cross_fit.codes
    stages = [head.out_of_fold for head in cross_fit.heads]
    n_classes = len(estimator.network_.labels)
    predictions = StagePredictions.from_blocks(stages, codes, n_classes)

    found = HeldOutPredictions(
        estimator, predictions, codes, cross_fit.weight, cross_fit.hashes, X, exits
    )
    fit_again = cross_fit.refit
    if fit_again is None:
        return found

    def refit(exits: NDArray[np.intp]) -> HeldOutPredictions:
        return _of_cross_fit(estimator, X, fit_again(exits.tolist()), exits)

    return replace(found, refit=refit)


def fit_predict_held_out(estimator: Any, train: Data, data: Data) -> HeldOutPredictions:
    """Fit to some samples, and predict others."""
    fit_again = estimator._cross_fit(train.X, train.y, train.weight).refit
    predicted = predict_held_out(estimator, data)
    if fit_again is None:
        return predicted

    def refit(exits: NDArray[np.intp]) -> HeldOutPredictions:
        fit_again(exits.tolist())
        return replace(predict_held_out(estimator, data), exits=exits)

    return replace(predicted, refit=refit)
