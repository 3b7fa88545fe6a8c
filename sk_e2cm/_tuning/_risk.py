"""Risk control for early exits, by Learn then Test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from .._utils._arrays import Floats
from ._held_out import HeldOutPredictions
from ._search import Points, evaluate

# Candidates that a promise is tested for.
_MOST_TESTED = 200


@dataclass(frozen=True)
class RiskControl:
    """A promise about what early exits may spoil.

    With probability ``1 - delta`` over the calibration data, the share of new samples
    that the full network answers right and the early exit wrong is at most `alpha`.
    New samples must come from where the calibration data came from.

    Parameters
    ----------
    alpha : float
        The share, between 0 and 1.

    delta : float, default=0.1
        Probability that the promise is broken, between 0 and 1.

    calibration_size : float, default=0.5
        Share of the samples held out that is set aside for the promise, and that
        nothing else sees. About ``log(1 / delta) / alpha`` of them are needed at
        the very least.

    References
    ----------
    .. [1] A. N. Angelopoulos et al., "Learn then Test: Calibrating Predictive
       Algorithms to Achieve Risk Control", 2021, arXiv 2110.01052.
    .. [2] M. Jazbec et al., "Fast yet Safe: Early-Exiting with Risk Control",
       NeurIPS 2024, arXiv 2405.20915.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_e2cm import E2CMClassifier, RiskControl, TunedExitsCV
    >>> from sk_e2cm.testing import ToyExtractor
    >>> X, y = load_digits(return_X_y=True)
    >>> promise = RiskControl(alpha=0.05, delta=0.1)
    >>> search = TunedExitsCV(
    ...     E2CMClassifier(ToyExtractor()), max_drop=0.05, risk=promise, random_state=0)
    >>> search.fit(X, y).best_cost_ <= 1.01
    True
    """

    alpha: float
    delta: float = 0.1
    calibration_size: float = 0.5

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name in ("alpha", "delta", "calibration_size"):
            value = getattr(self, name)
            if not (isinstance(value, (float, np.floating)) and 0 < value < 1):
                raise ValueError(f"{name} must lie between 0 and 1, got {value!r}.")

    def n_promised(self, risks: Floats, n_samples: int) -> int:
        """Return for how many candidates, from the first on, the promise holds.

        Parameters
        ----------
        risks : ndarray of shape (n_candidates,)
            Share of the calibration samples that each candidate spoils. The order of
            the candidates must not depend on these samples: they are tested one after
            the other up to the first that fails, which needs no correction for their
            number.

        n_samples : int
            Number of calibration samples.

        Returns
        -------
        int
            From 0 to n_candidates.
        """
        passed = p_value(risks, n_samples, self.alpha) <= self.delta
        return int(np.logical_and.accumulate(passed).sum())


def p_value(risk: Floats, n_samples: int, alpha: float) -> Floats:
    """Return the Hoeffding-Bentkus p-values of "the true risk exceeds alpha".

    Proposition 3 of Learn then Test, for a mean risk of losses between 0 and 1.
    """
    below = np.minimum(risk, alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(below > 0, below * np.log(below / alpha), 0.0)
    divergence = first + (1 - below) * np.log((1 - below) / (1 - alpha))
    hoeffding = np.exp(-n_samples * divergence)
    # Rounding must not lift a count to the next.
    count = np.ceil(n_samples * risk - 1e-9)
    bentkus = np.e * binom.cdf(count, n_samples, alpha)
    return np.minimum(np.minimum(hoeffding, bentkus), 1.0)


def promised(
    risk: RiskControl, points: Points, calibration: HeldOutPredictions
) -> Points:
    """Return the points for which the promise can be given, the cheapest first."""
    # From the full network on, for which it always holds.
    spread = points.spread(_MOST_TESTED)
    tested = spread.take(np.arange(len(spread.loss))[::-1])
    n_groups = tested.thresholds.shape[2]
    spoilt = calibration.problem(calibration.spoilt(), n_groups)
    risks = evaluate(spoilt, tested.thresholds).loss
    n_promised = risk.n_promised(risks, len(calibration.codes))
    return tested.take(np.arange(max(n_promised, 1))[::-1])
