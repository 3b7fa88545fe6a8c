"""Heads: torch modules from a stage's output to class probabilities.

A head pools the output to one row of features per sample, and `Logits` of these give
each class a number.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._estimator_logits import EstimatorLogits
from ._logits import LinearLogits, Logits
from ._pooling import Flatten, GridAverage, Pooling


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

    stage_name, n_features, carried
        As of `Head`.
    """

    pooling: GridAverage
    logits: LinearLogits
    weight: Tensor
    channels_last: Tensor

    def __init__(
        self,
        pooling: GridAverage,
        logits: LinearLogits,
        *,
        stage_name: str = "",
        n_features: int | None = None,
        carried: tuple[int, ...] = (),
    ) -> None:
        super().__init__(
            pooling,
            logits,
            stage_name=stage_name,
            n_features=n_features,
            carried=carried,
        )
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
    return isinstance(head.logits, EstimatorLogits)


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
