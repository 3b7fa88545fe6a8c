"""Another network than the one saved is refused, by what differs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sk_e2cm import E2CMClassifier, TorchExtractor, load, save
from sk_e2cm._saving._fingerprint import architecture

from . import networks
from .networks import Block, Small, small


class AnotherForward(Small):
    """As `Small`, but for what it computes."""

    def forward(self, x):
        return self.head(self.second(self.first(self.stem(x))).mean(dim=(2, 3)))


def renamed():
    network = small()
    network.tail = network.head
    del network.head
    network.forward = None
    return network


def with_another_norm():
    network = small()
    network.first.norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    return network


def with_another_eps():
    network = small()
    network.second.norm.eps = 0.1
    return network


def with_more():
    network = small()
    network.more = nn.Linear(2, 2)
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: small(n_classes=12),
            r"'head.weight' has the shape \(10, 8\) in the file, and \(12, 8\) now",
        ),
        (lambda: small(slope=0.2), r"'slope' of 'first' \(Block\) is 0.1 in the file"),
        (
            with_another_norm,
            "'first.norm' is a BatchNorm2d of torch in the file, and I",
        ),
        (
            with_another_eps,
            r"'eps' of 'second.norm' \(BatchNorm2d of torch\) is 1e-05 in the file, "
            "and 0.1 now",
        ),
        (with_more, "'more.weight' has the shape .* now, and is not in the file"),
        (lambda: AnotherForward().eval(), "the module '' is a Small in the file"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            "'stem' is a Conv2d of torch in the file, and is missing now.* and .* more",
        ),
    ],
    ids=["shape", "attribute", "layer", "eps", "more", "class", "anything"],
)
def test_another_architecture_is_refused_by_what_differs(make, message, path):
    with pytest.raises(ValueError, match=message):
        load(path, make())


def edited(tmp_path, old, new):
    """Return the module of the networks from a source in which something differs."""
    source = Path(networks.__file__).read_text()
    assert source.count(old) == 1
    file = tmp_path / "edited_networks.py"
    file.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("edited_networks", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("x.mean(dim=(2, 3))", "x.amax(dim=(2, 3))", r"Small.forward"),
        ("return x + nn", "return x - nn", r"Block.forward"),
        ("torch.tanh(SCALE * x)", "torch.sin(SCALE * x)", r"squashed"),
        ("SCALE = 0.5", "SCALE = 0.25", r"squashed"),
    ],
    ids=["forward", "of a part", "of a function", "a constant"],
)
def test_changed_code_is_refused_by_its_name(old, new, code, path, tmp_path):
    module = edited(tmp_path, old, new)
    with pytest.raises(ValueError, match=f"the code of {code} differs"):
        load(path, module.small())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "(self, x):\n        return x + nn",
            "(self, x: int) -> int:\n        # Both.\n        return x  +  nn",
        ),
        ("width=8, n_classes", "width=8, unused=3, n_classes"),
        ('"""A convolution with a norm to fold, and a skip."""', '"""Folds."""'),
    ],
    ids=["layout", "constructor", "documentation"],
)
def test_code_that_does_the_same_is_taken(old, new, path, clf, some, tmp_path):
    X, _ = some
    module = edited(tmp_path, old, new)
    loaded = load(path, module.small(seed=1))
    np.testing.assert_array_equal(loaded.exit_proba(X), clf.exit_proba(X))


_ELSEWHERE = """
import json, sys
from sk_e2cm._saving._fingerprint import architecture
from tests._saving.networks import small
print(json.dumps(architecture(small(seed=9))))
"""


def test_an_architecture_is_the_same_in_every_process():
    out = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE],
        env={"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert json.loads(out) == architecture(small())


def test_weights_are_no_part_of_an_architecture():
    assert architecture(small(seed=0)) == architecture(small(seed=1))


def test_code_of_libraries_is_named_and_not_compared():
    found = architecture(nn.Sequential(nn.TransformerEncoderLayer(4, 2), Block(2)))
    assert found["modules"]["0"] == "TransformerEncoderLayer of torch"
    assert {name.partition(".")[0] for name in found["code"]} == {"Block"}


def test_attributes_that_a_later_torch_adds_are_no_difference(path, clf, some):
    X, _ = some
    network = small(seed=1)
    network.stem.added_later = True
    np.testing.assert_array_equal(load(path, network).exit_proba(X), clf.exit_proba(X))


class Branch(nn.Module):
    """Computes what a switch of its module of Python says, unseen by its code."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        return self.second(torch.relu(x) if _Switch().on else x)


class _Switch:
    @property
    def on(self):
        return "branch" in sys.modules


def test_other_operations_of_the_same_code_are_refused(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    clf = E2CMClassifier(TorchExtractor(Branch(), ["first"]), final="class_means")
    save(clf.fit(X, np.arange(60) % 2), tmp_path / "clf")
    monkeypatch.setitem(sys.modules, "branch", sys)
    with pytest.raises(ValueError, match=r"operation 2 is 'call_module .* relu .* now"):
        load(tmp_path / "clf", Branch())


def made_by_exec(body):
    scope = {"nn": nn, "__name__": "typed_at_a_prompt"}
    exec(f"class Made(nn.Linear):\n    def forward(self, x):\n        {body}", scope)
    return nn.Sequential(scope["Made"](4, 4), nn.Linear(4, 4))


def test_code_without_a_source_is_known_by_its_bytecode(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    network = made_by_exec("return super(type(self), self).forward(x)")
    clf = E2CMClassifier(TorchExtractor(network, ["0"]), final="class_means")
    save(clf.fit(X, np.arange(60) % 2), tmp_path / "clf")
    same = made_by_exec("return super(type(self), self).forward(x)")
    np.testing.assert_array_equal(
        load(tmp_path / "clf", same).predict(X), clf.predict(X)
    )
    other = made_by_exec("return -super(type(self), self).forward(x)")
    with pytest.raises(ValueError, match=r"the code of Made.forward differs"):
        load(tmp_path / "clf", other)
    monkeypatch.setattr(sys, "version_info", (3, 99))
    with pytest.raises(
        ValueError, match=r"Made.forward cannot be compared: .*put it in"
    ):
        load(tmp_path / "clf", same)
