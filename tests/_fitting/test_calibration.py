"""Calibrations, against independent minimisations of the log loss."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import approx_fprime, minimize
from scipy.special import logsumexp, softmax

from sk_e2cm._fitting._calibration import (
    Dirichlet,
    Temperature,
    fit_calibration,
    fit_dirichlet,
    fit_inverse_temperature,
)

from ..references import minimise, smoothed_log_loss

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
    own = 1 - (N_CLASSES - 1) / N_CLASSES / (n + 1)
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


@pytest.mark.parametrize("distance", [20.0, 40.0, 1000.0])
def test_a_class_far_from_all_others_makes_nobody_unsure(distance):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [3, 0], [0, distance]])
    classes = np.arange(6000) % 3
    x = centres[classes] + rng.normal(size=(6000, 2))
    log_density = -((x[:, None] - centres) ** 2).sum(axis=2) / 2
    beta = fit_inverse_temperature(log_density, classes, np.ones(6000))
    assert beta == pytest.approx(1, abs=0.1)


# Calibrations by name


def test_a_temperature_multiplies_the_scores():
    scores, _ = make_logits(n=5)
    assert_allclose(Temperature(3.0)(scores), 3 * scores)
    assert_allclose(Temperature()(scores), scores)


def test_the_name_says_which_calibration_is_fitted():
    scores, classes = make_logits()
    beta = fit_inverse_temperature(scores, classes, np.ones(300))
    temperature, dirichlet = (
        fit_calibration(name, scores, classes, np.ones(300))
        for name in ("temperature", "dirichlet")
    )
    assert isinstance(temperature, Temperature)
    assert isinstance(dirichlet, Dirichlet)
    assert temperature.inverse_temperature == dirichlet.inverse_temperature == beta


@pytest.mark.parametrize("name", ["temperature", "dirichlet"])
def test_if_their_number_is_given_only_shares_of_the_weights_count(name):
    scores, classes = make_logits(n=60)
    weight = np.random.default_rng(1).uniform(0.1, 3, 60)
    found, scaled = (
        fit_calibration(name, scores, classes, factor * weight, n_samples=60)(scores)
        for factor in (1.0, 1000.0)
    )
    assert_allclose(found, scaled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["temperature", "dirichlet"])
def test_by_default_the_weights_add_up_to_the_number_of_samples(name):
    scores, classes = make_logits(n=60)
    weight = np.random.default_rng(1).uniform(0.1, 3, 60)
    found = fit_calibration(name, scores, classes, weight)(scores)
    expected = fit_calibration(name, scores, classes, weight, n_samples=weight.sum())
    assert_allclose(found, expected(scores))


# Dirichlet calibration


def draw_confused(n, seed=0):
    """Return scores, classes drawn with softmax(z @ coef + intercept), the logits."""
    rng = np.random.default_rng(seed)
    coef = np.eye(N_CLASSES)[[1, 0, 2, 3]] + 0.5 * np.eye(N_CLASSES)
    intercept = np.array([0.0, 1.0, -1.0, 0.5])
    scores = -rng.gamma(4, 0.5, size=(n, N_CLASSES))
    logits = np.log(softmax(2 * scores, axis=1)) @ coef + intercept
    return scores, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1), logits


def log_loss(logits, classes, weight=None):
    log_proba = logits - logsumexp(logits, axis=1, keepdims=True)
    return -np.average(log_proba[np.arange(len(classes)), classes], weights=weight)


def penalised_loss(flat, beta, scores, classes, weight):
    """Shrink, to 0, what is added to the temperature's logits.

    Three times the mean square of it, were z to vary in every direction as much as
    on average, and the square of what is added at the mean of z.
    """
    coef, intercept = unpacked(flat)
    z = beta * scores - logsumexp(beta * scores, axis=1, keepdims=True)
    covariance = np.cov(z.T, aweights=weight, bias=True)
    at_mean = np.average(z, axis=0, weights=weight) @ coef + intercept
    values, vectors = np.linalg.eigh(covariance)
    assert (values > 1e-9).all()
    varied = (vectors * np.maximum(values, values.mean())) @ vectors.T
    penalty = np.trace(coef.T @ varied @ coef) + at_mean @ at_mean
    loss = log_loss(z + z @ coef + intercept, classes, weight)
    return loss + 3 * penalty / (2 * weight.sum())


def unpacked(flat):
    """Return coef and intercept of three classes."""
    return flat[:9].reshape(3, 3), flat[9:]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [25, 400])
def test_dirichlet_minimises_the_penalised_log_loss(n, weighted):
    scores, classes, _ = draw_confused(n)
    scores, classes = scores[:, :3], classes % 3
    rng = np.random.default_rng(1)
    weight = rng.uniform(0.1, 3, n) if weighted else np.ones(n)
    arguments = 1.3, scores, classes, weight
    found = fit_dirichlet(*arguments, weight.sum())
    flat = np.append(found.coef, found.intercept)
    least = penalised_loss(flat, *arguments)
    slope = approx_fprime(flat, penalised_loss, 1e-7, *arguments)
    assert np.abs(slope).max() < 2e-4

    start = rng.normal(size=12)
    other = minimize(penalised_loss, start, args=arguments, method="BFGS")
    assert least < other.fun + 1e-6
    expected = softmax(Dirichlet(1.3, *unpacked(other.x))(scores), axis=1)
    assert_allclose(softmax(found(scores), axis=1), expected, rtol=0, atol=2e-3)


def test_dirichlet_logits_are_linear_in_the_log_probabilities():
    scores, classes, _ = draw_confused(50)
    fitted = fit_dirichlet(1.3, scores, classes, np.ones(50), 50)
    z = np.log(softmax(1.3 * scores, axis=1))
    expected = z + z @ fitted.coef + fitted.intercept
    assert_allclose(fitted(scores), expected, rtol=0, atol=1e-10)


def test_log_probabilities_below_minus_thirty_say_no_more():
    coef, intercept = np.diag([0.5, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0, 3.0])
    scores = np.array([[0.0, -20.0, -40.0, -1e9]])
    found = Dirichlet(1.0, coef, intercept)(scores)
    assert_allclose(found, [[0.0, -39.0, -88.0, -117.0]], rtol=0, atol=1e-7)


def test_dirichlet_finds_the_probabilities_that_drew_the_labels():
    scores, classes, _ = draw_confused(10_000)
    new, truth, logits = draw_confused(50_000, seed=1)
    dirichlet, temperature = (
        fit_calibration(name, scores, classes, np.ones(10_000))
        for name in ("dirichlet", "temperature")
    )
    assert log_loss(dirichlet(new), truth) < log_loss(logits, truth) + 0.005
    assert log_loss(temperature(new), truth) > log_loss(logits, truth) + 0.3
    error = softmax(dirichlet(new), axis=1) - softmax(logits, axis=1)
    assert np.abs(error).mean() < 0.01


@pytest.mark.parametrize("n", [5, 20, 300])
@pytest.mark.parametrize("draw", [make_logits, draw_confused])
def test_dirichlet_is_no_worse_than_the_temperature_on_its_own_samples(draw, n):
    scores, classes, *_ = draw(n)
    dirichlet, temperature = (
        fit_calibration(name, scores, classes, np.ones(n))
        for name in ("dirichlet", "temperature")
    )
    own = log_loss(dirichlet(scores), classes)
    assert own <= log_loss(temperature(scores), classes) + 1e-9


def loss_added(n, seed):
    """Return the log loss on fresh data, less that of the temperature.

    The labels follow from a temperature, so that there is nothing to be won.
    """
    scores, classes = make_logits(n, seed=seed)
    new, truth = make_logits(5000, seed=seed + 1000)
    dirichlet, temperature = (
        fit_calibration(name, scores, classes, np.ones(n))
        for name in ("dirichlet", "temperature")
    )
    return log_loss(dirichlet(new), truth) - log_loss(temperature(new), truth)


@pytest.mark.parametrize(
    ("n", "most"),
    [
        (5, 0.5),
        (10, 0.4),
        (300, 0.05),
        (3000, 0.005),
    ],
)
def test_where_a_temperature_is_enough_dirichlet_adds_little_to_the_loss(n, most):
    assert np.mean([loss_added(n, seed) for seed in range(10)]) < most


def test_dirichlet_of_weighted_samples_is_that_of_repeated_ones():
    scores, classes, _ = draw_confused(100)
    weight = np.random.default_rng(1).integers(1, 4, 100)
    n = weight.sum()
    weighted = fit_dirichlet(1.3, scores, classes, weight.astype(float), n)
    times = np.repeat(np.arange(100), weight)
    repeated = fit_dirichlet(1.3, scores[times], classes[times], np.ones(n), n)
    assert_allclose(weighted(scores), repeated(scores), rtol=0, atol=1e-3)


def test_more_samples_are_shrunk_less():
    scores, classes, _ = draw_confused(100)
    added = []
    for n in (1, 100, 10_000):
        fitted = fit_dirichlet(1.3, scores, classes, np.ones(100), n)
        z = np.log(softmax(1.3 * scores, axis=1))
        added.append(np.square(z @ fitted.coef + fitted.intercept).mean())
    assert added == sorted(added)
    assert added[0] < 0.1 < added[1]


@pytest.mark.parametrize("absent", [0, 3])
def test_a_class_that_does_not_occur_becomes_unlikely(absent):
    scores, classes, _ = draw_confused(300)
    there = classes != absent
    fitted = fit_calibration(
        "dirichlet", scores[there], classes[there], np.ones(300)[there]
    )
    proba = softmax(fitted(scores), axis=1)
    assert np.isfinite(fitted(scores)).all()
    assert 0 < proba[:, absent].mean() < 0.03


@pytest.mark.parametrize("n", [1, 2])
def test_dirichlet_of_hardly_any_samples_is_finite(n):
    scores, classes, _ = draw_confused(50)
    fitted = fit_calibration("dirichlet", scores[:n], classes[:n], np.ones(n))
    assert np.isfinite(fitted(scores)).all()


def test_dirichlet_of_scores_without_content_gives_the_shares_of_the_classes():
    classes = np.arange(4000) % 8 % 5 % N_CLASSES
    fitted = fit_calibration("dirichlet", np.zeros((4000, 4)), classes, np.ones(4000))
    proba = softmax(fitted(np.zeros((1, 4))), axis=1)
    share = np.bincount(classes) / 4000
    assert np.ptp(share) > 0.1
    assert_allclose(proba, [share], rtol=0, atol=2e-3)


def test_scores_that_rule_out_classes_are_calibrated():
    scores, classes, _ = draw_confused(300)
    far = scores * np.where(np.arange(N_CLASSES) == 2, 1e4, 1.0)
    classes = np.where(classes == 2, 1, classes)
    fitted = fit_dirichlet(1.0, far, classes, np.ones(300), 300)
    assert np.isfinite(fitted(far)).all()
    without = np.delete(far, 2, axis=1)
    temperature = log_loss(without, np.where(classes == 3, 2, classes))
    assert log_loss(fitted(far), classes) < temperature - 0.1
