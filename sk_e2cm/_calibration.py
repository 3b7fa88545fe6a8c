"""Temperature calibration: from scores to probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax

# The range of the inverse temperature. The paper's own scale is 1.
_SOFTEST, _SHARPEST = 1e-3, 1e4


def fit_inverse_temperature(
    logits: NDArray[np.float64],
    codes: NDArray[np.intp],
    sample_weight: NDArray[np.float64],
    n_samples: float | None = None,
) -> float:
    """Return the beta with the least log loss of softmax(beta * logits).

    Each class is given one sample's worth of the targets beforehand, which keeps
    beta finite where the classes are separable (Platt, 1999, section 2.2).
    `n_samples` says how many samples there are; by default their weights add up
    to it.
    """
    n_classes = logits.shape[1]
    logits = logits - logits.max(axis=1, keepdims=True)
    weight = sample_weight / sample_weight.sum()
    smooth = 1.0 / ((n_samples or sample_weight.sum()) + n_classes)
    own = logits[np.arange(len(logits)), codes]
    target = (1.0 - n_classes * smooth) * own + smooth * logits.sum(axis=1)
    wanted = weight @ target

    def slope(log_beta: float) -> float:
        """Return the derivative of the loss, which is convex in beta."""
        given = softmax(np.exp(log_beta) * logits, axis=1)
        return float(weight @ np.einsum("nk,nk->n", given, logits) - wanted)

    low, high = np.log(_SOFTEST), np.log(_SHARPEST)
    if slope(low) >= 0:
        return _SOFTEST
    if slope(high) <= 0:
        return _SHARPEST
    return float(np.exp(brentq(slope, low, high, xtol=1e-13)))
