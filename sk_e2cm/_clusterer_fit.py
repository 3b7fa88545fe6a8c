"""How clusters are found, and exits fitted to them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.cluster import KMeans

from ._base import Fit, columns_of
from ._collecting import CollectingE2CM
from ._extractors import Extractor
from ._fitting._clusters import (
    ClusterFeatures,
    Clusters,
    clusterer_head,
    find_clusters,
    fit_params,
    spare_whole_clusters,
)
from ._fitting._cross_fitting import CrossFit, fit_class_means
from ._fitting._exits import fit_exits
from ._fitting._kept import Kept, Samples
from ._fitting._statistics import folds_by_hash, sum_kept
from ._fitting._workers import run
from ._multi_exit._thresholds import check_thresholds
from ._utils._arrays import Features, Floats, SampleRows, largest, take_rows
from ._utils._compat import _fit_context
from ._utils._hashing import row_hashes
from ._utils._validation import check_n_clusters, check_samples, with_weight


class ClustererFit(CollectingE2CM):
    """Finds clusters of the last stage, and fits centroids at every exit to them."""

    n_clusters: int
    clusterer: Any
    random_state: Any

    _takes_labels = False

    @_fit_context(prefer_skip_nested_validation=False)
    def _fit_stream(
        self, X: Any, y: Any, sample_weight: Any, n_folds: int | None = None
    ) -> CrossFit:
        """Fit to as many samples of a stream as are kept."""
        since = time.perf_counter()
        clusterer = self._cloned_clusterer()
        seen = self._collected(X, None, sample_weight)
        # Whatever order they came in.
        kept = seen.running.kept.finish().by_hash()
        *of_exits, last = kept.features
        if self.clusterer is None:
            check_n_clusters(self.n_clusters, len(last))
        weight = kept.samples.weight
        fit_params(clusterer, weight)
        clusters = self._found(clusterer, last, weight, kept.rounding[-1])
        kept = kept._replace(features=of_exits, rows=np.arange(len(last)))
        hashes = kept.samples.hashes
        folds = None if n_folds is None else folds_by_hash(hashes, n_folds)
        return self._fit_exits(
            clusters,
            kept,
            hashes,
            weight,
            folds,
            labels=None,
            extractor=self._checked_extractor(seen.some),
            some=seen.some,
            largest=seen.largest,
            columns=seen.columns,
            since=since,
        )

    # Estimators that users pass are to be validated too.
    @_fit_context(prefer_skip_nested_validation=False)
    def _cross_fit(
        self,
        X: ArrayLike,
        y: None,
        sample_weight: ArrayLike | None,
        folds: NDArray[np.intp] | None = None,
        *,
        everybody: bool = False,
    ) -> CrossFit:
        """Fit, and return the out-of-fold probabilities of every stage.

        `folds` are as for `E2CMClassifier`, but no cluster is held out as a whole. If
        `everybody` is to have a label, those without weight run through the network,
        too.
        """
        since = time.perf_counter()
        extractor = self._checked_extractor(X)
        self._check_carry()
        all_X, _, all_weight = check_samples(self, X, None, sample_weight)
        used = with_weight(all_weight)
        valid_X, weight = take_rows(all_X, used), all_weight[used]
        exit_names = extractor.stage_names[:-1]
        if self.clusterer is None:
            check_n_clusters(self.n_clusters, len(valid_X))
        # Of a clusterer that is given nobody knows yet how many it finds.
        known = self.n_clusters if self.clusterer is None else None
        check_thresholds(self.threshold, len(exit_names), known)
        hashes = row_hashes(valid_X)
        clusters, kept = self._cluster(extractor, valid_X, hashes, weight)
        labels, unused = clusters.codes, all_weight == 0
        if everybody and unused.any():
            others = take_rows(all_X, unused)
            labels = np.empty(len(all_X), dtype=np.intp)
            labels[used] = clusters.codes
            labels[unused] = self._assign(extractor, others, clusters)
        return self._fit_exits(
            clusters,
            kept,
            hashes,
            weight,
            folds,
            labels=labels,
            extractor=extractor,
            some=valid_X,
            largest=largest(valid_X),
            columns=columns_of(X),
            since=since,
        )

    def _fit_exits(
        self,
        clusters: Clusters,
        kept: Kept,
        hashes: NDArray[np.uint64],
        weight: Floats,
        folds: NDArray[np.intp] | None,
        *,
        labels: NDArray[np.intp] | None,
        extractor: Extractor,
        **named: Any,
    ) -> CrossFit:
        """Fit the exits to clusters that were found; `named` are of `Fit`."""
        exit_names = extractor.stage_names[:-1]
        spec, too_few = self._head_spec(
            len(np.unique(kept.samples.hashes)), len(clusters.centers)
        )
        folds = (
            self._folds(hashes, clusters.codes, spec)
            if folds is None
            else spare_whole_clusters(folds, clusters.codes)
        )
        check_thresholds(self.threshold, len(exit_names), len(clusters.centers))

        statistics = sum_kept(
            exit_names,
            kept,
            Samples(hashes, folds, clusters.codes, weight),
            second=spec.needs_products,
            everything=self.carry > 0,
        )
        exits = list(
            fit_exits(statistics, spec, range(len(exit_names)))
            if self.carry
            else fit_class_means(statistics, spec)
        )
        last = clusterer_head(clusters, statistics)
        fit = Fit(
            extractor=extractor,
            statistics=statistics,
            spec=spec,
            too_few=too_few,
            kept=kept,
            dtypes=[f.dtype for f in (*statistics.features, clusters.features)],
            last=last,
            last_means=(),
            labels=np.arange(len(clusters.centers)),
            attributes=lambda means: {
                "clusterer_": clusters.logits.clusterer,
                "labels_": labels,
                "inertia_": clusters.inertia,
                "cluster_centers_": clusters.centers,
                "stage_centers_": [*means, clusters.centers],
            },
            **named,
        )
        return self._set_fitted(fit, exits)

    def _cluster(
        self,
        extractor: Extractor,
        X: SampleRows,
        hashes: NDArray[np.uint64],
        sample_weight: Floats,
    ) -> tuple[Clusters, Kept]:
        """Run the network once; find clusters, and keep what the exits need."""
        clusterer = self._cloned_clusterer()
        fit_params(clusterer, sample_weight)  # refused before the network runs
        full_pass = self._full_pass(extractor, self.pooling)
        full_pass.verify(X)
        nothing = np.zeros(len(X), dtype=np.intp)
        samples = Samples(hashes, nothing, nothing, sample_weight)
        found = ClusterFeatures(extractor.stage_names, everything=self.carry > 0)
        run(full_pass, X, samples, found, self.n_jobs, self.verbose)
        kept = found.exits.finish()
        (last,) = found.last.finish().features
        return self._found(clusterer, last, sample_weight, kept.rounding[-1]), kept

    def _found(
        self, clusterer: Any, last: Features, sample_weight: Floats, rounding: Floats
    ) -> Clusters:
        """Find clusters of the last stage's features."""
        if self.clusterer is None:
            # KMeans takes squared distances as differences of large numbers.
            last = last.astype(np.float64)
        clusters = find_clusters(clusterer, last, sample_weight)
        wanted_one = self.clusterer is None and self.n_clusters == 1
        is_one = len(clusters.centers) == 1
        of_rounding = (last.std(axis=0) <= rounding).all()
        if (is_one or of_rounding) and not wanted_one:
            found = "one cluster" if is_one else "clusters of rounding"
            raise ValueError(
                f"{clusterer!r} has found {found} only, so that there is nothing to "
                "decide. Do the samples, and the network's outputs, differ?"
            )
        return clusters

    def _cloned_clusterer(self) -> Any:
        if self.clusterer is None:
            return KMeans(self.n_clusters, random_state=self.random_state)
        # Other objects with fit and predict are copied, but a class is refused.
        return clone(self.clusterer, safe=isinstance(self.clusterer, type))

    def _assign(
        self, extractor: Extractor, X: SampleRows, clusters: Clusters
    ) -> NDArray[np.intp]:
        batches = self._full_pass(extractor, self.pooling)(X)
        found = [clusters.logits.codes(batch.features[-1]) for batch in batches]
        return np.concatenate(found)
