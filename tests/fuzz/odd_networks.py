"""Networks with something unusual about them, and whether they are to be served."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from .networks import Apply, Made, Network, make_network


class NoReturn(Network):
    """Its train() gives nothing back."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


class Ends(nn.Module):
    """Gives the output another form."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Any:
        match self.how:
            case "a tuple":
                return x, x
            case "a dict":
                return {"logits": x}
            case "nothing":
                return None
            case "one number":
                return x.sum()
            case "complex numbers":
                return torch.complex(x, x)
            case "no columns":
                return x[:, :0]
            case "whole numbers":
                return (x * 10).long()
            case "truth":
                return x > 0
            case "its columns first":
                return x.T
            case "twice the rows":
                return torch.cat([x, x])
            case "half precision":
                return x.half()
            case "NaN":
                return x / 0 * 0
            case "infinity":
                return x.abs().log() * 0 + float("inf")
        raise ValueError(self.how)


class Asserts(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        assert (ids[:, 0] == 1).all(), "the first token is to be 1"
        return self.inner(ids)


class Branches(nn.Module):
    """Asks about its input in a way that cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) if float(x.abs().max()) >= 0 else x


class TwoInputs(Network):
    def forward(self, x: Tensor, scale: Any) -> Tensor:  # type: ignore[override]
        return super().forward(x) * scale


class OptionalInput(Network):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:  # type: ignore[override]
        y = super().forward(x)
        return y if scale is None else y * scale


class Shared(Network):
    """Runs its first block twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.head(self.blocks[0](self.stem(x)))


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def _as(kind: type[Network], network: Any) -> Network:
    """Return the same network as a subclass."""
    made = kind(network.stem, list(network.blocks), network.head, network.carries)
    made.eval()
    return made


def _ending(how: str) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        made.network.head = nn.Sequential(made.network.head, Ends(how))

    return change


def _exit_ending(how: str) -> Callable[[Made], None]:
    """Let something that only an exit sees be odd."""

    def change(made: Made) -> None:
        network: Any = made.network
        network.blocks.append(OnTheSide(how))
        made.exits = [f"blocks.{len(network.blocks) - 1}.side"]

    return change


class OnTheSide(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.side = Ends(how)

    def forward(self, x: Tensor) -> Tensor:
        self.side(x)
        return x


def _replace(kind: type[Network]) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        made.network = _as(kind, made.network)

    return change


def _hooks(made: Made) -> None:
    network: Any = made.network
    network.collected = []
    network.blocks[0].register_forward_hook(Collects(network.collected))
    network.head.register_forward_pre_hook(Collects(network.collected))


class Collects:
    def __init__(self, into: list[Any]) -> None:
        self.into = into

    def __call__(self, module: nn.Module, *given: Any) -> None:
        self.into.append(type(module).__name__)

    def __deepcopy__(self, memo: Any) -> Collects:
        return self  # as functions do


def _norm(which: str) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        linear = made.network.head[-1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if which == "own":
                parametrize.register_parametrization(linear, "weight", Doubled())
            elif which == "old":
                nn.utils.weight_norm(linear)
            else:
                getattr(parametrizations, which)(linear)

    return change


def _weights(value: float) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        with torch.no_grad():
            made.network.head[-1].weight[0, 0] = value

    return change


def _meta(made: Made) -> None:
    made.network = made.network.to("meta")


def _part_on_meta(made: Made) -> None:
    made.network.head = made.network.head.to("meta")


def _lazy(made: Made) -> None:
    made.network.head = nn.Sequential(nn.LazyLinear(made.n_classes))


def _locked(made: Made) -> None:
    made.network.lock = threading.Lock()


def _no_gradients(made: Made) -> None:
    made.network.requires_grad_(False)


def _gradients_there(made: Made) -> None:
    for p in made.network.parameters():
        p.grad = torch.ones_like(p)


def _plain_tensor(made: Made) -> None:
    made.network.blocks.append(Scaled())
    made.exits = ["blocks.0"]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor(0.7)  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def _tied(made: Made) -> None:
    made.network.blocks.append(made.network.blocks[0])
    made.exits = ["blocks.1"]


def _used_twice(made: Made) -> None:
    made.network = _as(Shared, made.network)
    made.exits = ["blocks.0"]


def _branch_inside(made: Made) -> None:
    made.network.blocks[0] = nn.Sequential(made.network.blocks[0], Branches())
    made.exits = ["blocks.0.0"]


def _branch_aside(made: Made) -> None:
    made.network.blocks.append(Apply(torch.tanh))
    made.network.head.insert(0, Apply(torch.tanh))
    made.network.blocks[0] = Branches()
    made.exits = [f"blocks.{len(made.network.blocks) - 1}"]


def _parallel(made: Made) -> None:
    made.network = nn.DataParallel(made.network)
    made.exits = [f"module.{name}" for name in made.exits]


def _no_weights(made: Made) -> None:
    made.network = nn.Sequential(nn.Tanh(), nn.ReLU(), nn.Flatten())
    made.exits = ["0"]


def _asserts(made: Made) -> None:
    made.network = Asserts(made.network)
    made.exits = [f"inner.{name}" for name in made.exits]


def _inference(made: Made) -> None:
    with torch.inference_mode():
        made.network.head[-1].weight = nn.Parameter(
            made.network.head[-1].weight.clone(), requires_grad=False
        )


# Name, how a plain network becomes it, whether it is right (None: either).
ODD: list[tuple[str, Callable[[Made], None], bool | None]] = [
    ("train() without a return", _replace(NoReturn), True),
    ("with hooks", _hooks, True),
    ("an optional input", _replace(OptionalInput), True),
    ("two inputs", _replace(TwoInputs), False),
    ("meta", _meta, False),
    ("a part on meta", _part_on_meta, False),
    ("lazy", _lazy, False),
    ("with a lock", _locked, False),
    ("without gradients", _no_gradients, True),
    ("with gradients there", _gradients_there, True),
    ("a plain tensor", _plain_tensor, True),
    ("tied blocks", _tied, True),
    ("an exit used twice", _used_twice, False),
    ("a branch inside", _branch_inside, None),
    ("a branch aside", _branch_aside, True),
    ("DataParallel", _parallel, None),
    ("no weights", _no_weights, True),
    ("asserts its first token", _asserts, True),
    ("weights of inference mode", _inference, True),
    ("NaN weights", _weights(float("nan")), False),
    ("infinite weights", _weights(float("inf")), False),
    *((f"norm {w}", _norm(w), True) for w in ("weight_norm", "spectral_norm")),
    *((f"norm {w}", _norm(w), True) for w in ("orthogonal", "own", "old")),
    *(
        (f"ends in {how}", _ending(how), right)
        for how, right in (
            ("a tuple", False),
            ("a dict", False),
            ("nothing", False),
            ("one number", False),
            ("complex numbers", False),
            ("no columns", False),
            ("whole numbers", None),
            ("truth", None),
            ("its columns first", None),
            ("twice the rows", False),
            ("half precision", None),
            ("NaN", False),
            ("infinity", False),
        )
    ),
    *(
        (f"an exit gives {how}", _exit_ending(how), right)
        for how, right in (
            ("a tuple", False),
            ("nothing", False),
            ("one number", False),
            ("complex numbers", False),
            ("no columns", False),
            ("truth", None),
            ("twice the rows", False),
            ("NaN", False),
            ("infinity", False),
        )
    ),
]


def choose(rng: Generator) -> tuple[str, Made, bool | None]:
    name, change, right = ODD[rng.integers(len(ODD))]
    family = "tokens" if name == "asserts its first token" else "rows"
    made = make_network(rng, family, ending="plain", dtype=torch.float32)
    made.network.eval()
    change(made)
    return name, made, right
