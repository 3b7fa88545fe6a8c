"""Between arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Features = NDArray[np.floating]


def to_tensor(X: ArrayLike) -> Tensor:
    """Return a tensor in the memory of an array, or of a copy where it must be.

    torch warns of memory that it must not write to, and knows neither negative strides
    nor foreign byte orders.
    """
    array = np.asarray(X)
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = np.array(array, order="C")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def to_numpy(output: Tensor) -> NDArray[Any]:
    """Copy a tensor into an array, bfloat16 and quantised ones as floats."""
    if output.is_quantized:
        output = output.dequantize()
    if output.dtype is torch.bfloat16:  # unknown to NumPy
        output = output.float()
    return output.cpu().numpy().copy()


def as_floats(values: Any) -> Tensor:
    """Return a tensor of single or double precision, in the same memory if it can be.

    Half precision becomes single, and whole numbers what holds them.
    """
    if isinstance(values, Tensor):
        return _tensor_as_floats(values)
    array = np.asarray(values)
    single = np.result_type(array.dtype, np.float32) == np.float32
    return to_tensor(array.astype(np.float32 if single else np.float64, copy=False))


def _tensor_as_floats(tensor: Tensor) -> Tensor:
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    if tensor.is_quantized:
        return tensor.dequantize()
    needs_double = tensor.dtype in (torch.int32, torch.int64)
    return tensor.double() if needs_double else tensor.float()


def resolution(values: Any) -> float:
    """Return how far apart neighbouring numbers of a type are, relative to their size.

    Zero for whole numbers, which do not round.
    """
    dtype = values.dtype
    if isinstance(dtype, torch.dtype):
        return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def convert(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy a tensor to a device and type; refuse to lose more than rounding does."""
    if tensor.is_complex():
        raise ValueError("X has complex numbers, which the network does not take.")
    converted = tensor.to(device, dtype, copy=True)
    kept = tensor.is_floating_point() == dtype.is_floating_point or tensor.itemsize == 1
    if not kept and not torch.equal(converted.to(tensor.device, tensor.dtype), tensor):
        raise ValueError(
            f"X has numbers of type {tensor.dtype} that {dtype}, which the network "
            "takes, cannot hold: fractions in the place of token ids, or whole numbers "
            "too large."
        )
    return converted


def matmul(a: Floats, b: Floats) -> Floats:
    """Return a @ b, computed on torch's threads.

    Between the stages of a network NumPy's own would be in their way: both pools
    keep the cores busy while they wait.
    """
    # Loaded means may be memory-mapped, and torch warns of what it must not write.
    a, b = (x if x.flags.writeable else x.copy() for x in (a, b))
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
