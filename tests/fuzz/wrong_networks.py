"""Networks that mix samples, keep a state or are random: each has to be refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from .networks import FAMILIES, PADDING, Apply, Made, Network, make_network

# Mixing. Each is a function of a batch in which rows depend on each other.


def less_mean(x: Tensor) -> Tensor:
    return x - x.mean(0, keepdim=True)


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.std(unbiased=False) + 1e-3)


def over_std(x: Tensor) -> Tensor:
    return x / (x.std(0, unbiased=False) + 0.1)


def over_max(x: Tensor) -> Tensor:
    return x / (x.abs().max() + 1e-3)


def less_column_max(x: Tensor) -> Tensor:
    return x - x.amax(0, keepdim=True)


def less_median(x: Tensor) -> Tensor:
    return x - x.median(0).values


def batch_softmax(x: Tensor) -> Tensor:
    return x.softmax(0) * x.shape[0] ** 0.5


def batch_sort(x: Tensor) -> Tensor:
    return x.sort(0).values


def batch_rank(x: Tensor) -> Tensor:
    return x.argsort(0).argsort(0).to(x.dtype) / 4


def batch_unique(x: Tensor) -> Tensor:
    found = torch.unique((x * 2).round(), return_inverse=True)[1]
    return found.view_as(x).to(x.dtype) / 4


def batch_cumsum(x: Tensor) -> Tensor:
    return x + 0.3 * x.cumsum(0)


def flipped(x: Tensor) -> Tensor:
    return x + x.flip(0)


def rolled(x: Tensor) -> Tensor:
    return x + x.roll(1, 0)


def less_first(x: Tensor) -> Tensor:
    return x - x[:1]


def above_mean(x: Tensor) -> Tensor:
    return torch.where(x > x.mean(0, keepdim=True), x, torch.zeros_like(x))


def rounded_by_range(x: Tensor) -> Tensor:
    step = x.abs().max() / 3 + 1e-3
    return (x / step).round() * step


def normed_together(x: Tensor) -> Tensor:
    return x / (x.norm() + 1e-3) * 5


def similarities(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    attention = (flat @ flat.T / flat.shape[1]).softmax(1)
    return (attention @ flat).view_as(x)


def trained_norm(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return F.batch_norm(flat, None, None, training=True).view_as(x)


def counted(x: Tensor) -> Tensor:
    return x * (1 + 1 / x.shape[0])


MIXING: list[Callable[[Tensor], Tensor]] = [
    less_mean,
    standardised,
    over_std,
    over_max,
    less_column_max,
    less_median,
    batch_softmax,
    batch_sort,
    batch_rank,
    batch_unique,
    batch_cumsum,
    flipped,
    rolled,
    less_first,
    above_mean,
    rounded_by_range,
    normed_together,
    similarities,
    trained_norm,
    counted,
]


class NoStatistics(nn.Module):
    """Batch norm as it is made with ``track_running_stats=False``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, affine=False, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(1)).view_as(x)


class TrimsToLongest(nn.Module):
    """Cuts padding off as far as all samples of the batch have it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = network.stem, network.blocks, network.head

    def forward(self, x: Tensor) -> Tensor:
        longest = (x != PADDING).sum(1).max()
        x = x[:, : int(longest)] if type(longest) is Tensor else x[:, :longest]
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


# State


class Counts(nn.Module):
    """Adds how often it was called."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.calls = how, 0
        self.register_buffer("so_far", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "attribute":
            self.calls = self.calls + 1
            return x + 0.5 * self.calls
        self.so_far.add_(1.0)
        return x + 0.5 * self.so_far.to(x.dtype)


class RunningMean(nn.Module):
    """Goes on with its mean in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.8).add_(0.2 * x.mean().to(self.mean.dtype))
        return x - self.mean.to(x.dtype)


class Remembers(nn.Module):
    """Adds what it kept of the batch before."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.before: Any = [] if how == "list" else None

    def forward(self, x: Tensor) -> Tensor:
        now = x.mean(0, keepdim=True).detach()
        if self.how == "list":
            old = self.before[-1] if self.before else torch.zeros_like(now)
            self.before.append(now)
        else:
            old = torch.zeros_like(now) if self.before is None else self.before
            self.before = now
        return x + old


# Randomness


class Random(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.own = torch.Generator().manual_seed(0) if how == "own generator" else None

    def forward(self, x: Tensor) -> Tensor:
        match self.how:
            case "torch.dropout":
                return torch.dropout(x, 0.3, True)
            case "functional dropout":
                return F.dropout(x, 0.3, True)
            case "feature dropout":
                return torch.feature_dropout(x.unsqueeze(-1), 0.3, True).squeeze(-1)
            case "bernoulli":
                return x * torch.bernoulli(torch.full_like(x, 0.7))
            case "bernoulli in place":
                return x * torch.empty_like(x).bernoulli_(0.7)
            case "stochastic depth":
                return x + stochastic_depth(x, 0.5, "row", training=True)
            case "normal":
                return x + 0.3 * torch.randn_like(x)
            case "uniform":
                return x * torch.rand(x.shape, dtype=x.dtype)
            case "permutation":
                return x[..., torch.randperm(x.shape[-1])]
            case "rrelu":
                return F.rrelu(x, 0.1, 0.9, training=True)
            case "gumbel":
                return F.gumbel_softmax(x, dim=-1)
            case "own generator":
                noise = torch.rand(x.shape, generator=self.own)
                return x + 0.3 * noise.to(x.dtype)
            case "numpy":
                return x + float(np.random.rand())  # noqa: NPY002
        raise ValueError(self.how)


RANDOM = (
    "torch.dropout",
    "functional dropout",
    "feature dropout",
    "bernoulli",
    "bernoulli in place",
    "stochastic depth",
    "normal",
    "uniform",
    "permutation",
    "rrelu",
    "gumbel",
    "own generator",
    "numpy",
)


# What hides it


class Hidden(nn.Module):
    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        match self.how:
            case "mask":
                return x.masked_fill(torch.arange(x.shape[-1]) == 0, -1e4)
            case "large channel":
                return torch.cat([x[..., :-1], x[..., -1:] * 0 + 1e4], dim=-1)
            case "offset":
                return x + 1000.0
            case "small":
                return x * 1e-2
        return x


class Undone(nn.Module):
    """Takes away what hid a fault, for the blocks that follow."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "offset":
            return x - 1000.0
        if self.how == "small":
            return x * 1e2
        return x.clamp(-30, 30)


HIDING = ("plainly", "mask", "large channel", "offset", "small")


def add_fault(
    rng: Generator, made: Made, faults: Sequence[nn.Module], what: str
) -> Made:
    """Put one of `faults` somewhere into a network, hidden or not."""
    fault = faults[rng.integers(len(faults))]
    hiding = HIDING[rng.integers(len(HIDING))]
    network: Any = made.network
    place = int(rng.integers(len(network.blocks) + 2))
    whole = Hidden(fault, hiding)
    if place == len(network.blocks):  # as the last thing before the head's layers
        network.head = nn.Sequential(whole, Undone(hiding), network.head)
    elif place > len(network.blocks):  # after the head
        network.head = nn.Sequential(network.head, whole)
    elif rng.integers(2):  # within a block
        network.blocks[place] = nn.Sequential(
            whole, Undone(hiding), network.blocks[place]
        )
    else:  # as a block: an exit may stand on what is hidden
        network.blocks[place] = nn.Sequential(network.blocks[place], whole)
    network.to(made.dtype)
    label = getattr(fault, "function", None)
    name = label.__name__ if label else getattr(fault, "how", type(fault).__name__)
    made.story += [what, f"{type(fault).__name__} {name}", hiding, f"place {place}"]
    return made


def mixing_network(rng: Generator) -> Made:
    made = _plain(rng)
    if made.family == "tokens" and rng.integers(4) == 0:
        made.network = TrimsToLongest(made.network)  # type: ignore[arg-type]
        made.story.append("trims to the longest")
        return made
    faults = [Apply(MIXING[rng.integers(len(MIXING))]), NoStatistics()]
    weighted = [faults[int(rng.integers(8) == 0)]]
    return add_fault(rng, made, weighted, "mixes")


def stateful_network(rng: Generator) -> Made:
    how = [Counts("attribute"), Counts("buffer"), RunningMean()]
    return add_fault(
        rng, _plain(rng), [*how, Remembers("list"), Remembers("x")], "keeps"
    )


def random_network(rng: Generator) -> Made:
    how = RANDOM[rng.integers(len(RANDOM))]
    return add_fault(rng, _plain(rng), [Random(how)], "draws")


def _plain(rng: Generator) -> Made:
    family = FAMILIES[rng.integers(len(FAMILIES))]
    return make_network(rng, family, ending="plain")
