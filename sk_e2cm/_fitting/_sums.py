"""Sums over samples, from which means and covariances follow."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import Floats, matmul

# Relative to the sums that a variance is the difference of.
_ROUNDING = 1e-12


class ClassSums:
    """Weighted sums over samples by fold and class, from which means follow.

    Sums add: over batches, machines and folds. They are taken about a shift, so
    that features far from zero lose no digits. There is room for the folds and classes
    that have been met.

    Parameters
    ----------
    shift : ndarray of shape (n_features,)
        Any point near the features, such as the mean of the first batch.

    second : bool, default=False
        Sum the products of features too, which `covariance` needs.

    Attributes
    ----------
    folds : ndarray of shape (n_folds,)
        Those met, in ascending order; -1 is that of samples which are never left out.

    weight : ndarray of shape (n_folds, n_classes)
        Sums of the weights.

    first : ndarray of shape (n_folds, n_classes, n_features)
        Weighted sums of the features less the shift.

    second : ndarray of shape (n_folds, n_features, n_features), or None
        Weighted sums of the products of these.

    squares : ndarray of shape (n_folds,)
        Weighted sums of their squared norms.
    """

    def __init__(self, shift: Floats, *, second: bool = False) -> None:
        d = len(shift)
        self.shift = np.asarray(shift, dtype=np.float64)
        self.folds = np.empty(0, dtype=np.intp)
        self.weight = np.zeros((0, 0))
        self.first = np.zeros((0, 0, d))
        self.second = np.zeros((0, d, d)) if second else None
        self.squares = np.zeros(0)

    def add(
        self,
        features: NDArray[np.floating],
        folds: NDArray[np.intp],
        codes: NDArray[np.intp],
        sample_weight: Floats,
    ) -> None:
        """Add a batch, features of shape (n_samples, n_features)."""
        if not len(codes):
            return
        self._make_room(np.unique(folds), int(codes.max()) + 1)
        n_folds, n_classes = self.weight.shape
        slots = self.folds.searchsorted(folds)
        shifted = features - self.shift
        weighted = shifted * sample_weight[:, None]
        groups = slots * n_classes + codes
        order = groups.argsort()
        present, starts = np.unique(groups[order], return_index=True)
        self.weight.reshape(-1)[present] += np.add.reduceat(
            sample_weight[order], starts
        )
        self.first.reshape(n_folds * n_classes, -1)[present] += np.add.reduceat(
            weighted[order], starts
        )
        norms = np.einsum("nd,nd->n", weighted, shifted)
        self.squares += np.bincount(slots, norms, minlength=n_folds)
        if self.second is not None:
            for slot in np.unique(slots):
                rows = slots == slot
                self.second[slot] += matmul(weighted[rows].T, shifted[rows])

    def __getstate__(self) -> dict[str, Any]:
        # Products are symmetric: half of them tell all.
        state = vars(self).copy()
        if self.second is not None:
            rows, columns = np.triu_indices(len(self.shift))
            state["second"] = self.second[:, rows, columns]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.second is not None:
            halves, d = self.second, len(self.shift)
            rows, columns = np.triu_indices(d)
            self.second = np.empty((len(halves), d, d))
            self.second[:, rows, columns] = halves
            self.second[:, columns, rows] = halves

    @property
    def has_products(self) -> bool:
        """Whether products of features are summed."""
        return self.second is not None

    def merge(self, other: ClassSums, codes: NDArray[np.intp] | None = None) -> None:
        """Add what `other` has summed, about whatever shift.

        Its class k is called ``codes[k]`` here; by default alike.

        Raises
        ------
        ValueError
            If only one of the two has second moments.
        """
        if (self.second is None) != (other.second is None):
            raise ValueError("Only one of the two sums has second moments.")
        codes = np.arange(other.weight.shape[1]) if codes is None else codes
        self._make_room(other.folds, int(codes.max(initial=-1)) + 1)
        slots = self.folds.searchsorted(other.folds)
        places = np.ix_(slots, codes[: other.weight.shape[1]])
        moved = other.shift - self.shift
        self.weight[places] += other.weight
        self.first[places] += other.first + other.weight[..., None] * moved
        sums, norm = other.first.sum(axis=1) @ moved, moved @ moved
        self.squares[slots] += other.squares + 2 * sums + other.weight.sum(1) * norm
        if self.second is not None and other.second is not None:
            total = other.first.sum(axis=1)
            cross = total[:, :, None] * moved + moved[:, None] * total[:, None, :]
            weight = other.weight.sum(axis=1)[:, None, None]
            self.second[slots] += other.second + cross + weight * np.outer(moved, moved)

    def copy(self) -> ClassSums:
        """Return the same sums, to which others may be added."""
        found = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(found, name, value.copy())
        return found

    def take_classes(self, codes: NDArray[np.intp]) -> ClassSums:
        """Return these sums with class ``codes[k]`` in place of class k."""
        taken = ClassSums(self.shift)
        taken.folds, taken.second = self.folds, self.second
        taken.squares = self.squares
        taken.weight, taken.first = self.weight[:, codes], self.first[:, codes]
        return taken

    def _make_room(self, folds: NDArray[np.intp], n_classes: int) -> None:
        new = np.setdiff1d(folds, self.folds)
        if len(new):
            places = self.folds.searchsorted(new)
            self.folds = np.insert(self.folds, places, new)
            self.weight = np.insert(self.weight, places, 0.0, axis=0)
            self.first = np.insert(self.first, places, 0.0, axis=0)
            self.squares = np.insert(self.squares, places, 0.0)
            if self.second is not None:
                self.second = np.insert(self.second, places, 0.0, axis=0)
        more = max(n_classes - self.weight.shape[1], 0)
        if more:
            self.weight = np.pad(self.weight, [(0, 0), (0, more)])
            self.first = np.pad(self.first, [(0, 0), (0, more), (0, 0)])

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

    def mean_squared_distances(self) -> Floats:
        """Return the mean squared distance of all samples to each class mean."""
        total = self.weight.sum()
        centre = self.first.sum(axis=(0, 1)) / total
        moved = self.means() - self.shift
        apart = np.einsum("kd,kd->k", moved, moved) - 2 * moved @ centre
        return np.maximum(self.squares.sum() / total + apart, 0.0)

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
        if without_fold is None:
            return np.ones(len(self.folds), dtype=bool)
        rest: NDArray[np.bool_] = self.folds != without_fold
        return rest
