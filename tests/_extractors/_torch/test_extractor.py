from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep

import numpy as np
import pytest
import torch
from torch import fx, nn

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch import _extractor

from .helpers import assert_close, assert_right, uncut
from .networks import (
    Branching,
    Pair,
    Plain,
    ReturnsWhatTheyAre,
    SequenceFirst,
    SkipAcross,
    TwoAlive,
    chain,
    in_place_chain,
    lived_in,
    token_network,
)

NAMED = {
    "ResNet": ["relu", "layer1", "layer2.0.bn1", "layer3.1", "avgpool"],
    "MobileNetV3": ["features.0", "features.3.block.1", "features.8", "avgpool"],
}


def test_named_exits_of_large_networks_are_right(large):
    extractor = TorchExtractor(large, NAMED[type(large).__name__])
    assert_right(extractor, large, torch.randn(6, 3, 64, 64))


def test_large_networks_may_end_before_their_head(large):
    *exits, output = NAMED[type(large).__name__]
    extractor = TorchExtractor(large, exits, output=output)
    X = torch.randn(3, 3, 32, 32)
    assert extractor.stage_names == (*exits, "avgpool")
    expected = uncut(large, NAMED[type(large).__name__], X)[:-1]
    for actual, value in zip(extractor.staged_transform(X), expected, strict=True):
        assert_close(actual, value)


def test_a_network_in_training_mode_is_run_in_eval_mode():
    network = lived_in(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()))
    assert_right(TorchExtractor(network.train(), ["0"]), network, torch.randn(8, 4))


@pytest.mark.parametrize("exits", [(), ["1"], ["0", "3"]])
def test_there_is_one_stage_more_than_exits(exits):
    extractor = TorchExtractor(chain(), exits)
    assert extractor.exits == tuple(exits)
    assert extractor.stage_names == (*exits, "output")
    assert len(list(extractor.staged_transform(torch.zeros(2, 4)))) == len(exits) + 1


@pytest.mark.parametrize(
    "exits",
    [("0", "3"), ["0", "3"], np.array(["0", "3"]), (name for name in "03")],
    ids=["tuple", "list", "array", "generator"],
)
def test_exits_may_come_in_any_sequence(exits):
    network = chain()
    extractor = TorchExtractor(network, exits)
    assert extractor == TorchExtractor(network, ["0", "3"])
    assert repr(extractor) == "TorchExtractor(Sequential, exits=['0', '3'])"


def test_one_exit_may_be_given_as_a_string():
    assert TorchExtractor(Plain(), "second").exits == ("second",)


@pytest.mark.parametrize("exits", [None, 2.0, [1], [nn.ReLU()], ["0", None]])
def test_exits_of_another_type_are_refused(exits):
    with pytest.raises(TypeError, match="exits"):
        TorchExtractor(chain(), exits)


@pytest.mark.parametrize("module", [None, "resnet18", nn.Linear, lambda x: x])
def test_what_is_no_module_is_refused(module):
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got "):
        TorchExtractor(module, ["0"])


@pytest.mark.parametrize("hide", [torch.compile, torch.jit.script])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_compiled_network_is_refused(hide):
    with pytest.raises(TypeError, match="a compiled network cannot be cut"):
        TorchExtractor(hide(chain()), ["0"])


@pytest.mark.parametrize(
    ("exits", "output", "message"),
    [
        (["first", "third", "first"], None, "'first' more than once"),
        (["second", "first"], None, "'second' is computed after 'first'"),
        (["head"], None, "'head' and the network's output are the same value"),
        (["third"], "second", "'third' is computed after 'second'"),
        (["second"], "second", "'second' and 'second' are the same value"),
    ],
)
def test_exits_that_give_no_stages_are_refused(exits, output, message):
    with pytest.raises(ValueError, match=message):
        TorchExtractor(Plain(), exits, output=output)


def test_a_module_and_its_last_part_are_no_two_exits():
    network = nn.Sequential(chain(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"'0\.4' and '0' are the same value"):
        TorchExtractor(network, ["0.4", "0"])


@pytest.mark.parametrize("container", [tuple, list, dict, Pair])
def test_output_may_lie_inside_a_network_that_returns_a_container(container):
    network, X = ReturnsWhatTheyAre(container), torch.randn(3, 4)
    (output,) = TorchExtractor(network, [], output="linear").staged_transform(X)
    assert_close(output, uncut(network, ["linear"], X)[0])


def test_the_repr_shows_the_call():
    extractor = TorchExtractor(Plain(), ["first"], output="third")
    assert repr(extractor) == "TorchExtractor(Plain, exits=['first'], output='third')"


def test_modules_may_be_chained():
    modules = [nn.Linear(4, 4), Branching(), SkipAcross()]
    extractor = TorchExtractor.from_modules(modules)
    assert extractor.exits == ("0", "1")
    assert_right(extractor, nn.Sequential(*modules), torch.randn(8, 4))


def test_modules_may_come_from_a_generator_but_not_from_nowhere():
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)]
    extractor = TorchExtractor.from_modules(layer for layer in layers)
    assert extractor.exits == ("0", "1")
    with pytest.raises(ValueError, match="at least one module"):
        TorchExtractor.from_modules([])


def test_one_module_may_serve_two_stages():
    layer = nn.Linear(4, 4)
    modules = [layer, nn.ReLU(), layer]
    extractor = TorchExtractor.from_modules(modules)
    X = torch.randn(3, 4)
    expected = [layer(X), layer(X).relu(), layer(layer(X).relu())]
    for output, value in zip(extractor.staged_transform(X), expected, strict=True):
        assert_close(output, value.detach())
    assert extractor.macs((4,)).tolist() == [16, 16, 32]


@pytest.mark.parametrize("module", [None, "relu", torch.relu])
def test_a_chain_of_what_are_no_modules_is_refused(module):
    with pytest.raises(TypeError, match="Module"):
        TorchExtractor.from_modules([nn.Linear(4, 4), module])


@pytest.mark.parametrize("as_numpy", [True, False])
def test_the_input_is_never_written_to(as_numpy):
    X = torch.randn(6, 4)
    before = X.clone()
    extractor = TorchExtractor(in_place_chain(), ["1", "3"])
    list(extractor.staged_transform(X.numpy() if as_numpy else X))
    assert torch.equal(X, before)


def test_rows_that_were_kept_do_not_share_memory_with_the_input():
    X = torch.randn(6, 4)
    before = X.clone()
    extractor = TorchExtractor(in_place_chain(), ["1"])
    state = extractor.keep(extractor.begin(X), np.arange(6))
    extractor.advance(extractor.advance(state, 0)[0], 1)
    assert torch.equal(X, before)


@pytest.mark.parametrize("as_numpy", [True, False])
def test_outputs_outlive_the_stages_that_overwrite_them(as_numpy):
    network, X = in_place_chain(), torch.randn(6, 4)
    extractor = TorchExtractor(network, ["1", "2", "3"])
    outputs = list(extractor.staged_transform(X.numpy() if as_numpy else X))
    expected = uncut(network, extractor.exits, X)
    for output, value in zip(outputs, expected, strict=True):
        assert_close(torch.as_tensor(output), value)


def test_outputs_are_of_the_kind_of_the_input():
    extractor = TorchExtractor(chain(), ["0"])
    for X in (torch.zeros(2, 4), np.zeros((2, 4)), [[0.0] * 4] * 2):
        kind = torch.Tensor if isinstance(X, torch.Tensor) else np.ndarray
        assert [type(out) for out in extractor.staged_transform(X)] == [kind, kind]


def test_outputs_may_be_used_with_gradients():
    extractor = TorchExtractor(chain(), ["0"])
    weight = torch.ones(3, requires_grad=True)
    *_, output = extractor.staged_transform(torch.ones(2, 4))
    (output * weight).sum().backward()
    assert_close(weight.grad, output.sum(0))


@pytest.mark.parametrize(
    "X",
    [
        np.arange(12).reshape(3, 4),
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.arange(12.0).reshape(3, 4),
        np.arange(12, dtype=np.float16).reshape(3, 4),
        np.arange(12.0, dtype=">f4").reshape(3, 4),
        np.arange(12.0)[::-1].reshape(4, 3).T,
        np.broadcast_to(np.arange(4.0), (3, 4)),
        torch.arange(12).view(3, 4),
        torch.arange(12.0, dtype=torch.float64, requires_grad=True).view(3, 4),
    ],
    ids=lambda X: f"{type(X).__name__}-{X.dtype}",
)
def test_the_input_is_converted_to_the_type_of_the_network(X):
    network = chain()
    tensor = X.detach() if isinstance(X, torch.Tensor) else torch.tensor(X.tolist())
    expected = uncut(network, [], tensor.float())[0]
    *_, output = TorchExtractor(network, ["0"]).staged_transform(X)
    assert_close(torch.as_tensor(output), expected)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.float32])
def test_tokens_stay_integers(dtype):
    network, X = token_network(), np.arange(20).reshape(4, 5) % 10
    extractor = TorchExtractor(network, ["0", "2"])
    expected = uncut(network, ["0", "2"], torch.from_numpy(X))
    outputs = extractor.staged_transform(X.astype(dtype))
    for output, value in zip(outputs, expected, strict=True):
        assert_close(torch.as_tensor(output), value)


def test_tokens_of_a_network_in_low_precision_stay_integers():
    network, X = token_network().bfloat16(), torch.arange(20).view(4, 5) % 10
    *_, output = TorchExtractor(network, ["0"]).staged_transform(X)
    assert output.dtype is torch.bfloat16
    assert_close(output, uncut(network, [], X)[0])


@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        (torch.bfloat16, np.float32),
        (torch.float16, np.float16),
        (torch.float32, np.float32),
        (torch.float64, np.float64),
    ],
    ids=str,
)
def test_arrays_come_out_in_the_precision_of_the_network_or_float32(dtype, given):
    network, X = chain().to(dtype), torch.randn(3, 4)
    outputs = list(TorchExtractor(network, ["0"]).staged_transform(X.numpy()))
    assert [output.dtype for output in outputs] == [given, given]
    expected = uncut(network, [], X.to(dtype))[0]
    assert_close(
        torch.from_numpy(outputs[-1]), expected.to(getattr(torch, given.__name__))
    )


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "cpu:nonsense"])
def test_a_device_that_is_not_there_is_refused_by_name(device):
    with pytest.raises(ValueError, match=f"device '{device}' is not available"):
        TorchExtractor(chain(), ["0"]).to(device)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_an_extractor_that_is_on_the_device_is_handed_back(device):
    extractor = TorchExtractor(chain(), ["0"])
    assert extractor.device == torch.device("cpu")
    assert extractor.to(device) is extractor


def test_an_extractor_is_moved_once_and_back_to_itself(monkeypatch):
    # A device that every machine has, if only for shapes.
    monkeypatch.setattr(_extractor, "check_module", lambda module: None)
    extractor = TorchExtractor(chain(), ["0"], output="3")
    moved = extractor.to("meta")
    assert moved.device.type == "meta"
    assert moved.stage_names == extractor.stage_names
    assert extractor.to("meta") is moved
    assert moved.to("cpu") is extractor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [TwoAlive, Plain])
def test_a_gpu_computes_the_same(make):
    network, X = make(), torch.randn(8, 4)
    moved = TorchExtractor(network, ["second"]).to("cuda")
    *_, output = moved.staged_transform(X)
    assert moved.device.type == output.device.type == "cuda"
    assert_close(output.cpu(), uncut(network, [], X)[0], 1e-3)


@pytest.mark.parametrize("output", [None, "3"])
def test_nothing_is_cut_once_the_extractor_is_made(monkeypatch, output):
    extractor = TorchExtractor(chain(), ["0"], output=output)
    monkeypatch.setattr(fx.Tracer, "trace", lambda *_: pytest.fail("traced"))
    monkeypatch.setattr(fx, "GraphModule", lambda *_: pytest.fail("cut"))
    outputs = list(extractor.staged_transform(torch.zeros(3, 4)))
    assert [len(output) for output in outputs] == [3, 3]


@pytest.mark.parametrize("make", [in_place_chain, SequenceFirst])
def test_threads_may_share_an_extractor(make):
    n_threads = 4
    network = make()
    exits, shape = (["1"], (4,)) if make is in_place_chain else (["second"], (5, 4))
    batches = [torch.randn(3 + i, *shape) for i in range(n_threads)]
    expected = [
        list(TorchExtractor(network, exits).staged_transform(X)) for X in batches
    ]
    extractor = TorchExtractor(network, exits)
    together = Barrier(n_threads)

    def run(X):
        together.wait()
        return [list(extractor.staged_transform(X)) for _ in range(20)]

    with ThreadPoolExecutor(n_threads) as pool:
        for runs, outputs in zip(pool.map(run, batches), expected, strict=True):
            for actual in runs:
                for output, value in zip(actual, outputs, strict=True):
                    assert_close(output, value)


def test_one_thread_traces_at_a_time(monkeypatch):
    tracing, most = [], 0
    trace = fx.Tracer.trace

    def watched(*args):
        nonlocal most
        tracing.append(args)
        most = max(most, len(tracing))
        sleep(0.01)
        tracing.pop()
        return trace(*args)

    monkeypatch.setattr(fx.Tracer, "trace", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: TorchExtractor(chain(), ["0"]), range(4)))
    assert most == 1


def test_extractors_may_be_made_in_several_threads():
    networks = [TwoAlive() for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: TorchExtractor(n, ["second"]), networks))
    for extractor, network in zip(made, networks, strict=True):
        assert_right(extractor, network, torch.randn(8, 4))
