"""A picture of accuracy against cost."""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.base import is_clusterer
from sklearn.pipeline import Pipeline

from .._delegation import with_exits
from .._early_exit import accuracy
from .._multi_exit._thresholds import first_exit
from .._utils._arrays import as_numbers, to_array
from .._utils._labels import as_labels, labels_of
from ..metrics import accuracy_cost_curve
from ._axes import axes_for


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

    unit : str, default=None
        Of what costs are fractions, such as "multiply-adds" or "time": for the label.

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
        unit: str | None = None,
    ) -> None:
        self.cost = as_numbers(cost, "cost")
        self.score = as_numbers(score, "score")
        if self.cost.ndim != 1 or self.cost.shape != self.score.shape:
            raise ValueError(
                f"cost has the shape {self.cost.shape} and score {self.score.shape}: "
                "one number for each point is needed."
            )
        number = as_numbers(full_score, "full_score")
        if number.ndim:
            raise ValueError(f"full_score must be a number, got {full_score!r:.60}.")
        if chosen is not None and as_numbers(chosen, "chosen").shape != (2,):
            raise ValueError(f"chosen must be cost and score, got {chosen!r:.60}.")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be text, got {name!r:.60}.")
        self.full_score = float(number)
        self.chosen = chosen
        self.name = name
        self.unit = unit

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
        estimator : TunedExitsCV, E2CMClassifier, E2CMClusterer or Pipeline
            Fitted; a pipeline ends in one of these.

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
            inside, X = with_exits(estimator, X)
            network, proba = inside.network_, inside.exit_proba(X)
            stage = first_exit(proba, inside.threshold)
            if y is None or is_clusterer(inside):
                y = network.labels_at(proba, -1)
            score = accuracy(y, network.labels_at(proba, stage))
            return cls.from_predictions(
                y,
                proba,
                # All exits are open here, whatever the estimator's thresholds.
                network.stage_cost(0.0),
                classes=network.labels,
                chosen=(inside.stage_cost_[stage].mean(), score),
                name=name,
                unit=network.costs.unit,
                ax=ax,
            )
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        if not hasattr(estimator, "frontier_"):
            raise ValueError("Give X: only a fitted TunedExitsCV has a frontier.")
        frontier = estimator.frontier_
        return cls(
            frontier["cost"],
            frontier["score"],
            estimator.full_score_,
            chosen=(estimator.best_cost_, estimator.best_score_),
            name=name,
            unit=estimator.estimator_.network_.costs.unit,
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
        unit: str | None = None,
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

        unit : str, default=None
            Of what costs are fractions, such as "multiply-adds" or "time".

        ax : matplotlib.axes.Axes, default=None
            Where to draw; new axes by default.

        Returns
        -------
        TradeoffDisplay
            What was drawn.
        """
        score, cost, _ = accuracy_cost_curve(
            y_true, exit_proba, stage_cost, classes=classes
        )
        y_true, last = as_labels(y_true, "y_true"), to_array(exit_proba, "")[:, -1]
        labels = labels_of(y_true, classes, last.shape[1])
        full_score = accuracy(y_true, labels[last.argmax(axis=1)])
        return cls(cost, score, full_score, chosen=chosen, name=name, unit=unit).plot(
            ax
        )

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
        of_what = f"network's {self.unit}" if self.unit else "network's"
        self.ax_.set(
            xlabel=f"Cost, in fractions of the {of_what} (dotted: full network)",
            ylabel="Score",
        )
        if self.name is not None:
            self.ax_.legend(loc="lower right")
        return self
