"""Fits in parts: what was seen adds up, and the rest follows when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from ._fitting._labelled import LabelledStatistics
from ._utils._compat import _fit_context

_NO_STATISTICS = (
    "fit keeps no statistics, which would be many times as large as the exits, and "
    "finalize drops them. Start from a clone, with partial_fit alone."
)


class FinishedAttribute:
    """A fitted attribute that, after partial fits, is set when it is first asked for.

    What is set on the estimator itself goes before.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, estimator: Any, owner: type) -> Any:
        if estimator is None:
            return self
        if "statistics_" not in vars(estimator):
            raise AttributeError(
                f"{owner.__name__!r} object has no attribute {self.name!r}"
            )
        estimator._finish()
        return vars(estimator)[self.name]


class FitsInParts:
    """Adds `partial_fit`, `merge`, `for_sharing` and `finalize` to an estimator.

    A subclass sees samples (`_seen`), refuses statistics of other features than its
    parameters ask for (`_check_source`), and sets its `FinishedAttribute`s, of which
    `_finished_by` is one (`_finish`).
    """

    statistics_: LabelledStatistics
    _finished_by: str
    _seen: Callable[..., LabelledStatistics]
    _check_source: Callable[[LabelledStatistics], None]
    _finish: Callable[[], None]

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Add samples to those seen so far.

        The network runs over these samples once. Exits are finished when they are first
        asked for, and are those of one `fit` to all samples, to rounding and whatever
        the order, as long as the features of all fit into scikit-learn's
        ``working_memory``; of more, a uniform subset calibrates, and is what `carry`,
        `head` and a classifier as `final` are fitted to. So are the thresholds of a
        `TunedExitsCV`, which are those of one `fit` to a loader of all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples, each of the shape that the extractor takes; of torch's loaders and
            datasets batches of (X, y) or (X, y, weight).

        y : array-like of shape (n_samples,), default=None
            Labels. None where they come with X.

        classes : array-like of shape (n_classes,), default=None
            All labels that will come; needed at the first call, and may name new ones
            later. Those of which no sample has come by the time exits are finished are
            left out of `classes_`.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; samples of weight 0 are ignored.

        Returns
        -------
        Self
            The estimator, with `statistics_`.

        Raises
        ------
        ValueError
            If the data, the parameters and the network do not fit together, or if the
            estimator was fitted by `fit`. What was seen before is left as it was.
        """
        before = vars(self).get("statistics_")
        if before is None and self._finished_by in vars(self):
            raise ValueError(f"This estimator has no statistics left. {_NO_STATISTICS}")
        seen = self._seen(before, X, y, classes, sample_weight)
        if before is not None:
            seen = self._merged(seen)
        self._set_seen(seen)
        return self

    def merge(self, other: Self) -> Self:
        """Add what another estimator has seen, by `partial_fit`, elsewhere.

        Parameters
        ----------
        other : estimator of the same class
            Over the same network, with the same `pooling` and `metric` and as many
            folds. It stays as it is.

        Returns
        -------
        Self
            The estimator, whose exits are those of one fit to the samples of both.

        Raises
        ------
        TypeError
            If the other is of another class.

        ValueError
            If the other has no statistics, if this one was fitted by `fit`, or if they
            are of different features.
        """
        if not isinstance(other, type(self)):
            raise TypeError(
                f"merge takes another {type(self).__name__}, got "
                f"{type(other).__name__}."
            )
        for estimator in (self, other):
            is_fresh = estimator is self and self._finished_by not in vars(self)
            if "statistics_" not in vars(estimator) and not is_fresh:
                raise ValueError(
                    "merge adds up the statistics of partial_fit, and "
                    f"{'this' if estimator is self else 'the other'} estimator has "
                    f"none. {_NO_STATISTICS}"
                )
        if "statistics_" not in vars(self):
            seen = other.statistics_
            self._check_source(seen)
            self._set_seen(seen)
            return self
        self._set_seen(self._merged(other.statistics_))
        return self

    def for_sharing(self, features: bool = False) -> Self:
        """Return a copy for others to merge, whose samples stay here.

        What travels is, for each stage, fold and class, the number of the samples, the
        sum of their features and, for a whitened metric, the sums of products of all
        classes together; further how many samples are distinct, the largest number
        among them, and the network. Such sums say what samples are like on average, and
        of a class of one sample what its features are. They say whether a sample that
        somebody already has, alone in its class, is among them.

        Where it is merged, calibration and scales come from the features that are kept
        there. If none are, exits need ``calibration=None``, ``final="class_means"``
        and, to be whitened, `shrinkage` by "oas" or a number; the Euclidean scale s_k
        is the square root of the mean squared distance then, an upper bound of it.

        Parameters
        ----------
        features : bool, default=False
            Whether the pooled features that were kept, and hashes of all samples,
            travel too: then exits are those of one fit to the samples of both.

        Returns
        -------
        Self
            The copy.

        Raises
        ------
        ValueError
            If the estimator has no statistics.
        """
        if "statistics_" not in vars(self):
            raise ValueError(f"There are no statistics to share. {_NO_STATISTICS}")
        shared = clone(self)
        shared._set_seen(self.statistics_.for_sharing(features=features))
        return shared

    def finalize(self) -> Self:
        """Finish the exits after partial fits, and drop the statistics.

        Returns
        -------
        Self
            The estimator, which takes no more samples and is as small as after `fit`.
        """
        check_is_fitted(self, self._finished_by)
        self.__dict__ = {k: v for k, v in vars(self).items() if k != "statistics_"}
        return self

    def __dir__(self) -> list[str]:
        if self._finished_by in vars(self) or "statistics_" not in vars(self):
            return [*super().__dir__()]
        # scikit-learn asks for every attribute, to show an estimator for instance, and
        # so would finish the exits.
        of_class = {name: getattr(type(self), name, None) for name in dir(type(self))}
        lazy = {
            name
            for name, value in of_class.items()
            if isinstance(value, (FinishedAttribute, property))
        }
        return sorted({*of_class, *vars(self)} - lazy)

    def _attributes_of(self, seen: LabelledStatistics) -> dict[str, Any]:
        """Return the attributes that say what was seen."""
        return {"statistics_": seen}

    def _merged(self, other: LabelledStatistics) -> LabelledStatistics:
        """Return what both have seen; an interrupt leaves both as they were."""
        found = self.statistics_.copy()
        found.merge(other)
        return found

    def _set_seen(self, seen: LabelledStatistics) -> None:
        """Set statistics; what was finished before is finished no more."""
        kept = {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(type(self), name, None), FinishedAttribute)
        }
        self.__dict__ = kept | self._attributes_of(seen)
