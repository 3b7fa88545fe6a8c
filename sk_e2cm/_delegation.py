"""Prediction by the fitted estimator inside another."""

from __future__ import annotations

from functools import update_wrapper
from typing import Any

from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._arrays import Floats
from ._early_exit import EarlyExitClassifierMixin


def _delegated(name: str) -> Any:
    """Return a method that calls that of `estimator_`, where it has one."""

    def has_it(self: Any) -> bool:
        return hasattr(getattr(self, "estimator_", self.estimator), name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._inside(), name)(*args, **kwargs)

    # Under its own signature and docstring.
    return available_if(has_it)(
        update_wrapper(call, getattr(EarlyExitClassifierMixin, name))
    )


class DelegatesToEstimator:
    """Predicts as `estimator_` does, an estimator with early exits."""

    estimator: Any
    estimator_: Any

    predict = _delegated("predict")
    predict_proba = _delegated("predict_proba")
    predict_exit = _delegated("predict_exit")
    staged_predict = _delegated("staged_predict")
    staged_predict_proba = _delegated("staged_predict_proba")
    exit_proba = _delegated("exit_proba")
    cost = _delegated("cost")
    score = _delegated("score")

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
