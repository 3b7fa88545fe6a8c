"""What exits that are trained by gradient see of a network: its maps, pooled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sk_e2cm._extractors import Extractor
from sk_e2cm._multi_exit._grid import Cells

GRID = 4
BATCH_SIZE = 128

Labelled = Iterator[tuple[Tensor, Tensor]]


class Feed(Protocol):
    """The maps of every exit, as `Pools` makes them, batch by batch.

    `widths` are the numbers of features, and `seconds` what was spent beforehand.
    """

    widths: Sequence[int]
    seconds: float

    def varied(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield one epoch of training: maps and labels."""

    def plain(self, part: str) -> Iterator[list[Tensor]]:
        """Yield maps of "train", "tune" or "test", and the logits of the network."""


class Pools:
    """Maxima and averages of the maps at every exit, (n, 2, n_features) each."""

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        self.cells = [Cells(GRID, shape[1:]) for shape in shapes]
        self.widths = [
            shape[0] * cells.number
            for shape, cells in zip(shapes, self.cells, strict=True)
        ]

    @classmethod
    def of(cls, extractor: Extractor, X: np.ndarray) -> "Pools":
        shapes = [output.shape[1:] for output in extractor.staged_transform(X[:2])]
        return cls(shapes[:-1])

    def __call__(self, exit_: int, output: Tensor) -> Tensor:
        cells = self.cells[exit_]
        return torch.stack([cells.maximum(output), cells.average(output)], dim=1)


class LiveFeed:
    """A frozen network that is run for every epoch.

    `X` has the images of every part, and `augmented` yields those to train on.
    """

    seconds = 0.0

    def __init__(
        self,
        extractor: Extractor,
        X: Mapping[str, np.ndarray],
        augmented: Callable[[], Labelled],
    ) -> None:
        self.extractor, self.X, self.augmented = extractor, X, augmented
        self.pools = Pools.of(extractor, X["train"])
        self.widths = self.pools.widths

    def varied(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        for batch, y in self.augmented():
            yield through(self.extractor, self.pools, batch)[:-1], y

    def plain(self, part: str) -> Iterator[list[Tensor]]:
        for batch in batches(self.X[part]):
            yield through(self.extractor, self.pools, batch)


def through(extractor: Extractor, pools: Pools, X: Tensor | np.ndarray) -> list[Tensor]:
    """Return what `Pools` makes of every exit's map, and the last stage's output."""
    found = []
    with torch.inference_mode():
        state = extractor.begin(X)
        for stage in range(len(pools.cells)):
            state, output = extractor.advance(state, stage)
            found.append(pools(stage, output))
        found.append(extractor.advance(state, len(pools.cells))[1])
    # Gradients are not taken of tensors made in inference mode.
    return [each.clone() for each in found]


def batches(X: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(X), BATCH_SIZE):
        yield X[start : start + BATCH_SIZE]
