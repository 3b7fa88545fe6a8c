"""Class means: sums over samples, distances to the means, probabilities.

NumPy in, NumPy out. Notation of the paper (arXiv 2103.01148), with the stage left out:
c_k is the mean of class k, d_k(x) the distance to it, s_k the mean of d_k over all
training samples.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from ._calibration import fit_inverse_temperature

Floats = NDArray[np.float64]

# Below this share of its terms a difference has lost half of its digits.
_CANCELLED = 1e-8


def matmul(a: Floats, b: Floats) -> Floats:
    """Return a @ b, computed on torch's threads.

    Between the stages of a network NumPy's own would be in their way: both pools
    keep the cores busy while they wait.
    """
    # Loaded means may be memory-mapped, and torch warns of what it must not write.
    a, b = (x if x.flags.writeable else x.copy() for x in (a, b))
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


class ClassSums:
    """Weighted sums over samples by fold and class, from which means follow.

    Sums add: over batches, machines and folds. They are taken about a shift, so
    that features far from zero lose no digits.

    Parameters
    ----------
    n_folds, n_classes : int
        Every sample belongs to one fold and one class.

    shift : ndarray of shape (n_features,)
        Any point near the features, such as the mean of the first batch.

    second : bool, default=False
        Sum the products of features too, which `covariance` needs.
    """

    def __init__(
        self, n_folds: int, n_classes: int, shift: Floats, *, second: bool = False
    ) -> None:
        d = len(shift)
        self.shift = np.asarray(shift, dtype=np.float64)
        self.weight = np.zeros((n_folds, n_classes))
        self.first = np.zeros((n_folds, n_classes, d))
        self.second = np.zeros((n_folds, d, d)) if second else None

    def add(
        self,
        features: NDArray[np.floating],
        folds: NDArray[np.intp],
        codes: NDArray[np.intp],
        sample_weight: Floats,
    ) -> None:
        """Add a batch, features of shape (n_samples, n_features)."""
        n_folds, n_classes = self.weight.shape
        shifted = features - self.shift
        weighted = shifted * sample_weight[:, None]
        groups = folds * n_classes + codes
        order = groups.argsort()
        present, starts = np.unique(groups[order], return_index=True)
        self.weight.reshape(-1)[present] += np.add.reduceat(
            sample_weight[order], starts
        )
        self.first.reshape(n_folds * n_classes, -1)[present] += np.add.reduceat(
            weighted[order], starts
        )
        if self.second is not None:
            for fold in np.unique(folds):
                rows = folds == fold
                self.second[fold] += matmul(weighted[rows].T, shifted[rows])

    def merge(self, other: ClassSums) -> None:
        """Add what `other` has summed, about whatever shift.

        Raises
        ------
        ValueError
            If only one of the two has second moments.
        """
        if (self.second is None) != (other.second is None):
            raise ValueError("Only one of the two sums has second moments.")
        moved = other.shift - self.shift
        self.weight += other.weight
        self.first += other.first + other.weight[..., None] * moved
        if self.second is not None and other.second is not None:
            total = other.first.sum(axis=1)
            cross = total[:, :, None] * moved + moved[:, None] * total[:, None, :]
            weight = other.weight.sum(axis=1)[:, None, None]
            self.second += other.second + cross + weight * np.outer(moved, moved)

    def means(self, without_fold: int | None = None) -> Floats:
        """Return the class means, shape (n_classes, n_features).

        A class that lies in `without_fold` alone keeps its overall mean.
        """
        weight, first = self.weight.sum(axis=0), self.first.sum(axis=0)
        if without_fold is not None:
            others = np.arange(len(self.weight)) != without_fold
            rest = self.weight[others].sum(axis=0)
            left = rest > 0
            weight = np.where(left, rest, weight)
            first = np.where(left[:, None], self.first[others].sum(axis=0), first)
        return self.shift + first / weight[:, None]

    def covariance(self) -> Floats:
        """Return the pooled within-class covariance, (n_features, n_features)."""
        if self.second is None:
            raise ValueError("covariance needs ClassSums(..., second=True).")
        weight, first = self.weight.sum(axis=0), self.first.sum(axis=0)
        between = (first / weight[:, None]).T @ first
        return (self.second.sum(axis=0) - between) / weight.sum()


class ClassMeans:
    """Class means at one stage, and the probabilities they give.

    Parameters
    ----------
    means : ndarray of shape (n_classes, n_features)
        c_k.

    scale : ndarray of shape (n_classes,), default=None
        s_k; ones by default.

    inverse_temperature : float, default=1.0
        1 is the paper's softmax.
    """

    def __init__(
        self,
        means: Floats,
        scale: Floats | None = None,
        inverse_temperature: float = 1.0,
    ) -> None:
        self.means = means
        self.scale = np.ones(len(means)) if scale is None else scale
        self.inverse_temperature = inverse_temperature
        # About their centre, means and features are small: the difference of their
        # squares below loses little.
        self._centre = means.mean(axis=0)
        self._offsets = means - self._centre
        self._squares = np.einsum("kd,kd->k", self._offsets, self._offsets)

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return self.means.size

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

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """Return -d_k / s_k, shape (n_samples, n_classes)."""
        return -self.distances(features) / self.scale

    def proba(self, features: NDArray[np.floating]) -> Floats:
        """Return softmax_k(-beta d_k / s_k), shape (n_samples, n_classes)."""
        return softmax(self.inverse_temperature * self.logits(features), axis=1)


def fit_class_means(
    sums: ClassSums,
    features: NDArray[np.floating],
    folds: NDArray[np.intp],
    codes: NDArray[np.intp],
    sample_weight: Floats,
    *,
    calibrate: bool,
    n_samples: float | None = None,
) -> ClassMeans:
    """Fit one exit from its sums and from the samples that were kept.

    The scale s_k is the mean over these samples. With `calibrate`, the temperature
    is fitted to distances from the means of the other folds: to data that the means
    have not seen; `n_samples` is passed on to `fit_inverse_temperature`.
    """
    fitted = ClassMeans(sums.means())
    mean_distances = np.average(
        fitted.distances(features), axis=0, weights=sample_weight
    )
    # All distances are 0 if the features are constant: any scale will do.
    scale = np.where(mean_distances > 0, mean_distances, 1.0)
    if not calibrate:
        return ClassMeans(fitted.means, scale)

    logits = np.empty((len(features), len(scale)))
    for fold in np.unique(folds):
        rows = folds == fold
        unseen = ClassMeans(sums.means(without_fold=fold), scale)
        logits[rows] = unseen.logits(features[rows])
    beta = fit_inverse_temperature(logits, codes, sample_weight, n_samples)
    return ClassMeans(fitted.means, scale, beta)
