"""A network that other processes can import."""

import torch
from torch import nn


class DigitsNetwork(nn.Module):
    """Two convolutional blocks, the second with a skip, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x):
        x = self.stem(x)
        x = self.down(x + torch.relu(self.block(x)))
        return self.head(x.flatten(1))
