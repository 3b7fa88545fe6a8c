"""The clusters of the last stage: who belongs to which, and where they are."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import Birch, KMeans, MeanShift
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.utils.validation import check_is_fitted

from sk_e2cm import E2CMClusterer
from sk_e2cm._fitting import _clusters
from sk_e2cm._fitting._clusters import (
    clusterer_head,
    find_clusters,
    spare_whole_clusters,
)

from ..samples import make_statistics
from .heads import proba_by
from .held_out import proba_of

N, N_FEATURES = 120, 4


def make_features(n=N, offset=0.0, seed=0):
    """Return features in three blobs, and weights."""
    rng = np.random.default_rng(seed)
    centers = 6 * np.eye(3, N_FEATURES)
    features = centers[np.arange(n) % 3] + rng.normal(size=(n, N_FEATURES))
    return features + offset, rng.uniform(0.5, 2.0, n)


class Says(ClusterMixin, BaseEstimator):
    """Calls the samples `names`, and notes what it was given."""

    def __init__(self, names, centers=None):
        self.names = names
        self.centers = centers

    def fit(self, X, y=None, sample_weight=None):
        self.fitted_on_ = X
        self.weight_ = sample_weight
        if self.centers is not None:
            self.cluster_centers_ = self.centers
        return self

    def predict(self, X):
        return np.resize(self.names, len(X))


class Plain:
    """No estimator of scikit-learn's: it has fit and predict, and nothing else."""

    def __init__(self):
        self.seen = []

    def fit(self, X):
        self.seen.append(len(X))

    def predict(self, X):
        return (X[:, 0] > 3).astype(int).tolist()


def means_by_loop(features, codes, weight):
    means = []
    for k in range(max(codes) + 1):
        total, mass = np.zeros(features.shape[1]), 0.0
        for row, code, w in zip(features.astype(float), codes, weight, strict=True):
            if code == k:
                total += w * row
                mass += w
        means.append(total / mass)
    return np.array(means)


def inertia_by_loop(features, centers, codes, weight):
    total = 0.0
    for row, code, w in zip(features, codes, weight, strict=True):
        total += w * sum((a - b) ** 2 for a, b in zip(row, centers[code], strict=True))
    return total


# Who belongs to which


def test_the_clusters_of_k_means_are_its_own():
    features, weight = make_features()
    found = find_clusters(KMeans(3, random_state=0), features, weight)
    expected = KMeans(3, random_state=0).fit(features, sample_weight=weight)
    assert_array_equal(found.codes, expected.labels_)
    assert_array_equal(found.centers, expected.cluster_centers_)
    assert_array_equal(found.logits.codes(features), expected.labels_)
    assert found.inertia == pytest.approx(expected.inertia_)


@pytest.mark.parametrize(
    ("names", "codes"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([2, 1, 0], [2, 1, 0]),
        ([7, 3, 3, 12], [1, 0, 0, 2]),
        ([5, -1, 2], [2, 0, 1]),
        (["dog", "bird", "cat"], [2, 0, 1]),
        ([1.5, 0.5], [1, 0]),
        ([True, False], [1, 0]),
    ],
    ids=str,
)
def test_clusters_are_numbered_from_0_in_the_order_of_their_names(names, codes):
    features, weight = make_features()
    found = find_clusters(Says(names), features, weight)
    expected = np.resize(codes, N)
    assert_array_equal(found.codes, expected)
    assert_array_equal(found.logits.codes(features), expected)
    assert found.centers.shape == (len(set(names)), N_FEATURES)
    assert_allclose(found.centers, means_by_loop(features, expected, weight))


def test_clusters_without_training_samples_are_left_out():
    features, weight = make_features()
    everything = np.concatenate([features, features[:20] + 50])
    fitted = KMeans(4, random_state=0).fit(everything)
    empty = fitted.predict(features[:1] + 50).item()
    found = find_clusters(FrozenEstimator(fitted), features, weight)
    names = np.delete(np.arange(4), empty)
    assert_array_equal(found.centers, fitted.cluster_centers_[names])
    assert_array_equal(names[found.codes], fitted.predict(features))
    assert found.codes.max() == 2
    # What belongs there later goes to the nearest of the others.
    far = features[:5] + 50
    distances = np.linalg.norm(far[:, None] - found.centers, axis=2)
    assert_array_equal(found.logits.codes(far), distances.argmin(axis=1))


@pytest.mark.parametrize(
    "names",
    [np.zeros((N, 1)), np.zeros(N - 1), np.zeros((N, 3)), np.zeros(())],
    ids=lambda names: str(names.shape),
)
def test_a_clusterer_gives_one_label_for_each_sample(names):
    class Other(Says):
        def predict(self, X):
            return self.names

    message = rf"one label for each sample; for {N} samples it returned an array of s"
    with pytest.raises(ValueError, match=message):
        find_clusters(Other(names), *make_features())


# Where they are


@pytest.mark.parametrize(
    ("names", "n_centers"),
    [([0, 1, 5], 3), ([-1, 0, 1], 3), (["a", "b", "c"], 3), ([0.0, 1.0, 2.0], 3)],
    ids=["too few", "negative", "text", "floats"],
)
def test_centers_that_the_names_do_not_point_to_are_not_taken(names, n_centers):
    features, weight = make_features()
    clusterer = Says(names, centers=np.zeros((n_centers, N_FEATURES)))
    found = find_clusters(clusterer, features, weight)
    assert_allclose(found.centers, means_by_loop(features, found.codes, weight))


def test_a_clusterers_own_centers_need_not_be_means():
    features, weight = make_features()
    centers = np.arange(12.0).reshape(3, 4)
    found = find_clusters(Says([2, 0], centers=centers), features, weight)
    assert_array_equal(found.centers, centers[[0, 2]])
    assert found.inertia == pytest.approx(
        inertia_by_loop(features, found.centers, found.codes, weight)
    )


def test_samples_that_a_fit_leaves_over_belong_where_they_are_predicted():
    features, _ = make_features()
    clusterer = MeanShift(bandwidth=3.0, cluster_all=False)
    expected = MeanShift(bandwidth=3.0, cluster_all=False).fit(features)
    found = find_clusters(clusterer, features, np.ones(N))
    assert (expected.labels_ == -1).any()
    assert_array_equal(found.codes, expected.predict(features))
    assert_array_equal(found.centers, expected.cluster_centers_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_without_centers_of_its_own_a_cluster_is_at_its_mean(offset, dtype):
    features, weight = make_features(offset=offset)
    features = features.astype(dtype)
    found = find_clusters(Says([0, 1, 2]), features, weight)
    expected = means_by_loop(features, np.arange(N) % 3, weight)
    assert found.centers.dtype == np.float64
    assert_allclose(found.centers, expected, rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [5, 16, 17, N])
def test_the_inertia_is_what_a_plain_loop_finds(n, dtype, monkeypatch):
    monkeypatch.setattr(_clusters, "_CHUNK", 16)
    features, weight = make_features(n)
    features = features.astype(dtype)
    for clusterer in (KMeans(3, random_state=0), Says([0, 1])):
        found = find_clusters(clusterer, features, weight)
        expected = inertia_by_loop(
            features.astype(float), found.centers, found.codes, weight
        )
        assert type(found.inertia) is float
        assert found.inertia == pytest.approx(expected, rel=1e-9)


# What the clusterer gets


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int16, bool])
def test_integer_features_become_floats(dtype):
    features, weight = make_features()
    integers = (2 * abs(features)).astype(dtype)
    found = find_clusters(Says([0, 1, 2]), integers, weight)
    assert found.logits.clusterer.fitted_on_.dtype == found.logits.dtype == np.float64
    assert_array_equal(found.logits.clusterer.fitted_on_, integers)
    floats = find_clusters(Says([0, 1, 2]), integers.astype(float), weight)
    assert_array_equal(found.centers, floats.centers)
    assert found.inertia == floats.inertia


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_k_means_answers_for_what_it_was_fitted_on_and_for_floats(dtype):
    features = (10 * make_features()[0]).astype(dtype)
    found = find_clusters(KMeans(3, random_state=0), features, np.ones(N))
    assert_array_equal(found.logits.codes(features), found.codes)
    assert_array_equal(found.logits.codes(features.astype(float)), found.codes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_stay_as_they_are(dtype):
    features, weight = make_features()
    found = find_clusters(Says([0, 1]), features.astype(dtype), weight)
    assert found.logits.clusterer.fitted_on_.dtype == found.logits.dtype == dtype


def test_weights_are_passed_to_a_clusterer_that_takes_them():
    features, weight = make_features()
    found = find_clusters(Says([0, 1]), features, weight)
    assert_array_equal(found.logits.clusterer.weight_, weight)


@pytest.mark.parametrize(
    "clusterer",
    [GaussianMixture(3, random_state=0), Birch(n_clusters=3), Plain()],
    ids=lambda clusterer: type(clusterer).__name__,
)
def test_weights_are_refused_where_a_clusterer_does_not_take_them(clusterer):
    features, weight = make_features()
    message = r"^clusterer=.*(Mixture|Birch|Plain).* does not take sample_weight"
    with pytest.raises(ValueError, match=message):
        find_clusters(clusterer, features, weight)
    # Those that say nothing are none.
    once = find_clusters(clusterer, features, np.ones(N))
    twice = find_clusters(clusterer, features, np.full(N, 2.0))
    assert_array_equal(twice.codes, once.codes)
    assert_allclose(twice.centers, once.centers)
    assert twice.inertia == pytest.approx(2 * once.inertia)


# The clusterer that is given


def test_a_mixtures_clusters_are_those_it_predicts():
    features, _ = make_features()
    found = find_clusters(GaussianMixture(3, random_state=0), features, np.ones(N))
    expected = GaussianMixture(3, random_state=0).fit(features)
    assert_array_equal(found.codes, expected.predict(features))
    assert_allclose(found.centers, means_by_loop(features, found.codes, np.ones(N)))
    assert_array_equal(found.logits.codes(features), found.codes)


@pytest.mark.parametrize(
    "clusterer",
    [KMeans(3, random_state=0), GaussianMixture(3, random_state=0), Says([0, 1])],
    ids=lambda clusterer: type(clusterer).__name__,
)
def test_the_clusterer_given_is_left_as_it_is(clusterer):
    before = dict(vars(clusterer))
    found = E2CMClusterer(clusterer=clusterer).fit(make_features()[0])
    assert vars(clusterer) == before
    assert found.clusterer_ is not clusterer
    check_is_fitted(found.clusterer_)
    with pytest.raises(NotFittedError):
        check_is_fitted(clusterer)


def test_a_clusterer_that_was_fitted_before_is_fitted_anew_in_a_copy():
    features, _ = make_features()
    given = KMeans(3, random_state=0).fit(features + 100)
    centers = given.cluster_centers_.copy()
    found = E2CMClusterer(clusterer=given).fit(features)
    assert_array_equal(given.cluster_centers_, centers)
    assert abs(found.cluster_centers_).max() < 20


def test_what_is_no_estimator_of_scikit_learns_is_copied():
    features, _ = make_features()
    given = Plain()
    found = E2CMClusterer(clusterer=given).fit(features)
    assert given.seen == []
    assert found.clusterer_.seen == [N]
    assert_array_equal(found.labels_, features[:, 0] > 3)
    assert_array_equal(found.predict(features), found.labels_)


def test_a_class_in_the_place_of_a_clusterer_is_refused():
    with pytest.raises(TypeError, match="'clusterer' parameter of"):
        E2CMClusterer(clusterer=KMeans).fit(make_features()[0])


def test_a_generator_goes_on_from_fit_to_fit_as_it_does_for_k_means():
    features = np.random.default_rng(0).normal(size=(60, 4))
    one, other = np.random.RandomState(0), np.random.RandomState(0)
    for _ in range(3):
        found = E2CMClusterer(n_clusters=6, random_state=one).fit(features)
        expected = KMeans(6, random_state=other).fit(features)
        assert_array_equal(found.labels_, expected.labels_)


@pytest.mark.parametrize(
    "clusterer",
    [KMeans(2, random_state=0), GaussianMixture(2, random_state=0)],
    ids=lambda clusterer: type(clusterer).__name__,
)
def test_a_frozen_clusterer_is_not_fitted_again(clusterer):
    features, weight = make_features()
    frozen = FrozenEstimator(clusterer.fit(features[:60] + 1))
    before = dict(vars(clusterer))
    # Weights do not matter to it.
    found = find_clusters(frozen, features, weight)
    assert found.logits.clusterer is frozen
    assert vars(clusterer) == before
    assert_array_equal(found.codes, clusterer.predict(features))
    centers = getattr(
        clusterer, "cluster_centers_", means_by_loop(features, found.codes, weight)
    )
    assert_allclose(found.centers, centers)


@pytest.mark.parametrize("given", [np.float32, np.float64])
@pytest.mark.parametrize("fitted", [np.float32, np.float64])
def test_a_frozen_clusterer_may_have_been_fitted_on_another_type(fitted, given):
    features, weight = make_features()
    k_means = KMeans(3, random_state=0).fit(features.astype(fitted))
    found = find_clusters(FrozenEstimator(k_means), features.astype(given), weight)
    assert_array_equal(found.codes, k_means.labels_)
    assert_array_equal(found.logits.codes(features.astype(given)), k_means.labels_)


def test_a_frozen_clusterer_that_is_not_fitted_says_so():
    with pytest.raises(NotFittedError):
        find_clusters(FrozenEstimator(KMeans(3)), *make_features())


# The head of the last stage


def test_the_head_of_the_last_stage_gives_each_sample_its_cluster():
    features, weight = make_features()
    found = find_clusters(KMeans(3, random_state=0), features, weight)
    folds = np.arange(N) % 4 - 1
    head = clusterer_head(
        found, make_statistics((features, folds, found.codes, weight))
    )
    assert head.kind == "clusterer"
    assert head.logits is found.logits
    expected = np.zeros((N, 3))
    k_means = KMeans(3, random_state=0).fit(features, sample_weight=weight)
    expected[np.arange(N), k_means.labels_] = 1
    assert_array_equal(proba_by(head.logits, features), expected)
    # Its clusters count as the true ones, whoever is held out.
    assert_array_equal(proba_of(head), expected[folds >= 0])


def test_of_the_samples_that_were_kept_those_held_out_have_their_clusters():
    features, weight = make_features()
    found = find_clusters(KMeans(3, random_state=0), features, weight)
    folds, kept = np.arange(N) % 4 - 1, np.arange(0, N, 3)
    samples = features, folds, found.codes, weight
    head = clusterer_head(found, make_statistics(samples, kept))
    expected = found.codes[kept[folds[kept] >= 0]]
    assert_array_equal(proba_of(head).argmax(axis=1), expected)


# Folds


def test_samples_whose_whole_cluster_would_be_held_out_are_not():
    folds = np.array([0, 0, 1, 1, -1, -1, 0, 1])
    codes = np.array([2, 2, 0, 0, 1, 1, 0, 3])
    assert_array_equal(
        spare_whole_clusters(folds, codes), [-1, -1, 1, 1, -1, -1, 0, -1]
    )


@pytest.mark.parametrize(
    ("folds", "codes"),
    [([0, 0, 1, 1], [0, 0, 1, 1]), ([0, -1, -1], [0, 1, 1]), ([-1, -1], [0, 1])],
    ids=["two folds", "one cluster", "nobody"],
)
def test_folds_may_not_hold_out_just_whole_clusters(folds, codes):
    with pytest.raises(ValueError, match="Each cluster lies in one fold alone"):
        spare_whole_clusters(np.array(folds), np.array(codes))
