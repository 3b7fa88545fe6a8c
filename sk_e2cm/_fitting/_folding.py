"""Fitted heads and their calibration, folded into few torch operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from .._multi_exit._heads import FoldedHead, Head
from .._multi_exit._logits import (
    DirichletLogits,
    DistanceLogits,
    LinearLogits,
    Logits,
    WeightedLogits,
)
from .._multi_exit._pooling import GridAverage
from .._utils._arrays import Features, Floats, to_tensor
from ._calibration import RULED_OUT, Calibration, Dirichlet, Temperature
from ._kept import SampleFeatures
from ._means import LinearMeans, Means
from ._scores import ClassifierScores, Combination, Scorer

# Samples on which a folded head is compared with what was fitted, and how much its
# logits may differ. Probabilities of samples of the fit would not tell: they may all be
# 0 or 1.
_COMPARED = 1024
_TOLERANCE = {torch.float32: 2.5e-5, torch.float64: 5e-11}

# Averages are folded into the weights after them where the map has so few positions for
# each cell. Measured on two cores, microseconds for 32 maps in channels-last format:
# 29 in place of 88 for 64 x 7 x 7 maps, but 98 in place of 53 for 16 x 28 x 28.
_MOST_POSITIONS_FOLDED = 4

# Averages are not folded if rounding at its worst would move logits by more than this,
# a hundred times what `fold` allows.
_MOST_MOVED = {dtype: 100 * allowed for dtype, allowed in _TOLERANCE.items()}

# Weights of all positions, in numbers and in shares of the network's multiply-adds.
_MOST_WEIGHTS = 2_000_000
_MOST_OF_NETWORK = 0.01


def fold(scorer: Scorer, calibration: Calibration, features: SampleFeatures) -> Logits:
    """Return the calibrated logits of what gives scores as a torch module.

    Parameters
    ----------
    scorer, calibration
        Fitted in NumPy.

    features : ndarray or JoinedFeatures, of shape (n_samples, n_features)
        Some are tried.
    """
    beta = calibration.inverse_temperature
    dtype = to_tensor(features[:0]).dtype
    if isinstance(scorer, ClassifierScores):
        if isinstance(scorer.logits, LinearLogits):
            linear = scorer.logits.sharpened(beta)
            return _with_regression(linear, calibration, dtype)
        return _weighted([scorer.logits], np.array([beta]), calibration, dtype)
    if isinstance(scorer, Combination):
        parts = [
            part.logits
            if isinstance(part, ClassifierScores)
            else fold_means(part, Temperature(), features)
            for part in scorer.parts
        ]
        return _weighted(parts, beta * scorer.weights, calibration, dtype)
    return fold_means(scorer, calibration, features)


def _weighted(
    parts: Sequence[Logits],
    weights: Floats,
    calibration: Calibration,
    dtype: torch.dtype,
) -> Logits:
    linear = [part for part in parts if isinstance(part, LinearLogits)]
    logits: Logits
    if len(linear) == len(parts):
        logits = _sum_of(linear, weights)
    else:
        logits = WeightedLogits(parts, torch.tensor(weights, dtype=dtype), RULED_OUT)
    return _with_regression(logits, calibration, dtype)


def _sum_of(parts: Sequence[LinearLogits], weights: Floats) -> LinearLogits:
    """Return a weighted sum as one layer.

    It is also that of the log probabilities, but for what all classes share.
    """
    dtype = reduce(torch.promote_types, (part.weight.dtype for part in parts))
    centres = [part.centre.double() for part in parts if part.is_centred]
    centre = centres[0] if centres else torch.zeros(1, dtype=torch.float64)
    weight, bias = torch.zeros(2, 1, dtype=torch.float64)
    for part, factor in zip(parts, weights, strict=True):
        of_part = part.weight.double()
        moved = centre - (part.centre.double() if part.is_centred else 0.0)
        weight = weight + factor * of_part
        bias = bias + factor * (part.bias.double() + (of_part * moved).sum(dim=1))
    return LinearLogits(
        weight.to(dtype), bias.to(dtype), centre.to(dtype) if centres else None
    )


def fold_means(
    means: Means, calibration: Calibration, features: SampleFeatures
) -> Logits:
    """Return the logits of calibrated class means as a torch module.

    In the type of the features, and with the centre of the means in the bias, unless
    rounding shows: then on centred features or, if it still does, in double precision.
    The parameters are those of `fold`.
    """
    # From all over the data, which may be sorted by class.
    some = features[:: max(-(-len(features) // _COMPARED), 1)]
    exact = _less_mean(calibration(means.scores(some)))
    dtype = to_tensor(some).dtype
    for centred in (False, True) if len(some) else ():
        logits = _logits(means, calibration, dtype, centred=centred)
        # Numbers may be too large for single precision.
        with torch.inference_mode(), np.errstate(invalid="ignore"):
            found = _less_mean(logits(to_tensor(some)).double().numpy())
        if (abs(found - exact) <= _TOLERANCE[dtype]).all():
            return logits
    return _logits(means, calibration, torch.float64, centred=True)


def _less_mean(logits: Floats) -> Floats:
    """Return what decides: logits may differ by what all classes share."""
    return logits - logits.mean(axis=1, keepdims=True)


@torch.inference_mode()
def predict_proba(logits: Logits, features: Features) -> Floats:
    """Return the probabilities of features, (n_samples, n_classes)."""
    return logits.to_proba(logits(to_tensor(features))).numpy()


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
    return _with_regression(logits, calibration, dtype)


def _with_regression(
    logits: Logits, calibration: Calibration, dtype: torch.dtype
) -> Logits:
    """Add what a Dirichlet calibration does after its temperature."""
    if not isinstance(calibration, Dirichlet):
        return logits
    weight = (np.eye(len(calibration.intercept)) + calibration.coef).T
    return DirichletLogits(
        logits,
        torch.tensor(weight, dtype=dtype),
        torch.tensor(calibration.intercept, dtype=dtype),
        least=RULED_OUT,
    )


def fold_average(
    head: Head, network_macs: float, rounding: Floats | float = 0.0
) -> Head:
    """Fold an average over a map into the linear layer after it, where that is quicker.

    That is so for small maps, and it is done as long as the weights of all positions
    are few, and as no more digits are lost than `fold` allows.

    Parameters
    ----------
    head : Head
        Left as it is unless it averages, and is linear.

    network_macs : float
        Multiply-adds of the network.

    rounding : ndarray of shape (n_features,) or float, default=0.0
        How far rounding may move the averages.
    """
    pooling, logits = head.pooling, head.logits
    if not isinstance(pooling, GridAverage) or not isinstance(logits, LinearLogits):
        return head
    n_positions, n_cells = pooling.cells.n_positions, pooling.cells.number
    n_weights = logits.macs // n_cells * n_positions
    is_small = n_positions <= _MOST_POSITIONS_FOLDED * n_cells
    is_cheap = n_weights < min(_MOST_WEIGHTS, _MOST_OF_NETWORK * network_macs)
    if logits.is_centred or not (is_small and is_cheap):
        return head
    if _moved(logits, rounding) > _MOST_MOVED[logits.weight.dtype]:
        return head
    return FoldedHead(
        pooling, logits, stage_name=head.stage_name, n_features=head.n_features
    )


def _moved(logits: LinearLogits, rounding: Floats | float) -> float:
    """Return how far rounding may move logits, at the most.

    Where large values of a map cancel, each way to add them up ends elsewhere.
    """
    weight = _less_mean(logits.weight.double().numpy().T)
    moved = np.reshape(rounding, (-1, 1)) * weight
    return float(np.sqrt((moved**2).sum(axis=0)).max())
