"""Fits in parts: what was seen adds up, and exits follow when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from ._collecting import CollectingE2CM
from ._fitting._classifiers import check_head
from ._fitting._cross_fitting import CrossFit, HeadSpec
from ._fitting._labelled import Finished, LabelledStatistics
from ._fitting._means import OF_SECOND_ORDER
from ._fitting._statistics import Statistics, in_one_fold
from ._multi_exit._thresholds import check_thresholds
from ._utils._compat import _fit_context
from ._utils._labels import as_labels, check_classes, labels_like

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


class PartialFitE2CM(CollectingE2CM):
    """Adds `partial_fit` and `merge` to a classifier."""

    statistics_: LabelledStatistics
    head: Any
    _fit_exits: Callable[..., CrossFit]

    network_ = FinishedAttribute()
    seconds_ = FinishedAttribute()
    input_shape_ = FinishedAttribute()
    metric_ = FinishedAttribute()
    metric_reason_ = FinishedAttribute()
    distance_scale_ = FinishedAttribute()
    temperature_ = FinishedAttribute()
    classes_ = FinishedAttribute()
    class_means_ = FinishedAttribute()
    final_ = FinishedAttribute()
    _warned_of = FinishedAttribute()
    _fitted_numbers = FinishedAttribute()

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
        `head` and a classifier as `final` are fitted to.

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
        E2CMClassifier
            The estimator, with `statistics_`.

        Raises
        ------
        ValueError
            If the data, the parameters and the network do not fit together, or if the
            estimator was fitted by `fit`. What was seen before is left as it was.
        """
        seen = self._seen(X, y, classes, sample_weight)
        if "statistics_" in vars(self):
            seen = self._merged(seen)
        self._set_seen(seen)
        return self

    def merge(self, other: Self) -> Self:
        """Add what another estimator has seen, by `partial_fit`, elsewhere.

        Parameters
        ----------
        other : E2CMClassifier
            Over the same network, with the same `pooling` and `metric`. It stays as it
            is.

        Returns
        -------
        E2CMClassifier
            The estimator, whose exits are those of one fit to the samples of both.

        Raises
        ------
        ValueError
            If the other has no statistics, if this one was fitted by `fit`, or if they
            are of different features.
        """
        for estimator in (self, other):
            is_fresh = estimator is self and "network_" not in vars(self)
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
        E2CMClassifier
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
        E2CMClassifier
            The estimator, which takes no more samples and is as small as after `fit`.
        """
        check_is_fitted(self, "network_")
        self.__dict__ = {k: v for k, v in vars(self).items() if k != "statistics_"}
        return self

    def __dir__(self) -> list[str]:
        if "network_" in vars(self) or "statistics_" not in vars(self):
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

    def _seen(
        self,
        X: Any,
        y: Any,
        classes: ArrayLike | None,
        sample_weight: ArrayLike | None,
    ) -> LabelledStatistics:
        """Run the network over samples, and return their statistics."""
        before = vars(self).get("statistics_")
        if before is None and "network_" in vars(self):
            raise ValueError(f"This estimator was fitted by fit. {_NO_STATISTICS}")
        if before is None and classes is None:
            raise ValueError(
                "The first call of partial_fit needs classes=, all labels that will "
                "come."
            )
        known = [] if before is None else [before.labels]
        if classes is not None:
            given = np.unique(as_labels(classes, "classes"))
            known.append(labels_like(given, known[0], "classes") if known else given)
        labels = np.unique(np.concatenate(known))
        check_head(self.head)
        return self._collected(X, y, sample_weight, before=before, labels=labels)

    def _merged(self, other: LabelledStatistics) -> LabelledStatistics:
        """Return what both have seen; an interrupt leaves both as they were."""
        found = self.statistics_.copy()
        found.merge(other)
        return found

    def _check_source(self, seen: LabelledStatistics) -> None:
        """Refuse statistics of other features than the parameters ask for."""
        source = self._source(self._checked_extractor(seen.some), seen.some)
        if seen.source.products:
            # Nobody has to use them.
            source = source._replace(products=True)
        source.check_same(seen.source)

    def _set_seen(self, seen: LabelledStatistics) -> None:
        """Set statistics; exits that were finished before are finished no more."""
        kept = {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(type(self), name, None), FinishedAttribute)
        }
        self.__dict__ = kept | vars(seen.columns) | {"statistics_": seen}

    def _finish(self) -> None:
        """Fit the exits to what was seen by partial fits."""
        # Parameters may have changed since.
        self._check_source(self.statistics_)
        self._fit_seen(self.statistics_.copy(), in_parts=True)

    def _fit_seen(
        self, seen: LabelledStatistics, *, in_parts: bool, n_folds: int | None = None
    ) -> CrossFit:
        """Fit the exits to what was seen.

        `n_folds` says how many folds it was seen in, if somebody has asked for them.
        """
        since = time.perf_counter()
        extractor = self._checked_extractor(seen.some)
        if self.cost_unit == "seconds" and not len(seen.some):
            raise ValueError(
                "cost_unit='seconds' needs samples to measure on, and sums came "
                "without any: use 'macs', and measure_seconds(X)."
            )
        found = seen.finish()
        alone = check_classes(
            found.labels,
            found.n_distinct,
            found.weight,
            calibrate=bool(self.calibration),
        )
        if not len(found.statistics.kept):
            self._check_without_features()
        n_classes = len(found.labels)
        n_exits = len(extractor.stage_names) - 1
        check_thresholds(self.threshold, n_exits, n_classes)
        statistics, spec, too_few = self._prepared(found, n_folds)
        return self._fit_exits(
            statistics.set_apart(alone),
            found.labels,
            spec,
            extractor=extractor,
            too_few=too_few,
            some=seen.some,
            largest=seen.largest,
            columns=seen.columns,
            in_parts=in_parts,
            since=since,
        )

    def _prepared(
        self, found: Finished, n_folds: int | None
    ) -> tuple[Statistics, HeadSpec, str | None]:
        """Return what exits are fitted to, how, and why in another way than asked."""
        statistics, parts = found.statistics, check_head(self.head)
        folds, n_classes = statistics.folds, len(found.labels)
        if n_folds is not None:
            # Without its only fold nothing would say where a class is.
            folds = np.where(in_one_fold(folds, statistics.codes), -1, folds)
            if (folds < 0).all():
                raise ValueError(
                    f"Features of {len(folds)} samples fit into scikit-learn's "
                    "working_memory, and each class among them lies in one fold alone. "
                    "Give it more, by sklearn.set_config(working_memory=...)."
                )
        spec, too_few = self._head_spec(statistics.n_distinct, n_classes, parts)
        n_distinct = statistics.n_distinct
        if spec.needs_everything:
            # Exits that carry, and classifiers, see kept features only.
            n_distinct = len(np.unique(statistics.hashes))
            spec, too_few = self._head_spec(n_distinct, n_classes, parts)
        if not spec.needs_everything:
            return replace(statistics, folds=folds), spec, too_few
        self._check_all_kept(statistics, found.labels)
        if n_folds is None:
            folds = self._folds(statistics.hashes, statistics.codes, spec)
        kept = replace(statistics, sums=[], folds=folds, n_distinct=n_distinct)
        return kept, spec, too_few

    def _check_all_kept(self, statistics: Statistics, labels: NDArray[Any]) -> None:
        """Refuse classes of which no features are kept."""
        lacking = np.setdiff1d(np.arange(len(labels)), statistics.codes)
        if len(lacking):
            raise ValueError(
                f"The features of {len(statistics.kept)} samples fit into "
                "scikit-learn's working_memory, and none of them belong to the classes "
                f"{labels[lacking][:5].tolist()}. Give it more, by "
                "sklearn.set_config(working_memory=...), or fit without carry= and "
                "head=, which see kept features only."
            )

    def _check_without_features(self) -> None:
        """Refuse what cannot follow from sums alone."""
        wanted = {
            "calibration": None,
            "final": "class_means",
            "head": "class_means",
            "carry": 0,
        }
        others = {
            name: value
            for name, value in wanted.items()
            if not (isinstance(getattr(self, name), type(value)))
            or getattr(self, name) != value
        }
        if self.metric in OF_SECOND_ORDER and self.shrinkage == "ledoit_wolf":
            others["shrinkage"] = "oas"
        if others:
            asked = ", ".join(f"{name}={value!r}" for name, value in others.items())
            raise ValueError(
                "No features were kept, only sums: they came from for_sharing(). Exits "
                f"can be fitted with {asked}, or after samples have been added here."
            )
