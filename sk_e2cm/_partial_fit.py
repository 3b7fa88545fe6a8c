"""How a classifier is fitted in parts: what it sees, and its exits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._collecting import CollectingE2CM
from ._fitting._classifiers import check_head
from ._fitting._cross_fitting import CrossFit, HeadSpec
from ._fitting._labelled import Finished, LabelledStatistics
from ._fitting._means import OF_SECOND_ORDER
from ._fitting._statistics import N_FOLDS, Statistics, in_one_fold
from ._in_parts import FinishedAttribute, FitsInParts
from ._multi_exit._thresholds import check_thresholds
from ._utils._compat import _fit_context
from ._utils._labels import as_labels, check_classes, labels_like


class PartialFitE2CM(FitsInParts, CollectingE2CM):
    """Adds `partial_fit` and `merge` to a classifier."""

    head: Any
    _fit_exits: Callable[..., CrossFit]

    _finished_by = "network_"
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

    # `TunedExitsCV` calls it, too, on an estimator that nobody has validated yet.
    @_fit_context(prefer_skip_nested_validation=False)
    def _seen(
        self,
        before: LabelledStatistics | None,
        X: Any,
        y: Any,
        classes: ArrayLike | None,
        sample_weight: ArrayLike | None,
        n_folds: int = N_FOLDS,
    ) -> LabelledStatistics:
        """Run the network over samples, and return their statistics."""
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
        return self._collected(
            X, y, sample_weight, before=before, labels=labels, n_folds=n_folds
        )

    def _attributes_of(self, seen: LabelledStatistics) -> dict[str, Any]:
        """Return the attributes that say what was seen, and its columns."""
        return vars(seen.columns) | super()._attributes_of(seen)

    def _check_source(self, seen: LabelledStatistics, n_folds: int = N_FOLDS) -> None:
        """Refuse statistics of other features than the parameters ask for."""
        extractor = self._checked_extractor(seen.some)
        source = self._source(extractor, seen.some, n_folds)
        if seen.source.products:
            # Nobody has to use them.
            source = source._replace(products=True)
        source.check_same(seen.source)

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
            self._check_without_features(for_thresholds=n_folds is not None)
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

    def _check_without_features(self, *, for_thresholds: bool) -> None:
        """Refuse what cannot follow from sums alone."""
        if for_thresholds:
            raise ValueError(
                "No features were kept, only sums: they came from for_sharing(). "
                "Thresholds are chosen on features: merge the sums where samples have "
                "been added, or use for_sharing(features=True)."
            )
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
