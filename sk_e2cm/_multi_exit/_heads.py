"""Heads: torch modules from a stage's output to class probabilities.

A head pools the output to one row of features per sample and turns that into logits.
How the logits' numbers were fitted is none of its business.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .._utils._arrays import Features, Floats, as_floats, to_numpy
from ._pooling import Flatten, GridAverage, Pooling


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


class Head(nn.Module):
    """Pools a stage's output and gives each class a logit.

    Parameters
    ----------
    pooling : Pooling
        From the output to features.

    logits : Logits
        From the features to logits.

    stage_name : str, default=""
        For the messages.

    n_features : int, default=None
        How many there must be; None where that does not matter.

    carried : tuple of int, default=()
        Earlier stages, in ascending order, whose features come before its own.
    """

    pooling: Pooling
    logits: Logits

    def __init__(
        self,
        pooling: Pooling,
        logits: Logits,
        *,
        stage_name: str = "",
        n_features: int | None = None,
        carried: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.logits = logits
        self.stage_name = stage_name
        self.n_features = n_features
        self.carried = carried

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample, pooling included."""
        return self.pooling.macs + self.logits.macs

    def forward(self, output: Any) -> Tensor:
        """Return logits, shape (n_samples, n_classes)."""
        return self.logits_of(self.pooling.forward(output))

    def logits_of(self, features: Tensor) -> Tensor:
        """Return the logits of features.

        Raises
        ------
        ValueError
            If they are not as many as those that were fitted.
        """
        if self.n_features is not None:
            check_width(self.stage_name, features.shape[1], self.n_features)
        # Not by way of calls of modules, which for one sample take as long as layers.
        logits: Tensor = self.logits.forward(features)
        return logits

    def proba(self, output: Any) -> Tensor:
        """Return probabilities, shape (n_samples, n_classes), if nothing is carried."""
        return self.logits.to_proba(self(output))

    def pooled(self, output: Any) -> Tensor:
        """Return features that stay as they are when the next stage has run."""
        features: Tensor = self.pooling.forward(output)
        # Others than these compute new numbers.
        return features.clone() if isinstance(self.pooling, Flatten) else features

    def proba_of(self, features: Sequence[Tensor]) -> Tensor:
        """Return probabilities, given the features carried and, last, its own."""
        joined = features[0] if len(features) == 1 else torch.cat(list(features), dim=1)
        return self.logits.to_proba(self.logits_of(joined))


class FoldedHead(Head):
    """Averages over a map and a linear layer, as one product over all positions.

    Parameters
    ----------
    pooling : GridAverage
        The averages.

    logits : LinearLogits
        The layer.

    **named
        As of `Head`.
    """

    pooling: GridAverage
    logits: LinearLogits
    weight: Tensor
    channels_last: Tensor

    def __init__(
        self, pooling: GridAverage, logits: LinearLogits, **named: Any
    ) -> None:
        super().__init__(pooling, logits, **named)
        weight = pooling.spread(logits.weight)  # (n_classes, channels, *sizes)
        self.shape = weight.shape[1:]
        self.register_buffer("weight", weight.flatten(1))
        self.register_buffer("channels_last", weight.movedim(1, -1).flatten(1))

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample."""
        return self.weight.numel()

    def forward(self, output: Any) -> Tensor:
        """Return logits, shape (n_samples, n_classes)."""
        x = self.pooling.as_map(output)
        if x.shape[1:] != self.shape:
            return super().forward(output)
        x = x.to(self.weight.dtype)
        if x.is_contiguous():
            return F.linear(x.flatten(1), self.weight, self.logits.bias)
        return F.linear(
            x.movedim(1, -1).flatten(1), self.channels_last, self.logits.bias
        )


def check_width(stage_name: str, found: int, expected: int) -> None:
    """Refuse features that are not as many as in the first batch, or in the fit."""
    if found != expected:
        raise ValueError(
            f"Stage {stage_name!r} has {found} features for some samples and "
            f"{expected} for others, or for those of the fit. Pad its output to one "
            "length, or choose a pooling= that returns as many for each batch."
        )


def takes_arrays(head: Head) -> bool:
    """Tell whether the logits come from an estimator of scikit-learn's kind."""
    return isinstance(head.logits, _EstimatorLogits)


def moved(head: Head, device: torch.device) -> Head:
    """Move a head to a device, where it finds its parts at once.

    A module looks for buffers and submodules only after everything else. For one sample
    that takes a sixth of the time of a head.
    """
    if device.type == "mps":
        head.float()  # it has no double precision
    return _looked_up(head.to(device))


def in_double(head: Head) -> Head:
    """Return a copy of a head that computes in double precision."""
    return _looked_up(copy.deepcopy(head).double())


def _looked_up(head: Head) -> Head:
    for part in head.modules():
        vars(part).update(part._buffers)
        vars(part).update(part._modules)
    return head


def as_made(module: nn.Module) -> nn.Module:
    """Return a copy of a part of a moved head that can be moved as others can."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        for name in (*part._buffers, *part._modules):
            vars(part).pop(name, None)
    return copied


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
    columns : ndarray of shape (n_classes,)
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
        self, columns: NDArray[np.intp], normalized: bool, separate: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("columns", torch.from_numpy(columns))
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


class _EstimatorLogits(Logits):
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


class ClassifierLogits(_EstimatorLogits):
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


class ClustererLogits(_EstimatorLogits):
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
