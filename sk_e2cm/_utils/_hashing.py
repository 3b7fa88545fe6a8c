"""Hashes of what objects and rows are, the same in every process."""

from __future__ import annotations

import hashlib
import marshal
from types import BuiltinFunctionType, FunctionType
from typing import Any

import joblib.hashing
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._arrays import to_numpy


def content_hash(value: Any) -> str:
    """Hash a value like ``joblib.hash``, but for classes, functions and tensors.

    Classes are hashed by their names and functions by their code, so the hash is the
    same where they cannot be imported: in a worker, say, that was sent a network whose
    class stands in a notebook. Tensors are hashed by their numbers; torch's own
    pickles differ between processes.
    """
    return _Hasher("md5").hash(value)


class _Hasher(joblib.hashing.NumpyHasher):
    dispatch = joblib.hashing.NumpyHasher.dispatch.copy()

    def __init__(self, hash_name: str) -> None:
        super().__init__(hash_name)
        self._open: list[FunctionType] = []

    def save_global(self, obj: Any, name: str | None = None, **_: Any) -> None:
        self.save((getattr(obj, "__module__", None), name or obj.__qualname__))

    def save_function(self, obj: FunctionType) -> None:
        # By what it does: a lambda has no name, and a name may be given anew.
        what: Any = (
            marshal.dumps(obj.__code__, 2),
            obj.__defaults__,
            obj.__kwdefaults__,
        )
        if obj in self._open:  # a function that refers to itself
            self.save(what)
            return
        self._open.append(obj)
        self.save((what, [cell.cell_contents for cell in obj.__closure__ or ()]))
        self._open.pop()

    def save_tensor(self, obj: Tensor) -> None:
        self.save((str(obj.dtype), to_numpy(obj.detach())))

    def save_script(self, obj: torch.ScriptObject) -> None:
        self.save(obj.__getstate__())

    dispatch[type] = save_global
    dispatch[FunctionType] = save_function
    dispatch[BuiltinFunctionType] = save_global
    dispatch[Tensor] = save_tensor
    dispatch[nn.Parameter] = save_tensor
    dispatch[torch.ScriptObject] = save_script


def row_hashes(X: NDArray[Any]) -> NDArray[np.uint64]:
    """Return 64 bits for each row that depend on its content alone."""
    digests = b"".join(
        hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in X
    )
    return np.frombuffer(digests, dtype=np.uint64)
