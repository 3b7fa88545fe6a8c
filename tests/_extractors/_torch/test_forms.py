"""The network uncut, and in other memory formats."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sk_e2cm import TorchExtractor

from .helpers import assert_close, assert_right, at_seed, uncut
from .networks import (
    Function,
    Layers,
    ResidualNetwork,
    chain,
    conv_chain,
    in_place_chain,
    lived_in,
    token_network,
)

CHANNELS_LAST = torch.channels_last


def residual_extractor(**options):
    network = at_seed(0, lambda: lived_in(ResidualNetwork()).eval())
    return TorchExtractor(network, ["block1", "block2"], **options)


def images(n=5):
    return at_seed(1, lambda: torch.randn(n, 3, 8, 8))


def test_uncut_gives_the_bits_of_the_network(residual):
    X = images()
    extractor = TorchExtractor(residual, 2)
    assert torch.equal(extractor.uncut(X.numpy()), uncut(residual, [], X)[0])


def test_uncut_ends_where_the_stages_do(residual):
    X = images()
    extractor = TorchExtractor(residual, ["block1"], output="block2")
    assert torch.equal(extractor.uncut(X.numpy()), uncut(residual, ["block2"], X)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_uncut_converts_the_input(dtype):
    network, X = chain(), (9 * np.random.default_rng(0).random((5, 4))).astype(dtype)
    output = TorchExtractor(network, ["0"]).uncut(X)
    assert_close(output, uncut(network, [], torch.from_numpy(X).float())[0])


def test_uncut_takes_token_ids():
    network, X = token_network(), np.arange(20).reshape(4, 5) % 10
    output = TorchExtractor(network, ["0"]).uncut(X)
    assert_close(output, uncut(network, [], torch.from_numpy(X))[0])


@pytest.mark.parametrize("output", [None, "3"])
def test_uncut_never_writes_to_the_input(output):
    X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    before = X.copy()
    TorchExtractor(in_place_chain(), ["1"], output=output).uncut(X)
    np.testing.assert_array_equal(X, before)


def test_uncut_leaves_the_extractor_and_the_network_as_they_were(residual):
    extractor = TorchExtractor(residual, 2)
    before = extractor.fingerprint
    extractor.uncut(images().numpy())
    assert pickle.loads(pickle.dumps(extractor)).fingerprint == before
    assert extractor.findings == ({}, {}, {}, {})


def test_an_extractor_of_images_has_two_layouts_the_first_its_own():
    extractor = residual_extractor()
    own, other = extractor.layouts()
    assert own is extractor
    assert other is not extractor
    assert extractor.layouts() == (own, other)
    assert other.layouts() == (other, own)
    assert other.layouts()[1] is extractor


@pytest.mark.parametrize("fold", [True, False])
def test_the_other_layout_computes_the_same(fold):
    extractor = residual_extractor(fold=fold)
    assert_right(extractor.layouts()[1], extractor._module, images())


def test_the_other_layout_is_channels_last():
    X = images()
    _, other = residual_extractor().layouts()
    state = other.begin(X)
    for stage in range(2):
        state, output = other.advance(state, stage)
        assert output.is_contiguous(memory_format=CHANNELS_LAST)
        state = other.keep(state, np.arange(3))
    assert X.is_contiguous()


def test_the_other_layout_runs_the_network_as_given_if_uncut():
    extractor, X = residual_extractor(), images().numpy()
    _, other = extractor.layouts()
    assert torch.equal(other.uncut(X), extractor.uncut(X))
    assert other._given is extractor._given


@pytest.mark.parametrize(
    "make", [chain, token_network, lambda: conv_chain().to(memory_format=CHANNELS_LAST)]
)
def test_there_is_one_layout_where_no_convolution_would_change(make):
    extractor = TorchExtractor(make(), ["0"])
    assert extractor.layouts() == (extractor,)


def test_layouts_are_told_apart():
    own, other = residual_extractor().layouts()
    assert own != other
    assert own.fingerprint != other.fingerprint
    assert other == residual_extractor().layouts()[1]
    assert other.stage_names == own.stage_names
    np.testing.assert_array_equal(other.macs((3, 8, 8)), own.macs((3, 8, 8)))
    assert other.channel_axes((3, 8, 8)) == own.channel_axes((3, 8, 8))


@pytest.mark.parametrize("fold", [True, False])
def test_a_pickle_keeps_the_layout(fold):
    X = images()
    own, other = residual_extractor(fold=fold).layouts()
    loaded = pickle.loads(pickle.dumps(other))
    assert loaded == other
    assert loaded.layouts()[1] == own
    loaded.findings = other.findings
    for actual, expected in zip(
        loaded.staged_transform(X), other.staged_transform(X), strict=True
    ):
        assert torch.equal(actual, expected)
        assert actual.stride() == expected.stride()


def test_a_layout_has_the_same_fingerprint_in_another_process(tmp_path):
    _, other = residual_extractor().layouts()
    (tmp_path / "pickle").write_bytes(pickle.dumps(other))
    code = (
        "import pickle, sys\n"
        "from tests._extractors._torch.test_forms import residual_extractor\n"
        "loaded = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(loaded.fingerprint, residual_extractor().layouts()[1].fingerprint)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pickle")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert said == [other.fingerprint] * 2


def test_a_layout_stays_on_another_device():
    own, other = residual_extractor().layouts()
    assert other.to("cpu") is other
    # No other device may be there: the copy that would be made is made by hand.
    moved = own._moved(torch.device("cpu"))
    assert moved == own
    assert other._moved(torch.device("cpu")) == other


class NeedsContiguous(Layers):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.first(x)
        return self.head(x.view(x.size(0), -1))


def test_samples_are_refused_in_a_layout_that_the_network_does_not_take():
    X = torch.randn(5, 2, 3, 3)
    own, other = TorchExtractor(NeedsContiguous(), ["first"]).layouts()
    own.begin(X)
    with pytest.raises(ValueError, match="view size is not compatible"):
        other.begin(X)


def test_what_is_no_weight_of_a_convolution_keeps_its_strides():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), Function(torch.relu))
    network.register_parameter("table", nn.Parameter(torch.randn(2, 3, 4, 5)))
    _, other = TorchExtractor(network, ["0"]).layouts()
    assert other._network.whole.table.is_contiguous()
    assert not other._network.whole[0].weight.is_contiguous()
