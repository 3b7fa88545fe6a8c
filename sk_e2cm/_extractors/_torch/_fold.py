"""BatchNorm folded into the layer before it.

In eval mode BatchNorm multiplies each channel by a number and adds another. The layer
before it can do so with its own weights, and a pass over memory is saved.
"""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ._freeze import share
from ._quantized import is_quantized
from ._staged import StagedNetwork

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_FUNCTIONS = (F.linear, F.conv1d, F.conv2d, F.conv3d, *_TRANSPOSED)

# Half precision rounds too coarsely for the two to agree.
_DTYPES = (torch.float32, torch.float64)

# Attributes that a layer's output has in common with what is made of it.
_COMMON = ("ndim", "shape", "dtype", "device")


class _Layer(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    is_transposed: bool


class _Norm(NamedTuple):
    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


class _Pair(NamedTuple):
    """A layer and the norm that follows it, with the weights that do for both."""

    layer: fx.Node
    norm: fx.Node
    weight: Tensor
    bias: Tensor


@torch.inference_mode(False)
@torch.no_grad()
def fold(network: StagedNetwork) -> StagedNetwork | None:
    """Return a network in which layers do the work of the norms after them.

    Folded is what lies in one stage and is used by nothing else. Whether the result is
    the same depends on the shape of samples, and remains to be proved.

    Returns
    -------
    StagedNetwork or None
        With weights of its own where something was folded, others shared, and rules
        that are yet to be learnt. None if there is nothing to fold.
    """
    if is_quantized(network.root):
        return None
    pairs = list(_pairs(network))
    if not pairs:
        return None
    root = share(network.root)
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(network.graph, copies))
    for i, pair in enumerate(pairs):
        layer, norm = copies[pair.layer], copies[pair.norm]
        # Where the layer was: its input may be written to before the norm is reached.
        with graph.inserting_before(layer):
            both = _put(root, graph, layer, pair, f"folded_{i}")
        copies[pair.norm] = both
        norm.replace_all_uses_with(both)
        graph.erase_node(norm)
        layer.replace_all_uses_with(both)
        graph.erase_node(layer)
    ends = [copies[end] for end in network.ends]
    return replace(network, root=root, graph=graph, ends=ends, rules={})


def _pairs(network: StagedNetwork) -> Iterator[_Pair]:
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    bounds = [order[end] for end in network.ends]
    for norm in network.graph.nodes:
        layer = _input(norm)
        if layer is None or not _is_only_user(norm, layer):
            continue
        stages = {bisect_left(bounds, order[node]) for node in (layer, norm)}
        if len(stages) > 1 or order[norm] > bounds[-1]:
            continue
        found = _layer(network.root, layer), _norm(network.root, norm)
        if weights := _fused(*found):
            yield _Pair(layer, norm, *weights)


def _input(node: fx.Node) -> fx.Node | None:
    """Return what a call works on, if it works on one value of another call."""
    found = node.args[0] if node.args else node.kwargs.get("input")
    return found if isinstance(found, fx.Node) else None


def _is_only_user(norm: fx.Node, layer: fx.Node) -> bool:
    """Tell whether nothing else needs the numbers that `layer` computes."""
    return all(
        user is norm or (user.target is getattr and user.args[1] in _COMMON)
        for user in layer.users
    )


def _layer(root: nn.Module, node: fx.Node) -> _Layer | None:
    if node.op == "call_module":
        module = _plain_module(root, node, _LAYERS)
        if module is None:
            return None
        is_transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        return _Layer(module.weight, module.bias, is_transposed)
    if node.op != "call_function" or node.target not in _FUNCTIONS:
        return None
    given = _arguments(node)
    weights = [given.get("weight"), given.get("bias")]
    if not all(map(_is_constant, weights)):
        return None
    weight, bias = (_constant(root, value) for value in weights)
    is_transposed = node.target in _TRANSPOSED
    return None if weight is None else _Layer(weight, bias, is_transposed)


def _norm(root: nn.Module, node: fx.Node) -> _Norm | None:
    if node.op == "call_module":
        module = _plain_module(root, node, _NORMS)
        if module is None or module.training or module.running_mean is None:
            return None
        statistics = module.running_mean, module.running_var
        return _Norm(*statistics, module.weight, module.bias, module.eps)
    if node.target is not F.batch_norm:
        return None
    call = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
    call.apply_defaults()
    given = call.arguments
    names = ("running_mean", "running_var", "weight", "bias")
    parts = [given[name] for name in names]
    if given["training"] is not False or not all(map(_is_constant, parts)):
        return None
    mean, variance, weight, bias = (_constant(root, part) for part in parts)
    if mean is None or variance is None:
        return None
    return _Norm(mean, variance, weight, bias, given["eps"])


def _plain_module(root: nn.Module, node: fx.Node, kinds: Sequence[type]) -> Any:
    """Return the module that is called if it does what its class does, and no more."""
    module = root.get_submodule(str(node.target))
    has_hooks = module._forward_pre_hooks or module._forward_hooks
    return module if type(module) in kinds and not has_hooks else None


def _arguments(node: fx.Node) -> dict[str, Any]:
    given = zip(("input", "weight", "bias"), node.args, strict=False)
    return {**dict(given), **node.kwargs}


def _is_constant(value: Any) -> bool:
    if value is None:
        return True
    is_read = isinstance(value, fx.Node) and value.op == "get_attr"
    # A forward that makes a tensor may write to it.
    return is_read and not str(value.target).startswith("_tensor_constant")


def _constant(root: nn.Module, value: Any) -> Tensor | None:
    return None if value is None else attrgetter(str(value.target))(root)


def _fused(layer: _Layer | None, norm: _Norm | None) -> tuple[Tensor, Tensor] | None:
    """Return weights that do for both; None if they cannot be computed."""
    if layer is None or norm is None or not _is_plain(layer.weight):
        return None
    channels = layer.weight.shape[1 if layer.is_transposed else 0]
    # Of groups transposed weights know the channels of one only.
    if norm.mean.shape != (channels,):
        return None
    # A linear layer is to it a convolution without axes.
    fused = fuse_conv_bn_weights(
        _exact(layer.weight),
        None if layer.bias is None else _exact(layer.bias),
        _exact(norm.mean),
        _exact(norm.variance),
        norm.eps,
        None if norm.weight is None else _exact(norm.weight),
        None if norm.bias is None else _exact(norm.bias),
        layer.is_transposed,
    )
    # Rounded once, and in channels-last format if the layer is.
    here = torch.empty_like(layer.weight), layer.weight.new_empty(channels)
    return here[0].copy_(fused[0]), here[1].copy_(fused[1])


def _exact(tensor: Tensor) -> Tensor:
    # Not every device has double precision.
    return tensor.cpu().double()


def _is_plain(weight: Tensor) -> bool:
    is_dense = weight.layout is torch.strided and weight.dtype in _DTYPES
    return is_dense and type(weight) in (Tensor, nn.Parameter)


def _put(
    root: nn.Module, graph: fx.Graph, layer: fx.Node, pair: _Pair, name: str
) -> fx.Node:
    """Add a call like that of `layer`, with the weights of the pair."""
    weight, bias = (nn.Parameter(t, requires_grad=False) for t in pair[2:])
    if layer.op == "call_module":
        module: Any = share(root.get_submodule(str(layer.target)))
        module.weight, module.bias = weight, bias
        root.add_module(name, module)
        return graph.call_module(name, layer.args, layer.kwargs)
    for part, tensor in (("weight", weight), ("bias", bias)):
        root.register_parameter(f"{name}_{part}", tensor)
    read = {part: graph.get_attr(f"{name}_{part}") for part in ("weight", "bias")}
    args, kwargs = list(layer.args), {**layer.kwargs, **read}
    for i, part in enumerate(("weight", "bias"), start=1):
        if i < len(args):
            args[i] = kwargs.pop(part)
    function: Any = layer.target
    return graph.call_function(function, tuple(args), kwargs)
