"""Distances to class means at every exit: is a sample near to anything known?"""

from collections.abc import Iterator

import numpy as np
from sklearn.covariance import LedoitWolf


class NearestMeans:
    """Mahalanobis distances to the nearest class mean, at every stage of an extractor.

    Probabilities say which class is the most likely *of those known*, and are high far
    away from all of them. The distance says whether any is near. It is divided by its
    median on the samples of the fit, so that the stages can be compared.
    """

    def __init__(self, extractor, batch_size: int = 256) -> None:
        self.extractor = extractor
        self.batch_size = batch_size

    def fit(self, X, y) -> "NearestMeans":
        labels, codes = np.unique(y, return_inverse=True)
        self.means, self.covariances, self.scale = [], [], []
        for features in zip(*self._batches(X), strict=True):
            Z = np.concatenate(features)
            means = np.stack([Z[codes == k].mean(axis=0) for k in range(len(labels))])
            covariance = LedoitWolf(assume_centered=True).fit(Z - means[codes])
            self.means.append(means)
            self.covariances.append(covariance)
            self.scale.append(np.median(self._nearest(Z, len(self.scale))))
        return self

    def distances(self, X) -> np.ndarray:
        """Return the distance at every stage, of shape (n_samples, n_stages)."""
        parts = [
            np.stack([self._nearest(Z, j) for j, Z in enumerate(batch)], axis=1)
            for batch in self._batches(X)
        ]
        return np.concatenate(parts) / np.array(self.scale)

    def _nearest(self, Z: np.ndarray, stage: int) -> np.ndarray:
        to_each = [
            self.covariances[stage].mahalanobis(Z - mean) for mean in self.means[stage]
        ]
        return np.sqrt(np.min(to_each, axis=0))

    def _batches(self, X) -> Iterator[list[np.ndarray]]:
        for start in range(0, len(X), self.batch_size):
            outputs = self.extractor.staged_transform(
                X[start : start + self.batch_size]
            )
            yield [averages(output) for output in outputs]


def averages(output: np.ndarray) -> np.ndarray:
    """Average feature maps of shape (n, channels, height, width) over the positions."""
    return output.reshape(*output.shape[:2], -1).mean(axis=2).astype(np.float64)
