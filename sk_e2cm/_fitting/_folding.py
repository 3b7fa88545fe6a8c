"""Fitted means and their calibration, folded into few torch operations."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from .._multi_exit._heads import (
    DirichletLogits,
    DistanceLogits,
    LinearLogits,
    Logits,
    proba_of,
)
from .._utils._arrays import Features, Floats, to_tensor
from ._calibration import RULED_OUT, Calibration, Dirichlet
from ._means import LinearMeans, Means

# Samples on which a folded head is compared with what was fitted, and how much its
# probabilities may differ.
_COMPARED = 1024
_TOLERANCE = {torch.float32: 4e-6, torch.float64: 2e-11}


def fold(means: Means, calibration: Calibration, features: Features) -> Logits:
    """Return the logits of calibrated class means as a torch module.

    In the type of the features, and with the centre of the means in the bias, unless
    rounding shows: then on centred features or, if it still does, in double precision.

    Parameters
    ----------
    means, calibration
        Fitted in NumPy.

    features : ndarray of shape (n_samples, n_features)
        Some are tried.
    """
    some = features[:_COMPARED]
    exact = softmax(calibration(means.scores(some)), axis=1)
    given = to_tensor(some)
    for centred in (False, True):
        logits = _logits(means, calibration, given.dtype, centred=centred)
        with torch.inference_mode():
            found = proba_of(logits(given)).numpy()
        if (abs(found - exact) <= _TOLERANCE[given.dtype]).all():
            return logits
    return _logits(means, calibration, torch.float64, centred=True)


def _logits(
    means: Means, calibration: Calibration, dtype: torch.dtype, *, centred: bool
) -> Logits:
    def tensor(values: Floats) -> Tensor:
        return torch.tensor(values, dtype=dtype)

    sharpness = calibration.inverse_temperature
    logits: Logits
    if isinstance(means, LinearMeans):
        centre = tensor(means.centre) if centred else None
        moved = 0.0 if centred else means.centre @ means.coef
        logits = LinearLogits(
            tensor(sharpness * means.coef.T),
            tensor(sharpness * (means.intercept - moved)),
            centre,
        )
    else:
        logits = DistanceLogits(tensor(means.means), tensor(sharpness / means.scale))
    if isinstance(calibration, Dirichlet):
        n_classes = len(calibration.intercept)
        weight = tensor((np.eye(n_classes) + calibration.coef).T)
        bias = tensor(calibration.intercept)
        logits = DirichletLogits(logits, weight, bias, least=RULED_OUT)
    return logits
