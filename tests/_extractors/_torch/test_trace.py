import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._trace import Trace

from . import networks
from .helpers import assert_close, assert_right, at_seed, halving, uncut
from .networks import (
    Attention,
    Branching,
    Function,
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


class Encoder(nn.Module):
    """An encoder over tokens, which may be masked, and a layer for each token."""

    def __init__(self, *, padding=False, causal=False, norm=None, **options):
        super().__init__()
        options = {"batch_first": True, "norm_first": False, **options}
        packs = options["batch_first"] and not options["norm_first"]
        layer = nn.TransformerEncoderLayer(8, 2, 16, **options)
        self.encoder = nn.TransformerEncoder(layer, 3, norm, enable_nested_tensor=packs)
        self.embedding = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 3)
        self.batch_first, self.padding = options["batch_first"], padding
        mask = torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else None
        self.register_buffer("mask", mask)

    def inputs(self, ids):
        x = self.embedding(ids)
        x = x if self.batch_first else x.transpose(0, 1)
        return x, self.mask, ids == 0 if self.padding else None

    def forward(self, ids):
        x, mask, padding = self.inputs(ids)
        return self.head(self.encoder(x, mask, padding))

    def layer_by_layer(self, ids):
        x, mask, padding = self.inputs(ids)
        for layer in self.encoder.layers:
            x = layer(x, mask, padding)
            yield x


class Drops(Layers):
    """Drops numbers in whatever mode it is in, as `options` say."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x):
        x = self.second(F.dropout(self.first(x), **self.options))
        return self.head(self.third(x))


class KeepsDropping(Layers):
    """Leaves its dropout on in eval mode, to sample from what it might predict."""

    def __init__(self, dropout):
        super().__init__()
        self.dropout = dropout

    def train(self, mode=True):
        super().train(mode)
        self.dropout.train()
        return self

    def forward(self, x):
        x = self.dropout(self.second(self.first(x)))
        return self.head(self.third(x))


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
    assert_refused(["first"], TwoInputs(), "2 inputs, .*, mask, .* Wrap it")


class Reads(nn.Module):
    """A network that looks something up in its input."""

    def __init__(self, read):
        super().__init__()
        self.read, self.first, self.head = read, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.first(self.read(x)))


def first_of_two(pair):
    left, right = pair
    return left + right


@pytest.mark.parametrize(
    ("read", "key"),
    [
        (lambda x: x["ids"], "'ids'"),
        (lambda x: x.input_ids, "'input_ids'"),
        (lambda x: x.get("ids"), "'get'"),
        (first_of_two, "0"),
    ],
    ids=["dict", "object", "get", "tuple"],
)
def test_an_input_that_is_no_tensor_is_refused(read, key):
    message = f"Reads reads {key} of its input .* Wrap it in a module of one input"
    assert_refused(["first"], Reads(read), message)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.view(-1, x[0].numel()),
        lambda x: x[:, [0, 1, 2, 3]],
        lambda x: x[0:].reshape(x.shape[0], x.shape[1]),
    ],
)
def test_rows_and_shapes_of_the_input_may_be_read(read):
    network = Reads(read)
    assert_right(TorchExtractor(network, ["first"]), network, torch.randn(8, 4))


@pytest.mark.skipif(torch.__version__ < "2.9", reason="torch.fx stopped there")
def test_positions_may_be_counted_up_to_a_size_of_the_input():
    network = Reads(lambda x: x + torch.arange(x.shape[1], device=x.device))
    assert_right(TorchExtractor(network, ["first"]), network, torch.randn(8, 4))


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


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("norm", [None, nn.LayerNorm(8)], ids=["", "norm"])
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("padding", [False, True], ids=["", "padding"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["", "norm first"])
@pytest.mark.parametrize("batch_first", [True, False], ids=["", "batch second"])
def test_an_encoder_can_be_left_after_each_layer(
    batch_first, norm_first, padding, causal, norm
):
    if norm is not None:
        nn.init.normal_(norm.bias)  # what padding becomes where torch packs tokens
    network = Encoder(
        padding=padding,
        causal=causal,
        norm=norm,
        batch_first=batch_first,
        norm_first=norm_first,
    ).eval()
    extractor = TorchExtractor(network, [f"encoder.layers.{i}" for i in range(3)])
    X = torch.randint(1, 10, (6, 6))
    X[0, 4:] = X[3, 2:] = X[4, 5:] = 0
    with torch.no_grad():
        expected = [*network.layer_by_layer(X), network(X)]
    if not batch_first:
        expected = [value.transpose(0, 1) for value in expected]
    for output, value in zip(extractor.staged_transform(X), expected, strict=True):
        assert_close(output, value)
    for (rows, output), value in zip(halving(extractor, X), expected, strict=True):
        assert_close(output, value[rows])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("first_seen", ["right", "left"])
def test_padding_on_the_left_is_kept_as_torch_keeps_it(first_seen):
    network = Encoder(padding=True).eval()
    right = torch.tensor([[1, 2, 3, 4, 5, 6], [4, 5, 6, 0, 0, 0], [7, 8, 0, 0, 0, 0]])
    batches = {"right": right, "left": right.flip(1)}
    extractor = TorchExtractor(network, ["encoder.layers.0"])
    extractor.begin(batches[first_seen])
    for X in batches.values():
        *_, output = extractor.staged_transform(X)
        assert_close(output, uncut(network, [], X)[0])


def test_the_layers_of_an_encoder_of_another_class_are_traced_by_its_own_forward():
    class Reversed(nn.TransformerEncoder):
        def forward(self, src):
            for layer in reversed(self.layers):
                src = layer(src)
            return src

    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Linear(4, 8), Reversed(layer, 2), nn.Linear(8, 2))
    extractor = TorchExtractor(network, ["0", "1.layers.1", "1.layers.0"])
    assert_right(extractor, network, torch.randn(6, 5, 4))


@pytest.mark.parametrize(
    ("network", "place"),
    [
        (Drops(p=0.1), "the network"),
        (Drops(training=True), "the network"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sequential(Drops())), r"'1\.0'"),
        (KeepsDropping(nn.Dropout()), "'dropout'"),
        (KeepsDropping(nn.AlphaDropout()), "'dropout'"),
        (nn.Sequential(KeepsDropping(nn.Dropout1d(0.1))), r"'0\.dropout'"),
    ],
)
def test_dropout_that_is_on_in_eval_mode_is_refused_by_name(network, place):
    message = rf"Dropout is on in {place}, although .* training=self\.training"
    assert_refused([next(iter(dict(network.named_children())))], network, message)


def test_all_places_where_dropout_is_on_are_named():
    network = nn.Sequential(Drops(), nn.Linear(3, 4), KeepsDropping(nn.Dropout()))
    assert_refused(["1"], network, r"Dropout is on in '0', '2\.dropout', although")


@pytest.mark.parametrize(
    "network",
    [
        Drops(p=0.0),
        Drops(training=False),
        nn.Sequential(nn.Linear(4, 4), KeepsDropping(nn.Dropout(0.0))),
        nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2)),
    ],
)
def test_dropout_that_drops_nothing_is_allowed(network):
    first = next(name for name, _ in network.named_children())
    assert_right(TorchExtractor(network, [first]), network, torch.randn(6, 4))


@pytest.mark.parametrize("network", [Drops(), KeepsDropping(nn.Dropout())])
def test_dropout_after_output_is_allowed(network):
    extractor = TorchExtractor(network, [], output="first")
    X = torch.randn(3, 4)
    (output,) = extractor.staged_transform(X)
    assert_close(output, network.first(X).detach())


class Categories(nn.Module):
    """Looks up the first column of a table and takes the others as they are."""

    def __init__(self):
        super().__init__()
        self.embed, self.first = nn.Embedding(5, 4), nn.Linear(7, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        kinds = self.embed(x[:, 0].long())
        return self.head(torch.relu(self.first(torch.cat([kinds, x[:, 1:]], dim=1))))


def test_a_column_that_the_network_looks_up_by_itself_leaves_the_others_as_they_are():
    network, X = Categories(), torch.randn(6, 4)
    X[:, 0] = torch.arange(6) % 5
    assert_right(TorchExtractor(network, ["first"]), network, X)


def test_ids_that_the_network_casts_stay_exact_whatever_its_precision():
    cast = networks.Function(lambda ids: ids.long())
    layers = [nn.Embedding(3000, 4), nn.Flatten(), nn.Linear(20, 3)]
    network = nn.Sequential(cast, *layers).bfloat16()
    X = torch.randint(2900, 3000, (6, 5))
    *_, output = TorchExtractor(network, ["1"]).staged_transform(X)
    assert_close(output, uncut(network, [], X)[0], 1e-2)


def test_fractions_in_the_place_of_token_ids_are_refused():
    extractor = TorchExtractor(networks.token_network(), ["0"])
    with pytest.raises(ValueError, match=r"cannot hold: fractions"):
        extractor.begin(torch.full((3, 5), 0.5))


def test_complex_samples_are_refused():
    extractor = TorchExtractor(networks.chain(), ["0"])
    with pytest.raises(ValueError, match="complex numbers"):
        extractor.begin(torch.rand(3, 4).cfloat())


def test_whole_numbers_too_large_for_the_network_are_refused():
    extractor = TorchExtractor(networks.chain(), ["0"])
    with pytest.raises(ValueError, match=r"cannot hold: .* too large"):
        extractor.begin(torch.full((3, 4), 2**24 + 1))


@pytest.mark.parametrize(
    "look_up",
    [lambda ids: F.one_hot(ids, 10).float(), lambda ids: torch.eye(10)[ids]],
    ids=["one_hot", "index"],
)
def test_token_ids_may_be_looked_up_without_an_embedding(look_up):
    network = nn.Sequential(networks.Function(look_up), nn.Linear(10, 4), nn.Flatten())
    X = torch.randint(0, 10, (6, 5))
    assert_right(TorchExtractor(network, ["0", "1"]), network, X)


def test_layers_made_in_the_forward_pass_are_traced():
    class MakesItsActivation(Layers):
        def forward(self, x):
            return self.head(nn.ReLU()(self.second(self.first(x))))

    network = MakesItsActivation()
    assert_right(TorchExtractor(network, ["second"]), network, torch.randn(6, 4))


def test_too_few_places_say_what_could_not_be_traced():
    network = nn.Sequential(nn.Flatten(), Branching())
    with pytest.raises(
        ValueError, match=r"places to leave: .* '1' \(Branching\) cannot"
    ):
        TorchExtractor(network, 3, input_shape=(4,))


def test_too_few_places_are_explained_by_what_hides_the_most():
    class Outer(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1e9 else x

    outer = Outer(nn.Linear(4, 4), networks.Branching(), nn.Linear(4, 4))
    network = nn.Sequential(networks.Branching(), outer, nn.Linear(4, 2))
    message = r"leave: .* '1' \(Outer\) cannot be traced, stopped at .*1e9 else x'"
    with pytest.raises(ValueError, match=message):
        TorchExtractor(network, exits=4)


class KeepsPositions(nn.Module):
    """Computes positions once for a length, while the network runs."""

    def __init__(self):
        super().__init__()
        self.kept, self.of_lengths = None, {}

    def forward(self, x):
        n = x.shape[1]
        if self.kept is None or len(self.kept) != n:
            self.kept = torch.arange(n)[:, None] / 3
        if n not in self.of_lengths:
            self.of_lengths[n] = torch.sin(self.kept)
        return x + self.of_lengths[n]


@pytest.mark.parametrize("exits", [["0"], ["1"], ["0", "1", "2"]])
def test_what_a_network_keeps_while_it_is_traced_is_forgotten(exits):
    network = nn.Sequential(
        nn.Linear(4, 4), KeepsPositions(), nn.Linear(4, 4), nn.Flatten()
    )
    X = torch.randn(6, 5, 4)
    extractor = TorchExtractor(network, exits)
    assert_right(extractor, network, X)
    extractor.verify(X.numpy())
    assert_right(pickle.loads(pickle.dumps(extractor)), network, X)
    assert network[1].kept is None


def test_tracing_draws_no_random_numbers_of_others():
    noise = Function(lambda x: x + torch.rand(()))
    network = nn.Sequential(nn.Linear(4, 4), noise, nn.Linear(4, 3))
    expected = at_seed(0, lambda: torch.rand(()))
    found = at_seed(0, lambda: (TorchExtractor(network, ["0"]), torch.rand(()))[1])
    assert found == expected
