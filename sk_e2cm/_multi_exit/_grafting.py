"""Exits as layers that can be trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._heads import Head, as_made
from ._logits import DistanceLogits, LinearLogits, Logits
from ._network import MultiExitNetwork


def linear_exits(network: MultiExitNetwork) -> list[nn.Sequential]:
    """Return a pooling and a linear layer for each exit, on the network's device.

    Raises
    ------
    ValueError
        If an exit is not linear in the features of its own stage.
    """
    exits = zip(network.stage_names[:-1], network.heads[:-1], strict=True)
    return [_as_layers(head, name) for name, head in exits]


class CentredPooling(nn.Module):
    """Pools, and takes a centre from the features: rounding would show without.

    Parameters
    ----------
    pooling : Pooling
        From a stage's output to features.

    centre : tensor of shape (n_features,)
        Its type of floats is that of what is returned.
    """

    centre: Tensor

    def __init__(self, pooling: nn.Module, centre: Tensor) -> None:
        super().__init__()
        self.pooling = pooling
        self.register_buffer("centre", centre)

    def forward(self, output: Tensor) -> Tensor:
        features: Tensor = self.pooling(output)
        return features.to(self.centre.dtype) - self.centre


@torch.no_grad()
def _as_layers(head: Head, stage_name: str) -> nn.Sequential:
    if head.carried:
        raise ValueError(
            f"The exit of stage {stage_name!r} takes features of other stages, too, "
            "and is no layer on its own. Fit with carry=0."
        )
    linear = _linear(head.logits, stage_name)
    weight, dtype = linear.weight, linear.weight.dtype
    n_classes, n_features = weight.shape
    layer = nn.Linear(n_features, n_classes, device=weight.device, dtype=dtype)
    layer.weight.copy_(weight)
    layer.bias.copy_(linear.bias)
    pooling = as_made(head.pooling)
    # What is in double precision may be so for the sake of rounding only.
    if linear.is_centred or dtype == torch.float64:
        centre = linear.centre if linear.is_centred else weight.new_zeros(n_features)
        pooling = CentredPooling(pooling, centre)
    return nn.Sequential(pooling, layer)


def _linear(logits: Logits, stage_name: str) -> LinearLogits:
    if isinstance(logits, DistanceLogits):
        # Nearest mean is linear: ||f - c||^2 = ||f||^2 - 2 (c.f - ||c||^2 / 2).
        means = logits.means
        return LinearLogits(means, -means.square().sum(dim=1) / 2)
    if isinstance(logits, LinearLogits):
        return logits
    raise ValueError(
        f"The exit of stage {stage_name!r} is not linear in its features. Class means "
        "are, and linear classifiers as head=, without calibration='dirichlet'."
    )
