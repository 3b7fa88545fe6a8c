"""Hashes of what objects are, the same wherever they are computed."""

import os
import subprocess
import sys
import types
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from sk_e2cm._utils._hashing import content_hash, row_hashes

from ..outputs import make_output

ROOT = Path(__file__).parents[2]

CHILD = """
import sys
import torch
from torch import nn
from sk_e2cm._utils._hashing import content_hash

class Kept:
    def __init__(self, value):
        self.value = value

torch.manual_seed(0)
layer = nn.Linear(3, 2)
print(content_hash([Kept({"a": layer, "b": torch.arange(3)}), Kept, {"x", "y", "z"}]))
"""


class Kept:
    def __init__(self, value):
        self.value = value


def quantized(values, scale=0.1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.quantize_per_tensor(torch.tensor(values), scale, 0, torch.qint8)


def defined_anew(source, name="thing"):
    """Run `source` in a module that cannot be imported, as a notebook's cells are."""
    module = types.ModuleType("__main__")
    exec(source, module.__dict__)
    return getattr(module, name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(6.0).view(2, 3),
        lambda: torch.arange(6.0).view(2, 3).bfloat16(),
        lambda: torch.arange(6.0).view(2, 3).half(),
        lambda: torch.tensor([True, False]),
        lambda: torch.tensor(1.0),
        lambda: torch.empty(0, 3),
        lambda: nn.Parameter(torch.arange(6.0)),
        lambda: quantized([0.5, -0.3]),
        lambda: [torch.ones(2), {"a": torch.zeros(1)}, OrderedDict(b=np.ones(2))],
        lambda: Kept(torch.ones(2)),
        lambda: nn.Linear,
        lambda: torch.relu,
        lambda: np.mean,
        lambda: len,
        lambda: quantized,
        lambda: nn.ReLU(),
    ],
)
def test_equal_content_has_equal_hashes(make):
    assert content_hash(make()) == content_hash(make())


def test_a_view_and_a_tensor_with_gradients_hash_as_their_numbers():
    tensor = torch.arange(12.0).view(3, 4)
    view = torch.cat([tensor, tensor])[3:]
    for other in (view, tensor.clone().requires_grad_()):
        assert content_hash(other) == content_hash(tensor)


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor([1.0, 3.0, 2.0]),
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float16),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16),
        np.array([1.0, 2.0, 3.0], dtype=np.float32),
        quantized([1.0, 2.0, 3.0]),
        [1.0, 2.0, 3.0],
    ],
    ids=str,
)
def test_other_content_has_another_hash(other):
    assert content_hash(other) != content_hash(torch.tensor([1.0, 2.0, 3.0]))


def test_low_precision_is_told_from_the_same_numbers_in_another():
    values = torch.tensor([1.0, 2.0])
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
    assert len({content_hash(values.to(kind)) for kind in kinds}) == len(kinds)


def test_quantised_tensors_are_told_by_their_numbers():
    hashes = {content_hash(quantized(v)) for v in ([0.5, 0.3], [0.5, 0.4])}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [(nn.ReLU, nn.GELU), (torch.relu, torch.tanh), (len, sum), (nn.ReLU, nn.ReLU())],
)
def test_classes_and_builtin_functions_are_told_by_their_names(one, other):
    assert content_hash(one) != content_hash(other)


def test_functions_are_told_by_what_they_do():
    source = "thing = lambda x: x + 1"
    one, same = defined_anew(source), defined_anew(source)
    assert content_hash(one) == content_hash(same) != content_hash(lambda x: x + 2)


@pytest.mark.parametrize(
    "keep",
    [lambda n: lambda x, n=n: n, lambda n: lambda x, *, n=n: n, lambda n: lambda x: n],
)
def test_functions_are_told_by_what_they_hold(keep):
    assert content_hash(keep(1)) == content_hash(keep(1)) != content_hash(keep(2))


def test_a_function_may_hold_itself():
    def countdown(n):
        return countdown(n - 1) if n else 0

    assert content_hash(countdown) == content_hash(countdown)


def test_classes_of_one_name_in_other_modules_are_told_apart():
    other = type("Linear", (), {"__module__": "somewhere.else"})
    assert content_hash(other) != content_hash(nn.Linear)


@pytest.mark.parametrize(
    "source",
    [
        "class thing: pass",
        "def thing(x): return x",
        "class A: pass\nthing = A()\nthing.number = 3",
        "import torch\nclass A(torch.nn.Linear): pass\n"
        "torch.manual_seed(0)\nthing = A(2, 3)",
    ],
    ids=["class", "function", "object", "module"],
)
def test_what_is_defined_in_a_notebook_hashes_alike_in_a_worker(source):
    assert content_hash(defined_anew(source)) == content_hash(defined_anew(source))


def test_an_object_of_a_local_class_is_hashed_by_its_content():
    class Local:
        def __init__(self, value):
            self.value = value

    one, same, other = Local(1), Local(1), Local(2)
    assert content_hash(one) == content_hash(same) != content_hash(other)
    assert content_hash(Local(torch.ones(2))) == content_hash(Local(torch.ones(2)))


def test_objects_of_other_classes_with_the_same_content_are_told_apart():
    class Local:
        def __init__(self, value):
            self.value = value

    assert content_hash(Local(1)) != content_hash(Kept(1))


def test_another_process_finds_the_same_hash():
    hashes = {
        subprocess.run(
            [sys.executable, "-c", CHILD],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "12"
    }
    assert len(hashes) == 1
    assert len(hashes.pop().strip()) == 32


def test_equal_rows_have_equal_hashes_and_others_do_not():
    X = np.random.default_rng(0).integers(0, 3, size=(500, 4)).astype(float)
    _, of_content = np.unique(X, axis=0, return_inverse=True)
    _, of_hash = np.unique(row_hashes(X), return_inverse=True)
    pairs = set(zip(of_content, of_hash, strict=True))
    assert 2 < len(pairs) == of_content.max() + 1 == of_hash.max() + 1


@pytest.mark.parametrize("shape", [(20, 3), (20, 2, 3, 4)])
@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param(lambda X: X.copy(order="F"), id="fortran"),
        pytest.param(lambda X: X.repeat(2, axis=0)[::2], id="strided rows"),
        pytest.param(lambda X: X.repeat(2, axis=-1)[..., ::2], id="strided"),
        pytest.param(lambda X: X[::-1].copy()[::-1], id="reversed"),
    ],
)
def test_row_hashes_do_not_depend_on_the_memory_layout(disguise, shape):
    X = make_output(*shape)
    assert disguise(X).strides != X.strides
    assert_array_equal(row_hashes(disguise(X)), row_hashes(X))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.complex128])
def test_rows_that_differ_in_the_sign_of_zeros_have_equal_hashes(kind):
    X = make_output(20, 2, 3).round().astype(kind)
    assert_array_equal(row_hashes(np.where(X == 0, -X, X)), row_hashes(X))
    assert_array_equal(row_hashes(np.where(X == 0, kind(0), X)), row_hashes(X))
    zeros = np.zeros((3, 2), kind)
    assert len(set(row_hashes(np.concatenate([zeros, -zeros])).tolist())) == 1


@pytest.mark.parametrize(
    "kind", ["e", "f", "d", "F", "D", "i1", "i2", "i8", "u2", "u4", "?"]
)
def test_row_hashes_do_not_depend_on_the_byte_order(kind):
    X = (100 * make_output(20, 2, 3)).astype(kind)
    swapped = X.astype(X.dtype.newbyteorder(">"))
    assert_array_equal(row_hashes(swapped), row_hashes(X))


def test_row_hashes_leave_x_as_it_is():
    X = np.array([[-0.0, 1.0]])
    X.flags.writeable = False
    row_hashes(X)
    assert np.signbit(X[0, 0])


def test_row_hashes_do_not_depend_on_the_other_rows():
    X = make_output(20, 3)
    order = np.random.default_rng(0).permutation(20)[:7]
    assert_array_equal(row_hashes(X[order]), row_hashes(X)[order])


def test_row_hashes_are_spread_evenly():
    hashes = row_hashes(np.arange(20_000.0)[:, None])
    assert_allclose(
        np.bincount((hashes % np.uint64(5)).astype(int)) / 20_000, 0.2, atol=0.02
    )
    below = (hashes.astype(np.float64) < 0.3 * 2.0**64).mean()
    assert_allclose(below, 0.3, atol=0.02)
