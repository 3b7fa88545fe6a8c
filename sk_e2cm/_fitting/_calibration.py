"""Calibration: from scores to probabilities."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax

from .._utils._arrays import Floats, matmul

# The range of the inverse temperature. The paper's own scale is 1.
_SOFTEST, _SHARPEST = 1e-3, 1e4

# Log probabilities below this say no more than that a class is ruled out.
RULED_OUT = -30.0

# Weight of the prior that a temperature is enough, in samples.
_PRIOR = 3.0


class Calibration(Protocol):
    """Turns scores into logits."""

    inverse_temperature: float

    def __call__(self, scores: Floats) -> Floats:
        """Return logits of shape (n_samples, n_classes)."""


class Temperature:
    """Logits are beta * scores; beta = 1 is the paper's softmax."""

    def __init__(self, inverse_temperature: float = 1.0) -> None:
        self.inverse_temperature = inverse_temperature

    def __call__(self, scores: Floats) -> Floats:
        return self.inverse_temperature * scores


class Dirichlet:
    """Logits are linear in the log probabilities z that a temperature gives.

    Parameters
    ----------
    inverse_temperature : float
        z = log softmax(beta * scores).

    coef : ndarray of shape (n_classes, n_classes)
        Logits are z + z @ coef + intercept.

    intercept : ndarray of shape (n_classes,)
        See `coef`.
    """

    def __init__(
        self, inverse_temperature: float, coef: Floats, intercept: Floats
    ) -> None:
        self.inverse_temperature = inverse_temperature
        self.coef = coef
        self.intercept = intercept

    def __call__(self, scores: Floats) -> Floats:
        z = _log_proba(scores, self.inverse_temperature)
        return z + matmul(z, self.coef) + self.intercept


def _log_proba(scores: Floats, inverse_temperature: float) -> Floats:
    z = log_softmax(inverse_temperature * scores, axis=1)
    return np.maximum(z, RULED_OUT)


def fit_calibration(
    name: str,
    scores: Floats,
    codes: NDArray[np.intp],
    sample_weight: Floats,
    n_samples: float | None = None,
) -> Calibration:
    """Fit "temperature" or "dirichlet" to the scores of samples not seen before.

    `n_samples` says how many samples there are; by default their weights add up
    to it.
    """
    n_samples = n_samples or sample_weight.sum()
    beta = fit_inverse_temperature(scores, codes, sample_weight, n_samples)
    if name == "temperature":
        return Temperature(beta)
    return fit_dirichlet(beta, scores, codes, sample_weight, n_samples)


def expected_logits(
    logits: Floats,
    codes: NDArray[np.intp],
    n_samples: float,
    counts: Floats | None = None,
) -> Floats:
    """Return the mean of each sample's logits under its smooth target.

    One sample's worth of the targets is shared out among the classes beforehand, as by
    Platt (1999, section 2.2), who gives each of two classes one. That for each class
    makes hundreds of classes unsure: in simulations from 3 to 1,000 classes one sample
    in all had the least log loss. For it, a class which is ruled out is no less likely
    than one barely so: otherwise a single class far from all others would make
    everybody unsure.

    Parameters
    ----------
    logits : ndarray of shape (..., n_samples, n_classes)
        The largest of a sample is about 0.

    codes : ndarray of shape (n_samples,)
        The classes of the samples.

    n_samples : float
        How many there are.

    counts : ndarray of shape (n_classes,), default=None
        How many classes each column stands for; by default one.

    Returns
    -------
    ndarray of shape (..., n_samples)
    """
    smooth = 1.0 / (n_samples + 1.0)
    own = logits[..., np.arange(len(codes)), codes]
    beforehand = np.average(np.maximum(logits, RULED_OUT), axis=-1, weights=counts)
    return (1.0 - smooth) * own + smooth * beforehand


def fit_inverse_temperature(
    logits: NDArray[np.float64],
    codes: NDArray[np.intp],
    sample_weight: NDArray[np.float64],
    n_samples: float | None = None,
) -> float:
    """Return the beta with the least log loss of softmax(beta * logits).

    The targets are smooth, which keeps beta finite where the classes are separable.
    """
    logits = logits - logits.max(axis=1, keepdims=True)
    weight = sample_weight / sample_weight.sum()
    n_samples = n_samples or float(sample_weight.sum())
    wanted = weight @ expected_logits(logits, codes, n_samples)

    def slope(log_beta: float) -> float:
        """Return the derivative of the loss, which is convex in beta."""
        # The softmax but for its denominator: the largest logit is 0.
        given = np.exp(np.exp(log_beta) * logits)
        expected = np.einsum("nk,nk->n", given, logits) / given.sum(axis=1)
        return float(weight @ expected - wanted)

    low, high = np.log(_SOFTEST), np.log(_SHARPEST)
    if slope(low) >= 0:
        return _SOFTEST
    if slope(high) <= 0:
        return _SHARPEST
    return float(np.exp(brentq(slope, low, high, xtol=1e-13)))


def fit_dirichlet(
    inverse_temperature: float,
    scores: Floats,
    codes: NDArray[np.intp],
    sample_weight: Floats,
    n_samples: float,
) -> Dirichlet:
    """Fit the Dirichlet calibration of Kull et al. (2019, arXiv 1910.12656).

    Multinomial logistic regression on z, whitened so that few steps suffice. Its
    coefficients are shrunk to 0, and with few samples the temperature is what is
    left.
    """
    z = _log_proba(scores, inverse_temperature)
    weight = sample_weight / sample_weight.sum()
    mean = weight @ z
    values, vectors = np.linalg.eigh((z - mean).T @ (weight[:, None] * (z - mean)))
    used = values > 1e-9 * max(values[-1], 1e-9)
    values = values[used]
    whitening = vectors[:, used] / np.sqrt(values)
    # Few samples say little of directions in which z hardly varies, while other data
    # may vary there: their coefficients are shrunk by as much more.
    shrink = (
        _PRIOR
        / n_samples
        * np.append(1.0, np.maximum(values.sum() / max(len(values), 1) / values, 1.0))
    )
    inputs = np.column_stack([np.ones(len(z)), (z - mean) @ whitening])
    n_classes = z.shape[1]
    target = np.zeros_like(z)
    target[np.arange(len(z)), codes] = 1.0
    # In torch, whose softmax over a few columns is many times quicker than SciPy's.
    tensors = [torch.from_numpy(a) for a in (z, inputs, target, weight[:, None])]
    z_, inputs_, target_, weight_ = tensors

    def loss(flat: Floats) -> tuple[float, Floats]:
        coef = flat.reshape(-1, n_classes)
        penalty = shrink[:, None] * coef
        logits = torch.addmm(z_, inputs_, torch.from_numpy(coef))
        log_proba = logits.log_softmax(dim=1)
        log_loss = -(weight_ * target_ * log_proba).sum()
        slope = inputs_.mT @ (weight_ * (log_proba.exp() - target_))
        value = (penalty * coef).sum() / 2 + float(log_loss)
        return float(value), (penalty + slope.numpy()).ravel()

    start = np.zeros(inputs.shape[1] * n_classes)
    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-9, "ftol": 1e-16, "maxiter": 5000},
    )
    coef = found.x.reshape(-1, n_classes)
    linear = whitening @ coef[1:]
    return Dirichlet(inverse_temperature, linear, coef[0] - mean @ linear)
