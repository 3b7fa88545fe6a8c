import re

import pytest
import torch
from torch import nn

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._trace import Trace

from . import networks
from .helpers import assert_right
from .networks import (
    Attention,
    Branching,
    Layers,
    OptionalInputs,
    Pair,
    Plain,
    ReturnsWhatTheyAre,
    SharedLayer,
    WithBranch,
    token_network,
)


class NeverCalled(Layers):
    def forward(self, x):
        return self.head(self.first(x)) + self.third.weight[:3, 0]


class TwoInputs(Layers):
    def forward(self, x, mask):
        return self.head(self.first(x) * mask)


class SecondName(Layers):
    """Has a module inside a leaf that is also known by a name outside of it."""

    def __init__(self, leaf, inside):
        super().__init__()
        self.second = leaf
        self.alias = leaf.get_submodule(inside)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


class Unregistered(nn.Module):
    """Keeps its layer in a list of Python's, where torch does not see it."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4)]

    def forward(self, x):
        return self.layers[0](x)


class ViewOfTokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.lookup = nn.Embedding(5, 3)

    def forward(self, x):
        return self.lookup(x.t()[1:].clamp(min=1)).mean(0)


class WithoutChildren(nn.Sequential):
    """Its length is 0, so that as a condition it is false."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class LooksUp(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(nn.functional.embedding(x, self.table)).sum(1)


@pytest.fixture
def _few_attempts(monkeypatch):
    attempts = iter(range(20))
    attempt = Trace._trace_once

    def counted(self, opened):
        if next(attempts, None) is None:
            pytest.fail("tracing goes on for ever")
        return attempt(self, opened)

    monkeypatch.setattr(Trace, "_trace_once", counted)


def assert_refused(exits, network, message):
    with pytest.raises(ValueError, match=message):
        TorchExtractor(network, exits)


def test_an_untraceable_module_is_computed_in_one_piece():
    extractor = TorchExtractor(WithBranch(), ["first", "second", "third"])
    assert extractor.stage_names == ("first", "second", "third", "output")


def test_stages_around_an_untraceable_module_are_right():
    network = WithBranch()
    extractor = TorchExtractor(network, ["first", "second"])
    assert_right(extractor, network, torch.randn(8, 4))


def test_one_attempt_serves_all_modules_of_an_untraceable_class(monkeypatch):
    network = nn.Sequential(*(Branching() for _ in range(9)), nn.Linear(4, 2)).eval()
    calls = []
    forward = Branching.forward
    monkeypatch.setattr(
        Branching, "forward", lambda self, x: calls.append(self) or forward(self, x)
    )
    Trace(network)
    assert calls == [network[0]]


@pytest.mark.parametrize("name", ["second.inner", "third.inner"])
def test_an_exit_in_an_untraceable_module_names_the_line(name):
    file = re.escape(networks.__file__)
    code = re.escape("if x.abs().sum() > 1e9:")
    module = name.split(".")[0]
    assert_refused(
        [name], WithBranch(), rf"'{module}' \(Branching\).*{file}:\d+.*{code}"
    )


def test_a_network_that_itself_cannot_be_traced_names_the_line():
    assert_refused(
        ["inner"], Branching(), r"^Branching cannot .*if x\.abs\(\)\.sum\(\) > 1e9"
    )


def test_an_exit_in_an_untraceable_module_under_another_name_names_the_line():
    network = SecondName(Branching(), "inner")
    assert_refused(
        ["alias"], network, r"lies inside 'second' \(Branching\).*if x\.abs\(\)"
    )


def test_an_exit_in_a_layer_of_torch_under_another_name_is_refused():
    network = SecondName(nn.TransformerEncoderLayer(4, 1, 8), "linear1")
    assert_refused(
        ["alias"], network, r"'second' \(TransformerEncoderLayer\).*one piece"
    )


def test_an_exit_in_an_untraceable_layer_of_torch_names_the_line():
    assert_refused(
        ["layer.norm1"], Attention(), r"^'layer' \(Tr.*/transformer\.py:\d+, in "
    )


@pytest.mark.usefixtures("_few_attempts")
def test_a_module_with_unregistered_layers_is_computed_in_one_piece():
    network = nn.Sequential(nn.Linear(4, 4), Unregistered(), nn.Linear(4, 3))
    extractor = TorchExtractor(network, ["0", "1"])
    assert_right(extractor, network, torch.randn(8, 4))


@pytest.mark.usefixtures("_few_attempts")
def test_a_network_with_unregistered_layers_names_the_line():
    assert_refused(["layers"], Unregistered(), "no module named 'layers'")
    assert_refused(
        [], Unregistered(), r"Unregistered cannot .*return self\.layers\[0\]\(x\)"
    )


def test_an_untraceable_module_of_length_zero_is_computed_in_one_piece():
    network = nn.Sequential(nn.Linear(4, 4), WithoutChildren(), nn.Linear(4, 2))
    assert_right(TorchExtractor(network, ["0", "1"]), network, torch.rand(8, 4))


def test_optional_inputs_take_their_defaults():
    network = OptionalInputs()
    extractor = TorchExtractor(network, ["second"])
    assert_right(extractor, network, torch.randn(8, 4))


def test_an_input_without_a_default_is_named():
    assert_refused(["first"], TwoInputs(), "TwoInputs cannot .* argument: 'mask'")


@pytest.mark.parametrize("name", ["secnd", "second.0", "Second"])
def test_an_unknown_name_is_answered_with_names_near_it(name):
    assert_refused([name], Plain(), rf"Plain has no module named '{name}'.*'second'")


def test_an_unknown_name_like_no_other_is_answered_with_all_names():
    assert_refused(["zzz"], Plain(), "'zzz'.*'first', 'second', 'third', 'head'")


def test_an_unknown_output_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no module named 'heat'.*'head'"):
        TorchExtractor(Plain(), ["first"], output="heat")


def test_an_exit_that_is_used_twice_is_refused():
    assert_refused(["first"], SharedLayer(), "'first' is ambiguous.* 2 times")


@pytest.mark.parametrize("name", ["second", "third"])
def test_an_exit_that_is_never_called_is_refused(name):
    assert_refused([name], NeverCalled(), f"'{name}' is not available.*never calls it")


@pytest.mark.parametrize("container", [tuple, list, dict, Pair])
def test_a_network_that_returns_a_container_needs_output(container):
    network = ReturnsWhatTheyAre(container)
    name = container.__name__
    assert_refused(["linear"], network, f"the network returns a {name} .*output=")


@pytest.mark.parametrize("container", [tuple, list, dict, Pair])
def test_an_exit_that_returns_a_container_is_refused(container):
    network = nn.Sequential(ReturnsWhatTheyAre(container), nn.Flatten())
    network[1].forward = lambda value: torch.cat(list(value), 1)
    with pytest.raises(ValueError, match="'0'"):
        TorchExtractor(network, ["0"])


@pytest.mark.parametrize(
    ("network", "dtype"),
    [
        (Plain(), torch.float32),
        (Plain().double(), torch.float64),
        (Plain().bfloat16(), torch.bfloat16),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), torch.float32),
        (token_network(), torch.int64),
        (nn.Sequential(token_network(), nn.ReLU()).half(), torch.int64),
        (LooksUp(), torch.int64),
        (nn.Sequential(ViewOfTokens(), nn.ReLU()), torch.int64),
    ],
)
def test_the_input_is_of_integers_where_it_is_looked_up(network, dtype):
    assert Trace(network.eval()).input_dtype() is dtype
