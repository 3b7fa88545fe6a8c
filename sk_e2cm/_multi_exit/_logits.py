"""Logits: torch modules from features to a number for each class.

How their numbers were fitted is none of their business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "logistic": torch.sigmoid,
    "relu": F.relu,
    "tanh": torch.tanh,
}


class Logits(nn.Module):
    """From features, (n_samples, n_features), to logits, (n_samples, n_classes)."""

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return 0

    def to_proba(self, logits: Tensor) -> Tensor:
        """Return the softmax, in double precision where the device has it.

        Confidences near 1 differ by less than single precision can tell, and
        thresholds lie between them.
        """
        has_double = logits.device.type != "mps"
        return logits.softmax(dim=1, dtype=torch.float64 if has_double else None)


class LinearLogits(Logits):
    """Logits are (f - centre) @ weight.T + bias.

    Parameters
    ----------
    weight : tensor of shape (n_classes, n_features)
        Its type of floats is that of the arithmetic.

    bias : tensor of shape (n_classes,)
        Of features less the centre.

    centre : tensor of shape (n_features,), default=None
        None where `bias` takes account of it.
    """

    weight: Tensor
    bias: Tensor
    centre: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, centre: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("centre", centre)
        self.is_centred = centre is not None

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return self.weight.numel()

    def sharpened(self, factor: float) -> LinearLogits:
        """Return logits that are larger by this factor."""
        centre = self.centre if self.is_centred else None
        return LinearLogits(factor * self.weight, factor * self.bias, centre)

    def forward(self, features: Tensor) -> Tensor:
        weight = self.weight
        if features.dtype != weight.dtype:
            features = features.to(weight.dtype)
        if self.is_centred:
            features = features - self.centre
        return F.linear(features, weight, self.bias)


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
        activate = ACTIVATIONS[self.activation]
        first, *others = self.layers
        x: Tensor = first(features)
        for layer in others:
            x = layer(activate(x))
        # Some activations are finite whatever they are of.
        finite = features.isfinite().all(dim=1, keepdim=True)
        return x.masked_fill(~finite, torch.nan)


class DistanceLogits(Logits):
    """Logits are -d_k * sharpness_k, where d_k = ||f - c_k||.

    Parameters
    ----------
    means : tensor of shape (n_classes, n_features)
        c_k.

    sharpness : tensor of shape (n_classes,)
        In the paper 1 / s_k.
    """

    means: Tensor
    sharpness: Tensor

    def __init__(self, means: Tensor, sharpness: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.register_buffer("sharpness", sharpness)

    @property
    def macs(self) -> int:
        return self.means.numel()

    def forward(self, features: Tensor) -> Tensor:
        # Differences first: the squares of features far from zero cancel.
        distances = torch.cdist(
            features.to(self.means.dtype),
            self.means,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        return -distances * self.sharpness


class DirichletLogits(Logits):
    """Logits are linear in the log probabilities z that other logits give.

    Parameters
    ----------
    logits : Logits
        z is their log softmax, but no less than `least`.

    weight : tensor of shape (n_classes, n_classes)
        Logits are z @ weight.T + bias.

    bias : tensor of shape (n_classes,)
        See `weight`.

    least : float
        See `logits`.
    """

    logits: Logits
    weight: Tensor
    bias: Tensor

    def __init__(
        self, logits: Logits, weight: Tensor, bias: Tensor, least: float
    ) -> None:
        super().__init__()
        self.logits = logits
        self.least = least
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @property
    def macs(self) -> int:
        return self.logits.macs + self.weight.numel()

    def forward(self, features: Tensor) -> Tensor:
        z = self.logits(features).log_softmax(dim=1).clamp(min=self.least)
        return F.linear(z, self.weight, self.bias)


class WeightedLogits(Logits):
    """A weighted sum of the log probabilities that several logits give.

    Parameters
    ----------
    parts : sequence of Logits
        Those.

    weights : tensor of shape (n_parts,)
        Its type of floats is that of the sum.

    least : float
        The log probability of what has none. Where no class has any, all have the same.
    """

    weights: Tensor

    def __init__(self, parts: Sequence[Logits], weights: Tensor, least: float) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.register_buffer("weights", weights)
        self.least = least
        self._macs = sum(part.macs for part in parts)

    @property
    def macs(self) -> int:
        return self._macs

    def forward(self, features: Tensor) -> Tensor:
        found = [part(features).to(self.weights.dtype) for part in self.parts]
        logits = torch.stack(found)
        nothing = logits.isneginf().all(dim=2, keepdim=True)
        log_proba = logits.masked_fill(nothing, 0.0).log_softmax(dim=2)
        log_proba = log_proba.masked_fill(log_proba.isneginf(), self.least)
        return torch.tensordot(self.weights, log_proba, dims=1)


class NetworkLogits(Logits):
    """The network's own head: its last stage gives one logit per column.

    A network of one output has two columns: its output is the logit of the second
    against the first.

    Parameters
    ----------
    columns : ndarray or tensor of shape (n_classes,)
        Where each class is found.

    normalized : bool
        Whether the network ends in a softmax already, or in the sigmoid of one output.

    separate : bool, default=False
        Whether it ends in a sigmoid: a probability for each class by itself. Given
        that a sample is of one class, those of the classes are to one another as the
        odds.
    """

    columns: Tensor

    def __init__(
        self,
        columns: NDArray[np.intp] | Tensor,
        normalized: bool,
        separate: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("columns", torch.as_tensor(columns))
        self.normalized = normalized
        self.separate = separate

    def forward(self, features: Tensor) -> Tensor:
        outputs = features
        if features.shape[1] == 1:
            first = 1 - features if self.normalized else torch.zeros_like(features)
            outputs = torch.cat([first, features], dim=1)
        logits = outputs.index_select(1, self.columns)
        if self.normalized:
            logits = logits.clamp(min=torch.finfo(logits.dtype).tiny).log()
        elif self.separate:
            info = torch.finfo(logits.dtype)
            against = (1 - logits).clamp(min=info.eps / 2)
            logits = logits.clamp(min=info.tiny).log() - against.log()
        finite = features.isfinite().all(dim=1, keepdim=True)  # in whichever column
        return logits.masked_fill(~finite, torch.nan)
