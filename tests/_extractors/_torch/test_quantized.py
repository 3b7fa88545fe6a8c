"""Networks whose layers torch has quantised."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._quantized import exact_twin, hidden_macs

from .helpers import assert_close, at_seed, halving, uncut
from .networks import Plain, chain

ROOT = Path(__file__).parents[3]

CHILD = """
import pickle, sys
from tests._extractors._torch.helpers import at_seed
from tests._extractors._torch.test_quantized import EXTRACTORS
loaded = pickle.load(open(sys.argv[1], "rb"))
pickle.dump({
    "loaded": {name: extractor.fingerprint for name, extractor in loaded.items()},
    "built": {name: at_seed(0, make).fingerprint for name, make in EXTRACTORS.items()},
}, open(sys.argv[2], "wb"))
"""

# How torch loads its quantised tensors.
pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")


def quietly(make):
    """Call `make` without hearing that torch's quantisation will move elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        return make()


def dynamic(network, *kinds, dtype=torch.qint8):
    quantize = torch.ao.quantization.quantize_dynamic
    return quietly(lambda: quantize(network.eval(), set(kinds), dtype=dtype))


class Convolutional(nn.Module):
    """Convolutions and a linear layer between the ends of the quantised part."""

    def __init__(self):
        super().__init__()
        self.quant = torch.ao.quantization.QuantStub()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, groups=4)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8 * 3 * 3, 5)
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x):
        x = self.relu(self.second(self.first(self.quant(x))))
        return self.dequant(self.head(x.flatten(1)))


def static(network, X, qconfig=None):
    def quantize():
        engine = torch.backends.quantized.engine
        default = torch.ao.quantization.get_default_qconfig(engine)
        network.qconfig = default if qconfig is None else qconfig
        prepared = torch.ao.quantization.prepare(network.eval())
        prepared(X)
        return torch.ao.quantization.convert(prepared)

    return quietly(quantize)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.rnn = kind(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.rnn(self.first(x))[0].mean(1))


EXTRACTORS = {
    "dynamic": lambda: TorchExtractor(dynamic(chain(), nn.Linear), ["1"]),
    "lstm": lambda: TorchExtractor(
        dynamic(Recurrent(nn.LSTM), nn.LSTM, nn.Linear), ["first"]
    ),
}


def rounded(layer):
    """Round a layer's weight matrices by hand, in 255 steps around zero."""
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if "weight" in name:
                step = weight.abs().max() / 127.5
                weight.copy_((weight / step).round().clamp(-128, 127) * step)
    return layer


def first_of(output):
    return output if isinstance(output, torch.Tensor) else output[0]


LAYERS = [
    pytest.param(lambda: nn.Linear(4, 6), id="linear"),
    pytest.param(lambda: nn.Linear(4, 6, bias=False), id="linear without bias"),
    pytest.param(lambda: nn.LSTM(4, 6), id="lstm"),
    pytest.param(lambda: nn.GRU(4, 6), id="gru"),
    pytest.param(
        lambda: nn.LSTM(4, 6, num_layers=2, batch_first=True, bidirectional=True),
        id="lstm, two layers, both ways",
    ),
    pytest.param(
        lambda: nn.GRU(4, 6, num_layers=2, batch_first=True, bidirectional=True),
        id="gru, two layers, both ways",
    ),
]


@pytest.mark.parametrize("make", LAYERS)
def test_the_exact_twin_has_the_rounded_weights_and_rounds_nothing_else(make):
    layer, X = make(), torch.randn(3, 5, 4)
    (twin,) = exact_twin(dynamic(nn.Sequential(layer), type(layer)))
    assert type(twin) is type(layer)
    assert not any(p.requires_grad for p in twin.parameters())
    with torch.no_grad():
        assert_close(first_of(twin(X)), first_of(rounded(layer)(X)))


@pytest.mark.parametrize("make", LAYERS)
def test_the_exact_twin_is_the_quantised_layer_but_for_rounding(make):
    layer, X = make(), torch.randn(3, 5, 4)
    network = dynamic(nn.Sequential(layer), type(layer))
    with torch.no_grad():
        twin, quantized = exact_twin(network)(X), network(X)
    assert not torch.equal(first_of(twin), first_of(quantized))
    assert_close(first_of(twin), first_of(quantized), 0.03)


def test_layers_in_half_precision_have_a_twin_too():
    layer, X = nn.Linear(4, 6), torch.randn(3, 4)
    (twin,) = exact_twin(dynamic(nn.Sequential(layer), nn.Linear, dtype=torch.float16))
    weight = layer.weight.detach().half().float()
    assert_close(twin(X), nn.functional.linear(X, weight, layer.bias.detach()))


@pytest.mark.parametrize("make", [chain, Plain])
def test_a_network_without_rounding_is_its_own_twin(make):
    network = make()
    assert exact_twin(network) is network


def test_a_statically_quantised_network_is_its_own_twin():
    network = static(Convolutional(), torch.randn(8, 3, 8, 8))
    assert exact_twin(network) is network


def test_the_network_itself_keeps_its_quantised_layers():
    network = dynamic(chain(), nn.Linear)
    layers = [*network]
    twin = exact_twin(network)
    assert [*network] == layers
    assert [type(layer) for layer in twin[::2]] == [nn.Linear] * 3


def test_a_layer_with_two_names_has_one_twin():
    layer = nn.Linear(4, 4)
    network = dynamic(nn.Sequential(layer, nn.ReLU()), nn.Linear)
    network.append(network[0])
    twin = exact_twin(network)
    assert twin[0] is twin[2]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_all_samples_are_computed_as_in_the_uncut_quantised_network(kind):
    network = dynamic(Recurrent(kind), kind, nn.Linear)
    extractor, X = TorchExtractor(network, ["first"]), torch.randn(6, 5, 4)
    expected = uncut(network, extractor.exits, X)
    for output, value in zip(extractor.staged_transform(X), expected, strict=True):
        assert torch.equal(output, value)


def test_a_network_that_mixes_samples_beyond_its_rounding_is_still_refused():
    network = nn.Sequential(nn.Linear(4, 4), nn.Softmax(0), nn.Linear(4, 3))
    extractor = TorchExtractor(dynamic(network, nn.Linear), ["1"])
    with pytest.raises(ValueError, match=r"'1' .* mixes the samples"):
        extractor.begin(torch.randn(6, 4))


def test_a_statically_quantised_network_computes_each_sample_by_itself():
    network = static(Convolutional(), torch.randn(8, 3, 8, 8))
    extractor, X = TorchExtractor(network, ["first", "relu"]), torch.randn(6, 3, 8, 8)
    expected = [value.dequantize() for value in uncut(network, extractor.exits, X)]
    for (rows, output), value in zip(halving(extractor, X), expected, strict=True):
        assert torch.equal(output.dequantize(), value[rows])


def test_quantised_layers_cost_as_much_as_those_they_were_made_from():
    network, exits = Convolutional(), ["first", "second"]
    expected = TorchExtractor(network, exits).macs((3, 8, 8))
    quantized = static(network, torch.randn(8, 3, 8, 8))
    by_hand = [8 * 8 * 8 * 3 * 9, 3 * 3 * 8 * (8 // 4) * 9, 8 * 3 * 3 * 5]
    assert expected.tolist() == torch.tensor(by_hand).cumsum(0).tolist()
    assert TorchExtractor(quantized, exits).macs((3, 8, 8)).tolist() == [*expected]


def test_a_transposed_convolution_uses_its_weights_where_its_input_is():
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 2, 3, stride=2))
    expected = TorchExtractor(network, ["0"]).macs((3, 8, 8))
    assert expected.tolist() == [27 * 16 * 36, 27 * 16 * 36 + 16 * 2 * 9 * 36]
    stubs = torch.ao.quantization
    wrapped = nn.Sequential(stubs.QuantStub(), *network, stubs.DeQuantStub())
    # torch quantises their weights as a whole only.
    quantized = static(wrapped, torch.randn(8, 3, 8, 8), stubs.default_qconfig)
    assert TorchExtractor(quantized, ["1"]).macs((3, 8, 8)).tolist() == [*expected]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_dynamically_quantised_layers_cost_as_much_as_float_ones(kind):
    network = Recurrent(kind)
    expected = TorchExtractor(network, ["first"]).macs((5, 4))
    quantized = TorchExtractor(dynamic(network, kind, nn.Linear), ["first"])
    assert quantized.macs((5, 4)).tolist() == expected.tolist()


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv2d(1, 1, 1), nn.ReLU()])
def test_layers_that_show_their_weights_hide_no_cost(layer):
    assert hidden_macs(layer, torch.zeros(1, 4), torch.zeros(1, 3)) == 0


@pytest.fixture
def _engine_is_restored():
    """Torchvision sets the engine of the whole process."""
    before = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = before


@pytest.mark.usefixtures("_engine_is_restored")
def test_a_quantised_network_of_torchvision_can_be_left():
    models = pytest.importorskip("torchvision.models")
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("needs qnnpack")
    make = models.quantization.mobilenet_v2
    network = quietly(lambda: make(weights=None, quantize=True).eval())
    exits = ["features.3", "features.8", "features.16"]
    extractor, X = TorchExtractor(network, exits), torch.randn(4, 3, 64, 64)
    expected = [value.dequantize() for value in uncut(network, exits, X)]
    for (rows, output), value in zip(halving(extractor, X), expected, strict=True):
        assert torch.equal(output.dequantize(), value[rows])
    plain = TorchExtractor(models.mobilenet_v2(), exits)
    shape = (3, 224, 224)
    assert extractor.macs(shape).tolist() == plain.macs(shape).tolist()
    assert TorchExtractor(network, 4).exits


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Return extractors, and their fingerprints in another process."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    folder = tmp_path_factory.mktemp("quantized")
    here = {name: at_seed(0, make) for name, make in EXTRACTORS.items()}
    (folder / "here").write_bytes(pickle.dumps(here))
    subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "here"), str(folder / "said")],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return here, pickle.loads((folder / "said").read_bytes())


@pytest.mark.parametrize("way", ["loaded", "built"])
@pytest.mark.parametrize("name", EXTRACTORS)
def test_another_process_finds_the_same_fingerprint(elsewhere, name, way):
    here, there = elsewhere
    assert there[way][name] == here[name].fingerprint


@pytest.mark.parametrize("name", EXTRACTORS)
def test_another_weight_makes_another_fingerprint(name):
    one, same, other = (at_seed(seed, EXTRACTORS[name]) for seed in (0, 0, 1))
    assert one == same != other


def test_a_statically_quantised_network_is_told_by_its_weights():
    def make():
        return TorchExtractor(
            static(Convolutional(), torch.randn(8, 3, 8, 8)), ["first"]
        )

    one, same, other = (at_seed(seed, make) for seed in (0, 0, 1))
    assert one == same != other
