"""Clusters of the last stage, and their centroids at every exit before it."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin

from ._base import BaseE2CM
from ._clusterer_fit import ClustererFit
from ._extractors import Extractor
from ._fitting._means import ClassMeans
from ._utils._arrays import Floats
from ._utils._streams import check_in_order, is_stream
from ._utils._validation import HasMethods, Interval


class E2CMClusterer(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, ClustererFit
):
    """Early exits for clustering: no labels, and no change to the network.

    Fitting runs the network once over the data, without gradients, finds clusters
    among the features of its last stage, and takes their centroids at every exit
    before it. A sample then leaves at the first exit that is confident of its cluster;
    what comes after is not computed for it.

    Parameters
    ----------
    extractor : extractor, default=None
        A frozen network in stages, such as `TorchExtractor`. By default the features
        themselves are the only stage, and all is done by the clusterer.

    n_clusters : int, default=8
        Number of clusters that k-means finds. Ignored if `clusterer` is given.

    clusterer : clusterer, default=None
        What finds the clusters of the last stage: anything with `fit` and `predict`,
        such as `sklearn.mixture.GaussianMixture`. By default
        ``KMeans(n_clusters, random_state=random_state)``. One that is fitted already is
        taken as it is in a `sklearn.frozen.FrozenEstimator`.

    metric : {"euclidean", "mahalanobis"}, default="mahalanobis"
        The distance to the centroids of the exits. "mahalanobis" whitens by the pooled,
        shrunk covariance within the clusters: far more accurate than "euclidean", the
        paper's, at about the same cost. Few samples and many features have the
        Euclidean distance instead, see `E2CMClassifier`. The clusters of the last stage
        are those of the clusterer either way.

    pooling : {"auto", "none", "second_order"}, int or callable, default="auto"
        How a feature map becomes one row per sample, see `E2CMClassifier`.

    threshold : float or array-like, default=0.9
        A sample exits where its largest probability reaches the threshold. One number,
        one per exit, or one per exit and cluster, shape (n_exits, n_clusters).
        ``numpy.inf`` closes an exit, and a closed exit costs nothing. Read at each
        prediction, so it may be changed on a fitted estimator.

    calibration : {"temperature", "dirichlet"} or None, default="temperature"
        What makes a probability of the distances, see `E2CMClassifier`. Calibrated,
        it is that of the last stage's cluster: a threshold of 0.9 asks for at least
        90% agreement with the last stage.

    shrinkage : {"ledoit_wolf", "oas"} or float, default="ledoit_wolf"
        For ``metric="mahalanobis"``, see `E2CMClassifier`.

    carry : {0, 1, 2}, default=0
        How many exits an exit remembers, see `E2CMClassifier`.

    cost_unit : {"macs", "seconds"}, default="macs"
        What costs are fractions of, see `E2CMClassifier`. In seconds, 1 is the time of
        the network as it was given and of the clusterer after it.

    batch_size : int, default=128
        Samples run through the network at once.

    device : str, torch.device or None, default=None
        Where to run. None is where the extractor's weights are.

    n_jobs : int or None, default=None
        As for `E2CMClassifier`.

    memory : str, path, joblib.Memory or None, default=None
        Where to cache the features of every stage. Used by `fit`, `transform`,
        `exit_proba` and the scorers of `sk_e2cm.metrics`, never by predictions.

    verbose : int, default=0
        As for `E2CMClassifier`.

    random_state : int, RandomState instance or None, default=None
        Draws the first centers of k-means. Ignored if `clusterer` is given.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,) or None
        The cluster of each sample of the fit, at the last stage. None if the samples
        came batch by batch.

    cluster_centers_ : ndarray of shape (n_clusters, n_features)
        Centers of the clusters at the last stage: the clusterer's, or means of the
        samples if it has none.

    stage_centers_ : list of ndarray of shape (n_clusters, n_features)
        Centroids of the clusters at each exit, and last `cluster_centers_`.

    inertia_ : float
        Weighted sum of squared distances of samples to the center of their cluster,
        at the last stage.

    n_iter_ : int
        Iterations that the clusterer took. Defined only if it counts them.

    clusterer_ : clusterer
        The fitted clusterer.

    distance_scale_ : list of ndarray of shape (n_clusters,)
        For each exit, the mean distance of all training samples to each centroid.
        Whitened distances have no such scale: it is 1.

    metric_ : list of str
        For each exit, the metric used.

    metric_reason_ : str or None
        Why some exits have another than `metric`; None if none have.

    temperature_ : ndarray of shape (n_exits,)
        For each exit; 1 is uncalibrated.

    stage_cost_ : ndarray of shape (n_exits + 1,)
        Cost of exiting at each stage, in fractions of the network's multiply-adds, or
        of its time, up to its last stage. Those of the open exits and, if the clusterer
        has its own, of the distances to `cluster_centers_` are included: the last may
        exceed 1.

    seconds_ : Seconds or None
        What stages and exits take, see `E2CMClassifier`.

    network_ : MultiExitNetwork
        The frozen stages with a head for each, the clusters and the costs: what
        predictions run.

    extractor_ : extractor
        The extractor used.

    input_shape_ : tuple of int
        The shape of one sample.

    n_features_in_ : int
        The length of the first axis of a sample.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    E2CMClassifier : The same with labels.
    TunedExitsCV : Chooses the thresholds, by agreement with the last stage.
    sk_e2cm.metrics.agreement_cost_scorer : Scores for choosing a threshold.

    Notes
    -----
    The last stage says which cluster is right, so its probabilities are 0 and 1.
    `labels_` are those of the last stage, also of samples that would exit early:
    compare with ``predict(X)`` to see what early exits change.

    Clusters are numbered from 0 in the order of the clusterer's own labels, only those
    to which training samples belong; noise, if it knows any, is a cluster like others.
    With ``n_clusters=1`` every sample leaves at the first open exit.

    The features of the last stage are held in memory for all samples. Where those of
    the exits exceed scikit-learn's ``working_memory``, their centroids, scales,
    covariances and calibration are those of a uniform subset of the samples.

    Method: [1]_, section on unsupervised learning.

    References
    ----------
    .. [1] A. Görmez, V. R. Dasari, E. Koyuncu, "E2CM: Early Exit via Class Means for
       Efficient Supervised and Unsupervised Learning", IJCNN 2022, arXiv 2103.01148.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_e2cm import E2CMClusterer
    >>> from sk_e2cm.testing import ToyExtractor
    >>> X, _ = load_digits(return_X_y=True)
    >>> clusterer = E2CMClusterer(ToyExtractor(), n_clusters=10, random_state=0)
    >>> labels = clusterer.fit_predict(X)
    >>> bool((clusterer.predict(X) == labels).mean() > 0.9)
    True
    >>> clusterer.cost(X) < 1
    True
    """

    _parameter_constraints = {
        **BaseE2CM._parameter_constraints,
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "clusterer": [HasMethods(["fit", "predict"]), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        extractor: Extractor | None = None,
        n_clusters: int = 8,
        *,
        clusterer: Any = None,
        metric: str = "mahalanobis",
        pooling: Any = "auto",
        threshold: ArrayLike = 0.9,
        calibration: str | None = "temperature",
        shrinkage: str | float = "ledoit_wolf",
        carry: int = 0,
        cost_unit: str = "macs",
        batch_size: int = 128,
        device: str | torch.device | None = None,
        n_jobs: int | None = None,
        memory: Any = None,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.extractor = extractor
        self.n_clusters = n_clusters
        self.clusterer = clusterer
        self.metric = metric
        self.pooling = pooling
        self.threshold = threshold
        self.calibration = calibration
        self.shrinkage = shrinkage
        self.carry = carry
        self.cost_unit = cost_unit
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs
        self.memory = memory
        self.verbose = verbose
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Find clusters and their centroids at every exit, in one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples, each of the shape that the extractor takes. Of what torch's loaders
            and datasets yield, batches of X or (X, y), of which y is ignored, or (X, y,
            weight), clusters and exits are fitted to as many samples as fit into
            scikit-learn's ``working_memory``, a uniform subset; `labels_` is None then.

        y : None
            Ignored.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; samples of weight 0 get labels, and have no influence.

        Returns
        -------
        E2CMClusterer
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data, the parameters and the network do not fit together, if there
            are fewer samples than clusters, or if only one cluster is found. What was
            fitted before is left as it was.
        """
        if is_stream(X):
            self._fit_stream(X, y, sample_weight)
        else:
            self._cross_fit(X, y, sample_weight, everybody=True)
        self._warn_if_nobody_leaves()
        return self

    def fit_predict(
        self,
        X: ArrayLike,
        y: None = None,
        sample_weight: ArrayLike | None = None,
    ) -> NDArray[np.intp]:
        """Find clusters, and return the cluster of each sample at the last stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            As for `fit`. What comes batch by batch runs through the network twice.

        y : None
            Ignored.

        sample_weight : array-like of shape (n_samples,), default=None
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
            `labels_`.
        """
        if is_stream(X):
            check_in_order(X)
        self.fit(X, sample_weight=sample_weight)
        if self.labels_ is None:
            _, _, labels = self._early_and_full(X)
            return labels
        return self.labels_

    def transform(self, X: ArrayLike) -> Floats:
        """Return the distances to the centers of the clusters, at the last stage.

        Every stage is computed for all samples, and `memory` is used.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            Euclidean distances to `cluster_centers_`.
        """
        features = self._features_of(X)
        means = ClassMeans(self.cluster_centers_)
        found = [means.distances(batch.features[-1]) for batch, _ in features]
        return np.concatenate(found)

    @property
    def n_iter_(self) -> int:
        """Iterations that the clusterer took, if it counts them."""
        return self.clusterer_.n_iter_

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)
