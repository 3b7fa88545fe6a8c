"""What E2CMClusterer promises once it is fitted, held against plain references."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import Birch, BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm import E2CMClusterer, PipelineExtractor, TorchExtractor
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from .test_paper import EXITS, features_of, paper_probabilities

K, WIDTHS = 4, (2, 4, 6)  # clusters, and the features that each stage sees


def make_blobs(n, seed):
    rng = np.random.default_rng(seed)
    centers = 2.5 * np.random.default_rng(1).normal(size=(K, WIDTHS[-1]))
    return centers[rng.integers(K, size=n)] + rng.normal(size=(n, WIDTHS[-1]))


X, X_NEW = make_blobs(600, seed=2), make_blobs(400, seed=3)
WEIGHT = np.random.default_rng(4).integers(0, 4, size=len(X))
MIXTURE = GaussianMixture(K, random_state=0)


def make(extractor=None, n_clusters=K, **params):
    extractor = extractor or ToyExtractor()
    return E2CMClusterer(extractor, n_clusters, random_state=0, **params)


def k_means(features, n_clusters=K):
    return KMeans(n_clusters, random_state=0).fit(features)


def weighted_means(features, labels, weight=None):
    weight = np.ones(len(features)) if weight is None else weight
    rows = [labels == k for k in range(labels.max() + 1)]
    return np.stack([np.average(features[r], axis=0, weights=weight[r]) for r in rows])


def distances(features, centers):
    return np.linalg.norm(features[:, None] - centers, axis=2)


@pytest.fixture
def fitted():
    return make().fit(X)


@pytest.mark.parametrize("n_clusters", [2, 10, 300])
def test_at_full_depth_it_is_k_means_of_the_last_stage(digits, n_clusters):
    table = digits[0].reshape(len(digits[0]), -1).astype(np.float64)
    ours = make(n_clusters=n_clusters).fit(table[:1200])
    theirs = k_means(table[:1200], n_clusters)
    assert_array_equal(ours.labels_, theirs.labels_)
    assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-9)
    assert ours.inertia_ == pytest.approx(theirs.inertia_)
    assert ours.n_iter_ == theirs.n_iter_
    assert_allclose(ours.transform(table), theirs.transform(table), atol=1e-6)
    ours.set_params(threshold=np.inf)
    assert_array_equal(ours.predict(table), theirs.predict(table))
    assert_array_equal(ours.predict(table[:1200]), ours.labels_)


def test_a_torch_networks_outputs_are_clustered_and_its_exits_are_the_papers(
    network, digits
):
    old, new = digits[0][:1000], digits[0][1000:]
    extractor = TorchExtractor(network, EXITS)
    paper = {"metric": "euclidean", "pooling": "none", "calibration": None}
    ours = make(extractor, 10, **paper).fit(old)
    maps, outputs = features_of(network, old)
    new_maps, new_outputs = features_of(network, new)
    theirs = k_means(outputs.astype(np.float32), 10)
    assert_array_equal(ours.labels_, theirs.labels_)
    assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-3)
    expected = distances(new_outputs, theirs.cluster_centers_)
    assert_allclose(ours.transform(new), expected, atol=1e-3)
    pairs = zip(maps, new_maps, strict=True)
    expected = [paper_probabilities(f, theirs.labels_, g) for f, g in pairs]
    assert_allclose(ours.exit_proba(new)[:, :3], np.stack(expected, 1), atol=1e-5)


def test_without_an_extractor_it_is_k_means():
    ours = E2CMClusterer(n_clusters=K, random_state=0).fit(X)
    assert_array_equal(ours.labels_, k_means(X).labels_)
    assert_array_equal(ours.predict(X_NEW), k_means(X).predict(X_NEW))
    assert ours.stage_cost_.tolist() == [1.0]


def test_transformers_may_be_the_stages():
    transformers = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    ours = make(PipelineExtractor(transformers, costs=[1, 2])).fit(X)
    labels = k_means(transformers.transform(X)).labels_
    assert_array_equal(ours.labels_, labels)
    expected = weighted_means(transformers[0].transform(X), labels)
    assert_allclose(ours.stage_centers_[0], expected)


def test_it_follows_a_transformer_in_a_pipeline():
    table = X * [1, 2, 3, 4, 50, 600]
    scaled = StandardScaler().fit_transform(table)
    pipeline = make_pipeline(StandardScaler(), make())
    assert_array_equal(pipeline.fit_predict(table), k_means(scaled).labels_)
    assert_allclose(pipeline.transform(table), k_means(scaled).transform(scaled))
    assert_array_equal(pipeline.predict(table), make().fit(scaled).predict(scaled))


# The exits


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("clusterer", [None, FrozenEstimator(clone(MIXTURE).fit(X))])
def test_centroids_are_weighted_means_of_the_members_at_each_exit(weight, clusterer):
    ours = make(metric="euclidean", clusterer=clusterer).fit(X, sample_weight=weight)
    for j, width in enumerate(WIDTHS):
        expected = weighted_means(X[:, :width], ours.labels_, weight)
        # Those of k-means are means too, once it has converged.
        assert_allclose(ours.stage_centers_[j], expected, atol=1e-9)
    for j, width in enumerate(WIDTHS[:-1]):
        away = distances(X[:, :width], ours.stage_centers_[j])
        scale = np.average(away, axis=0, weights=weight)
        assert_allclose(ours.distance_scale_[j], scale)
    assert_array_equal(ours.stage_centers_[-1], ours.cluster_centers_)


def test_uncalibrated_exits_are_the_papers_and_the_last_stage_is_sure():
    ours = make(metric="euclidean", calibration=None).fit(X)
    theirs = k_means(X)
    proba = ours.exit_proba(X_NEW)
    for j, width in enumerate(WIDTHS[:-1]):
        expected = paper_probabilities(X[:, :width], theirs.labels_, X_NEW[:, :width])
        assert_allclose(proba[:, j], expected, atol=1e-12)
    assert_array_equal(proba[:, -1], np.eye(K)[theirs.predict(X_NEW)])


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_whitened_exits_are_linear_discriminant_analysis_of_the_clusters(shrinkage):
    ours = make(metric="mahalanobis", calibration=None, shrinkage=shrinkage).fit(X)
    labels = k_means(X).labels_
    assert_array_equal(ours.labels_, labels)
    proba = ours.exit_proba(X_NEW)
    for j, width in enumerate(WIDTHS[:-1]):
        f = X[:, :width]
        scale = (f - weighted_means(f, labels)[labels]).std(axis=0)
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        lda.fit(f / scale, labels)
        expected = lda.predict_proba(X_NEW[:, :width] / scale)
        assert_allclose(proba[:, j], expected, atol=1e-9)


@pytest.mark.parametrize("calibration", ["temperature", "dirichlet"])
@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_calibrated_confidence_is_the_agreement_with_full_depth(
    network, digits, metric, calibration
):
    extractor = TorchExtractor(network, EXITS)
    ours = make(extractor, 10, metric=metric, calibration=calibration)
    proba = ours.fit(digits[0][:1000]).exit_proba(digits[0][1000:])
    labels = proba.argmax(axis=2)
    agreement = (labels[:, :-1] == labels[:, -1:]).mean(axis=0)
    assert_allclose(proba[:, :-1].max(axis=2).mean(axis=0), agreement, atol=0.05)


PER_CLUSTER = [[0.5, np.inf, 0.6, 0.7], [0.7, 0.8, np.inf, 1.0]]
THRESHOLDS = [0.0, 0.7, np.inf, [0.95, 0.6], [np.inf, 0.8], PER_CLUSTER]


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=str)
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_predictions_are_those_of_a_plain_loop(fitted, threshold, batch_size):
    fitted.set_params(threshold=threshold, batch_size=batch_size)
    proba, limits = fitted.exit_proba(X_NEW), np.array(threshold)
    limits = np.broadcast_to(limits[:, None] if limits.ndim == 1 else limits, (2, K))
    labels, exits = [], []
    for sample in proba:
        for j in range(3):
            k = sample[j].argmax()
            if j == 2 or sample[j, k] >= limits[j, k]:
                labels.append(k)
                exits.append(j)
                break
    assert_array_equal(fitted.predict(X_NEW), labels)
    assert_array_equal(fitted.predict_exit(X_NEW), exits)
    *_, last = fitted.staged_predict(X_NEW)
    assert_array_equal(last, labels)
    assert fitted.cost(X_NEW) == pytest.approx(fitted.stage_cost_[exits].mean())


def test_each_sample_passes_each_stage_once_and_no_more_than_it_needs():
    counting = CountingExtractor(ToyExtractor())
    weight = WEIGHT > 0  # the others get their labels too
    ours = make(counting, threshold=0.7).fit(X, sample_weight=weight)
    assert counting.rows.tolist() == [600] * 3
    counting.rows[:] = 0
    ours.transform(X)
    assert counting.rows.tolist() == [600] * 3
    exits = ours.predict_exit(X_NEW)
    assert set(exits) == {0, 1, 2}
    counting.rows[:] = 0
    ours.predict(X_NEW)
    assert counting.rows.tolist() == [(exits >= stage).sum() for stage in range(3)]


def test_with_a_cache_nothing_is_run_twice(tmp_path):
    counting = CountingExtractor(ToyExtractor())
    ours = make(counting, memory=tmp_path).fit(X)
    counting.rows[:] = 0
    expected = make().fit(X)
    assert_array_equal(ours.fit(X).labels_, expected.labels_)
    assert_allclose(ours.exit_proba(X), expected.exit_proba(X), atol=1e-12)
    assert_allclose(ours.transform(X), expected.transform(X), atol=1e-12)
    assert counting.rows.tolist() == [0, 0, 0]


def test_stages_cost_what_they_see_and_the_distances_of_open_exits(fitted):
    macs, own = 1000 * np.array(WIDTHS), K * np.array(WIDTHS)
    assert_allclose(fitted.stage_cost_, (macs + own.cumsum()) / macs[-1])
    fitted.set_params(threshold=[np.inf, 0.9])
    assert_allclose(fitted.stage_cost_, (macs + (own * [0, 1, 1]).cumsum()) / macs[-1])


# Other clusterers


class Named:
    """K-means whose labels do not say which row of its centers is meant."""

    def __init__(self, names):
        self.names = np.array(names)

    def fit(self, X):
        self.inner = k_means(X)
        self.cluster_centers_ = self.inner.cluster_centers_ + 100

    def predict(self, X):
        return self.names[self.inner.predict(X)]


class Slices:
    """A cluster for each unit of the first feature; `fit` and `predict`, no more."""

    def fit(self, X):
        pass

    def predict(self, X):
        return np.floor(X[:, 0]).astype(int)


# Each with whether it has centers, and whether it counts iterations.
CLUSTERERS = {
    "mixture": (MIXTURE, False, True),
    "mini-batch": (MiniBatchKMeans(K, random_state=0), True, True),
    "birch": (Birch(n_clusters=K), False, False),
    "bisecting": (BisectingKMeans(K, random_state=0), True, False),
    "scaled": (make_pipeline(StandardScaler(), clone(k_means(X))), False, False),
    "frozen": (FrozenEstimator(k_means(1 + X_NEW[:100])), True, True),
    "minimal": (Slices(), False, False),
}


@pytest.mark.parametrize("name", CLUSTERERS)
def test_any_clusterer_may_find_the_clusters(name):
    clusterer, has_centers, counts = CLUSTERERS[name]
    before = pickle.dumps(clusterer)
    ours = make(clusterer=clusterer).fit(X).set_params(threshold=np.inf)
    assert pickle.dumps(clusterer) == before
    theirs = clone(clusterer, safe=False)
    if name != "frozen":
        theirs.fit(X)
    names, labels = np.unique(theirs.predict(X), return_inverse=True)
    assert_array_equal(ours.labels_, labels)
    centers = theirs.cluster_centers_ if has_centers else weighted_means(X, labels)
    assert_allclose(ours.cluster_centers_, centers, atol=1e-9)
    expected = (distances(X, centers)[np.arange(len(X)), labels] ** 2).sum()
    assert ours.inertia_ == pytest.approx(expected)
    assert getattr(ours, "n_iter_", None) == (theirs.n_iter_ if counts else None)
    assert_allclose(ours.transform(X_NEW), distances(X_NEW, centers), atol=1e-9)
    new = X_NEW[np.isin(theirs.predict(X_NEW), names)]
    assert_array_equal(names[ours.predict(new)], theirs.predict(new))


@pytest.mark.parametrize("names", [[7, -3, 30, 12], ["d", "a", "c", "b"]], ids=str)
def test_clusters_are_numbered_from_zero_in_the_order_of_their_names(names):
    ours = make(clusterer=Named(names), threshold=0.99).fit(X)
    ranks = np.array([sorted(names).index(name) for name in names])
    assert_array_equal(ours.labels_, ranks[k_means(X).labels_])
    assert_allclose(ours.cluster_centers_, weighted_means(X, ours.labels_))
    last = ours.exit_proba(X_NEW)[:, -1].argmax(axis=1)
    assert_array_equal(last, ranks[k_means(X).predict(X_NEW)])


@pytest.mark.parametrize("given", ["slices", "frozen"])
def test_a_cluster_without_training_members_gives_way_to_the_nearest(given):
    four = k_means(X)
    clusterer = {"slices": Slices(), "frozen": FrozenEstimator(four)}[given]
    old = X[(abs(X[:, 0]) > 1) if given == "slices" else (four.labels_ != 1)]
    new = np.concatenate([X_NEW, 3 * X_NEW])  # beyond all slices, and between
    names, seen = clusterer.predict(new), np.unique(clusterer.predict(old))
    ours = make(clusterer=clusterer).fit(old).set_params(threshold=np.inf)
    means = weighted_means(old, ours.labels_)
    centers = four.cluster_centers_[seen] if given == "frozen" else means
    assert_allclose(ours.cluster_centers_, centers)
    expected = distances(new, centers).argmin(axis=1)
    known = np.isin(names, seen)
    assert 0 < known.sum() < len(new)
    expected[known] = np.searchsorted(seen, names[known])
    assert_array_equal(ours.predict(new), expected)


# Samples, weights and types


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
@pytest.mark.parametrize("order", ["kept", "shuffled"])
def test_weights_repeat_samples_and_zero_removes_them_in_any_order(metric, order):
    params = {"clusterer": KMeans(K, init=X[:K], n_init=1, tol=0), "metric": metric}
    weighted = make(**params).fit(X, sample_weight=WEIGHT)
    rows = np.arange(len(X)).repeat(WEIGHT)
    if order == "shuffled":
        rows = np.random.default_rng(5).permutation(rows)
    repeated = make(**params).fit(X[rows])
    assert_array_equal(weighted.labels_[rows], repeated.labels_)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_)
    for a, b in zip(weighted.stage_centers_, repeated.stage_centers_, strict=True):
        assert_allclose(a, b, atol=1e-9)
    assert_allclose(weighted.exit_proba(X), repeated.exit_proba(X), atol=1e-6)
    nearest = distances(X, weighted.cluster_centers_).argmin(axis=1)
    assert_array_equal(weighted.labels_, nearest)  # also where the weight is 0


@pytest.mark.parametrize("clusterer", [None, MIXTURE])
def test_past_the_working_memory_the_last_stage_is_still_that_of_all(clusterer):
    whole = make(clusterer=clusterer).fit(X)
    with sklearn.config_context(working_memory=1e-3):
        subset = make(clusterer=clusterer).fit(X)
    assert_array_equal(subset.labels_, whole.labels_)
    assert_array_equal(subset.cluster_centers_, whole.cluster_centers_)
    assert not np.array_equal(subset.stage_centers_[0], whole.stage_centers_[0])
    assert_allclose(subset.stage_centers_[0], whole.stage_centers_[0], atol=0.8)


@pytest.mark.parametrize("calibration", [None, "temperature", "dirichlet"])
@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_of_one_cluster_every_exit_is_sure(metric, calibration):
    ours = make(n_clusters=1, metric=metric, calibration=calibration).fit(X)
    assert_allclose(ours.cluster_centers_, [X.mean(axis=0)])
    assert set(ours.labels_) == set(ours.predict(X_NEW)) == {0}
    assert set(ours.predict_exit(X_NEW)) == {0}
    assert set(ours.set_params(threshold=[np.inf, 1]).predict_exit(X_NEW)) == {1}


@pytest.mark.parametrize("old", ["f4", "f8", "i8"])
@pytest.mark.parametrize("new", ["f4", "f8", "i8"])
def test_a_fit_and_a_prediction_may_differ_in_type(old, new):
    table, fresh = (10 * X).astype(old), (10 * X_NEW).astype(new)
    ours = make().fit(table).set_params(threshold=np.inf)
    theirs = k_means(table)
    expected = distances(fresh, theirs.cluster_centers_)
    assert_array_equal(ours.labels_, theirs.labels_)
    assert_array_equal(ours.predict(fresh), expected.argmin(axis=1))
    assert_allclose(ours.transform(fresh), expected, rtol=1e-5)


@pytest.mark.parametrize(("known", "given"), [("f4", "f8"), ("f8", "f4")])
@pytest.mark.parametrize("name", ["mini-batch", "scaled"])
def test_a_frozen_clusterer_takes_features_of_another_precision(known, given, name):
    frozen = FrozenEstimator(clone(CLUSTERERS[name][0]).fit(X.astype(known)))
    ours = make(clusterer=frozen).fit(X_NEW.astype(given))
    assert_array_equal(ours.labels_, frozen.predict(X_NEW.astype(known)))


def test_copies_predict_the_same_and_clones_are_fitted_anew(fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(copy.exit_proba(X_NEW), fitted.exit_proba(X_NEW))
    anew = clone(fitted)
    assert_array_equal(anew.fit(X).exit_proba(X_NEW), fitted.exit_proba(X_NEW))


def test_frames_come_back_with_names_and_their_index():
    frame = pd.DataFrame(X, columns=list("abcdef")).set_index(np.arange(600) + 7)
    ours = make().set_output(transform="pandas")
    found = ours.fit_transform(frame)
    assert ours.feature_names_in_.tolist() == list("abcdef")
    assert found.columns.tolist() == [f"e2cmclusterer{k}" for k in range(K)]
    assert found.index.equals(frame.index)
    assert_allclose(found, k_means(X).transform(X))
    with pytest.raises(ValueError, match="feature names"):
        ours.predict(frame[list("fedcba")])


def test_samples_far_from_zero_belong_to_the_nearest_center():
    rng = np.random.default_rng(0)
    X = (1e4 + rng.normal(size=(300, 6))).astype(np.float32)
    clusterer = E2CMClusterer(ToyExtractor(), n_clusters=4, random_state=0).fit(X)
    nearest = clusterer.transform(X).argmin(axis=1)
    assert_array_equal(clusterer.labels_, nearest)
    clusterer.set_params(threshold=np.inf)
    assert_array_equal(clusterer.predict(X), nearest)
    one_by_one = [clusterer.predict(X[[i]])[0] for i in range(50)]
    assert_array_equal(one_by_one, nearest[:50])


def test_a_last_stage_that_is_constant_but_for_rounding_has_no_clusters():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 1), torch.nn.InstanceNorm2d(3), torch.nn.AvgPool2d(4)
    )
    X = np.random.default_rng(0).normal(size=(60, 2, 4, 4)).astype(np.float32)
    network.append(torch.nn.Flatten()).append(torch.nn.Softmax(dim=1))
    clusterer = E2CMClusterer(TorchExtractor(network, ["0"]), n_clusters=3)
    with pytest.raises(ValueError, match="has found clusters of rounding only"):
        clusterer.fit(X)
