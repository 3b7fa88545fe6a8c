"""What torch's quantised layers need: they hide their weights, and dynamic ones mix.

A dynamically quantised layer rounds its input by the range of the whole batch, so a
sample's result depends a little on the others, in the network as it is. Whether
samples may be dropped is therefore proved on a twin in which these layers compute
with the same weights, but without rounding.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn


def exact_twin(network: nn.Module) -> nn.Module:
    """Return a copy without dynamic rounding, or `network` itself if it has none."""
    twins = {
        id(module): _exact(module)
        for module in network.modules()
        if type(module).__module__.startswith("torch.ao.nn.quantized.dynamic")
        and type(module).__name__ in ("Linear", "LSTM", "GRU")
    }
    # deepcopy takes what its memo holds for the copy.
    return copy.deepcopy(network, twins) if twins else network


def _exact(layer: Any) -> nn.Module:
    exact: nn.Module
    if type(layer).__name__ == "Linear":
        state = {"weight": layer.weight(), "bias": layer.bias()}
        exact = nn.Linear(
            layer.in_features, layer.out_features, bias=state["bias"] is not None
        )
    else:
        state = {**layer.get_weight(), **layer.get_bias()}
        exact = getattr(nn, type(layer).__name__)(
            layer.input_size,
            layer.hidden_size,
            layer.num_layers,
            bias=layer.bias,
            batch_first=layer.batch_first,
            bidirectional=layer.bidirectional,
        )
    exact.load_state_dict(
        {
            name: value.dequantize() if value.is_quantized else value
            for name, value in state.items()
            if value is not None
        }
    )
    return exact.eval().requires_grad_(False)


def is_quantized(network: nn.Module) -> bool:
    """Tell whether a part of the network is one of torch's quantised layers."""
    return any(map(is_quantized_layer, network.modules()))


def is_quantized_layer(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's quantised layers itself."""
    return type(module).__module__.startswith("torch.ao.")


def comes_back_broken(module: nn.Module) -> bool:
    """Tell whether loading a pickle leaves out what ``nn.Module.__init__`` does.

    So it is with statically quantised convolutions, whose state is not a module's.
    """
    has_own_state = type(module).__setstate__ is not nn.Module.__setstate__
    return has_own_state and type(module).__module__.startswith("torch.ao.nn")


def hidden_macs(layer: Any, given: Any, output: Any) -> float:
    """Return the multiply-adds of a layer whose weights torch's counter cannot see.

    Convolutions and linear layers use each of their weights once for every position
    of the output, transposed convolutions for every position of what they are given:
    the first axis of their weights are its channels.
    """
    weight = getattr(layer, "weight", None)
    if not (is_quantized_layer(layer) and callable(weight)):
        return 0.0
    positions = given if "Transpose" in type(layer).__name__ else output
    if not isinstance(positions, Tensor):
        return 0.0
    return weight().numel() * positions.numel() / weight().shape[0]
