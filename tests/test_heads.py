"""From features to class probabilities."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from sk_e2cm._calibration import Dirichlet, Temperature
from sk_e2cm._heads import ClassifierHead, MeansHead, NetworkHead
from sk_e2cm._means import ClassMeans, WhitenedMeans

N, N_CLASSES, N_FEATURES = 60, 3, 5


def make_features(seed=0):
    """Return codes and features."""
    rng = np.random.default_rng(seed)
    codes = np.arange(N) % N_CLASSES
    return codes, rng.normal(size=(N, N_FEATURES)) + codes[:, None]


def make_means():
    rng = np.random.default_rng(1)
    means = rng.normal(size=(N_CLASSES, N_FEATURES))
    priors = np.array([0.5, 0.3, 0.2])
    return [
        ClassMeans(means),
        ClassMeans(means, np.array([1.0, 2.0, 0.5])),
        WhitenedMeans(means, priors, np.diag([1.0, 2.0, 3.0, 4.0, 5.0]), 0.1),
    ]


def make_calibrations():
    rng = np.random.default_rng(2)
    coef = rng.normal(size=(N_CLASSES, N_CLASSES))
    return [Temperature(), Temperature(2.5), Dirichlet(0.5, coef, coef[0])]


# Class means


@pytest.mark.parametrize("means", make_means())
@pytest.mark.parametrize("calibration", make_calibrations())
def test_probabilities_are_the_softmax_of_calibrated_scores(means, calibration):
    _, features = make_features()
    proba = MeansHead(means, calibration).proba(features)
    logits = calibration(means.scores(features))
    for row, probabilities in zip(logits, proba, strict=True):
        expected = np.exp(row) / np.exp(row).sum()
        assert_allclose(probabilities, expected, rtol=1e-10)


@pytest.mark.parametrize("means", make_means())
@pytest.mark.parametrize("calibration", make_calibrations())
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
def test_probabilities_sum_to_one(means, calibration, scale):
    _, features = make_features()
    proba = MeansHead(means, calibration).proba(scale * features)
    assert (proba >= 0).all()
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("means", make_means())
@pytest.mark.parametrize(
    ("calibration", "macs"), list(zip(make_calibrations(), [0, 0, 9], strict=True))
)
def test_an_exit_costs_its_means_and_its_calibration(means, calibration, macs):
    assert MeansHead(means, calibration).macs == N_CLASSES * N_FEATURES + macs


def test_probabilities_of_float32_features_are_float64():
    _, features = make_features()
    head = MeansHead(make_means()[0], Temperature())
    proba = head.proba(features.astype(np.float32))
    assert proba.dtype == np.float64
    assert_allclose(proba, head.proba(features), atol=1e-6)


# The network's head


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_networks_logits_become_their_softmax(dtype):
    _, features = make_features()
    logits = features[:, :3].astype(dtype)
    head = NetworkHead(np.arange(3), normalized=False)
    assert_allclose(head.proba(logits), softmax(logits.astype(float), axis=1))
    assert head.proba(logits).dtype == np.float64
    assert head.macs == 0


def test_columns_are_put_into_the_order_of_the_classes():
    _, features = make_features()
    head = NetworkHead(np.array([4, 0, 2]), normalized=False)
    assert_allclose(head.proba(features), softmax(features[:, [4, 0, 2]], axis=1))


def test_probabilities_of_the_network_are_spread_over_the_columns_used():
    proba = np.array([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.25, 0.25, 0.5]])
    head = NetworkHead(np.array([2, 0]), normalized=True)
    expected = [[0.6, 0.4], [1.0, 0.0], [2 / 3, 1 / 3]]
    assert_allclose(head.proba(proba), expected, atol=1e-12)


def test_log_probabilities_are_logits():
    _, features = make_features()
    head = NetworkHead(np.arange(N_FEATURES), normalized=False)
    expected = softmax(features, axis=1)
    assert_allclose(head.proba(log_softmax(features, axis=1)), expected, rtol=1e-12)


# A classifier


def test_a_classifier_is_asked_for_its_probabilities():
    codes, features = make_features()
    fitted = GaussianNB().fit(features, codes)
    head = ClassifierHead(fitted, N_CLASSES)
    assert_array_equal(head.proba(features), fitted.predict_proba(features))


def test_a_class_that_the_classifier_has_not_seen_has_probability_zero():
    codes, features = make_features()
    seen = codes != 1
    fitted = GaussianNB().fit(features[seen], codes[seen])
    proba = ClassifierHead(fitted, N_CLASSES).proba(features)
    assert_array_equal(proba[:, 1], 0)
    assert_array_equal(proba[:, [0, 2]], fitted.predict_proba(features))


@pytest.mark.parametrize(
    ("classifier", "macs"),
    [
        (LogisticRegression(), N_CLASSES * N_FEATURES),
        (GaussianNB(), 0),
        (RandomForestClassifier(n_estimators=2), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_linear_classifier_costs_its_coefficients(classifier, macs):
    codes, features = make_features()
    head = ClassifierHead(classifier.fit(features, codes), N_CLASSES)
    assert head.macs == macs
