"""The clusters of the last stage's features."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import gen_batches

from .._multi_exit._estimator_logits import ClustererLogits, predict_names
from .._multi_exit._full_pass import Batch
from .._utils._arrays import Features, Floats
from .._utils._labels import as_labels
from .._utils._validation import weight_params
from ._cross_fitting import FittedHead
from ._kept import KeptFeatures, Samples
from ._statistics import Statistics, check_batch, in_one_fold
from ._sums import ClassSums
from ._unseen import Block, held_out_blocks

# Samples whose distances are summed at once.
_CHUNK = 1024


class Clusters(NamedTuple):
    """What a clusterer has found.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        The last stage's features of these samples.

    logits : ClustererLogits
        Assigns samples to them.

    codes : ndarray of shape (n_samples,)
        The cluster of each sample of the fit; every cluster has some.

    inertia : float
        Weighted sum of squared distances to the centers.
    """

    features: Features
    logits: ClustererLogits
    codes: NDArray[np.intp]
    inertia: float

    @property
    def centers(self) -> Floats:
        """The centers, shape (n_clusters, n_features)."""
        return self.logits.centers


class ClusterFeatures:
    """What a pass keeps for clusters: the last stage of all samples, exits of some.

    Parameters
    ----------
    stage_names : sequence of str
        Names of the stages.

    everything : bool, default=False
        Keep the features of all samples at every stage.
    """

    def __init__(self, stage_names: Sequence[str], *, everything: bool = False) -> None:
        self.stage_names = tuple(stage_names)
        self.exits = KeptFeatures(everything=everything)
        self.last = KeptFeatures(everything=True)

    def of_none(self) -> ClusterFeatures:
        """Return what keeps the same, of no samples yet."""
        return ClusterFeatures(self.stage_names, everything=self.exits.everything)

    def add(self, batch: Batch, samples: Samples) -> None:
        """Add the samples of a batch.

        Raises
        ------
        ValueError
            If squares of their features overflow, or vanish.
        """
        check_batch(self.stage_names, batch)
        *of_exits, of_last = batch.features
        # Shapes and rounding are those of all stages.
        self.exits.add(batch._replace(features=of_exits), samples)
        self.last.add(batch._replace(features=[of_last]), samples)

    def merge(self, other: ClusterFeatures, codes: NDArray[np.intp]) -> None:
        """Add what another has kept; see `KeptFeatures.merge`."""
        self.exits.merge(other.exits, codes)
        self.last.merge(other.last, codes)


def fit_params(clusterer: Any, sample_weight: Floats) -> dict[str, Any]:
    """Return what `fit` takes besides the data.

    Raises
    ------
    ValueError
        If it does not take weights, and these are not all the same.
    """
    if isinstance(clusterer, FrozenEstimator):
        return {}
    try:
        inspect.signature(clusterer.fit).bind("X")
    except TypeError as error:
        raise ValueError(
            f"clusterer={clusterer!r} cannot be fitted to X alone: {error}. Use a "
            "clusterer, such as KMeans."
        ) from None
    return weight_params(f"clusterer={clusterer!r}", clusterer, sample_weight)


def find_clusters(
    clusterer: Any, features: Features, sample_weight: Floats
) -> Clusters:
    """Fit a clusterer, and number the clusters that samples belong to from 0.

    A `FrozenEstimator` is fitted already.

    Raises
    ------
    ValueError
        If it does not take the weights, or return one label for each sample.
    """
    if features.dtype.kind != "f":
        features = features.astype(np.float64)
    if not isinstance(clusterer, FrozenEstimator):
        params = fit_params(clusterer, sample_weight)
        clusterer.fit(features.copy(), **params)  # some work in place
    dtype = _dtype_of(clusterer, features)
    found = predict_names(clusterer, features.astype(dtype))
    as_labels(found, f"What clusterer={clusterer!r} predicts")
    names, codes = np.unique(found, return_inverse=True)
    centers = _own_centers(clusterer, names, features.shape[1])
    if centers is None:
        centers = _centers_of_mass(features, codes, sample_weight)
    logits = ClustererLogits(clusterer, names, centers, dtype)
    inertia = _inertia(features, centers, codes, sample_weight)
    return Clusters(features, logits, codes, inertia)


def clusterer_head(clusters: Clusters, statistics: Statistics) -> FittedHead:
    """Return the head of the last stage, whose clusters count as the true ones.

    Each gets probability 1.
    """
    codes = statistics.codes[statistics.held_out]
    n_clusters = len(clusters.centers)

    def true() -> Iterator[Block]:
        for places in held_out_blocks(statistics, n_clusters):
            yield places, np.equal.outer(codes[places], np.arange(n_clusters)) * 1.0

    return FittedHead("clusterer", clusters.logits, true)


def _dtype_of(clusterer: Any, features: Features) -> np.dtype[Any]:
    """Return the type it was fitted on, elsewhere perhaps: KMeans takes no other."""
    inner = getattr(clusterer, "estimator", clusterer)  # of a FrozenEstimator
    inner = getattr(inner, "best_estimator_", inner)
    inner = inner[-1] if isinstance(inner, Pipeline) else inner
    centers = getattr(inner, "cluster_centers_", features)
    dtype = getattr(centers, "dtype", features.dtype)
    return dtype if dtype.kind == "f" else features.dtype


def _own_centers(clusterer: Any, names: NDArray[Any], n_features: int) -> Floats | None:
    """Return the centers that a clusterer has found itself, if its labels say which."""
    centers = getattr(clusterer, "cluster_centers_", None)
    if centers is None or names.dtype.kind not in "iu":
        return None
    dense = centers.toarray() if issparse(centers) else np.asarray(centers, np.float64)
    if dense.ndim != 2 or dense.shape[1] != n_features or not np.isfinite(dense).all():
        return None
    if names[0] < 0 or names[-1] >= len(dense):
        return None
    return dense[names]


def _centers_of_mass(
    features: Features, codes: NDArray[np.intp], sample_weight: Floats
) -> Floats:
    shift = features.mean(axis=0, dtype=np.float64)
    sums = ClassSums(shift)
    for rows in gen_batches(len(features), _CHUNK):
        fold = np.zeros_like(codes[rows])
        sums.add(features[rows], fold, codes[rows], sample_weight[rows])
    return sums.means()


def _inertia(
    features: Features,
    centers: Floats,
    codes: NDArray[np.intp],
    sample_weight: Floats,
) -> float:
    total = 0.0
    for rows in gen_batches(len(features), _CHUNK):
        away = features[rows] - centers[codes[rows]]
        total += sample_weight[rows] @ np.einsum("nd,nd->n", away, away)
    return float(total)


def spare_whole_clusters(
    folds: NDArray[np.intp], codes: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Hold no sample out whose whole cluster would be held out with it.

    Nothing but these samples could say where the cluster is.

    Raises
    ------
    ValueError
        If no sample is left that is held out.
    """
    spared = np.where(in_one_fold(folds, codes), -1, folds)
    if (spared < 0).all():
        raise ValueError(
            "Each cluster lies in one fold alone, so that nothing could say where it "
            "is without that fold. Use fewer clusters, or folds that are shuffled."
        )
    return spared
