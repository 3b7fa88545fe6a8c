"""Which axis holds the channels, as the layers of a network tell."""

import numpy as np
import pytest
import torch
import torchvision
from numpy.testing import assert_allclose
from torch import nn

from sk_e2cm import TorchExtractor
from sk_e2cm._multi_exit._full_pass import staged_features

from ...outputs import average_by_loops
from .helpers import uncut


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


class First(nn.Sequential):
    """The first of the values that a layer returns."""

    def forward(self, x):
        return super().forward(x)[0]


class Untraceable(nn.Sequential):
    """Layers that torch.fx cannot look into, since they depend on the data."""

    def forward(self, x):
        return super().forward(x) if x.sum() < 1e6 else x


def permuted(*dims):
    return Does(lambda x: x.permute(dims))


def axes_of(network, *shape):
    """Return the axis after each part of a chain but the last."""
    exits = [str(i) for i in range(len(network) - 1)]
    return TorchExtractor(network, exits).channel_axes(shape)[:-1]


def after(*layers):
    return nn.Sequential(nn.Sequential(*layers), nn.Sequential(nn.Flatten()))


def heads(x):
    n, length, d = x.shape
    q = x.reshape(n, length, 2, d // 2).transpose(1, 2)
    mixed = (q @ q.transpose(-1, -2)).softmax(-1) @ q
    return mixed.transpose(1, 2).reshape(n, length, d)


PICTURE, SERIES, TOKENS, VOLUME = (3, 8, 4), (3, 9), (7, 6), (3, 4, 6, 5)
CONV = nn.Conv2d(3, 8, 3, padding=1)
LINEAR = nn.Linear(6, 10)

FIRST = {
    "convolution": (PICTURE, [CONV]),
    "transposed convolution": (PICTURE, [nn.ConvTranspose2d(3, 8, 3)]),
    "Conv1d": (SERIES, [nn.Conv1d(3, 8, 3)]),
    "Conv3d": (VOLUME, [nn.Conv3d(3, 8, 3)]),
    "a series normed": (SERIES, [nn.BatchNorm1d(3)]),
    "batch norm": (PICTURE, [nn.BatchNorm2d(3)]),
    "group norm": (PICTURE, [nn.GroupNorm(1, 3)]),
    "instance norm": (PICTURE, [CONV, nn.InstanceNorm2d(8), nn.ReLU()]),
    "norm of the whole map": (PICTURE, [CONV, nn.LayerNorm([8, 8, 4])]),
    "pooling": (PICTURE, [nn.MaxPool2d(2)]),
    "adaptive pooling": (PICTURE, [nn.AdaptiveAvgPool2d((4, 2))]),
    "more pixels": (PICTURE, [nn.Conv2d(3, 8, 1), nn.PixelShuffle(2)]),
    "upsampling": (PICTURE, [CONV, nn.Upsample(scale_factor=2)]),
    "padding": (PICTURE, [CONV, nn.ZeroPad2d(2), nn.SiLU(inplace=True)]),
    "a part of the channels": (PICTURE, [CONV, Does(lambda x: x[:, 1:6:2])]),
    "a part of the map": (PICTURE, [CONV, Does(lambda x: x[..., 1:3])]),
    "chunks": (PICTURE, [CONV, Does(lambda x: x.chunk(2, dim=1)[0])]),
    "two maps joined": (PICTURE, [CONV, Does(lambda x: torch.cat([x, 2 * x], 1))]),
    "a skip": (PICTURE, [CONV, Does(lambda x, f: x + f(x), nn.Conv2d(8, 8, 1))]),
    "an image added": (PICTURE, [Does(lambda x, f: x + f(x), nn.Conv2d(3, 3, 1))]),
    "a gate": (
        PICTURE,
        [
            CONV,
            Does(
                lambda x, f: x * f(x.mean((2, 3)))[:, :, None, None].sigmoid(),
                nn.Linear(8, 8),
            ),
        ],
    ),
    "a norm of channels, turned back": (
        PICTURE,
        [CONV, permuted(0, 2, 3, 1), nn.LayerNorm(8), permuted(0, 3, 1, 2)],
    ),
    "tokens turned into a map": (
        (8, 6),
        [LINEAR, Does(lambda x: x.transpose(1, 2).reshape(len(x), -1, 4, 2))],
    ),
    "a map flattened": (PICTURE, [CONV, nn.Flatten(2)]),
    "a linear layer along the map": (PICTURE, [CONV, nn.Linear(4, 7)]),
    "embeddings, convolved": (
        TOKENS,
        [nn.Linear(6, 5), Does(lambda x: x.unsqueeze(1)), nn.Conv2d(1, 4, (3, 5))],
    ),
    "untraceable": (PICTURE, [Untraceable(CONV, nn.ReLU())]),
    "samples second": (PICTURE, [CONV, permuted(1, 0, 2, 3)]),
}

LAST = {
    "linear": (TOKENS, [LINEAR, nn.GELU(), nn.Dropout()]),
    "layer norm": (TOKENS, [nn.LayerNorm(6)]),
    "RMS norm": (TOKENS, [nn.RMSNorm(6)]),
    "LSTM": (TOKENS, [First(nn.LSTM(6, 5, batch_first=True))]),
    "GRU": (TOKENS, [First(nn.GRU(6, 5, batch_first=True))]),
    "attention": (
        TOKENS,
        [
            Does(
                lambda x, f: x + f(x, x, x)[0],
                nn.MultiheadAttention(6, 2, batch_first=True),
            )
        ],
    ),
    "attention by hand": (TOKENS, [LINEAR, Does(heads), nn.Linear(10, 5)]),
    "a transformer": (
        TOKENS,
        [nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)],
    ),
    "tokens mixed": (
        TOKENS,
        [LINEAR, Does(lambda x, f: x + f(x.mT).mT, nn.Linear(7, 7))],
    ),
    "patches": (PICTURE, [CONV, Does(lambda x: x.flatten(2).transpose(1, 2))]),
    "patches reshaped": (
        PICTURE,
        [CONV, Does(lambda x: x.reshape(len(x), 8, 32).permute(0, 2, 1))],
    ),
    "a map turned": (PICTURE, [CONV, permuted(0, 2, 3, 1), nn.ReLU()]),
    "a map turned by name": (PICTURE, [CONV, Does(lambda x: x.movedim(1, -1))]),
    "a series turned": (SERIES, [nn.Conv1d(3, 8, 3), permuted(0, 2, 1)]),
    "a series copied": (SERIES, [nn.Conv1d(3, 8, 3), Does(lambda x: x.mT.clone())]),
    "tokens as a map": (TOKENS, [LINEAR, Does(lambda x: x.unflatten(1, (7, 1)))]),
    "without the first token": (TOKENS, [LINEAR, Does(lambda x: x[:, 1:])]),
    "weights by hand": (TOKENS, [Does(lambda x, f: x @ f.weight.T, nn.Linear(6, 4))]),
    "untraceable": (TOKENS, [Untraceable(LINEAR, nn.ReLU())]),
}

UNKNOWN = {
    "nothing": (PICTURE, [nn.ReLU()]),
    "a norm of whole pictures": (PICTURE, [nn.LayerNorm([3, 8, 4])]),
    "a norm of tokens, convolved as channels": (
        TOKENS,
        [nn.LayerNorm(6), nn.Conv1d(7, 5, 1)],
    ),
    "maps of two kinds joined": (
        (4, 4, 4),
        [Does(lambda x, f, g: f(x) + g(x), nn.Conv2d(4, 4, 1), nn.Linear(4, 4))],
    ),
    "channels and places together": (
        PICTURE,
        [CONV, Does(lambda x: x.reshape(len(x), 16, 4, 4))],
    ),
}


@pytest.mark.parametrize(("shape", "layers"), FIRST.values(), ids=FIRST)
def test_channels_come_first_after(shape, layers):
    assert axes_of(after(*layers), *shape) == (1,)


@pytest.mark.parametrize(("shape", "layers"), LAST.values(), ids=LAST)
def test_channels_come_last_after(shape, layers):
    network = after(*layers)
    (output, _) = TorchExtractor(network, ["0"]).staged_transform(torch.rand(3, *shape))
    assert axes_of(network, *shape) == (output.dim() - 1,)


@pytest.mark.parametrize(("shape", "layers"), UNKNOWN.values(), ids=UNKNOWN)
def test_nobody_knows_where_channels_are_after(shape, layers):
    assert axes_of(after(*layers), *shape) == (None,)


def test_channels_may_lie_in_between():
    frames = Does(lambda x: x.unflatten(0, (-1, 5)))
    network = after(Does(lambda x: x.flatten(0, 1)), CONV, frames)
    assert axes_of(network, 5, *PICTURE) == (2,)


def test_samples_may_come_second():
    layer, mean = nn.TransformerEncoderLayer(6, 2, 8), Does(lambda x: x.mean(0))
    network = nn.Sequential(permuted(1, 0, 2), layer, mean)
    assert axes_of(network, *TOKENS) == (None, 2)


def test_token_ids_are_embedded_in_the_last_axis():
    network = nn.Sequential(nn.Embedding(10, 6), nn.ReLU(), nn.Flatten())
    assert axes_of(network, 7) == (2, 2)


def small_swin():
    return torchvision.models.SwinTransformer([2, 2], 12, [1, 1], [2, 2], [2, 2])


def small_vit():
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 12, 16)


LAYER = "encoder.layers.encoder_layer_"
NETWORKS = {
    "resnet18": (
        torchvision.models.resnet18,
        ["relu", "layer1", "layer2", "layer4"],
        (3, 64, 32),
        1,
    ),
    "swin": (small_swin, ["features.1", "features.3"], (3, 48, 32), 3),
    "square swin": (small_swin, ["features.1", "features.3"], (3, 32, 32), 3),
    "vit": (small_vit, [LAYER + "0", LAYER + "1"], (3, 32, 32), 2),
    "convnext": (
        torchvision.models.convnext_tiny,
        ["features.0", "features.1", "features.3"],
        (3, 64, 32),
        1,
    ),
}


@pytest.mark.parametrize(
    ("make", "exits", "shape", "axis"), NETWORKS.values(), ids=NETWORKS
)
def test_features_are_averages_over_the_map(make, exits, shape, axis):
    network, X = make().eval(), torch.rand(4, *shape)
    extractor = TorchExtractor(network, exits)
    axes = extractor.channel_axes(shape)
    assert axes[:-1] == (axis,) * len(exits)
    features, *_ = staged_features(extractor, X.numpy(), 2, axes, "")
    outputs = uncut(network, exits, X)
    for found, output in zip(features[:-1], outputs[:-1], strict=True):
        expected = average_by_loops(output.movedim(axis, 1).numpy(), 2)
        assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_network_that_refuses_zeros_tells_by_a_sample_once_it_has_one():
    class Refuses(Untraceable):
        def forward(self, x):
            assert bool((x != 0).all())
            return super().forward(x)

    network = nn.Sequential(Refuses(CONV), nn.Flatten())
    assert TorchExtractor(network, ["0"]).channel_axes(PICTURE) == (None, None)
    extractor = TorchExtractor(network, ["0"])
    extractor.begin(torch.rand(3, *PICTURE) + 1)
    assert extractor.channel_axes(PICTURE) == (1, None)


def test_looking_for_channels_leaves_the_network_as_it_was():
    class Counts(Untraceable):
        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    counts = Counts(CONV)
    counts.register_buffer("calls", torch.zeros(()))
    extractor = TorchExtractor(nn.Sequential(counts, nn.Flatten()), ["0"])
    before = extractor._module[0].calls.clone()
    assert extractor.channel_axes(PICTURE)[0] == 1
    assert extractor._module[0].calls == before
