"""Small networks with exits, and what each of their stages says by NumPy."""

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from sk_e2cm import TorchExtractor
from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._multi_exit._heads import Head
from sk_e2cm._multi_exit._logits import LinearLogits
from sk_e2cm._multi_exit._network import MultiExitNetwork
from sk_e2cm._multi_exit._pooling import make_pooling
from sk_e2cm.testing import ToyExtractor

INF = np.inf
N_STAGES, N_CLASSES, N_FEATURES = 4, 3, 8
LABELS = np.array(["ant", "bee", "cat"])
THRESHOLDS = {
    "a number": 0.8,
    "by exit": [0.9, 0.8, 0.7],
    "by class": [[0.7, 0.8, INF], [0.7, INF, 0.6], [0.9, 0.8, 0.4]],
    "some closed": [INF, 0.8, INF],
    "all closed": INF,
    "above one": 1.5,
    "all leave": 0.0,
}


class Minimal:
    """The five members that an extractor needs, and no base class."""

    stage_names = ("a", "b", "c", "d")

    def begin(self, X):
        return X

    def advance(self, state, stage):
        return state, state[:, : 2 * stage + 2]

    def keep(self, state, rows):
        assert isinstance(rows, np.ndarray)
        return state[rows]

    def macs(self, input_shape):
        return [1.0, 2.0, 3.0, 4.0]


class Movable(Minimal):
    """It too, on a device that may be another."""

    def __init__(self, device="cpu"):
        self.device = torch.device(device)

    def begin(self, X):
        return torch.tensor(X, device=self.device)

    def keep(self, state, rows):
        assert rows.device == self.device
        return state[rows]

    def to(self, device):
        there = torch.device(device)
        return self if there == self.device else type(self)(there)


def make_torch_extractor():
    torch.manual_seed(0)
    layers = [nn.Linear(N_FEATURES, N_FEATURES) for _ in range(N_STAGES)]
    return TorchExtractor.from_modules([nn.Sequential(m, nn.Tanh()) for m in layers])


EXTRACTORS = {
    "toy": lambda: ToyExtractor(N_STAGES),
    "minimal": Minimal,
    "with a device": Movable,
    "torch": make_torch_extractor,
}


def make_X(n=200, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n, N_FEATURES)).astype(dtype)


def full_features(extractor, X):
    """Return the outputs of all stages, in double precision."""
    state, features = extractor.begin(X), []
    for stage in range(len(extractor.stage_names)):
        state, output = extractor.advance(state, stage)
        features.append(np.asarray(output).astype(np.float64))
    return features


def make_network(extractor=None, dtype=torch.float64):
    """Return a network whose heads are linear, with weights that are random."""
    extractor = ToyExtractor(N_STAGES) if extractor is None else extractor
    rng, heads = np.random.default_rng(5), []
    features = full_features(extractor, make_X(3, dtype=np.float32))
    for name, of_stage in zip(extractor.stage_names, features, strict=True):
        shape = of_stage.shape[1:]
        weight, bias = rng.normal(size=(N_CLASSES, *shape)), rng.normal(size=N_CLASSES)
        logits = LinearLogits(
            torch.tensor(weight, dtype=dtype), torch.tensor(bias, dtype=dtype)
        )
        heads.append(Head(make_pooling("auto", name, shape, dtype), logits))
    costs = Costs.from_counts(np.array([100.0, 200, 300, 400]), np.full(4, 8.0))
    return MultiExitNetwork(extractor, heads, LABELS, costs, "auto")


def full_proba(network, X):
    """Return the probabilities of all stages, by NumPy: (n, n_stages, n_classes)."""
    stages = []
    features = full_features(network.extractor, X)
    for head, of_stage in zip(network.heads, features, strict=True):
        weight, bias = (
            t.double().numpy() for t in (head.logits.weight, head.logits.bias)
        )
        stages.append(softmax(of_stage @ weight.T + bias, axis=1))
    return np.stack(stages, axis=1)


def answers(network, threshold=0.8, X=None):
    X = make_X() if X is None else X
    stage, label = network.exits(X, threshold, batch_size=64)
    return stage, label, network.proba(X, threshold, batch_size=64)
