"""On a GPU: the same answers as on the CPU, whatever the exits consist of."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm.testing import CountingExtractor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def maxima(output):
    return output.cpu().numpy().max(axis=(2, 3)) if output.ndim == 4 else output


@pytest.fixture(autouse=True)
def _single_precision(monkeypatch):
    """Compute convolutions in single precision, which cuDNN by default does not."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


EXITS = ["stem", "block", "down"]
PARAMS = {
    "the paper's": {"metric": "euclidean", "calibration": None},
    "Euclidean": {"metric": "euclidean"},
    "whitened": {"metric": "mahalanobis"},
    "second order, Dirichlet": {
        "metric": "mahalanobis",
        "pooling": "second_order",
        "calibration": "dirichlet",
    },
    "a classifier at the last stage": {"final": LogisticRegression(max_iter=5000)},
    "class means at the last stage": {"final": "class_means", "pooling": "none"},
    "a function that returns an array": {"pooling": maxima},
    "closed exits": {"threshold": [np.inf, 0.9, np.inf]},
    "by class": {"threshold": np.linspace(0.5, 0.99, 30).reshape(3, 10)},
}


def assert_alike(on_gpu, on_cpu, X):
    proba = on_cpu.exit_proba(X)
    assert_allclose(on_gpu.exit_proba(X), proba, rtol=0, atol=2e-5)
    confidence = proba[:, :-1].max(axis=2)
    thresholds = np.broadcast_to(on_cpu.network_.thresholds(on_cpu.threshold), (3, 10))
    needed = thresholds[np.arange(3), proba[:, :-1].argmax(axis=2)]
    clear = (abs(confidence - needed) > 5e-5).all(axis=1)
    assert clear.mean() > 0.9
    assert_array_equal(on_gpu.predict_exit(X)[clear], on_cpu.predict_exit(X)[clear])
    assert_array_equal(on_gpu.predict(X)[clear], on_cpu.predict(X)[clear])
    for after, expected in zip(
        on_gpu.staged_predict(X), on_cpu.staged_predict(X), strict=True
    ):
        assert_array_equal(after[clear], expected[clear])


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_fitted_classifier_answers_the_same_on_the_gpu(
    digits, network, params, batch_size
):
    X, y = digits
    clf = E2CMClassifier(TorchExtractor(network, EXITS), **params)
    clf.fit(X[600:1200], y[600:1200])
    on_gpu = pickle.loads(pickle.dumps(clf)).set_params(
        device="cuda", batch_size=batch_size
    )
    assert_alike(on_gpu, clf, X[1200:1400])
    assert on_gpu.network_.heads[0] is not on_gpu.network_.to("cuda").heads[0]


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_a_network_on_the_gpu_is_fitted_and_pickled_from_there(digits, network, params):
    X, y = digits
    extractor = TorchExtractor(network, EXITS).to("cuda")
    clf = E2CMClassifier(extractor, **params).fit(X[600:1200], y[600:1200])
    loaded = pickle.loads(pickle.dumps(clf))
    assert loaded.network_.extractor.device.type == "cpu"
    assert_alike(clf, loaded, X[1200:1400])
    assert clf.network_.extractor.device.type == "cuda"
    assert clf.score(X[1200:], y[1200:]) > 0.8


def test_an_extractor_around_one_on_the_gpu(digits, network):
    X, y = digits
    extractor = TorchExtractor(network, EXITS)
    clf = E2CMClassifier(extractor).fit(X[600:1200], y[600:1200])
    counting = CountingExtractor(extractor.to("cuda"))
    around = E2CMClassifier(counting).fit(X[600:1200], y[600:1200])
    assert counting.device.type == "cuda"
    assert_alike(around, clf, X[1200:1400])
    counting.rows[:] = 0
    stage = around.predict_exit(X[1200:1400])
    expected = [(stage >= each).sum() for each in range(4)]
    assert counting.rows.tolist() == expected


def test_a_clusterer_and_its_thresholds(digits, network):
    X, _ = digits
    extractor = TorchExtractor(network, EXITS)
    clusterer = E2CMClusterer(extractor, n_clusters=10, random_state=0, device="cuda")
    search = TunedExitsCV(clusterer, max_drop=0.02, random_state=0).fit(X[:800])
    assert search.best_score_ >= 0.98
    assert (search.predict(X[:800]) == search.estimator_.labels_).mean() > 0.95


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "efficientnet_b0"])
def test_numbers_rounded_to_ten_bits_are_no_mix_up(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torchvision = pytest.importorskip("torchvision")
    extractor = TorchExtractor(torchvision.models.get_model(name), 4).to("cuda")
    X = np.random.default_rng(0).normal(size=(70, 3, 64, 64)).astype(np.float32)
    assert extractor.verify(X) is None


@pytest.mark.parametrize("allow_tf32", [True, False])
def test_samples_that_are_mixed_on_a_gpu_are_refused(allow_tf32, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allow_tf32)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8, track_running_stats=False),
        torch.nn.Flatten(),
    )
    X = np.random.default_rng(0).normal(size=(70, 3, 8, 8)).astype(np.float32)
    with pytest.raises(ValueError, match="mixes"):
        TorchExtractor(network, ["0"]).to("cuda").verify(X)
