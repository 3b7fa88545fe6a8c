"""Heads fitted to all samples, and their out-of-fold probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from .._multi_exit._heads import Logits
from .._utils._arrays import Floats
from ._calibration import Calibration, Temperature, fit_calibration
from ._covariance import Shrinkage
from ._folding import fold
from ._means import OF_SECOND_ORDER, Means, fit_means
from ._statistics import Statistics, folds_by_hash


class HeadSpec(NamedTuple):
    """How class means are fitted; see `E2CMClassifier`."""

    metric: str
    shrinkage: Shrinkage
    calibration: str | None

    @property
    def needs_products(self) -> bool:
        """Whether class means take sums of products of the features."""
        return self.metric in OF_SECOND_ORDER


@dataclass(frozen=True)
class FittedHead:
    """The fitted head of one stage, an exit or the last.

    Parameters
    ----------
    kind : {"class_means", "network", "classifier", "clusterer"}
        What computes the logits.

    logits : Logits
        From features to logits, fitted to all samples.

    out_of_fold : callable
        Returns the probabilities of the samples held out, (n_held_out, n_classes),
        from what has not seen them.
    """

    kind: str
    logits: Logits
    out_of_fold: Callable[[], Floats]


@dataclass(frozen=True)
class ClassMeansHead(FittedHead):
    """The head of class means.

    Parameters
    ----------
    means : Means
        The class means.

    temperature : float
        Of their calibration; 1 is the paper's.
    """

    means: Means
    temperature: float


class CrossFit(NamedTuple):
    """A fit, with out-of-fold probabilities of every stage."""

    statistics: Statistics
    heads: list[FittedHead]

    @property
    def codes(self) -> NDArray[np.intp]:
        """The true classes of the samples held out."""
        return self.statistics.codes[self.statistics.held_out]

    @property
    def rows(self) -> NDArray[np.intp]:
        """Which samples of the fit these are; those without weight do not count."""
        return self.statistics.kept[self.statistics.held_out]

    def out_of_fold(self) -> Iterator[Floats]:
        """Yield the probabilities of each stage, (n_held_out, n_classes)."""
        for head in self.heads:
            yield head.out_of_fold()


def fit_class_means(statistics: Statistics, spec: HeadSpec) -> Iterator[ClassMeansHead]:
    """Fit the class means of every stage, one after the other."""
    for stage, name in enumerate(statistics.stage_names):
        try:
            yield _fit_stage(statistics, spec, stage)
        except ValueError as error:
            raise ValueError(f"Stage {name!r}: {error}") from error


def _fit_stage(statistics: Statistics, spec: HeadSpec, stage: int) -> ClassMeansHead:
    sums, features = statistics.sums[stage], statistics.features[stage]
    means_without = fit_means(
        spec.metric,
        sums,
        features,
        statistics.codes,
        statistics.sample_weight,
        shrinkage=spec.shrinkage,
        n_samples=statistics.n_distinct,
        rounding=statistics.rounding[stage],
    )
    held_out = statistics.held_out
    scores = np.empty((len(held_out), sums.weight.shape[1]))
    folds = statistics.folds[held_out]
    for fold_ in np.unique(folds):
        here = folds == fold_
        scores[here] = means_without(fold_).scores(features[held_out[here]])
    means = means_without(None)
    calibration = _calibrate(statistics, spec, scores, np.arange(len(scores)))
    return ClassMeansHead(
        "class_means",
        fold(means, calibration, features),
        partial(_out_of_fold, statistics, spec, scores, calibration),
        means=means,
        temperature=1 / calibration.inverse_temperature,
    )


def _out_of_fold(
    statistics: Statistics, spec: HeadSpec, scores: Floats, calibration: Calibration
) -> Floats:
    """Return probabilities of the samples held out, shape (n_held_out, n_classes).

    From scores by class means that have not seen them, and from a Dirichlet
    calibration that has not either.
    """
    if spec.calibration != "dirichlet":
        # A temperature is one number fitted on all held-out samples; no single sample
        # matters to it.
        return softmax(calibration(scores), axis=1)
    proba = np.empty_like(scores)
    # The upper bits alone are independent of the remainders that may have made folds.
    hashes = statistics.hashes[statistics.held_out]
    parts = folds_by_hash(hashes >> np.uint64(32), 2)
    for part in np.unique(parts):
        inside, outside = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        if len(outside):
            calibration = _calibrate(statistics, spec, scores, outside)
        proba[inside] = softmax(calibration(scores[inside]), axis=1)
    return proba


def _calibrate(
    statistics: Statistics, spec: HeadSpec, scores: Floats, which: NDArray[np.intp]
) -> Calibration:
    """Calibrate on some of the samples held out."""
    if spec.calibration is None:
        return Temperature()
    rows = statistics.held_out[which]
    return fit_calibration(
        spec.calibration,
        scores[which],
        statistics.codes[rows],
        statistics.sample_weight[rows],
        n_samples=len(np.unique(statistics.hashes[rows])),
    )
