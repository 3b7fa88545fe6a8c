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
    """Copy an array, whatever its strides and byte order, into a tensor."""
    array = np.array(X, order="C")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def to_numpy(output: Tensor) -> NDArray[Any]:
    """Copy a tensor into an array, bfloat16 and quantised ones as floats."""
    if output.is_quantized:
        output = output.dequantize()
    if output.dtype is torch.bfloat16:  # unknown to NumPy
        output = output.float()
    return output.cpu().numpy().copy()


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


def float_dtype(features: NDArray[Any]) -> np.dtype[Any]:
    """Return the type of floats that holds them; other batches may have fractions."""
    return np.result_type(features.dtype, np.float32)


def matmul(a: Floats, b: Floats) -> Floats:
    """Return a @ b, computed on torch's threads.

    Between the stages of a network NumPy's own would be in their way: both pools
    keep the cores busy while they wait.
    """
    # Loaded means may be memory-mapped, and torch warns of what it must not write.
    a, b = (x if x.flags.writeable else x.copy() for x in (a, b))
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
