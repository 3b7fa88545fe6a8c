"""Exits fitted to few samples: ``python -m benchmarks.few_samples``.

Accuracy on the test images of a frozen ResNet-20 at a cost of at most .30, by exits
that were fitted to so many of the training images of each class; thresholds are chosen
on the 5,000 withheld ones. Means over two draws, and half of the range.
"""

import argparse
import tempfile
from collections.abc import Iterator

import numpy as np

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

from .resnet20 import BLOCKS, load_trained
from .tables import write_table
from .train_resnet20 import split

BUDGET = 0.30
PER_CLASS = [5, 20, 100, 500]
DRAWS = [0, 1]
SECOND_ORDER = {"pooling": "second_order"}
METHODS = {
    "the paper's": {"metric": "euclidean", "calibration": None},
    "default": {},
    "second order": SECOND_ORDER,
    "second order, Dirichlet": {**SECOND_ORDER, "calibration": "dirichlet"},
    "and carry=1": {**SECOND_ORDER, "calibration": "dirichlet", "carry": 1},
}


def of_each_class(y: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Draw rows, so many of each class."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(y == k))[:n] for k in np.unique(y)]
    return np.sort(np.concatenate(rows))


def lines(name: str, memory: str) -> Iterator[list[str]]:
    """Yield a line for each method."""
    data = datasets.load(f"npz:{name}")
    rows, withheld = split(len(data.X_train))
    X, y = data.X_train[rows], data.y_train[rows]
    extractor = TorchExtractor(load_trained(name), ["stem", *BLOCKS])
    for method, params in METHODS.items():
        cells = []
        for n in PER_CLASS:
            found = []
            for seed in DRAWS:
                some = of_each_class(y, n, seed)
                clf = E2CMClassifier(
                    extractor,
                    final="network",
                    batch_size=500,
                    memory=memory,
                    **params,
                )
                clf.fit(X[some], y[some])
                search = TunedExitsCV(clf, max_cost=BUDGET, cv="prefit")
                search.fit(data.X_train[withheld], data.y_train[withheld])
                proba = search.estimator_.exit_proba(data.X_test)
                found.append(accuracy(search.estimator_, proba, data.y_test))
            cells.append(f"{np.mean(found):.3f} ± {np.ptp(found) / 2:.3f}")
        yield [name, method, *cells]


def accuracy(clf: E2CMClassifier, proba: np.ndarray, y: np.ndarray) -> float:
    """Return the accuracy with the thresholds of a fitted estimator."""
    thresholds = np.append(clf.threshold, -np.inf)
    stage = (proba.max(axis=2) >= thresholds).argmax(axis=1)
    answers = clf.classes_[proba[np.arange(len(y)), stage].argmax(axis=1)]
    return float((answers == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["fashion_mnist", "cifar10"])
    found = [["network", "exits", *(f"{n} of each class" for n in PER_CLASS)]]
    for name in parser.parse_args().names:
        with tempfile.TemporaryDirectory() as memory:
            for line in lines(name, memory):
                print(*line, sep=" | ", flush=True)
                found.append(line)
    write_table("few_samples", found)


if __name__ == "__main__":
    main()
