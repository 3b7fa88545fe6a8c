"""The exits, fitted from one training pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from .._multi_exit._heads import MeansHead
from .._utils._arrays import Features, Floats
from ._calibration import Calibration, Temperature, fit_calibration
from ._covariance import Shrinkage
from ._means import Means, fit_euclidean, fit_whitened
from ._statistics import TrainingPass, folds_by_hash
from ._sums import ClassSums


class Method(NamedTuple):
    """How exits are fitted; see `E2CMClassifier`."""

    metric: str
    shrinkage: Shrinkage
    calibration: str | None


class FittedExit(NamedTuple):
    """An exit, and the scores of the samples that were held out.

    Parameters
    ----------
    head : MeansHead
        Fitted on all samples.

    scores : ndarray of shape (n_held_out, n_classes)
        By class means without the sample's fold.
    """

    head: MeansHead
    scores: Floats


def fit_exits(run: TrainingPass, method: Method) -> Iterator[FittedExit]:
    """Fit the exit of every stage, one after the other."""
    for name, sums, features in zip(
        run.stage_names, run.sums, run.features, strict=True
    ):
        try:
            yield _fit_exit(run, method, sums, features)
        except ValueError as error:
            raise ValueError(f"Stage {name!r}: {error}") from error


def _fit_exit(
    run: TrainingPass, method: Method, sums: ClassSums, features: Features
) -> FittedExit:
    means_without: Callable[[int | None], Means]
    if method.metric == "mahalanobis":
        means_without = fit_whitened(
            sums,
            features,
            run.codes,
            run.sample_weight,
            method.shrinkage,
            n_samples=run.n_distinct,
        )
    else:
        means_without = fit_euclidean(sums, features, run.sample_weight)
    scores = np.empty((len(run.held_out), sums.weight.shape[1]))
    folds = run.folds[run.held_out]
    for fold in np.unique(folds):
        here = folds == fold
        scores[here] = means_without(fold).scores(features[run.held_out[here]])
    calibration = _calibrate(run, method, scores, np.arange(len(scores)))
    return FittedExit(MeansHead(means_without(None), calibration), scores)


def out_of_fold(run: TrainingPass, method: Method, exit_: FittedExit) -> Floats:
    """Return probabilities of the samples held out, shape (n_held_out, n_classes).

    From class means that have not seen them, and from a Dirichlet calibration that has
    not either.
    """
    if method.calibration != "dirichlet":
        # A single number, or none, tells nothing of one sample among many.
        return exit_.head.calibrated(exit_.scores)
    proba = np.empty_like(exit_.scores)
    # The upper bits alone are independent of the remainders that may have made folds.
    parts = folds_by_hash(run.hashes[run.held_out] >> np.uint64(32), 2)
    for part in np.unique(parts):
        inside, outside = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        calibration = exit_.head.calibration
        if len(outside):
            calibration = _calibrate(run, method, exit_.scores, outside)
        proba[inside] = softmax(calibration(exit_.scores[inside]), axis=1)
    return proba


def _calibrate(
    run: TrainingPass, method: Method, scores: Floats, which: NDArray[np.intp]
) -> Calibration:
    """Calibrate on some of the samples held out."""
    if method.calibration is None:
        return Temperature()
    rows = run.held_out[which]
    return fit_calibration(
        method.calibration,
        scores[which],
        run.codes[rows],
        run.sample_weight[rows],
        n_samples=len(np.unique(run.hashes[rows])),
    )
