"""Copies of a module in which every tensor is replaced, and how they are pickled."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..._utils._warnings import warn
from ._quantized import comes_back_broken

WRAP = (
    "Wrap it in a module of one input, a tensor, that makes the others of it: see "
    "'Networks' in the documentation."
)

# Dictionaries of a module that hold hooks: of what runs forward, and the others.
_FORWARD_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_OTHER_HOOKS = (
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def check_module(module: Any) -> None:
    """Refuse what is no torch module of one input with weights and visible parts."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, got {type(module).__name__}."
        )
    if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
        raise TypeError(
            f"{type(module).__name__}: a compiled network cannot be cut. Pass it as it "
            "was before torch.compile or torch.jit."
        )
    tensors = *module.named_parameters(), *module.named_buffers()
    empty = next((name for name, tensor in tensors if tensor.is_meta), None)
    if empty is not None:
        raise ValueError(
            f"{type(module).__name__}: {empty!r} is on the device 'meta', where it has "
            "no values. Load the weights first: module.to_empty(device='cpu'), then "
            "module.load_state_dict(...)."
        )
    needed = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(needed) > 1:
        raise ValueError(
            f"{type(module).__name__} needs {len(needed)} inputs, {', '.join(needed)}, "
            f"but gets one batch. {WRAP}"
        )


def with_tensors(
    module: nn.Module,
    convert: Callable[[Tensor], Any],
    others: Mapping[int, Any] | None = None,
) -> nn.Module:
    """Copy `module` with ``convert(t)`` in the place of every tensor t.

    Parameters, buffers and plain tensor attributes are converted once each, so
    what was tied stays tied. `module` itself is left as it is. `others` takes the
    place of further parts, by their ids.
    """
    # deepcopy takes whatever the memo holds as the copy, and so never meets a
    # tensor: pruned weights, for one, refuse to be copied.
    memo: dict[int, Any] = dict(others or {})
    for submodule in module.modules():
        for _, tensor in tensors_in(vars(submodule)):
            if id(tensor) not in memo:
                memo[id(tensor)] = convert(tensor)
    return copy.deepcopy(module, memo)


def tensors_in(value: Any) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Yield the tensors in an attribute, each after the keys that lead to it."""
    if isinstance(value, Tensor):
        yield (), value
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        for keys, tensor in tensors_in(item):
            yield (key, *keys), tensor


def like(original: Tensor, tensor: Tensor) -> Tensor:
    """Make `tensor` a parameter if `original` is one."""
    if isinstance(original, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=False)
    return tensor


@torch.inference_mode(False)
def frozen_copy(module: nn.Module, device: torch.device | None = None) -> nn.Module:
    """Copy `module` in eval mode, without gradients, on `device` if one is given."""

    def convert(tensor: Tensor) -> Tensor:
        return like(tensor, tensor.detach().to(device=device, copy=True))

    left_out = _hooks_left_out(module)
    try:
        copied = with_tensors(
            module, convert, {id(hook): None for hook in left_out.values()}
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise TypeError(
            f"{_uncopied(module)} cannot be copied, and the network has to be, so that "
            f"yours stays as it is: {error}"
        ) from error
    _remove_hooks(copied, left_out)
    _to_eval(copied)
    _bake_parametrizations(copied)
    return copied


def _to_eval(module: nn.Module) -> None:
    try:
        module.eval()
    except Exception:  # a train() of the network's own that takes no mode, for one
        for part in module.modules():
            part.training = False


@torch.no_grad()
def _bake_parametrizations(module: nn.Module) -> None:
    """Put plain weights in the place of those computed from others at each use.

    What is parametrized has a class of its own, which cannot be pickled and which the
    original goes on to use: it is left as it is.
    """
    parts = [part for part in module.modules() if parametrize.is_parametrized(part)]
    # All are computed before any is changed: parametrizations have weights, too.
    found = [_parametrized_weights(part) for part in parts]
    for part, weights in zip(parts, found, strict=True):
        part.__class__ = parametrize.type_before_parametrizations(part)
        del part._modules["parametrizations"]
        for name, weight in weights.items():
            if isinstance(weight, nn.Parameter):
                part.register_parameter(name, weight)
            else:
                part.register_buffer(name, weight)


def _parametrized_weights(part: Any) -> dict[str, Tensor]:
    weights = {}
    for name, computed in part.parametrizations.items():
        original = next(computed.parameters(recurse=False), torch.empty(0))
        weights[name] = like(original, getattr(part, name).detach().clone())
    return weights


def _hooks_left_out(module: nn.Module) -> dict[int, Any]:
    """Return the hooks that the copy is to lack, by the keys that torch gave them.

    Hooks of the user's would run for the copy, too, and collect what it computes. Those
    of torch itself compute weights, and methods of the network are a part of it. None
    is needed but those of what runs forward.
    """
    parts = set(module.modules())
    left_out: dict[int, Any] = {}
    names = []
    for name, part in module.named_modules():
        forward = [*_hooks(part, _FORWARD_HOOKS)]
        foreign = [item for item in forward if not _is_of_network(item[1], parts)]
        left_out.update([*foreign, *_hooks(part, _OTHER_HOOKS)])
        if foreign:
            names.append(repr(name) if name else "the network")
    if names:
        warn(
            f"The forward hooks of {', '.join(names[:5])} are left out of the copy "
            "that TorchExtractor runs. If they change what the network computes, write "
            "that into its forward; otherwise remove them first (handle.remove())."
        )
    return left_out


def _hooks(part: nn.Module, kinds: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for kind in kinds:
        yield from vars(part).get(kind, {}).items()


def _is_of_network(hook: Any, parts: Collection[nn.Module]) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    if isinstance(hook, MethodType):
        hook = hook.__self__
    if isinstance(hook, nn.Module):
        return hook in parts
    kinds = (hook,) if isinstance(hook, FunctionType) else type(hook).__mro__
    return any(str(kind.__module__).split(".")[0] == "torch" for kind in kinds)


def _remove_hooks(module: nn.Module, keys: Iterable[int]) -> None:
    for part in module.modules():
        for kind in (*_FORWARD_HOOKS, *_OTHER_HOOKS):
            for key in keys:
                vars(part).get(kind, {}).pop(key, None)


def _uncopied(module: nn.Module) -> str:
    """Name what stands in the way of a copy, as far as can be told."""
    of_torch = vars(nn.Module())
    for name, part in reversed(list(module.named_modules())):
        for attribute, value in vars(part).items():
            if isinstance(value, Tensor) or attribute in of_torch:
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                return f"The attribute {'.'.join(filter(None, (name, attribute)))!r}"
    return type(module).__name__


def restore(parts: Sequence[tuple[nn.Module, nn.Module]]) -> None:
    """Give modules the attributes of others, with which they share their tensors.

    Parameters
    ----------
    parts : sequence of tuple
        All parts of a network that was left as it was, each with the one to restore.
    """
    memo: dict[int, Any] = {id(before): after for before, after in parts}
    for before, _ in parts:
        memo |= {id(tensor): tensor for _, tensor in tensors_in(vars(before))}
    for before, after in parts:
        if not isinstance(after, torch.jit.ScriptModule):
            after.__dict__ = copy.deepcopy(vars(before), memo)


def share(module: nn.Module) -> nn.Module:
    """Copy `module` but for its tensors, which the copy shares."""
    return with_tensors(module, lambda tensor: tensor)


def picklable(module: nn.Module) -> nn.Module:
    """Copy `module` for pickling: tensors become NumPy arrays, rebuilt on loading.

    Plain arrays give the same bytes in every process; torch's storages do not.
    """
    others = {id(m): _StoredModule(m) for m in module.modules() if comes_back_broken(m)}
    return with_tensors(module, _Stored, others)


def is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Tell a tensor that fills its memory, whatever the order of its axes."""
    expected = 1
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size != 1 and step != expected:
            return False
        expected *= size
    return expected > 0


class _StoredModule:
    """Stands in a pickle for a module that torch itself would load half made."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Callable[..., nn.Module], tuple[Any, ...]]:
        return _restore_module, (type(self.module), self.module.__getstate__())


def _restore_module(kind: Any, state: Any) -> nn.Module:
    module: Any = kind.__new__(kind)
    nn.Module.__init__(module)
    module.__setstate__(state)
    return module


class _Stored:
    """Stands for a tensor in a pickle."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        tensor = self.tensor.detach().cpu()
        if tensor.is_quantized or tensor.layout is not torch.strided:
            return tensor.__reduce_ex__(2)
        is_parameter = isinstance(self.tensor, nn.Parameter)
        kind = Tensor if type(self.tensor) is nn.Parameter else type(self.tensor)
        # Of one channel there are two ways to say channels-last, and convolutions add
        # up in another order for each.
        stride = tensor.stride() if is_dense(tensor.shape, tensor.stride()) else None
        # Bytes, since NumPy has no bfloat16.
        flat = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
        data = flat.view(torch.uint8).numpy() if len(flat) else np.empty(0, np.uint8)
        layout = (tensor.dtype, tensor.shape, stride, is_parameter)
        return _restore, (data, *layout, kind)


def _restore(
    data: NDArray[np.uint8],
    dtype: torch.dtype,
    shape: torch.Size,
    stride: Sequence[int] | None,
    is_parameter: bool,
    kind: type[Tensor] = Tensor,
) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    if len(data):
        tensor = torch.from_numpy(np.array(data)).view(dtype).reshape(shape)
    if stride is not None:
        tensor = torch.empty_strided(shape, stride, dtype=dtype).copy_(tensor)
    if kind is not Tensor:
        tensor = tensor.as_subclass(kind)
    return nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor


def device_of_weights(module: nn.Module) -> torch.device:
    """Return the device of the module's weights."""
    tensor = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device
