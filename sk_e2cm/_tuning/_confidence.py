"""Upper confidence bounds of what early exits lose against the full network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

from .._multi_exit._thresholds import is_closed
from .._utils._arrays import Floats
from ._held_out import HeldOutPredictions
from ._problem import ThresholdProblem
from ._search import Points, concatenate, evaluate

# Share of the samples held out that thresholds are tested on, and not found on.
TEST_SIZE = 0.5

# Candidates that are tested.
_MOST_TESTED = 200

# The part of those leaving at an exit that may still leave, with more caution.
_SHARES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.03])

# Probability that is left out of sums.
_NEGLIGIBLE = 1e-12


def check_confidence(
    max_drop: float | None, risk: Any, scoring: Any, sample_weight: Any
) -> None:
    """Refuse what confidence cannot be had in.

    Raises
    ------
    ValueError
        If there is no drop to be bound, if it is no share of samples, or if `risk`
        is given, too.
    """
    if max_drop is None:
        raise ValueError(
            "confidence= bounds the drop, and needs max_drop=, in place of max_cost=."
        )
    if risk is not None:
        raise ValueError(
            "Give only one of confidence= and risk=: each sets samples aside for a "
            "promise of its own."
        )
    if scoring != "accuracy":
        raise ValueError(
            "confidence= counts samples that are answered right, and takes "
            f"scoring='accuracy' only; got {scoring!r}."
        )
    if sample_weight is not None:
        raise ValueError(
            "confidence= counts samples that count alike, and does not take "
            "sample_weight."
        )


def with_cautious(problem: ThresholdProblem, points: Points) -> Points:
    """Insert thresholds between the most accurate ones and the full network.

    What is most accurate on few samples may well fail the test. Of those that leave at
    an exit only the most confident part may leave there now, a smaller one each time.

    Parameters
    ----------
    problem : ThresholdProblem
        For which the points were found.

    points : Points
        The cheapest first; the last is the full network.
    """
    *others, accurate, full = range(len(points.loss))
    thresholds = points.thresholds[accurate]
    stage = problem.exits(thresholds)
    cautious = np.full((len(_SHARES), *thresholds.shape), np.inf)
    for exit_, group in np.argwhere(thresholds < np.inf).tolist():
        leave = (stage == exit_) & (problem.group[exit_] == group)
        if leave.any():
            confidence = problem.confidence[exit_, leave]
            cautious[:, exit_, group] = np.quantile(confidence, 1 - _SHARES)
    return concatenate(
        points.take(np.array([*others, accurate])),
        evaluate(problem, cautious),
        points.take(np.array([full])),
    )


@dataclass(frozen=True)
class DropTest:
    """Tests whether thresholds lose little, on samples that they were not found on.

    Parameters
    ----------
    held_out : HeldOutPredictions
        For the samples that were set aside.

    max_drop, confidence : float
        As in `TunedExitsCV`.
    """

    held_out: HeldOutPredictions
    max_drop: float
    confidence: float

    def passed(self, points: Points) -> Points:
        """Return the points that pass, from the full network, the last, on.

        They are tested one after the other up to the first that fails. As their order
        does not depend on the samples tested, this needs no correction for their number
        (fixed sequence testing, as in Learn then Test).
        """
        spread = points.spread(_MOST_TESTED)
        full = first = len(spread.loss) - 1
        for each in reversed(range(full)):
            counts = self.count(spread.thresholds[each])
            if p_value(*counts, self.max_drop) > 1 - self.confidence:
                break
            first = each
        return spread.take(np.arange(first, full + 1))

    @property
    def is_hopeless(self) -> bool:
        """Whether so few samples would not do even if none were spoilt."""
        n_samples = len(self.held_out.codes)
        return p_value(0, 0, n_samples, self.max_drop) > 1 - self.confidence

    def upper(self, thresholds: Floats) -> float:
        """Return the upper bound of the drop with thresholds that are given."""
        if is_closed(thresholds).all():
            return 0.0
        return upper_bound(*self.count(thresholds), self.confidence)

    def count(self, thresholds: Floats) -> tuple[int, int, int]:
        """Count samples: which early exits spoil, which they put right, and all."""
        right = self.held_out.predictions.label == self.held_out.codes
        problem = self.held_out.problem(right, thresholds.shape[1])
        stage = problem.exits(thresholds)
        early, full = right[stage, np.arange(len(stage))], right[-1]
        return int((full & ~early).sum()), int((early & ~full).sum()), len(full)


def upper_bound(lost: int, gained: int, n_samples: int, confidence: float) -> float:
    """Return the upper confidence bound of the drop: the largest one not ruled out.

    Parameters
    ----------
    lost, gained : int
        Number of samples that only the full network, and only early exits, have right.

    n_samples : int
        Number of all samples.

    confidence : float
        As in `TunedExitsCV`.
    """

    def excess(drop: float) -> float:
        return p_value(lost, gained, n_samples, drop) - (1 - confidence)

    measured = (lost - gained) / n_samples
    if excess(measured) <= 0 or excess(1.0) > 0:
        return measured
    bound: float = brentq(excess, measured, 1.0)
    return bound


def p_value(lost: int, gained: int, n_samples: int, drop: float) -> float:
    """Return how likely so small a loss is where the true drop is `drop`.

    A sample is lost, gained, or neither. The probabilities of these are the most likely
    ones with this drop, by Tango [1]_; with them, that of so many lost less gained, or
    fewer, is exact. Without gains it is that of the binomial test.

    References
    ----------
    .. [1] T. Tango, "Equivalence test and confidence interval for the difference in
       proportions for the paired-sample design", Statistics in Medicine 17, 1998.
    """
    # The larger root of the likelihood's derivative: the probability of a gain.
    linear = lost + gained + drop * (lost - gained - 2 * n_samples)
    square = linear**2 + 8 * n_samples * gained * drop * (1 - drop)
    gain = max(linear + np.sqrt(max(square, 0.0)), 0.0) / (4 * n_samples)
    loss = min(max(gain + drop, 0.0), 1.0)
    fewest, most = binom.interval(1 - _NEGLIGIBLE, n_samples, gain)
    gains = np.arange(fewest, most + 1)
    at_most = lost - gained + gains
    of_others = min(loss / (1 - gain), 1.0) if gain < 1 else 0.0
    below = binom.cdf(at_most, n_samples - gains, of_others)
    return float(binom.pmf(gains, n_samples, gain) @ below)
