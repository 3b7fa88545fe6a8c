"""What gives scores to features: class means, classifiers, combinations of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from .._multi_exit._logits import Logits
from .._utils._arrays import Features, Floats, to_tensor
from ._calibration import RULED_OUT, expected_logits
from ._means import Means

# Weights are found by how well they do on at most so many samples.
_MOST_WEIGHED = 20_000


def log_proba(scores: Floats) -> Floats:
    """Return log softmax(scores); of what has no probability at all, a small number.

    Samples to which no class has any, have the same of all.
    """
    nothing = np.isneginf(scores).all(axis=1, keepdims=True)
    found: Floats = log_softmax(np.where(nothing, 0.0, scores), axis=1)
    return np.where(np.isneginf(found), RULED_OUT, found)


class ClassifierScores:
    """Log probabilities of a fitted classifier.

    Parameters
    ----------
    logits : Logits
        From features to logits.
    """

    def __init__(self, logits: Logits) -> None:
        self.logits = logits

    @torch.inference_mode()
    def scores(self, features: Features) -> Floats:
        """Return the scores, shape (n_samples, n_classes)."""
        return log_proba(self.logits(to_tensor(features)).double().numpy())


class Combination:
    """A weighted sum of log probabilities.

    Parameters
    ----------
    parts : sequence of Means or ClassifierScores
        Whose probabilities, the softmax of their scores, are combined.

    weights : ndarray of shape (n_parts,)
        One for each.
    """

    def __init__(self, parts: Sequence[Any], weights: Floats) -> None:
        self.parts = parts
        self.weights = weights

    def scores(self, features: Features) -> Floats:
        """Return the scores, shape (n_samples, n_classes)."""
        found = [log_proba(part.scores(features)) for part in self.parts]
        return np.tensordot(self.weights, found, axes=1)


# What turns the features of one stage into a score for each class.
Scorer = Means | ClassifierScores | Combination


def combination_weights(
    scores: Sequence[Floats],
    codes: NDArray[np.intp],
    sample_weight: Floats,
    n_samples: float | None = None,
    counts: Floats | None = None,
) -> Floats:
    """Return the weights of log probabilities, none negative, with the least log loss.

    Parameters
    ----------
    scores : sequence of ndarray of shape (n_samples, n_classes)
        Log probabilities by each part, for samples that it has not seen.

    codes : ndarray of shape (n_samples,)
        Their classes. Targets are smooth, see `expected_logits`, which keeps weights
        finite.

    sample_weight : ndarray of shape (n_samples,)
        Their weights.

    n_samples : float, default=None
        How many there are; by default their weights add up to it.

    counts : ndarray of shape (n_classes,), default=None
        How many classes each column stands for, all with its probability; by default
        one.

    Returns
    -------
    ndarray of shape (n_parts,)
    """
    n_samples = n_samples or float(sample_weight.sum())
    step = -(-len(codes) // _MOST_WEIGHED)
    stacked = np.stack([part[::step] for part in scores])
    codes, weight = codes[::step], sample_weight[::step] / sample_weight[::step].sum()
    target = expected_logits(stacked, codes, n_samples, counts)
    log_counts = 0.0 if counts is None else np.log(counts)

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = np.tensordot(weights, stacked, axes=1) + log_counts
        log_total = logsumexp(logits, axis=1)
        proba = np.exp(logits - log_total[:, None])
        expected = np.einsum("nk,pnk->pn", proba, stacked)
        value = weight @ (log_total - weights @ target)
        return float(value), (expected - target) @ weight

    start = np.full(len(scores), 1.0 / len(scores))
    bounds = [(0.0, None)] * len(scores)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    # If nothing tells them apart, all count alike.
    return found if found.any() else start
