"""A twin in double precision, in which rounding is too small to hide a mix-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ._freeze import like, with_tensors
from ._staged import StagedNetwork

_LOWER = (torch.float32, torch.float16, torch.bfloat16)


def in_double(network: StagedNetwork) -> StagedNetwork:
    """Return a copy whose weights, constants and input are in double precision."""
    root = with_tensors(network.root, lambda t: like(t, _doubled(t)))
    dtype = torch.float64 if network.dtype in _LOWER else network.dtype
    return replace(network, root=root, dtype=dtype)


class InDouble(TorchDispatchMode):
    """A context in which all that is computed is in double precision.

    Networks ask for single or half precision by name, in casts and where they make
    tensors.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs = tree_map(_wider, (tuple(args), dict(kwargs or {})))
        return tree_map(_doubled, func(*args, **kwargs))


def _wider(value: Any) -> Any:
    is_lower = isinstance(value, torch.dtype) and value in _LOWER
    return torch.float64 if is_lower else value


def _doubled(value: Any) -> Any:
    is_lower = isinstance(value, Tensor) and value.dtype in _LOWER
    return value.double() if is_lower else value
