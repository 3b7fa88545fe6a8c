"""The networks that ``speed.py`` times, with fitted exits."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from examples import datasets, dec, networks
from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor

from .resnet20 import BLOCKS, load_trained
from .train_resnet20 import split

BEST_EXITS = {"pooling": "second_order", "calibration": "dirichlet"}
# Of samples that reach an exit of a network with random weights, so many leave there.
SHARES = [0.3, 0.3, 0.3, 0.3]
SMALL, LARGE = [1, 32, 256], [1, 8, 32]


class Subject(NamedTuple):
    """A frozen network with fitted exits, and what it is timed on.

    `thresholds` are given for networks whose weights are random, or which another
    example tunes; others are tuned on `X_tune` and `y_tune`.
    """

    name: str
    exits: str
    plain: nn.Module
    estimator: Any
    X_tune: np.ndarray
    y_tune: np.ndarray
    X: np.ndarray
    batch_sizes: list[int]
    thresholds: np.ndarray | float | None = None


Maker = Callable[[], Iterator[Subject]]


def resnet20(name: str, exits: str = "whitened", **params: Any) -> Maker:
    """Return a trained ResNet-20 with exits after the stem and after each block."""

    def make() -> Iterator[Subject]:
        data = datasets.load(f"npz:{name}")
        rows, withheld = split(len(data.X_train))
        rows, withheld = rows[:10_000], withheld[:2000]
        network = load_trained(name)
        clf = E2CMClassifier(TorchExtractor(network, ["stem", *BLOCKS]), **params)
        clf.fit(data.X_train[rows], data.y_train[rows])
        yield Subject(
            f"ResNet-20, {name}",
            exits,
            network,
            clf,
            data.X_train[withheld],
            data.y_train[withheld],
            data.X_test,
            SMALL,
        )

    return make


def mobilenet() -> Iterator[Subject]:
    """Yield the network that ``examples/train_mobilenet.py`` trains."""
    network = networks.load(
        "torchvision:mobilenet_v3_small", "build/mobilenet_v3_small.pt"
    ).eval()
    data = datasets.load("npz:fashion_mnist")
    extractor = TorchExtractor(network, 8, input_shape=data.X_train.shape[1:])
    clf = E2CMClassifier(extractor, batch_size=256)
    clf.fit(data.X_train[:10_000], data.y_train[:10_000])
    tune, test = (slice(start, None, 2) for start in (0, 1))
    yield Subject(
        "MobileNetV3-Small, 56 px",
        "whitened",
        network,
        clf,
        data.X_test[tune][:2000],
        data.y_test[tune][:2000],
        data.X_test[test],
        SMALL,
    )


def lite0() -> Iterator[Subject]:
    """Yield EfficientNet-Lite0 with ImageNet's weights, as ``make demo-imagenet``."""
    from examples import imagenet

    network = networks.lite0(side=224)
    rng = np.random.default_rng(0)
    y = np.repeat(list(imagenet.PICTURES.values()), 16)
    X, X_new = (
        np.stack(
            [
                imagenet.crop(imagenet.open_picture(path), rng)
                for path in imagenet.PICTURES
                for _ in range(16)
            ]
        )
        for _ in range(2)
    )
    extractor = TorchExtractor(network, 6, input_shape=X.shape[1:])
    clf = E2CMClassifier(
        extractor, final="network", head_classes=np.arange(1000), batch_size=16
    ).fit(X, y)
    mixed = rng.permutation(len(X))
    yield Subject(
        "EfficientNet-Lite0, 224 px",
        "whitened",
        network,
        clf,
        X_new[mixed[:64]],
        y[mixed[:64]],
        X_new[mixed[64:]],
        LARGE,
        thresholds=clf.threshold,
    )


def enlarged(X: np.ndarray) -> np.ndarray:
    """Return images of 224 x 224 pixels, in 0..1."""
    images = torch.from_numpy(X).float() / 255
    return nn.functional.interpolate(images, size=224, mode="bilinear").numpy()


def torchvision(name: str, exits: Any) -> Maker:
    """Return a network with random weights: it takes as long as a trained one."""

    def make() -> Iterator[Subject]:
        from torchvision import models

        data = datasets.load("npz:cifar10")
        X, y = enlarged(data.X_train[:600]), data.y_train[:600]
        torch.manual_seed(0)
        network = models.get_model(name, weights=None).eval()
        extractor = TorchExtractor(network, exits, input_shape=X.shape[1:])
        clf = E2CMClassifier(extractor, final="class_means", batch_size=32)
        clf.fit(X[:400], y[:400])
        yield Subject(
            f"{name}, 224 px",
            "whitened",
            network,
            clf,
            X[400:],
            y[400:],
            enlarged(data.X_test[:128]),
            LARGE,
            thresholds=for_shares(clf, X[400:], SHARES),
        )

    return make


def for_shares(clf: E2CMClassifier, X: np.ndarray, shares: list[float]) -> np.ndarray:
    """Return thresholds at which such shares leave, of those that come to each exit."""
    confidence = clf.exit_proba(X)[:, :-1].max(axis=2)
    here = np.full(len(X), True)
    thresholds = []
    for of_exit, share in zip(confidence.T, shares, strict=True):
        thresholds.append(np.quantile(of_exit[here], 1 - share))
        here &= of_exit < thresholds[-1]
    return np.array(thresholds)


def encoder() -> Iterator[Subject]:
    """Yield the encoder of ``examples/deep_clusters.py``, and its clusters."""
    data = datasets.load("npz:mnist")
    network = dec.load_or_train(datasets.home() / "dec", "mnist", data.X_train, 10)
    clusterer = E2CMClusterer(
        TorchExtractor(network, dec.EXITS), 10, random_state=0, batch_size=1024
    ).fit(data.X_train[:20_000])
    yield Subject(
        "clustering encoder",
        "whitened",
        network,
        clusterer,
        data.X_train[20_000:22_000],
        data.y_train[20_000:22_000],
        data.X_test,
        [1, 32, 128],
    )


def digits() -> Iterator[Subject]:
    """Yield the network of ``make demo``."""
    from examples.digits_network import split_digits, train

    train_set, (X, y), (X_test, _) = split_digits()
    network = train(*train_set)
    clf = E2CMClassifier(TorchExtractor(network, 7)).fit(X, y)
    yield Subject("digits", "whitened", network, clf, X, y, X_test, [1, 32, 449])


SUBJECTS = {
    "fashion_mnist": resnet20("fashion_mnist"),
    "cifar10": resnet20("cifar10"),
    "digits": digits,
    "encoder": encoder,
    "mobilenet": mobilenet,
    "mobilenet224": torchvision("mobilenet_v3_small", 4),
    "lite0": lite0,
    "resnet18": torchvision("resnet18", ["maxpool", "layer1", "layer2", "layer3"]),
    "best_exits": resnet20("fashion_mnist", "best", **BEST_EXITS),
    "resnet50": torchvision("resnet50", ["maxpool", "layer1", "layer2", "layer3"]),
}
