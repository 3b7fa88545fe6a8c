import copy
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sk_e2cm import TorchExtractor

from .helpers import assert_right
from .networks import Branching, Plain, SkipAcross, chain, conv_chain, token_network


class Products(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)

    def forward(self, x):
        x = self.first(x)
        return torch.bmm(x, x.transpose(1, 2)) @ x


class NeedsValues(nn.Module):
    """Cannot run without values: how many entries are positive is not in a shape."""

    def forward(self, x):
        return x + 0 * x[x > 0].sum()


class MatrixVector(nn.Module):
    def __init__(self):
        super().__init__()
        self.vector = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return x @ self.vector


class Pairs(nn.Module):
    """Multiplies every number of one half of a sample with every one of the other."""

    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(4, 6, 5)

    def forward(self, x):
        return self.bilinear(x[:, :4], x[:, 4:])


class LastOfSequence(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


def flops(run):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def fractions(extractor, shape):
    macs = extractor.macs(shape)
    return macs / macs[-1]


def towers(*widths):
    """Return layers that cost widths[i] * widths[i + 1] multiply-adds each."""
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("network", "exits", "shape", "by_hand"),
    [
        (chain(), ["0", "2"], (4,), [4 * 8, 8 * 8, 8 * 3]),
        (chain(), ["0", "1", "2"], (4,), [4 * 8, 0, 8 * 8, 8 * 3]),
        (chain(), ["0"], (7, 4), [7 * 4 * 8, 7 * (8 * 8 + 8 * 3)]),
        (Plain(), ["first", "third"], (4,), [16, 32, 12]),
        (
            conv_chain(),
            ["0", "2"],
            (3, 8, 8),
            [8 * 8 * 8 * 3 * 9, 3 * 3 * 8 * (8 // 4) * 9, 8 * 3 * 3 * 5],
        ),
        (
            nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1)),
            ["0"],
            (6, 5, 5),
            [6 * 3 * 3 * 9, 6 * 3 * 3 * 4],
        ),
        (
            nn.Sequential(nn.Conv1d(2, 3, 5, stride=2), nn.Conv1d(3, 1, 1)),
            ["0"],
            (2, 9),
            [3 * 3 * 2 * 5, 1 * 3 * 3],
        ),
        (token_network(), ["0", "1"], (5,), [0, 5 * 6 * 6, 6 * 5 * 2]),
        (Products(), ["first"], (5, 4), [5 * 4 * 6, 2 * 5 * 5 * 6]),
        (nn.Sequential(NeedsValues(), nn.Linear(4, 3)), ["0"], (4,), [0, 12]),
        (
            nn.Sequential(nn.Linear(4, 4), Branching(), nn.Linear(4, 2)),
            ["0", "1"],
            (4,),
            [16, 16, 8],
        ),
    ],
)
def test_multiply_adds_are_those_counted_by_hand(network, exits, shape, by_hand):
    macs = TorchExtractor(network, exits).macs(shape)
    assert macs.tolist() == np.cumsum(by_hand).tolist()


@pytest.mark.parametrize("before", [nn.Identity(), NeedsValues()])
def test_attention_is_counted(before):
    n_tokens, width, hidden = 5, 8, 16
    projections = 4 * n_tokens * width * width
    products = 2 * n_tokens * n_tokens * width
    feed_forward = 2 * n_tokens * width * hidden
    layers = [
        SelfAttention(width, 2, batch_first=True),
        nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True),
    ]
    network = nn.Sequential(before, *layers, nn.Linear(width, 1))
    macs = TorchExtractor(network, ["1", "2"]).macs((n_tokens, width))
    attention = projections + products
    by_hand = np.cumsum([attention, attention + feed_forward, n_tokens * width])
    assert macs.tolist() == by_hand.tolist()


def test_multiply_adds_are_half_of_the_operations_of_the_whole_network(residual):
    macs = TorchExtractor(residual, ["block1", "block2"]).macs((3, 32, 32))
    whole = flops(lambda: residual(torch.zeros(1, 3, 32, 32)))
    assert macs[-1] == whole / 2


def test_multiply_adds_of_large_networks_are_half_of_their_operations(large):
    macs = TorchExtractor(large, 1, input_shape=(3, 64, 64)).macs((3, 64, 64))
    whole = flops(lambda: large(torch.zeros(2, 3, 64, 64)))
    assert macs[-1] == whole / 2 / 2


def test_the_cost_is_counted_without_computing_anything(residual):
    devices = set()

    class Watched(nn.Sequential):
        def note(self, layer, inputs, output):
            devices.add(output.device.type)

    network = Watched(copy.deepcopy(residual))
    network[0].head.register_forward_hook(network.note)
    TorchExtractor(network, ["0.block1"]).macs((3, 32, 32))
    assert devices == {"meta"}


def test_what_comes_after_output_is_not_costed():
    assert TorchExtractor(chain(), ["0"], output="2").macs((4,)).tolist() == [32, 96]


def test_what_comes_after_output_is_not_computed():
    extractor = TorchExtractor(chain(), ["0"], output="2")
    X = torch.randn(6, 4)
    extractor.begin(X)
    assert flops(lambda: list(extractor.staged_transform(X))) == 2 * 6 * 96


def test_the_cost_is_cumulative_and_follows_the_shape_of_the_input(residual):
    extractor = TorchExtractor(residual, ["block1", "block2"])
    small, large = extractor.macs((3, 16, 16)), extractor.macs((3, 32, 32))
    assert (np.diff(small) > 0).all()
    np.testing.assert_allclose(large / small, 4, rtol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_cost_does_not_depend_on_the_precision(dtype):
    network = chain().to(dtype)
    assert TorchExtractor(network, ["0"]).macs((4,)).tolist() == [32, 120]


def test_the_cost_that_is_handed_out_may_be_written_to():
    extractor = TorchExtractor(chain(), ["0"])
    extractor.macs((4,))[:] = 0
    assert extractor.macs((4,)).tolist() == [32, 120]


@pytest.mark.parametrize("shape", [(5,), (3, 8)])
def test_the_cost_of_a_shape_that_the_network_does_not_take_is_refused(shape):
    extractor = TorchExtractor(chain(), ["0"])
    with pytest.raises(ValueError, match=r"shape \(" + str(shape[0])):
        extractor.macs(shape)


def test_an_input_shape_that_the_network_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        TorchExtractor(chain(), 1, input_shape=(5,))


@pytest.mark.parametrize("n_exits", [1, 2, 3])
def test_exits_divide_the_cost_of_large_networks_evenly(large, n_exits):
    extractor = TorchExtractor(large, n_exits, input_shape=(3, 64, 64))
    ideal = np.arange(1, n_exits + 1) / (n_exits + 1)
    spent = fractions(extractor, (3, 64, 64))[:-1]
    np.testing.assert_allclose(spent, ideal, atol=0.12)


@pytest.mark.parametrize("n_exits", [1, 4])
def test_the_names_of_chosen_exits_may_be_passed_in_turn(large, n_exits):
    chosen = TorchExtractor(large, n_exits)
    named = TorchExtractor(large, chosen.exits)
    assert len(chosen.exits) == n_exits
    assert named == chosen


def test_chosen_exits_of_large_networks_are_right(large):
    extractor = TorchExtractor(large, 3)
    assert_right(extractor, large, torch.randn(6, 3, 64, 64))


@pytest.mark.parametrize("n_exits", [1, 2, 3])
def test_no_other_exits_divide_the_cost_more_evenly(n_exits):
    network = towers(4, 7, 11, 3, 9, 9, 5)
    ideal = np.arange(1, n_exits + 1) / (n_exits + 1)
    spent = fractions(TorchExtractor(network, [*"01234"]), (4,))[:-1]
    misses = [((s - ideal) ** 2).sum() for s in combinations(spent, n_exits)]
    chosen = fractions(TorchExtractor(network, n_exits), (4,))[:-1]
    assert ((chosen - ideal) ** 2).sum() == pytest.approx(min(misses))


def test_chosen_exits_lie_between_blocks_where_a_skip_would_be_alive(residual):
    blocks = {"stem", "block1", "block2", "block3", "pool"}
    assert set(TorchExtractor(residual, 3).exits) <= blocks


def test_chosen_exits_lie_within_blocks_where_there_are_too_few_between():
    assert TorchExtractor(SkipAcross(), 3).exits == ("first", "second", "third")


def test_of_places_at_the_same_cost_the_last_is_chosen():
    assert TorchExtractor(chain(), 2).exits == ("1", "3")


def test_the_outermost_of_modules_that_return_the_same_value_gives_the_name():
    inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network = nn.Sequential(nn.Sequential(inner), nn.Linear(4, 4), nn.Linear(4, 4))
    assert TorchExtractor(network, 3).exits == ("0.0.0", "0", "1")


def test_chosen_exits_never_lie_inside_what_cannot_be_traced():
    network = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4), Branching(), nn.ReLU())
    network.append(nn.Linear(4, 1))
    assert TorchExtractor(network, 3).exits == ("0", "1", "3")


@pytest.mark.parametrize("n_exits", [np.int64(2), np.uint8(2)])
def test_the_number_of_exits_may_be_one_of_numpy(n_exits):
    assert TorchExtractor(chain(), n_exits).exits == ("1", "3")


@pytest.mark.parametrize("n_exits", [0, -1])
def test_less_than_one_exit_is_refused(n_exits):
    with pytest.raises(ValueError, match=f"exits={n_exits}: at least one"):
        TorchExtractor(chain(), n_exits)


def test_more_exits_than_places_are_refused_with_the_places():
    with pytest.raises(ValueError, match=r"exits=5, but .* only 2 places .*: 1, 3\."):
        TorchExtractor(chain(), 5)


def test_a_network_without_places_to_leave_says_so():
    with pytest.raises(ValueError, match=r"exits=1, but .* only 0 places .*: none"):
        TorchExtractor(nn.Sequential(nn.ReLU(), nn.Flatten()), 1, input_shape=(4,))


def test_all_places_are_those_that_the_largest_number_gives():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), chain())
    everywhere = TorchExtractor(network, "all")
    assert everywhere.exits == ("0", "1", "2.1", "2.3")
    assert everywhere == TorchExtractor(network, 4)
    with pytest.raises(ValueError, match="only 4 places"):
        TorchExtractor(network, 5)


def test_all_places_of_a_residual_network_are_right(residual):
    extractor = TorchExtractor(residual, "all")
    assert len(extractor.exits) == 8
    assert (np.diff(extractor.macs((3, 32, 32))) > 0).all()
    assert_right(extractor, residual, torch.randn(6, 3, 32, 32))


def test_all_places_lie_before_output():
    network = towers(4, 4, 4, 100, 100)
    assert TorchExtractor(network, "all", output="2").exits == ("0", "1")


def test_a_module_called_all_is_named_in_a_list():
    network = nn.Sequential()
    for name in ("first", "all", "last"):
        network.add_module(name, nn.Linear(4, 4))
    assert TorchExtractor(network, ["all"]).exits == ("all",)
    assert TorchExtractor(network, "all").exits == ("first", "all")


def test_without_any_places_all_of_them_are_refused():
    with pytest.raises(ValueError, match=r'exits="all", but .* no places to leave'):
        TorchExtractor(nn.Sequential(nn.ReLU(), nn.Flatten()), "all", input_shape=(4,))


def test_chosen_exits_divide_the_cost_up_to_output():
    network = towers(*[4] * 9)
    assert TorchExtractor(network, 1).exits == ("3",)
    assert TorchExtractor(network, 1, output="3").exits == ("1",)


def test_chosen_exits_lie_before_output():
    network = towers(4, 4, 4, 100, 100)
    assert TorchExtractor(network, 1, output="1").exits == ("0",)


def test_input_shape_decides_where_the_cost_lies():
    network = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *towers(8, 9, 9, 9)
    )
    assert TorchExtractor(network, 1, input_shape=(1, 1, 1)).exits == ("4",)
    assert TorchExtractor(network, 1, input_shape=(1, 99, 99)).exits == ("2",)


@pytest.mark.parametrize(
    "network",
    [
        chain(),
        nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)),
        nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU(), nn.Conv1d(3, 2, 1)),
        nn.Sequential(nn.Conv3d(2, 3, 5), nn.ReLU(), nn.Conv3d(3, 2, 1)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 3)),
    ],
)
def test_without_input_shape_one_that_the_network_takes_is_found(network):
    assert len(TorchExtractor(network, 1).exits) == 1


def test_where_no_shape_is_found_input_shape_is_asked_for():
    network = nn.Sequential(nn.Unflatten(1, (2, 5)), nn.Linear(5, 5), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="pass input_shape="):
        TorchExtractor(network, 1)
    assert TorchExtractor(network, 1, input_shape=(10,)).exits == ("1",)


@pytest.mark.parametrize("before", [nn.Identity(), NeedsValues()])
@pytest.mark.parametrize(
    ("layer", "shape", "by_hand"),
    [
        (MatrixVector(), (4,), 4),
        (MatrixVector(), (7, 4), 7 * 4),
        (Pairs(), (10,), 5 * 4 * 6),
    ],
    ids=["vector", "matrix and vector", "bilinear"],
)
def test_operations_that_torch_counts_for_free_are_counted(
    before, layer, shape, by_hand
):
    network = nn.Sequential(before, layer, nn.Unflatten(0, (1, -1)))
    assert TorchExtractor(network, ["0"]).macs(shape).tolist() == [0, by_hand]


@pytest.mark.parametrize("before", [nn.Identity(), NeedsValues()])
@pytest.mark.parametrize(("kind", "n_gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("n_ways", [1, 2])
def test_recurrent_layers_are_counted(before, kind, n_gates, n_ways):
    n_steps, n_in, width = 5, 4, 6
    rnn = kind(n_in, width, 2, batch_first=True, bidirectional=n_ways == 2)
    n_out = n_ways * width
    network = nn.Sequential(before, LastOfSequence(rnn), nn.Linear(n_out, 3))
    weights = n_gates * width * (n_in + width + n_out + width)
    by_hand = np.cumsum([0, n_ways * n_steps * weights, 3 * n_out])
    macs = TorchExtractor(network, ["0", "1"]).macs((n_steps, n_in))
    assert macs.tolist() == by_hand.tolist()


def test_code_that_changes_the_lists_it_is_given_is_counted():
    video = pytest.importorskip("torchvision.models.video")
    network = video.swin3d_t(num_classes=10)
    extractor = TorchExtractor(network, 2, input_shape=(3, 8, 32, 32))
    whole = flops(lambda: network.eval()(torch.zeros(1, 3, 8, 32, 32)))
    assert extractor.macs((3, 8, 32, 32))[-1] == whole / 2


def test_a_method_called_weight_is_not_taken_for_a_quantised_layers():
    network = nn.Sequential(nn.Linear(4, 4), Branching())
    network[1].weight = lambda: torch.zeros(9, 9)
    assert TorchExtractor(network, ["0"]).macs((4,)).tolist() == [16, 32]
