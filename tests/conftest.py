"""What several tests use: scikit-learn's digits, a network for them, plain bars."""

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from sk_e2cm._utils import _progress

from .networks import DigitsNetwork


@pytest.fixture(scope="session")
def digits():
    """Return X of shape (1797, 1, 8, 8) in 0..1, and y."""
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32).reshape(-1, 1, 8, 8), y


@pytest.fixture(scope="session")
def network(digits):
    """Return a network that a few steps have taught something."""
    X, y = (torch.from_numpy(a[:600]) for a in digits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DigitsNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(X), y).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture
def plain_bars(monkeypatch):
    """Draw progress without tqdm, at every step and on a wide terminal."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(_progress, "_PAUSE", -1.0)
    monkeypatch.setenv("COLUMNS", "200")
