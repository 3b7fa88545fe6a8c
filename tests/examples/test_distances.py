"""Distances to the nearest class mean, against SciPy's."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf

from sk_e2cm.testing import ToyExtractor

distances = pytest.importorskip("distances")


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    return rng.normal(size=(120, 4)) + 3 * np.eye(4)[y], y


def test_they_are_mahalanobis_distances_over_their_median(samples):
    X, y = samples
    found = distances.NearestMeans(ToyExtractor(), batch_size=50).fit(X, y)
    for stage, Z in enumerate(ToyExtractor().staged_transform(X)):
        Z = distances.averages(np.asarray(Z))
        means = np.stack([Z[y == k].mean(axis=0) for k in range(3)])
        covariance, _ = ledoit_wolf(Z - means[y], assume_centered=True)
        inverse = np.linalg.inv(covariance)
        expected = cdist(Z, means, "mahalanobis", VI=inverse).min(axis=1)
        np.testing.assert_allclose(
            found.distances(X)[:, stage], expected / np.median(expected)
        )


def test_what_is_like_nothing_known_is_far_away(samples):
    X, y = samples
    near = distances.NearestMeans(ToyExtractor()).fit(X, y)
    far = near.distances(X + 100)
    assert (far > 5 * near.distances(X).max(axis=0)).all()


def test_maps_are_averaged_over_their_positions():
    maps = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(distances.averages(maps), maps.mean(axis=(2, 3)))
