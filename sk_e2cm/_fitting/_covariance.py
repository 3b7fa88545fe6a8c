"""Shrunk covariances, and what whitening by one makes of the class means."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from .._utils._arrays import Floats

Shrinkage = str | float

# A squared pivot this small is what rounding has left of a feature that follows
# from the others.
_SINGULAR = 1e-11

# What the formulas give at least, so that what they give is never singular.
_LEAST = 1e-8


def deviations(covariance: Floats) -> Floats:
    """Return the standard deviations.

    Infinite for features that are constant: in such units nothing is left of them, and
    they have no influence.
    """
    variance = np.diag(covariance)
    return np.sqrt(np.where(variance > 0, variance, np.inf))


def with_variance_of_constants(
    covariance: Floats, means: Floats, rounding: Floats | float, n_samples: float
) -> Floats:
    """Give a variance to features that differ between the classes, but not within them.

    Such a feature tells classes apart without an error in any of the samples. Were it
    wrong in one sample more, by as much as the class means lie apart, this would be its
    variance: so it outweighs others, the more the more samples have been seen, in
    whatever unit it is measured, and its scores are finite. It is no smaller than what
    rounding makes.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        Within the classes; zero where features are constant.

    means : ndarray of shape (n_classes, n_features)
        Class means. Where they do not differ either, the covariance stays zero.

    rounding : ndarray of shape (n_features,) or float
        By how much they, and features, may differ by rounding.

    n_samples : float
        Number of samples.
    """
    apart = np.ptp(means, axis=0)
    informative = (np.diag(covariance) == 0) & (apart > rounding)
    added = np.maximum(apart**2 / n_samples, np.square(rounding))
    return covariance + np.diag(np.where(informative, added, 0.0))


def intensity_of(
    shrinkage: Shrinkage,
    covariance: Floats,
    residuals: Iterable[tuple[NDArray[np.floating], Floats]],
    n_samples: float,
) -> float:
    """Return the share of the identity in the shrunk correlations.

    Parameters
    ----------
    shrinkage : {"ledoit_wolf", "oas"} or float
        The formulas are those of `sklearn.covariance`, for features scaled to unit
        variance.

    covariance : ndarray of shape (n_features, n_features)
        Of all samples.

    residuals : iterable of (ndarray of shape (n, n_features), ndarray of shape (n,))
        Features less their class means, and weights, of some samples after others.
        Only "ledoit_wolf" asks for them: for the mean of their fourth powers.

    n_samples : float
        Number of samples that the covariance is of.
    """
    if not isinstance(shrinkage, str):
        return float(shrinkage)
    d = len(covariance)
    scale = deviations(covariance)
    correlation = covariance / np.outer(scale, scale)
    squares = (correlation**2).sum()
    mean = np.trace(correlation) / d
    spread = squares - d * mean**2
    if shrinkage == "oas":
        numerator = squares / d**2 + mean**2
        denominator = (n_samples + 1) * spread / d**2
    else:
        fourth = _mean_fourth_power(residuals, scale)
        numerator, denominator = (fourth - squares) / n_samples, spread
    if denominator <= 0:
        return 1.0  # nothing is correlated: any share is the same
    return float(np.clip(numerator / denominator, _LEAST, 1.0))


def _mean_fourth_power(
    residuals: Iterable[tuple[NDArray[np.floating], Floats]], scale: Floats
) -> float:
    total = weight = 0.0
    for some, of_some in residuals:
        scaled = some / scale
        total += of_some @ np.einsum("nd,nd->n", scaled, scaled) ** 2
        weight += of_some.sum()
    return float(total / weight)


def whiten(covariance: Floats, intensity: float, offsets: Floats) -> Floats:
    """Return the inverse of the shrunk covariance, times the columns of `offsets`.

    Parameters
    ----------
    covariance : ndarray of shape (n_features, n_features)
        Before it is shrunk; symmetric, and zero where features are constant: these
        have no influence.

    intensity : float
        See `intensity_of`.

    offsets : ndarray of shape (n_features, n_columns)
        What is whitened: the class means less their centre, say.

    Raises
    ------
    LinAlgError
        If the shrunk covariance is singular.
    """
    scale = deviations(covariance)
    shrunk = (1.0 - intensity) * covariance / np.outer(scale, scale)
    shrunk[np.diag_indices_from(shrunk)] = 1.0
    factor, lower = cho_factor(shrunk, lower=True, overwrite_a=True)
    if (np.diag(factor) ** 2).min() < _SINGULAR:
        raise LinAlgError("singular")
    whitened: Floats = cho_solve((factor, lower), offsets / scale[:, None])
    return whitened / scale[:, None]
