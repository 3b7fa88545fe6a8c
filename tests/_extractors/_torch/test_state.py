import random

import numpy as np
import pytest
import torch
from torch import nn

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch import _state
from sk_e2cm._extractors._torch._state import refuse_state

from .networks import Function, Layers


class Part(nn.Module):
    """A layer with something of its own, which `act` may change."""

    def __init__(self, act):
        super().__init__()
        self.act = act
        self.register_buffer("mean", torch.zeros(4))
        self.cache = {}
        self.n_calls = 0
        self.last = None
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return self.act(self, x)


class Within(Layers):
    """Four layers, the second of which is given."""

    def __init__(self, second):
        super().__init__()
        self.second = second

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x))))


def counts(self, x):
    self.n_calls += 1
    return x


def moves_its_mean(self, x):
    self.mean.mul_(0.9).add_(0.1 * x.mean(0))
    return x - self.mean


def moves_its_mean_out_of_sight(self, x):
    self.mean.data = 0.9 * self.mean.data + 0.1 * x.mean(0)
    return x


def adds_what_came_before(self, x):
    before = 0 if self.last is None else self.last
    self.last = x.mean(0)
    return x + before


def keeps_the_first_mean(self, x):
    if self.last is None:
        self.last = x[0]
    return x - self.last


def gathers(self, x):
    self.cache.setdefault("seen", []).append(len(x))
    return x


CHANGES = {
    "counter": (counts, "'n_calls'"),
    "running mean": (moves_its_mean, "'mean'"),
    "running mean, by .data": (moves_its_mean_out_of_sight, "'mean'"),
    "hidden state": (adds_what_came_before, "been called before"),
    "first mean": (keeps_the_first_mean, "been called before"),
    "list": (gathers, "'cache'"),
}


def fills_a_cache(self, x):
    if x.shape not in self.cache:
        self.cache[x.shape] = torch.ones_like(x[:1])
    return x * self.cache[x.shape]


def notes(self, x):
    self.last = x.detach()
    return x


def computes_a_table(self, x):
    if self.n_calls < x.shape[1]:
        self.n_calls = x.shape[1]
        self.mean = torch.arange(4.0)
    return x + self.mean


CACHES = [fills_a_cache, notes, computes_a_table]

DRAWS = {
    "dropout": lambda x: torch.dropout(x, 0.5, True),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "rand": lambda x: x + torch.rand_like(x),
    "in place": lambda x: x + torch.empty_like(x).normal_(),
    "numpy": lambda x: x + np.random.rand(),  # noqa: NPY002
    "random": lambda x: x + random.random(),
    "unused": lambda x: x + 0 * torch.rand(()),
    "seeded": lambda x: x + torch.rand((), generator=torch.manual_seed(0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_module_that_remembers_is_refused_by_name(name):
    act, match = CHANGES[name]
    with pytest.raises(ValueError, match=f"'second' .*{match}"):
        assert refuse_state(Within(Part(act)), torch.randn(3, 4)) is None


@pytest.mark.parametrize("act", CACHES)
def test_what_is_filled_once_is_a_cache(act):
    assert refuse_state(Within(Part(act)), torch.randn(3, 4)) is None


@pytest.mark.parametrize("name", DRAWS)
def test_a_module_that_draws_random_numbers_is_refused(name):
    with pytest.raises(ValueError, match=r"draws random numbers"):
        refuse_state(Within(Function(DRAWS[name])), torch.randn(3, 4))


@pytest.mark.parametrize("n_runs", [1, 4])
def test_threads_that_draw_beside_some_of_the_runs_do_not_matter(n_runs, monkeypatch):
    # Before and after each of five runs.
    states = iter([*range(2 * n_runs), *[99] * (10 - 2 * n_runs)])
    monkeypatch.setattr(_state, "_other_random_states", lambda: next(states))
    assert refuse_state(Within(nn.ReLU()), torch.randn(3, 4)) is None
    assert [*states] == []


def test_the_module_that_draws_is_named():
    layer = nn.Sequential(nn.Linear(4, 4), Function(DRAWS["dropout"]), nn.ReLU())
    with pytest.raises(ValueError, match=r"^'second\.1' draws"):
        refuse_state(Within(layer), torch.randn(3, 4))


def test_a_draw_between_modules_is_that_of_the_module_around_them():
    class Noisy(Layers):
        def forward(self, x):
            return self.second(self.first(x) + torch.rand(()))

    with pytest.raises(ValueError, match="The network draws random numbers"):
        refuse_state(Noisy(), torch.randn(3, 4))


@pytest.mark.parametrize("act", [counts, moves_its_mean, adds_what_came_before])
def test_what_comes_after_the_output_may_remember(act):
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Part(act), nn.Linear(4, 3))
    refuse_state(network, torch.randn(3, 4), output="1")
    with pytest.raises(ValueError, match="'2' "):
        refuse_state(network, torch.randn(3, 4))


def test_stochastic_depth_is_refused():
    torchvision = pytest.importorskip("torchvision")
    drop = Function(lambda x: torchvision.ops.stochastic_depth(x, 0.5, "row"))
    network = nn.Sequential(nn.Linear(4, 4), drop, nn.Linear(4, 3))
    with pytest.raises(ValueError, match="'1' draws random numbers"):
        TorchExtractor(network, ["0"]).begin(torch.randn(8, 4))


def random_numbers():
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002


@pytest.mark.parametrize("name", ["rand", "numpy", "random", "seeded"])
def test_the_random_numbers_of_others_stay_as_they_were(name):
    network, X = Within(Function(DRAWS[name])), torch.randn(3, 4)
    numbers = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        if is_watched:
            with pytest.raises(ValueError, match="draws"):
                refuse_state(network, X)
        numbers.append(random_numbers())
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("fill", [-1e4, torch.finfo(torch.float32).min, -torch.inf])
def test_no_mask_hides_what_a_generator_of_its_own_draws(fill):
    generator = torch.Generator()

    def draws_and_masks(x):
        x = x + torch.rand(x.shape, generator=generator)
        return x.masked_fill(torch.arange(4) > 0, fill)

    network = nn.Sequential(nn.Linear(4, 4), Function(draws_and_masks))
    with pytest.raises(ValueError, match=r"'1' .*been called before"):
        refuse_state(network, torch.randn(3, 4))


def test_the_network_is_left_as_it_is():
    network = Within(Part(moves_its_mean))
    with pytest.raises(ValueError, match="'mean'"):
        refuse_state(network, torch.randn(3, 4))
    assert not network.second.mean.any()
    assert not network.second._forward_hooks
