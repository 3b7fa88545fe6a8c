"""Prediction by the fitted estimator inside another."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Self

from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._early_exit import EarlyExitClassifierMixin, EarlyExitMixin
from ._utils._arrays import Floats


def _delegated(method: Callable[..., Any], *, returns_self: bool = False) -> Any:
    """Return a method that calls that of `estimator_`, where it has one."""
    name = method.__name__

    def has_it(self: Any) -> bool:
        # Whoever asks only whether there is one, asks for no thresholds.
        return hasattr(vars(self).get("estimator_", self.estimator), name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = getattr(self._inside(), name)(*args, **kwargs)
        return self if returns_self else found

    # Under its own signature and docstring.
    return available_if(has_it)(update_wrapper(call, method))


class DelegatesToEstimator:
    """Predicts as `estimator_` does, an estimator with early exits."""

    estimator: Any
    estimator_: Any

    prepare = _delegated(EarlyExitClassifierMixin.prepare, returns_self=True)
    predict = _delegated(EarlyExitClassifierMixin.predict)
    predict_proba = _delegated(EarlyExitClassifierMixin.predict_proba)
    predict_exit = _delegated(EarlyExitClassifierMixin.predict_exit)
    predict_all = _delegated(EarlyExitClassifierMixin.predict_all)
    staged_predict = _delegated(EarlyExitClassifierMixin.staged_predict)
    staged_predict_proba = _delegated(EarlyExitClassifierMixin.staged_predict_proba)
    exit_proba = _delegated(EarlyExitClassifierMixin.exit_proba)
    cost = _delegated(EarlyExitClassifierMixin.cost)
    score = _delegated(EarlyExitClassifierMixin.score)
    summary = _delegated(EarlyExitClassifierMixin.summary)

    def measure_seconds(self, X: ArrayLike, *, batch_size: int | None = None) -> Self:
        """Measure anew what stages and exits take; the thresholds stay.

        The parameters, errors and warnings are those of the estimator inside.

        Returns
        -------
        Self
            The tuned estimator, with `seconds_`.
        """
        self._inside().measure_seconds(X, batch_size=batch_size)
        return self

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

    @property
    def seconds_(self) -> Any:
        """What stages and exits take; None where it was not measured."""
        return self._inside().seconds_


def with_exits(estimator: Any, X: Any) -> tuple[EarlyExitMixin, Any]:
    """Return the fitted estimator with early exits that is inside, and its X.

    Parameters
    ----------
    estimator : E2CMClassifier, E2CMClusterer, TunedExitsCV or Pipeline
        A pipeline ends in one of these.

    X : array-like of shape (n_samples, ...) or None
        What `estimator` takes.

    Raises
    ------
    TypeError
        If there is no such estimator.

    NotFittedError
        If it is not fitted.
    """
    if isinstance(estimator, Pipeline):
        if len(estimator) > 1 and X is not None:
            X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    if isinstance(estimator, DelegatesToEstimator):
        estimator = estimator._inside()
    if not isinstance(estimator, EarlyExitMixin):
        hint = (
            " Pass its best_estimator_." if hasattr(estimator, "best_params_") else ""
        )
        raise TypeError(
            f"This needs an estimator with early exits, got {type(estimator).__name__}."
            + hint
        )
    check_is_fitted(estimator, "network_")
    return estimator, X
