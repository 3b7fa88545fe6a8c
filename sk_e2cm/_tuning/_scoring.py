"""Scores that are no sum over samples: candidates are scored anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer

from .._utils._arrays import Floats
from ._problem import ThresholdProblem
from ._search import Points

# Scores that are one less a mean of losses.
ADDITIVE = ("accuracy", "balanced_accuracy")

# So many candidates are scored anew by any other score.
_MOST_SCORED = 300


class _Predicted(ClassifierMixin, BaseEstimator):
    """Predicts what it is given: lets any scorer judge predictions."""

    classes_: NDArray[Any]

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        return X


def rescored(
    scoring: Any,
    points: Points,
    problem: ThresholdProblem,
    classes: NDArray[Any],
    codes: NDArray[np.intp],
) -> Points:
    """Return some of the points, the last included, with 1 - score as their loss.

    Raises
    ------
    ValueError
        If the score needs more than predictions.
    """
    judge = _judge(scoring, classes, codes, problem.weight)
    points = points.spread(_MOST_SCORED)
    loss = [1.0 - judge(problem.labels(each)) for each in points.thresholds]
    return Points(np.array(loss), points.cost, points.thresholds)


def _judge(
    scoring: Any, classes: NDArray[Any], codes: NDArray[np.intp], weight: Floats
) -> Callable[[NDArray[np.intp]], float]:
    scorer = get_scorer(scoring)
    predicted = _Predicted()
    predicted.classes_ = classes
    truth = classes[codes]
    weights = {} if np.ptp(weight) == 0 else {"sample_weight": weight}

    def judge(label: NDArray[np.intp]) -> float:
        try:
            score = float(scorer(predicted, classes[label], truth, **weights))
        except AttributeError as error:
            raise ValueError(
                f"scoring={scoring!r} needs more than predictions. Choose a score of "
                "predicted labels."
            ) from error
        except TypeError as error:
            with_weights = " (and sample_weight, which were given)" if weights else ""
            raise TypeError(
                f"scoring={scoring!r} must be a name, or a scorer that is called with "
                f"an estimator, X and y{with_weights}, as make_scorer returns it: "
                f"{error}."
            ) from error
        if not np.isfinite(score):
            raise ValueError(
                f"scoring={scoring!r} returns {score} for some of the predictions, "
                "which cannot be compared with other scores."
            )
        return score

    return judge
