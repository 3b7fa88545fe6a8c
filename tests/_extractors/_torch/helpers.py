"""The uncut network as the reference, and ways to drop rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sk_e2cm import TorchExtractor

T = TypeVar("T")


def at_seed(seed: int, make: Callable[[], T]) -> T:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def uncut(network: nn.Module, names: Sequence[str], X: Tensor) -> list[Tensor]:
    """Return what the named modules and the network itself return."""
    network = copy.deepcopy(network).eval()
    seen = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output.clone()})
        )
    with torch.no_grad():
        output = network(X.clone())
    return [*(seen[name] for name in names), output]


def keeping(
    extractor: TorchExtractor,
    X: Tensor,
    choose: Callable[[int, np.ndarray], np.ndarray],
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Keep after every stage what `choose` picks, given the stage and its rows.

    Yields the rows that a stage has computed, and its output.
    """
    rows = np.arange(len(X))
    state = extractor.begin(X)
    for stage in range(len(extractor.stage_names)):
        state, output = extractor.advance(state, stage)
        yield rows, output.clone()
        kept = choose(stage, rows)
        state = extractor.keep(state, kept)
        rows = rows[kept]


def halving(
    extractor: TorchExtractor, X: Tensor, seed: int = 0
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Drop a third of the rows after every stage, and shuffle the others."""
    rng = np.random.default_rng(seed)

    def choose(stage: int, rows: np.ndarray) -> np.ndarray:
        return rng.permutation(len(rows))[: max(1, len(rows) * 2 // 3)]

    return keeping(extractor, X, choose)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max()
    assert error <= tolerance * expected.double().abs().max()


def assert_right(
    extractor: TorchExtractor, network: nn.Module, X: Tensor, axis: int = 0
) -> None:
    """Compare all stages with the uncut network, with rows dropped and without."""
    expected = [value.movedim(axis, 0) for value in uncut(network, extractor.exits, X)]
    for output, value in zip(extractor.staged_transform(X), expected, strict=True):
        assert_close(output, value)
    for (rows, output), value in zip(halving(extractor, X), expected, strict=True):
        assert_close(output, value[rows])
