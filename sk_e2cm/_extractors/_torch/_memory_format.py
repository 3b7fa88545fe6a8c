"""Networks of images in the memory format that torch calls channels-last."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ._freeze import like, with_tensors
from ._staged import StagedNetwork

_CHANNELS_LAST = torch.channels_last


def in_channels_last(network: StagedNetwork) -> StagedNetwork | None:
    """Return the network with its images in channels-last format.

    Returns
    -------
    StagedNetwork or None
        With rules that are yet to be learnt. None if no convolution would change.
    """
    weights = {
        id(module.weight)
        for module in network.root.modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        and isinstance(module.weight, Tensor)
        and not module.weight.is_contiguous(memory_format=_CHANNELS_LAST)
    }
    if not weights:
        return None

    def convert(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            return tensor
        return like(tensor, tensor.contiguous(memory_format=_CHANNELS_LAST))

    with torch.inference_mode(False):
        root = with_tensors(network.root, convert)
    return replace(network, root=root, layout=_CHANNELS_LAST, rules={})
