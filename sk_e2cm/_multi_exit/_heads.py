"""What turns a stage's features into class probabilities."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from .._fitting._calibration import Calibration
from .._fitting._means import ClassMeans, Means
from .._utils._arrays import Features, Floats


class Head(Protocol):
    """Turns the features of one stage into class probabilities."""

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""

    def proba(self, features: Features) -> Floats:
        """Return probabilities of shape (n_samples, n_classes)."""


class MeansHead:
    """Class means and their calibration: what every exit has."""

    def __init__(self, means: Means, calibration: Calibration) -> None:
        self.means = means
        self.calibration = calibration

    @property
    def macs(self) -> int:
        return self.means.macs + self.calibration.macs

    @property
    def temperature(self) -> float:
        """1 is the paper's."""
        return 1 / self.calibration.inverse_temperature

    def proba(self, features: Features) -> Floats:
        return self.calibrated(self.means.scores(features))

    def calibrated(self, scores: Floats) -> Floats:
        """Return probabilities from the scores of the class means."""
        return softmax(self.calibration(scores), axis=1)


class NetworkHead:
    """The network's own head: its last stage gives one logit per column.

    Parameters
    ----------
    columns : ndarray of shape (n_classes,)
        Where each class is found.

    normalized : bool
        Whether the network ends in a softmax already.
    """

    macs = 0  # part of the network's

    def __init__(self, columns: NDArray[np.intp], normalized: bool) -> None:
        self.columns = columns
        self.normalized = normalized

    def proba(self, features: Features) -> Floats:
        logits = features[:, self.columns].astype(np.float64)
        if self.normalized:
            logits = np.log(np.maximum(logits, np.finfo(np.float64).tiny))
        return softmax(logits, axis=1)


class ClassifierHead:
    """A scikit-learn classifier fitted on the last stage's features."""

    def __init__(self, classifier: Any, n_classes: int) -> None:
        self.classifier = classifier
        self.n_classes = n_classes

    @property
    def macs(self) -> int:
        """Multiply-adds of a linear classifier; others are not counted."""
        return int(np.size(getattr(self.classifier, "coef_", ())))

    def proba(self, features: Features) -> Floats:
        proba = np.zeros((len(features), self.n_classes))
        given = features.copy()  # some work in place
        proba[:, self.classifier.classes_] = self.classifier.predict_proba(given)
        return proba


class ClustererHead:
    """A clusterer fitted on the last stage's features.

    What it says is what the exits are measured by, and so it is always sure.

    Parameters
    ----------
    clusterer : clusterer
        Fitted.

    names : ndarray of shape (n_clusters,)
        What it calls the clusters, in ascending order.

    means : ClassMeans
        Where they are.

    dtype : dtype
        What it takes features in.
    """

    def __init__(
        self, clusterer: Any, names: NDArray[Any], means: ClassMeans, dtype: Any
    ) -> None:
        self.clusterer = clusterer
        self.names = names
        self.means = means
        self.dtype = dtype

    @property
    def macs(self) -> int:
        """Multiply-adds of the distances to its centers; others are not counted."""
        return int(np.size(getattr(self.clusterer, "cluster_centers_", ())))

    def codes(self, features: Features) -> NDArray[np.intp]:
        """Return the index of each sample's cluster."""
        found = predict_names(self.clusterer, features.astype(self.dtype))
        codes = np.searchsorted(self.names, found).clip(max=len(self.names) - 1)
        unknown = self.names[codes] != found
        # A cluster to which none of the training samples belong.
        if unknown.any():
            distances = self.means.distances(features[unknown])
            codes[unknown] = distances.argmin(axis=1)
        return codes

    def proba(self, features: Features) -> Floats:
        return one_hot(self.codes(features), len(self.names))


def predict_names(clusterer: Any, features: Features) -> NDArray[Any]:
    """Return what a clusterer calls the cluster of each sample; it may write to them.

    Raises
    ------
    ValueError
        If it does not return one label for each sample.
    """
    found = np.asarray(clusterer.predict(features))
    if found.shape != (len(features),):
        raise ValueError(
            f"clusterer={clusterer!r} must predict one label for each sample; for "
            f"{len(features)} samples it returned an array of shape {found.shape}."
        )
    return found


def one_hot(codes: NDArray[np.intp], n_classes: int) -> Floats:
    """Return probabilities of 0 and 1, shape (n_samples, n_classes)."""
    proba = np.zeros((len(codes), n_classes))
    proba[np.arange(len(codes)), codes] = 1.0
    return proba
