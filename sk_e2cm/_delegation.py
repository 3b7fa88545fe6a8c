"""Prediction by the fitted estimator inside another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._arrays import Floats


def _inside_has(method: str) -> Any:
    return available_if(
        lambda self: hasattr(getattr(self, "estimator_", self.estimator), method)
    )


class DelegatesToEstimator:
    """Predicts as `estimator_` does, an estimator with early exits."""

    estimator: Any
    estimator_: Any

    def _inside(self) -> Any:
        check_is_fitted(self, "estimator_")
        return self.estimator_

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels."""
        return self._inside().classes_

    @property
    def n_features_in_(self) -> int:
        """Number of features seen during `fit`."""
        return self._inside().n_features_in_

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the features seen during `fit`."""
        return self._inside().feature_names_in_

    @property
    def stage_cost_(self) -> Floats:
        """Cost of exiting at each stage, in fractions of the network's."""
        return self._inside().stage_cost_

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
        return self._inside().predict(X)

    @_inside_has("predict_proba")
    def predict_proba(self, X: ArrayLike) -> Floats:
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
        return self._inside().predict_proba(X)

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
        return self._inside().predict_exit(X)

    def staged_predict(self, X: ArrayLike) -> Iterator[NDArray[Any]]:
        """Yield the labels predicted so far after each stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Yields
        ------
        ndarray of shape (n_samples,)
            The last equals ``predict(X)``.
        """
        yield from self._inside().staged_predict(X)

    @_inside_has("staged_predict_proba")
    def staged_predict_proba(self, X: ArrayLike) -> Iterator[Floats]:
        """Yield the probabilities known so far after each stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Yields
        ------
        ndarray of shape (n_samples, n_classes)
            The last equals ``predict_proba(X)``.
        """
        yield from self._inside().staged_predict_proba(X)

    def exit_proba(self, X: ArrayLike) -> Floats:
        """Return the probabilities of all stages, without early exits.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples, n_exits + 1, n_classes)
            Probabilities of the classes at every stage.
        """
        return self._inside().exit_proba(X)

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
        return self._inside().cost(X)

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Return the score of `estimator_`; of a classifier, its accuracy.

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
            Score.
        """
        return self._inside().score(X, y, sample_weight)
