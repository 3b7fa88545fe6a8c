"""A stopwatch for networks with exits, and races between ways to run them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._extractors import Extractor, device_of, has, state_and_output, through
from .._utils._arrays import SampleRows
from ._heads import Head, takes_arrays
from ._loop import LazyLoop, StepsOnHost
from ._thresholds import stays

# No probability is as large, and none is less.
NOBODY, EVERYBODY = 2.0, 0.0

# A race lasts so many rounds, of which the first warms up, or so many seconds; a round
# takes so many, and so many batches.
_ROUNDS, _FEWEST_ROUNDS, _MOST_SECONDS = 8, 3, 10.0
_ROUND, _FEWEST_BATCHES, _MOST_BATCHES = 0.5, 2, 200


class Lap:
    """Seconds since it was last asked, when the device has done all that it was given.

    Parameters
    ----------
    device : torch.device
        Where things are computed.
    """

    def __init__(self, device: torch.device) -> None:
        waits: dict[str, Callable[[], Any]] = {
            "cuda": partial(torch.cuda.synchronize, device),
            "mps": torch.mps.synchronize,
        }
        self._wait = waits.get(device.type, lambda: None)
        self._now = time.perf_counter()

    def __call__(self) -> float:
        self._wait()
        before, self._now = self._now, time.perf_counter()
        return self._now - before


@dataclass(frozen=True)
class Way:
    """One way to run a network: an extractor and how many samples it gets at once."""

    extractor: Extractor
    at_once: int


class Stopwatch:
    """Measures a network with exits on real samples, in rounds.

    Parameters
    ----------
    extractor : Extractor
        The network in J + 1 stages.

    heads : sequence of Head
        One for each, on its device.

    X : ndarray or SomeRows, of shape (n_samples, ...)
        Samples; repeated if they are fewer than a batch.

    batch_size : int
        Samples per batch.
    """

    def __init__(
        self,
        extractor: Extractor,
        heads: Sequence[Head],
        X: SampleRows,
        batch_size: int,
    ) -> None:
        self.extractor = extractor
        self.heads = heads
        self.batch_size = batch_size
        self._X = X
        self._start = 0
        self.lap = Lap(device_of(extractor))

    def next_batch(self) -> NDArray[Any]:
        """Return samples that were not used in the last round, if there are more."""
        return self.next_samples(self.batch_size)

    def next_samples(self, n_samples: int) -> NDArray[Any]:
        """Return as many samples, from the first again after the last."""
        rows = np.arange(self._start, self._start + n_samples) % len(self._X)
        self._start = (self._start + n_samples) % len(self._X)
        return self._X[rows]

    def plain(self, batch: NDArray[Any]) -> float:
        """Time the network as it was given."""
        self.lap()
        run_plain(self.extractor, self.heads[-1], batch)
        return self.lap()

    def early(
        self, way: Way, thresholds: Sequence[Tensor | float | None], batch: NDArray[Any]
    ) -> float:
        """Time the loop."""
        self.lap()
        run_early(way, self.heads, thresholds, batch)
        return self.lap()

    @torch.inference_mode()
    def pieces(self, way: Way, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Time each stage, each head and each pooling, shape (3, n_exits + 1).

        Where nothing is carried, pooling is a part of the head.
        """
        extractor, lap, n = way.extractor, self.lap, len(batch)
        spent = np.zeros((3, len(self.heads)))
        carries = any(head.carried for head in self.heads)
        known: dict[int, Tensor] = {}
        lap()
        state = extractor.begin(batch)
        for stage, head in enumerate(self.heads):
            state, output = state_and_output(extractor, extractor.advance(state, stage))
            spent[0, stage] = lap()
            if carries:
                known[stage] = head.pooled(output)
                spent[2, stage] = lap()
                proba = head.proba_of([known[s] for s in (*head.carried, stage)])
            else:
                proba = head.proba(output)
            confidence, label = proba.max(dim=1)
            if stage == len(self.heads) - 1:
                label.cpu().numpy()
            elif n == 1:
                stays(confidence.item(), label, NOBODY)
            else:
                stays(confidence, label, NOBODY).nonzero().squeeze(1)
            spent[1, stage] = lap()
        return spent

    @torch.inference_mode()
    def going_on(self, way: Way, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Time how all samples are kept, and joined, after each exit: (n_exits + 1,).

        Apart from the stages, which would find other things in the caches.
        """
        extractor: Any = way.extractor
        lap, spent = self.lap, np.zeros(len(self.heads))
        if len(batch) == 1:
            return spent
        halves = [
            self._rows(extractor, half)
            for half in (np.arange(0, len(batch), 2), np.arange(1, len(batch), 2))
        ]
        state = extractor.begin(batch)
        for stage in range(len(self.heads) - 1):
            state, _ = state_and_output(extractor, extractor.advance(state, stage))
            for _ in range(2):  # first into memory that is yet to be had
                lap()
                states = [extractor.keep(state, half) for half in halves]
                if has(extractor, "join"):
                    extractor.join(states)
                spent[stage] = lap()
        return spent

    def _rows(self, extractor: Extractor, rows: NDArray[np.intp]) -> Any:
        if not hasattr(extractor, "device"):
            return rows
        return torch.from_numpy(rows).to(device_of(extractor))


@dataclass(frozen=True)
class Race:
    """What samples take with exits, all exits closed, and as the network was given.

    Parameters
    ----------
    early, closed, plain : float
        Medians of interleaved rounds, in seconds per sample.
    """

    early: float
    closed: float
    plain: float


def race(
    extractor: Extractor,
    heads: Sequence[Head],
    thresholds: Sequence[Tensor | float | None],
    X: NDArray[Any],
    *,
    batch_size: int,
    at_once: int,
) -> Race:
    """Time exits on real samples, in turn with what does without them.

    Parameters
    ----------
    extractor : Extractor
        The network in stages.

    heads : sequence of Head
        One for each stage, on its device.

    thresholds : sequence of length n_exits
        As `LazyLoop` takes them.

    X : ndarray of shape (n_samples, ...)
        Samples; as many as time allows are run in each round.

    batch_size, at_once : int
        See `Seconds`.
    """
    watch = Stopwatch(extractor, heads, X, batch_size)
    way = Way(extractor, at_once)
    closed = [None] * len(thresholds)
    once = max(watch.plain(X[:batch_size]), 1e-6)
    n = min(len(X), batches_in_a_round(once) * batch_size)
    started = time.perf_counter()
    spent: list[list[float]] = []
    while len(spent) < _ROUNDS:
        is_late = time.perf_counter() - started > _MOST_SECONDS
        if is_late and len(spent) >= _FEWEST_ROUNDS:
            break
        X_now = watch.next_samples(n)
        starts = range(0, n, batch_size)
        spent.append(
            [
                watch.early(way, thresholds, X_now),
                watch.early(way, closed, X_now),
                sum(watch.plain(X_now[s : s + batch_size]) for s in starts),
            ]
        )
    return Race(*(np.median(spent[1:], axis=0) / n))


def batches_in_a_round(once: float, fewest: int = 1) -> int:
    """Return how many batches to time in a round, if one takes so many seconds."""
    # Of one batch alone nothing is joined.
    fewest = max(fewest, _FEWEST_BATCHES)
    return max(int(min(_ROUND / once, _MOST_BATCHES)), fewest)


def run_plain(extractor: Any, last: Head, batch: NDArray[Any]) -> NDArray[Any]:
    """Run the network as it was given, or all stages as one; return labels."""
    with torch.inference_mode():
        if has(extractor, "uncut"):
            output = _one_row_each(extractor, extractor.uncut(batch), len(batch))
            if not takes_arrays(last):
                return output.flatten(1).argmax(dim=1).cpu().numpy()
        else:
            begun = extractor.begin(batch)
            _, output = through(extractor)(begun, 0, len(extractor.stage_names) - 1)
        return last.proba(output).argmax(dim=1).cpu().numpy()


def _one_row_each(extractor: Any, output: Any, n_samples: int) -> Tensor:
    """Return what `uncut` returned as a tensor with at least two axes.

    Raises
    ------
    TypeError
        If it has no row for each sample.
    """
    is_array = isinstance(output, (Tensor, np.ndarray)) and output.ndim > 0
    if not is_array or len(output) != n_samples:
        shape = f" of shape {tuple(output.shape)}" if is_array else ""
        raise TypeError(
            f"{type(extractor).__name__}.uncut must return one row for each of "
            f"{n_samples} samples, got a {type(output).__name__}{shape}."
        )
    found = torch.as_tensor(output)
    return found[:, None] if found.dim() == 1 else found


def run_early(
    way: Way,
    heads: Sequence[Head],
    thresholds: Sequence[Tensor | float | None],
    X: NDArray[Any],
) -> NDArray[Any]:
    """Run the loop; return labels."""
    labels = np.empty(len(X), dtype=np.intp)
    loop = LazyLoop(way.extractor, heads, thresholds, X, way.at_once, halves=False)
    for made in loop.run():
        steps = StepsOnHost(made, every=False)
        for rows, label in zip(steps.rows, steps.of("label"), strict=True):
            labels[rows] = label
    return labels


def timer_resolution() -> float:
    """Return the least time, in seconds, that the timer can tell."""
    declared = time.get_clock_info("perf_counter").resolution
    started = now = time.perf_counter()
    for _ in range(10**5):
        now = time.perf_counter()
        if now > started:
            break
    return max(declared, now - started)
