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
