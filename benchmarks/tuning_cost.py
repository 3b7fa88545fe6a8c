"""What choosing thresholds takes beside a plain pass of the network.

Each line is measured in a process of its own, for the peak of its memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

from .resnet20 import BLOCKS, load_trained
from .tables import write_table

N_SAMPLES = 50_000
BATCH_SIZE = 64

ESTIMATORS = {
    "Euclidean": {"metric": "euclidean"},
    "whitened": {"metric": "mahalanobis"},
    "second order, Dirichlet": {
        "metric": "mahalanobis",
        "pooling": "second_order",
        "calibration": "dirichlet",
    },
}
HEADER = [
    "data",
    "exits",
    "plain pass, s",
    "TunedExitsCV(cv=5), s",
    "beyond 1.2 passes, s",
    "peak memory, GiB",
]


@torch.inference_mode()
def plain_pass(network: torch.nn.Module, X: np.ndarray) -> float:
    started = time.perf_counter()
    for batch in torch.from_numpy(X).split(BATCH_SIZE):
        network(batch)
    return time.perf_counter() - started


def measure(name: str, estimator: str) -> list[str]:
    data = datasets.load(f"npz:{name}")
    X, y = data.X_train[:N_SAMPLES], data.y_train[:N_SAMPLES]
    network = load_trained(name)
    clf = E2CMClassifier(
        TorchExtractor(network, ["stem", *BLOCKS]),
        batch_size=BATCH_SIZE,
        **ESTIMATORS[estimator],
    )
    before = plain_pass(network, X)
    started = time.perf_counter()
    TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)
    spent = time.perf_counter() - started
    plain = statistics.mean([before, plain_pass(network, X)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    numbers = plain, spent, spent - 1.2 * plain, peak
    return [name, estimator, *(f"{number:.1f}" for number in numbers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", default="cifar10")
    parser.add_argument("--only", choices=ESTIMATORS, help="measure, and print as JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.name, args.only)))
        return
    lines = [HEADER]
    for estimator in ESTIMATORS:
        command = [sys.executable, "-m", "benchmarks.tuning_cost", args.name]
        command += ["--only", estimator]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        lines.append(json.loads(result.stdout))
        print(*lines[-1], sep=" | ", flush=True)
    write_table("tuning", lines)


if __name__ == "__main__":
    main()
