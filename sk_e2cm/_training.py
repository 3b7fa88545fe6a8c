"""The one pass over the training data, and the exits fitted from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from ._features import FullPass
from ._means import ClassMeans, ClassSums, fit_class_means
from ._pooling import Features

N_FOLDS = 5

# However small the working memory is.
_FEWEST_KEPT = 100


@dataclass
class TrainingPass:
    """Result of one run of the network over the training data.

    Parameters
    ----------
    sums : list of ClassSums
        One per stage, over all samples.

    features : list of ndarray of shape (n_kept, n_features)
        One per stage, of the samples that were kept.

    kept : ndarray of shape (n_kept,)
        The rows of these samples.

    folds, codes, sample_weight : ndarray of shape (n_kept,)
        Of the kept samples; codes are the indices of their classes.

    n_distinct : int
        Number of distinct rows kept.
    """

    sums: list[ClassSums]
    features: list[Features]
    kept: NDArray[np.intp]
    folds: NDArray[np.intp]
    codes: NDArray[np.intp]
    sample_weight: NDArray[np.float64]
    n_distinct: int


def run_training_pass(
    full_pass: FullPass,
    X: NDArray[Any],
    hashes: NDArray[np.uint64],
    codes: NDArray[np.intp],
    sample_weight: NDArray[np.float64],
    *,
    n_folds: int = N_FOLDS,
) -> TrainingPass:
    """Run the network once; sum over all samples and keep the features of some.

    All are kept if they fit into scikit-learn's ``working_memory``, otherwise a
    uniform subset. Both the subset and the folds follow from the hash of each row,
    so that a sample of weight 2 and two equal samples are treated alike.
    """
    n_classes = int(codes.max()) + 1
    folds = (hashes % np.uint64(n_folds)).astype(np.intp)
    sums: list[ClassSums] = []
    features: list[Features] = []
    kept = np.empty(0, dtype=np.intp)
    for rows, batch in full_pass(X):
        if not sums:
            sums = [
                ClassSums(n_folds, n_classes, f.mean(axis=0, dtype=np.float64))
                for f in batch
            ]
            kept = _affordable(hashes, n_bytes_each=sum(f[0].nbytes for f in batch))
            features = [np.empty((len(kept), f.shape[1]), f.dtype) for f in batch]
        here = (kept >= rows.start) & (kept < rows.stop)
        for summed, stored, f in zip(sums, features, batch, strict=True):
            summed.add(f, folds[rows], codes[rows], sample_weight[rows])
            stored[here] = f[kept[here] - rows.start]
    return TrainingPass(
        sums,
        features,
        kept,
        folds[kept],
        codes[kept],
        sample_weight[kept],
        n_distinct=len(np.unique(hashes[kept])),
    )


def _affordable(hashes: NDArray[np.uint64], n_bytes_each: int) -> NDArray[np.intp]:
    """Return which samples' features fit into scikit-learn's working memory."""
    budget = sklearn.get_config()["working_memory"] * 2**20
    fraction = budget / (len(hashes) * n_bytes_each)
    n_kept = max(int(min(fraction, 1.0) * len(hashes)), min(len(hashes), _FEWEST_KEPT))
    return np.flatnonzero(hashes <= np.partition(hashes, n_kept - 1)[n_kept - 1])


def fit_exits(run: TrainingPass, *, calibrate: bool) -> list[ClassMeans]:
    """Fit the class means of every stage from one training pass."""
    return [
        fit_class_means(
            sums,
            features,
            run.folds,
            run.codes,
            run.sample_weight,
            calibrate=calibrate,
            n_samples=run.n_distinct,
        )
        for sums, features in zip(run.sums, run.features, strict=True)
    ]
