import pytest
import torch
from torch import nn

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._double import InDouble, in_double

from .helpers import assert_close, uncut
from .networks import Function, chain

CASTS = {
    "float": lambda x: x.float(),
    "half": lambda x: x.half().float(),
    "bfloat16": lambda x: x.to(torch.bfloat16).float(),
    "type": lambda x: x.type(torch.float32),
    "softmax": lambda x: x.softmax(-1, dtype=torch.float32),
    "zeros": lambda x: x + torch.zeros(4),
    "of a dtype": lambda x: x + torch.ones(4, dtype=torch.float32),
    "constant": lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]),
}


def twin_of(network, dtype=torch.float32):
    extractor = TorchExtractor(network.to(dtype), ["0"])
    return in_double(extractor._network)


@pytest.mark.parametrize("name", CASTS)
def test_no_cast_takes_the_twin_out_of_double_precision(name):
    network = nn.Sequential(nn.Linear(4, 4), Function(CASTS[name]), nn.Linear(4, 3))
    X = torch.randn(5, 4, dtype=torch.float64)
    with InDouble(), torch.no_grad():
        output = twin_of(network).whole(X)
    assert output.dtype is torch.float64
    in_single = uncut(network, [], X.float())[0]
    assert_close(output, in_single, tolerance=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_twin_has_the_weights_of_the_network(dtype):
    network = chain()
    twin = twin_of(network, dtype)
    for own, double in zip(network.parameters(), twin.whole.parameters(), strict=True):
        assert double.dtype is torch.float64
        assert torch.equal(own.double(), double)


def test_the_network_itself_stays_as_it_is():
    network = chain()
    extractor = TorchExtractor(network, ["0"])
    before = extractor.fingerprint
    in_double(extractor._network)
    assert TorchExtractor(network, ["0"]).fingerprint == before
    assert next(network.parameters()).dtype is torch.float32
