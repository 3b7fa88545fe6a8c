"""What rounding has left of constant features has no influence, in whatever unit."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from sk_e2cm import E2CMClassifier, TorchExtractor
from sk_e2cm._multi_exit._heads import FoldedHead

N, N_CLASSES = 200, 4
y = np.arange(N) % N_CLASSES
rng = np.random.default_rng(0)
centres = rng.normal(size=(N_CLASSES, 3, 8, 8))
X = (2 + centres[y] + rng.normal(size=(N, 3, 8, 8))).astype(np.float32)

metrics = pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
calibrations = pytest.mark.parametrize("calibration", [None, "temperature"])


class SumOfProbabilities(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 50)

    def forward(self, x):
        proba = self.linear(x.flatten(1)).softmax(dim=1)
        return proba @ torch.ones(50, 8, dtype=x.dtype)


class SumOfSquares(nn.Module):
    def forward(self, x):
        x = x.flatten(1)
        return x.sin() ** 2 + x.cos() ** 2


def normalised(norm):
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm)


CONSTANT = {
    "instance norm": lambda: normalised(nn.InstanceNorm2d(16)),
    "shifted": lambda: normalised(nn.InstanceNorm2d(16, affine=True)),
    "group norm": lambda: normalised(nn.GroupNorm(16, 16)),
    "sum of probabilities": SumOfProbabilities,
    "sum of squares": SumOfSquares,
    "dead": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Threshold(1e9, 0.1)),
}


def make_network(first, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = first()
        if isinstance(first, nn.Sequential) and getattr(first[-1], "affine", False):
            nn.init.normal_(first[-1].bias)
        width = first(torch.from_numpy(X[:1])).numel()
        return nn.Sequential(first, nn.Flatten(), nn.Linear(width, N_CLASSES)).to(dtype)


def one_by_one(ask):
    return np.concatenate([ask(X[[i]]) for i in range(20)])


@calibrations
@metrics
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", CONSTANT)
def test_an_exit_that_is_constant_but_for_rounding_answers_the_first_class(
    kind, dtype, metric, calibration
):
    network = make_network(CONSTANT[kind], dtype)
    clf = E2CMClassifier(
        TorchExtractor(network, ["0"]),
        metric=metric,
        pooling=1,
        calibration=calibration,
        threshold=0.0,
    ).fit(X, y)
    assert clf.distance_scale_[0].tolist() == [1.0] * N_CLASSES
    for proba in (clf.predict_proba(X), one_by_one(clf.predict_proba)):
        assert_allclose(proba, 1 / N_CLASSES, rtol=1e-6)
    for label in (clf.predict(X), one_by_one(clf.predict)):
        assert not label.any()
    assert_allclose(clf.exit_proba(X)[:, 0], 1 / N_CLASSES, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_what_low_precision_has_left_says_nothing(dtype):
    network = make_network(lambda: normalised(nn.InstanceNorm2d(16)), dtype)
    clf = E2CMClassifier(
        TorchExtractor(network, ["0"]), metric="mahalanobis", pooling=1
    ).fit(X, y)
    assert_allclose(clf.exit_proba(X)[:, 0], 1 / N_CLASSES, rtol=1e-6)


def test_dead_features_do_not_disturb_those_that_are_alive():
    features = X.reshape(N, -1)[:, :6].astype(np.float64)
    noise = 1e-16 * rng.integers(-1, 2, size=(N, 20))
    given = np.hstack([features, 1.0 + noise, np.full((N, 2), 0.1)])
    zeros = np.hstack([features, np.zeros((N, 22))])
    # Folds by hashes would be others.
    clf = E2CMClassifier(metric="mahalanobis", calibration=None)
    expected = clf.fit(zeros, y).predict_proba(zeros)
    assert_allclose(clf.fit(given, y).predict_proba(given), expected, atol=1e-9)


UNITS = [(1.0, 0.0), (1e6, 0.0), (1e-6, 0.0), (1.0, 1e4)]


@calibrations
@pytest.mark.parametrize(("unit", "shift"), UNITS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shrinkage", ["ledoit_wolf", "oas", 0.1])
def test_a_feature_that_only_differs_between_classes_decides_in_any_unit(
    shrinkage, dtype, unit, shift, calibration
):
    features = np.round(X.reshape(N, -1)[:, :5] * 64) / 64
    plain = np.column_stack([features, y % 2]).astype(dtype)
    clf = E2CMClassifier(
        metric="mahalanobis", shrinkage=shrinkage, calibration=calibration
    )
    folds = np.arange(N) // N_CLASSES % 5  # hashes would follow the unit
    clf._cross_fit(plain, y, None, folds)
    expected, label = clf.predict_proba(plain), clf.predict(plain)
    assert_array_equal(label % 2, y % 2)
    assert 0.5 < (label == y).mean() < 1
    scale, offset = np.ones(6), np.zeros(6)
    scale[[1, 5]], offset[[1, 5]] = unit, shift
    moved = (plain * scale + offset).astype(dtype)
    clf._cross_fit(moved, y, None, folds)
    found = clf.predict_proba(moved)
    assert_array_equal(clf.predict(moved), label)
    assert_allclose(found, expected, rtol=0, atol=2e-5)
    single = np.concatenate([clf.predict_proba(moved[[i]]) for i in range(20)])
    assert_allclose(single, expected[:20], rtol=0, atol=2e-5)


class Cancelling(nn.Module):
    """Maps whose averages are small, and come from large values."""

    def __init__(self, size):
        super().__init__()
        pattern = np.random.default_rng(1).normal(size=(64, 2, 2))
        pattern -= pattern.mean(axis=(1, 2), keepdims=True)
        self.register_buffer("pattern", torch.tensor(size * pattern).float())

    def forward(self, x):
        x = x.flatten(1)[:, :, None, None]
        return x[:, 20:84] + x[:, 84:148] * self.pattern


@pytest.mark.filterwarnings("ignore:Nothing tells:UserWarning")
@pytest.mark.parametrize("size", [1.0, 1e3, 1e4])
def test_large_values_that_cancel_within_a_cell_give_the_same_at_every_door(size):
    network = nn.Sequential(
        Cancelling(size), nn.Flatten(), nn.Linear(256, 2000), nn.Linear(2000, 4)
    )
    clf = E2CMClassifier(
        TorchExtractor(network, ["0"]), metric="mahalanobis", pooling=1, threshold=0.0
    ).fit(X, y)
    folded = isinstance(clf.network_.heads[0], FoldedHead)
    assert folded == (size == 1)
    assert (clf.predict(X) == y).mean() > 0.95
    expected = clf.exit_proba(X)[:, 0]
    assert_allclose(clf.predict_proba(X), expected, rtol=0, atol=5e-6)
