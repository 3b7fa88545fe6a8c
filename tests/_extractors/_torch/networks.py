"""Small networks, each with one thing that makes cutting it hard."""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Callable

import torch
from torch import Tensor, nn

Pair = namedtuple("Pair", "left right")


def lived_in(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and weights as if it had been trained."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def in_place_chain() -> nn.Sequential:
    return nn.Sequential(
        nn.LeakyReLU(0.5, inplace=True),
        nn.Linear(4, 4),
        nn.LeakyReLU(0.5, inplace=True),
        nn.Linear(4, 4),
        nn.LeakyReLU(0.5, inplace=True),
        nn.Linear(4, 3),
    )


def conv_chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=4),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 5),
    )


def token_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(10, 6), nn.Linear(6, 6), nn.Flatten(), nn.Linear(6 * 5, 2)
    )


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    """Return a network whose first layer has one of torch's older norms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = norm(nn.Linear(4, 4))
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 3))


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.skip = nn.Conv2d(n_in, n_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.skip(x)
        return self.relu(y)


class ResidualNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block1 = Block(4, 4, 1)
        self.block2 = Block(4, 8, 2)
        self.block3 = Block(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return self.head(self.pool(x).flatten(1))


class Layers(nn.Module):
    """Four layers for samples of four numbers; subclasses say how they are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.third = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)


class Plain(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x).relu())).relu())


class SkipAcross(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.third(self.second(x)) + x)


class TwoAlive(Layers):
    def forward(self, x: Tensor) -> Tensor:
        u, v = self.first(x), x.tanh()
        y = self.second(u * v)
        return self.head(self.third(y) * u + v)


class RowCountAlive(Layers):
    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        y = self.second(self.first(x))
        return self.head(self.third(y)).reshape(n, -1)


class MultipleOfRowCountAlive(Layers):
    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0) * 2
        y = self.second(self.first(x))
        return self.head(self.third(y.view(n, 2).sin().reshape(-1, 4)))


class ShapeAlive(Layers):
    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        y = self.second(self.first(x))
        return self.head(self.third(y.flatten().view(shape)))


class SharedLayer(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return self.head(self.first(y).relu())


class FoldedAlive(Layers):
    """Keeps two windows of each sample as rows of their own, like a Swin block."""

    def forward(self, x: Tensor) -> Tensor:
        windows = self.first(x).reshape(-1, 2).cos()
        y = self.second(x)
        return self.head(self.third(y) + windows.reshape(-1, 4))


class ConstantAlive(Layers):
    def forward(self, x: Tensor) -> Tensor:
        positions = x.new_ones(x.shape[1]).cumsum(0) / 4
        y = self.second(self.first(x))
        return self.head(self.third(y) * positions)


class BufferRead(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("shift", torch.rand(4))
        self.plain = torch.rand(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x) * self.scale + self.shift)
        return self.head(self.third(y * self.scale) + self.shift * self.plain)


class LSTMStateAlive(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(2, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        sequence, state = self.rnn(x.view(-1, 2, 2))
        y = self.second(x)
        return self.head(self.third(y) + sequence[:, 0] + state[0][0] * state[1][-1])


class MutatedAfterTheCut(Layers):
    """Writes to a value that is read on both sides of the cut, under one name."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        x.mul_(2)
        return self.head(self.third(y) + x)


class SequenceFirst(nn.Module):
    """Turns (n, t, d) into (t, n, d), as recurrent networks and CLIP do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.third = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.transpose(0, 1))
        return self.third(self.second(x.relu()).relu().cumsum(0))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Branching(nn.Module):
    """Cannot be traced: which way it goes depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().sum() > 1e9:
            x = x / 2
        return self.inner(x)


class WithBranch(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.second = Branching()
        self.third = Branching()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x))))


class OptionalInputs(Layers):
    def forward(
        self, x: Tensor, mask: Tensor | None = None, scale: float = 3.0
    ) -> Tensor:
        x = self.second(self.first(x)) * scale
        if mask is not None:
            x = x * mask
        return self.head(self.third(x))


class ReturnsWhatTheyAre(nn.Module):
    """Two heads in a container, or a layer's output in a container."""

    def __init__(self, container: type) -> None:
        super().__init__()
        self.container = container
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor | tuple | list | dict | Pair:
        left, right = self.linear(x), x.relu()
        if self.container is dict:
            return {"left": left, "right": right}
        if self.container is Pair:
            return Pair(left, right)
        return self.container((left, right))


class Function(nn.Module):
    """A layer that computes `function`."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
