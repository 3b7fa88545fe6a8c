"""Hashes of what objects and rows are, the same in every process."""

from __future__ import annotations

import functools
import hashlib
import pickle
import threading
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

import joblib.hashing
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._arrays import SampleRows, row_chunks, to_numpy
from ._code import class_content, function_content, installed_name


def content_hash(value: Any) -> str:
    """Hash a value like ``joblib.hash``, but for classes, functions and tensors.

    Classes and functions of installed packages are hashed by their names and the
    package's version, all others by their code and what it refers to: bases, members,
    defaults, closures, globals. So the hash changes with the code, and is the same
    where it cannot be imported: in a worker, say, that was sent a network whose class
    stands in a notebook. Tensors are hashed by their numbers; torch's own pickles
    differ between processes.

    Raises
    ------
    TypeError
        If it holds, or its code refers to, what cannot be pickled.
    """
    try:
        return _Hasher("md5").hash(value)
    except (TypeError, RuntimeError, pickle.PicklingError) as error:
        raise TypeError(
            "Whether an extractor or a pooling has changed cannot be told: it holds, "
            f"or its code refers to, what cannot be hashed ({error}). Give the "
            "extractor a fingerprint, a string that names its content, or do without "
            "memory=."
        ) from error


class _Hasher(joblib.hashing.NumpyHasher):
    dispatch = joblib.hashing.NumpyHasher.dispatch.copy()

    def __init__(self, hash_name: str) -> None:
        super().__init__(hash_name)
        self._code: list[Any] = []

    def dump(self, obj: Any) -> None:
        super().dump(obj)
        # Afterwards, one by one: functions and classes refer to each other in circles,
        # and in chains longer than Python's stack.
        for code in self._code:
            is_class = isinstance(code, type)
            self.save(class_content(code) if is_class else function_content(code))

    def save(self, obj: Any) -> None:
        if isinstance(obj, MethodType):
            obj = ("method", obj.__func__, obj.__self__)
        if isinstance(obj, Tensor) and type(obj) not in self.dispatch:
            obj = (type(obj), obj.as_subclass(Tensor), getattr(obj, "__dict__", {}))
        super().save(obj)

    def memoize(self, obj: Any) -> None:
        # Equal tuples in a file may be one object or two, as the compiler likes.
        if not isinstance(obj, tuple):
            super().memoize(obj)

    def _batch_setitems(self, items: Any, *args: Any) -> None:
        # In their order: networks and loops go by it. joblib sorts.
        super(joblib.hashing.Hasher, self)._batch_setitems(items, *args)

    def save_set(self, obj: Any) -> None:
        self.save((type(obj), sorted(obj, key=_place_in_a_set)))

    def save_code(self, obj: Any) -> None:
        self.memoize(obj)
        name = installed_name(obj)
        self.save(name or obj.__name__)
        if name is None:
            self._code.append(obj)

    def save_global(self, obj: Any, name: str | None = None, **_: Any) -> None:
        if isinstance(obj, type):
            self.save_code(obj)
            return
        wrapped = getattr(obj, "__wrapped__", None)  # of functools.cache
        self.save((getattr(obj, "__module__", None), name or obj.__qualname__, wrapped))

    def save_module(self, obj: ModuleType) -> None:
        self.save(("module", obj.__name__))

    def save_property(self, obj: property) -> None:
        self.save((property, obj.fget, obj.fset, obj.fdel))

    def save_method_in_class(self, obj: Any) -> None:
        self.save((type(obj), obj.__func__))

    def save_cached_property(self, obj: functools.cached_property[Any]) -> None:
        self.save((type(obj), obj.func))

    def save_mapping(self, obj: MappingProxyType[Any, Any]) -> None:
        self.save(dict(obj))

    def save_lock(self, obj: Any) -> None:
        self.save(type(obj).__name__)

    def save_by_its_text(self, obj: Any) -> None:
        self.save((type(obj).__name__, str(obj)))

    def save_tensor(self, obj: Tensor) -> None:
        self.save((str(obj.dtype), to_numpy(obj.detach())))

    def save_script(self, obj: torch.ScriptObject) -> None:
        self.save(obj.__getstate__())

    def save_script_function(self, obj: torch.jit.ScriptFunction[Any, Any]) -> None:
        self.save(str(obj.inlined_graph))

    dispatch[type] = save_code
    dispatch[FunctionType] = save_code
    dispatch[BuiltinFunctionType] = save_global
    dispatch[ModuleType] = save_module
    dispatch[property] = save_property
    dispatch[staticmethod] = save_method_in_class
    dispatch[classmethod] = save_method_in_class
    dispatch[functools.cached_property] = save_cached_property
    dispatch[MappingProxyType] = save_mapping
    dispatch[type(threading.Lock())] = save_lock
    dispatch[type(threading.RLock())] = save_lock
    dispatch[torch.finfo] = save_by_its_text
    dispatch[torch.iinfo] = save_by_its_text
    dispatch[type(torch.ops.aten.add)] = save_by_its_text
    dispatch[type(torch.ops.aten.add.Tensor)] = save_by_its_text
    dispatch[set] = save_set
    dispatch[frozenset] = save_set
    dispatch[Tensor] = save_tensor
    dispatch[nn.Parameter] = save_tensor
    dispatch[torch.ScriptObject] = save_script
    dispatch[torch.jit.ScriptFunction] = save_script_function


def _place_in_a_set(element: Any) -> str:
    """Return what orders the elements of a set alike in every process."""
    hasher = _Hasher("md5")
    super(_Hasher, hasher).dump(element)  # code by its name is enough, and no circle
    hasher._hash.update(hasher.stream.getvalue())
    place: str = hasher._hash.hexdigest()
    return place


def row_hashes(X: SampleRows) -> NDArray[np.uint64]:
    """Return 64 bits for each row that depend on its content alone.

    Rows that compare equal have equal hashes, whatever their byte order and layout in
    memory, and whichever zeros are negative.
    """
    native = X.dtype.newbyteorder("=")
    zero = native.type(0) if X.dtype.kind in "fc" else None
    digests = b"".join(
        hashlib.blake2b(_canonical(row, native, zero), digest_size=8).digest()
        for part in row_chunks(X)
        for row in part
    )
    return np.frombuffer(digests, dtype=np.uint64)


def _canonical(row: NDArray[Any], native: np.dtype[Any], zero: Any) -> bytes:
    row = row.astype(native, copy=False)
    # -0.0 + 0.0 is 0.0.
    return (row if zero is None else row + zero).tobytes()
