"""Shrunk covariances against scikit-learn's, and what whitening makes of them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import LinAlgError
from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage, oas

from sk_e2cm._fitting._covariance import (
    deviations,
    intensity_of,
    whiten,
    with_variance_of_constants,
)

FORMULAS = {"ledoit_wolf": ledoit_wolf, "oas": oas}


def make_residuals(n=60, d=8, seed=0):
    """Return correlated rows of mean 0 and very unlike scales."""
    rng = np.random.default_rng(seed)
    residuals = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    residuals -= residuals.mean(axis=0)
    return residuals * 10.0 ** rng.integers(-3, 4, d)


def covariance_of(residuals):
    return residuals.T @ residuals / len(residuals)


def intensity_by_us(shrinkage, residuals, weight=None):
    weight = np.ones(len(residuals)) if weight is None else weight
    covariance = (residuals.T * weight) @ residuals / weight.sum()
    return intensity_of(shrinkage, covariance, [(residuals, weight)], weight.sum())


def is_refused(covariance, intensity):
    try:
        whiten(covariance, intensity, np.eye(len(covariance)))
    except LinAlgError:
        return True
    return False


# Deviations


def test_deviations_are_the_roots_of_the_diagonal():
    residuals = make_residuals()
    found = deviations(covariance_of(residuals))
    assert_allclose(found, residuals.std(axis=0), rtol=1e-12)


def test_in_units_of_its_deviation_nothing_is_left_of_a_constant_feature():
    residuals = make_residuals()
    residuals[:, [2, 5]] = 0
    found = deviations(covariance_of(residuals))
    assert found[[2, 5]].tolist() == [np.inf, np.inf]
    assert_allclose(found[3], residuals[:, 3].std(), rtol=1e-12)


@pytest.mark.parametrize("noise", [0.0, -1e-17])
def test_a_variance_that_rounding_has_left_is_none(noise):
    assert deviations(np.diag([4.0, noise])).tolist() == [2.0, np.inf]


def test_a_feature_that_differs_between_classes_alone_has_the_variance_of_one_error():
    covariance = np.diag([4.0, 0.0, 0.0, 0.0])
    means = np.array([[0.0, 0.0, 7.0, 0.0], [1.0, 3.0, 7.0, 0.1], [5.0, 1.0, 7.0, 0.0]])
    found = with_variance_of_constants(covariance, means, 0.2, 90)
    assert_allclose(found, np.diag([4.0, 9 / 90, 0.0, 0.0]), rtol=1e-12)
    found = with_variance_of_constants(covariance, means, 0.5, 90)
    assert_allclose(found, np.diag([4.0, 0.5**2, 0.0, 0.0]), rtol=1e-12)


# Intensity


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("n", "d"), [(60, 8), (10, 8), (500, 8), (12, 30), (40, 2)])
def test_the_intensity_is_scikit_learns_for_standardised_residuals(n, d, name):
    residuals = make_residuals(n, d)
    standardised = residuals / residuals.std(axis=0)
    _, expected = FORMULAS[name](standardised, assume_centered=True)
    assert 0 < expected <= 1
    assert_allclose(intensity_by_us(name, residuals), expected, rtol=1e-9)


def test_the_intensity_is_that_of_ledoit_wolf_shrinkage():
    residuals = make_residuals()
    standardised = residuals / residuals.std(axis=0)
    expected = ledoit_wolf_shrinkage(standardised, assume_centered=True)
    assert_allclose(intensity_by_us("ledoit_wolf", residuals), expected, rtol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_features_without_any_correlation_are_shrunk_fully(name):
    # Their sample correlations are noise alone.
    residuals = np.random.default_rng(0).normal(size=(15, 40))
    assert intensity_by_us(name, residuals - residuals.mean(axis=0)) > 0.8


@pytest.mark.parametrize("name", FORMULAS)
def test_a_constant_feature_counts_as_one_that_is_zero(name):
    residuals = make_residuals()
    scale = residuals.std(axis=0)
    residuals[:, 4] = 0
    _, expected = FORMULAS[name](residuals / scale, assume_centered=True)
    assert_allclose(intensity_by_us(name, residuals), expected, rtol=1e-9)


def test_what_rounding_leaves_of_a_constant_feature_does_not_count():
    residuals = make_residuals()
    residuals[:, 4] = 0
    covariance = covariance_of(residuals)
    weight = np.ones(len(residuals))
    expected = intensity_of("ledoit_wolf", covariance, [(residuals, weight)], 60)
    residuals[:, 4] = 1e6  # in its own unit a rounding error
    found = intensity_of("ledoit_wolf", covariance, [(residuals, weight)], 60)
    assert found == expected


@pytest.mark.parametrize("name", FORMULAS)
def test_a_weight_of_three_is_three_residuals(name):
    residuals = make_residuals()
    weight = np.random.default_rng(1).integers(1, 4, len(residuals))
    expected = intensity_by_us(name, residuals.repeat(weight, axis=0))
    found = intensity_by_us(name, residuals, weight.astype(float))
    assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_of_many_samples_a_few_residuals_give_nearly_the_same_intensity(name):
    residuals = make_residuals(n=4000)
    weight = np.ones(4000)
    whole = intensity_by_us(name, residuals)
    found = intensity_of(
        name, covariance_of(residuals), [(residuals[:1000], weight[:1000])], 4000
    )
    assert_allclose(found, whole, rtol=0.1)


@pytest.mark.parametrize("shrinkage", [0, 0.3, 1, np.float32(0.5)])
def test_a_number_is_the_intensity(shrinkage):
    found = intensity_by_us(shrinkage, make_residuals())
    assert found == shrinkage
    assert isinstance(found, float)


@pytest.mark.parametrize("name", FORMULAS)
def test_of_a_single_feature_or_none_that_varies_the_intensity_is_one(name):
    assert intensity_by_us(name, np.zeros((10, 3))) == 1
    assert intensity_by_us(name, np.array([[-1.0], [1.0]])) == 1


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_formula_always_gives_enough_to_whiten_with(factor):
    # Of features that are alike, and residuals smaller than the covariance says.
    covariance = np.ones((3, 3))
    residuals = factor * np.outer([1.0, -1.0, 1.0, -1.0], np.ones(3))
    found = intensity_of("ledoit_wolf", covariance, [(residuals, np.ones(4))], 100)
    assert 0 < found < 1e-6
    assert not is_refused(covariance, found)


# Whitening


@pytest.mark.parametrize("intensity", [0.01, 0.3, 1.0])
def test_whitening_solves_for_the_covariance_shrunk_in_standard_units(intensity):
    residuals, offsets = make_residuals(), make_residuals(n=3, seed=1).T
    scale = residuals.std(axis=0)
    shrunk = (1 - intensity) * covariance_of(residuals / scale)
    shrunk += intensity * np.eye(8)
    shrunk = np.diag(scale) @ shrunk @ np.diag(scale)
    found = whiten(covariance_of(residuals), intensity, offsets)
    # In units of each feature, since they differ by orders of magnitude.
    assert_allclose(
        (shrunk @ found) / scale[:, None],
        offsets / scale[:, None],
        rtol=1e-9,
        atol=1e-9 * np.abs(offsets / scale[:, None]).max(),
    )


def test_without_shrinkage_whitening_is_by_the_inverse():
    rng = np.random.default_rng(0)
    residuals, offsets = rng.normal(size=(60, 8)), rng.normal(size=(8, 3))
    expected = np.linalg.inv(covariance_of(residuals)) @ offsets
    assert_allclose(whiten(covariance_of(residuals), 0.0, offsets), expected)


@pytest.mark.parametrize("intensity", [0.0, 0.3])
def test_where_nothing_varies_nothing_has_influence(intensity):
    offsets = np.random.default_rng(0).normal(size=(8, 3))
    assert not whiten(np.zeros((8, 8)), intensity, offsets).any()


@pytest.mark.parametrize("intensity", [0.0, 0.3])
def test_constant_features_have_no_influence(intensity):
    rng = np.random.default_rng(0)
    residuals, offsets = rng.normal(size=(60, 8)), rng.normal(size=(8, 3))
    residuals[:, [2, 5]] = 0
    varies = np.array([0, 1, 3, 4, 6, 7])
    found = whiten(covariance_of(residuals), intensity, offsets)
    assert not found[[2, 5]].any()
    expected = whiten(covariance_of(residuals[:, varies]), intensity, offsets[varies])
    assert_allclose(found[varies], expected, rtol=1e-9)


def test_what_was_passed_in_is_left_as_it_was():
    covariance, offsets = covariance_of(make_residuals()), np.ones((8, 2))
    before = covariance.copy()
    whiten(covariance, 0.3, offsets)
    assert np.array_equal(covariance, before)
    assert np.array_equal(offsets, np.ones((8, 2)))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda x: x[:5] - x[:5].mean(axis=0), id="few samples"),
        pytest.param(lambda x: x[:, [0, 1, 2, 3, 4, 5, 6, 6]], id="a copy"),
        pytest.param(
            lambda x: np.column_stack([x, x @ np.arange(8.0)]), id="a combination"
        ),
    ],
)
def test_only_shrinkage_whitens_features_that_follow_from_others(spoil):
    residuals = spoil(np.random.default_rng(0).normal(size=(60, 8)))
    covariance = covariance_of(residuals)
    assert is_refused(covariance, 0.0)
    assert not is_refused(covariance, 1e-6)
    assert np.isfinite(whiten(covariance, 1e-6, np.eye(len(covariance)))).all()
