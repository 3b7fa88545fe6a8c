"""Predictions with early exits timed against the plain network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from .._early_exit import EarlyExitMixin
from .._extractors import Extractor, device_of
from .._extractors._torch import frozen_copy
from .._multi_exit._stopwatch import Lap, batches_in_a_round, run_plain
from .._utils._arrays import convert, to_tensor

# All rounds together have so many samples at least.
_FEWEST_SAMPLES = 64
# No time is shorter, in seconds, whatever the timer says.
_SHORTEST = 1e-7
# A gain or a loss is so large at least, and by a sign test no luck in 19 cases of 20.
_CLEARLY, _LUCK = 0.03, 0.05


@dataclass(frozen=True, kw_only=True)
class TimeRatio:
    """What predictions take with early exits, and what the plain network takes.

    Parameters
    ----------
    at_once : int
        Samples in a batch of the plain network, and in a call of ``predict`` if
        `n_batches` is 1.

    n_batches : int
        So many batches each call of ``predict`` gets: 1 but for the last line of a
        report, where one call predicts all samples of a round.

    plain, early : float
        Medians of the rounds, in seconds per sample.

    ratio, low, high : float
        Median and quartiles, over the rounds, of `early` divided by `plain`.

    n_quicker, n_rounds : int
        In how many of the rounds early exits were quicker.
    """

    at_once: int
    n_batches: int
    plain: float
    early: float
    ratio: float
    low: float
    high: float
    n_quicker: int
    n_rounds: int

    @property
    def pays(self) -> bool | None:
        """Whether early exits are quicker; None if that cannot be told from noise."""
        for is_quicker, n in (
            (True, self.n_rounds - self.n_quicker),
            (False, self.n_quicker),
        ):
            gain = 1 - self.ratio if is_quicker else self.ratio - 1
            if gain > _CLEARLY and binom.cdf(n, self.n_rounds, 0.5) <= _LUCK:
                return is_quicker
        return None

    @property
    def is_short(self) -> bool:
        """Whether there were too few rounds to tell anything from noise."""
        return bool(binom.cdf(0, self.n_rounds, 0.5) > _LUCK)

    def __str__(self) -> str:
        """Return how samples are predicted, in words."""
        if self.n_batches > 1:
            return f"{self.at_once * self.n_batches} samples in one call"
        if self.at_once == 1:
            return "one sample at a time"
        return f"batches of {self.at_once}"


class PredictionRace:
    """Times ``predict`` against the plain network, in turn, on the same samples.

    Parameters
    ----------
    estimator : EarlyExitMixin
        Fitted.

    network : Module, callable or None
        See `report`.

    X : ndarray of shape (n_samples, ...)
        Samples, in an order that says nothing of them.

    n_rounds : int
        Rounds that the medians are taken of.
    """

    def __init__(
        self, estimator: EarlyExitMixin, network: Any, X: NDArray[Any], n_rounds: int
    ) -> None:
        self._estimator = estimator
        self.plain = plain_network(network, estimator)
        self._lap = Lap(device_of(estimator.network_.to(estimator.device).extractor))
        self._X = X
        self._n_rounds = n_rounds

    def run(self, size: int, *, in_one_call: bool = False) -> TimeRatio:
        """Time batches of one size, each alone or all in one call of ``predict``."""
        fewest = -(-2 * self._estimator.batch_size // size) if in_one_call else 1
        n_batches = min(self._n_batches(size, fewest), len(self._X) // size)
        n = n_batches * size
        spent = np.empty((self._n_rounds + 1, 2))
        for i in range(len(spent)):  # the first warms up
            # Other samples in each round, from the first again after the last.
            samples = self._X[np.arange(i * n, (i + 1) * n) % len(self._X)]
            batches = np.split(samples, n_batches)
            turns = [
                (self._estimator.predict, [samples] if in_one_call else batches),
                (self.plain, batches),
            ]
            # In turn, since the second finds the samples in the caches.
            for which in (i % 2, 1 - i % 2):
                spent[i, which] = self._seconds(*turns[which])
        early, plain = spent[1:].T / n
        low, ratio, high = np.quantile(early / plain, [0.25, 0.5, 0.75])
        return TimeRatio(
            at_once=size,
            n_batches=n_batches if in_one_call else 1,
            plain=float(np.median(plain)),
            early=float(np.median(early)),
            ratio=float(ratio),
            low=float(low),
            high=float(high),
            n_quicker=int((early < plain).sum()),
            n_rounds=self._n_rounds,
        )

    def _n_batches(self, size: int, fewest: int) -> int:
        """Return how many batches a round has."""
        batch = [self._X[:size]]
        self._seconds(self.plain, batch)
        of_all = -(-_FEWEST_SAMPLES // (self._n_rounds * size))
        once = self._seconds(self.plain, batch)
        return batches_in_a_round(once, max(fewest, of_all))

    def _seconds(
        self, run: Callable[[NDArray[Any]], Any], batches: Sequence[NDArray[Any]]
    ) -> float:
        self._lap()
        for batch in batches:
            run(batch)
        return max(self._lap(), _SHORTEST)


def plain_network(
    network: Any, estimator: EarlyExitMixin
) -> Callable[[NDArray[Any]], Any]:
    """Return what runs the plain network on a batch, where the estimator predicts.

    Raises
    ------
    TypeError
        If `network` is no module and cannot be called.
    """
    own = estimator.network_.to(estimator.device)
    if network is None:
        return partial(run_plain, own.extractor, own.heads[-1])
    if not isinstance(network, nn.Module):
        if not callable(network):
            raise TypeError(
                "network must be the module that the extractor was made of, or a "
                f"function of an array of samples, got {network!r:.60}."
            )
        return partial(network)
    return _as_function(network, own.extractor)


def _as_function(
    network: nn.Module, extractor: Extractor
) -> Callable[[NDArray[Any]], Any]:
    """Return a function of arrays that runs a copy in eval mode, and waits for it."""
    device = device_of(extractor)
    frozen = frozen_copy(network, device)
    dtype = getattr(extractor, "input_dtype", torch.float32)
    if dtype.is_floating_point:  # no token ids
        floats = (p.dtype for p in frozen.parameters() if p.is_floating_point())
        dtype = next(floats, dtype)

    def run(batch: NDArray[Any]) -> Any:
        samples = to_tensor(batch)
        if samples.dtype != dtype:
            samples = convert(samples, device, dtype)
        with torch.inference_mode():
            found = frozen(samples.to(device))
        return found.cpu() if isinstance(found, Tensor) else found

    return run
