"""Heads that ask a scikit-learn estimator."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm._multi_exit._estimator_logits import ClassifierLogits, ClustererLogits

N, N_CLASSES, N_FEATURES = 60, 3, 5


def make_features():
    """Return codes and features."""
    rng = np.random.default_rng(0)
    codes = np.arange(N) % N_CLASSES
    return codes, rng.normal(size=(N, N_FEATURES)) + codes[:, None]


def proba_by(logits, features):
    """Return the probabilities that the loop would see."""
    return logits.to_proba(logits(torch.tensor(features))).numpy()


# A classifier


def test_a_classifier_is_asked_for_its_probabilities():
    codes, features = make_features()
    fitted = GaussianNB().fit(features, codes)
    logits = ClassifierLogits(fitted, N_CLASSES)
    expected = fitted.predict_proba(features)
    assert_array_equal(logits.proba(features), expected)
    assert_allclose(proba_by(logits, features), expected, rtol=1e-12)


def test_a_class_that_the_classifier_has_not_seen_has_probability_zero():
    codes, features = make_features()
    seen = codes != 1
    fitted = GaussianNB().fit(features[seen], codes[seen])
    proba = proba_by(ClassifierLogits(fitted, N_CLASSES), features)
    assert_array_equal(proba[:, 1], 0)
    assert_allclose(proba[:, [0, 2]], fitted.predict_proba(features), rtol=1e-12)


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
    logits = ClassifierLogits(classifier.fit(features, codes), N_CLASSES)
    assert logits.macs == macs


def test_a_classifier_that_works_in_place_does_not_write_to_the_features():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 3)) + 3.0 * (np.arange(60) % 2)[:, None]
    steps = StandardScaler(copy=False), LogisticRegression()
    classifier = make_pipeline(*steps).fit(features.copy(), np.arange(60) % 2)
    given = torch.tensor(features)
    logits = ClassifierLogits(classifier, 2)
    proba = logits.to_proba(logits(given))
    assert_array_equal(given, features)
    assert_allclose(proba, classifier.predict_proba(features.copy()))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_estimator_is_asked_about_what_is_not_finite(value):
    # scikit-learn's own message would not name the stage.
    codes, features = make_features()
    classifier = LogisticRegression().fit(features, codes)
    features[3, 1] = value
    clusterer = make_clusterer_logits([0] * N, [0, 1, 2])
    for logits in (ClassifierLogits(classifier, N_CLASSES), clusterer):
        proba = proba_by(logits, features)
        assert proba.shape == (N, N_CLASSES)
        assert np.isnan(proba[3]).all()


# A clusterer


class Says:
    """Calls the samples what it was told to, and notes of what type they were."""

    def __init__(self, names):
        self.names = np.asarray(names)

    def predict(self, features):
        self.dtype = features.dtype
        return self.names[: len(features)]


CENTERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def make_clusterer_logits(said, names, dtype=np.float64):
    return ClustererLogits(Says(said), np.array(names), CENTERS, dtype)


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
    codes = make_clusterer_logits(said, names).codes(np.zeros((5, 2)))
    assert codes.tolist() == [names.index(name) for name in said] == [2, 0, 1, 1, 0]


@pytest.mark.parametrize("unknown", [-5, 2, 6, 99])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_cluster_of_no_training_sample_gives_way_to_the_nearest_centre(
    unknown, dtype
):
    features = np.array([[9.0, 1.0], [1.0, 9.0], [1.0, 1.0], [9.0, 1.0]], dtype)
    logits = make_clusterer_logits([unknown, unknown, unknown, 0], [0, 4, 7])
    # The last is known, and far from its centre.
    assert logits.codes(features).tolist() == [1, 2, 0, 0]


def test_a_name_beyond_text_that_is_known_gives_way_too():
    features = np.array([[1.0, 9.0], [9.0, 1.0]])
    logits = make_clusterer_logits(["zebra", "ant"], ["bird", "cat", "dog"])
    assert logits.codes(features).tolist() == [2, 1]


def test_k_means_that_found_more_than_the_training_samples_belong_to():
    _, features = make_features()
    fitted = KMeans(4, random_state=0).fit(features)
    names = np.array([0, 1, 3])
    centers = fitted.cluster_centers_[names]
    logits = ClustererLogits(fitted, names, centers, features.dtype)
    distances = np.linalg.norm(features[:, None] - centers, axis=2)
    assert (fitted.predict(features) == 2).any()
    # The nearest of all, or if that is gone the nearest of the others.
    assert_array_equal(logits.codes(features), distances.argmin(axis=1))


@pytest.mark.parametrize("given", [np.float64, np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("fitted", [np.float64, np.float32])
def test_a_clusterer_is_asked_about_the_type_it_was_fitted_on(given, fitted):
    logits = make_clusterer_logits([0, 1], [0, 1, 2], dtype=fitted)
    logits.codes(np.zeros((2, 2), dtype=given))
    assert logits.clusterer.dtype == fitted


@pytest.mark.parametrize("given", [np.float64, np.float32])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_k_means_answers_for_features_of_another_type(given, dtype):
    _, features = make_features()
    fitted = KMeans(3, random_state=0).fit(features.astype(dtype))
    centers = fitted.cluster_centers_.astype(float)
    logits = ClustererLogits(fitted, np.arange(3), centers, dtype)
    assert_array_equal(logits.codes(features.astype(given)), fitted.labels_)


@pytest.mark.parametrize("said", [[7, 0, 3, 3], [3], []], ids=str)
def test_a_clusterer_is_always_sure(said):
    logits = make_clusterer_logits(said, [0, 3, 7])
    features = np.zeros((len(said), 2))
    expected = [[float(name == said_name) for name in (0, 3, 7)] for said_name in said]
    for proba in (logits.proba(features), proba_by(logits, features)):
        assert proba.shape == (len(said), 3)
        assert proba.tolist() == expected
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
    centers = np.zeros((2, N_FEATURES))
    assert ClustererLogits(clusterer, np.arange(2), centers, float).macs == macs


@pytest.mark.parametrize(
    "row", [[0.0, 0.0, 0.0], [0.3, 0.1, 0.05], [0.75, 0.25, -1e-17], [1.0, 0.0, 0.0]]
)
def test_probabilities_of_a_classifier_need_not_sum_to_one(row):
    class Says:
        classes_ = np.arange(3)

        def predict_proba(self, X):
            return np.tile(row, (len(X), 1))

    logits = ClassifierLogits(Says(), 3)
    proba = logits.to_proba(logits(torch.ones(4, 2))).numpy()
    assert_allclose(proba, np.tile(row, (4, 1)), rtol=1e-15, atol=1e-16)
