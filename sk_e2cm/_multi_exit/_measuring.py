"""How stages and exits are measured in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._extractors import Extractor, device_of, layouts_of
from .._utils._arrays import Floats, SampleRows
from .._utils._memory import halving
from .._utils._warnings import warn
from ._heads import Head
from ._seconds import Seconds
from ._stopwatch import EVERYBODY, NOBODY, Stopwatch, Way, timer_resolution

# Rounds that medians are taken of, where they agree; where the time is up; at most.
_ROUNDS, _FEWEST_ROUNDS, _MOST_ROUNDS = 7, 3, 200
# Relative, of the total.
_SMALL_SPREAD = 0.05
# In seconds, and as a share of the time of the fit.
_MOST_SECONDS, _SHARE_OF_FIT = 30.0, 0.1
# A round lasts at least so many seconds, if a batch is quicker.
_SHORTEST_ROUND = 0.1
# No fewer samples are tried at once, and so many numbers of them.
_FEWEST_AT_ONCE, _MOST_SIZES = 32, 3
# Another way of running must be quicker by this factor.
_CLEARLY = 0.97


def measure_seconds(
    extractor: Extractor,
    heads: Sequence[Head],
    X: SampleRows,
    batch_size: int,
    *,
    since: float | None = None,
) -> tuple[Seconds, Extractor]:
    """Measure what stages and heads take; return the quickest extractor, too.

    All is timed in turn, in rounds, after a warm-up.

    Parameters
    ----------
    extractor : Extractor
        The network in stages.

    heads : sequence of Head
        One for each stage, on its device.

    X : ndarray or SomeRows, of shape (n_samples, ...)
        Real samples.

    batch_size : int
        Samples per batch; where there are fewer, all of them are one.

    since : float, default=None
        When the fit began, by ``time.perf_counter()``: a tenth of its time may be
        used, or 30 seconds if that is longer.

    Returns
    -------
    seconds : Seconds
        The table.

    extractor : Extractor
        The same in the memory format that is quickest.

    Raises
    ------
    ValueError
        If the timer is too coarse for a whole batch.

    Warns
    -----
    UserWarning
        If the timer is too coarse for single stages.
    """
    now = time.perf_counter()
    allowed = max(
        _MOST_SECONDS, _SHARE_OF_FIT * (now - (now if since is None else since))
    )

    def measure(size: int) -> tuple[Seconds, Extractor]:
        watch = Stopwatch(extractor, heads, X, size)
        way = _quickest(watch, now + allowed / 3)
        measured = _measure(watch, way, now + allowed)
        # A batch of whichever size unless fewer are quicker, or all that there is room
        # for.
        at_once = batch_size if way.at_once == whole else way.at_once
        return replace(measured, batch_size=batch_size, at_once=at_once), way.extractor

    whole = min(batch_size, len(X))
    return halving(measure, whole, device_of(extractor))


def _quickest(watch: Stopwatch, deadline: float) -> Way:
    """Choose the memory format, and how many samples to run at once."""
    sizes = [watch.batch_size]
    while sizes[-1] >= 2 * _FEWEST_AT_ONCE and len(sizes) < _MOST_SIZES:
        sizes.append(sizes[-1] // 2)
    asking = [NOBODY] * (len(watch.heads) - 1)
    ways: list[Way] = []
    for extractor in layouts_of(watch.extractor):
        found = [Way(extractor, size) for size in sizes]
        try:
            for way in found:
                watch.early(way, asking, watch.next_batch())
        except (ValueError, RuntimeError):
            # Some networks look at memory as if it had the format they were given in.
            if extractor is watch.extractor:
                raise
        else:
            ways += found
    if len(ways) == 1:
        return ways[0]
    spent: list[list[float]] = []
    while len(spent) < _ROUNDS:
        if len(spent) >= _FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
        batch = watch.next_batch()
        spent.append([watch.early(way, asking, batch) for way in ways])
    taken = np.median(spent, axis=0)
    # As good as the best: in the format given if it is, and small, which also takes
    # less memory.
    good = [w for w, t in zip(ways, taken, strict=True) if t * _CLEARLY <= taken.min()]
    of_format = [way for way in good if way.extractor is good[0].extractor]
    return of_format[-1]


@dataclass(frozen=True)
class _Rounds:
    """Seconds per sample in each round.

    Parameters
    ----------
    plain, first, closed, open : ndarray of shape (n_rounds,)
        Of the network as given; of the loop if all leave at the first exit, with all
        exits closed, and with all open and nobody leaving.

    pieces : ndarray of shape (n_rounds, 4, n_exits + 1)
        Of each stage, of each head, of each pooling, and of going on after it.
    """

    plain: Floats
    first: Floats
    closed: Floats
    open: Floats
    pieces: Floats


def _measure(watch: Stopwatch, way: Way, deadline: float) -> Seconds:
    resolution = timer_resolution()
    rounds = _take_rounds(watch, way, deadline, resolution)
    plain = np.median(rounds.plain) * watch.batch_size
    if plain <= 0:
        raise ValueError(
            f"The timer of this machine is too coarse ({resolution:.2g} s) to measure "
            "the network in seconds. Use cost_unit='macs', or a larger batch_size."
        )
    if resolution > plain / len(watch.heads):
        warn(
            f"The timer of this machine is coarse, {resolution:.2g} s: what single "
            "stages take is uncertain. Use a larger batch_size, or cost_unit='macs'."
        )
    return _table(watch, way, rounds)


def _take_rounds(
    watch: Stopwatch, way: Way, deadline: float, resolution: float
) -> _Rounds:
    """Time all in turn, until the total is steady or the time is up."""
    n_exits = len(watch.heads) - 1
    measures: list[Callable[[NDArray[Any]], float]] = [
        watch.plain,
        partial(watch.early, way, [EVERYBODY] * n_exits),
        partial(watch.early, way, [None] * n_exits),
        partial(watch.early, way, [NOBODY] * n_exits),
    ]
    for measure in measures:  # a warm-up
        measure(watch.next_batch())
    once = sum(measure(watch.next_batch()) for measure in measures)
    shortest = max(_SHORTEST_ROUND, 20 * resolution)
    repeats = int(np.clip(np.ceil(shortest / max(once, resolution)), 1, 1000))
    totals: list[list[float]] = []
    pieces: list[Floats] = []
    while len(totals) < _MOST_ROUNDS:
        if len(totals) >= _FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
        if len(totals) >= _ROUNDS and _is_steady(totals):
            break
        batches = [watch.next_batch() for _ in range(repeats)]
        # One after the other, as when many are predicted: the caches know it by then.
        of_round = [np.mean([measure(b) for b in batches]) for measure in measures]
        totals.append([float(each) / watch.batch_size for each in of_round])
        firsts = [batch[: way.at_once] for batch in batches]
        of_pieces = np.mean([watch.pieces(way, first) for first in firsts], axis=0)
        copying = np.mean([watch.going_on(way, first) for first in firsts], axis=0)
        pieces.append(np.array([*of_pieces, copying]) / way.at_once)
    plain, first, closed, opened = np.array(totals).T
    return _Rounds(plain, first, closed, opened, np.array(pieces))


def _is_steady(totals: list[list[float]]) -> bool:
    total = np.sum(totals, axis=1)
    return bool(half_spread(total) <= _SMALL_SPREAD * np.median(total))


def _table(watch: Stopwatch, way: Way, rounds: _Rounds) -> Seconds:
    """Split what the loop takes as a whole among stages and heads.

    What single pieces take, timed one by one, tells only their shares: the clock itself
    takes time, and the loop has work of its own.
    """
    stages, heads, poolings, going_on = np.median(rounds.pieces, axis=0)
    heads[-1], poolings[-1] = heads[-1] + poolings[-1], 0.0
    closed = float(np.median(rounds.closed))
    of_exits = np.median(rounds.open - rounds.closed)
    of_head = _share(of_exits, heads[:-1].sum() + poolings.sum())
    heads[:-1] *= of_head
    poolings *= of_head
    after_first = stages[1:].sum() + heads[-1]
    if len(stages) > 1:
        # What the loop does once for each batch is paid for by all.
        first = float(np.median(rounds.first)) - heads[0] - poolings[0]
        stages[0] = min(max(first, stages[0]), closed)
        scale = _share(closed - stages[0], after_first)
        stages[1:], heads[-1] = scale * stages[1:], scale * heads[-1]
    else:
        scale = _share(closed, stages[0] + heads[0])
        stages, heads = scale * stages, scale * heads
    own_spread = half_spread(rounds.pieces[:, 0])
    head_spread = half_spread(rounds.pieces[:, 1:3].sum(axis=1))
    return Seconds(
        stage_names=tuple(watch.extractor.stage_names),
        stages=stages,
        heads=heads,
        poolings=poolings,
        carried=tuple(head.carried for head in watch.heads),
        going_on=going_on,
        plain=float(np.median(rounds.plain)),
        whole=closed,
        stage_spread=scale * own_spread,
        head_spread=of_head * head_spread,
        plain_spread=float(half_spread(rounds.plain)),
        whole_spread=float(half_spread(rounds.closed)),
        batch_size=watch.batch_size,
        at_once=way.at_once,
        n_rounds=len(rounds.plain),
        device=str(device_of(watch.extractor)),
        n_threads=torch.get_num_threads(),
    )


def _share(whole: float, parts: float) -> float:
    """Return what parts are multiplied with to be so much together."""
    return max(whole, 0.0) / parts if parts > 0 else 0.0


def half_spread(rounds: Floats) -> Any:
    """Return half the distance between the quartiles, along the first axis."""
    low, high = np.quantile(rounds, [0.25, 0.75], axis=0)
    return (high - low) / 2
