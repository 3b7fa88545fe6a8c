"""Sums over samples, from which means and covariances follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import Floats, matmul

# Relative to the sums that a variance is the difference of.
_ROUNDING = 1e-12


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
            rest = self._rest(without_fold)
            left = self.weight[rest].sum(axis=0)
            present = left > 0
            weight = np.where(present, left, weight)
            others = self.first[rest].sum(axis=0)
            first = np.where(present[:, None], others, first)
        return self.shift + first / weight[:, None]

    def priors(self, without_fold: int | None = None) -> Floats:
        """Return the classes' shares of the weight; one left out keeps its own."""
        weight = self.weight.sum(axis=0)
        if without_fold is not None:
            left = self.weight[self._rest(without_fold)].sum(axis=0)
            weight = np.where(left > 0, left, weight)
        return weight / weight.sum()

    def covariance(
        self, without_fold: int | None = None, rounding: Floats | float = 0.0
    ) -> Floats:
        """Return the pooled within-class covariance, (n_features, n_features).

        If all samples lie in `without_fold`, it is that of all. Zero for features that
        deviate within the classes by no more than `rounding`, of shape (n_features,).
        """
        if self.second is None:
            raise ValueError("covariance needs ClassSums(..., second=True).")
        rest = self._rest(without_fold)
        if not self.weight[rest].any():
            rest = self._rest(None)
        weight, first = self.weight[rest].sum(axis=0), self.first[rest].sum(axis=0)
        present = weight > 0
        weight, first = weight[present], first[present]
        second = self.second[rest].sum(axis=0)
        within = second - (first / weight[:, None]).T @ first
        # What rounding has left of a feature that is constant within the classes: that
        # of these sums, or that of the features.
        of_sums = _ROUNDING * np.diag(second)
        of_features = weight.sum() * np.square(rounding)
        constant = np.diag(within) <= np.maximum(of_sums, of_features)
        within[constant] = within[:, constant] = 0.0
        return within / weight.sum()

    def _rest(self, without_fold: int | None) -> NDArray[np.bool_]:
        rest = np.ones(len(self.weight), dtype=bool)
        if without_fold is not None:
            rest[without_fold] = False
        return rest
