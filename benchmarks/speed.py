"""Early exits against the plain network, in seconds: ``make bench-speed``.

Both take NumPy arrays and return labels, in one process and in turn. *Efficiency* is
the ideal time over the measured one. The ideal is the time that each stage takes for a
full batch of the same size, times the share of the samples that reach it: exits that
cost nothing, and survivors that are computed as quickly as in full batches.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from examples import datasets, dec
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

from .resnet20 import BLOCKS, load_trained
from .tables import write_table
from .train_resnet20 import split

WHITENED = {"metric": "mahalanobis"}
EXITS = {
    "whitened": WHITENED,
    "second order, Dirichlet": {
        **WHITENED,
        "pooling": "second_order",
        "calibration": "dirichlet",
    },
}
MAX_COST = 0.4
N_ROUNDS = 11
# A round of early exits takes about so many seconds, since machines are not quiet.
SHORTEST = 0.3
MOST_BATCHES = 200

HEADER = ["network", "exits", "images at once", "setting", "MACs", "time", "efficiency"]


class Subject(NamedTuple):
    """A frozen network with fitted exits, and what it is timed on."""

    network: str
    exits: str
    plain: nn.Module
    clf: E2CMClassifier
    thresholds: np.ndarray
    X: np.ndarray
    batch_sizes: list[int]


def subject(
    name: str, exits: str, plain: nn.Module, clf: E2CMClassifier, tuning, X, batch_sizes
) -> Subject:
    """Choose thresholds for a fitted classifier."""
    search = TunedExitsCV(clf, max_cost=MAX_COST, cv="prefit", random_state=0)
    thresholds = search.fit(*tuning).best_threshold_
    return Subject(name, exits, plain, clf, thresholds, X, batch_sizes)


def resnets() -> Iterator[Subject]:
    for name in ("fashion_mnist", "cifar10"):
        data = datasets.load(f"npz:{name}")
        rows, withheld = split(len(data.X_train))
        rows = rows[:10_000]
        network = load_trained(name)
        extractor = TorchExtractor(network, ["stem", *BLOCKS])
        for exits, params in EXITS.items():
            clf = E2CMClassifier(extractor, **params)
            clf.fit(data.X_train[rows], data.y_train[rows])
            tuning = data.X_train[withheld], data.y_train[withheld]
            full_name = f"ResNet-20, {name}"
            sizes = [1, 32, 256]
            yield subject(full_name, exits, network, clf, tuning, data.X_test, sizes)


def enlarged(X: np.ndarray) -> np.ndarray:
    """Return images of 224 x 224 pixels, in 0..1."""
    images = torch.from_numpy(X).float() / 255
    return nn.functional.interpolate(images, size=224, mode="bilinear").numpy()


def of_torchvision() -> Iterator[Subject]:
    """Yield networks with random weights: they take as long as trained ones."""
    from torchvision import models

    data = datasets.load("npz:cifar10")
    X, y = enlarged(data.X_train[:1000]), data.y_train[:1000]
    X_new = enlarged(data.X_test[:128])
    for name, exits in (
        ("resnet18", ["maxpool", "layer1", "layer2", "layer3"]),
        ("mobilenet_v3_small", 4),
    ):
        torch.manual_seed(0)
        network = models.get_model(name, weights=None).eval()
        extractor = TorchExtractor(network, exits, input_shape=X.shape[1:])
        clf = E2CMClassifier(extractor, final="class_means", batch_size=32, **WHITENED)
        clf.fit(X[:700], y[:700])
        tuning = X[700:], y[700:]
        yield subject(name, "whitened", network, clf, tuning, X_new, [1, 8, 32])


def encoder() -> Iterator[Subject]:
    """Yield the encoder of the deep clustering examples, without training."""
    data = datasets.load("npz:mnist")
    torch.manual_seed(0)
    network = dec.make_encoder(data.X_train[0].size).eval()
    extractor = TorchExtractor(network, dec.EXITS)
    clf = E2CMClassifier(extractor, final="class_means", **WHITENED)
    clf.fit(data.X_train[:10_000], data.y_train[:10_000])
    tuning = data.X_train[10_000:15_000], data.y_train[10_000:15_000]
    sizes = [1, 32, 256]
    name = "MLP 784-500-500-2000-10"
    yield subject(name, "whitened", network, clf, tuning, data.X_test, sizes)


def predict(network: nn.Module, device: str, X: np.ndarray) -> np.ndarray:
    """Predict as anybody would without this package."""
    dtype = next(network.parameters()).dtype
    with torch.inference_mode():
        logits = network(torch.from_numpy(X).to(device, dtype))
        return logits.argmax(dim=1).cpu().numpy()


def seconds(run: Callable, batches: list[np.ndarray]) -> float:
    started = time.perf_counter()
    for batch in batches:
        run(batch)
    return time.perf_counter() - started


def stage_seconds(extractor: TorchExtractor, batches: list[np.ndarray]) -> np.ndarray:
    """Return the time of each stage over full batches; the first converts the input."""
    wait = torch.cuda.synchronize if extractor.device.type == "cuda" else lambda: None
    spent = np.zeros(len(extractor.stage_names))
    for batch in batches:
        for stage in range(len(spent)):
            started = time.perf_counter()
            if stage == 0:
                state = extractor.begin(batch)
            state, _ = extractor.advance(state, stage)
            wait()
            spent[stage] += time.perf_counter() - started
    return spent


def time_setting(timed: Subject, size: int, threshold) -> list[str]:
    """Time one setting; return its cells from MACs on, medians with their spread."""
    clf = timed.clf.set_params(threshold=threshold, batch_size=size)
    extractor = clf.extractor_.to(clf.device)
    plain = partial(predict, timed.plain, clf.device)
    starts = range(0, len(timed.X) - size + 1, size)[:MOST_BATCHES]
    batches = [timed.X[start : start + size].copy() for start in starts]
    stage = clf.predict_exit(np.concatenate(batches))
    reach = [(stage >= each).mean() for each in range(len(extractor.stage_names))]

    stage_seconds(extractor, batches[:8])  # warms up, as the next lines do
    seconds(plain, batches[:8])
    n_batches = max(1, round(SHORTEST / seconds(clf.predict, batches) * len(batches)))
    rounds = itertools.cycle(batches)
    times, efficiencies = [], []
    for _ in range(N_ROUNDS):
        now = list(itertools.islice(rounds, n_batches))
        early, full = seconds(clf.predict, now), seconds(plain, now)
        times.append(early / full)
        efficiencies.append(stage_seconds(extractor, now) @ reach / early)
    macs = f"{clf.stage_cost_[stage].mean():.3f}"
    return [macs, spread(times), spread(efficiencies)]


def spread(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    makers = {"resnets": resnets, "torchvision": of_torchvision, "mlp": encoder}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", default=list(makers), metavar="|".join(makers)
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", default="speed", help="docs/benchmarks/TABLE.csv")
    options = parser.parse_args()
    lines = []
    print(f"{options.device}, {torch.get_num_threads()} threads")
    for name in options.names:
        for timed in makers[name]():
            timed.clf.set_params(device=options.device)
            timed.plain.to(options.device)
            for size in timed.batch_sizes:
                for setting, threshold in (
                    ("nobody leaves", 1.5),
                    (f"at most {MAX_COST} of the MACs", timed.thresholds),
                ):
                    cells = time_setting(timed, size, threshold)
                    where = [timed.network, timed.exits, str(size), setting]
                    lines.append([*where, *cells])
                    print(*lines[-1], sep=" | ", flush=True)
    write_table(options.table, [HEADER, *lines])


if __name__ == "__main__":
    main()
