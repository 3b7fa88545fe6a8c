"""Whether thresholds follow luck: tuned on many draws, measured on other images.

``python -m benchmarks.luck``, some ten minutes. Class means come from the training
images. Half of the test images, drawn anew each time, measure what was tuned on 5,000
of the others and of those that the network was not trained on.
"""

import argparse
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor
from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._tuning._beyond_luck import beyond_luck
from sk_e2cm._tuning._held_out import HeldOutPredictions
from sk_e2cm._tuning._predictions import StagePredictions
from sk_e2cm._tuning._problem import ThresholdProblem
from sk_e2cm._tuning._search import Points, search, shared

from .resnet20 import BLOCKS, load_trained
from .tables import write_table
from .train_resnet20 import split

BUDGETS = [0.15, 0.20, 0.25, 0.30, 0.40, 0.50, 0.60, 0.75, 1.00]
N_DRAWS, N_TUNING = 6, 5_000
WAYS = ["one, shared", "labels", "soft", "soft, shrunk"]
HEADER = ["data", "compared by", *(f"{budget:.2f}" for budget in BUDGETS)]


def held_out(proba: np.ndarray, codes: np.ndarray, costs: Costs) -> HeldOutPredictions:
    predictions = StagePredictions.from_proba(proba, codes)
    estimator = SimpleNamespace(network_=SimpleNamespace(costs=costs))
    counted = np.ones(len(codes)), np.arange(len(codes), dtype=np.uint64)
    return HeldOutPredictions(estimator, predictions, codes, *counted)


def found(tuning: HeldOutPredictions, seed: int) -> Iterator[Points]:
    """Yield the thresholds found in each way."""
    predictions = tuning.predictions
    hard = tuning.problem(tuning.losses("accuracy"))
    yield shared(hard)
    yield search(hard, [], np.random.RandomState(seed))
    targets = tuning.targets("accuracy")
    print(f"share of the labels: {targets.share:.2f}", flush=True)
    soft = tuning.problem(targets.losses(predictions.label))
    points = search(soft, [], np.random.RandomState(seed))
    yield points
    yield beyond_luck(soft, points, tuning.distinct)


def accuracies(points: Points, test: ThresholdProblem) -> list[float]:
    best = [np.flatnonzero(points.cost <= budget)[-1] for budget in BUDGETS]
    return [1 - test.totals(points.thresholds[each])[0] for each in best]


def measure(name: str) -> np.ndarray:
    """Return shares of the full accuracy, (n_ways, n_budgets)."""
    data = datasets.load(f"npz:{name}")
    rows, withheld = split(len(data.X_train))
    extractor = TorchExtractor(load_trained(name), ["stem", *BLOCKS])
    clf = E2CMClassifier(extractor, metric="mahalanobis", final="network")
    clf.fit(data.X_train[rows], data.y_train[rows])
    images = data.X_train[withheld], data.X_test
    proba = np.concatenate([clf.exit_proba(X) for X in images])
    codes = np.searchsorted(
        clf.classes_, np.concatenate([data.y_train[withheld], data.y_test])
    )
    costs, n_test = clf.network_.costs, len(data.X_test)
    measured = []
    for seed in range(N_DRAWS):
        rng = np.random.default_rng(seed)
        order = len(withheld) + rng.permutation(n_test)
        test_rows, others = np.split(order, [n_test // 2])
        pool = np.concatenate([np.arange(len(withheld)), others])
        drawn = rng.choice(pool, N_TUNING, replace=False)
        tuning = held_out(proba[drawn], codes[drawn], costs)
        new = held_out(proba[test_rows], codes[test_rows], costs)
        test = new.problem(new.losses("accuracy"))
        full = 1 - test.loss[-1].mean()
        each = [accuracies(points, test) for points in found(tuning, seed)]
        measured.append(np.array(each) / full)
    return np.mean(measured, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["fashion_mnist", "cifar10"])
    lines = [HEADER]
    for name in parser.parse_args().names:
        for way, shares in zip(WAYS, measure(name), strict=True):
            lines.append([name, way, *(f"{share:.4f}" for share in shares)])
            print(*lines[-1], sep=" | ", flush=True)
    write_table("luck", lines)


if __name__ == "__main__":
    main()
