"""Fitted estimators, and their files against what they predict themselves."""

import numpy as np
import pytest
import torch

from sk_e2cm import E2CMClassifier, TorchExtractor, to_onnx
from sk_e2cm.metrics import first_exit

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
if torch.__version__ < "2.10":
    pytest.skip("torch.onnx below 2.10 refuses some networks", allow_module_level=True)

BATCHES = (0, 1, 7, 64)

# Confidences this close to a threshold may fall on either side of it.
NEAR = 1e-5


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # It warns that thresholds may be given: they may.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def samples(shape, n=96, n_classes=3, seed=0):
    """Return samples of classes that overlap, and labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, *shape)) + rng.normal(size=(n_classes, *shape))[y]
    return X.astype(np.float32), y


def fit(network, exits, X, y, **params):
    """Fit, with a threshold at every exit that lets a third of the samples leave."""
    torch.manual_seed(0)
    params = {"final": "class_means", **params}
    clf = E2CMClassifier(TorchExtractor(network, exits), **params).fit(X, y)
    return clf.set_params(threshold=thirds(clf, X))


def thirds(fitted, X):
    """Return thresholds in the middle between two confidences that samples have."""
    confidence = np.sort(fitted.exit_proba(X).max(axis=2), axis=0)[:, :-1]
    at = 2 * len(X) // 3
    return confidence[at : at + 2].mean(axis=0)


def written(fitted, folder, **options):
    path = folder / "early.onnx"
    to_onnx(fitted, path, **options)
    return session_of(path)


def check_answers(answers, fitted, X, threshold=None):
    """Compare what a function of X answers with the estimator, for every batch size."""
    fitted = getattr(fitted, "estimator_", fitted)
    threshold = fitted.threshold if threshold is None else threshold
    expected = fitted.exit_proba(X)
    if np.shape(threshold)[1:] == (1,):
        threshold = threshold[:, 0]
    stage = first_exit(expected, threshold)
    at = fitted.network_.thresholds(threshold)
    labels = fitted.network_.labels
    confidence = expected.max(axis=2)[:, :-1]
    column = expected.argmax(axis=2)[:, :-1]
    needed = np.broadcast_to(at, (len(at), len(labels)))
    needed = needed[np.arange(len(at)), column]
    far = (abs(confidence - needed) > NEAR).all(axis=1)
    for n in BATCHES:
        label, proba, exit_ = answers(X[:n])
        own, rows = stage[:n][far[:n]], np.arange(len(X[:n]))[far[:n]]
        np.testing.assert_array_equal(exit_[far[:n]], own)
        np.testing.assert_allclose(proba[far[:n]], expected[rows, own], atol=1e-4)
        np.testing.assert_array_equal(label, labels[proba.argmax(axis=1)])
        assert label.shape == exit_.shape == (len(X[:n]),)
        assert exit_.dtype == np.int64
    return stage
