import pytest
import torch
from torch import nn

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._cut import cut
from sk_e2cm._extractors._torch._placement import places
from sk_e2cm._extractors._torch._rows import Liveness
from sk_e2cm._extractors._torch._trace import Trace

from .helpers import assert_close, assert_right, uncut
from .networks import (
    BufferRead,
    Layers,
    MutatedAfterTheCut,
    Plain,
    SequenceFirst,
    SharedLayer,
    SkipAcross,
    TwoAlive,
    chain,
    conv_chain,
    in_place_chain,
)


class Constants(Layers):
    def forward(self, x):
        x = self.second(self.first(x))
        return self.head(self.third(x + torch.ones(4)) * torch.tensor(2.0))


class Unused(Layers):
    def forward(self, x):
        self.third(x)
        return self.head(self.second(self.first(x)))


def stages_of(network, names, output=""):
    trace = Trace(network.eval(), [*names, output])
    ends = [trace.node(name) for name in (*names, output)]
    return cut(trace.root, trace.graph, ends)


def n_inputs(stage):
    return sum(node.op == "placeholder" for node in stage.graph.nodes)


def called(stage):
    return [n.target for n in stage.graph.nodes if n.op == "call_module"]


@pytest.mark.parametrize(
    ("make", "exits"),
    [
        (chain, ["0"]),
        (chain, ["0", "1", "2", "3"]),
        (in_place_chain, ["1", "3", "4"]),
        (in_place_chain, ["2"]),
        (Plain, ["first", "second", "third"]),
        (SkipAcross, ["first", "second", "third"]),
        (TwoAlive, ["first", "second", "third"]),
        (SharedLayer, ["second"]),
        (BufferRead, ["first", "second", "third"]),
        (MutatedAfterTheCut, ["first", "second", "third"]),
        (Constants, ["second"]),
    ],
)
def test_stages_compute_what_the_uncut_network_computes(make, exits):
    network, X = make(), torch.randn(8, 4)
    assert_right(TorchExtractor(network, exits), network, X)


@pytest.mark.parametrize(
    "exits",
    [
        ["block1", "block2", "block3"],
        ["stem", "block2.bn1", "block2.bn2", "pool"],
        ["block2.skip"],
        ["block1.conv2", "block3.conv1"],
    ],
)
def test_a_residual_network_may_be_cut_between_and_within_blocks(
    residual, images, exits
):
    assert_right(TorchExtractor(residual, exits), residual, images)


def test_convolutions_and_a_flattening_may_be_cut():
    network = conv_chain()
    extractor = TorchExtractor(network, ["0", "1", "2", "3"])
    assert_right(extractor, network, torch.randn(8, 3, 8, 8))


def test_rows_may_lie_on_another_axis():
    network = SequenceFirst()
    extractor = TorchExtractor(network, ["first", "second"])
    assert_right(extractor, network, torch.randn(8, 5, 4), axis=1)


def test_rows_of_the_input_may_lie_on_the_first_axis_and_later_on_the_second():
    network = nn.Sequential(nn.Linear(4, 6), SequenceFirst())
    network[1].first = nn.Linear(6, 4)
    extractor = TorchExtractor(network, ["0", "1.second"])
    X = torch.randn(8, 5, 4)
    expected = uncut(network, extractor.exits, X)
    for stage, output in enumerate(extractor.staged_transform(X)):
        assert_close(output, expected[stage].movedim(int(stage > 0), 0))


@pytest.mark.parametrize("make", [BufferRead, SharedLayer, Plain])
def test_weights_and_buffers_are_not_carried_from_stage_to_stage(make):
    stages = stages_of(make(), ["second"])
    assert [n_inputs(stage) for stage in stages] == [1, 1]


@pytest.mark.parametrize(
    ("make", "n_alive"), [(Plain, 1), (SkipAcross, 2), (TwoAlive, 3), (Unused, 1)]
)
def test_what_is_needed_later_is_alive_and_nothing_else(make, n_alive):
    trace = Trace(make().eval())
    live = Liveness(trace.graph, trace.node(""))
    assert len(live.after(trace.node("second"))) == n_alive


def test_what_is_needed_only_after_the_last_stage_is_not_alive():
    trace = Trace(SkipAcross().eval())
    live = Liveness(trace.graph, trace.node("third"))
    assert live.after(trace.node("second")) == [trace.node("second")]


def test_a_stage_gives_its_end_first_and_then_what_is_alive():
    network, X = SkipAcross(), torch.randn(3, 4)
    first, second, _ = uncut(network, ["first", "second"], X)
    given = stages_of(network, ["second"])[0](X)
    for value, expected in zip(given, [second, first], strict=True):
        assert_close(value.detach(), expected)


def test_each_layer_is_in_one_stage_and_none_after_the_last():
    stages = stages_of(Plain(), ["first", "second"], output="third")
    layers = [["network.first"], ["network.second"], ["network.third"]]
    assert [called(stage) for stage in stages] == layers


def test_stages_share_the_weights_of_the_network():
    network = Plain()
    weights = {id(p) for p in network.parameters()}
    for stage in stages_of(network, ["second"]):
        assert {id(p) for p in stage.parameters()} <= weights


def test_a_large_network_may_be_cut_at_every_place_at_once(large, images):
    trace = Trace(large)
    exits = [name for node, name in places(trace).items() if node is not trace.node("")]
    assert len(exits) > 50
    assert_right(TorchExtractor(large, exits), large, images)
