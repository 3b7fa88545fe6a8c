"""Exits as layers that can be trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._heads import DistanceLogits, Head, LinearLogits, as_made
from ._network import MultiExitNetwork


def linear_exits(network: MultiExitNetwork) -> list[nn.Sequential]:
    """Return a pooling and a linear layer for each exit, on the network's device.

    Raises
    ------
    ValueError
        If an exit is not linear in the features of its own stage.
    """
    exits = zip(network.stage_names[:-1], network.heads[:-1], strict=True)
    return [
        nn.Sequential(as_made(head.pooling), _layer(head, name)) for name, head in exits
    ]


@torch.no_grad()
def _layer(head: Head, stage_name: str) -> nn.Linear:
    weight, bias = _weight_and_bias(head, stage_name)
    n_classes, n_features = weight.shape
    dtype = next(head.logits.buffers()).dtype
    layer = nn.Linear(n_features, n_classes, device=weight.device, dtype=dtype)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


def _weight_and_bias(head: Head, stage_name: str) -> tuple[Tensor, Tensor]:
    """Return both in double precision, where the device has it."""
    logits = head.logits
    if head.carried:
        raise ValueError(
            f"The exit of stage {stage_name!r} takes features of other stages, too, "
            "and is no layer on its own. Fit with carry=0."
        )
    if isinstance(logits, DistanceLogits):
        # Nearest mean is linear: ||f - c||^2 = ||f||^2 - 2 (c.f - ||c||^2 / 2).
        means = _precise(logits.means)
        return means, -means.square().sum(dim=1) / 2
    if isinstance(logits, LinearLogits):
        weight, bias = _precise(logits.weight), _precise(logits.bias)
        if logits.is_centred:
            bias = bias - weight @ _precise(logits.centre)
        return weight, bias
    raise ValueError(
        f"The exit of stage {stage_name!r} is not linear in its features. Class means "
        "are, and linear classifiers as head=, without calibration='dirichlet'."
    )


def _precise(numbers: Tensor) -> Tensor:
    return numbers if numbers.device.type == "mps" else numbers.double()
