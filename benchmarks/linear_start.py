"""What a start from class means is worth: ``python -m benchmarks.linear_start``.

Linear layers over averages on a 4 x 4 grid, at the ten exits of a frozen ResNet-20, are
trained by gradient: from random weights, or from what `E2CMClassifier.to_linear` gives
after one pass. The features are those of that pass. Mean accuracy of the ten exits on
the test images, before and after each epoch; three seeds.
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor

from .resnet20 import BLOCKS, load_trained
from .tables import write_table
from .train_resnet20 import split

EPOCHS = 5
RATE = 1e-3
BATCH_SIZE = 128
SEEDS = [0, 1, 2]
STARTS = {
    "random": {},
    "class means": {"metric": "euclidean", "calibration": None},
    "whitened class means": {"metric": "mahalanobis"},
}


def pooled(
    extractor: TorchExtractor, exits: Sequence[nn.Sequential], X: np.ndarray
) -> list[Tensor]:
    """Return the features of every exit, from one pass."""
    found: list[list[Tensor]] = [[] for _ in exits]
    for start in range(0, len(X), BATCH_SIZE):
        outputs = extractor.staged_transform(X[start : start + BATCH_SIZE])
        for of_exit, (pooling, _), output in zip(found, exits, outputs, strict=False):
            with torch.no_grad():
                of_exit.append(pooling(torch.as_tensor(output)).clone())
    return [torch.cat(of_exit) for of_exit in found]


def accuracies(
    layers: Sequence[nn.Linear],
    train: tuple[list[Tensor], Tensor],
    test: tuple[list[Tensor], Tensor],
) -> Iterator[float]:
    """Yield the mean accuracy of the layers, before and after each epoch."""
    (features, y), (of_test, y_test) = train, test
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    for epoch in range(EPOCHS + 1):
        for rows in torch.randperm(len(y)).split(BATCH_SIZE) if epoch else ():
            loss = sum(
                F.cross_entropy(layer(f[rows]), y[rows])
                for layer, f in zip(layers, features, strict=True)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = [
                (layer(f).argmax(dim=1) == y_test).float().mean().item()
                for layer, f in zip(layers, of_test, strict=True)
            ]
        yield float(np.mean(right))


def lines(name: str) -> Iterator[list[str]]:
    """Yield a line for each start."""
    data = datasets.load(f"npz:{name}")
    rows, _ = split(len(data.X_train))
    X, y = data.X_train[rows], data.y_train[rows]
    extractor = TorchExtractor(load_trained(name), ["stem", *BLOCKS])
    train = test = None
    for start, params in STARTS.items():
        exits = E2CMClassifier(extractor, **params).fit(X, y).to_linear()
        if train is None:
            train = pooled(extractor, exits, X), torch.from_numpy(y)
            of_test = pooled(extractor, exits, data.X_test)
            test = of_test, torch.from_numpy(data.y_test)
        found = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            layers = [
                nn.Linear(layer.in_features, layer.out_features) for _, layer in exits
            ]
            if start != "random":
                for own, (_, layer) in zip(layers, exits, strict=True):
                    own.load_state_dict(layer.state_dict())
            found.append(list(accuracies(layers, train, test)))
        means, spreads = np.mean(found, axis=0), np.ptp(found, axis=0) / 2
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(means, spreads, strict=True)]
        yield [name, start, *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["fashion_mnist", "cifar10"])
    found = [["network", "start", *(f"epoch {e}" for e in range(EPOCHS + 1))]]
    for name in parser.parse_args().names:
        for line in lines(name):
            print(*line, sep=" | ", flush=True)
            found.append(line)
    write_table("linear_start", found)


if __name__ == "__main__":
    main()
