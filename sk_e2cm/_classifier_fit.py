"""How a classifier is fitted: to arrays, or to what comes batch by batch."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._base import Fit, columns_of
from ._extractors import Extractor
from ._fitting._classifiers import check_head
from ._fitting._cross_fitting import CrossFit, HeadSpec
from ._fitting._exits import fit_stages
from ._fitting._kept import Samples
from ._fitting._last_stage import choose_last_head, head_labels, own_answers
from ._fitting._statistics import N_FOLDS, Statistics, n_distinct_of
from ._fitting._workers import collect_statistics
from ._multi_exit._thresholds import check_thresholds
from ._partial_fit import PartialFitE2CM
from ._utils._arrays import Floats, largest, take_rows
from ._utils._compat import _fit_context
from ._utils._hashing import row_hashes
from ._utils._labels import as_labels, check_classes
from ._utils._progress import shown
from ._utils._validation import as_array, check_numbers, check_samples, with_weight


class ClassifierFit(PartialFitE2CM):
    """Fits class means at every stage, and the head of the last one."""

    final: Any
    head_classes: ArrayLike | None

    @_fit_context(prefer_skip_nested_validation=False)
    def _fit_stream(
        self, X: Any, y: Any, sample_weight: Any, n_folds: int | None = None
    ) -> CrossFit:
        """Fit to a stream; `CrossFit` is of the samples that are kept."""
        check_head(self.head)
        seen = self._collected(X, y, sample_weight, n_folds=n_folds or N_FOLDS)
        return self._fit_seen(seen, in_parts=False, n_folds=n_folds)

    # Estimators that users pass are to be validated too.
    @_fit_context(prefer_skip_nested_validation=False)
    def _cross_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
        folds: NDArray[np.intp] | None = None,
    ) -> CrossFit:
        """Fit, and return the out-of-fold probabilities of every stage.

        `folds` gives the fold that holds each sample with a weight out, -1 for none; by
        default they follow from the content of each row.
        """
        since = time.perf_counter()
        extractor = self._checked_extractor(X)
        self._check_carry()
        parts = check_head(self.head)
        valid_X, valid_y, weight = check_samples(
            self, X, y, sample_weight, needs_y=True
        )
        used = with_weight(weight)
        some_X, valid_y, weight = take_rows(valid_X, used), valid_y[used], weight[used]
        classes, codes = np.unique(valid_y, return_inverse=True)
        hashes = row_hashes(some_X)
        alone = check_classes(
            classes,
            n_distinct_of(hashes, codes),
            np.bincount(codes, weight),
            calibrate=bool(self.calibration),
        )
        check_thresholds(self.threshold, len(extractor.stage_names) - 1, len(classes))
        n_distinct = len(np.unique(hashes))
        spec, too_few = self._head_spec(n_distinct, len(classes), parts)
        folds = self._folds(hashes, codes, spec) if folds is None else folds

        full_pass = self._full_pass(extractor, self.pooling)
        full_pass.verify(some_X)
        statistics = collect_statistics(
            full_pass,
            some_X,
            Samples(hashes, folds, codes, weight),
            second=spec.needs_products,
            everything=spec.needs_everything,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )
        return self._fit_exits(
            statistics.set_apart(alone),
            classes,
            spec,
            extractor=extractor,
            too_few=too_few,
            some=some_X,
            largest=largest(some_X),
            columns=columns_of(X),
            since=since,
        )

    def _fit_exits(
        self,
        statistics: Statistics,
        classes: NDArray[Any],
        spec: HeadSpec,
        *,
        extractor: Extractor,
        **named: Any,
    ) -> CrossFit:
        """Fit the heads of all stages; `named` are further parameters of `Fit`."""
        *exits, by_means = fit_stages(statistics, spec)
        # Raw features that happen to be as many as the classes are no head.
        no_head = self.extractor is None and self.final == "auto"
        last = choose_last_head(
            "class_means" if no_head else self.final,
            self._named_head(),
            by_means,
            statistics,
            classes,
            is_network=hasattr(extractor, "device"),
        )
        fit = Fit(
            extractor=extractor,
            statistics=statistics,
            spec=spec,
            kept=statistics,
            dtypes=[features.dtype for features in statistics.features],
            last=last,
            last_means=(by_means,),
            labels=classes,
            attributes=lambda means: {
                "classes_": classes,
                "class_means_": means,
                "final_": last.kind,
            },
            **named,
        )
        return self._set_fitted(fit, exits)

    def _named_head(self) -> NDArray[Any] | None:
        if self.head_classes is None:
            return None
        return as_labels(self.head_classes, "head_classes")

    def _own_labels(
        self, X: ArrayLike, weight: Floats
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what the network's own head predicts, and the label of each column."""
        if self.extractor is None or self.final not in ("auto", "network"):
            raise ValueError(
                "Without y the answers of the network's own head are taken for labels. "
                "That takes an extractor that ends in it, and final='auto' or "
                "'network'."
            )
        extractor = self._checked_extractor(X)
        valid_X = check_numbers(self, as_array(X))
        batches = shown(
            self._full_pass(extractor, self.pooling)(valid_X),
            len(valid_X),
            verbose=self.verbose,
            what="answers",
            n_of=attrgetter("n_samples"),
        )
        answers, width = own_answers(batch.features[-1] for batch in batches)
        names = head_labels(self._named_head(), width)
        found = np.unique(answers[weight > 0])
        if len(found) == 1:
            raise ValueError(
                "Without y the answers of the network's own head are taken for labels, "
                f"and they are {names.tolist()[found[0]]!r} for every sample. Is X "
                "prepared as the network's training data were?"
            )
        return names[answers], names
