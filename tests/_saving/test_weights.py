"""Weights of every kind come back as they were, or are refused by name."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sk_e2cm import E2CMClassifier, TorchExtractor, load, save


class Layers(nn.Sequential):
    """Two linear layers, of which the first is an exit."""

    def __init__(self, seed=0, width=6):
        torch.manual_seed(seed)
        super().__init__(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width))


class Tied(Layers):
    """Its last layer has the transposed weights of its first, and one module twice."""

    def __init__(self, seed=0):
        super().__init__(seed, width=4)
        self[2].weight = self[0].weight
        self.append(self[1])


class Buffers(Layers):
    """Has tensors of every standing, and one in a list."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.register_buffer("kept", torch.randn(6))
        self.register_buffer("dropped", torch.randn(6), persistent=False)
        self.plain = torch.randn(6)
        self.several = [torch.randn(6), torch.randn(6)]
        self.count = torch.tensor(seed)

    def forward(self, x):
        x = super().forward(x) * self.kept + self.dropped
        return x * self.plain + self.several[0] - self.several[1]


class Strided(nn.Module):
    """Convolutions of one channel and of several, all channels-last."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.second(self.first(x.unflatten(1, (1, 2, 2)))).flatten(1)


class Recurrent(nn.Module):
    """An LSTM, whose weights lie in one piece of memory on some devices."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(4, 8)
        self.rnn = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(self.first(x).unflatten(1, (4, 2)))[0][:, -1]


def parametrized(seed=0):
    network = Layers(seed)
    parametrizations.weight_norm(network[0])
    return network


def with_a_hook(seed=0):
    network = Layers(seed)
    nn.utils.spectral_norm(network[0])
    return network


def in_bfloat16(seed=0):
    return Layers(seed).bfloat16()


def in_double(seed=0):
    return Layers(seed).double()


NETWORKS = {
    "tied": (Tied, "0"),
    "buffers": (Buffers, "0"),
    "channels-last": (Strided, "first"),
    "recurrent": (Recurrent, "first"),
    "parametrized": (parametrized, "0"),
    "computed by a hook of torch": (with_a_hook, "0"),
    "bfloat16": (in_bfloat16, "0"),
    "double": (in_double, "0"),
}


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)


def fitted(extractor, X):
    return E2CMClassifier(extractor, final="class_means").fit(X, np.arange(120) % 3)


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_weights_come_back_to_the_bit(kind, X, tmp_path):
    make, exit_ = NETWORKS[kind]
    clf = fitted(TorchExtractor(make(), [exit_]), X)
    save(clf, tmp_path / "clf")
    loaded = load(tmp_path / "clf", make(seed=1))
    np.testing.assert_array_equal(loaded.exit_proba(X), clf.exit_proba(X))
    if make is not with_a_hook:  # torch numbers hooks, in each process anew
        assert loaded.extractor_.fingerprint == clf.extractor_.fingerprint
    before, after = (
        each.extractor_.made_of.module.state_dict() for each in (clf, loaded)
    )
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].stride() == tensor.stride()


def test_the_precision_is_that_of_the_file(X, tmp_path):
    clf = fitted(TorchExtractor(in_bfloat16(), ["0"]), X)
    save(clf, tmp_path / "clf")
    loaded = load(tmp_path / "clf", Layers(seed=1))
    np.testing.assert_array_equal(loaded.exit_proba(X), clf.exit_proba(X))


def test_tied_weights_are_stored_once_and_stay_tied(X, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    save(fitted(TorchExtractor(Tied(), ["0"]), X), tmp_path / "clf")
    with safetensors.safe_open(tmp_path / "clf", "pt") as file:
        assert "network.2.weight" not in file.keys()  # noqa: SIM118
    module = load(tmp_path / "clf", Tied(seed=1)).extractor_.made_of.module
    assert module[2].weight is module[0].weight


def test_weights_that_are_tied_in_one_of_the_two_are_refused(X, tmp_path):
    save(fitted(TorchExtractor(Tied(), ["0"]), X), tmp_path / "tied")
    apart = Tied()
    apart[2].weight = nn.Parameter(apart[2].weight.clone())
    with pytest.raises(ValueError, match=r"'2.weight' is tied to '0.weight' in the"):
        load(tmp_path / "tied", apart)
    save(fitted(TorchExtractor(apart, ["0"]), X), tmp_path / "apart")
    with pytest.raises(ValueError, match=r"'2.weight' is tied to '0.weight' now"):
        load(tmp_path / "apart", Tied())


def test_a_chain_of_modules_is_given_as_such(X, tmp_path):
    def chain(seed):
        torch.manual_seed(seed)
        shared = nn.Tanh()
        return [nn.Linear(4, 6), shared, nn.Linear(6, 5), shared]

    clf = fitted(TorchExtractor.from_modules(chain(0)), X)
    save(clf, tmp_path / "clf")
    for given in (chain(1), tuple(chain(1))):
        loaded = load(tmp_path / "clf", given)
        np.testing.assert_array_equal(loaded.exit_proba(X), clf.exit_proba(X))


@pytest.mark.parametrize(
    ("exits", "others"),
    [
        (["0"], {"output": "1"}),
        (["0"], {"fold": False}),
        ([], {}),
        ("all", {"input_shape": (4,)}),
        (1, {}),
    ],
    ids=["output", "unfolded", "no exits", "all", "one"],
)
def test_cuts_come_back(exits, others, X, tmp_path):
    clf = fitted(TorchExtractor(Layers(), exits, **others), X)
    save(clf, tmp_path / "clf")
    loaded = load(tmp_path / "clf", Layers(seed=1))
    assert repr(loaded.extractor) == repr(clf.extractor)
    assert loaded.extractor.made_of.others == clf.extractor.made_of.others
    np.testing.assert_array_equal(loaded.exit_proba(X), clf.exit_proba(X))


def quantized():
    return torch.ao.quantization.quantize_dynamic(Layers(), {nn.Linear})


class Complex(Layers):
    """Has angles as complex numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("turns", torch.ones(6, dtype=torch.complex64))

    def forward(self, x):
        return super().forward(x) * self.turns.real


class Sparse(Layers):
    """Has weights that are mostly zero."""

    def __init__(self):
        super().__init__()
        self.register_buffer("few", torch.eye(6).to_sparse())

    def forward(self, x):
        return super().forward(x) @ self.few.to_dense()


class Compiled(Layers):
    """Has a part of torch.jit."""

    def __init__(self):
        super().__init__()
        self.append(torch.jit.script(nn.Linear(6, 6)))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (quantized, r"'0' \(Linear\) cannot be saved: it is quantised"),
        (Complex, "network.turns cannot be saved: .* torch.complex64"),
        (Sparse, "network.few cannot be saved: .* torch.sparse_coo"),
        (Compiled, r"'3' \(RecursiveScriptModule\) cannot be saved: .* torch.jit"),
    ],
    ids=["quantised", "complex", "sparse", "compiled"],
)
def test_weights_that_no_file_holds_are_refused_by_name(make, message, X, tmp_path):
    clf = fitted(TorchExtractor(make(), ["1"]), X)
    with pytest.raises(ValueError, match=message):
        save(clf, tmp_path / "clf")
    assert not list(tmp_path.iterdir())


class Hidden(Layers):
    """Keeps weights in a layer that is registered nowhere."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.layers = {"hidden": [nn.Linear(6, 6)]}
        self.registered = [self[0]]

    def forward(self, x):
        weight = self.layers["hidden"][0].weight.detach()
        return nn.functional.linear(super().forward(x), weight)


def test_weights_that_are_registered_nowhere_have_to_be_the_same(X, tmp_path):
    clf = fitted(TorchExtractor(Hidden(), ["0"]), X)
    save(clf, tmp_path / "clf")
    loaded = load(tmp_path / "clf", Hidden())
    np.testing.assert_array_equal(loaded.exit_proba(X), clf.exit_proba(X))
    with pytest.raises(ValueError, match="attribute 'layers' of the network"):
        load(tmp_path / "clf", Hidden(seed=1))
