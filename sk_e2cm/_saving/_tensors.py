"""Tensors in a file: what is noted of each, and how it is put back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._extractors._torch import is_dense, tensors_in

# The types of numbers that a file may hold, under their names in it.
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return all tensors of a network: parameters, buffers and plain attributes.

    Those that are tied come under each of their names.
    """
    found: dict[str, Tensor] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        own = vars(module)
        parts = dict(own)
        for kind in ("_parameters", "_buffers"):
            parts |= parts.pop(kind, {})
        parts.pop("_modules", None)
        for name, value in parts.items():
            full = f"{path}.{name}" if path else name
            for keys, tensor in tensors_in(value):
                found[full + "".join(f"[{key!r}]" for key in keys)] = tensor
    return found


class TensorWriter:
    """Collects tensors under the names that they have in the file.

    Attributes
    ----------
    tensors : dict of str to tensor
        Contiguous, and on the CPU.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        # The tensors too, so that no other gets the id of one of them.
        self._known: dict[int, tuple[Tensor, dict[str, Any]]] = {}

    def add(self, name: str, tensor: Tensor) -> dict[str, Any]:
        """Add a tensor, unless it has been; return what the header says of it.

        Raises
        ------
        ValueError
            If it is not a plain one, dense in memory, of numbers that a file holds.
        """
        if id(tensor) not in self._known:
            _check_plain(name, tensor)
            while name in self.tensors:  # two of the same name, in another place
                name += "'"
            note = {
                "tensor": name,
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
            }
            # Convolutions add up in another order where images are laid out
            # otherwise. Of one channel there are two ways to say so.
            stride = tensor.stride()
            is_usual = stride == _usual_stride(tensor.shape)
            if not is_usual and is_dense(tensor.shape, stride):
                note["stride"] = list(stride)
            # A copy of its own: files hold no memory that tensors share.
            flat = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            self.tensors[name] = flat
            self._known[id(tensor)] = tensor, note
        return self._known[id(tensor)][1]


class TensorReader:
    """Finds tensors of a file by what the header says of them.

    Parameters
    ----------
    tensors : dict of str to tensor
        As in the file.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: dict[str, Tensor] = {}

    def get(self, note: Mapping[str, Any]) -> Tensor:
        """Return a tensor as it lay in memory, the same one for the same name.

        Raises
        ------
        ValueError
            If the file has another tensor than the header says.
        """
        name = note["tensor"]
        if name not in self._made:
            self._made[name] = self._laid_out(name, note)
        return self._made[name]

    def _laid_out(self, name: str, note: Mapping[str, Any]) -> Tensor:
        if name not in self._tensors:
            raise ValueError(f"the tensor {name!r} is missing")
        tensor = self._tensors[name]
        shape, dtype = tuple(note["shape"]), _DTYPES[note["dtype"]]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ValueError(
                f"the tensor {name!r} is of {tensor.dtype} and shape "
                f"{tuple(tensor.shape)}, and not of {dtype} and shape {shape}"
            )
        stride = tuple(note.get("stride", _usual_stride(shape)))
        if "stride" in note and not is_dense(shape, stride):
            raise ValueError(f"the tensor {name!r} cannot lie in memory so: {stride}")
        # Never in the memory of the file, which may be written to.
        return torch.empty_strided(shape, stride, dtype=dtype).copy_(tensor)


def _usual_stride(shape: Any) -> tuple[int, ...]:
    sizes = [max(size, 1) for size in shape]
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def _check_plain(name: str, tensor: Tensor) -> None:
    kind = type(tensor)
    if kind not in (Tensor, nn.Parameter, nn.Buffer):
        raise ValueError(
            f"{name} cannot be saved: it is a {kind.__name__}, whose numbers lie in "
            "tensors of its own. Use joblib.dump or pickle."
        )
    if tensor.layout is not torch.strided or tensor.dtype not in _NAMES:
        what = tensor.dtype if tensor.layout is torch.strided else tensor.layout
        raise ValueError(
            f"{name} cannot be saved: a file holds dense tensors of plain numbers, and "
            f"this one is of {what}. Use joblib.dump or pickle."
        )
