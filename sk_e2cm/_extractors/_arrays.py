"""Between arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def to_tensor(X: ArrayLike) -> Tensor:
    """Copy an array, whatever its strides and byte order, into a tensor."""
    array = np.array(X, order="C")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def to_numpy(output: Tensor) -> NDArray[Any]:
    """Copy a tensor of any kind into an array."""
    if output.is_quantized:
        output = output.dequantize()
    if output.dtype is torch.bfloat16:  # unknown to NumPy
        output = output.float()
    return output.cpu().numpy().copy()
