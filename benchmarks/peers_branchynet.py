"""BranchyNet (Teerapittayanon et al. 2016): network and exits trained together.

From the trained weights, for one epoch, by the sum of all cross entropies, that of the
network among them, with Adam as in the paper. Its exits are those of Shallow-Deep
Networks and not the paper's small convolutions, so that only the training differs.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from time import process_time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sk_e2cm import TorchExtractor

from .peers_feeds import Pools, batches
from .peers_subjects import EXITS, Answers, Subject
from .peers_trained import METHODS as TRAINED
from .peers_trained import RATE, Run, logits_of, proba_of
from .resnet20 import ResNet20, load_trained

METHODS = ["BranchyNet, 1 epoch"]
ALIKE = "Shallow-Deep, 1 epoch"


class Together(nn.Module):
    """A ResNet-20 and its exits."""

    def __init__(self, network: ResNet20, pools: Pools, exits: nn.Module) -> None:
        super().__init__()
        self.network, self.exits = network, exits
        self.pools = pools

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits of the exits, and those of the network."""
        network = self.network
        x = network.stem((x - network.mean) / network.std)
        pooled = [self.pools(0, x)]
        for exit_, block in enumerate(network.blocks, start=1):
            x = block(x)
            pooled.append(self.pools(exit_, x))
        return [*self.exits(pooled), network.head(x.mean(dim=(2, 3)))]


def answers(
    subject: Subject, todo: Collection[tuple[str, int]]
) -> Iterator[tuple[str, int, Answers]]:
    for name, seed in todo:
        yield name, seed, trained(subject, seed)


def trained(subject: Subject, seed: int) -> Answers:
    pools = Pools.of(subject.extractor, subject.train.X)
    n_steps = sum(1 for _ in batches(subject.train.X))
    run = Run(ALIKE, seed, pools.widths, subject.n_classes, n_steps)
    network = load_trained(subject.name).train()
    # One optimizer and its schedule serve both.
    run.optimizer.add_param_group({"params": list(network.parameters()), "lr": RATE})
    run.schedule.base_lrs.append(RATE)
    started = process_time()
    optimize(Together(network, pools, run.exits), subject, run)
    seconds = process_time() - started
    feed = replace(subject, extractor=TorchExtractor(network.eval(), EXITS)).feed()
    found = (logits_of(feed, [run], part) for part in ("tune", "test"))
    proba = [proba_of(run, of_run, own) for (of_run,), own in found]
    return Answers(*proba, run.costs(subject.macs), seconds, run.n_bytes())


def optimize(together: Together, subject: Subject, run: Run) -> None:
    for _ in range(TRAINED[ALIKE].epochs):
        for batch, y in subject.augmented():
            loss = sum_of_losses(together(batch), y)
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
            run.schedule.step()


def sum_of_losses(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(each, y) for each in logits]).sum()
