"""A fitted estimator, and what its exits say of samples that they have not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from .._multi_exit._loop import cost_shares
from .._utils._arrays import Floats
from .._utils._compat import _safe_indexing
from .._utils._validation import codes_of
from ._problem import Answers, Outcomes
from ._scoring import sample_losses

# Probabilities of this many samples, stages and classes are held at once.
_MOST_PROBABILITIES = 2**24


@dataclass(frozen=True)
class Data:
    """Samples, their labels if they have any, and their weights."""

    X: Any
    y: Any
    weight: Floats

    def take(self, rows: NDArray[Any]) -> Data:
        """Select samples, by a mask or by their rows."""
        if rows.dtype == bool:
            if rows.all():
                return self  # X may be larger than memory
            rows = np.flatnonzero(rows)
        y = None if self.y is None else self.y[rows]
        return Data(_safe_indexing(self.X, rows), y, self.weight[rows])


@dataclass(frozen=True)
class Trial:
    """Result of asking all exits about some samples.

    Parameters
    ----------
    estimator : estimator with early exits
        Fitted.

    answers : Answers
        Of all stages.

    codes : ndarray of shape (n_samples,)
        What is right: indices into the estimator's labels.

    weight : ndarray of shape (n_samples,)
        Weights of the samples.
    """

    estimator: Any
    answers: Answers
    codes: NDArray[np.intp]
    weight: Floats

    def outcomes(self, loss: Floats, n_groups: int = 1) -> Outcomes:
        """Return what comes of each sample, given its loss at each stage."""
        return Outcomes(
            self.answers.confidence[:-1],
            self.answers.label,
            loss,
            self.weight / self.weight.sum(),
            *cost_shares(self.estimator._macs, self.estimator._exit_macs),
            n_groups=n_groups,
        )

    def losses(self, scoring: Any) -> Floats:
        """See `sample_losses`."""
        return sample_losses(scoring, self.answers.label, self.codes, self.weight)

    def spoilt(self) -> Floats:
        """Tell what the last stage has right and each stage wrong."""
        right = self.answers.label == self.codes
        return (right[-1] & ~right).astype(np.float64)


def ask(estimator: Any, data: Data) -> Trial:
    """Ask a fitted estimator about samples, in one pass of the network."""
    n_stages, n_classes = len(estimator._heads), len(estimator._labels)
    n_samples = len(data.weight)
    answers = Answers(n_stages, n_samples, n_classes)
    codes = np.empty(n_samples, dtype=np.intp)
    if data.y is not None:
        codes = codes_of(data.y, estimator._labels)
    size = _MOST_PROBABILITIES // (n_stages * n_classes)
    # Whole batches, which `memory` knows again.
    size = max(size // estimator.batch_size, 1) * estimator.batch_size
    for rows in gen_batches(n_samples, size):
        proba = estimator.exit_proba(_safe_indexing(data.X, rows))
        if data.y is None:
            codes[rows] = proba[:, -1].argmax(axis=1)
        for stage in range(n_stages):
            answers.add(stage, proba[:, stage], codes[rows], rows)
    return Trial(estimator, answers, codes, data.weight)


def cross_fit(estimator: Any, data: Data, folds: NDArray[np.intp]) -> Trial:
    """Fit to all samples; ask exits fitted without a fold about that fold.

    Where the features of all samples do not fit into scikit-learn's
    ``working_memory``, only some are asked about.
    """
    held_out = estimator._fit(data.X, data.y, data.weight, folds)
    codes = held_out.codes
    answers = Answers(len(estimator._heads), len(codes), len(estimator._labels))
    for stage, proba in enumerate(held_out.probas()):
        answers.add(stage, proba, codes)
    return Trial(estimator, answers, codes, data.weight[held_out.rows])
