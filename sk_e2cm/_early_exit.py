"""Prediction with early exits, shared by all estimators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted, check_memory, validate_data

from ._extractors import Extractor
from ._multi_exit._full_pass import FullPass, on_device
from ._multi_exit._heads import Head
from ._multi_exit._loop import (
    Step,
    check_thresholds,
    first_exit,
    run_lazily,
    stage_costs,
)
from ._multi_exit._pooling import Pooling
from ._utils._arrays import Floats
from ._utils._validation import as_array, check_columns


class EarlyExitMixin:
    """Prediction with early exits.

    A subclass sets `extractor_`, `input_shape_`, `_pooling`, `_labels` (one per column
    of the probabilities), and `_heads`, `_macs` and `_exit_macs` (one per stage) in
    ``fit``.
    `threshold`, `batch_size`, `device` and `memory` are read at each call, so they
    may be changed on a fitted estimator.
    """

    extractor_: Extractor
    input_shape_: tuple[int, ...]
    _pooling: Pooling
    _macs: Floats
    _exit_macs: Floats
    _heads: Sequence[Head]
    _labels: NDArray[Any]

    threshold: ArrayLike
    batch_size: int
    device: Any
    memory: Any
    verbose: int

    @property
    def stage_cost_(self) -> Floats:
        """Cost of exiting at each stage.

        In fractions of the network's multiply-adds, those of the open exits
        included: the last may exceed 1.
        """
        check_is_fitted(self, "extractor_")
        return stage_costs(self._macs, self._exit_macs, self._thresholds())

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict labels, exiting early where possible.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples,)
            The label of each sample.
        """
        _, proba = self._exit_lazily(X)
        return self._labels[proba.argmax(axis=1)]

    def predict_exit(self, X: ArrayLike) -> NDArray[np.intp]:
        """Return the stage at which each sample exits.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples,)
            From 0, the first exit, to the number of exits, the last stage.
        """
        stage, _ = self._exit_lazily(X)
        return stage

    def staged_predict(self, X: ArrayLike) -> Iterator[NDArray[Any]]:
        """Yield the labels predicted so far after each stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Yields
        ------
        ndarray of shape (n_samples,)
            Samples that have exited keep their label; the others get the label
            that is most probable at this stage. The last equals ``predict(X)``.
        """
        for proba in self._staged(X):
            yield self._labels[proba.argmax(axis=1)]

    def exit_proba(self, X: ArrayLike) -> Floats:
        """Return the probabilities of all stages, without early exits.

        Each stage is computed for all samples, and `memory` is used.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples, n_exits + 1, n_classes)
            Probabilities of the classes at every stage.
        """
        X = self._check_X(X)
        proba = np.empty((len(X), len(self._heads), len(self._labels)))
        full_pass = self._full_pass(self.extractor_, self._pooling)
        for rows, features in full_pass(X):
            for stage, head in enumerate(self._heads):
                proba[rows, stage] = head.proba(features[stage])
        return proba

    def cost(self, X: ArrayLike) -> float:
        """Return the mean cost of predicting these samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Returns
        -------
        float
            Mean fraction of the network's multiply-adds.
        """
        return float(self.stage_cost_[self.predict_exit(X)].mean())

    def _exit_from_full_path(self, X: ArrayLike) -> tuple[NDArray[np.intp], Floats]:
        """Return each sample's stage, and ``exit_proba(X)`` from which it follows."""
        proba = self.exit_proba(X)
        return first_exit(proba, self._thresholds()), proba

    def _labels_at(self, proba: Floats, stage: Any) -> NDArray[Any]:
        """Return the label of each sample at its stage, given ``exit_proba(X)``."""
        return self._labels[proba[np.arange(len(proba)), stage].argmax(axis=1)]

    def _early_and_full(
        self, X: ArrayLike
    ) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[Any]]:
        """Return each sample's stage, its label there, and its label at full depth."""
        stage, proba = self._exit_from_full_path(X)
        return stage, self._labels_at(proba, stage), self._labels_at(proba, -1)

    def _exit_lazily(self, X: ArrayLike) -> tuple[NDArray[np.intp], Floats]:
        """Return each sample's stage and its probabilities there."""
        X = self._check_X(X)
        stage = np.empty(len(X), dtype=np.intp)
        proba = np.empty((len(X), len(self._labels)))
        for start, step in self._steps(X, skip_closed=True):
            left = start + step.rows[step.leaves]
            stage[left] = step.stage
            proba[left] = step.proba[step.leaves]
        return stage, proba

    def _staged(self, X: ArrayLike) -> Floats:
        """Return the probabilities known after each stage, along the first axis."""
        X = self._check_X(X)
        proba = np.empty((len(self._heads), len(X), len(self._labels)))
        for start, step in self._steps(X, skip_closed=False):
            # For all later stages: samples that stay are overwritten there.
            proba[step.stage :, start + step.rows] = step.proba
        return proba

    def _steps(
        self, X: NDArray[Any], *, skip_closed: bool
    ) -> Iterator[tuple[int, Step]]:
        extractor = on_device(self.extractor_, self.device)
        thresholds = self._thresholds()
        for start in range(0, len(X), self.batch_size):
            for step in run_lazily(
                extractor,
                X[start : start + self.batch_size],
                self._heads,
                thresholds,
                self._pooling,
                skip_closed=skip_closed,
            ):
                yield start, step

    def _full_pass(self, extractor: Extractor, pooling: Pooling) -> FullPass:
        is_path = isinstance(self.memory, PathLike)
        return FullPass(
            on_device(extractor, self.device),
            pooling=pooling,
            batch_size=self.batch_size,
            memory=check_memory(fspath(self.memory) if is_path else self.memory),
            verbose=self.verbose,
        )

    def _thresholds(self) -> Floats:
        return check_thresholds(self.threshold, len(self._heads) - 1, len(self._labels))

    def _check_X(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self, "extractor_")
        check_columns(self.extractor_, X)
        X = as_array(X)
        fitted = self.input_shape_
        given = tuple(getattr(X, "shape", (0, *fitted))[1:])
        # Of tables scikit-learn says as much, in its own words.
        if given != fitted and (len(fitted) > 1 or len(given) > 1):
            raise ValueError(
                f"X has samples of shape {given}, but {type(self).__name__} was fitted "
                f"on samples of shape {fitted}. A single sample x is X = x[None]."
            )
        valid: NDArray[Any] = validate_data(self, X, reset=False, allow_nd=True)
        return valid


class EarlyExitClassifierMixin(EarlyExitMixin):
    """Probabilities of classes, and accuracy, with early exits."""

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities of each sample at its exit.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        _, proba = self._exit_lazily(X)
        return proba

    def staged_predict_proba(self, X: ArrayLike) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities known so far after each stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Yields
        ------
        ndarray of shape (n_samples, n_classes)
            See `staged_predict`. The last equals ``predict_proba(X)``.
        """
        yield from self._staged(X)

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the accuracy of ``predict(X)``, from cached features if there are.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        y : array-like of shape (n_samples,)
            True labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            Accuracy.
        """
        if self.memory is None:
            labels = self.predict(X)
        else:
            stage, proba = self._exit_from_full_path(X)
            labels = self._labels_at(proba, stage)
        return float(accuracy_score(y, labels, sample_weight=sample_weight))
