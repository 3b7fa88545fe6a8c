"""Poolings and heads of every kind in ONNX."""

import numpy as np
import pytest
import torch
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm import E2CMClusterer, TorchExtractor, to_onnx

from .._extractors._torch.networks import ResidualNetwork, chain
from .helpers import check_answers, fit, samples, thirds, written

EXITS = ["stem", "block1", "block2"]


def check(fitted, X, folder):
    session = written(fitted, folder)
    check_answers(lambda X: session.run(None, {"X": X}), fitted, X)


@pytest.fixture
def residual():
    torch.manual_seed(0)
    return ResidualNetwork()


@pytest.mark.parametrize(
    ("pooling", "side"),
    [
        ("auto", 8),
        ("none", 7),
        ("second_order", 8),
        pytest.param("second_order", 9, marks=pytest.mark.slow),
        (3, 7),
    ],
)
def test_poolings_are_written_over_cells_that_overlap_too(
    tmp_path, residual, pooling, side
):
    X, y = samples((3, side, side))
    check(fit(residual, EXITS, X, y, pooling=pooling), X, tmp_path)


@pytest.mark.parametrize(
    "params",
    [
        {"metric": "euclidean"},
        {"metric": "euclidean", "calibration": None},
        {"metric": "mahalanobis", "calibration": "dirichlet"},
        {"metric": "euclidean", "calibration": "dirichlet"},
        {"metric": "mahalanobis", "carry": 1, "pooling": "second_order"},
        {"metric": "mahalanobis", "carry": 2},
        {"final": "network", "head_classes": [0, 1, 2, 3, 4]},
        {"final": LogisticRegression(max_iter=1000)},
        {"head": MLPClassifier([8], max_iter=30, random_state=0)},
        {"head": LogisticRegression(max_iter=1000)},
        {"head": ["class_means", MLPClassifier([8], max_iter=30, random_state=0)]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_heads_are_written_however_they_were_fitted(tmp_path, residual, params):
    X, y = samples((3, 8, 8), n=400, n_classes=5)
    check(fit(residual, EXITS, X, y, **params), X, tmp_path)


def test_distances_far_from_zero_do_not_cancel(tmp_path):
    torch.manual_seed(0)
    X, y = samples((4,))
    network = chain().double()
    with torch.no_grad():
        network[2].bias += 1e7
    params = {"metric": "euclidean", "pooling": "none"}
    fitted = fit(network, ["2"], X.astype(np.float64), y, **params)
    check(fitted, X.astype(np.float64), tmp_path)


@pytest.mark.parametrize(
    "clusterer",
    [
        KMeans(3, n_init=1, random_state=0),
        MiniBatchKMeans(3, n_init=1, random_state=0),
    ],
    ids=["KMeans", "MiniBatchKMeans"],
)
def test_clusters_are_those_of_the_nearest_centers(tmp_path, residual, clusterer):
    X, _ = samples((3, 8, 8))
    fitted = E2CMClusterer(TorchExtractor(residual, EXITS), clusterer=clusterer).fit(X)
    fitted.set_params(threshold=thirds(fitted, X))
    check(fitted, X, tmp_path)


def test_a_frozen_k_means_is_written_as_any_other(tmp_path, residual):
    X, _ = samples((3, 8, 8))
    extractor = TorchExtractor(residual, EXITS)
    *_, last = extractor.staged_transform(X)
    k_means = KMeans(3, n_init=1, random_state=0).fit(last)
    clusterer = E2CMClusterer(extractor, clusterer=FrozenEstimator(k_means)).fit(X)
    clusterer.set_params(threshold=thirds(clusterer, X))
    check(clusterer, X, tmp_path)


def test_other_clusterers_are_refused_by_name(tmp_path, residual):
    X, _ = samples((3, 8, 8))
    clusterer = BisectingKMeans(3, random_state=0)
    fitted = E2CMClusterer(TorchExtractor(residual, EXITS), clusterer=clusterer).fit(X)
    with pytest.raises(ValueError, match=r"clusterer=BisectingKMeans.* only KMeans"):
        to_onnx(fitted, tmp_path / "early.onnx")


def test_a_forest_at_the_end_is_written_by_skl2onnx(tmp_path, residual):
    X, y = samples((3, 8, 8))
    forest = RandomForestClassifier(5, random_state=0)
    check(fit(residual, EXITS, X, y, final=forest), X, tmp_path)


def test_a_scaler_before_a_linear_classifier_is_written_with_it(tmp_path, residual):
    X, y = samples((3, 8, 8))
    final = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    check(fit(residual, EXITS, X, y, final=final), X, tmp_path)


def test_classifiers_that_skl2onnx_does_not_know_are_refused_by_name(
    tmp_path, residual
):
    class Own(LogisticRegression):
        def predict_proba(self, X):
            return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))

    X, y = samples((3, 8, 8))
    fitted = fit(residual, EXITS, X, y, final=Own(max_iter=1000))
    with pytest.raises(ValueError, match=r"final=Own\(.*cannot be written to ONNX"):
        to_onnx(fitted, tmp_path / "early.onnx")


def test_classifiers_at_exits_that_are_no_layers_are_refused_by_name(
    tmp_path, residual
):
    X, y = samples((3, 8, 8))
    forest = RandomForestClassifier(5, random_state=0)
    fitted = fit(residual, EXITS, X, y, head=forest)
    with pytest.raises(ValueError, match="head=RandomForestClassifier"):
        to_onnx(fitted, tmp_path / "early.onnx")


def test_functions_of_users_are_refused_by_name(tmp_path, residual):
    def first_channel(output):
        return output.reshape(len(output), -1)[:, :4]

    X, y = samples((3, 8, 8))
    fitted = fit(residual, EXITS, X, y, pooling=first_channel)
    with pytest.raises(ValueError, match=r"pooling=.*first_channel.*is a function"):
        to_onnx(fitted, tmp_path / "early.onnx")
