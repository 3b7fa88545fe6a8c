"""Values as JSON and tensors, and back: of a closed set of types.

What JSON has no word for is an object with the key "is", which says what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from .._extractors import Extractor
from ._table import ESTIMATORS, OWN, estimator_parts, make_estimator, parameters_of
from ._tensors import TensorReader, TensorWriter

_INSTEAD = "Use joblib.dump or pickle, in a place that you trust."

# Arrays of these kinds have their elements in the header; of "biuf" they are tensors.
_AS_TEXT = "UO"


class Encoder:
    """Turns values into JSON.

    Parameters
    ----------
    writer : TensorWriter
        Takes the arrays and tensors.
    """

    def __init__(self, writer: TensorWriter) -> None:
        self._writer = writer
        # One tensor in the file for one array, which others keep alive meanwhile.
        self._arrays: dict[int, tuple[NDArray[Any], Tensor]] = {}

    def encode(self, value: Any, name: str) -> Any:
        """Return a value as JSON.

        Parameters
        ----------
        value : object
            See the file's docstring.

        name : str
            Where it stands, for the messages and the names of tensors.

        Raises
        ------
        TypeError
            If a file cannot hold it.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"is": "float", "of": str(value)}
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            text = {"is": "scalar", "dtype": value.dtype.str}
            return text | {"of": self.encode(value.item(), name)}
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        if isinstance(value, Tensor):
            return {"is": "tensor"} | self._writer.add(name, value)
        if isinstance(value, np.dtype) and value.kind in "biufUO":
            return {"is": "dtype", "of": value.str}
        if isinstance(value, (torch.dtype, torch.device)):
            kind = "torch.dtype" if isinstance(value, torch.dtype) else "device"
            return {"is": kind, "of": str(value).removeprefix("torch.")}
        return self._compound(value, name)

    def _compound(self, value: Any, name: str) -> Any:
        kind = type(value)
        if OWN.get(kind.__name__) is kind:
            parts = self.each(parameters_of(value), f"{name}.")
            return {"is": "object", "class": kind.__name__, "parameters": parts}
        if ESTIMATORS.get(kind.__name__) is kind:
            parameters, fitted = estimator_parts(value)
            return {
                "is": "estimator",
                "class": kind.__name__,
                "parameters": self.each(parameters, f"{name}."),
                "fitted": self.each(fitted, f"{name}."),
            }
        if kind in (list, nn.ModuleList):
            return self._items(value, name)
        if kind in (tuple, torch.Size):
            return {"is": "tuple", "of": self._items(value, name)}
        if kind is dict:
            pairs = [
                [self.encode(k, name), self.encode(v, f"{name}.{k}")]
                for k, v in value.items()
            ]
            return {"is": "dict", "of": pairs}
        raise TypeError(_refusal(value, name))

    def each(self, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """Return values by their names, each as JSON."""
        return {k: self.encode(v, f"{prefix}{k}") for k, v in values.items()}

    def _items(self, values: Any, name: str) -> list[Any]:
        return [self.encode(each, f"{name}.{i}") for i, each in enumerate(values)]

    def _array(self, array: NDArray[Any], name: str) -> Any:
        kind = array.dtype.kind
        if kind in _AS_TEXT:
            return {
                "is": "texts",
                "dtype": array.dtype.newbyteorder("=").str,
                "shape": list(array.shape),
                "of": self._items(array.ravel().tolist(), name),
            }
        # Longer floats than torch has are none of its types, either.
        if kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(
                f"{name} cannot be saved: an array of {array.dtype} is neither numbers "
                f"nor text. {_INSTEAD}"
            )
        if id(array) not in self._arrays:
            native = array.astype(array.dtype.newbyteorder("="))
            self._arrays[id(array)] = array, torch.from_numpy(native)
        return {"is": "array"} | self._writer.add(name, self._arrays[id(array)][1])


class Decoder:
    """Turns JSON back into values; makes nothing but what `OWN` and `ESTIMATORS` list.

    Parameters
    ----------
    reader : TensorReader
        Has the arrays and tensors.
    """

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader
        # One array for one tensor, as it was when they were saved.
        self._arrays: dict[str, NDArray[Any]] = {}
        self._known: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "array": self._array,
            "device": lambda note: torch.device(note["of"]),
            "dict": lambda note: dict(map(self.decode, note["of"])),
            "dtype": lambda note: np.dtype(note["of"]),
            "estimator": self._estimator,
            "float": lambda note: float(note["of"]),
            "object": self._object,
            "scalar": lambda note: np.dtype(note["dtype"]).type(
                self.decode(note["of"])
            ),
            "tensor": self._reader.get,
            "texts": self._texts,
            "torch.dtype": self._torch_dtype,
            "tuple": lambda note: tuple(map(self.decode, note["of"])),
        }

    def decode(self, note: Any) -> Any:
        """Return the value of what `Encoder.encode` has returned.

        Raises
        ------
        ValueError
            If it is a kind of value, or a class, that no file may name.
        """
        if isinstance(note, list):
            return [self.decode(each) for each in note]
        if not isinstance(note, dict):
            return note
        if note["is"] not in self._known:
            raise ValueError(f"{note['is']!r:.60} is no kind of value")
        return self._known[note["is"]](note)

    def each(self, notes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values by their names."""
        return {name: self.decode(note) for name, note in notes.items()}

    def _array(self, note: Mapping[str, Any]) -> NDArray[Any]:
        array = self._reader.get(note).numpy()
        return self._arrays.setdefault(note["tensor"], array)

    def _object(self, note: Mapping[str, Any]) -> Any:
        if note["class"] not in OWN:
            raise ValueError(f"it names the class {note['class']!r:.60}")
        return OWN[note["class"]](**self.each(note["parameters"]))

    def _estimator(self, note: Mapping[str, Any]) -> Any:
        if note["class"] not in ESTIMATORS:
            raise ValueError(f"it names the estimator {note['class']!r:.60}")
        parts = self.each(note["parameters"]), self.each(note["fitted"])
        return make_estimator(note["class"], *parts)

    def _texts(self, note: Mapping[str, Any]) -> NDArray[Any]:
        array = np.empty(len(note["of"]), dtype=np.dtype(note["dtype"]))
        array[:] = [self.decode(each) for each in note["of"]]
        return array.reshape(note["shape"])

    def _torch_dtype(self, note: Mapping[str, Any]) -> torch.dtype:
        found = {"float32": torch.float32, "float64": torch.float64}
        return found[note["of"]]


def _refusal(value: Any, name: str) -> str:
    """Say why a value cannot be saved, and what to do instead."""
    what = f"{name}={value!r:.80} cannot be saved"
    if isinstance(value, Extractor):
        return f"{what}: of extractors only a TorchExtractor is. {_INSTEAD}"
    if isinstance(value, BaseEstimator):
        known = ", ".join(sorted(ESTIMATORS))
        return f"{what}: of scikit-learn's estimators only {known} are. {_INSTEAD}"
    if isinstance(value, np.random.RandomState):
        return f"{what}: pass a whole number in its place, or None."
    if hasattr(value, "split"):
        return f"{what}: pass a number of folds or a share in its place. {_INSTEAD}"
    if callable(value) and not isinstance(value, nn.Module):
        return f"{what}: it is code, and a file holds none. {_INSTEAD}"
    return f"{what}: a file does not hold a {type(value).__name__}. {_INSTEAD}"
