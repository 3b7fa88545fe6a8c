"""From features to class probabilities."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm._fitting._calibration import Dirichlet, Temperature
from sk_e2cm._fitting._means import ClassMeans, WhitenedMeans
from sk_e2cm._multi_exit._heads import (
    ClassifierHead,
    ClustererHead,
    MeansHead,
    NetworkHead,
    one_hot,
)

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


@pytest.mark.parametrize(
    ("calibration", "temperature"),
    list(zip(make_calibrations(), [1.0, 0.4, 2.0], strict=True)),
)
def test_the_temperature_is_what_scores_are_divided_by(calibration, temperature):
    head = MeansHead(make_means()[1], calibration)
    assert head.temperature == pytest.approx(temperature)
    if isinstance(calibration, Temperature):
        _, features = make_features()
        logits = head.means.scores(features) / head.temperature
        assert_allclose(head.proba(features), softmax(logits, axis=1), rtol=1e-10)


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


# A clusterer


class Says:
    """Calls the samples what it was told to, and notes of what type they were."""

    def __init__(self, names):
        self.names = np.asarray(names)

    def predict(self, features):
        self.dtype = features.dtype
        return self.names[: len(features)]


CENTERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def make_clusterer_head(said, names, dtype=np.float64):
    return ClustererHead(Says(said), np.array(names), ClassMeans(CENTERS), dtype)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([0, 1, 2], [2, 0, 1, 1, 0]),
        ([0, 3, 7], [7, 0, 3, 3, 0]),
        ([-1, 0, 4], [4, -1, 0, 0, -1]),
        (["bird", "cat", "dog"], ["dog", "bird", "cat", "cat", "bird"]),
    ],
    ids=["numbers", "gaps", "negative", "text"],
)
def test_clusters_are_known_by_the_position_of_their_names(names, said):
    codes = make_clusterer_head(said, names).codes(np.zeros((5, 2)))
    assert codes.tolist() == [names.index(name) for name in said] == [2, 0, 1, 1, 0]


@pytest.mark.parametrize("unknown", [-5, 2, 6, 99])
def test_a_cluster_of_no_training_sample_gives_way_to_the_nearest_centre(unknown):
    features = np.array([[9.0, 1.0], [1.0, 9.0], [1.0, 1.0], [9.0, 1.0]])
    head = make_clusterer_head([unknown, unknown, unknown, 0], [0, 4, 7])
    # The last is known, and far from its centre.
    assert head.codes(features).tolist() == [1, 2, 0, 0]


def test_a_name_beyond_text_that_is_known_gives_way_too():
    features = np.array([[1.0, 9.0], [9.0, 1.0]])
    head = make_clusterer_head(["zebra", "ant"], ["bird", "cat", "dog"])
    assert head.codes(features).tolist() == [2, 1]


def test_k_means_that_found_more_than_the_training_samples_belong_to():
    _, features = make_features()
    fitted = KMeans(4, random_state=0).fit(features)
    names = np.array([0, 1, 3])
    head = ClustererHead(
        fitted, names, ClassMeans(fitted.cluster_centers_[names]), features.dtype
    )
    distances = np.linalg.norm(
        features[:, None] - fitted.cluster_centers_[names], axis=2
    )
    assert (fitted.predict(features) == 2).any()
    # The nearest of all, or if that is gone the nearest of the others.
    assert_array_equal(head.codes(features), distances.argmin(axis=1))


@pytest.mark.parametrize("given", [np.float64, np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("fitted", [np.float64, np.float32])
def test_a_clusterer_is_asked_about_the_type_it_was_fitted_on(given, fitted):
    head = make_clusterer_head([0, 1], [0, 1, 2], dtype=fitted)
    head.codes(np.zeros((2, 2), dtype=given))
    assert head.clusterer.dtype == fitted


@pytest.mark.parametrize("given", [np.float64, np.float32])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_k_means_answers_for_features_of_another_type(given, dtype):
    _, features = make_features()
    fitted = KMeans(3, random_state=0).fit(features.astype(dtype))
    head = ClustererHead(
        fitted, np.arange(3), ClassMeans(fitted.cluster_centers_), dtype
    )
    assert_array_equal(head.codes(features.astype(given)), fitted.labels_)


def test_a_clusterer_is_always_sure():
    proba = make_clusterer_head([7, 0, 3, 3], [0, 3, 7]).proba(np.zeros((4, 2)))
    assert proba.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert proba.dtype == np.float64


@pytest.mark.parametrize(
    ("clusterer", "macs"),
    [
        (KMeans(4, random_state=0), 4 * N_FEATURES),
        (FrozenEstimator(KMeans(4, random_state=0)), 4 * N_FEATURES),
        (GaussianMixture(4, random_state=0), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_clusterer_costs_all_the_centres_it_has(clusterer, macs):
    _, features = make_features()
    getattr(clusterer, "estimator", clusterer).fit(features)
    head = ClustererHead(
        clusterer, np.arange(2), ClassMeans(np.zeros((2, N_FEATURES))), float
    )
    assert head.macs == macs


@pytest.mark.parametrize("codes", [[2, 0, 1, 0], [1], []], ids=str)
def test_probabilities_of_0_and_1_have_one_1_in_each_row(codes):
    proba = one_hot(np.array(codes, dtype=np.intp), 4)
    assert proba.shape == (len(codes), 4)
    assert proba.tolist() == [[float(k == code) for k in range(4)] for code in codes]


def test_a_classifier_that_works_in_place_does_not_write_to_the_features():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 3)) + 3.0 * (np.arange(60) % 2)[:, None]
    steps = StandardScaler(copy=False), LogisticRegression()
    classifier = make_pipeline(*steps).fit(features.copy(), np.arange(60) % 2)
    given = features.copy()
    proba = ClassifierHead(classifier, 2).proba(given)
    assert_array_equal(given, features)
    assert_allclose(proba, classifier.predict_proba(features.copy()))
