import copy
import pickle
import threading

import joblib
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._freeze import (
    device_of_weights,
    frozen_copy,
    like,
    picklable,
    with_tensors,
)

from .helpers import assert_close, at_seed
from .networks import BufferRead, LSTMStateAlive, Plain, chain, normed


def pickled(module):
    return pickle.loads(pickle.dumps(picklable(module)))


def pruned():
    network = chain()
    prune.random_unstructured(network[0], "weight", 0.5)
    return network


def weight_normed():
    return normed(nn.utils.weight_norm)


def tied():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def plain_attributes():
    network = chain()
    network.table = torch.randn(3)
    network.by_name = {"here": [torch.arange(3), (torch.eye(2), "text")]}
    network[0].same_table = network.table
    return network


def snapshot(module):
    """Return all that can be seen of a module."""
    tensors = {name: t.clone() for name, t in module.state_dict().items()}
    flags = [(m.training, sorted(vars(m))) for m in module.modules()]
    grads = [(p.requires_grad, p.grad) for p in module.parameters()]
    hooks = [len(m._forward_hooks) for m in module.modules()]
    return tensors, (flags, grads, hooks)


COPIES = pytest.mark.parametrize("copied", [frozen_copy, pickled])
NETWORKS = [
    chain,
    tied,
    pruned,
    weight_normed,
    plain_attributes,
    BufferRead,
    LSTMStateAlive,
]
DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.complex64,
    torch.int64,
    torch.int8,
    torch.bool,
]


@COPIES
@pytest.mark.parametrize("make", NETWORKS)
def test_a_copy_computes_the_same(make, copied):
    network, X = make().eval(), torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(copied(network)(X), network(X))


@COPIES
@pytest.mark.parametrize("make", NETWORKS)
def test_a_copy_shares_no_memory(make, copied):
    network = make()
    copies = {t.data_ptr() for t in copied(network).state_dict().values()}
    assert copies.isdisjoint(t.data_ptr() for t in network.state_dict().values())


@COPIES
def test_a_copy_takes_no_gradients(copied):
    parameters = list(copied(chain()).parameters())
    assert len(parameters) == 6
    assert not any(p.requires_grad for p in parameters)


@COPIES
def test_tied_weights_stay_tied(copied):
    network = copied(tied())
    assert network[0].weight is network[2].weight


@COPIES
def test_a_tensor_that_is_no_parameter_is_kept_and_shared(copied):
    network = plain_attributes()
    kept = copied(network)
    assert torch.equal(kept.table, network.table)
    assert kept[0].same_table is kept.table
    assert torch.equal(kept.by_name["here"][0], torch.arange(3))
    assert torch.equal(kept.by_name["here"][1][0], torch.eye(2))
    assert kept.table.data_ptr() != network.table.data_ptr()


@COPIES
def test_parameters_stay_parameters_and_buffers_buffers(copied):
    network = BufferRead()
    kept = copied(network)
    for of in ("named_parameters", "named_buffers"):
        names = [name for name, _ in getattr(network, of)()]
        assert [name for name, _ in getattr(kept, of)()] == names


@COPIES
def test_weights_in_channels_last_order_stay_so(copied):
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    weight = copied(network)[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, network[0].weight)


@COPIES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_number_is_kept(copied, dtype):
    network = nn.Module()
    network.register_buffer("values", torch.tensor([[0, 1], [7, 100]]).to(dtype))
    kept = copied(network).values
    assert kept.dtype is dtype
    assert torch.equal(kept, network.values)


TENSORS = {
    "a number": torch.tensor(3.0),
    "no entries": torch.empty(0),
    "no rows": torch.empty(0, 3),
    "expanded": torch.ones(1).expand(4),
    "one expanded entry": torch.ones(()).expand(1),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "part of a row": torch.arange(6.0)[1::2],
    "one entry of a column": torch.arange(6.0).view(3, 2)[1:2, 1:],
    "transposed kernel": torch.arange(18.0).view(2, 1, 3, 3).transpose(2, 3),
    "volume in channels-last order": torch.rand(2, 3, 2, 2, 2).to(
        memory_format=torch.channels_last_3d
    ),
}


@COPIES
@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_every_layout_is_kept_or_made_plain(copied, tensor):
    network = nn.Module()
    network.register_buffer("values", tensor)
    assert torch.equal(copied(network).values, tensor)


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_a_pickle_has_the_hash_of_what_it_was_made_of(tensor):
    network = nn.Module()
    network.register_buffer("values", tensor)
    network = frozen_copy(network)
    assert joblib.hash(picklable(pickled(network))) == joblib.hash(picklable(network))


@pytest.mark.parametrize("make", NETWORKS)
def test_the_module_that_is_copied_stays_as_it_was(make):
    network = make().train()
    tensors, rest = snapshot(network)
    frozen_copy(network)
    picklable(network)
    TorchExtractor(network, ["0" if isinstance(network, nn.Sequential) else "second"])
    assert snapshot(network)[1] == rest
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name])


def test_a_copy_is_in_eval_mode():
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2))).train()
    assert not any(module.training for module in frozen_copy(network).modules())


def test_a_pickle_holds_no_tensors_of_torch():
    assert b"torch._utils" not in pickle.dumps(picklable(chain()))


def test_a_pickle_is_of_the_same_bytes_each_time():
    first, second = (at_seed(0, plain_attributes) for _ in range(2))
    assert joblib.hash(picklable(first)) == joblib.hash(picklable(second))


@pytest.mark.parametrize("name", ["table", "0.weight", "4.bias"])
def test_every_tensor_counts_in_the_hash(name):
    network = plain_attributes()
    before = joblib.hash(picklable(network))
    owner, _, attribute = name.rpartition(".")
    with torch.no_grad():
        getattr(network.get_submodule(owner), attribute)[0] += 1
    assert joblib.hash(picklable(network)) != before


def test_a_conversion_meets_each_tensor_once():
    met = []
    network = tied()
    with_tensors(network, lambda t: met.append(t) or t)
    assert sorted(map(id, met)) == sorted(map(id, network.parameters()))


def test_what_is_like_a_parameter_is_a_frozen_parameter():
    kept = like(nn.Parameter(torch.ones(2)), torch.zeros(2))
    assert isinstance(kept, nn.Parameter)
    assert not kept.requires_grad
    assert not isinstance(like(torch.ones(2), torch.zeros(2)), nn.Parameter)


def test_a_pruned_network_that_has_run_can_be_cut():
    network, X = pruned(), torch.randn(5, 4)
    expected = network(X).detach()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(network)
    *_, output = TorchExtractor(network, ["0"]).staged_transform(X)
    assert_close(output, expected)


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.BatchNorm1d(2, affine=False), Plain()]
)
def test_the_device_is_that_of_the_weights_or_the_cpu(module):
    assert device_of_weights(module) == torch.device("cpu")


def test_the_device_may_be_that_of_buffers():
    assert device_of_weights(nn.BatchNorm1d(2, affine=False).to("meta")).type == "meta"


@pytest.mark.parametrize("name", ["lock", "_lock"])
def test_what_cannot_be_copied_is_named(name):
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    setattr(network[1], name, threading.Lock())
    with pytest.raises(TypeError, match=rf"attribute '1\.{name}' cannot be copied"):
        frozen_copy(network)


# Weights computed from others


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def orthogonal():
    network = chain()
    parametrizations.orthogonal(network[2])
    return network


def new_weight_norm():
    network = chain()
    parametrizations.weight_norm(network[0])
    return network


def new_spectral_norm():
    network = chain()
    parametrizations.spectral_norm(network[0], n_power_iterations=3)
    return network


def parametrized_twice():
    network = chain()
    parametrizations.weight_norm(network[0])
    parametrize.register_parametrization(network[0], "weight", Halved())
    parametrize.register_parametrization(network[0], "bias", Halved())
    return network


def parametrized_and_shared():
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    return nn.Sequential(layer, nn.ReLU(), nn.Sequential(layer), nn.Linear(4, 3))


def parametrized_within():
    """A weight computed by a layer whose own weight is computed."""

    class Mixed(nn.Linear):
        pass

    network = chain()
    mixing = parametrizations.weight_norm(Mixed(4, 4))
    parametrize.register_parametrization(network[0], "weight", mixing)
    return network


def parametrized_buffer():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    parametrize.register_parametrization(network[1], "running_mean", Halved())
    return network


PARAMETRIZED = pytest.mark.parametrize(
    "make",
    [
        orthogonal,
        new_weight_norm,
        new_spectral_norm,
        parametrized_twice,
        parametrized_and_shared,
        parametrized_within,
        parametrized_buffer,
    ],
)


@PARAMETRIZED
def test_weights_that_are_computed_are_computed_once(make):
    network, X = at_seed(0, make).eval(), torch.randn(5, 4)
    with torch.no_grad():
        expected = network(X)
        for copied in (frozen_copy(network), pickled(frozen_copy(network))):
            assert not any(map(parametrize.is_parametrized, copied.modules()))
            assert_close(copied(X), expected)
    first, second = TorchExtractor(network, ["1"]), TorchExtractor(network, ["1"])
    assert first == second == pickle.loads(pickle.dumps(first))
    *_, output = first.staged_transform(X)
    assert_close(output, expected)


@PARAMETRIZED
def test_a_parametrized_network_goes_on_to_be_trained(make):
    network, X = at_seed(0, make).train(), torch.randn(5, 4)
    twin = copy.deepcopy(network)  # of the same classes
    names = [name for name, _ in network.named_parameters()]
    before = [p.clone() for p in network.parameters()]
    TorchExtractor(network, ["1"])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(X).square().sum().backward()
        optimizer.step()
    assert [name for name, _ in network.named_parameters()] == names
    assert any(map(parametrize.is_parametrized, network.modules()))
    changed = [
        not torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True)
    ]
    assert all(changed[-2:])
    assert twin(X).shape == (5, 3)


def test_a_parametrized_weight_is_a_parameter_and_a_buffer_a_buffer():
    assert isinstance(frozen_copy(new_weight_norm())[0].weight, nn.Parameter)
    assert "running_mean" in dict(frozen_copy(parametrized_buffer())[1].named_buffers())


# Networks with a train() of their own


class ReturnsNothing(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)


class TakesNoMode(nn.Sequential):
    def train(self):
        return super().train(True)


@pytest.mark.parametrize("kind", [ReturnsNothing, TakesNoMode])
@pytest.mark.parametrize("wrap", [lambda network: network, nn.Sequential])
def test_a_network_may_have_a_train_of_its_own(kind, wrap):
    network = wrap(kind(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 3)))
    assert not any(module.training for module in frozen_copy(network).modules())


# Hooks

LEFT_OUT = "The forward hooks of {} are left out"


def test_what_a_user_collects_does_not_grow():
    network, X, seen = chain(), torch.randn(5, 4), []
    network[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    network[2].register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    network[2].register_full_backward_hook(lambda *_: seen.append("gradient"))
    network[2].register_state_dict_post_hook(lambda *_: seen.append("state"))
    network(X)
    with pytest.warns(UserWarning, match=LEFT_OUT.format("'1', '2'")):
        extractor = TorchExtractor(network, ["1"])
    *_, output = pickle.loads(pickle.dumps(extractor)).staged_transform(X)
    extractor.macs((4,)), extractor.channel_axes((4,))
    assert len(seen) == 2
    assert_close(output, network(X).detach())
    assert len(seen) == 4


def test_the_warning_of_hooks_names_the_line_of_the_user():
    network = chain()
    network[1].register_forward_hook(lambda module, inputs, output: None)
    for cut in (
        lambda: TorchExtractor(network, ["1"]),
        lambda: TorchExtractor.from_modules([*network]),
    ):
        with pytest.warns(UserWarning, match="The forward hooks of") as seen:
            cut()
        assert seen[0].filename == __file__


def test_what_a_hook_has_collected_is_not_copied():
    class Collects:
        def __init__(self):
            self.seen = [threading.Lock()]  # which cannot be copied

        def __call__(self, module, inputs, output):
            self.seen.append(output)

    network, hook = chain(), Collects()
    network[1].register_forward_hook(hook)
    with pytest.warns(UserWarning, match=LEFT_OUT.format("'1'")):
        assert not frozen_copy(network)[1]._forward_hooks
    assert list(network[1]._forward_hooks.values()) == [hook]


def test_a_hook_that_changes_the_output_is_not_lost_in_silence():
    network = chain()
    network.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.warns(UserWarning, match=LEFT_OUT.format("the network")):
        TorchExtractor(network, ["1"])


def test_hooks_that_are_methods_of_the_network_are_a_part_of_it():
    class Doubles(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
            self.first.register_forward_hook(self.double)

        def double(self, module, inputs, output):
            return 2 * output

        def forward(self, x):
            return self.last(self.first(x))

    network, X = Doubles().eval(), torch.randn(5, 4)
    *_, output = TorchExtractor(network, ["first"]).staged_transform(X)
    assert_close(output, network(X).detach())


# What is refused


def test_weights_without_values_are_refused():
    with pytest.raises(ValueError, match=r"'0\.weight' is on the device 'meta'"):
        TorchExtractor(chain().to("meta"), ["0"])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(16, 1, 3, 3).as_strided((16, 1, 3, 3), (9, 1, 3, 1)),
        torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        torch.randn(5, 4).T,
        torch.randn(1, 3).expand(4, 3),
        torch.empty(0, 3),
        torch.tensor(2.0),
    ],
    ids=["one channel", "channels-last", "transposed", "expanded", "empty", "number"],
)
def test_pickled_weights_lie_in_memory_as_they_did(tensor):
    module = nn.Module()
    module.register_buffer("weight", tensor)
    found = pickle.loads(pickle.dumps(picklable(module))).weight
    assert torch.equal(found, tensor)
    if tensor.numel() == len(tensor.untyped_storage()) // 4:
        assert found.stride() == tensor.stride()
