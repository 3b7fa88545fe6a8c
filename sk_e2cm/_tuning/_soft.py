"""Soft targets: labels mixed with what the stages together hold likely.

Of two exits, the better one on a few hundred errors is partly the luckier one: most
samples that they answer differently are ones that the stages together are unsure of,
and their labels are much like draws from the probabilities of these. Putting these in
place of the labels leaves the draw out. What they are wrong about, the labels still
tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from .._fitting._scores import combination_weights
from .._utils._arrays import Floats
from ._predictions import StagePredictions, places_of

# Labels and probabilities are compared in cells of so many samples that an exit and the
# last stage answer differently. In small cells chance hides what the probabilities are
# wrong about everywhere alike; it adds up over the samples that thresholds differ in.
_CELL = 100


class Distinct(NamedTuple):
    """Which samples are alike: one that occurs twice is the same luck twice.

    Parameters
    ----------
    first : ndarray of shape (n_distinct,)
        One of each.

    which : ndarray of shape (n_samples,)
        Of what distinct sample each is a copy.
    """

    first: NDArray[np.intp]
    which: NDArray[np.intp]

    def add(self, values: Floats) -> Floats:
        """Add up the values of copies, shape (n_distinct,)."""
        total = np.zeros(len(self.first))
        np.add.at(total, self.which, values)
        return total


def distinct_samples(hashes: NDArray[np.uint64], codes: NDArray[np.intp]) -> Distinct:
    """Tell which samples have the same content and label."""
    known = np.column_stack([hashes.view(np.int64), codes])
    _, first, which = np.unique(known, axis=0, return_index=True, return_inverse=True)
    return Distinct(first, which.ravel())


@dataclass(frozen=True)
class SoftTargets:
    """Labels, to some share, and probabilities by all stages for the rest.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,)
        Labels.

    classes : ndarray of shape (n_samples, n_kept)
        Ascending; among them are those that stages answer.

    proba : ndarray of shape (n_samples, n_kept)
        How likely the stages together hold them.

    class_weight : ndarray of shape (n_classes,)
        Loss where a sample of this class is answered wrong.

    share : float
        Of the labels, from 0 to 1.
    """

    codes: NDArray[np.intp]
    classes: NDArray[np.intp]
    proba: Floats
    class_weight: Floats
    share: float

    def losses(self, label: NDArray[np.intp]) -> Floats:
        """Return the expected loss of samples that leave with these labels.

        Of the same shape, (n_stages, n_samples). Where all classes count alike, it is
        ``1 - (share * (label == codes) + (1 - share) * proba_of_label)``.
        """
        hard = (label != self.codes) * self.class_weight[self.codes]
        if self.share == 1:
            return hard
        return self.share * hard + (1 - self.share) * self.by_proba(label)

    def by_proba(self, label: NDArray[np.intp]) -> Floats:
        """Return the expected loss by the probabilities alone."""
        of_class = self.proba * self.class_weight[self.classes]
        # The weights are 1 on average, and so those of all other classes.
        others = 1.0 - self.proba.sum(axis=1)
        right = [of_class[np.arange(len(of_class)), c] for c in self._places(label)]
        return of_class.sum(axis=1) + others - np.array(right)

    def spoilt(self, label: NDArray[np.intp]) -> Floats:
        """Return how likely each stage is wrong where the last is right."""
        right = (label[-1] == self.codes).astype(np.float64)
        if self.share < 1:
            (likely,) = self.likely(label[-1:])
            right = self.share * right + (1 - self.share) * likely
        return (label != label[-1]) * right

    def likely(self, label: NDArray[np.intp]) -> Floats:
        """Return how likely these labels are, of shape (n_stages, n_samples)."""
        everybody = np.arange(len(self.proba))
        return np.array([self.proba[everybody, c] for c in self._places(label)])

    def take(self, rows: NDArray[np.intp]) -> SoftTargets:
        """Select samples."""
        of_samples = self.codes[rows], self.classes[rows], self.proba[rows]
        return SoftTargets(*of_samples, self.class_weight, self.share)

    def _places(self, label: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        return (places_of(self.classes, of_stage) for of_stage in label)


def soft_targets(
    predictions: StagePredictions,
    codes: NDArray[np.intp],
    weight: Floats,
    class_weight: Floats,
    distinct: Distinct,
) -> SoftTargets:
    """Find what the stages together hold likely, and the share of the labels.

    Where the labels are the last stage's own answers, they are all that counts.
    """
    if (predictions.label[-1] == codes).all():
        n_kept = predictions.classes.shape[1]
        proba = np.exp(predictions.last_log_proba[:, :n_kept])
        return SoftTargets(codes, predictions.classes, proba, class_weight, 1.0)
    first, of_first = distinct.first, distinct.add(weight / weight.sum())
    proba = together(predictions, codes, first, of_first)
    targets = SoftTargets(codes, predictions.classes, proba, class_weight, 0.0)
    share = label_share(
        targets.take(first),
        predictions.label[:, first],
        predictions.confidence[:, first],
        of_first,
    )
    return replace(targets, share=share)


def together(
    predictions: StagePredictions,
    codes: NDArray[np.intp],
    rows: NDArray[np.intp],
    weight: Floats,
) -> Floats:
    """Return probabilities by the last stage and the exits, (n_samples, n_kept).

    The product of powers of the last stage's and of the exits' geometric mean. The two
    exponents have the least log loss on some of the rows, and so calibrate, too: two
    numbers fitted to all samples know little of the label of any. Exits may be better
    than the last stage; probabilities of that alone would take it for right.
    """
    scores = [predictions.exits_log_proba, predictions.last_log_proba]
    some = [of_part[rows] for of_part in scores]
    places = places_of(predictions.classes[rows], codes[rows])
    counts = predictions.counts
    exponents = combination_weights(some, places, weight, len(rows), counts)
    logits = np.tensordot(exponents, scores, axes=1) + np.log(counts)
    found: Floats = softmax(logits, axis=1)
    return found[:, : predictions.classes.shape[1]]


def label_share(
    targets: SoftTargets, label: NDArray[np.intp], confidence: Floats, weight: Floats
) -> float:
    """Return the share of labels with the least expected error, by James and Stein.

    In a cell of samples, what leaving at an exit loses against the last stage is a sum,
    by the labels or by the probabilities. Were the probabilities right, the two sums
    would differ by chance, with a variance V that follows from them; what their squared
    difference has beyond V, the bias of the probabilities has made. Of all mixtures,
    the one with the share bias^2 / (bias^2 + V) of labels errs least.

    Parameters
    ----------
    targets : SoftTargets
        Of samples that are all distinct.

    label : ndarray of shape (n_stages, n_samples)
        The answers of every stage.

    confidence : ndarray of shape (n_stages, n_samples)
        By which the samples of each exit are put into cells.

    weight : ndarray of shape (n_samples,)
        Weights of the samples.
    """
    squares = by_chance = 0.0
    for exit_ in range(len(label) - 1):
        differ = np.flatnonzero(label[exit_] != label[-1])
        if not len(differ):
            continue
        surest_first = (-confidence[exit_, differ]).argsort(kind="stable")
        rows = differ[surest_first]
        error, variance = _errors(targets.take(rows), label[[exit_, -1]][:, rows])
        n_cells = max(round(len(rows) / _CELL), 1)
        cell = np.arange(len(rows)) * n_cells // len(rows)
        squares += (np.bincount(cell, weight[rows] * error) ** 2).sum()
        by_chance += weight[rows] ** 2 @ variance
    # The squares are those of the bias and of chance.
    return float(np.clip(1 - by_chance / squares, 0, 1)) if squares else 0.0


def _errors(targets: SoftTargets, label: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Compare what exit and last stage lose by labels and by probabilities.

    Returns the difference, and its variance if labels are drawn from these.
    """
    worth = targets.class_weight[label]
    likely = targets.likely(label)
    expected = worth[1] * likely[1] - worth[0] * likely[0]
    right = label == targets.codes
    found = worth[1] * right[1] - worth[0] * right[0]
    variance = (worth**2 * likely).sum(axis=0) - expected**2
    return found - expected, variance
