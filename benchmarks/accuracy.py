"""Accuracy at a given cost, for frozen ResNet-20s: ``make bench-accuracy``.

Class means come from the training images, thresholds from the 5,000 of them that the
network was not trained on, and everything is measured on the test images. The rivals
are computed here, in plain NumPy, from what the exits say: one threshold shared by all
exits, and random search as in arXiv 2103.01148.
"""

import argparse
import csv
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import PredefinedSplit

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.metrics import calibration_error

from .resnet20 import BLOCKS, load_trained
from .train_resnet20 import split

BUDGETS = [0.15, 0.30, 0.40, 0.50, 0.60, 0.75]
SEEDS = [0, 1, 2]
N_DRAWS = 1000
FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"

METHODS = {
    "second-order": {
        "metric": "mahalanobis",
        "pooling": "second_order",
        "calibration": "dirichlet",
    },
    "whitened": {"metric": "mahalanobis"},
    "paper": {"calibration": None},
}


class Judged(NamedTuple):
    """What every stage says of some samples, and what leaving there costs."""

    confidence: np.ndarray  # (n, n_exits)
    right: np.ndarray  # (n, n_stages)
    stage_cost: np.ndarray  # (n_stages,)

    def points(self, thresholds: np.ndarray) -> np.ndarray:
        """Return accuracy and cost of each vector of thresholds, (n_vectors, 2)."""
        everyone = np.arange(len(self.right))
        last = np.ones((len(everyone), 1), dtype=bool)
        points = []
        for vector in thresholds:
            stage = np.hstack([self.confidence >= vector, last]).argmax(axis=1)
            cost = self.stage_cost[stage].mean()
            points.append((self.right[everyone, stage].mean(), cost))
        return np.array(points)


def judge(clf: E2CMClassifier, X: np.ndarray, y: np.ndarray) -> Judged:
    proba = clf.exit_proba(X)
    right = clf.classes_[proba.argmax(axis=2)] == y[:, None]
    return Judged(proba[:, :-1].max(axis=2), right, clf.stage_cost_)


def shared(tuning: Judged) -> np.ndarray:
    values = np.quantile(tuning.confidence, np.linspace(0, 1, N_DRAWS))
    return np.repeat(values[:, None], tuning.confidence.shape[1], axis=1)


def drawn(tuning: Judged, seed: int) -> np.ndarray:
    low, high = tuning.confidence.min(axis=0), tuning.confidence.max(axis=0)
    return np.random.default_rng(seed).uniform(low, high, size=(N_DRAWS, len(low)))


def chosen(thresholds: np.ndarray, tuning: Judged, test: Judged) -> np.ndarray:
    """Choose the most accurate of each budget; return accuracy and cost on test."""
    accuracy, cost = tuning.points(thresholds).T
    within = [np.flatnonzero(cost <= budget) for budget in BUDGETS]
    # Where no candidate is cheap enough there is nothing to show.
    best = [rows[accuracy[rows].argmax()] if len(rows) else -1 for rows in within]
    points = test.points(thresholds[best])
    points[[index == -1 for index in best]] = np.nan
    return points


def tuned(search: TunedExitsCV, test: Judged) -> np.ndarray:
    """Take the most accurate of each budget; return accuracy and cost on test."""
    points = []
    for budget in BUDGETS:
        best = np.flatnonzero(search.frontier_["cost"] <= budget)[-1]
        clf = search.estimator_.set_params(threshold=search.frontier_["threshold"][best])
        now = test._replace(stage_cost=clf.stage_cost_)  # of its open exits
        points.append(now.points([np.asarray(clf.threshold)])[0])
    return np.array(points)


def lines(name: str) -> Iterator[tuple[str, list]]:
    """Yield the lines of the tables of a data set, each with its table's name."""
    data = datasets.load(f"npz:{name}")
    rows, withheld = split(len(data.X_train))
    held_out = np.full(len(data.X_train), -1)
    held_out[withheld] = 0
    extractor = TorchExtractor(load_trained(name), BLOCKS)
    X_tuning, y_tuning = data.X_train[withheld], data.y_train[withheld]
    for method, params in METHODS.items():
        clf = E2CMClassifier(extractor, batch_size=64, **params)
        clf.fit(data.X_train[rows], data.y_train[rows])
        tuning = judge(clf, X_tuning, y_tuning)
        test = judge(clf, data.X_test, data.y_test)
        full = test.right[:, -1].mean()
        if method == "second-order":
            yield "accuracy", [name, "full network", *[f"{full:.4f}"] * len(BUDGETS)]
        searches = [
            TunedExitsCV(clf, max_cost=1.0, cv="prefit", random_state=seed).fit(
                X_tuning, y_tuning
            )
            for seed in SEEDS
        ]
        for rival, points in {
            "tuned": [tuned(search, test) for search in searches],
            "shared": [chosen(shared(tuning), tuning, test)],
            "random": [chosen(drawn(tuning, seed), tuning, test) for seed in SEEDS],
        }.items():
            mean = np.mean(points, axis=0)
            yield "accuracy", [name, f"{method}, {rival}", *shown(mean, full)]


def shown(points: np.ndarray, full: float) -> list[str]:
    """Return the share of the full accuracy, and the cost on the test images."""
    return [
        "" if np.isnan(accuracy) else f"{accuracy / full:.3f} ({cost:.3f})"
        for accuracy, cost in points
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["fashion_mnist", "cifar10"])
    for name in parser.parse_args().names:
        for table, line in lines(name):
            print(table, *line, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
