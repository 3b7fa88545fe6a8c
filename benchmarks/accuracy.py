"""Accuracy at a given cost, for frozen ResNet-20s: ``make bench-accuracy``.

Class means come from the training images, thresholds from the 5,000 that the network
was not trained on, and everything is measured on the test images. The rivals are
computed here, in plain NumPy, from what the exits say: one threshold that all exits
share, and random search as in arXiv 2103.01148.
"""

import argparse
import csv
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import PredefinedSplit
from sklearn.utils import gen_batches

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.metrics import calibration_error

from .resnet20 import EXITS, load_trained
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
    stage_cost: np.ndarray  # (n_stages,), all exits open

    def points(self, thresholds: np.ndarray) -> np.ndarray:
        """Return accuracy and cost of each vector of thresholds, (n_vectors, 2)."""
        points = []
        for vector in thresholds:
            leaves = np.column_stack(
                [self.confidence >= vector, np.ones(len(self.right))]
            )
            stage = leaves.argmax(axis=1)
            accuracy = self.right[np.arange(len(stage)), stage].mean()
            points.append((accuracy, self.stage_cost[stage].mean()))
        return np.array(points)


def judge(clf: E2CMClassifier, X: np.ndarray, y: np.ndarray) -> Judged:
    proba = clf.exit_proba(X)
    label = clf.classes_[proba.argmax(axis=2)]
    return Judged(proba[:, :-1].max(axis=2), label == y[:, None], clf.stage_cost_)


def shared_thresholds(judged: Judged, rng: np.random.Generator) -> np.ndarray:
    values = np.quantile(judged.confidence, np.linspace(0, 1, N_DRAWS))
    return np.repeat(values[:, None], judged.confidence.shape[1], axis=1)


def random_thresholds(judged: Judged, rng: np.random.Generator) -> np.ndarray:
    low, high = judged.confidence.min(axis=0), judged.confidence.max(axis=0)
    return rng.uniform(low, high, size=(N_DRAWS, len(low)))


def best_within(
    draw: Callable, tuning: Judged, test: Judged, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Choose on the tuning images for every budget; return accuracy and cost on test."""
    thresholds = draw(tuning, rng)
    accuracy, cost = tuning.points(thresholds).T
    chosen = [
        np.flatnonzero(cost <= budget)[accuracy[cost <= budget].argmax()]
        if (cost <= budget).any()
        else cost.argmin()
        for budget in BUDGETS
    ]
    return test.points(thresholds[chosen])


def tuned_within(search: TunedExitsCV, test: Judged) -> list[tuple[float, float]]:
    """Choose from the frontier for every budget; return accuracy and cost on test."""
    points = []
    for budget in BUDGETS:
        index = np.flatnonzero(search.frontier_["cost"] <= budget)[-1]
        thresholds = search.frontier_["threshold"][index]
        clf = search.estimator_.set_params(threshold=thresholds)
        now = test._replace(stage_cost=clf.stage_cost_)
        points.append(now.points(thresholds[None])[0])
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["fashion_mnist", "cifar10"])
    for name in parser.parse_args().names:
        Benchmark(name).run()


if __name__ == "__main__":
    main()
