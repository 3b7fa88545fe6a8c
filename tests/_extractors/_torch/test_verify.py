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
