"""Copies of a module in which every tensor is replaced, and how they are pickled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._quantized import comes_back_broken


def check_module(module: Any) -> None:
    """Refuse what is no torch module, and compiled modules, which hide their parts."""
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, got {type(module).__name__}."
        )
    if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
        raise TypeError(
            f"{type(module).__name__}: a compiled network cannot be cut. Pass it as it "
            "was before torch.compile or torch.jit."
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
        for tensor in _tensors(vars(submodule)):
            if id(tensor) not in memo:
                memo[id(tensor)] = convert(tensor)
    return copy.deepcopy(module, memo)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


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

    try:
        return with_tensors(module, convert).eval()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise TypeError(
            f"{_uncopied(module)} cannot be copied, and the network has to be, so that "
            f"yours stays as it is: {error}"
        ) from error


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


def share(module: nn.Module) -> nn.Module:
    """Copy `module` but for its tensors, which the copy shares."""
    return with_tensors(module, lambda tensor: tensor)


def picklable(module: nn.Module) -> nn.Module:
    """Copy `module` for pickling: tensors become NumPy arrays, rebuilt on loading.

    Plain arrays give the same bytes in every process; torch's storages do not.
    """
    others = {id(m): _StoredModule(m) for m in module.modules() if comes_back_broken(m)}
    return with_tensors(module, _Stored, others)


_CHANNELS_LAST = torch.channels_last


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
        is_4d = tensor.dim() == 4 and not tensor.is_contiguous()
        channels_last = is_4d and tensor.is_contiguous(memory_format=_CHANNELS_LAST)
        # Bytes, since NumPy has no bfloat16.
        flat = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
        data = flat.view(torch.uint8).numpy() if len(flat) else np.empty(0, np.uint8)
        layout = (tensor.dtype, tensor.shape, channels_last, is_parameter)
        return _restore, (data, *layout, kind)


def _restore(
    data: NDArray[np.uint8],
    dtype: torch.dtype,
    shape: torch.Size,
    channels_last: bool,
    is_parameter: bool,
    kind: type[Tensor] = Tensor,
) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    if len(data):
        tensor = torch.from_numpy(np.array(data)).view(dtype).reshape(shape)
    if channels_last:
        tensor = tensor.contiguous(memory_format=_CHANNELS_LAST)
    if kind is not Tensor:
        tensor = tensor.as_subclass(kind)
    return nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor


def device_of_weights(module: nn.Module) -> torch.device:
    """Return the device of the module's weights."""
    tensor = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device
