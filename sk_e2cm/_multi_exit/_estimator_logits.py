"""Logits of scikit-learn's estimators: as they are, or as torch modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._utils._arrays import Features, Floats, as_floats, to_numpy, to_tensor
from ._logits import ACTIVATIONS, DistanceLogits, LinearLogits, Logits, PerceptronLogits

# A module gives a classifier's own probabilities, but for rounding; on so many samples
# that is tried.
_SAME = 1e-4
_TRIED = 256


class EstimatorLogits(Logits):
    """Logits from an estimator that takes and returns arrays."""

    n_classes: int

    def proba(self, features: Features) -> Floats:
        """Return probabilities, shape (n_samples, n_classes)."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        given = to_numpy(features)  # a copy: some work in place
        if not np.isfinite(given).all():
            return features.new_full((len(given), self.n_classes), torch.nan)
        with np.errstate(divide="ignore"):
            logits = np.log(np.maximum(self.proba(given), 0.0))
        return torch.from_numpy(logits).to(features.device)

    def to_proba(self, logits: Tensor) -> Tensor:
        """Return what the estimator has said, which need not sum to one."""
        return logits.exp()


def codes_known(classifier: Any, n_classes: int, parameter: str) -> NDArray[np.intp]:
    """Return the classes of a classifier that was fitted to codes.

    Raises
    ------
    ValueError
        If it has others, or none.
    """
    found = np.asarray(getattr(classifier, "classes_", ()))
    if not found.size or not np.isin(found, np.arange(n_classes)).all():
        raise ValueError(
            f"{parameter}={classifier!r} has the classes_ {found[:5].tolist()} after "
            f"it was fitted to the numbers of the sorted labels, 0 to {n_classes - 1}. "
            "It must take its classes from fit; one that is frozen does not."
        )
    return found.astype(np.intp)


class ClassifierLogits(EstimatorLogits):
    """A scikit-learn classifier fitted on the features.

    Parameters
    ----------
    classifier : classifier
        Fitted to codes of classes, with ``predict_proba``.

    n_classes : int
        Those that it does not know get probability 0.

    parameter : str, default="final"
        What users gave it as.

    mean, scale : ndarray of shape (n_features,), or float
        It takes features less the mean, over the scale.
    """

    def __init__(
        self,
        classifier: Any,
        n_classes: int,
        *,
        parameter: str = "final",
        mean: Features | float = 0.0,
        scale: Features | float = 1.0,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.n_classes = n_classes
        self.codes = codes_known(classifier, n_classes, parameter)
        self.parameter = parameter
        self.mean = mean
        self.scale = scale

    @property
    def macs(self) -> int:
        """Multiply-adds of a linear classifier; others are not counted."""
        return int(np.size(getattr(self.classifier, "coef_", ())))

    def proba(self, features: Features) -> Floats:
        """Return probabilities, shape (n_samples, n_classes)."""
        proba = np.zeros((len(features), self.n_classes))
        scaled = (features - self.mean) / self.scale
        found = np.asarray(self.classifier.predict_proba(scaled))
        if found.shape != (len(features), len(self.codes)):
            raise ValueError(
                f"{self.parameter}={self.classifier!r} returns an array of the shape "
                f"{found.shape} from predict_proba; for {len(features)} samples and "
                f"{len(self.codes)} classes it must be "
                f"{(len(features), len(self.codes))}."
            )
        bad = ~np.isfinite(found).all(axis=-1)
        if bad.any():
            raise ValueError(
                f"{self.parameter}={self.classifier!r} returns NaN or infinity from "
                f"predict_proba for {bad.sum()} of {len(features)} samples. Choose "
                "another classifier, or scale the features before it."
            )
        proba[:, self.codes] = found
        return proba


class ClustererLogits(EstimatorLogits):
    """A clusterer fitted on the features: its cluster gets probability 1.

    Parameters
    ----------
    clusterer : clusterer
        Fitted.

    names : ndarray of shape (n_clusters,)
        What it calls the clusters, in ascending order.

    centers : ndarray of shape (n_clusters, n_features)
        Where they are.

    dtype : dtype
        What it takes features in.
    """

    def __init__(
        self, clusterer: Any, names: NDArray[Any], centers: Floats, dtype: Any
    ) -> None:
        super().__init__()
        self.clusterer = clusterer
        self.names = names
        self.centers = centers
        self.dtype = dtype
        self.n_classes = len(names)

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
            nearest = DistanceLogits(
                torch.from_numpy(self.centers), torch.ones(len(self.centers))
            )
            logits = nearest(as_floats(features[unknown]))
            codes[unknown] = logits.argmax(dim=1).numpy()
        return codes

    def proba(self, features: Features) -> Floats:
        """Return probabilities of 0 and 1, shape (n_samples, n_clusters)."""
        return np.eye(self.n_classes)[self.codes(features)]


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


def as_logits(
    classifier: Any, n_classes: int, mean: Features, scale: Features, tried: Features
) -> Logits:
    """Return a fitted classifier as a module: as torch's own, if that does the same.

    Parameters
    ----------
    classifier : classifier
        Fitted to codes of all classes, from scaled features.

    n_classes : int
        How many there are.

    mean, scale : ndarray of shape (n_features,)
        Features less the mean, over the scale, are what it was fitted to. An infinite
        scale leaves nothing of a feature.

    tried : ndarray of shape (n_samples, n_features)
        Scaled features: of some, probabilities are compared.
    """
    layers = _layers(classifier)
    if layers is not None:
        weights, biases = layers
        if n_classes == 2 and len(biases[-1]) == 1:  # the logit of the second class
            weights[-1] = np.vstack([np.zeros_like(weights[-1]), weights[-1]])
            biases[-1] = np.append(0.0, biases[-1])
        weights[0] = weights[0] / scale
        logits = _module(classifier, weights, biases, mean)
        some = _between(tried[:: -(-len(tried) // _TRIED)])
        expected = classifier.predict_proba(some)
        unscaled = some * np.where(np.isinf(scale), 0, scale) + mean
        with torch.inference_mode():
            found = logits(to_tensor(unscaled)).softmax(dim=1).numpy()
        if found.shape == expected.shape and np.allclose(found, expected, 0, _SAME):
            return logits
    return ClassifierLogits(
        classifier, n_classes, parameter="head", mean=mean, scale=scale
    )


def _between(features: Features) -> Features:
    """Return mixtures of samples: these may themselves have probabilities 0 and 1."""
    share = np.linspace(0, 1, len(features), dtype=features.dtype)[:, None]
    return share * features + (1 - share) * features[::-1]


def _layers(classifier: Any) -> tuple[list[Any], list[Any]] | None:
    """Return weights, (n_outputs, n_inputs), and biases of its layers, if any.

    Its outputs are in the order of the codes.
    """
    if (np.diff(classifier.classes_) < 0).any():
        return None
    if hasattr(classifier, "coefs_") and classifier.activation in ACTIVATIONS:
        return [w.T for w in classifier.coefs_], list(classifier.intercepts_)
    coef = getattr(classifier, "coef_", None)
    if isinstance(coef, np.ndarray) and coef.ndim == 2:
        intercept = getattr(classifier, "intercept_", 0.0)
        bias = np.broadcast_to(np.ravel(intercept), len(coef))
        return [coef], [bias]
    return None


def _module(
    classifier: Any, weights: Sequence[Any], biases: Sequence[Any], mean: Features
) -> Logits:
    dtype = to_tensor(mean).dtype

    def tensor(values: Any) -> Tensor:
        return torch.tensor(np.asarray(values), dtype=dtype)

    layers = [
        LinearLogits(tensor(weight), tensor(bias), None if layer else tensor(mean))
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True))
    ]
    if len(layers) == 1:
        return layers[0]
    return PerceptronLogits(layers, classifier.activation)
