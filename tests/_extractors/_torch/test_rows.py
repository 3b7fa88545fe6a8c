import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._rows import Constant, Count, Each, Rows, classify

from .helpers import assert_close, assert_right, uncut
from .networks import (
    ConstantAlive,
    FoldedAlive,
    Function,
    Layers,
    LSTMStateAlive,
    MultipleOfRowCountAlive,
    MutatedAfterTheCut,
    Plain,
    RowCountAlive,
    ShapeAlive,
    SkipAcross,
    TwoAlive,
)


class Joined(Layers):
    """Carries ``carry(x)`` across a cut after `second`, and joins it afterwards."""

    def __init__(self, carry, join=torch.add):
        super().__init__()
        self.carry, self.join = carry, join

    def forward(self, x):
        carried = self.carry(x)
        y = self.second(self.first(x))
        return self.head(self.join(self.third(y), carried))


class Mixes(Layers):
    """Lets the samples of a batch see each other in the layer `second`."""

    def __init__(self, mix):
        super().__init__()
        self.second = mix

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x))))


class Beside(Layers):
    """Has an exit after which nothing but its shape is needed."""

    def __init__(self, exit, use=lambda y, axis: y.size(axis)):
        super().__init__()
        self.second, self.use = exit, use

    def forward(self, x):
        return self.head(x) + 0 * self.use(self.second(self.first(x)), 0)


class DictLeaf(nn.Module):
    def forward(self, x):
        if x.sum() > 1e9:
            return {}
        return {"carried": x.tanh()}


class AliasOfWhatIsWrittenTo(Layers):
    """Writes through one name what is read by another, both alive across the cut."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, x):
        x = self.first(x)
        alias = x.view(-1, 2, 2)
        y = self.second(x)
        return self.head(self.third(y) + self.write(x) + alias.flatten(1))


MEAN = Function(lambda x: x - x.mean(0))
SWAPPED = Function(lambda x: x.flip(0))
LAST = Function(lambda x: x - x[-1:])
SORTED = Function(lambda x: x.sort(0).values)
UNTRACKED = nn.BatchNorm1d(4, track_running_stats=False)


def begun(network, exits=("second",), n_rows=6):
    extractor = TorchExtractor(network, exits)
    return extractor, extractor.begin(torch.randn(n_rows, 4))


@pytest.mark.parametrize(
    "make",
    [
        SkipAcross,
        TwoAlive,
        RowCountAlive,
        MultipleOfRowCountAlive,
        ShapeAlive,
        FoldedAlive,
        ConstantAlive,
        LSTMStateAlive,
        MutatedAfterTheCut,
    ],
)
@pytest.mark.parametrize("n_rows", [1, 2, 3, 8])
def test_what_is_alive_across_a_cut_follows_the_rows(make, n_rows):
    network, X = make(), torch.randn(n_rows, 4)
    assert_right(TorchExtractor(network, ["second"]), network, X)


CARRIED = {
    "named tuple": (lambda x: x.max(1), lambda y, m: y + m.values[:, None]),
    "tuple": (lambda x: x.max(1), lambda y, m: y + m[0][:, None] * m[1][:, None]),
    "size": (lambda x: x.shape, lambda y, size: y * size.numel() / size[0]),
    "parts": (
        lambda x: x.split(2, 1),
        lambda y, parts: y + torch.cat([parts[1], parts[0]], 1),
    ),
    "number of entries": (
        lambda x: x.numel(),
        lambda y, n: y.flatten()[:n].view(-1, 4),
    ),
    "type and device": (
        lambda x: (x.dtype, x.device),
        lambda y, to: y.to(to[1], to[0]),
    ),
    "row numbers": (
        lambda x: x.new_ones(x.shape[0], dtype=torch.int64).cumsum(0) - 1,
        lambda y, rows: y[rows],
    ),
    "copies of the batch": (
        lambda x: torch.cat([x, -x]),
        lambda y, both: y + both.chunk(2)[0],
    ),
    "copies of each row": (
        lambda x: x.repeat_interleave(3, 0),
        lambda y, copies: y + copies[::3],
    ),
    "zeros": (lambda x: x.new_zeros(x.shape[0], 4), torch.add),
    "products of rows": (lambda x: x @ x.T, lambda y, gram: gram @ y),
    "number after the last row": (
        lambda x: x.shape[0] + 1,
        lambda y, n: y.flatten()[: 4 * n - 4].view(-1, 4),
    ),
    "dict": (DictLeaf(), lambda y, d: y + d["carried"]),
}


REFUSED = {
    "copies of the batch",
    "products of rows",
    "number after the last row",
    "row numbers",
    "dict",
}


@pytest.mark.parametrize("name", CARRIED)
def test_what_is_alive_is_kept_for_the_right_rows_or_refused(name):
    network = Joined(*CARRIED[name])
    extractor = TorchExtractor(network, ["second"])
    X = torch.randn(8, 4)
    if name in REFUSED:
        with pytest.raises(ValueError, match=r"other exits|another exit"):
            extractor.begin(X)
    else:
        assert_right(extractor, network, X)


@pytest.mark.parametrize(
    "write", [torch.relu_, lambda x: x.mul_(2), lambda x: x.clamp_(max=5.0)]
)
def test_a_write_through_an_alias_across_a_cut_is_refused(write):
    extractor = TorchExtractor(AliasOfWhatIsWrittenTo(write), ["second"])
    with pytest.raises(ValueError, match="alive twice"):
        extractor.begin(torch.rand(8, 4))  # below 5: the last one changes nothing


@pytest.mark.parametrize("mix", [MEAN, SWAPPED, LAST, SORTED, UNTRACKED])
def test_an_exit_that_mixes_rows_is_refused_by_name(mix):
    with pytest.raises(ValueError, match=r"'second' .*mixes the samples of a batch"):
        begun(Mixes(mix))


@pytest.mark.parametrize("mix", [MEAN, SWAPPED, LAST, SORTED, UNTRACKED])
def test_a_last_stage_that_mixes_rows_is_refused_by_name(mix):
    with pytest.raises(ValueError, match=r"^the network's output .*mixes the samples"):
        begun(Mixes(mix), ["first"])


@pytest.mark.parametrize(
    "carry", [lambda x: x.mean(0), lambda x: x - x.mean(0), lambda x: x.flip(0)]
)
def test_a_mixture_of_rows_alive_across_a_cut_is_refused(carry):
    with pytest.raises(ValueError, match=r"alive after 'second' .*mixes the samples"):
        begun(Joined(carry))


@pytest.mark.parametrize("n_rows", [1, 2])
def test_mixed_rows_are_refused_in_a_batch_of_few(n_rows):
    with pytest.raises(ValueError, match="mixes the samples"):
        begun(Mixes(MEAN), n_rows=n_rows)


@pytest.mark.parametrize("fill", [0.0, 1.0, torch.nan])
def test_a_first_batch_of_equal_samples_does_not_hide_that_rows_are_mixed(fill):
    extractor = TorchExtractor(Mixes(MEAN), ["second"])
    with pytest.raises(ValueError, match="mixes the samples"):
        [extractor.begin(X) for X in (torch.full((8, 4), fill), torch.randn(8, 4))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_does_not_hide_that_rows_are_mixed(dtype):
    network = Mixes(Function(lambda x: x - 0.5 * x.mean(0))).to(dtype)
    extractor = TorchExtractor(network, ["second"])
    with pytest.raises(ValueError, match="mixes the samples"):
        extractor.begin(torch.randn(8, 4))


@pytest.mark.parametrize(
    ("exit", "shape"),
    [
        (lambda x: x.new_ones(5), r"\(5,\)"),
        (lambda x: x.reshape(-1, 2), r"\(4, 2\)"),
        (lambda x: x.new_ones(1), r"\(1,\)"),
    ],
)
def test_an_exit_without_a_row_for_each_sample_is_refused(exit, shape):
    with pytest.raises(ValueError, match=f"'second' .*one row .*{shape} for two"):
        begun(Beside(Function(exit)))


def test_a_count_that_is_no_multiple_of_the_rows_is_refused():
    network = Joined(lambda x: x.shape[0] + 1, lambda y, n: y * n)
    with pytest.raises(ValueError, match=r"alive after 'second' is 3 for two .* 4 for"):
        begun(network)


def test_an_exit_that_returns_a_tuple_is_refused():
    with pytest.raises(ValueError, match="'second' returns a tuple"):
        begun(Beside(nn.LSTM(4, 4), lambda pair, _: pair[0].sum(1, keepdim=True)))


@pytest.mark.parametrize("shape", [(5,), (), (4, 3)])
def test_a_shape_that_the_network_does_not_take_is_refused(shape):
    extractor = TorchExtractor(Plain(), ["second"])
    with pytest.raises(ValueError, match="does not take samples of shape"):
        extractor.begin(torch.zeros(6, *shape))


def test_a_refusal_prints_nothing(capsys):
    folded = Function(lambda x: x.view(-1, 4))
    network = nn.Sequential(folded, nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU())
    extractor = TorchExtractor(network, ["1"], output="2")
    with pytest.raises(ValueError, match="shape"):
        extractor.begin(torch.zeros(6, 5))
    assert capsys.readouterr() == ("", "")


def test_rows_are_kept_in_the_order_asked_for():
    network, X = SkipAcross(), torch.randn(6, 4)
    extractor = TorchExtractor(network, ["second"])
    state, _ = extractor.advance(extractor.begin(X), 0)
    rows = np.array([4, 0, 4, 1])
    _, output = extractor.advance(extractor.keep(state, rows), 1)
    assert_close(output, uncut(network, [], X)[0][rows])


@pytest.mark.parametrize(
    "rows",
    [[5, 2], (5, 2), np.array([2, 0, 5])[::-2], np.broadcast_to(np.array(3), 2)],
    ids=["list", "tuple", "negative stride", "read-only"],
)
def test_rows_may_be_any_sequence_of_integers(rows):
    network, X = SkipAcross(), torch.randn(6, 4)
    extractor = TorchExtractor(network, ["second"])
    state, _ = extractor.advance(extractor.begin(X), 0)
    _, output = extractor.advance(extractor.keep(state, rows), 1)
    assert_close(output, uncut(network, [], X)[0][list(rows)])


def test_no_row_may_be_left():
    extractor, state = begun(SkipAcross())
    state, _ = extractor.advance(state, 0)
    state = extractor.keep(state, np.array([], dtype=np.intp))
    _, output = extractor.advance(state, 1)
    assert output.shape == (0, 3)


def test_rows_may_be_dropped_before_the_first_stage():
    network, X = Plain(), torch.randn(6, 4)
    extractor = TorchExtractor(network, ["second"])
    state = extractor.keep(extractor.begin(X), np.array([3, 1]))
    _, output = extractor.advance(state, 0)
    assert_close(output, uncut(network, ["second"], X)[0][[3, 1]])


@pytest.mark.parametrize("n_kept", [1, 3, 6])
def test_a_sample_that_has_left_is_not_computed_again(n_kept):
    extractor, state = begun(TwoAlive())
    state, _ = extractor.advance(state, 0)
    state = extractor.keep(state, np.arange(n_kept))
    with FlopCounterMode(display=False) as counter:
        extractor.advance(state, 1)
    first, total = extractor.macs((4,))
    assert counter.get_total_flops() == 2 * n_kept * (total - first)


def test_samples_of_several_shapes_may_come_in_turn():
    network = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Conv1d(3, 2, 1))
    extractor = TorchExtractor(network, ["0"])
    for length in (5, 9, 5):
        assert_right(extractor, network, torch.randn(4, 2, length))


X3 = torch.arange(24.0).view(3, 8).sin()


@pytest.mark.parametrize(
    ("two", "three", "rule"),
    [
        (X3[:2], X3, Rows(0, 1)),
        (X3[:2].T, X3.T, Rows(1, 1)),
        (X3[:2].view(8, 2), X3.view(12, 2), Rows(0, 4)),
        (X3[:2].T.reshape(2, 2, 4), X3.T.reshape(2, 2, 6), None),
        (X3[:, :2], X3[:, :2], Constant()),
        (X3[:2] * torch.nan, X3 * torch.nan, Rows(0, 1)),
        (2, 3, Count(1)),
        (8, 12, Count(4)),
        (-2, -3, Count(-1)),
        (7, 7, Constant()),
        (None, None, Constant()),
        (torch.float32, torch.float32, Constant()),
        (torch.Size([2, 5]), torch.Size([3, 5]), Each((Count(1), Constant()))),
        ((X3[:2], [4]), (X3, [6]), Each((Rows(0, 1), Each((Count(2),))))),
        (2.0, 3.0, None),
        (1, 2, None),
        (2, None, None),
        (True, False, None),
        ((2,), (3, 3), None),
        (X3[:2, :2], X3[:3, :3], None),
        (X3[:2], X3[0], None),
        (X3[1:], X3, None),
        (X3[0], X3[1], None),
    ],
)
def test_a_value_is_told_by_how_it_grows_from_two_rows_to_three(two, three, rule):
    if rule is None:
        with pytest.raises(ValueError, match=r"for two samples|mixes the samples"):
            classify(two, three)
    else:
        assert classify(two, three) == rule


def test_a_part_of_a_map_keeps_its_memory_format():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 8, 3), nn.Linear(2 * 6 * 6, 3)
            self.part = Function(lambda x: x[:, :2])

        def forward(self, x):
            x = self.part(self.first(x))
            return self.head(x.view(x.size(0), -1))

    network = Part()
    assert_right(TorchExtractor(network, ["part"]), network, torch.randn(6, 3, 8, 8))
