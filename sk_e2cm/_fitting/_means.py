"""Class means and the scores they give: by distance, or whitened.

NumPy in, NumPy out. Notation of the paper (arXiv 2103.01148), with the stage left out:
c_k is the mean of class k, d_k(x) the distance to it, s_k the mean of d_k over all
training samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from .._utils._arrays import Floats, matmul
from ._covariance import Shrinkage, intensity_of, whiten, with_variance_of_constants
from ._kept import SampleFeatures, chunks, moments
from ._sums import ClassSums

METRICS = {"euclidean", "mahalanobis"}

# Those that need sums of products of the features.
OF_SECOND_ORDER = {"mahalanobis"}

# Class means that differ by less, relative to what was summed, differ by rounding.
_SAME = 1e-12
# Distinct samples per class, on average, below which means are not whitened. On four
# tables and at eight exits of two ResNet-20s whitened ones were more accurate from 2 to
# 10 on, and had the better log loss mostly from 20 on. Thanks to the shrinkage this
# hardly depends on the number of features, which were 4 to 1,024. (After the last block
# Euclidean means were better at 100, too; but there the network's head answers.)
_FEWEST_PER_CLASS = 10

# Below this share of its terms a difference has lost half of its digits.
_CANCELLED = 1e-8


def metric_for(metric: str, n_distinct: int, n_classes: int) -> tuple[str, str | None]:
    """Return the metric that so many samples allow, and why it is another, if it is."""
    fewest = _FEWEST_PER_CLASS * n_classes
    if metric not in OF_SECOND_ORDER or n_distinct >= fewest:
        return metric, None
    return "euclidean", (
        f"metric={metric!r} takes at least {fewest} distinct samples for {n_classes} "
        f"classes, {_FEWEST_PER_CLASS} each, and there are {n_distinct}."
    )


class Means(Protocol):
    """Turns the features of one stage into a score for each class."""

    metric: str
    means: Floats
    scale: Floats

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Return scores of shape (n_samples, n_classes), the larger the likelier."""


class ClassMeans:
    """Class means under the Euclidean distance, as in the paper.

    Parameters
    ----------
    means : ndarray of shape (n_classes, n_features)
        c_k.

    scale : ndarray of shape (n_classes,), default=None
        s_k; ones by default.
    """

    metric = "euclidean"

    def __init__(self, means: Floats, scale: Floats | None = None) -> None:
        self.means = means
        self.scale = np.ones(len(means)) if scale is None else scale
        # About their centre, means and features are small: the difference of their
        # squares below loses little.
        self._centre = means.mean(axis=0)
        self._offsets = means - self._centre
        self._squares = np.einsum("kd,kd->k", self._offsets, self._offsets)

    def distances(self, features: NDArray[np.floating]) -> Floats:
        """Return d_k = ||f - c_k||, shape (n_samples, n_classes)."""
        f = features - self._centre
        large = np.einsum("nd,nd->n", f, f)[:, None] + self._squares
        squared = large - 2.0 * matmul(f, self._offsets.T)
        # Where nearly all has cancelled, the difference is taken first.
        for k in np.flatnonzero((squared < _CANCELLED * large).any(axis=0)):
            close = squared[:, k] < _CANCELLED * large[:, k]
            difference = features[close] - self.means[k]
            squared[close, k] = np.einsum("nd,nd->n", difference, difference)
        return np.sqrt(squared)

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Return -d_k / s_k, shape (n_samples, n_classes)."""
        return -self.distances(features) / self.scale


class LinearMeans:
    """Means whose scores are linear in the features.

    Parameters
    ----------
    means : ndarray of shape (n_classes, n_features)
        c_k.

    coef : ndarray of shape (n_features, n_classes)
        The scores are (f - centre) @ coef + intercept.

    intercept : ndarray of shape (n_classes,)
        See `coef`.

    centre : ndarray of shape (n_features,)
        A point near the features, so that those far from zero lose no digits.
    """

    metric: str

    def __init__(
        self, means: Floats, coef: Floats, intercept: Floats, centre: Floats
    ) -> None:
        self.means = means
        self.scale = np.ones(len(means))
        self.coef = coef
        self.intercept = intercept
        self.centre = centre

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Return the scores, shape (n_samples, n_classes)."""
        return matmul(features - self.centre, self.coef) + self.intercept


class WhitenedMeans(LinearMeans):
    """Class means under the Mahalanobis distance of the pooled covariance S.

    The scores are -(f - c_k)' S^-1 (f - c_k) / 2 + log(prior_k) less what all classes
    share, and so linear in f: this is linear discriminant analysis.

    Parameters
    ----------
    means : ndarray of shape (n_classes, n_features)
        c_k.

    priors : ndarray of shape (n_classes,)
        Shares of the classes.

    covariance : ndarray of shape (n_features, n_features)
        S, before it is shrunk.

    intensity : float
        See `whiten`.
    """

    metric = "mahalanobis"

    def __init__(
        self, means: Floats, priors: Floats, covariance: Floats, intensity: float
    ) -> None:
        centre = means.mean(axis=0)
        offsets = means - centre
        coef = whiten(covariance, intensity, offsets.T)
        half = np.einsum("kd,dk->k", offsets, coef) / 2
        super().__init__(means, coef, np.log(priors) - half, centre)


def fit_means(
    metric: str,
    sums: ClassSums,
    features: SampleFeatures,
    codes: NDArray[np.intp],
    sample_weight: Floats,
    *,
    shrinkage: Shrinkage,
    n_samples: float | None = None,
    rounding: Floats | float = 0.0,
) -> Callable[[int | None], Means]:
    """Return a function from a fold to the class means without it (None: of all).

    `metric` is one of `METRICS`; the other parameters are those of `fit_whitened`.
    Without sums of products it is "euclidean".
    """
    if metric == "euclidean" or sums.second is None:
        return fit_euclidean(sums, features, sample_weight, rounding)
    return fit_whitened(
        sums, features, codes, sample_weight, shrinkage, n_samples, rounding
    )


def fit_euclidean(
    sums: ClassSums,
    features: SampleFeatures,
    sample_weight: Floats,
    rounding: Floats | float = 0.0,
) -> Callable[[int | None], ClassMeans]:
    """Return a function from a fold to the class means without it (None: of all).

    The scale s_k is the mean over the samples given, and the same for all; if none are
    given the square root of the mean squared distance, which is no smaller (Jensen).
    Features that deviate by no more than `rounding`, and class means that differ by no
    more, are taken to be constant: their mean is the same in every class.
    """
    # The means are those of all samples, of which these may be some.
    constant = np.ptp(sums.means(), axis=0) <= rounding
    if len(features):
        _, variance = moments(features, sample_weight)
        constant &= np.sqrt(variance) <= rounding

    def means(without_fold: int | None) -> Floats:
        found = sums.means(without_fold)
        found[:, constant] = found[:, constant].mean(axis=0)
        return found

    if len(features):
        of_all, mean_distances = ClassMeans(means(None)), np.zeros(len(sums.means()))
        for rows in chunks(np.arange(len(features))):
            mean_distances += sample_weight[rows] @ of_all.distances(features[rows])
        mean_distances /= sample_weight.sum()
    else:
        mean_distances = np.sqrt(sums.mean_squared_distances())
    # If all features are constant, all distances are 0 but for rounding, and the same:
    # any scale will do.
    usable = (mean_distances > 0) & (not constant.all())
    scale = np.where(usable, mean_distances, 1.0)
    return lambda without_fold: ClassMeans(means(without_fold), scale)


def fit_whitened(
    sums: ClassSums,
    features: SampleFeatures,
    codes: NDArray[np.intp],
    sample_weight: Floats,
    shrinkage: Shrinkage,
    n_samples: float | None = None,
    rounding: Floats | float = 0.0,
) -> Callable[[int | None], WhitenedMeans]:
    """Return a function from a fold to the whitened means without it (None: of all).

    Ledoit and Wolf's formula takes the fourth powers of the samples given, and the
    intensity is the same for all. `n_samples` says of how many samples the sums are;
    by default their weights add up to it. What deviates by no more than `rounding`,
    of shape (n_features,), is taken to be constant.
    """
    n_samples = n_samples or float(sums.weight.sum())
    overall = sums.means()
    residuals = (
        (features[rows] - overall[codes[rows]], sample_weight[rows])
        for rows in chunks(np.arange(len(features)))
    )
    intensity = intensity_of(
        shrinkage, sums.covariance(rounding=rounding), residuals, n_samples
    )

    summed = np.abs(sums.shift) + np.abs(overall).max(axis=0)
    of_means = np.maximum(rounding, _SAME * summed)

    def whitened(without_fold: int | None) -> WhitenedMeans:
        means = sums.means(without_fold)
        covariance = with_variance_of_constants(
            sums.covariance(without_fold, rounding), means, of_means, n_samples
        )
        priors = sums.priors(without_fold)
        try:
            return WhitenedMeans(means, priors, covariance, intensity)
        except LinAlgError:
            raise ValueError(
                f"The covariance of {features.shape[1]} features is singular: some of "
                f"them follow from others, or {n_samples:g} samples are too few. Use "
                "shrinkage='ledoit_wolf', a number above 0, or a coarser pooling."
            ) from None

    return whitened
