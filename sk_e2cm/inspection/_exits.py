"""A picture of who leaves where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_clusterer
from sklearn.utils import check_consistent_length

from .._delegation import with_exits
from .._utils._arrays import as_numbers
from .._utils._labels import as_labels, codes_of, labels_like
from ._axes import axes_for


class ExitDisplay:
    """Who leaves where: by correctness, or by class.

    Made by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    counts : array-like of shape (n_exits + 1, n_classes, 2)
        How many samples of each true class leave at each stage, with a wrong and
        with a right answer.

    classes : array-like of shape (n_classes,)
        Labels.

    stage_names : sequence of str, default=None
        Names of the stages; numbers by default.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was drawn.

    figure_ : matplotlib.figure.Figure
        The figure of `ax_`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_e2cm import E2CMClassifier
    >>> from sk_e2cm.inspection import ExitDisplay
    >>> from sk_e2cm.testing import ToyExtractor
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = E2CMClassifier(ToyExtractor()).fit(X[:1000], y[:1000])
    >>> display = ExitDisplay.from_estimator(clf, X[1000:], y[1000:])
    >>> int(display.counts.sum())
    797
    """

    def __init__(
        self,
        counts: ArrayLike,
        classes: ArrayLike,
        *,
        stage_names: Any = None,
    ) -> None:
        self.counts = as_numbers(counts, "counts")
        self.classes = as_labels(classes, "classes")
        self.stage_names = _checked_names(stage_names)
        names = self.stage_names
        n_stages = self.counts.shape[:1] if names is None else (len(names),)
        needed = *n_stages, len(self.classes), 2
        if self.counts.shape != needed:
            raise ValueError(
                f"counts has the shape {self.counts.shape}, and {needed} is needed: "
                "for each stage and class, how many answers are wrong and right."
            )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        by: str = "correctness",
        ax: Any = None,
    ) -> Self:
        """Draw where a fitted estimator lets samples leave.

        Parameters
        ----------
        estimator : TunedExitsCV, E2CMClassifier, E2CMClusterer or Pipeline
            Fitted; a pipeline ends in one of these.

        X : array-like of shape (n_samples, ...)
            Samples.

        y : array-like of shape (n_samples,), default=None
            True labels. By default, and for clusters always, the answers of the full
            network.

        by : {"correctness", "class"}, default="correctness"
            See `plot`.

        ax : matplotlib.axes.Axes, default=None
            Where to draw; new axes by default.

        Returns
        -------
        ExitDisplay
            What was drawn.
        """
        inside, X = with_exits(estimator, X)
        network = inside.network_
        if y is None or is_clusterer(inside):
            stage, y_pred, y = inside._early_and_full(X)
        else:
            stage, label = inside._exits(X)
            y_pred = network.labels[label]
        return cls.from_predictions(
            y,
            y_pred,
            stage,
            classes=network.labels,
            stage_names=network.stage_names,
            by=by,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        exits: ArrayLike,
        *,
        classes: ArrayLike | None = None,
        stage_names: Any = None,
        by: str = "correctness",
        ax: Any = None,
    ) -> Self:
        """Draw where samples have left.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n_samples,)
            True and predicted labels.

        exits : array-like of shape (n_samples,)
            As `predict_exit` returns.

        classes : array-like of shape (n_classes,), default=None
            All labels that occur; by default those of `y_true`.

        stage_names : sequence of str, default=None
            Names of all stages; by default numbers, up to the last that occurs.

        by : {"correctness", "class"}, default="correctness"
            See `plot`.

        ax : matplotlib.axes.Axes, default=None
            Where to draw; new axes by default.

        Returns
        -------
        ExitDisplay
            What was drawn.
        """
        y_pred = as_labels(y_pred, "y_pred")
        y_true = labels_like(y_true, y_pred, "y_true")
        exits = as_numbers(exits, "exits")
        is_stage = exits.dtype.kind in "iu" and (exits >= 0).all()
        if exits.ndim != 1 or not len(exits) or not is_stage:
            raise ValueError(
                "exits must be the number of a stage for each sample, as predict_exit "
                f"returns them, got {exits!r:.60}."
            )
        check_consistent_length(y_true, y_pred, exits)
        stage_names = _checked_names(stage_names)
        labels = np.unique(y_true) if classes is None else as_labels(classes, "classes")
        n_stages = int(exits.max()) + 1 if stage_names is None else len(stage_names)
        if exits.max() >= n_stages:
            raise ValueError(
                f"exits has the stage {exits.max()}, but stage_names names {n_stages}."
            )
        codes = codes_of(y_true, labels)
        counts = counts_by_stage(exits, codes, y_true == y_pred, n_stages, len(labels))
        return cls(counts, labels, stage_names=stage_names).plot(ax, by=by)

    def plot(self, ax: Any = None, *, by: str = "correctness") -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw; new axes by default.

        by : {"correctness", "class"}, default="correctness"
            Bars of right and wrong answers at each stage, or the share of each class
            that leaves there.

        Returns
        -------
        ExitDisplay
            Itself.

        Raises
        ------
        ValueError
            If `by` is neither.
        """
        if not isinstance(by, str) or by not in ("correctness", "class"):
            raise ValueError(f"by must be 'correctness' or 'class', got {by!r}.")
        self.ax_ = axes_for(ax, type(self).__name__)
        self.figure_ = self.ax_.figure
        stages = np.arange(len(self.counts))
        names = stages.astype(str) if self.stage_names is None else self.stage_names
        if by == "class":
            of_class = self.counts.sum(axis=2).T
            total = np.maximum(of_class.sum(axis=1, keepdims=True), 1)
            image = self.ax_.imshow(of_class / total, vmin=0, aspect="auto")
            self.figure_.colorbar(image, ax=self.ax_, label="Share of the class")
            self.ax_.set_yticks(range(len(self.classes)), self.classes)
            self.ax_.set_ylabel("True class")
        else:
            wrong, right = self.counts.sum(axis=1).T / self.counts.sum()
            self.ax_.bar(stages, right, label="right")
            self.ax_.bar(stages, wrong, bottom=right, label="wrong")
            self.ax_.set_ylabel("Share of the samples")
            self.ax_.legend()
        self.ax_.set_xticks(stages, names, rotation=90)
        self.ax_.set_xlabel("Stage at which they leave")
        return self


def counts_by_stage(
    stage: NDArray[np.intp],
    codes: NDArray[np.intp],
    right: NDArray[np.bool_],
    n_stages: int,
    n_classes: int,
) -> NDArray[np.intp]:
    """Return how many leave at each stage, by class and correctness."""
    counts = np.zeros((n_stages, n_classes, 2), dtype=np.intp)
    np.add.at(counts, (stage, codes, right.astype(np.intp)), 1)
    return counts


def _checked_names(stage_names: Any) -> tuple[str, ...] | None:
    """Return the names of all stages, or None."""
    if stage_names is None:
        return None
    if isinstance(stage_names, str) or not isinstance(stage_names, Iterable):
        raise TypeError(
            f"stage_names must have one name for each stage, got {stage_names!r:.60}."
        )
    return tuple(str(name) for name in stage_names)
