"""What ``benchmarks.scale`` measures, each in a process of its own.

``python -m benchmarks.scale_jobs JOB ARGUMENTS`` prints what it has measured as JSON.
Memory is the largest that the process has had in use, less what torch and the data took
before.
"""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import joblib
import numpy as np
import sklearn
import torch
from sklearn.base import clone
from sklearn.neighbors import NearestCentroid
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from examples import datasets
from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.metrics import calibration_error
from sk_e2cm.testing import ToyExtractor

from .peers_subjects import load_subject
from .resnet20 import BLOCKS, load_trained
from .train_resnet20 import split

Measured = dict[str, Any]

BATCH_SIZE = 128
# Working memory in MiB: less than the features of 10,000 images take.
WORKING_MEMORY = 128
N_CLASS_SAMPLES, N_CLASS_FEATURES = 20_000, 128
N_WIDE_SAMPLES = 10_000
N_SHARED = 20_000
BUDGETS = [0.15, 0.3, 0.5]


class Noisy(IterableDataset):
    """Batches of Fashion-MNIST, repeated with noise: no sample comes twice."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.n, self.seed = n, seed
        data = datasets.load("npz:fashion_mnist")
        self.X, self.y = data.X_train, data.y_train

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.n, BATCH_SIZE):
            rows = np.arange(start, min(start + BATCH_SIZE, self.n))
            images, again = rows % len(self.X), rows >= len(self.X)
            X = self.X[images].astype(np.float32)
            noise = rng.normal(scale=8, size=X.shape).astype(np.float32)
            yield X + noise * again[:, None, None, None], self.y[images]


def resnet() -> TorchExtractor:
    return TorchExtractor(load_trained("fashion_mnist"), ["stem", *BLOCKS])


def megabytes(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def samples(n: str) -> Measured:
    """Fit to a stream of so many images, of which those that fit are kept."""
    loader = DataLoader(Noisy(int(n)), batch_size=None)
    clf = E2CMClassifier(resnet(), batch_size=BATCH_SIZE)
    before = megabytes("VmRSS")
    with sklearn.config_context(working_memory=WORKING_MEMORY):
        seconds = timed(lambda: clf.fit(loader))
    return {"seconds": seconds, "MB": megabytes("VmHWM") - before}


def gaussians(n_classes: int, n: int, d: int, seed: int) -> tuple[np.ndarray, ...]:
    means = np.random.default_rng(0).normal(size=(n_classes, d))
    rng = np.random.default_rng(seed)
    y = np.append(np.arange(n_classes), rng.integers(n_classes, size=n - n_classes))
    return (means[y] + 2.5 * rng.normal(size=(n, d))).astype(np.float32), y


def classes(n_classes: str) -> Measured:
    """Fit, tune and score with so many classes."""
    k, n, d = int(n_classes), N_CLASS_SAMPLES, N_CLASS_FEATURES
    X, y = gaussians(k, n, d, seed=1)
    new, y_new = gaussians(k, 5_000, d, seed=2)
    before = megabytes("VmRSS")
    clf = E2CMClassifier(ToyExtractor(3))
    search = TunedExitsCV(clf, max_drop=0.01)
    found = {
        "fit": timed(lambda: clf.fit(X, y)),
        "tune": timed(lambda: search.fit(X, y)),
        "score": timed(lambda: search.score(X, y)),
        "MB": megabytes("VmHWM") - before,
        "nearest centroid": timed(lambda: NearestCentroid().fit(X, y).predict(X)),
    }
    proba = clf.exit_proba(new)
    for stage in range(3):
        error = calibration_error(y_new, proba[:, stage], classes=clf.classes_)
        found[f"calibration error {stage}"] = error
    return found | {"metric": clf.metric_[0], "full score": search.full_score_}


def width(d: str) -> Measured:
    """Fit class means of so many features."""
    X, y = gaussians(10, N_WIDE_SAMPLES, int(d), seed=1)
    before = megabytes("VmRSS")
    seconds = timed(lambda: E2CMClassifier(ToyExtractor(2)).fit(X, y))
    return {"seconds": seconds, "MB": megabytes("VmHWM") - before}


def workers(kind: str, folder: str) -> Measured:
    """Fit to images by one process of one thread or two, or by two workers."""
    torch.set_num_threads(2 if kind == "one, two threads" else 1)
    data = datasets.load("npz:fashion_mnist")
    rows, withheld = split(len(data.X_train))
    X, y = data.X_train[rows[:N_SHARED]], data.y_train[rows[:N_SHARED]]
    clf = E2CMClassifier(resnet(), n_jobs=2 if kind == "two of loky" else None)
    with ExitStack() as stack:
        if kind == "two of Dask":
            from dask.distributed import Client, LocalCluster

            asked = {"n_workers": 2, "threads_per_worker": 1}
            cluster = stack.enter_context(LocalCluster(**asked, dashboard_address=":0"))
            stack.enter_context(Client(cluster))
            stack.enter_context(joblib.parallel_config("dask"))
        clf.fit(X[:1024], y[:1024])  # workers import torch
        seconds = timed(lambda: clf.fit(X, y))
    parts = 4  # two for each worker
    seen = clone(clf).partial_fit(X[: len(X) // parts], y[: len(X) // parts], range(10))
    sent = X.nbytes + parts * len(pickle.dumps(clf.extractor))
    back = parts * len(pickle.dumps(seen.statistics_.running))
    tuned = TunedExitsCV(clf, max_drop=0.01, cv="prefit", random_state=0)
    tuned.fit(data.X_train[withheld], data.y_train[withheld])
    proba = clf.exit_proba(data.X_test[:2000])
    np.savez(
        Path(folder) / f"{kind}.npz",
        *clf.class_means_[:-1],
        proba=proba,
        threshold=tuned.best_threshold_,
    )
    found: Measured = {"seconds": seconds}
    if kind.startswith("two"):
        found |= {"MB sent": sent / 2**20, "MB sent back": back / 2**20}
    return found


def half(part: str, path: str) -> Measured:
    """See every second image of those of `machines`, and write what was seen."""
    data = datasets.load("npz:fashion_mnist")
    rows = np.arange(int(part), N_SHARED, 2)
    clf = E2CMClassifier(resnet())
    clf.partial_fit(data.X_train[rows], data.y_train[rows], classes=range(10))
    for name, features in (("sums", False), ("features", True)):
        Path(f"{path}.{name}").write_bytes(pickle.dumps(clf.for_sharing(features)))
    return {}


def kept(working_memory: str) -> Measured:
    """Fit to as many images of CIFAR-10 as are kept, and predict within budgets."""
    subject = load_subject("cifar10")
    images, (tune, test) = subject.train, (subject.tune, subject.test)
    X, y = torch.from_numpy(images.X), torch.from_numpy(images.y)
    found: Measured = {}
    for name, params in (("default", {}), ("carry=1", {"carry": 1})):
        clf = E2CMClassifier(subject.extractor, **params)
        if working_memory == "all":
            clf.fit(images.X, images.y)
        else:
            with sklearn.config_context(working_memory=int(working_memory)):
                clf.fit(TensorDataset(X, y))
        for budget in BUDGETS:
            search = TunedExitsCV(clf, max_cost=budget, cv="prefit", random_state=0)
            search.fit(tune.X, tune.y)
            found[f"{name} at {budget}"] = search.score(test.X, test.y)
    return found


def tuning(n: str) -> Measured:
    """Fit and tune by cross-validation on so many images."""
    data = datasets.load("npz:fashion_mnist")
    X, y = data.X_train[: int(n)], data.y_train[: int(n)]
    before = megabytes("VmRSS")
    search = TunedExitsCV(E2CMClassifier(resnet()), max_drop=0.01, random_state=0)
    seconds = timed(lambda: search.fit(X, y))
    return {"seconds": seconds, "MB": megabytes("VmHWM") - before}


def machines() -> Measured:
    """Merge what two other processes have seen, and compare with one fit to all."""
    data = datasets.load("npz:fashion_mnist")
    X, y = data.X_train[:N_SHARED], data.y_train[:N_SHARED]
    found: Measured = {}
    with TemporaryDirectory() as folder:
        paths = [f"{folder}/half{part}" for part in range(2)]
        for part, path in enumerate(paths):
            call("half", str(part), path)

        def merged(name: str) -> E2CMClassifier:
            one, other = (
                pickle.loads(Path(f"{path}.{name}").read_bytes()) for path in paths
            )
            found[f"MB of {name}"] = Path(f"{paths[0]}.{name}").stat().st_size / 2**20
            return one.merge(other)

        clf = E2CMClassifier(resnet()).fit(X, y)
        by_parts = merged("features")
        found["means differ by"] = difference_of_means(clf, by_parts)
        new = data.X_test[:2000]
        proba = clf.exit_proba(new), by_parts.exit_proba(new)
        found["probabilities differ by"] = float(np.abs(proba[0] - proba[1]).max())

        plain = {"metric": "euclidean", "calibration": None, "final": "class_means"}
        exact = E2CMClassifier(resnet(), **plain).fit(X, y)
        by_sums = merged("sums").set_params(**plain)
        ratios = [
            one / other
            for one, other in zip(
                by_sums.distance_scale_, exact.distance_scale_, strict=True
            )
        ]
        found["scale by sums, least"] = float(np.min(ratios))
        found["scale by sums, most"] = float(np.max(ratios))
        for name, each in (("exact scale", exact), ("scale by sums", by_sums)):
            found[f"accuracy, {name}"] = each.score(new, data.y_test[:2000])
            found[f"cost, {name}"] = each.cost(new)
    return found


def difference_of_means(one: E2CMClassifier, other: E2CMClassifier) -> float:
    pairs = zip(one.class_means_[:-1], other.class_means_[:-1], strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def call(*arguments: str) -> Measured:
    """Run a job in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale_jobs", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured


JOBS = {
    job.__name__: job
    for job in (samples, classes, width, tuning, workers, kept, half, machines)
}

if __name__ == "__main__":
    name, *given = sys.argv[1:]
    print(json.dumps(JOBS[name](*given)))
