"""The networks that ``deploy.py`` exports, with thresholds."""

from collections.abc import Callable, Iterator
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

from .speed_subjects import SHARES, Subject, digits, for_shares, lite0, resnet20
from .speed_subjects import torchvision as random_weights

MAX_COST = 0.4
VOCABULARY, LENGTH, N_CLASSES = 2000, 64, 5


class Deployed(NamedTuple):
    """A network as it was given, an estimator with thresholds, and samples.

    `X` is of the type that the network takes; `only_open` says how it is exported.
    """

    name: str
    plain: nn.Module
    fitted: E2CMClassifier
    X: np.ndarray
    only_open: bool


class TokenTransformer(nn.Module):
    """Six layers of torch's encoder over token ids, 0 for padding."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(LENGTH, width) / 8)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(width, N_CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        padding = ids == 0
        x = self.embedding(ids) + self.positions
        x = self.encoder(x, src_key_padding_mask=padding)
        return self.head(x.masked_fill(padding[..., None], 0.0).mean(1))


def tokens() -> Iterator[Subject]:
    """Yield a transformer with random weights, over made-up words of five topics."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = TokenTransformer().eval()
    y = np.arange(800) % N_CLASSES
    X = rng.integers(1, VOCABULARY // 2, size=(800, LENGTH)) + 100 * y[:, None]
    X[np.arange(LENGTH) >= rng.integers(LENGTH // 2, LENGTH + 1, size=(800, 1))] = 0
    exits = [f"encoder.layers.{i}" for i in range(1, 5)]
    clf = E2CMClassifier(TorchExtractor(network, exits), final="class_means")
    clf.fit(X[:400], y[:400])
    thresholds = for_shares(clf, X[400:600], SHARES)
    yield Subject(
        f"transformer, {LENGTH} tokens",
        "",
        network,
        clf,
        X[400:600],
        y[400:600],
        X[600:],
        [],
        thresholds,
    )


VIT = [f"encoder.layers.encoder_layer_{i}" for i in (2, 4, 6, 8)]
# The blocks after these exits have no skip connection.
NO_SKIP = [f"features.{i}" for i in (1, 3, 6, 8)]
SWIN = ["features.1", "features.3", "features.5.1", "features.5.3"]
MAKERS: dict[str, Callable[[], Iterator[Subject]]] = {
    "cifar10": resnet20("cifar10"),
    "cifar10_ten": resnet20("cifar10"),
    "digits": digits,
    "tokens": tokens,
    "mobilenet224": random_weights("mobilenet_v3_small", 4),
    "mobilenet224_no_skip": random_weights("mobilenet_v3_small", NO_SKIP),
    "resnet18": random_weights("resnet18", ["maxpool", "layer1", "layer2", "layer3"]),
    "lite0": lite0,
    "vit": random_weights("vit_b_32", VIT),
    "swin": random_weights("swin_t", SWIN),
}
# What tells networks of one name apart.
ADDED = {
    "cifar10_ten": ", ten exits",
    "mobilenet224_no_skip": ", exits before blocks without skips",
}


def make(name: str) -> Deployed:
    """Return one of these, with given thresholds or with those of a tuned cost.

    Thresholds are tuned by the time of single samples, and exits that are closed then
    are left out; those of ten exits by multiply-adds.
    """
    (subject,) = MAKERS[name]()
    fitted, by_time = subject.estimator, False
    threshold = subject.thresholds
    if threshold is None:
        by_time = name != "cifar10_ten"
        threshold = tuned(fitted, subject, by_time)
    fitted.set_params(threshold=threshold)
    X = subject.X if subject.X.dtype == np.int64 else subject.X.astype(np.float32)
    # Samples of all classes, in no order.
    mixed = np.random.default_rng(0).permutation(len(X))[:512]
    shown = subject.name + ADDED.get(name, "")
    return Deployed(shown, subject.plain, fitted, X[mixed], by_time)


def tuned(fitted: E2CMClassifier, subject: Subject, by_time: bool) -> np.ndarray:
    """Return the thresholds for 40% of the multiply-adds, or of the time."""
    estimator = copy(fitted)
    if by_time:
        estimator.set_params(cost_unit="seconds", batch_size=1)
        estimator.measure_seconds(subject.X_tune[:64])
    search = TunedExitsCV(estimator, max_cost=MAX_COST, cv="prefit", random_state=0)
    return search.fit(subject.X_tune, subject.y_tune).best_threshold_
