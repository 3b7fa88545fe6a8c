"""What gives scores to features: class means, classifiers, combinations of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from scipy.special import log_softmax

from .._multi_exit._heads import Logits
from .._utils._arrays import Features, Floats, to_tensor
from ._calibration import RULED_OUT


class Scorer(Protocol):
    """Turns the features of one stage into a score for each class."""

    def scores(self, features: Features) -> Floats:
        """Return scores of shape (n_samples, n_classes), the larger the likelier."""


def log_proba(scores: Floats) -> Floats:
    """Return log softmax(scores); of what has no probability at all, a small number."""
    found: Floats = log_softmax(scores, axis=1)
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
