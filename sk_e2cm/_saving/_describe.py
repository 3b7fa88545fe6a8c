"""Attributes and code as short texts, by which a later process can compare them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import sys
from collections.abc import Collection, Iterator, Mapping, Set
from enum import Enum
from types import (
    BuiltinFunctionType,
    EllipsisType,
    FunctionType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._utils._arrays import to_numpy
from .._utils._code import class_content, function_content, is_installed
from ._syntax import syntax_of

_PLAIN = (
    NoneType,
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    slice,
    range,
    EllipsisType,
)

# A network that is made anew has been through it, and what it made is compared.
_NOT_COMPARED = {"__init__", "__qualname__"}


class Describer:
    """Describes values, and notes the code of users that they refer to.

    Code of installed packages is named, and not looked into: its text changes from
    version to version, what it does hardly ever.

    Parameters
    ----------
    parts : collection of object, default=()
        Modules and tensors of a network: these are described by their kind, since
        their numbers are not to be compared.

    Attributes
    ----------
    code : dict of str to str
        A digest of each function, method and constant of a class met so far.
    """

    def __init__(self, parts: Collection[Any] = ()) -> None:
        self.code: dict[str, str] = {}
        self._parts = {id(part) for part in parts}
        # Kept, so that no other object gets the id of one of them.
        self._noted: dict[int, Any] = {}

    def note(self, code: Any) -> None:
        """Note the code of a function or class, and all that it refers to."""
        if id(code) in self._noted or is_installed(_module_of(code)):
            return
        self._noted[id(code)] = code
        if isinstance(code, type):
            self._note_class(code)
        elif isinstance(code, FunctionType):
            self._note_function(code, code.__name__)

    def text(self, value: Any) -> str:
        """Return what a value is, the same in every process."""
        return self._text(value, frozenset())

    def _note_class(self, cls: type) -> None:
        if issubclass(cls, Enum):  # the rest of it is Python's
            self._keep(cls.__name__, self.text({each.name: each.value for each in cls}))
            return
        _, bases, own = class_content(cls)
        self._keep(cls.__name__, self.text(bases))
        for name, member in own.items():
            functions = list(_functions_of(member))
            if name in _NOT_COMPARED or _is_generated(cls, name, functions):
                continue
            full = f"{cls.__name__}.{name}"
            for function in functions:
                self._noted[id(function)] = function
                self._note_function(function, full)
            if not functions:
                self._keep(full, self.text(member))

    def _note_function(self, function: FunctionType, name: str) -> None:
        inner: Any = inspect.unwrap(function)
        if not isinstance(inner, FunctionType):
            self._keep(name, self.text(inner))
            return
        code, *around = function_content(inner)
        said, kind = syntax_of(inner), "source"
        if said is None:
            said = self.text(code)
            kind = f"bytecode of Python {sys.version_info[0]}.{sys.version_info[1]}"
        self._keep(name, said + self.text(around), kind)

    def _keep(self, name: str, content: str, kind: str = "source") -> None:
        same = sum(known.partition(" (")[0] == name for known in self.code)
        # Two classes may be called the same.
        place = f"{name} ({same + 1})" if same else name
        self.code[place] = f"{kind}: {_digest(content.encode())}"

    def _text(self, value: Any, inside: frozenset[int]) -> str:
        if isinstance(value, Enum):
            return str(value)
        if isinstance(value, np.generic):
            return repr(value.item())
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, (Tensor, np.ndarray)):
            return self._array_text(value)
        if id(value) in inside:
            return f"the same {type(value).__name__}"
        inside |= {id(value)}
        if isinstance(value, Mapping):
            pairs = [
                f"{self._text(key, inside)}: {self._text(item, inside)}"
                for key, item in value.items()
            ]
            return f"{{{', '.join(pairs)}}}"
        if isinstance(value, (list, tuple, Set)):
            parts = [self._text(each, inside) for each in value]
            return f"({', '.join(sorted(parts) if isinstance(value, Set) else parts)})"
        return self._other_text(value, inside)

    def _other_text(self, value: Any, inside: frozenset[int]) -> str:
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return f"partial{self._text(parts, inside)}"
        if isinstance(value, MethodType):
            return self._text((value.__func__, value.__self__), inside)
        if isinstance(value, ModuleType):  # what is used of a user's is noted itself
            return value.__name__ if is_installed(value.__name__) else "module"
        if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
            self.note(value)
            return value.__name__
        if isinstance(value, torch.dtype):
            return str(value)
        return self._object_text(value, inside)

    def _array_text(self, value: Any) -> str:
        if isinstance(value, Tensor):
            if id(value) in self._parts:
                return f"a tensor of shape {tuple(value.shape)}"
            value = value.detach()
            dtype = str(value.dtype)
            numbers = to_numpy(value)
        else:
            dtype, numbers = str(value.dtype), value
        is_object = numbers.dtype.kind == "O"
        content = repr(numbers.tolist()).encode() if is_object else numbers.tobytes()
        return f"numbers of {dtype}, {numbers.shape}, {_digest(content)}"

    def _object_text(self, value: Any, inside: frozenset[int]) -> str:
        kind = type(value)
        if id(value) in self._parts or isinstance(value, torch.device):
            return kind.__name__
        self.note(kind)
        own = getattr(value, "__dict__", {})
        if isinstance(value, nn.Module):  # registered nowhere, so that it is not saved
            own = dict(value.named_parameters()) | dict(value.named_buffers())
        elif is_installed(kind.__module__):
            own = {k: v for k, v in own.items() if isinstance(v, (Tensor, np.ndarray))}
        return f"{kind.__name__}{self._text(own, inside)}"


def _module_of(code: Any) -> str:
    return getattr(code, "__module__", None) or ""


def _functions_of(member: Any) -> Iterator[FunctionType]:
    """Yield the functions of users that a member of a class is made of."""
    candidates = [member]
    if isinstance(member, property):
        candidates = [member.fget, member.fset, member.fdel]
    elif isinstance(member, functools.cached_property):
        candidates = [member.func]
    elif isinstance(member, (staticmethod, classmethod)):
        candidates = [member.__func__]
    for each in candidates:
        if isinstance(each, FunctionType) and not is_installed(_module_of(each)):
            yield each


def _is_generated(cls: type, name: str, functions: Collection[FunctionType]) -> bool:
    """Tell what Python has made of the fields of a data class."""
    is_special = dataclasses.is_dataclass(cls) and name.startswith("__")
    return is_special and all(
        inspect.unwrap(function).__code__.co_filename == "<string>"
        for function in functions
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
