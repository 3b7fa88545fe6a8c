"""Fitted classifiers of scikit-learn as torch modules, where they can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._utils._arrays import Features, to_tensor
from ._heads import ClassifierLogits, LinearLogits, Logits

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "logistic": torch.sigmoid,
    "relu": F.relu,
    "tanh": torch.tanh,
}

# A module gives a classifier's own probabilities, but for rounding; on so many samples
# that is tried.
_SAME = 1e-4
_TRIED = 256


class PerceptronLogits(Logits):
    """A multi-layer perceptron.

    Parameters
    ----------
    layers : sequence of LinearLogits
        From the features to the logits.

    activation : {"identity", "logistic", "relu", "tanh"}
        Between the layers.
    """

    def __init__(self, layers: Sequence[LinearLogits], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation = activation
        self._macs = sum(layer.macs for layer in layers)

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return self._macs

    def forward(self, features: Tensor) -> Tensor:
        activate = _ACTIVATIONS[self.activation]
        first, *others = self.layers
        x: Tensor = first(features)
        for layer in others:
            x = layer(activate(x))
        # Some activations are finite whatever they are of.
        finite = features.isfinite().all(dim=1, keepdim=True)
        return x.masked_fill(~finite, torch.nan)


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
    if hasattr(classifier, "coefs_") and classifier.activation in _ACTIVATIONS:
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
