"""Clusters at a given cost: ``make bench-clusters``.

Five encoders for each of two data sets, trained by deep embedded clustering if they
have not been, and one network that was trained on ImageNet. Clusters, centroids and
thresholds come from the training images, without labels. Labels only judge the
clusters, of the training images, as in the paper, and of the test images.
"""

import argparse
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import nn

from examples import datasets, dec
from examples.networks import lite0
from examples.story import time_ratio
from sk_e2cm import E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm.metrics import first_exit

from .clusters_picture import draw
from .tables import write_table

NAMES = ["mnist", "fashion_mnist"]
SEEDS = [0, 1, 2, 3, 4]
N_CLUSTERS = 10
BUDGETS = [0.25, 0.30, 0.40, 0.50, 0.60, 0.75]
CURVE = sorted({*BUDGETS, *np.arange(24, 101, 4) / 100})
METHODS = {
    "paper": {"metric": "euclidean", "calibration": None},
    "Euclidean": {"metric": "euclidean"},
    "whitened": {"metric": "mahalanobis"},
    "whitened, Dirichlet": {"metric": "mahalanobis", "calibration": "dirichlet"},
}
SECOND_ORDER = {
    "metric": "mahalanobis",
    "pooling": "second_order",
    "calibration": "dirichlet",
}
SCORES = {
    "ACC": dec.clustering_accuracy,
    "NMI": normalized_mutual_info_score,
    "ARI": adjusted_rand_score,
}
TIMED = ["Euclidean", "whitened", "second order, Dirichlet"]
TIMED_BUDGETS = [0.25, 0.40, 0.60]
TIMED_IMAGES = {"mnist": 8192, "cifar10": 320}
BATCH_SIZES = {"mnist": [1, 128, 1024], "cifar10": [1, 32]}


class Subject(NamedTuple):
    """A frozen network, where it is cut, and images to cluster."""

    name: str
    seed: int
    network: nn.Module
    extractor: TorchExtractor
    data: datasets.DataSet
    methods: dict[str, dict]
    batch_size: int
    memory: Path | None = None


class Run(NamedTuple):
    """Scores of one way of leaving early, at one cost, and of the full network."""

    data: str
    seed: int
    images: str
    exits: str
    budget: float
    cost: float
    ACC: float
    NMI: float
    ARI: float
    full_ACC: float
    full_NMI: float
    full_ARI: float


def deep_embeddings(names: list[str]) -> Iterator[Subject]:
    for name in names:
        data = datasets.load(f"npz:{name}")
        for seed in SEEDS:
            folder = datasets.home() / "dec"
            encoder = dec.load_or_train(
                folder, name, data.X_train, N_CLUSTERS, seed=seed
            )
            extractor = TorchExtractor(encoder, dec.EXITS)
            yield Subject(name, seed, encoder, extractor, data, METHODS, 1024)


def pretrained(n_images: int = 20_000) -> Iterator[Subject]:
    """Yield EfficientNet-Lite0 without its head, and images of another kind."""
    data = datasets.load("npz:cifar10")
    data = data._replace(
        X_train=data.X_train[:n_images], y_train=data.y_train[:n_images]
    )
    network = lite0(96)
    network.network._fc = nn.Identity()
    extractor = TorchExtractor(network, 6, input_shape=data.X_train.shape[1:])
    methods = {**METHODS, "second order, Dirichlet": SECOND_ORDER}
    memory = datasets.home() / "features"  # the network is slow
    yield Subject("cifar10", 0, network, extractor, data, methods, 32, memory)


def tuned(subject: Subject, params: dict) -> TunedExitsCV:
    clusterer = E2CMClusterer(
        subject.extractor,
        clusterer=KMeans(N_CLUSTERS, n_init=20, random_state=subject.seed),
        batch_size=subject.batch_size,
        memory=subject.memory,
        **params,
    )
    search = TunedExitsCV(clusterer, max_cost=1.0, random_state=subject.seed)
    return search.fit(subject.data.X_train)


def within(search: TunedExitsCV, budget: float) -> np.ndarray | None:
    """Return the thresholds of most agreement that cost so much, if any do."""
    affordable = np.flatnonzero(search.frontier_["cost"] <= budget)
    return search.frontier_["threshold"][affordable[-1]] if len(affordable) else None


def runs(subject: Subject, exits: str, search: TunedExitsCV) -> Iterator[Run]:
    data = subject.data
    parts = {
        "training": (data.X_train, data.y_train),
        "test": (data.X_test, data.y_test),
    }
    for images, (X, y) in parts.items():
        proba = search.exit_proba(X)
        of_full_network = proba[:, -1].argmax(axis=1)
        full = [score(y, of_full_network) for score in SCORES.values()]
        for budget in CURVE:
            thresholds = within(search, budget)
            if thresholds is None:
                continue
            clusterer = search.estimator_.set_params(threshold=thresholds)
            stage = first_exit(proba, thresholds)
            labels = proba[np.arange(len(y)), stage].argmax(axis=1)
            scores = [score(y, labels) for score in SCORES.values()]
            cost = clusterer.stage_cost_[stage].mean()
            where = subject.name, subject.seed, images, exits, float(budget)
            yield Run(*where, cost, *scores, *full)


def times(subject: Subject, exits: str, search: TunedExitsCV) -> Iterator[list[str]]:
    """Yield ratios to the uncut network and k-means, both in batches of one size."""
    clusterer = search.estimator_
    full = partial(dec.cluster, subject.network, clusterer.clusterer_)
    for size in BATCH_SIZES[subject.name]:
        ratios = []
        for budget in TIMED_BUDGETS:
            thresholds = within(search, budget)
            if thresholds is None:
                ratios.append("")
                continue
            clusterer.set_params(threshold=thresholds, batch_size=size)
            ratio = time_ratio(
                clusterer.predict,
                full,
                subject.data.X_test,
                size=size,
                n_batches=min(200, TIMED_IMAGES[subject.name] // size),
            )
            ratios.append(f"{ratio:.2f}")
        yield [subject.name, exits, str(size), *ratios]
    clusterer.set_params(batch_size=subject.batch_size)


def mean_lines(found: list[Run], score: str) -> Iterator[list[str]]:
    """Yield means over seeds: of the full network, then as shares of it."""
    groups: dict[tuple, list[Run]] = {}
    for run in found:
        groups.setdefault((run.data, run.images, run.exits), []).append(run)
    for group, members in groups.items():
        # Of each seed once, however many budgets it has.
        full = np.mean(
            [*{r.seed: getattr(r, f"full_{score}") for r in members}.values()]
        )
        cells = []
        for budget in BUDGETS:
            here = [run for run in members if run.budget == budget]
            shares = [
                getattr(run, score) / getattr(run, f"full_{score}") for run in here
            ]
            cost = np.mean([run.cost for run in here]) if here else 0.0
            cells.append(f"{np.mean(shares):.3f} ({cost:.3f})" if here else "")
        yield [*group, f"{full:.3f}", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=[*NAMES, "cifar10"])
    names = parser.parse_args().names
    subjects = itertools.chain(
        deep_embeddings([name for name in names if name in NAMES]),
        pretrained() if "cifar10" in names else (),
    )
    found: list[Run] = []
    timed: list[list[str]] = []
    for subject in subjects:
        for exits, params in subject.methods.items():
            search = tuned(subject, params)
            found += runs(subject, exits, search)
            if exits in TIMED and subject.name in BATCH_SIZES and subject.seed == 0:
                timed += times(subject, exits, search)
            print(subject.name, subject.seed, exits, flush=True)
    for score in SCORES:
        header = ["data", "images", "exits", "full network", *map(str, BUDGETS)]
        write_table(f"clusters_{score}", [header, *mean_lines(found, score)])
    header = ["data", "exits", "images at once", *map(str, TIMED_BUDGETS)]
    write_table("clusters_times", [header, *timed])
    lines = [
        [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in run]
        for run in found
        if run.budget in BUDGETS
    ]
    write_table("clusters_runs", [list(Run._fields), *lines])
    draw([run for run in found if run.data in NAMES])


if __name__ == "__main__":
    main()
