"""Extractors are values: their copies, pickles, hashes, and other processes."""

import copy
import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sk_e2cm import E2CMClassifier, TorchExtractor

from .helpers import assert_close, assert_right, at_seed, uncut
from .networks import (
    BufferRead,
    ConstantAlive,
    Layers,
    Plain,
    ResidualNetwork,
    SharedLayer,
    SkipAcross,
    WithBranch,
    chain,
    lived_in,
    normed,
    token_network,
)

ROOT = Path(__file__).parents[3]


class Remembers(Layers):
    """Keeps what it has seen last, as some networks do for their users."""

    def forward(self, x):
        self.features = self.second(self.first(x))
        return self.head(self.third(self.features))


def spectral_normed():
    return normed(nn.utils.spectral_norm)


def tied():
    network = nn.Sequential(nn.Embedding(10, 4), nn.ReLU(), nn.Linear(4, 10))
    network[2].weight = network[0].weight
    return network


def torchvision_network():
    from torchvision.models import mobilenet_v3_small

    return lived_in(mobilenet_v3_small(num_classes=5))


EXTRACTORS = {
    "sequential": lambda: TorchExtractor(chain(), ["0", "3"]),
    "chosen": lambda: TorchExtractor(chain(), 2),
    "output": lambda: TorchExtractor(Plain(), ["first"], output="third"),
    "modules": lambda: TorchExtractor.from_modules(
        [nn.Linear(4, 4), nn.ReLU(), chain()]
    ),
    "residual": lambda: TorchExtractor(lived_in(ResidualNetwork()), 2),
    "shared": lambda: TorchExtractor(SharedLayer(), ["second"]),
    "buffers": lambda: TorchExtractor(BufferRead(), ["first", "second"]),
    "constant": lambda: TorchExtractor(ConstantAlive(), ["second"]),
    "untraceable": lambda: TorchExtractor(WithBranch(), ["second"]),
    "tokens": lambda: TorchExtractor(token_network(), ["0"]),
    "tied": lambda: TorchExtractor(tied(), ["0"]),
    "bfloat16": lambda: TorchExtractor(chain().bfloat16(), ["0"]),
    "torchvision": lambda: TorchExtractor(torchvision_network(), ["features.3"]),
}
SHAPES = {
    "residual": (3, 8, 8),
    "torchvision": (3, 32, 32),
    "tokens": (5,),
    "tied": (5,),
}

CHILD = """
import pickle, sys
import joblib, torch
from tests._extractors._torch.helpers import at_seed
from tests._extractors._torch.test_value import EXTRACTORS, facts
folder = sys.argv[1]
loaded = pickle.load(open(folder + "/pickle", "rb"))
by_joblib = joblib.load(folder + "/joblib")
X = torch.load(folder + "/X")
pickle.dump({
    "pickle": {name: facts(loaded[name], X[name]) for name in loaded},
    "joblib": {name: facts(by_joblib[name], X[name]) for name in loaded},
    "built": {name: facts(at_seed(0, EXTRACTORS[name]), X[name]) for name in loaded},
}, open(sys.argv[2], "wb"))
"""


def facts(extractor, X):
    return {
        "fingerprint": extractor.fingerprint,
        "hash": hash(extractor),
        "joblib.hash": joblib.hash(extractor),
        "stages": extractor.stage_names,
        "outputs": [out.float().numpy() for out in extractor.staged_transform(X)],
    }


@pytest.fixture(scope="module")
def here():
    """Return extractors, and a batch for each."""
    pytest.importorskip("torchvision")
    extractors = {name: at_seed(0, make) for name, make in EXTRACTORS.items()}
    generator = torch.Generator().manual_seed(1)
    X = {
        name: (9 * torch.rand(4, *SHAPES.get(name, (4,)), generator=generator)).floor()
        for name in extractors
    }
    return extractors, X


@pytest.fixture(scope="module")
def there(here, tmp_path_factory):
    """Return what another process says, its strings hashed with another seed."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    folder = tmp_path_factory.mktemp("travel")
    extractors, X = here
    (folder / "pickle").write_bytes(pickle.dumps(extractors))
    joblib.dump(extractors, folder / "joblib")
    torch.save(X, folder / "X")
    subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(folder / "said")],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return pickle.loads((folder / "said").read_bytes())


@pytest.mark.parametrize("way", ["pickle", "joblib", "built"])
@pytest.mark.parametrize("name", EXTRACTORS)
def test_another_process_has_the_same_extractor(here, there, way, name):
    expected, said = facts(here[0][name], here[1][name]), there[way][name]
    assert {**said, "outputs": None} == {**expected, "outputs": None}
    for output, value in zip(said["outputs"], expected["outputs"], strict=True):
        np.testing.assert_array_equal(output, value)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_object_itself(copied):
    extractor = EXTRACTORS["sequential"]()
    assert copied([extractor])[0] is extractor
    assert copied(extractor) is extractor


def test_clones_of_an_estimator_share_the_extractor():
    extractor = EXTRACTORS["sequential"]()
    clf = E2CMClassifier(extractor)
    assert clone(clf).extractor is extractor
    assert copy.deepcopy(clf).extractor is extractor


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_pickle_makes_an_equal_extractor(here, name):
    extractor, X = here[0][name], here[1][name]
    loaded = pickle.loads(pickle.dumps(extractor))
    assert loaded is not extractor
    assert loaded == extractor
    assert loaded.exits == extractor.exits
    outputs = extractor.staged_transform(X)
    for output, value in zip(loaded.staged_transform(X), outputs, strict=True):
        assert torch.equal(output, value)


def test_a_pickle_of_a_pickle_is_the_same():
    extractor = EXTRACTORS["residual"]()
    once = pickle.loads(pickle.dumps(extractor))
    twice = pickle.loads(pickle.dumps(once))
    assert once.fingerprint == twice.fingerprint == extractor.fingerprint


def test_a_subclass_stays_one_in_a_pickle():
    extractor = Named.from_modules([nn.Linear(4, 4), nn.ReLU()])
    assert type(pickle.loads(pickle.dumps(extractor))) is Named


class Named(TorchExtractor):
    pass


def test_equal_content_is_equal():
    one, two = (at_seed(0, EXTRACTORS["residual"]) for _ in range(2))
    assert one == two
    assert len({one, two}) == 1


def test_exits_chosen_by_number_are_equal_to_the_same_named():
    network = chain()
    chosen = TorchExtractor(network, 2)
    assert chosen == TorchExtractor(network, list(chosen.exits))


@pytest.mark.parametrize(
    "other",
    [
        lambda network: TorchExtractor(network, ["first"]),
        lambda network: TorchExtractor(network, ["first", "second"], output="third"),
        lambda network: TorchExtractor(network.double(), ["first", "second"]),
        lambda network: TorchExtractor(SkipAcross(), ["first", "second"]),
        lambda network: TorchExtractor(Plain(), ["first", "second"]),
        lambda network: "first, second",
    ],
    ids=["exits", "output", "precision", "architecture", "weights", "type"],
)
def test_other_content_is_unequal(other):
    network = Plain()
    extractor = TorchExtractor(network, ["first", "second"])
    assert extractor != other(network)


@pytest.mark.parametrize("name", ["block2.bn1.running_var", "head.bias"])
def test_one_other_number_makes_another_fingerprint(residual, name):
    before = TorchExtractor(residual, ["block1"]).fingerprint
    network = copy.deepcopy(residual)
    network.state_dict()[name][0] += 1e-3
    assert TorchExtractor(network, ["block1"]).fingerprint != before


def test_another_forward_makes_another_fingerprint(monkeypatch):
    before = TorchExtractor(at_seed(0, Plain), ["first"]).fingerprint
    monkeypatch.setattr(Plain, "forward", lambda self, x: self.third(self.first(x)))
    assert TorchExtractor(at_seed(0, Plain), ["first"]).fingerprint != before


SOURCE = """
import torch
from torch import nn

@torch.fx.wrap
def scaled(x): return x * {wrapped}

def added(x): return x if x.sum() > 1e9 else x + {helper}

SLOPE = {number}

class Base(nn.Linear):
    def forward(self, x):
        return super().forward(x * {base} if x.sum() < 1e9 else x)

class Tail(Base):
    class Inner(nn.Module):
        def forward(self, x): return x * {inner} if x.sum() < 1e9 else x

    def forward(self, x):
        return SLOPE * self.Inner()(added(super().forward(scaled(x * {leaf}))))

class Plain(torch.Tensor):
    def half(self): return self * {subclass}

class Network(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x) + {shift} * torch.ones(4))
"""
NUMBERS = ["wrapped", "helper", "number", "base", "inner", "leaf", "subclass", "shift"]


@pytest.mark.parametrize("edited", NUMBERS)
def test_code_that_was_edited_makes_another_fingerprint(edited):
    def made(**numbers):
        scope = vars(types.ModuleType("__main__"))
        exec(SOURCE.format(**{**dict.fromkeys(NUMBERS, 1.0), **numbers}), scope)
        layers = at_seed(0, lambda: [nn.Linear(4, 4), scope["Tail"](4, 4)])
        network = scope["Network"](*layers)
        network.scale = torch.ones(4).as_subclass(scope["Plain"])
        return TorchExtractor(network, ["0"])

    before = made().fingerprint
    assert made().fingerprint == before != made(**{edited: 2.0}).fingerprint


def test_networks_whose_modules_run_in_another_order_are_told_apart():
    def made(*order):
        layers = {"a": nn.ReLU(), "b": nn.Tanh()}
        block = nn.Sequential(OrderedDict((name, layers[name]) for name in order))
        # A branch on a value: it is not traced, and its parts are not seen.
        return TorchExtractor(WithBlock(block), ["first"]).fingerprint

    assert made("a", "b") == made("a", "b") != made("b", "a")


class WithBlock(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.first = nn.Identity()
        self.branch = Branch(block)

    def forward(self, x):
        return self.branch(self.first(x))


class Branch(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x) if x.sum() < 1e9 else x


def test_a_subclass_of_tensors_stays_one_in_a_pickle():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network.plain = torch.ones(4).as_subclass(Described)
    network.weight = nn.Parameter(torch.ones(4).as_subclass(Described))
    extractor = TorchExtractor(network, ["0"])
    loaded = pickle.loads(pickle.dumps(extractor))
    assert loaded == extractor
    assert type(loaded._module.plain) is Described
    assert type(loaded._module.weight) is type(network.weight)


class Described(torch.Tensor):
    pass


def test_a_class_that_cannot_be_imported_has_the_same_fingerprint_elsewhere():
    cloudpickle = pytest.importorskip("cloudpickle")

    class Local(Plain):
        pass

    extractor = TorchExtractor(Local(), ["first"])
    sent = cloudpickle.loads(cloudpickle.dumps(extractor))
    assert sent is not extractor
    assert sent.fingerprint == extractor.fingerprint


def test_weights_that_are_tied_make_another_fingerprint_than_equal_ones():
    network = tied()
    extractor = TorchExtractor(network, ["0"])
    network[2].weight = nn.Parameter(network[2].weight.detach().clone())
    assert TorchExtractor(network, ["0"]) != extractor


def test_the_extractor_keeps_its_weights_when_the_caller_changes_them():
    network, X = Plain(), torch.randn(5, 4)
    extractor = TorchExtractor(network, ["second"])
    expected, fingerprint = uncut(network, [], X)[0], joblib.hash(extractor)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    *_, output = extractor.staged_transform(X)
    assert_close(output, expected)
    assert joblib.hash(extractor) == fingerprint


@pytest.mark.parametrize("make", [Remembers, spectral_normed])
def test_use_does_not_change_the_content(make):
    network = make()
    first = next(name for name, _ in network.named_children())
    extractor = TorchExtractor(network, [first])
    before = joblib.hash(extractor)
    list(extractor.staged_transform(torch.randn(5, 4)))
    assert joblib.hash(extractor) == before


def test_a_network_that_keeps_what_it_has_seen_can_be_pickled():
    network, X = Remembers(), torch.randn(8, 4)
    extractor = TorchExtractor(network, ["first"])
    assert_right(pickle.loads(pickle.dumps(extractor)), network, X)


def test_nothing_of_a_batch_is_in_the_pickle():
    extractor = TorchExtractor(Remembers(), ["first"])
    list(extractor.staged_transform(torch.randn(5000, 4)))
    assert len(pickle.dumps(extractor)) < 5000 * 4
