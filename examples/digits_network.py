"""A small residual network for scikit-learn's digits, trained in seconds.

It stands in for "your trained network".
"""

import hashlib
from pathlib import Path

import torch
from datasets import home
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions and a skip around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class SmallResNet(nn.Module):
    """A stem, equal blocks, average pooling and a linear head."""

    def __init__(self, width: int = 48, depth: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def split_digits(seed: int = 0):
    """Return (X, y) for training the network, for the exits, and for testing."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32").reshape(-1, 1, 8, 8)
    X_train, X_rest, y_train, y_rest = train_test_split(
        X, y, train_size=900, stratify=y, random_state=seed
    )
    X_exits, X_test, y_exits, y_test = train_test_split(
        X_rest, y_rest, train_size=448, stratify=y_rest, random_state=seed
    )
    return (X_train, y_train), (X_exits, y_exits), (X_test, y_test)


def train(X, y, *, seed: int = 0, epochs: int = 8, batch_size: int = 50) -> SmallResNet:
    """Train from scratch on images of shape (n, 1, 8, 8)."""
    torch.manual_seed(seed)
    images, labels = torch.from_numpy(X), torch.from_numpy(y)
    network = SmallResNet()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.01, total_steps=epochs * -(-len(X) // batch_size)
    )
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch_size):
            loss = F.cross_entropy(network(shifted(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def trained() -> SmallResNet:
    """Return the network as `train` leaves it; stored, so that it is trained once."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = home() / f"digits_network_{version}.pt"
    if not path.exists():
        (X, y), _, _ = split_digits()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train(X, y).state_dict(), path)
    network = SmallResNet()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def shifted(images: Tensor) -> Tensor:
    """Move most images by up to one pixel along each axis."""
    n, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1))[:, 0]
    # A third stays put: the first blocks' class means rely on the usual places.
    moves = torch.rand(n, 1) < 2 / 3
    down, right = torch.where(moves, torch.randint(0, 3, (2, n, 1)), 1)
    rows = (down + torch.arange(height))[:, :, None]
    columns = (right + torch.arange(width))[:, None, :]
    return padded[torch.arange(n)[:, None, None], rows, columns][:, None]
