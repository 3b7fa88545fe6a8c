"""Networks that remember, or draw random numbers: refused by name.

What a network computes for a sample must follow from the sample. A cache, of masks or
positions, is filled once for a shape of batch and then stays; it is allowed.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from itertools import pairwise
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ._freeze import frozen_copy

# A GPU may add in another order each time.
_ROUNDING = 1e-6

# How far attributes of attributes are followed.
_DEPTH = 5

# Values that are what they say.
_PLAIN = (str, bytes, int, float, complex, NoneType)


_DRAWS = (
    "{} draws random numbers, although the network is in eval mode: its outputs are "
    "random. Functions such as torch.nn.functional.dropout need training=self.training."
)


class StatefulNetwork(ValueError):
    """The network draws random numbers, or keeps something between batches."""


class _Call(NamedTuple):
    """What is known of the call of a module when it ends.

    Parameters
    ----------
    module : str
        Its name.

    output : list of float
        Sums that tell one output from another.

    drew : str or None
        The module that has drawn random numbers since the call before ended.
    """

    module: str
    output: list[float]
    drew: str | None


def refuse_state(network: nn.Module, X: Tensor, output: str = "") -> None:
    """Refuse a network that remembers or draws, up to the module named `output`.

    A copy is run three times over `X`, and then over its rows in reverse, for which it
    has to compute what a copy that has seen nothing else computes.

    Raises
    ------
    StatefulNetwork
        With the name of the module.
    """
    with random_state_kept():
        fresh, used = _WatchedCopy(network, output), _WatchedCopy(network, output)
        reverse = fresh.run(X.flip(0))
        calls, states = [], []
        for _ in range(3):
            calls.append(used.run(X))
            states.append(used.state())
        calls += [used.run(X.flip(0)), reverse]
    for run in calls:
        _refuse_draws(run)
    # Other threads, such as a server's, may draw from these during some of the runs.
    if all(fresh.others_drawn + used.others_drawn):
        raise StatefulNetwork(_DRAWS.format("The network"))
    for before, after in pairwise(states):
        _refuse_changes(before, after)
    for first, second in ((0, 1), (1, 2), (3, 4)):
        _refuse_differences(calls[first], calls[second])


def _refuse_draws(calls: Sequence[_Call]) -> None:
    for call in calls:
        if call.drew is not None:
            raise StatefulNetwork(_DRAWS.format(_named(call.drew)))


def _refuse_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            module, _, attribute = key.rpartition(".")
            raise StatefulNetwork(
                f"{_named(module)} changes its {attribute!r} each time that it is "
                "called, although the network is in eval mode: an answer would depend "
                "on the samples before it. Keep nothing between calls."
            )


def _refuse_differences(calls: Sequence[_Call], others: Sequence[_Call]) -> None:
    for a, b in zip(calls, others, strict=False):
        same = len(a.output) == len(b.output) and np.allclose(
            a.output, b.output, rtol=_ROUNDING, atol=0.0, equal_nan=True
        )
        if a.module != b.module or not same:
            raise StatefulNetwork(
                f"{_named(a.module)} computes something else for a batch when it has "
                "been called before: it keeps something from one call to the next. "
                "Keep nothing that depends on the samples."
            )


def _named(module: str) -> str:
    return repr(module) if module else "The network"


class _WatchedCopy:
    """A copy of a network that notes the calls of its modules.

    It is thrown away with its hooks.
    """

    def __init__(self, network: nn.Module, output: str) -> None:
        self.network = frozen_copy(network)
        self.output = output
        self.others_drawn: list[bool] = []
        for name, module in self.network.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                module.register_forward_pre_hook(partial(self._enter, name))
                module.register_forward_hook(partial(self._leave, name))

    def run(self, X: Tensor) -> list[_Call]:
        """Return the calls up to the one that gives the output."""
        self._calls: list[_Call] = []
        self._inside = [""]
        self._random, others = _random_state(), _other_random_states()
        self._drew: str | None = None
        output = self.network(X.clone())
        self.others_drawn.append(_other_random_states() != others)
        self._leave("", self.network, X, output)
        names = [call.module for call in self._calls]
        end = names.index(self.output) + 1 if self.output in names else len(names)
        parts = self.output.split(".")
        around = {".".join(parts[:i]) for i in range(len(parts))}
        self._unused = {*names[end:]} - {*names[:end]} - around
        return self._calls[:end]

    def _enter(self, name: str, *_: Any) -> None:
        self._note_draws()
        self._inside.append(name)

    def _leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._note_draws()
        self._inside.pop()
        self._calls.append(_Call(name, _sums(output), self._drew))
        self._drew = None

    def _note_draws(self) -> None:
        """Blame the module that is being run."""
        now = _random_state()
        if now != self._random:
            self._drew = self._drew or self._inside[-1]
        self._random = now

    def state(self) -> dict[str, Any]:
        """Return what the modules hold, summed up, by module and attribute."""
        return {
            f"{name}.{attribute}": _summary(value)
            for name, module in self.network.named_modules()
            if name not in self._unused
            for attribute, value in _attributes(module)
        }


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for attribute, value in vars(module).items():
        if attribute in ("_parameters", "_buffers"):
            yield from value.items()
        elif attribute != "_modules" and not attribute.endswith("_hooks"):
            yield attribute, value


def _summary(value: Any, depth: int = _DEPTH) -> Any:
    """Return what changes with the value: sums of numbers, parts of objects."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), repr(_sums(value))
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, _PLAIN):
        return repr(value)  # in which NaN is NaN
    if isinstance(value, type) or depth == 0:
        return type(value)
    if isinstance(value, Mapping):
        pairs = value.items()
        return [(_summary(k, depth - 1), _summary(v, depth - 1)) for k, v in pairs]
    if isinstance(value, (Sequence, Set, deque)):
        return [_summary(item, depth - 1) for item in value]
    return type(value), _summary(getattr(value, "__dict__", None), depth - 1)


def _sums(value: Any) -> list[float]:
    """Return sums of each tensor in a value that tell whether it has changed.

    Of its numbers, of their sizes and, since the logits of what is masked may be
    enormous, of the numbers squeezed between -1 and 1.
    """
    sums = []
    for leaf in tree_leaves(value):
        if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided:
            continue
        if leaf.is_nested:
            continue
        numbers = leaf.dequantize() if leaf.is_quantized else leaf.detach()
        numbers = torch.view_as_real(numbers) if numbers.is_complex() else numbers
        numbers = numbers if numbers.is_floating_point() else numbers.double()
        size = numbers.abs()
        squeezed = (numbers / (1 + size)).nan_to_num()
        for summed in (numbers, size, squeezed):
            sums.append(float(summed.sum(dtype=torch.float64)))
    return sums


def _random_state() -> list[bytes]:
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in _gpus())]
    return [state.numpy().tobytes() for state in states]


def _other_random_states() -> tuple[str, Any]:
    return repr(np.random.get_state()), random.getstate()  # noqa: NPY002


def _gpus() -> Sequence[int]:
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the random numbers that others draw as they would have been."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=_gpus()):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
