"""Folded class means against NumPy's, wherever the features lie."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, softmax

from sk_e2cm._fitting._calibration import Dirichlet, Temperature
from sk_e2cm._fitting._folding import fold
from sk_e2cm._fitting._means import METRICS, ClassMeans, LinearMeans, fit_means

from ..samples import N_CLASSES, N_FEATURES, make_samples, make_sums
from .heads import proba_by

METRICS = sorted(METRICS)
# How far probabilities may be from those in double precision.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
N = 3000  # more than are compared when a fold is chosen


def make_dirichlet(inverse_temperature=1.5):
    rng = np.random.default_rng(2)
    coef = 0.3 * rng.normal(size=(N_CLASSES, N_CLASSES))
    return Dirichlet(inverse_temperature, coef, coef[0])


CALIBRATIONS = {
    "none": Temperature(),
    "soft": Temperature(0.1),
    "sharp": Temperature(20.0),
    "dirichlet": make_dirichlet(),
    "sharp dirichlet": make_dirichlet(20.0),
}
calibrations = pytest.mark.parametrize(
    "calibration", CALIBRATIONS.values(), ids=CALIBRATIONS
)
metrics = pytest.mark.parametrize("metric", METRICS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def make_features(dtype, offset=0.0, mixing=None):
    """Return samples of this type, mixed by a matrix if there is one."""
    features, *rest = make_samples(N)
    if mixing is not None:
        features = features @ mixing
    return [(features + offset).astype(dtype), *rest]


def make_mixing(condition):
    """Return a matrix whose product with normal features is ill-conditioned."""
    rotation, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(N_FEATURES,) * 2))
    return rotation * np.geomspace(1.0, condition, N_FEATURES) @ rotation.T


def fit(metric, samples, shrinkage=0.1):
    features, _, classes, weight = samples
    sums = make_sums(samples)
    return fit_means(metric, sums, features, classes, weight, shrinkage=shrinkage)(None)


def reference(means, calibration, features):
    """Return the paper's formula, or the linear one, in double precision."""
    features = features.astype(np.float64)
    if isinstance(means, LinearMeans):
        scores = (features - means.centre) @ means.coef + means.intercept
    else:
        scores = -cdist(features, means.means) / means.scale
    logits = calibration.inverse_temperature * scores
    if isinstance(calibration, Dirichlet):
        z = np.maximum(log_softmax(logits, axis=1), -30)
        logits = z + z @ calibration.coef + calibration.intercept
    return softmax(logits, axis=1)


def check(means, calibration, features):
    """Compare the probabilities of all features, and return the logits."""
    logits = fold(means, calibration, features)
    expected = reference(means, calibration, features)
    found = proba_by(logits, features)
    assert found.dtype == np.float64
    atol = TOLERANCE[features.dtype.type]
    assert_allclose(found, expected, rtol=0, atol=atol)
    assert np.ptp(expected) > 0.01
    return logits


# Probabilities


@calibrations
@metrics
@dtypes
@pytest.mark.parametrize("offset", [0.0, 1.0, -100.0, 1e4, 1e6])
def test_folded_means_give_the_probabilities_of_those_in_numpy(
    offset, dtype, metric, calibration
):
    samples = make_features(dtype, offset)
    check(fit(metric, samples), calibration, samples[0])


@calibrations
@dtypes
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("condition", [1e-2, 1e-4])
@pytest.mark.parametrize("shrinkage", [0.0, 1e-6, "ledoit_wolf"])
def test_ill_conditioned_covariances_lose_no_digits(
    shrinkage, condition, offset, dtype, calibration
):
    samples = make_features(dtype, offset, make_mixing(condition))
    check(fit("mahalanobis", samples, shrinkage), calibration, samples[0])


@metrics
@dtypes
def test_classes_that_are_ruled_out_stay_so(dtype, metric):
    samples = make_features(dtype)
    means, calibration = fit(metric, samples), make_dirichlet(1e3)
    z = log_softmax(1e3 * means.scores(samples[0]), axis=1)
    assert (z < -30).mean() > 0.5
    check(means, calibration, samples[0])


@metrics
@dtypes
def test_a_single_sample_is_enough_to_fold(dtype, metric):
    samples = make_features(dtype)
    means = fit(metric, samples)
    logits = fold(means, Temperature(), samples[0][:1])
    expected = reference(means, Temperature(), samples[0])
    found = proba_by(logits, samples[0])
    assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])


@metrics
@pytest.mark.parametrize(
    ("fitted", "given"), [(np.float32, np.float64), (np.float64, np.float32)]
)
def test_features_of_another_type_give_the_same(fitted, given, metric):
    features, *rest = make_features(fitted)
    means = fit(metric, (features, *rest))
    logits = fold(means, make_dirichlet(), features)
    found = proba_by(logits, features.astype(given))
    expected = proba_by(logits, features)
    assert_allclose(found, expected, rtol=0, atol=1e-5)


# What is folded


def linear_part(offset, dtype, condition=1.0, calibration=None):
    """Return the linear layer of folded whitened means."""
    samples = make_features(dtype, offset, make_mixing(condition))
    calibration = Temperature() if calibration is None else calibration
    logits = check(fit("mahalanobis", samples, 0.0), calibration, samples[0])
    return getattr(logits, "logits", logits)


@pytest.mark.parametrize("calibration", [Temperature(), make_dirichlet()])
@dtypes
def test_near_zero_the_arithmetic_is_that_of_the_features_without_a_centre(
    dtype, calibration
):
    linear = linear_part(0.0, dtype, calibration=calibration)
    assert linear.weight.numpy().dtype == dtype
    assert linear.bias.numpy().dtype == dtype
    assert linear.centre is None


@pytest.mark.parametrize("calibration", [Temperature(), make_dirichlet()])
def test_far_from_zero_single_precision_is_not_enough_without_a_centre(calibration):
    linear = linear_part(1e4, np.float32, calibration=calibration)
    assert linear.centre is not None
    assert linear.centre.dtype == linear.weight.dtype


def test_where_a_centre_in_single_precision_is_enough_it_is_taken():
    rng = np.random.default_rng(0)
    # Single precision holds this centre.
    centre = np.full(N_FEATURES, 2.0**14)
    features = (centre + rng.normal(size=(N, N_FEATURES))).astype(np.float32)
    coef = rng.normal(size=(N_FEATURES, N_CLASSES))
    means = LinearMeans(centre + np.zeros((4, 5)), coef, np.zeros(4), centre)
    logits = check(means, Temperature(), features)
    assert logits.weight.dtype == torch.float32
    assert_allclose(logits.centre, centre, rtol=0)


def test_ill_conditioned_means_are_folded_in_double_precision():
    linear = linear_part(0.0, np.float32, condition=1e-4)
    assert linear.weight.dtype == linear.bias.dtype == torch.float64


@dtypes
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_distances_are_taken_in_the_type_of_the_features_and_need_no_centre(
    offset, dtype
):
    # The means are such that single precision holds them.
    features, *_ = make_features(dtype)
    means = offset + np.round(4 * features[:N_CLASSES].astype(np.float64)) / 4
    features = (offset + np.round(16 * features) / 16).astype(dtype)
    logits = check(ClassMeans(means), Temperature(), features)
    assert logits.means.numpy().dtype == dtype
    assert_allclose(logits.means, means, rtol=0)


def test_means_that_single_precision_rounds_too_much_are_kept_in_double():
    samples = make_features(np.float32, 1e6)
    logits = check(fit("euclidean", samples), Temperature(20.0), samples[0])
    assert logits.means.dtype == torch.float64


# Cost


@pytest.mark.parametrize(
    ("calibration", "macs"),
    [(Temperature(), 0), (Temperature(2.5), 0), (make_dirichlet(), N_CLASSES**2)],
)
@metrics
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_head_costs_its_means_and_its_calibration(offset, metric, calibration, macs):
    samples = make_features(np.float32, offset)
    logits = fold(fit(metric, samples), calibration, samples[0])
    assert logits.macs == N_CLASSES * N_FEATURES + macs
