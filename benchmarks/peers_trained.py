"""Exits that are trained by gradient on a frozen network.

Shallow-Deep Networks (Kaya et al. 2019, arXiv 1810.07052): each exit pools its map to
4 x 4, mixing maxima and averages by a learned share, and has one linear layer; exits
only, sum of the cross entropies, Adam at 0.001, a tenth of that after three fifths of
the epochs. Zero Time Waste (Wolczyk et al. 2021, arXiv 2106.05409): the same, but each
exit also sees the logits of the one before, and answers are geometric means of all
exits so far, whose weights and class biases are trained by log loss.

All runs take their steps in the same passes of the network over varied images. Seeds
differ in the weights that they start from, and not in the order of the images.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sk_e2cm._multi_exit._costs import Costs

from .peers_feeds import Feed
from .peers_subjects import BATCH_SIZE, CACHE, Answers, Subject

RATE, DECAY, DECAYS_AFTER = 1e-3, 0.1, 0.6


class Method(NamedTuple):
    is_cascade: bool
    epochs: int


METHODS = {
    "Shallow-Deep, 1 epoch": Method(False, 1),
    "Shallow-Deep, 5 epochs": Method(False, 5),
    "Zero Time Waste, 5 epochs": Method(True, 5),
    "Shallow-Deep, 20 epochs": Method(False, 20),
    "Zero Time Waste, 20 epochs": Method(True, 20),
}


class TrainedExits(nn.Module):
    """Linear layers over mixed poolings, in a cascade or each by itself."""

    def __init__(
        self, widths: Sequence[int], n_classes: int, is_cascade: bool = False
    ) -> None:
        super().__init__()
        self.is_cascade = is_cascade
        self.share = nn.Parameter(torch.full((len(widths),), 0.5))
        self.layers = nn.ModuleList(nn.Linear(width, n_classes) for width in widths)
        links = len(widths) - 1 if is_cascade else 0
        self.links = nn.ModuleList(
            nn.Linear(n_classes, n_classes, bias=False) for _ in range(links)
        )

    def forward(self, pooled: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits of every exit, from what `Pools` makes of its map."""
        found: list[Tensor] = []
        for exit_, (of_exit, layer) in enumerate(zip(pooled, self.layers, strict=True)):
            maxima, averages = of_exit.unbind(1)
            logits = layer(torch.lerp(averages, maxima, self.share[exit_]))
            if self.is_cascade and found:
                logits = logits + self.links[exit_ - 1](found[-1].detach())
            found.append(logits)
        return found

    def macs(self) -> np.ndarray:
        """Return the multiply-adds of every exit for one image, mixing included."""
        counts = np.array(
            [2 * layer.in_features + layer.weight.numel() for layer in self.layers]
        )
        counts[1:] += [link.weight.numel() for link in self.links] or 0
        return counts


class GeometricEnsembles(nn.Module):
    """At every exit the geometric mean of all answers so far, with class biases.

    q_m is proportional to b_m * prod_{j <= m} p_j ** w_mj. Logarithms of b and w are
    learned, so that both are positive.
    """

    def __init__(self, n_exits: int, n_classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n_exits, n_classes))
        # Means of equal weights to start from.
        number = torch.arange(1.0, n_exits + 1)
        self.log_weight = nn.Parameter(-number.log()[:, None].repeat(1, n_exits))

    def forward(self, log_proba: Tensor) -> Tensor:
        """Return log q, (n, n_exits, n_classes), from log p of the same shape."""
        weight = self.log_weight.exp().tril()
        joined = torch.einsum("mj,njk->nmk", weight, log_proba)
        return (joined + self.bias).log_softmax(dim=2)

    def macs(self) -> np.ndarray:
        """Return the multiply-adds of every exit for one image."""
        n_exits, n_classes = self.bias.shape
        return n_classes * np.arange(1, n_exits + 1)

    def fit(self, log_proba: Tensor, y: Tensor) -> None:
        """Minimise the sum of the log losses."""
        optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = sum(F.nll_loss(q, y) for q in self(log_proba).unbind(1))
            value.backward()
            return value

        optimizer.step(loss)


class Run:
    """The exits of one method and seed, their optimizer, and the seconds they took."""

    def __init__(
        self, name: str, seed: int, widths: Sequence[int], n_classes: int, n_steps: int
    ) -> None:
        self.name, self.seed = name, seed
        self.method = METHODS[name]
        torch.manual_seed(seed)
        self.exits = TrainedExits(widths, n_classes, self.method.is_cascade)
        self.ensembles: GeometricEnsembles | None = None
        self.optimizer = torch.optim.Adam(self.exits.parameters(), lr=RATE)
        decays_at = [int(DECAYS_AFTER * n_steps * self.method.epochs)]
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, decays_at, DECAY
        )
        self.seconds = 0.0

    def step(self, pooled: Sequence[Tensor], y: Tensor) -> None:
        started = process_time()
        loss = sum(F.cross_entropy(logits, y) for logits in self.exits(pooled))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.seconds += process_time() - started

    def fit_ensembles(self, logits: Tensor, y: Tensor) -> None:
        started = process_time()
        self.ensembles = GeometricEnsembles(*logits.shape[1:])
        self.ensembles.fit(logits.log_softmax(dim=2), y)
        self.seconds += process_time() - started

    @torch.no_grad()
    def log_proba(self, logits: Tensor) -> Tensor:
        found = logits.log_softmax(dim=2)
        return found if self.ensembles is None else self.ensembles(found)

    def costs(self, macs: np.ndarray) -> Costs:
        exits = self.exits.macs()
        if self.ensembles is not None:
            exits = exits + self.ensembles.macs()
        return costs_of(macs, exits, self.method.is_cascade)

    def n_bytes(self) -> int:
        parts = [self.exits, *filter(None, [self.ensembles])]
        return sum(p.nbytes for part in parts for p in part.parameters())


def costs_of(macs: np.ndarray, exits: np.ndarray, is_cascade: bool = False) -> Costs:
    """Return costs from the multiply-adds of stages, and of the exits by themselves.

    An exit of a cascade needs all before it: they run whether they are open or not.
    """
    costs = Costs.from_counts(macs, np.append(exits, 0.0))
    if not is_cascade:
        return costs
    return Costs(costs.stages + costs.heads, np.zeros(len(macs)))


@torch.no_grad()
def logits_of(feed: Feed, runs: Sequence[Run], part: str) -> tuple[list, Tensor]:
    """Return the logits of the exits of each run, and those of the network."""
    own, of_runs = [], [[] for _ in runs]
    for *pooled, last in feed.plain(part):
        own.append(last)
        for found, run in zip(of_runs, runs, strict=True):
            found.append(torch.stack(run.exits(pooled), dim=1))
    return [torch.cat(found) for found in of_runs], torch.cat(own)


def proba_of(run: Run, logits: Tensor, own: Tensor) -> np.ndarray:
    """Return the probabilities of all stages, the network's own head last."""
    log_proba = run.log_proba(logits).double()
    last = own.double().log_softmax(dim=1)
    return torch.cat([log_proba, last[:, None]], dim=1).softmax(dim=2).numpy()


def finished(
    subject: Subject, feed: Feed, runs: Sequence[Run], shared: float
) -> Iterator[tuple[str, int, Answers]]:
    """Yield what runs answer, whose epochs took the network `shared` seconds."""
    cascades = [run for run in runs if run.method.is_cascade]
    if cascades:
        started = process_time()
        found, _ = logits_of(feed, cascades, "train")
        extra = process_time() - started
        for run, logits in zip(cascades, found, strict=True):
            run.seconds += extra
            run.fit_ensembles(logits, torch.from_numpy(subject.train.y))
    of_tune, of_test = (logits_of(feed, runs, part) for part in ("tune", "test"))
    for i, run in enumerate(runs):
        save(subject.name, run)
        yield (
            run.name,
            run.seed,
            Answers(
                proba_of(run, of_tune[0][i], of_tune[1]),
                proba_of(run, of_test[0][i], of_test[1]),
                run.costs(subject.macs),
                shared + run.seconds,
                run.n_bytes(),
            ),
        )


def save(subject: str, run: Run) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.save(run.exits.state_dict(), saved_at(subject, run.name, run.seed))


def saved_at(subject: str, name: str, seed: int) -> Path:
    return CACHE / f"{subject}, {name}, {seed}.pt"


def answers(
    subject: Subject, todo: Collection[tuple[str, int]]
) -> Iterator[tuple[str, int, Answers]]:
    """Train what is to be done; yield each run as soon as its epochs are over."""
    feed = subject.feed()
    n_steps = -(-len(subject.train.X) // BATCH_SIZE)
    runs = [
        Run(name, seed, feed.widths, subject.n_classes, n_steps) for name, seed in todo
    ]
    torch.manual_seed(0)
    shared, epoch = feed.seconds, 0
    while runs:
        started, before = process_time(), sum(run.seconds for run in runs)
        for pooled, y in feed.varied():
            for run in runs:
                run.step(pooled, y)
        own = sum(run.seconds for run in runs) - before
        shared += process_time() - started - own
        epoch += 1
        print(f"{subject.name}: {epoch} epochs, {shared:.0f} s", flush=True)
        ready = [run for run in runs if run.method.epochs == epoch]
        yield from finished(subject, feed, ready, shared) if ready else ()
        runs = [run for run in runs if run.method.epochs > epoch]
