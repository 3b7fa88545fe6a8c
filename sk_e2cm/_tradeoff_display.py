"""A picture of score against cost."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import is_clusterer
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from ._axes import axes_for
from ._multi_exit._loop import stage_costs
from ._tuning._problem import Answers, Outcomes
from ._tuning._search import shared
from ._utils._validation import codes_of, labels_of


class TradeoffDisplay:
    """Accuracy against cost: what can be chosen, and what was.

    Made by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    cost, score : array-like of shape (n_points,)
        By rising cost.

    full_score : float
        Score of the full network.

    chosen : tuple of float, default=None
        Cost and score of what was chosen.

    name : str, default=None
        For the legend.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of `ax_`.

    line_ : matplotlib.lines.Line2D
        The curve.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_e2cm import E2CMClassifier
    >>> from sk_e2cm.inspection import TradeoffDisplay
    >>> from sk_e2cm.testing import ToyExtractor
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = E2CMClassifier(ToyExtractor()).fit(X[:1000], y[:1000])
    >>> display = TradeoffDisplay.from_estimator(clf, X[1000:], y[1000:])
    >>> display.ax_.get_ylabel()
    'Score'
    """

    def __init__(
        self,
        cost: ArrayLike,
        score: ArrayLike,
        full_score: float,
        *,
        chosen: tuple[float, float] | None = None,
        name: str | None = None,
    ) -> None:
        self.cost = np.asarray(cost)
        self.score = np.asarray(score)
        self.full_score = full_score
        self.chosen = chosen
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        *,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the trade-off of a fitted estimator.

        Parameters
        ----------
        estimator : TunedExitsCV, E2CMClassifier or E2CMClusterer
            Fitted.

        X : array-like of shape (n_samples, ...), default=None
            Samples to measure on. Without them, a `TunedExitsCV` shows its frontier.

        y : array-like of shape (n_samples,), default=None
            True labels of these samples. By default, and for clusters always, the
            score is agreement with the full network.

        name : str, default=None
            For the legend; the estimator's class by default.

        ax : matplotlib.axes.Axes, default=None
            Where to draw; new axes by default.

        Returns
        -------
        TradeoffDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If there are neither samples nor a frontier, or labels without samples.
        """
        name = type(estimator).__name__ if name is None else name
        if X is None and y is not None:
            raise ValueError("Give X with y: the samples that it labels.")
        if X is not None:
            inside = getattr(estimator, "estimator_", estimator)
            check_is_fitted(inside)
            y = None if is_clusterer(inside) else y
            check_consistent_length(X, y)
            stage, proba = inside._exit_from_full_path(X)
            y = inside._labels_at(proba, -1) if y is None else y
            right = inside._labels_at(proba, stage) == np.asarray(y)
            return cls.from_predictions(
                y,
                proba,
                # All exits are open here, whatever the estimator's thresholds.
                stage_costs(
                    inside._macs, inside._exit_macs, np.zeros((proba.shape[1] - 1, 1))
                ),
                classes=inside._labels,
                chosen=(inside.stage_cost_[stage].mean(), right.mean()),
                name=name,
                ax=ax,
            )
        if not hasattr(estimator, "frontier_"):
            raise ValueError("Give X: only a fitted TunedExitsCV has a frontier.")
        frontier = estimator.frontier_
        return cls(
            frontier["cost"],
            frontier["score"],
            estimator.full_score_,
            chosen=(estimator.best_cost_, estimator.best_score_),
            name=name,
        ).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        exit_proba: ArrayLike,
        stage_cost: ArrayLike,
        *,
        classes: ArrayLike | None = None,
        chosen: tuple[float, float] | None = None,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw what one threshold, shared by all exits, can reach.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels.

        exit_proba : array-like of shape (n_samples, n_exits + 1, n_classes)
            Probabilities of all stages, nobody leaving.

        stage_cost : array-like of shape (n_exits + 1,)
            Cost of leaving at each stage.

        classes : array-like of shape (n_classes,), default=None
            The label of each column; by default the sorted labels of `y_true`.

        chosen : tuple of float, default=None
            Cost and score of what was chosen.

        name : str, default=None
            For the legend.

        ax : matplotlib.axes.Axes, default=None
            Where to draw; new axes by default.

        Returns
        -------
        TradeoffDisplay
            What was drawn.
        """
        y_true, proba = np.asarray(y_true), np.asarray(exit_proba, dtype=np.float64)
        check_consistent_length(y_true, proba)
        n_samples, n_stages, n_classes = proba.shape
        codes = codes_of(y_true, labels_of(y_true, classes, n_classes))
        answers = Answers(n_stages, n_samples, n_classes)
        for stage in range(n_stages):
            answers.add(stage, proba[:, stage], codes)
        outcomes = Outcomes(
            answers.confidence[:-1],
            answers.label,
            (answers.label != codes).astype(np.float64),
            np.full(n_samples, 1.0 / n_samples),
            np.diff(np.asarray(stage_cost, dtype=np.float64), prepend=0.0),
            np.zeros(n_stages),
        )
        points = shared(outcomes)
        full_score = 1.0 - outcomes.loss[-1].mean()
        return cls(
            points.cost, 1.0 - points.loss, full_score, chosen=chosen, name=name
        ).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw; new axes by default.

        Returns
        -------
        TradeoffDisplay
            Itself.
        """
        self.ax_ = axes_for(ax, type(self).__name__)
        self.figure_ = self.ax_.figure
        (self.line_,) = self.ax_.plot(
            self.cost, self.score, drawstyle="steps-post", label=self.name
        )
        color = self.line_.get_color()
        self.ax_.axhline(self.full_score, color=color, linestyle=":")
        if self.chosen is not None:
            self.ax_.plot(*self.chosen, "o", color=color)
        self.ax_.set(
            xlabel="Cost, in fractions of the network's (dotted: full network)",
            ylabel="Score",
        )
        if self.name is not None:
            self.ax_.legend(loc="lower right")
        return self
