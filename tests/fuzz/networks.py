"""Networks that are right: whatever leaves a batch changes nothing for the others."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn.utils import parametrizations

FAMILIES = ("rows", "images", "maps", "series", "tokens")
PADDING, N_TOKENS = 0, 20


@dataclass
class Made:
    """A network of some family, what it takes, and where it may be left."""

    network: nn.Module
    exits: list[str]
    family: str
    shape: tuple[int, ...]
    n_classes: int
    dtype: torch.dtype = torch.float32
    story: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [type(b).__name__ for b in getattr(self.network, "blocks", [])]
        return (
            f"{self.family} {self.shape}, {self.dtype}, blocks {parts}, exits "
            f"{self.exits}, {', '.join(map(str, self.story))}"
        )


class Network(nn.Module):
    """A stem, blocks and a head; something else may be alive across all of them."""

    def __init__(
        self, stem: nn.Module, blocks: list[nn.Module], head: nn.Module, carries: str
    ) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.carries = carries

    def forward(self, x: Tensor) -> Tensor:
        n, given = x.size(0), x
        x = start = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if self.carries == "count":
            x = x.reshape(n, -1).view_as(x)
        elif self.carries == "stem":
            x = x + start
        elif self.carries == "mask":
            mask = (given != PADDING).unsqueeze(-1)
            x = x * mask
        return self.head(x)


class Apply(nn.Module):
    """A function of one tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.function.__name__


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Dense(nn.Sequential):
    """Concatenates what it is given and what it makes of it, and halves it again."""

    def __init__(self, inner: nn.Module, mix: nn.Module, axis: int) -> None:
        super().__init__(inner, mix)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return self[1](torch.cat([x, self[0](x)], dim=self.axis))


class Gate(nn.Module):
    """Squeeze and excitation over all axes but the first and that of the channels."""

    def __init__(self, width: int, axis: int, others: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.axis, self.others = axis, others

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=self.others, keepdim=True) if self.others else x
        gate = torch.sigmoid(self.layer(mean.movedim(self.axis, -1)))
        return x * gate.movedim(-1, self.axis)


class Regroup(nn.Module):
    """Makes more rows than samples, and samples again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width // 2, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        rows = x.reshape(n * 2, -1, self.layer.in_features)
        return torch.relu(self.layer(rows)).reshape(x.shape)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.attention(h, h, h, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self, width: int, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)[0]


class CachedPositions(nn.Module):
    """Adds positions that are computed once for each length, and kept."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.width, self.how = width, how
        self.kept: Any = {} if how == "dictionary" else None
        if how == "buffer":
            self.register_buffer("kept_buffer", torch.empty(0), persistent=False)

    def make(self, length: int) -> Tensor:
        steps = torch.arange(length)[:, None] / (1 + torch.arange(self.width))
        return torch.sin(steps)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if self.how == "dictionary":
            if length not in self.kept:
                self.kept[length] = self.make(length)
            found = self.kept[length]
        elif self.how == "buffer":
            if self.kept_buffer.numel() == 0:
                self.kept_buffer = self.make(length).to(x.dtype)
            found = self.kept_buffer
        else:
            if self.kept is None or len(self.kept) != length:
                self.kept = self.make(length)
            found = self.kept
        return x + found.to(x.dtype)


class Experts(nn.Module):
    """Each position goes to one of two layers, by its own content."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        first = x[..., :1] > 0
        return torch.where(first, self.a(x), torch.tanh(self.b(x)))


def channels_to(axis: int, inner: nn.Module) -> nn.Module:
    """Run `inner`, which takes channels last, on channels at `axis`."""
    return inner if axis == -1 else nn.Sequential(ToLast(), inner, ToFirst())


class ToLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1)


class ToFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)


def over_channels(x: Tensor) -> Tensor:
    return x.softmax(dim=-1) * x.shape[-1] - x.cumsum(dim=-1) / 8


def ranks(x: Tensor) -> Tensor:
    return x.sort(dim=-1).values + 0.1 * x.topk(2, dim=-1).values[..., :1]


def in_double(x: Tensor) -> Tensor:
    return x.double().sub(1.0).to(x.dtype)


def of_own_mean(x: Tensor) -> Tensor:
    own = tuple(range(1, x.dim()))
    return (x - x.mean(dim=own, keepdim=True)) / (x.std(dim=own, keepdim=True) + 0.1)


def nearly_constant(x: Tensor) -> Tensor:
    """Give the last channel nothing but rounding errors around a constant."""
    return torch.cat([x[..., :-1], 1e3 * x.softmax(-1).sum(-1, keepdim=True)], dim=-1)


def chunks(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * torch.sigmoid(b), b], dim=-1)


def a_block(rng: Generator, family: str, width: int) -> nn.Module:
    """Return one of the blocks that keep the shape of their input."""
    last = family != "images"
    axis = -1 if last else 1
    others = {"rows": (), "images": (2, 3), "maps": (1, 2)}.get(family, (1,))

    def linear(n_in: int = width) -> nn.Module:
        return nn.Linear(n_in, width) if last else nn.Conv2d(n_in, width, 3, padding=1)

    def parametrised() -> nn.Module:
        norms = [parametrizations.weight_norm, parametrizations.spectral_norm]
        if last:
            norms.append(parametrizations.orthogonal)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nn.Sequential(norms[rng.integers(len(norms))](linear()), nn.ReLU())

    functions = [over_channels, ranks, in_double, of_own_mean, chunks, nearly_constant]
    choices: list[Callable[[], nn.Module]] = [
        lambda: nn.Sequential(linear(), nn.ReLU(inplace=bool(rng.integers(2)))),
        lambda: Residual(linear(), nn.GELU(), nn.Dropout(0.3)),
        lambda: Dense(nn.Sequential(linear(), nn.Tanh()), linear(2 * width), axis),
        lambda: Gate(width, axis, others),
        lambda: channels_to(axis, Experts(width)),
        lambda: channels_to(axis, nn.LayerNorm(width)),
        lambda: channels_to(axis, Apply(functions[rng.integers(len(functions))])),
        lambda: channels_to(axis, Regroup(width)),
        parametrised,
    ]
    if family == "rows":
        choices += [lambda: nn.BatchNorm1d(width), lambda: nn.GroupNorm(2, width)]
    elif family == "images":
        choices += [
            lambda: nn.BatchNorm2d(width),
            lambda: nn.GroupNorm(2, width),
            lambda: nn.InstanceNorm2d(width, affine=True),
            lambda: nn.Conv2d(width, width, 3, padding=1, groups=width),
            lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Hardswish(inplace=True)),
        ]
    elif family != "maps":
        choices += [
            lambda: Attention(width),
            lambda: Recurrent(width, (nn.GRU, nn.LSTM)[rng.integers(2)]),
            lambda: CachedPositions(width, "dictionary"),
            lambda: CachedPositions(width, "attribute"),
            lambda: nn.TransformerEncoderLayer(width, 2, 12, batch_first=True),
        ]
    return choices[rng.integers(len(choices))]()


class Squeezed(nn.Module):
    """A head of one output for each sample, as a vector."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).squeeze(-1)


class Mean(nn.Module):
    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=self.axes) if self.axes else x


def make_network(
    rng: Generator,
    family: str | None = None,
    *,
    n_outputs: int | None = None,
    ending: str | None = None,
    dtype: torch.dtype | None = None,
) -> Made:
    """Return a right network of random parts."""
    family = family or FAMILIES[rng.integers(len(FAMILIES))]
    width = 2 * int(rng.integers(2, 5))
    n_classes = int(rng.integers(2, 5))
    n_outputs = n_classes if n_outputs is None else n_outputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        stem, shape = _stem(rng, family, width)
        blocks = [a_block(rng, family, width) for _ in range(rng.integers(2, 5))]
        axes = {"rows": (), "images": (2, 3), "maps": (1, 2)}.get(family, (1,))
        ending = ending or ("plain", "plain", "softmax", "logs")[rng.integers(4)]
        ends = {"softmax": [nn.Softmax(-1)], "logs": [nn.LogSoftmax(-1)]}
        layers = [Mean(axes), nn.Linear(width, n_outputs), *ends.get(ending, [])]
        head: nn.Module = nn.Sequential(*layers)
        if ending == "vector":
            head = Squeezed(head)
        carries = ["nothing", "count", "stem"][rng.integers(3)]
        if family == "tokens" and rng.integers(2):
            carries = "mask"
        network = lived_in(Network(stem, blocks, head, carries))
    if dtype is None:
        kinds = [torch.float32] * 6 + [torch.float64] * 2 + [torch.bfloat16]
        dtype = kinds[rng.integers(len(kinds))]
    network = network.to(dtype).train(bool(rng.integers(2)))
    if family == "images" and rng.integers(3) == 0:
        network = network.to(memory_format=torch.channels_last)
    n_exits = int(rng.integers(1, len(blocks) + 1))
    chosen = np.sort(rng.choice(len(blocks), n_exits, replace=False))
    exits = [f"blocks.{i}" for i in chosen]
    return Made(network, exits, family, shape, n_classes, dtype, [carries, ending])


def _stem(rng: Generator, family: str, width: int) -> tuple[nn.Module, tuple[int, ...]]:
    if family == "rows":
        return nn.Sequential(nn.Linear(5, width), nn.Tanh()), (5,)
    if family == "tokens":
        length = int(rng.integers(3, 8))
        return nn.Embedding(N_TOKENS, width), (length,)
    if family == "series":
        return nn.Linear(3, width), (int(rng.integers(2, 8)), 3)
    # Sides that equal the number of channels, or not: shapes are to tell nothing.
    sides = tuple(int(s) for s in rng.choice([3, 4, 6, 8], 2))
    stem = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.Tanh())
    if family == "maps":
        stem.append(ToLast())
        stem.append(nn.LayerNorm(width))
    return stem, (2, *sides)


@torch.no_grad()
def lived_in(network: nn.Module) -> nn.Module:
    """Give norms statistics as if they had been trained, and weights some force."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, nn.Linear | nn.Conv2d) and not hasattr(
            module, "parametrizations"
        ):
            module.weight.mul_(1.8)
    return network


def alone(made: Made, x: Any) -> list[Tensor]:
    """Return what the uncut network gives at every exit, and last, for one sample."""
    network = copy.deepcopy(made.network).eval()
    seen: dict[str, Tensor] = {}
    for name in made.exits:
        network.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: seen.update({name: output.clone()})
        )
    with torch.inference_mode():
        last = network(x)
    return [*(seen[name] for name in made.exits), last]
