"""One pass over samples that come batch by batch, for all estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from ._base import BaseE2CM, columns_of
from ._extractors import Extractor, fingerprint_of
from ._fitting._labelled import LabelledStatistics, Source
from ._fitting._means import OF_SECOND_ORDER
from ._fitting._statistics import N_FOLDS
from ._multi_exit._full_pass import FullPass
from ._multi_exit._thresholds import check_thresholds
from ._utils._arrays import Floats, SampleRows, take_rows
from ._utils._labels import labels_like
from ._utils._progress import drawing
from ._utils._streams import (
    N_LOOKED_AT,
    SampleBatch,
    batches_of,
    check_alike,
    n_samples_of,
    with_enough_first,
)
from ._utils._validation import NO_WEIGHT, check_samples, with_weight


class CollectingE2CM(BaseE2CM):
    """Collects the statistics that exits are fitted to, batch by batch."""

    # Whether samples have labels. Those of clusters are all in class 0.
    _takes_labels = True

    def _collected(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        before: LabelledStatistics | None = None,
        labels: NDArray[Any] | None = None,
        n_folds: int = N_FOLDS,
    ) -> LabelledStatistics:
        """Return the statistics of samples, whose labels are named here or not.

        `before` are those of samples that came earlier: these have to be like them.
        """
        self._check_carry()
        seen, full_pass = None, None
        batches = batches_of(
            X,
            y,
            sample_weight,
            batch_size=self.batch_size,
            labelled=self._takes_labels,
        )
        with drawing(n_samples_of(X), verbose=self.verbose, what="fit") as done:
            for batch in with_enough_first(batches, N_LOOKED_AT):
                if not batch.counts:
                    done(len(batch.X))
                    continue
                with batch.named():
                    valid_X, valid_y, weight = self._valid(batch, before)
                    if seen is None or full_pass is None:
                        first = np.unique(valid_y) if labels is None else labels
                        full_pass, seen = self._of_none(
                            batch.X, valid_X, before, first, n_folds
                        )
                    check_alike(valid_X, seen.some)
                    valid_y = labels_like(valid_y, seen.labels)
                    if labels is None:
                        seen.name(np.unique(valid_y))
                    seen.add(full_pass, valid_X, valid_y, weight, done)
                    done(len(batch.X) - len(valid_X))
        if seen is None:
            raise ValueError(NO_WEIGHT)
        return seen

    def _valid(
        self, batch: SampleBatch, before: LabelledStatistics | None
    ) -> tuple[SampleRows, NDArray[Any], Floats]:
        """Return samples, labels and weights of those that count."""
        given = batch.y if self._takes_labels else None
        X, y, weight = check_samples(
            self, batch.X, given, batch.sample_weight, needs_y=self._takes_labels
        )
        if before is not None:
            validate_data(self, batch.X, reset=False, skip_check_array=True)
        y = np.zeros(len(X), dtype=np.intp) if y is None else y
        used = with_weight(weight)
        return take_rows(X, used), y[used], weight[used]

    def _of_none(
        self,
        given: Any,
        X: SampleRows,
        before: LabelledStatistics | None,
        labels: NDArray[Any],
        n_folds: int,
    ) -> tuple[FullPass, LabelledStatistics]:
        """Return the pass over samples like these, and statistics of none yet."""
        extractor = self._checked_extractor(given)
        # Before the pass, which may take hours.
        check_thresholds(self.threshold, len(extractor.stage_names) - 1, None)
        full_pass = self._full_pass(extractor, self.pooling)
        source = self._source(extractor, X, n_folds)
        if before is None:
            full_pass.verify(X)
            columns = columns_of(given)
        else:
            before.source.check_same(source)
            columns = before.columns
        return full_pass, LabelledStatistics.of_none(
            full_pass, source, labels, columns, X
        )

    def _source(self, extractor: Extractor, X: SampleRows, n_folds: int) -> Source:
        """Say where features of samples like these come from."""
        # Clusters are known after the pass only, and sums over them with them.
        products = self._takes_labels and self.metric in OF_SECOND_ORDER
        network = fingerprint_of(extractor)
        return Source(network, self.pooling, X.shape[1:], products, n_folds)
