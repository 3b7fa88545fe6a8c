"""Seconds of exits against the plain network: ``python -m benchmarks.peers_times``.

Exits of this package and those of Shallow-Deep Networks in the same loop, at thresholds
for several budgets of multiply-adds, one image at a time and in batches. Fitted exits
are those that ``python -m benchmarks.peers`` has left in the cache; the lines of others
stay as they are.
"""

import argparse
import pickle
from collections.abc import Iterator
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from sk_e2cm._multi_exit._heads import Head
from sk_e2cm._multi_exit._logits import LinearLogits, NetworkLogits
from sk_e2cm._multi_exit._network import MultiExitNetwork
from sk_e2cm._multi_exit._pooling import Flatten, Pooling

from . import peers_ours, peers_trained
from .peers_feeds import Pools
from .peers_picture import draw_seconds
from .peers_store import frontier, kept, problem_of, within
from .peers_subjects import Answers, Subject, load_subject
from .peers_trained import TrainedExits, costs_of
from .tables import read_table, write_table

TABLE = "peers_times"
SUBJECTS = ["fashion_mnist", "cifar10"]
SHALLOW_DEEP = "Shallow-Deep, 20 epochs"
BUDGETS = [0.15, 0.30, 0.60]
SIZES = [1, 64]
N_RACES = 3  # each of interleaved rounds
HEADER = [
    "network",
    "method",
    "images at once",
    "budget",
    "accuracy",
    "multiply-adds",
    "time",
    "spread",
    "ms, plain",
]


class MixedPooling(Pooling):
    """Shares of maxima and of averages over a grid of cells."""

    def __init__(self, pools: Pools, exit_: int, share: float) -> None:
        super().__init__()
        self.cells, self.share = pools.cells[exit_], share
        self.width = pools.widths[exit_]

    @property
    def macs(self) -> int:
        return 2 * self.width

    def forward(self, output: Tensor) -> Tensor:
        averages = self.cells.average(output)
        return torch.lerp(averages, self.cells.maximum(output), self.share)


def in_the_loop(
    subject: Subject, exits: TrainedExits, pools: Pools
) -> MultiExitNetwork:
    """Return trained exits, each by itself, as heads of this package."""
    shares = exits.share.tolist()
    heads = [
        Head(MixedPooling(pools, i, share), LinearLogits(layer.weight, layer.bias))
        for i, (share, layer) in enumerate(zip(shares, exits.layers, strict=True))
    ]
    labels = np.arange(subject.n_classes)
    heads.append(Head(Flatten(), NetworkLogits(labels, normalized=False)))
    costs = costs_of(subject.macs, exits.macs())
    return MultiExitNetwork(subject.extractor, heads, labels, costs, "none")


def trained(subject: Subject) -> MultiExitNetwork | None:
    """Return the exits that `peers_trained.py` has saved, None if there are none."""
    path = peers_trained.saved_at(subject.name, SHALLOW_DEEP, 0)
    if not path.exists():
        return None
    pools = Pools.of(subject.extractor, subject.train.X)
    exits = TrainedExits(pools.widths, subject.n_classes)
    exits.load_state_dict(torch.load(path, weights_only=True))
    return in_the_loop(subject, exits.requires_grad_(False), pools)


def contestants(subject: Subject) -> dict[str, MultiExitNetwork]:
    found = {}
    for name in peers_ours.METHODS:
        path = peers_ours.saved_at(subject.name, name, 0)
        if path.exists():
            found[name] = pickle.loads(path.read_bytes()).network_
    shallow_deep = trained(subject)
    if shallow_deep is not None:
        found[SHALLOW_DEEP] = shallow_deep
    return found


def answers_of(network: MultiExitNetwork, subject: Subject) -> Answers:
    tune, test = (
        network.staged_proba(images.X, np.inf, batch_size=64).swapaxes(0, 1)
        for images in (subject.tune, subject.test)
    )
    return Answers(tune, test, network.costs, 0.0, 0)


def rows_of(
    subject: Subject, name: str, network: MultiExitNetwork
) -> Iterator[list[str]]:
    """Yield a line for every budget and size of batch."""
    answers = kept((subject.name, name, 0)) or answers_of(network, subject)
    found = frontier(answers, subject.tune.y, seed=0)
    test = problem_of(answers, answers.test, subject.test.y)
    for budget in BUDGETS:
        thresholds = within(found, budget)
        if thresholds is None:
            continue
        loss, cost = test.totals(thresholds)
        for size in SIZES:
            races = [
                network.race(subject.test.X, thresholds[:, 0], size)
                for _ in range(N_RACES)
            ]
            time = np.array([race.early / race.plain for race in races])
            plain = 1000 * np.median([race.plain for race in races])
            figures = 1 - loss, cost, np.median(time), np.ptp(time) / 2, plain
            cells = [f"{figure:.3f}" for figure in figures]
            yield [subject.name, name, str(size), str(budget), *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("subjects", nargs="*", default=SUBJECTS)
    parser.add_argument("--samples", type=int, help="of each part, to try it out")
    parser.add_argument("--methods", nargs="+", help="these only, by name")
    options = parser.parse_args()
    for name in options.subjects:
        subject = load_subject(name, options.samples)
        for method, network in contestants(subject).items():
            if options.methods and method not in options.methods:
                continue
            lines = list(rows_of(subject, method, network))
            print(*(" | ".join(line) for line in lines), sep="\n", flush=True)
            replace_lines(name, method, lines)
    draw_seconds()


def replace_lines(subject: str, method: str, lines: list[list[str]]) -> None:
    """Write the lines of a method in place of those that there are."""
    stored = [[row.get(field) or "" for field in HEADER] for row in read_table(TABLE)]
    others = [line for line in stored if line[:2] != [subject, method]]
    write_table(TABLE, [HEADER, *sorted([*others, *lines], key=itemgetter(0, 1))])


if __name__ == "__main__":
    main()
