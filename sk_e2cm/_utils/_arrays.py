"""Between arrays and tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from torch import Tensor

Floats = NDArray[np.float64]
Features = NDArray[np.floating]

_FLOATS_OF_NUMPY = (torch.float16, torch.float32, torch.float64)

# Probabilities of half precision, or rounded to two digits, are off by less.
_FAR_FROM_ONE = 0.02

# Samples of so many bytes are looked at together.
_PART_BYTES = 2**22


class SomeRows:
    """Some rows of an array, copied no sooner than they are asked for.

    The array may be larger than memory.

    Parameters
    ----------
    X : ndarray of shape (n_samples, ...)
        The array.

    rows : ndarray of shape (n_rows,)
        Which of its rows these are.
    """

    def __init__(self, X: NDArray[Any], rows: NDArray[np.intp]) -> None:
        self.X = X
        self.rows = rows
        self.shape = len(rows), *X.shape[1:]
        self.dtype = X.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | NDArray[np.intp]) -> NDArray[Any]:
        some: NDArray[Any] = self.X[self.rows[which]]
        return some


SampleRows = NDArray[Any] | SomeRows


def take_rows(X: NDArray[Any], which: NDArray[np.bool_] | slice) -> SampleRows:
    """Select rows by a mask or a slice; nothing is copied yet."""
    if isinstance(which, slice):
        return X[which]
    return SomeRows(X, np.flatnonzero(which))


def row_chunks(X: SampleRows) -> Iterator[NDArray[Any]]:
    """Yield all rows, some at a time: what is computed of all may fill the memory."""
    size = max(_PART_BYTES // max(X[:1].nbytes, 1), 1)
    for start in range(0, len(X), size):
        yield X[start : start + size]


def is_lazy(X: Any) -> bool:
    """Tell arrays whose numbers lie elsewhere, as zarr's, from those in memory.

    Those in memory, as tensors too, can be handed on by ``__dlpack__``, or are tables
    or sparse. What has one axis only is no array of samples.
    """
    if hasattr(X, "__dlpack__") or hasattr(X, "columns") or issparse(X):
        return False
    shape = getattr(X, "shape", None)
    is_array = hasattr(X, "dtype") and hasattr(X, "__getitem__")
    return is_array and isinstance(shape, tuple) and len(shape) > 1


def affordable(n_bytes_each: float, *, fewest: int) -> int:
    """Return how many rows of so many bytes fit into scikit-learn's working memory.

    No fewer than `fewest`, however small it is.
    """
    budget = sklearn.get_config()["working_memory"] * 2**20
    return max(int(min(budget / max(n_bytes_each, 1), 2**62)), fewest)


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
    """Copy a tensor into an array, quantised ones and those of few bits as floats."""
    if output.is_quantized:
        output = output.dequantize()
    if output.is_floating_point() and output.dtype not in _FLOATS_OF_NUMPY:
        output = output.float()
    return output.cpu().resolve_conj().resolve_neg().numpy().copy()


def to_array(values: Any, name: str) -> NDArray[Any]:
    """Return what users pass as an array; tensors are copied to the CPU.

    Raises
    ------
    TypeError
        If it is sparse.

    ValueError
        If its parts differ in shape, or if values are missing or hidden. `name` says
        of which parameter.
    """
    if issparse(values):
        raise TypeError(
            f"{name} is sparse, and a dense array is needed: {name}.toarray()."
        )
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{name} has masked values. Fill them in: {name}.filled(...).")
    values = _without_tensors(values, name)
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(
            f"{name} has parts of different shapes: {values!r:.60}."
        ) from None


def as_numbers(values: Any, name: str) -> NDArray[Any]:
    """Return an array of real numbers that torch can hold, in the same memory if so.

    Raises
    ------
    TypeError, ValueError
        If there are other things than numbers. `name` says in which parameter.
    """
    array = to_array(values, name)
    if array.dtype.kind == "O":
        return _objects_as_floats(array, name)
    if array.dtype.kind == "c":
        raise ValueError(
            f"Complex data not supported: {name} has numbers of type {array.dtype}."
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has values of type {array.dtype}, and numbers are needed, got "
            f"{values!r:.60}."
        )
    # Of numbers longer than these torch knows nothing.
    return array.astype(np.float64) if array.dtype.itemsize > 8 else array


def as_proba(values: Any, name: str, *axes: str) -> Floats:
    """Return probabilities with these axes, the last of which has one for each class.

    Raises
    ------
    ValueError
        If there are other axes, or if rows are no probabilities.
    """
    proba = as_numbers(values, name).astype(np.float64, copy=False)
    if proba.ndim != len(axes) or 0 in proba.shape:
        raise ValueError(
            f"{name} must have the shape ({', '.join(axes)}), got {proba.shape}."
        )
    # Negated, so that NaN is refused too.
    if not (proba.min() >= 0 and abs(proba.sum(axis=-1) - 1).max() <= _FAR_FROM_ONE):
        raise ValueError(
            f"{name} has rows that are no probabilities: numbers from 0 to 1 with sum "
            "1 over the classes. Of logits take the softmax."
        )
    return proba


def refuse_without_numbers(tensor: Tensor, name: str) -> None:
    """Refuse tensors that are no dense array of numbers.

    Raises
    ------
    TypeError
        If it is sparse.

    ValueError
        If it is nested, or on the device "meta".
    """
    if tensor.is_nested:
        raise ValueError(
            f"{name} is a nested tensor, whose samples differ in length. Bring them to "
            "one length: torch.nested.to_padded_tensor."
        )
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{name} is a sparse tensor, and a dense one is needed: {name}.to_dense()."
        )
    if tensor.is_meta:
        raise ValueError(f"{name} is a tensor on the device 'meta', without numbers.")


def _without_tensors(values: Any, name: str) -> Any:
    """Return arrays in the place of tensors, in lists too."""
    if isinstance(values, Tensor):
        refuse_without_numbers(values, name)
        return to_numpy(values.detach())
    if isinstance(values, (list, tuple)):
        return [_without_tensors(each, name) for each in values]
    return values


def _objects_as_floats(array: NDArray[Any], name: str) -> Floats:
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} must hold numbers: {error}.") from None


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
    is_whole = not tensor.is_floating_point() and not tensor.is_complex()
    needs_double = is_whole and tensor.itemsize >= 4
    return tensor.double() if needs_double else tensor.float()


def resolution(values: Any) -> float:
    """Return how far apart neighbouring numbers of a type are, relative to their size.

    Zero for whole numbers, which do not round.
    """
    dtype = values.dtype
    if isinstance(dtype, torch.dtype):
        return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def convert(
    tensor: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    layout: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """Copy a tensor to a device and type; refuse to lose more than rounding does."""
    refuse_without_numbers(tensor, "X")
    if tensor.is_complex():
        raise ValueError("X has complex numbers, which the network does not take.")
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    copied = _to_device(tensor, device)
    is_new = copied is not tensor
    converted = copied.to(dtype, copy=not is_new, memory_format=layout)
    kept = tensor.is_floating_point() == dtype.is_floating_point or tensor.itemsize == 1
    if not kept and not torch.equal(converted.to(tensor.device, tensor.dtype), tensor):
        raise ValueError(
            f"X has numbers of type {tensor.dtype} that {dtype}, which the network "
            "takes, cannot hold: fractions in the place of token ids, or whole numbers "
            "too large."
        )
    return converted


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; a GPU goes on computing meanwhile, and gets bytes as bytes."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def matmul(a: Floats, b: Floats) -> Floats:
    """Return a @ b, computed on torch's threads.

    Between the stages of a network NumPy's own would be in their way: both pools
    keep the cores busy while they wait.
    """
    # Loaded means may be memory-mapped, and torch warns of what it must not write.
    a, b = (x if x.flags.writeable else x.copy() for x in (a, b))
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def largest(X: SampleRows) -> float:
    """Return the largest absolute value."""
    return max(max(float(part.max()), -float(part.min())) for part in row_chunks(X))
