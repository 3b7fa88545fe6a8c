"""Early exits against the plain network, in seconds: ``make bench-speed``.

Both take NumPy arrays and return labels, in one process and in turn. *Efficiency* is
the ideal time over the measured one; the ideal is the time that each stage takes for a
full batch, times the share of the samples that reach it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from examples import datasets, dec
from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV

from .resnet20 import BLOCKS, load_trained
from .train_resnet20 import split

WHITENED = {"metric": "mahalanobis"}
BEST = {**WHITENED, "pooling": "second_order", "calibration": "dirichlet"}
MAX_COST = 0.4
N_ROUNDS = 9
# A round takes at least so long, in seconds, so that the clock is fine enough.
ROUND = 0.2

HEADER = ["network", "exits", "images at once", "setting"]
HEADER += ["MACs", "time", "from", "to", "efficiency"]


class Subject(NamedTuple):
    """A frozen network with exits, and what it is timed on."""

    name: str
    exits: str
    network: nn.Module
    extractor: TorchExtractor
    estimator: E2CMClassifier | E2CMClusterer
    thresholds: np.ndarray
    X: np.ndarray
    batch_sizes: list[int]


def tuned(estimator, X, y) -> np.ndarray:
    """Return the best thresholds within the budget, and leave the estimator fitted."""
    search = TunedExitsCV(estimator, max_cost=MAX_COST, cv="prefit", random_state=0)
    return search.fit(X, y).best_threshold_


def resnets() -> Iterator[Subject]:
    for name in ("fashion_mnist", "cifar10"):
        data = datasets.load(f"npz:{name}")
        rows, withheld = split(len(data.X_train))
        rows = rows[:10_000]
        network = load_trained(name)
        extractor = TorchExtractor(network, ["stem", *BLOCKS])
        for exits, params in (("whitened", WHITENED), ("best", BEST)):
            clf = E2CMClassifier(extractor, **params)
            clf.fit(data.X_train[rows], data.y_train[rows])
            thresholds = tuned(clf, data.X_train[withheld], data.y_train[withheld])
            yield Subject(
                f"ResNet-20, {name}",
                exits,
                network,
                extractor,
                clf,
                thresholds,
                data.X_test,
                [1, 32, 256],
            )


def enlarged(X: np.ndarray) -> np.ndarray:
    """Return images of 224 x 224 pixels, in 0..1."""
    images = torch.from_numpy(X).float() / 255
    return nn.functional.interpolate(images, size=224, mode="bilinear").numpy()


def of_torchvision() -> Iterator[Subject]:
    """Yield networks without training: for time it does not matter."""
    from torchvision import models

    data = datasets.load("npz:cifar10")
    X, y = enlarged(data.X_train[:1000]), data.y_train[:1000]
    for name, exits in (
        ("resnet18", ["maxpool", "layer1", "layer2", "layer3"]),
        ("mobilenet_v3_small", 4),
    ):
        torch.manual_seed(0)
        network = models.get_model(name, weights=None).eval()
        extractor = TorchExtractor(network, exits, input_shape=(3, 224, 224))
        clf = E2CMClassifier(extractor, final="class_means", batch_size=32, **WHITENED)
        clf.fit(X[:700], y[:700])
        thresholds = tuned(clf, X[700:], y[700:])
        X_new = enlarged(data.X_test[:64])
        yield Subject(
            name, "whitened", network, extractor, clf, thresholds, X_new, [1, 8, 32]
        )


def encoder() -> Iterator[Subject]:
    data = datasets.load("npz:mnist")
    X = data.X_train[:10_000].reshape(10_000, -1)
    torch.manual_seed(0)
    network = dec.make_encoder(X.shape[1]) if hasattr(dec, "make_encoder") else None
    if network is None:
        return
    extractor = TorchExtractor(network, dec.EXITS)
    clf = E2CMClassifier(extractor, final="class_means", **WHITENED)
    clf.fit(X, data.y_train[:10_000])
    thresholds = tuned(clf, X, data.y_train[:10_000])
    X_new = data.X_test.reshape(len(data.X_test), -1)
    yield Subject(
        "MLP", "whitened", network, extractor, clf, thresholds, X_new, [1, 32, 256]
    )


def plain(network: nn.Module, X: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Predict as anybody would without this package."""
    with torch.inference_mode():
        return network(torch.from_numpy(X).to(dtype)).argmax(1).numpy()


def batches_of(X: np.ndarray, size: int) -> list[np.ndarray]:
    n = min(len(X) // size, 200 if size == 1 else 8)
    return [X[i * size : (i + 1) * size].copy() for i in range(n)]


def seconds(run: Callable, batches: list[np.ndarray]) -> float:
    started = time.perf_counter()
    for batch in batches:
        run(batch)
    return time.perf_counter() - started


def interleaved(runs: dict[str, Callable], batches: list) -> dict[str, list[float]]:
    """Time each of some runs over the batches, in turn."""
    once = {name: seconds(run, batches) for name, run in runs.items()}  # warms up
    repeats = max(1, round(ROUND / max(once.values())))
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(N_ROUNDS):
        for name, run in runs.items():
            found[name].append(seconds(run, batches * repeats))
    return found


def stage_seconds(extractor: TorchExtractor, batches: list[np.ndarray]) -> np.ndarray:
    """Return the median time of each stage, the input's conversion in the first."""
    rounds = []
    for _ in range(N_ROUNDS):
        spent = np.zeros(len(extractor.stage_names))
        for batch in batches:
            for stage in range(len(spent)):
                started = time.perf_counter()
                if stage == 0:
                    state = extractor.begin(batch)
                state, _ = extractor.advance(state, stage)
                spent[stage] += time.perf_counter() - started
        rounds.append(spent)
    return np.median(rounds, axis=0)


def lines(subject: Subject) -> Iterator[list[str]]:
    clf = subject.estimator
    dtype = next(subject.network.parameters()).dtype
    for size in subject.batch_sizes:
        batches = batches_of(subject.X, size)
        clf.set_params(batch_size=size)
        for setting, threshold in (
            ("nobody leaves", 1.5),
            (f"MACs {MAX_COST}", subject.thresholds),
        ):
            clf.set_params(threshold=threshold)
            runs = {
                "plain": partial(plain, subject.network, dtype=dtype),
                "early": clf.predict,
            }
            found = interleaved(runs, batches)
            ratios = [
                e / p for e, p in zip(found["early"], found["plain"], strict=True)
            ]
            own = stage_seconds(subject.extractor, batches)
            own *= (
                statistics.median(seconds(runs["plain"], batches) for _ in range(5))
                / own.sum()
            )
            X = np.concatenate(batches)
            stages = clf.predict_exit(X)
            reach = [(stages >= stage).mean() for stage in range(len(own))]
            full = statistics.median(
                seconds(runs["plain"], batches) for _ in range(N_ROUNDS)
            )
            ratio = statistics.median(ratios)
            ideal = (own * reach).sum() / full
            yield [
                subject.name,
                subject.exits,
                str(size),
                setting,
                f"{clf.stage_cost_[stages].mean():.3f}",
                f"{ratio:.2f}",
                f"{min(ratios):.2f}",
                f"{max(ratios):.2f}",
                f"{ideal / ratio:.2f}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["resnets", "torchvision", "mlp"])
    names = parser.parse_args().names
    makers = {"resnets": resnets, "torchvision": of_torchvision, "mlp": encoder}
    print(f"{torch.get_num_threads()} threads", *HEADER, sep=" | ")
    for name in names:
        for subject in makers[name]():
            for line in lines(subject):
                print(*line, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
