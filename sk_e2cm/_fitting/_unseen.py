"""Scores of the samples held out, by what has not seen them: block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import Floats, affordable
from ._kept import CHUNK, SampleFeatures, chunks
from ._scores import Scorer, log_proba
from ._statistics import Statistics

# So many arrays as large as its scores are made of a block, those of classifiers
# included.
_COPIES = 16

# The share of the working memory for the scores of all stages that are remembered.
_REMEMBERED = 0.25

# Places among the samples held out, and their scores or probabilities.
Block = tuple[NDArray[np.intp], Floats]


def held_out_blocks(statistics: Statistics, n_classes: int) -> list[NDArray[np.intp]]:
    """Split the samples held out, so that the scores of each part fit into memory.

    All are one part where they fit into scikit-learn's ``working_memory``. Otherwise
    the first are those with the smallest hashes, a uniform subset in whatever order
    they came; the others follow fold by fold.

    Returns
    -------
    list of ndarray of shape (n_places,)
        Places among `Statistics.held_out`.
    """
    held_out = statistics.held_out
    size = affordable(8 * _COPIES * n_classes, fewest=CHUNK)
    if len(held_out) <= size:
        return [np.arange(len(held_out))]
    hashes = statistics.hashes[held_out]
    order = hashes.argsort(kind="stable")
    # Equal rows are together.
    n_first = int(np.searchsorted(hashes[order], hashes[order[size - 1]], "right"))
    others = order[n_first:]
    others = others[statistics.folds[held_out[others]].argsort(kind="stable")]
    starts = range(0, len(others), size)
    return [order[:n_first], *(others[start : start + size] for start in starts)]


class UnseenScores(ABC):
    """Scores of the samples held out, by what is fitted without their fold.

    Parameters
    ----------
    blocks : list of ndarray
        See `held_out_blocks`. Calibrations are fitted to the first block.
    """

    def __init__(self, blocks: list[NDArray[np.intp]]) -> None:
        self.blocks = blocks

    @abstractmethod
    def scores(self, block: int) -> Floats:
        """Return the scores of a block, (n_places, n_classes)."""

    def __iter__(self) -> Iterator[Block]:
        for block, places in enumerate(self.blocks):
            yield places, self.scores(block)


class ScoresWithoutFold(UnseenScores):
    """Scores by one scorer for each fold; remembered where they fit into memory.

    Parameters
    ----------
    without : callable
        From a fold to what is fitted without it.

    features : ndarray or JoinedFeatures, of shape (n_kept, n_features)
        Of all samples.

    statistics : Statistics
        Of these.

    n_classes : int
        Number of classes.
    """

    def __init__(
        self,
        without: Callable[[int], Scorer],
        features: SampleFeatures,
        statistics: Statistics,
        n_classes: int,
    ) -> None:
        super().__init__(held_out_blocks(statistics, n_classes))
        self._without = without
        self._features = features
        self._folds = statistics.folds
        self._held_out = statistics.held_out
        self._n_classes = n_classes
        # Those of all stages are kept until thresholds are chosen.
        n_bytes_each = 8 * n_classes * len(statistics.stage_names)
        most = affordable(n_bytes_each / _REMEMBERED, fewest=CHUNK)
        self._remembers = len(self._held_out) <= most
        self._remembered: dict[int, Floats] = {}

    def scores(self, block: int) -> Floats:
        """Return the scores of a block, (n_places, n_classes)."""
        if block in self._remembered:
            return self._remembered[block]
        rows = self._held_out[self.blocks[block]]
        found = scores_of(
            self._without, self._features, self._folds, rows, self._n_classes
        )
        if self._remembers:
            self._remembered[block] = found
        return found


class CombinedScores(UnseenScores):
    """A weighted sum of log probabilities.

    Parameters
    ----------
    parts : sequence of UnseenScores
        Of the same samples.

    weights : ndarray of shape (n_parts,)
        One for each.
    """

    def __init__(self, parts: Sequence[UnseenScores], weights: Floats) -> None:
        super().__init__(parts[0].blocks)
        self._parts = parts
        self._weights = weights

    def scores(self, block: int) -> Floats:
        """Return the scores of a block, (n_places, n_classes)."""
        found = [log_proba(part.scores(block)) for part in self._parts]
        return np.tensordot(self._weights, found, axes=1)


def scores_of(
    without: Callable[[int], Scorer],
    features: SampleFeatures,
    folds: NDArray[np.intp],
    rows: NDArray[np.intp],
    n_classes: int,
) -> Floats:
    """Return scores of samples by what is fitted without their fold.

    Parameters
    ----------
    without : callable
        From a fold to what is fitted without it.

    features : ndarray or JoinedFeatures, of shape (n_kept, n_features)
        Of all samples.

    folds : ndarray of shape (n_kept,)
        The fold of each.

    rows : ndarray of shape (n_rows,)
        Whose scores are wanted.

    n_classes : int
        Number of classes.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
    """
    scores = np.empty((len(rows), n_classes))
    of_rows = folds[rows]
    for fold in np.unique(of_rows).tolist():
        for some in chunks(np.flatnonzero(of_rows == fold)):
            scores[some] = without(fold).scores(features[rows[some]])
    return scores
