import contextlib
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sk_e2cm import E2CMClassifier, TorchExtractor

from .helpers import assert_right
from .networks import Function, conv_chain


def begin(function, X):
    network = nn.Sequential(nn.Identity(), Function(function), nn.Flatten())
    return TorchExtractor(network, ["0", "1"]).begin(X)


@pytest.mark.parametrize("largest", [0, 1, 2])
def test_samples_scaled_by_the_largest_of_the_batch_are_refused(largest):
    X = torch.rand(3, 4)
    X[largest] *= 100
    with pytest.raises(ValueError, match="mixes"):
        begin(lambda x: x / x.abs().amax(), X)


def test_an_axis_that_is_lost_with_one_sample_is_refused():
    with pytest.raises(ValueError, match="squeezes an axis of length 1 away"):
        begin(
            lambda x: x.mean(dim=(2, 3), keepdim=True).squeeze(), torch.rand(5, 4, 2, 2)
        )


def test_an_operation_that_asks_for_several_samples_is_refused():
    def at_least_two(x):
        assert len(x) > 1, "alone"
        return x + 1

    class Demanding(nn.Module):
        def forward(self, x):
            return at_least_two(x)

    network = nn.Sequential(nn.Identity(), Demanding(), nn.Flatten())
    with pytest.raises(ValueError, match="'1' cannot be computed for one sample alone"):
        TorchExtractor(network, ["0", "1"]).begin(torch.rand(5, 4))


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        begin(torch.relu, torch.rand(0, 4))


def test_complex_features_are_refused():
    with pytest.raises(ValueError, match="'1' returns complex numbers"):
        begin(torch.fft.fft, torch.rand(5, 4))


def test_an_extractor_may_be_made_and_used_in_inference_mode():
    with torch.inference_mode():
        network = conv_chain()
        X = torch.rand(8, 3, 8, 8)
        extractor = TorchExtractor(network, 2)
        clf = E2CMClassifier(extractor).fit(X, np.arange(8) % 2)
        assert len(clf.predict(X)) == 8
    assert_right(TorchExtractor(network, 2), network, X)


class InPlaceAfterwards(nn.Module):
    """Changes what it returns in place, under the old name."""

    def __init__(self):
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.linear(x)
        self.act(y)
        return y


class DoublesTensors(nn.Module):
    """Does more for a tensor than for what stands for one while it is traced."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        if isinstance(x, torch.Tensor):
            x = x * 2
        return torch.tanh(self.linear(x))


class InLowPrecision(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.linear(x).float()


@pytest.mark.parametrize("part", [InPlaceAfterwards, DoublesTensors, InLowPrecision])
@pytest.mark.parametrize("output", [None, "1"])
def test_an_exit_that_is_another_value_once_traced_is_refused_by_name(part, output):
    network = nn.Sequential(part(), part(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="'0' is another value in the uncut network"):
        TorchExtractor(network, ["0"], output=output).begin(torch.randn(5, 4))


def test_an_output_that_is_another_value_once_traced_is_refused_by_name():
    network = nn.Sequential(nn.Linear(4, 4), DoublesTensors(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="'1' is another value in the uncut network"):
        TorchExtractor(network, ["0"], output="1").begin(torch.randn(5, 4))


def test_what_a_network_does_outside_of_forward_counts():
    class Softmax(nn.Sequential):
        def __call__(self, x):
            return super().__call__(x).softmax(dim=-1)

    network = Softmax(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="the network's output is another value"):
        TorchExtractor(network, ["0"]).begin(torch.randn(5, 4))


def forgets_batch_first():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(20, 8), encoder, nn.Linear(8, 3))


@pytest.mark.parametrize("token", [0, 1, 7])
def test_a_batch_of_one_token_hides_no_mix_up(token):
    extractor = TorchExtractor(forgets_batch_first(), ["0", "1.layers.0"])
    with pytest.raises(ValueError, match="mix"):
        extractor.begin(torch.full((8, 6), token))


@pytest.mark.parametrize("spread", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
def test_a_batch_of_nearly_equal_samples_hides_no_mix_up(spread, level):
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(3, 3, 3), norm, nn.Flatten())
    X = level + spread * torch.randn(8, 3, 8, 8)
    with pytest.raises(ValueError, match="mix"):
        TorchExtractor(network, ["0", "1"]).begin(X)


def test_what_is_empty_for_the_first_samples_is_refused():
    class ZeroesIncomplete(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            incomplete = torch.nonzero(torch.isnan(x).any(dim=1)).squeeze(1)
            y = self.first(x.nan_to_num())
            return self.head(y).index_fill(0, incomplete, 0.0)

    with pytest.raises(ValueError, match="alive after 'first' is empty"):
        TorchExtractor(ZeroesIncomplete(), ["first"]).begin(torch.randn(5, 4))


def test_a_constant_that_is_written_to_is_made_anew_for_each_batch():
    class AddsUp(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
            self.step = nn.Parameter(torch.ones(4))

        def forward(self, x):
            shift = torch.zeros(4)
            shift += self.step
            return self.head(torch.relu(self.first(x)) + shift)

    network, X = AddsUp(), torch.randn(6, 4)
    extractor = TorchExtractor(network, ["first"])
    for _ in range(5):
        assert_right(extractor, network, X)


def test_a_networks_assertions_are_made_for_each_shape_of_input():
    class OnlyFour(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.head = nn.AdaptiveAvgPool1d(4), nn.Linear(4, 3)

        def forward(self, x):
            length = x.shape[1]
            assert length <= 4, f"{length} are too many"
            return self.head(self.mean(x))

    network = OnlyFour()
    extractor = TorchExtractor(network, ["mean"])
    assert_right(extractor, network, torch.randn(6, 4))
    with pytest.raises(ValueError, match="5 are too many"):
        extractor.begin(torch.randn(6, 5))


def test_a_part_that_is_written_to_after_the_cut_is_refused():
    class SplitThenChanged(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.head = nn.Linear(1, 3)

        def forward(self, x):
            x = self.a(x)
            parts = x.split(1, dim=1)
            y = self.b(x)
            x = nn.functional.relu_(x)
            z = self.head(parts[0])
            return self.c(x) + y[:, :3] + 0 * z

    X = torch.randn(8, 4)
    with pytest.raises(ValueError, match="once samples have left"):
        TorchExtractor(SplitThenChanged(), ["b", "head"]).begin(X)


MIXED = r"mixes|order|have left"


class Decides(nn.Module):
    """A layer that torch.fx cannot trace."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) if x.isfinite().all() else x


def rank(x):
    return x + x.argsort(0).argsort(0)


MIXES = {
    "mean": lambda x: x - x.mean(0),
    "standardised": lambda x: (x - x.mean()) / x.std(),
    "largest": lambda x: x / x.abs().amax(),
    "softmax": lambda x: x * x.softmax(0),
    "sort": lambda x: x.sort(0).values,
    "rank": rank,
    "shift": lambda x: x.roll(1, 0),
    "sum so far": lambda x: x.cumsum(0),
    "attention": lambda x: (x @ x.T).softmax(1) @ x,
    "above the mean": lambda x: x * (x > x.mean(0)),
    "first": lambda x: x - x[:1],
    "last": lambda x: x - x[-1:],
    "a thousandth of the mean": lambda x: x + 1e-3 * x.mean(0),
    "number of samples": lambda x: x / len(x),
    "norm": lambda x: x / x.norm(),
    "by the step": lambda x: (x / x.abs().max() * 127).round() / 127,
}

HIDES = {
    "nothing": lambda x: x,
    "a mask": lambda x: x.masked_fill(torch.arange(4) > 1, -1e4),
    "a mask of the lowest": lambda x: x.masked_fill(
        torch.arange(4) > 1, torch.finfo(x.dtype).min
    ),
    "large channels": lambda x: torch.cat([x[:, :2], 1e4 + 1e4 * x[:, 2:]], dim=1),
    "an offset": lambda x: x + 1000,
    "a small share": lambda x: torch.cat([1e-3 * x[:, :2], x[:, 2:].relu()], dim=1),
}


def spread_out(layer):
    """Give a layer weights that keep the scale of what it is given."""
    nn.init.orthogonal_(layer.weight)
    return layer


def mixed(mix, hide, part=Function, dtype=torch.float32):
    first, second = (spread_out(nn.Linear(4, 4)) for _ in range(2))
    network = nn.Sequential(first, part(mix), second, Function(hide))
    return network.to(dtype)


@pytest.mark.parametrize("hide", HIDES)
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("part", [Function, Decides])
def test_nothing_hides_that_samples_are_mixed(mix, hide, part):
    if (mix, hide) == ("a thousandth of the mean", "an offset"):
        pytest.skip("less than rounding")
    extractor = TorchExtractor(mixed(MIXES[mix], HIDES[hide], part), ["0"])
    X = torch.randn(200, 4)
    with pytest.raises(ValueError, match=MIXED):
        E2CMClassifier(extractor).fit(X, np.arange(200) % 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mix", [m for m in MIXES if m != "a thousandth of the mean"])
def test_no_precision_hides_that_samples_are_mixed(mix, dtype):
    network = mixed(MIXES[mix], HIDES["nothing"], dtype=dtype)
    with pytest.raises(ValueError, match=MIXED):
        TorchExtractor(network, ["0"]).verify(torch.randn(200, 4).numpy())


ROWS = torch.randn(64, 4)


@pytest.mark.parametrize(
    "first_batch",
    [
        ROWS[:1],
        ROWS[:1].repeat(64, 1),
        torch.cat([ROWS[:1], ROWS[:1].flip(1), ROWS[:1].roll(1, 1)]),
        ROWS.sort(0).values,
    ],
    ids=["one sample", "equal samples", "of one mean and maximum", "in order"],
)
@pytest.mark.parametrize("mix", ["standardised", "largest", "sort", "rank"])
def test_no_first_batch_hides_that_samples_are_mixed(mix, first_batch):
    extractor = TorchExtractor(mixed(MIXES[mix], HIDES["nothing"]), ["0"])
    with contextlib.suppress(ValueError):  # it may be seen at once
        extractor.begin(first_batch)
    with pytest.raises(ValueError, match=MIXED):
        extractor.verify(ROWS.numpy())


def test_samples_that_are_cut_to_the_longest_of_the_batch_are_refused():
    class CutToLongest(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids):
            ids = ids[:, : int((ids > 0).sum(1).max())]
            return self.embedding(ids).mean(1)

    network = nn.Sequential(CutToLongest(), nn.Linear(4, 3))
    ids = torch.randint(1, 9, (200, 6))
    ids[3:, 3:] = 0  # the first are the longest
    ids[3::2, 1:] = 0
    with pytest.raises(ValueError, match=MIXED):
        TorchExtractor(network, ["0"]).verify(ids.numpy())


def right(dtype=torch.float32):
    return nn.Sequential(
        spread_out(nn.Linear(4, 4)), nn.LayerNorm(4), spread_out(nn.Linear(4, 4))
    ).to(dtype)


ALLOWED = {
    "a common factor that cancels": lambda x: (x / x.abs().max()) * x.abs().max(),
    "softmax about the largest of the batch": lambda x: (
        (x - x.max()).exp() / (x - x.max()).exp().sum(1, keepdim=True)
    ),
    "differences of large numbers": lambda x: (x + 1e4) - 1e4,
    "constant features": lambda x: torch.cat([x[:, :1], torch.ones_like(x[:, 1:])], 1),
    "a mask for each sample": lambda x: x.masked_fill(x > 1, -torch.inf),
    "all the same": lambda x: 0 * x + 1,
}


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("part", [Function, Decides])
def test_a_network_that_differs_by_rounding_alone_is_not_refused(name, part):
    network = nn.Sequential(nn.Linear(4, 4), part(ALLOWED[name]), nn.Identity())
    extractor = TorchExtractor(network, ["0"])
    extractor.verify(torch.randn(200, 4).numpy())
    assert len(extractor.findings[0]) == 1


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_a_right_network_of_any_precision_is_not_refused(dtype):
    extractor = TorchExtractor(right(dtype), ["0"])
    extractor.verify(torch.randn(200, 4).numpy())
    assert len(extractor.findings[0]) == 1


def test_what_runs_in_single_precision_only_is_not_refused():
    def single_only(x):
        assert x.dtype is torch.float32
        return (x / x.abs().max()) * x.abs().max()

    network = nn.Sequential(nn.Linear(4, 4), Decides(single_only), nn.Linear(4, 3))
    TorchExtractor(network, ["0"]).verify(torch.randn(200, 4).numpy())


class AssertsAStart(nn.Module):
    """Takes token ids whose first is 1, and looks at their values."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)

    def forward(self, ids):
        if not (ids[:, 0] == 1).all():
            raise AssertionError("no start")
        return self.embedding(ids).mean(1)


def test_a_network_that_takes_no_made_up_samples_takes_a_single_one():
    network = nn.Sequential(AssertsAStart(), nn.Linear(4, 3))
    ids = torch.randint(2, 9, (40, 6))
    ids[:, 0] = 1
    clf = E2CMClassifier(TorchExtractor(network, ["0"])).fit(ids, np.arange(40) % 2)
    expected = clf.predict(ids)
    loaded = pickle.loads(pickle.dumps(clf))
    assert loaded.predict(ids[:1].numpy()) == expected[:1]
    alone = TorchExtractor(network, ["0"])
    assert_right(alone, network, ids[:1])


def test_a_loaded_estimator_proves_nothing_again():
    network, X = right(), torch.randn(40, 4)
    clf = E2CMClassifier(TorchExtractor(network, ["0"])).fit(X, np.arange(40) % 2)
    loaded = pickle.loads(pickle.dumps(clf))
    rules = loaded.extractor_.findings[0]
    assert rules == clf.extractor_.findings[0]
    assert len(rules) == 1
