"""Accuracy at a given cost, for frozen ResNet-20s: ``make bench-accuracy``.

Class means come from the training images, thresholds from the 5,000 of them that the
network was not trained on, and everything is measured on the test images. The rivals
are computed here, in plain NumPy, from what the exits say: one threshold shared by all
exits, and random search as in arXiv 2103.01148.
"""

import argparse
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.metrics import accuracy_cost_curve, calibration_error

from .resnet20 import BLOCKS, load_trained
from .tables import write_table
from .train_resnet20 import split

BUDGETS = [0.15, 0.30, 0.40, 0.50, 0.60, 0.75]
SEEDS = [0, 1, 2]
N_DRAWS = 1000
ROUNDING = 1e-9

SECOND_ORDER = {"metric": "mahalanobis", "pooling": "second_order"}
METHODS = {
    "paper": {"metric": "euclidean", "calibration": None},
    "paper, calibrated": {"metric": "euclidean"},
    "whitened": {"metric": "mahalanobis"},
    "second order": SECOND_ORDER,
    "second order, Dirichlet": {**SECOND_ORDER, "calibration": "dirichlet"},
}
HEADERS = {
    "accuracy": ["data", "exits", "thresholds", *map(str, BUDGETS)],
    "exits": ["data", "exits", *(f"{i + 1}" for i in range(len(BLOCKS))), "full"],
    "calibration": ["data", "exits", *(f"{i + 1}" for i in range(len(BLOCKS)))],
}


class Judged(NamedTuple):
    """What every stage says of some images, and what leaving there costs."""

    y: np.ndarray  # (n,), columns of proba
    proba: np.ndarray  # (n, n_stages, n_classes)
    stage_cost: np.ndarray  # (n_stages,)

    @property
    def confidence(self) -> np.ndarray:
        return self.proba[:, :-1].max(axis=2)

    @property
    def right(self) -> np.ndarray:
        return self.proba.argmax(axis=2) == self.y[:, None]

    def points(self, thresholds: np.ndarray) -> np.ndarray:
        """Return accuracy and cost of each vector of thresholds, (n_vectors, 2)."""
        classes = np.arange(self.proba.shape[2])
        accuracy, cost, _ = accuracy_cost_curve(*self, thresholds, classes=classes)
        return np.column_stack([accuracy, cost])


def judge(clf: E2CMClassifier, proba: np.ndarray, y: np.ndarray) -> Judged:
    return Judged(np.searchsorted(clf.classes_, y), proba, clf.stage_cost_)


def shared(tuning: Judged) -> np.ndarray:
    values = np.quantile(tuning.confidence, np.linspace(0, 1, N_DRAWS))
    return np.repeat(values[:, None], len(tuning.stage_cost) - 1, axis=1)


def drawn(tuning: Judged, seed: int) -> np.ndarray:
    low, high = tuning.confidence.min(axis=0), tuning.confidence.max(axis=0)
    return np.random.default_rng(seed).uniform(low, high, size=(N_DRAWS, len(low)))


def chosen(thresholds: np.ndarray, tuning: Judged, test: Judged) -> np.ndarray:
    """Choose the most accurate of each budget; return accuracy and cost on test."""
    accuracy, cost = tuning.points(thresholds).T
    points = np.full((len(BUDGETS), 2), np.nan)  # where no candidate is cheap enough
    for point, budget in zip(points, BUDGETS, strict=True):
        within = np.flatnonzero(cost <= budget + ROUNDING)
        if len(within):
            best = within[accuracy[within].argmax()]
            point[:] = test.points(thresholds[[best]])[0]
    return points


def tuned(search: TunedExitsCV, test: Judged) -> np.ndarray:
    """Take the most accurate of each budget; return accuracy and cost on test."""
    points = []
    for budget in BUDGETS:
        best = np.flatnonzero(search.frontier_["cost"] <= budget)[-1]
        thresholds = search.frontier_["threshold"][best]
        clf = search.estimator_.set_params(threshold=thresholds)
        of_open_exits = test._replace(stage_cost=clf.stage_cost_)
        points.append(of_open_exits.points(thresholds[None])[0])
    return np.array(points)


def lines(name: str, memory: str) -> Iterator[tuple[str, list[str]]]:
    """Yield tables and the lines that a data set adds to them."""
    data = datasets.load(f"npz:{name}")
    rows, withheld = split(len(data.X_train))
    X, y = data.X_train[withheld], data.y_train[withheld]
    extractor = TorchExtractor(load_trained(name), BLOCKS)
    for method, params in METHODS.items():
        clf = E2CMClassifier(extractor, batch_size=64, memory=memory, **params)
        clf.fit(data.X_train[rows], data.y_train[rows])
        proba = clf.exit_proba(data.X_test)
        test = judge(clf, proba, data.y_test)
        accuracies = [f"{right:.3f}" for right in test.right.mean(axis=0)]
        yield "exits", [name, method, *accuracies]
        errors = [
            f"{calibration_error(data.y_test, proba[:, exit_]):.3f}"
            for exit_ in range(len(BLOCKS))
        ]
        yield "calibration", [name, method, *errors]

        tuning = judge(clf, clf.exit_proba(X), y)
        goal = TunedExitsCV(clf, max_cost=1.0, cv="prefit")
        points = {
            "TunedExitsCV": [
                tuned(goal.set_params(random_state=seed).fit(X, y), test)
                for seed in SEEDS
            ],
            "one, shared": [chosen(shared(tuning), tuning, test)],
            "random search": [chosen(drawn(tuning, s), tuning, test) for s in SEEDS],
        }
        full = test.right[:, -1].mean()
        for thresholds, found in points.items():
            cells = [
                "" if np.isnan(accuracy) else f"{accuracy / full:.3f} ({cost:.3f})"
                for accuracy, cost in np.mean(found, axis=0)
            ]
            yield "accuracy", [name, method, thresholds, *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["fashion_mnist", "cifar10"])
    names = parser.parse_args().names
    tables: dict[str, list[list[str]]] = {table: [] for table in HEADERS}
    for name in names:
        with tempfile.TemporaryDirectory() as memory:
            for table, line in lines(name, memory):
                print(table, *line, sep=" | ", flush=True)
                tables[table].append(line)
    for table, found in tables.items():
        write_table(table, [HEADERS[table], *found])


if __name__ == "__main__":
    main()
