"""Networks by name, which take images of bytes; nothing is downloaded."""

import sys

import networks
import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from sk_e2cm import E2CMClassifier, TorchExtractor

SPEC = "torchvision:mobilenet_v3_small"
WEIGHTS = models.MobileNet_V3_Small_Weights.DEFAULT


def images(*shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.make(SPEC, num_classes=4)
    network.side = 40
    return network


def test_images_of_the_networks_size_are_scaled_as_torchvision_does():
    x = images(2, 3, 24, 24)
    transform = WEIGHTS.transforms(crop_size=24, resize_size=24)
    prepared = networks.Prepared(nn.Identity(), side=24)
    assert torch.allclose(prepared(x), transform(x), atol=1e-5)


def test_images_of_any_size_become_squares_of_the_networks_size():
    x = torch.full((2, 3, 10, 15), 99, dtype=torch.uint8)
    prepared = networks.Prepared(nn.Identity(), side=24, mean=(0.5,) * 3, std=(2,) * 3)
    expected = torch.full((2, 3, 24, 24), (99 / 255 - 0.5) / 2)
    assert prepared(x).shape == expected.shape
    assert torch.allclose(prepared(x), expected, atol=1e-5)


def test_grey_images_get_three_channels():
    x = images(2, 1, 24, 24)
    prepared = networks.Prepared(nn.Identity(), side=24)
    assert torch.equal(prepared(x), prepared(x.expand(-1, 3, -1, -1)))


def test_a_network_is_ready_for_its_own_size():
    network = networks.load(SPEC, "NONE")
    assert not any(module.training for module in network.modules())
    assert network.side == 224
    np.testing.assert_allclose(network.mean.flatten() / 255, WEIGHTS.transforms().mean)
    np.testing.assert_allclose(network.std.flatten() / 255, WEIGHTS.transforms().std)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_can_be_cut(network, channels):
    X, y = images(16, channels, 28, 28).numpy(), np.arange(16) % 4
    extractor = TorchExtractor(network, 3, input_shape=X.shape[1:])
    clf = E2CMClassifier(extractor, final="network").fit(X, y)
    clf.set_params(threshold=np.inf)
    with torch.no_grad():
        logits = network(torch.from_numpy(X))
    assert clf.predict(X).tolist() == logits.argmax(dim=1).tolist()


def test_what_was_saved_is_loaded(network, tmp_path):
    path = str(tmp_path / "mine.pt")
    networks.save(network, path)
    loaded = networks.load(SPEC, path)
    assert not loaded.training
    x = images(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_weights_of_another_network(network, tmp_path):
    path = str(tmp_path / "mine.pt")
    networks.save(network, path)
    with pytest.raises(RuntimeError, match=r"loading state_dict for ResNet"):
        networks.load("torchvision:resnet18", path)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_any_state_dict_is_loaded(network, tmp_path, wrap):
    torch.save(wrap(network.network.state_dict()), tmp_path / "mine.pt")
    loaded = networks.load(SPEC, str(tmp_path / "mine.pt"), side=network.side)
    x = images(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_a_file_of_weights_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        networks.load(SPEC, str(tmp_path / "nowhere.pt"))


@pytest.mark.parametrize("spec", ["resnet18", "keras:resnet18", ""])
def test_a_library_that_is_not_known(spec):
    with pytest.raises(ValueError, match="none of torchvision:NAME, timm:NAME"):
        networks.load(spec, "NONE")


def test_a_network_that_torchvision_does_not_have():
    with pytest.raises(ValueError, match="resnet19"):
        networks.load("torchvision:resnet19", "NONE")


def test_timm(tmp_path):
    timm = pytest.importorskip("timm")
    spec, path = "timm:resnet10t", str(tmp_path / "mine.pt")
    network = networks.make(spec, num_classes=4)
    assert network.side == timm.get_pretrained_cfg("resnet10t").input_size[-1]
    networks.save(network, path)
    x = images(2, 1, 28, 28)
    with torch.no_grad():
        expected = network(x)
        assert expected.shape == (2, 4)
        assert torch.equal(networks.load(spec, path)(x), expected)


# Networks of one's own


OWN = """
import torch
from networks import Prepared

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))

def prepared():
    return Prepared(make(), side=4, mean=(0.5,), std=(0.2,))

def number():
    return 3

def wrong():
    raise ValueError("of its own")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a file of one's own; forget what is imported there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    (tmp_path / "folder").mkdir()
    for name in ("my_network.py", "folder/other_network.py"):
        (tmp_path / name).write_text(OWN)
    return tmp_path


@pytest.mark.parametrize(
    "spec",
    ["my_network:make", "my_network.py:make", "folder/other_network.py:make"],
)
def test_a_function_of_a_python_file_makes_a_network_that_takes_bytes(folder, spec):
    network = networks.load(spec, "DEFAULT", side=4)
    assert not network.training
    x = images(5, 1, 4, 4)
    assert torch.allclose(network(x), network.network(x.float()), atol=1e-3)


def test_it_may_say_itself_how_images_are_prepared(folder):
    network = networks.load("my_network:prepared", "NONE")
    assert network.side == 4
    x = images(5, 1, 8, 8)
    expected = networks.Prepared(network.network, side=4, mean=(0.5,), std=(0.2,))(x)
    assert torch.equal(network(x), expected)
    assert networks.load("my_network:prepared", "NONE", side=6).side == 6


def test_its_weights_may_come_from_a_file(folder):
    network = networks.load("my_network:make", "NONE", side=4)
    with torch.no_grad():
        network.network[1].weight.zero_()
    networks.save(network, "mine.pt")
    loaded = networks.load("my_network:make", "mine.pt", side=4)
    assert not loaded.network[1].weight.any()


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("make", ValueError, "pass --side"),
        ("number", ValueError, "returned a int, no nn.Module"),
        ("wrong", ValueError, "^of its own$"),
        ("nothing", ValueError, "it has no 'nothing'"),
    ],
)
def test_a_function_that_makes_no_network(folder, function, error, message):
    with pytest.raises(error, match=message):
        networks.load(f"my_network:{function}", "NONE")


def test_a_file_that_does_not_exist(folder):
    with pytest.raises(ValueError, match=r"there is no .nowhere\.py"):
        networks.load("nowhere.py:make", "NONE")
