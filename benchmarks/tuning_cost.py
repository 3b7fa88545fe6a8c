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
from collections.abc import Iterator

import numpy as np
import torch

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

from .resnet20 import BLOCKS, load_trained

N_SAMPLES = 50_000
BATCH_SIZE = 64

ESTIMATORS = {
    "default": {},
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


def lines(name: str) -> Iterator[list[str]]:
    for estimator in ESTIMATORS:
        command = [sys.executable, "-m", "benchmarks.tuning_cost", name, estimator]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        yield json.loads(result.stdout)


@torch.inference_mode()
def plain_pass(network: torch.nn.Module, X: np.ndarray) -> float:
    started = time.perf_counter()
    for batch in torch.from_numpy(X).split(BATCH_SIZE):
        network(batch)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("estimator", choices=ESTIMATORS)
    args = parser.parse_args()
    data = datasets.load(f"npz:{args.name}")
    X, y = data.X_train[:N_SAMPLES], data.y_train[:N_SAMPLES]
    network = load_trained(args.name)
    extractor = TorchExtractor(network, ["stem", *BLOCKS])
    clf = E2CMClassifier(extractor, batch_size=BATCH_SIZE, **ESTIMATORS[args.estimator])
    before = plain_pass(network, X)
    started = time.perf_counter()
    TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)
    spent = time.perf_counter() - started
    plain = statistics.mean([before, plain_pass(network, X)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    numbers = [f"{n:.1f}" for n in (plain, spent, spent - 1.2 * plain, peak)]
    print(json.dumps([args.name, args.estimator, *numbers]))


if __name__ == "__main__":
    main()
