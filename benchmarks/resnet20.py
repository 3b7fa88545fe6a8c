"""The ResNet-20 of the benchmarks (He et al. 2015, section 4.2), and its weights."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of the stem, and of the blocks.
WIDTHS = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
WEIGHTS = Path(__file__).parent / "weights"


class Block(nn.Module):
    """Two convolutions and a shortcut, which is padded with zeros where it widens."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.stride = n_out // n_in
        self.padding = n_out - n_in
        self.conv1 = nn.Conv2d(n_in, n_out, 3, self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(inside + F.pad(shortcut, (0, 0, 0, 0, 0, self.padding)))


class ResNet20(nn.Module):
    """0.27 million weights; takes images of bytes."""

    def __init__(
        self, channels: int, n_classes: int = 10, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(
            *(Block(n_in, n_out) for n_in, n_out in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem((x - self.mean) / self.std)
        return self.head(self.blocks(x).mean(dim=(2, 3)))


BLOCKS = [f"blocks.{i}" for i in range(9)]


def load_trained(name: str) -> ResNet20:
    """Return the network that ``train_resnet20.py`` trained on this data set."""
    state = torch.load(WEIGHTS / f"{name}.pt", weights_only=True)
    network = ResNet20(len(state["mean"]))
    network.load_state_dict(state)
    return network.eval().to(memory_format=torch.channels_last)


def cifar10() -> ResNet20:
    """Return the network of CIFAR-10, for ``python -m sk_e2cm.report``."""
    return load_trained("cifar10")
