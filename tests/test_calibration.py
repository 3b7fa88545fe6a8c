"""The temperature, against an independent minimisation of the log loss."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sk_e2cm._calibration import fit_inverse_temperature

from .references import minimise, smoothed_log_loss

N_CLASSES = 4


def make_logits(n=300, beta=2.0, seed=0):
    """Return logits, and classes drawn with the probabilities softmax(beta logits)."""
    rng = np.random.default_rng(seed)
    logits = -rng.gamma(4, 0.25, size=(n, N_CLASSES))
    gumbel = rng.gumbel(size=logits.shape)
    return logits, (beta * logits + gumbel).argmax(axis=1)


@pytest.mark.parametrize("beta", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_temperature_minimises_the_smoothed_log_loss(beta, weighted):
    logits, classes = make_logits(beta=beta)
    weight = np.random.default_rng(1).uniform(0.1, 3, 300) if weighted else np.ones(300)
    found = fit_inverse_temperature(logits, classes, weight)
    expected = minimise(logits, classes, weight)
    assert_allclose(found, expected, rtol=1e-5)
    least = smoothed_log_loss(expected, logits, classes, weight)
    assert smoothed_log_loss(found, logits, classes, weight) <= least + 1e-12


@pytest.mark.parametrize("beta", [0.5, 2.0, 20.0])
def test_the_temperature_that_drew_the_labels_is_found_again(beta):
    logits, classes = make_logits(n=100_000, beta=beta)
    found = fit_inverse_temperature(logits, classes, np.ones(100_000))
    assert_allclose(found, beta, rtol=0.03)


def test_the_temperature_of_weighted_samples_is_that_of_repeated_ones():
    logits, classes = make_logits()
    weight = np.random.default_rng(1).integers(1, 4, 300)
    weighted = fit_inverse_temperature(logits, classes, weight.astype(float))
    repeated = fit_inverse_temperature(
        np.repeat(logits, weight, axis=0),
        np.repeat(classes, weight),
        np.ones(weight.sum()),
    )
    assert_allclose(weighted, repeated, rtol=1e-9)


def test_the_temperature_does_not_change_when_logits_are_shifted():
    logits, classes = make_logits()
    moved = logits + np.random.default_rng(1).normal(size=(300, 1))
    found = fit_inverse_temperature(moved, classes, np.ones(300))
    expected = fit_inverse_temperature(logits, classes, np.ones(300))
    assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("n", [10, 1000])
def test_separable_classes_leave_the_temperature_finite_and_optimal(n):
    classes = np.arange(n) % N_CLASSES
    logits = np.where(np.arange(N_CLASSES) == classes[:, None], 0.0, -1.0)
    found = fit_inverse_temperature(logits, classes, np.ones(n))
    assert_allclose(found, minimise(logits, classes, np.ones(n)), rtol=1e-5)
    # Closed form: the own class gets all but its share of the spread sample.
    own = 1 - (N_CLASSES - 1) / (n + N_CLASSES)
    assert_allclose(np.exp(-found), (1 - own) / (N_CLASSES - 1) / own, rtol=1e-6)


def test_more_separable_samples_are_trusted_more():
    betas = []
    for n in (10, 100, 1000):
        classes = np.arange(n) % 2
        logits = np.where(np.arange(2) == classes[:, None], 0.0, -1.0)
        betas.append(fit_inverse_temperature(logits, classes, np.ones(n)))
    assert betas == sorted(set(betas))


def test_logits_that_point_the_wrong_way_give_nearly_uniform_probabilities():
    logits, _ = make_logits()
    beta = fit_inverse_temperature(logits, logits.argmin(axis=1), np.ones(300))
    assert 0 < beta <= 0.01
