"""Samples, labels and weights of every kind, and what should come of them.

A variant is what is passed in the place of a plain array, and a verdict: "same", it
says the same and is to be answered alike; "wrong", it is to be refused; "either".
"""

from __future__ import annotations

import collections
import decimal
import fractions
import os
import tempfile
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from scipy import sparse
from torch.utils.data import TensorDataset

from .networks import N_TOKENS, Made


class Variant(NamedTuple):
    name: str
    value: Any
    verdict: str


class Samples(NamedTuple):
    X: np.ndarray
    y: np.ndarray


def make_samples(
    rng: Generator, made: Made, n: int | None = None, *, spread: float = 1.0
) -> Samples:
    """Return samples of a network's family; each class has four at least."""
    n = int(rng.integers(24, 90)) if n is None else n
    y = rng.permutation(np.arange(n) % made.n_classes)
    if made.family == "tokens":
        (length,) = made.shape
        X = rng.integers(2, N_TOKENS, (n, length))
        own = rng.random((n, length)) < 0.4
        X = np.where(own, 3 + y[:, None], X)
        X[:, 0] = 1
        padded = np.arange(length) >= rng.integers(2, length + 1, (n, 1))
        return Samples(np.where(padded, 0, X), y)
    centres = rng.normal(size=(made.n_classes, *made.shape))
    X = 0.8 * centres[y] + spread * rng.normal(size=(n, *made.shape))
    double = made.dtype == torch.float64
    return Samples(X.astype(np.float64 if double else np.float32), y)


def make_rows(rng: Generator, n: int | None = None) -> Samples:
    """Return plain rows of numbers for estimators without a network."""
    n = int(rng.integers(24, 120)) if n is None else n
    n_classes, width = int(rng.integers(2, 5)), int(rng.integers(2, 7))
    y = rng.permutation(np.arange(n) % n_classes)
    centres = rng.normal(size=(n_classes, width))
    return Samples(1.5 * centres[y] + rng.normal(size=(n, width)), y)


def _frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def _memmap(X: np.ndarray) -> np.ndarray:
    handle, name = tempfile.mkstemp()
    os.close(handle)
    X.tofile(name)
    mapped = np.memmap(name, X.dtype, "r", shape=X.shape)
    os.unlink(name)  # stays mapped
    return mapped


# Other numbers of bits, and so other folds: equal only where nothing is calibrated.
CONVERTED = (
    "list",
    "tuple",
    "double",
    "object of numbers",
    "int32",
    "uint8",
    "whole floats",
)


class OnlyArray:
    """Has nothing but ``__array__``, as containers of other libraries."""

    def __init__(self, X: np.ndarray) -> None:
        self.X = X

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.X, dtype)


class OfArrays(np.ndarray):
    """A subclass of arrays."""


def with_item(X: np.ndarray, value: Any) -> np.ndarray:
    X = X.copy()
    X[(len(X) // 2, *(0,) * (X.ndim - 1))] = value
    return X


def x_variants(rng: Generator, X: np.ndarray) -> list[Variant]:
    """Return what may stand in the place of X, an array of float or int64."""
    whole, tensor = X.dtype.kind == "i", torch.from_numpy(X.copy())
    wide = np.zeros((len(X), *X.shape[1:-1], X.shape[-1] * 2), X.dtype)
    wide[..., ::2] = X
    reals = X.astype(np.float64)
    same = {
        "big endian": X.astype(X.dtype.newbyteorder(">")),
        "Fortran": np.asfortranarray(X),
        "negative strides": X[::-1].copy()[::-1],
        "every other column": wide[..., ::2],
        "read-only": _frozen(X),
        "memory map": _memmap(X),
        "list": X.tolist(),
        "list of arrays": list(X),
        "tuple": tuple(X.tolist()),
        "list of tensors": list(tensor),
        "tensor": tensor,
        "strided tensor": torch.from_numpy(wide)[..., ::2],
        "subclass": X.view(OfArrays),
        "only __array__": OnlyArray(X),
    }
    if not whole:
        same["tensor with gradient"] = tensor.clone().requires_grad_()
        same["double"] = reals
        same["object of numbers"] = X.astype(object)
    else:
        same |= {"int32": X.astype(np.int32), "uint8": X.astype(np.uint8)}
        same["whole floats"] = reals
    if X.ndim == 2:
        same["frame"] = pd.DataFrame(X)
    wrong: dict[str, Any] = {
        "None": None,
        "a number": 3.0,
        "a string": "abc",
        "strings": np.full(X.shape, "a"),
        "bytes": np.full(X.shape, b"a"),
        "dates": np.zeros(X.shape, "M8[s]"),
        "spans": np.zeros(X.shape, "m8[s]"),
        "complex": X + 1j * np.ones(X.shape),
        "objects": np.full(X.shape, object(), dtype=object),
        "void": np.zeros(X.shape, "V8"),
        "records": np.zeros(len(X), [("a", "f4"), ("b", "f4")]),
        "no samples": X[:0],
        "empty list": [],
        "one sample without axis": X[0],
        "another axis": X[:, None],
        "another width": np.concatenate([X, X], axis=-1)[..., : X.shape[-1] + 1],
        "no width": X[..., :0],
        "unequal lists": [x[: 1 + i % 2].tolist() for i, x in enumerate(X)],
        "set": {1, 2},
        "dict": {"input": X},
        "UserDict": collections.UserDict(input_ids=X),
        "dict in list": [{"input": x} for x in X],
        "iterator": iter(X),
        "meta tensor": tensor.to("meta"),
        "complex tensor": tensor.to(torch.complex64),
        "pair of tensors": (tensor, tensor),
        "function": len,
        "class": np.ndarray,
        "module": torch.nn.Identity(),
    }
    if X.ndim == 2:
        text = pd.DataFrame(X.astype(object))
        text.iloc[1, 0] = "a"
        missing = pd.DataFrame(X).astype(object)
        missing.iloc[1, 0] = None
        wrong |= {"frame of text": text, "frame with None": missing}
        wrong["frame with NA"] = pd.DataFrame(X).convert_dtypes().mask(X.flat[0] == X)
        wrong["sparse"] = sparse.csr_matrix(X)
        wrong["sparse tensor"] = tensor.to_sparse()
    if not whole:
        wrong |= {
            "NaN": with_item(X, np.nan),
            "infinity": with_item(X, np.inf),
            "NaN in a tensor": torch.from_numpy(with_item(X, -np.inf)),
            "None among objects": with_item(X.astype(object), None),
            "text among objects": with_item(X.astype(object), "x"),
        }
    else:
        wrong |= {
            "fractions": X + 0.5,
            "out of the vocabulary": with_item(X, N_TOKENS),
            "negative token": with_item(X, -1),
            "huge token": with_item(X, 2**40),
        }
    either = {
        # Predictions take it; fits miss the labels.
        "source": TensorDataset(tensor),
        "longdouble": X.astype(np.longdouble),
        "half": X.astype(np.float16),
        "bfloat16": tensor.to(torch.bfloat16),
        "float8": tensor.to(torch.float8_e4m3fn),
        "nested tensor": torch.nested.nested_tensor(list(tensor)),
        "decimals": np.vectorize(decimal.Decimal)(reals).astype(object),
        "series": pd.Series(list(X)),
        "repeated by strides": np.broadcast_to(X[:1], X.shape),
        "denormal": X * (0 if whole else 1e-40),
        "negative zero": X * (1 if whole else -0.0),
        "one sample": X[:1],
        "masked": np.ma.masked_array(X, mask=X.flat[0] == X),
        "far too large": reals if whole else with_item(reals, 1.5e308),
    }
    found = [
        *(Variant(name, value, "same") for name, value in same.items()),
        *(Variant(name, value, "wrong") for name, value in wrong.items()),
        *(Variant(name, value, "either") for name, value in either.items()),
    ]
    return found


def y_variants(rng: Generator, y: np.ndarray) -> list[Variant]:
    """Return what may stand in the place of y, whole numbers from 0.

    "same" labels are other names in the same order: predictions are to be these names.
    """
    n, names = len(y), np.array(["ant", "bee", "cat", "dog", "eel"])
    tensor = torch.from_numpy(y)
    gappy = np.array([-7, 3, 40, 41, 2**40])
    floats = y.astype(float)
    objects = names.astype(object)[y]
    same = {
        "names": names[y],
        "names as objects": objects,
        "list of names": names[y].tolist(),
        "tuple": tuple(y.tolist()),
        "gaps": gappy[y],
        "small": y.astype(np.uint8),
        "whole floats": floats,
        "big endian": y.astype(">i4"),
        "series": pd.Series(y, index=range(5, 5 + n)),
        "series of text": pd.Series(names[y]),
        "categories": pd.Categorical(names[y]),
        "series of categories": pd.Series(pd.Categorical(names[y])),
        "nullable": pd.Series(y, dtype="Int64"),
        "pandas strings": pd.Series(names[y], dtype="string"),
        "tensor": tensor,
        "int32 tensor": tensor.int(),
        "list of tensors": list(tensor),
        "read-only": _frozen(y),
        "every other": np.repeat(y, 2)[::2],
        "booleans" if y.max() == 1 else "shifted": y > 0 if y.max() == 1 else y + 10,
    }
    some_none, some_nan, some_na = objects.copy(), floats.copy(), pd.Series(objects)
    some_none[1], some_nan[1], some_na[1] = None, np.nan, pd.NA
    mixed = objects.copy()
    mixed[1] = 3
    wrong = {
        "None": None,
        "None among": some_none,
        "NaN among": some_nan,
        "NA among": some_na,
        "NA among numbers": pd.Series(y, dtype="Int64").where(y > 0),
        "not a time": np.array(["NaT"] * n, "M8[s]"),
        "infinity": np.where(y > 0, np.inf, floats),
        "text and numbers": mixed,
        "one class": np.zeros(n, dtype=int),
        "fractions": floats + 0.3,
        "complex": y + 1j,
        "too short": y[:-1],
        "too long": np.append(y, 0),
        "empty": y[:0],
        "one hot": np.eye(5)[y],
        "two columns": np.stack([y, y], axis=1),
        "three axes": y[:, None, None],
        "a number": 1,
        "a string": "abc",
        "dict": {"y": y},
        "lists of labels": [[0], [0, 1]] * (n // 2) + [[0]] * (n % 2),
        "objects": np.array([object() for _ in y]),
        "function": len,
        "meta tensor": tensor.to("meta"),
        "iterator": iter(y),
        "sparse": sparse.csr_matrix(y[:, None]),
    }
    either = {
        "column": y[:, None],
        "tensor with gradient": tensor.double().requires_grad_(),
        "bytes": names[y].astype(bytes),
        "dates": np.array(["2020-01-01"], "M8[D]")[0] + y,
        "longdouble": y.astype(np.longdouble),
        "decimals": np.array([decimal.Decimal(int(k)) for k in y]),
        "halves of integers": np.array([fractions.Fraction(int(k), 2) for k in y]),
        "a class of one sample": np.where(np.arange(n) == 3, 9, y),
        "each its own": np.arange(n),
    }
    return [
        *(Variant(name, value, "same") for name, value in same.items()),
        *(Variant(name, value, "wrong") for name, value in wrong.items()),
        *(Variant(name, value, "either") for name, value in either.items()),
    ]


def weight_variants(rng: Generator, n: int) -> list[Variant]:
    """Return what may stand in the place of whole weights.

    The first is the plain array; "same" variants say the same as that.
    """
    plain = rng.integers(1, 4, n).astype(np.float64)
    tensor = torch.from_numpy(plain)
    same = {
        "plain": plain,
        "list": plain.tolist(),
        "whole": plain.astype(np.int32),
        "single": plain.astype(np.float32),
        "big endian": plain.astype(">f8"),
        "series": pd.Series(plain, index=range(3, 3 + n)),
        "nullable": pd.Series(plain).convert_dtypes(),
        "tensor": tensor,
        "tensor with gradient": tensor.clone().requires_grad_(),
        "list of tensors": list(tensor),
        "objects": plain.astype(object),
        "read-only": _frozen(plain),
        "every other": np.repeat(plain, 2)[::2],
        "tuple": tuple(plain),
        "scaled": plain * 2.0**20,
    }
    wrong = {
        "negative": with_item(plain, -1.0),
        "NaN": with_item(plain, np.nan),
        "infinity": with_item(plain, np.inf),
        "zeros": np.zeros(n),
        "too short": plain[:-1],
        "too long": np.append(plain, 1.0),
        "two axes": plain[:, None],
        "empty": plain[:0],
        "strings": np.full(n, "a"),
        "a string": "balanced",
        "complex": plain + 1j,
        "None among": with_item(plain.astype(object), None),
        "dates": np.zeros(n, "M8[s]"),
        "dict": {0: 1.0, 1: 2.0},
        "meta tensor": tensor.to("meta"),
        "function": len,
        "NA among": pd.Series(plain, dtype="Float64").where(plain > 1),
    }
    either = {
        "a number": 2.0,
        "longdouble": plain.astype(np.longdouble),
        "booleans": plain > 1,
        "tiny": plain * 1e-300,
        "huge": plain * 1e300,
        "decimals": np.array([decimal.Decimal(w) for w in plain]),
    }
    return [
        *(Variant(name, value, "same") for name, value in same.items()),
        *(Variant(name, value, "wrong") for name, value in wrong.items()),
        *(Variant(name, value, "either") for name, value in either.items()),
    ]


def choose(rng: Generator, variants: list[Variant]) -> Variant:
    return variants[rng.integers(len(variants))]
