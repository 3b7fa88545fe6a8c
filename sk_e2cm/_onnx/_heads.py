"""Heads whose parts can all be exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.frozen import FrozenEstimator
from torch import Tensor

from .._multi_exit._estimator_logits import (
    ClassifierLogits,
    ClustererLogits,
    EstimatorLogits,
    as_logits,
)
from .._multi_exit._grid import Cells
from .._multi_exit._heads import Head, as_made
from .._multi_exit._logits import (
    DirichletLogits,
    DistanceLogits,
    Logits,
    WeightedLogits,
)
from .._multi_exit._pooling import (
    FunctionPooling,
    GridAverage,
    Pooling,
    SecondOrder,
)

# Samples on which layers are compared with a classifier.
_TRIED = 64


class AtOnce(Pooling):
    """Second-order pooling of however many samples, none of them in parts."""

    def __init__(self, pooling: SecondOrder) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, output: Tensor) -> Tensor:
        return self.pooling.of_map(self.pooling.as_map(output))


class OverlappingCells(Cells):
    """Cells of different lengths, whose averages are one product.

    ONNX has no operation for them, and torch writes a dozen.
    """

    def __init__(self, cells: Cells) -> None:
        super().__init__(max(cells.along), cells.sizes)

    def average(self, x: Tensor) -> Tensor:
        return (x.flatten(2) @ self.shares().to(x.dtype)).flatten(1)


class Distances(Logits):
    """What `DistanceLogits` gives, by products of matrices.

    In double precision and about the mean of the means, so that nothing of account
    cancels.
    """

    centre: Tensor
    means: Tensor
    sharpness: Tensor

    def __init__(self, means: Tensor, sharpness: Tensor) -> None:
        super().__init__()
        means = means.double()
        self.register_buffer("centre", means.mean(dim=0))
        self.register_buffer("means", means - self.centre)
        self.register_buffer("sharpness", sharpness)

    def forward(self, features: Tensor) -> Tensor:
        f = features.double() - self.centre
        squares = (f * f).sum(1, keepdim=True) - 2 * f @ self.means.T
        squares = squares + (self.means * self.means).sum(1)
        distances = squares.clamp(min=0).sqrt().to(self.sharpness.dtype)
        return -distances * self.sharpness


class NearestCentre(Logits):
    """The nearest of the centers of k-means gets probability 1."""

    def __init__(self, centers: Tensor) -> None:
        super().__init__()
        self.distances = Distances(centers, torch.ones(len(centers)))

    def forward(self, features: Tensor) -> Tensor:
        distances: Tensor = self.distances(features)
        return distances

    def to_proba(self, logits: Tensor) -> Tensor:
        names = torch.arange(logits.shape[1], device=logits.device)
        is_nearest = logits.argmax(dim=1, keepdim=True) == names
        return is_nearest.to(torch.float64)


def exportable(head: Head) -> Head:
    """Return a copy of a head whose parts can all be exported.

    Raises
    ------
    ValueError
        If a function of the user's is among them, or an estimator that is neither
        linear, a perceptron nor k-means.
    """
    copied: Any = as_made(head)
    copied.pooling = exportable_pooling(head)
    copied.logits = _exportable_logits(copied.logits)
    return copied


def exportable_pooling(head: Head) -> Pooling:
    """Return a copy of the pooling of a head.

    Raises
    ------
    ValueError
        If it is a function of the user's.
    """
    if isinstance(head.pooling, FunctionPooling):
        raise ValueError(
            f"pooling={head.pooling.function!r} is a function of yours, and cannot be "
            "written to ONNX. Use 'auto', 'second_order', 'none' or a number of cells."
        )
    copied: Any = as_made(head.pooling)
    if isinstance(copied, GridAverage):
        copied.cells = _exportable_cells(copied.cells)
    if isinstance(copied, SecondOrder):
        copied.means = _exportable_cells(copied.means)
        return AtOnce(copied)
    return copied


def _exportable_cells(cells: Cells) -> Cells:
    return cells if cells.regular is not None else OverlappingCells(cells)


def _exportable_logits(logits: Any) -> Logits:
    match logits:
        case DistanceLogits():
            return Distances(logits.means, logits.sharpness)
        case DirichletLogits():
            inner = _exportable_logits(logits.logits)
            return DirichletLogits(inner, logits.weight, logits.bias, logits.least)
        case WeightedLogits():
            parts = [_exportable_logits(part) for part in logits.parts]
            return WeightedLogits(parts, logits.weights, logits.least)
        case ClassifierLogits():
            return _as_layers(logits)
        case ClustererLogits():
            return _as_centers(logits)
    found: Logits = logits
    return found


def _as_centers(logits: ClustererLogits) -> Logits:
    clusterer = logits.clusterer
    if isinstance(clusterer, FrozenEstimator):
        clusterer = clusterer.estimator
    if type(clusterer) not in (KMeans, MiniBatchKMeans):
        raise ValueError(
            f"clusterer={logits.clusterer!r} cannot be written to ONNX: only KMeans "
            "and MiniBatchKMeans, whose clusters are those of the nearest centers, can."
        )
    return NearestCentre(torch.from_numpy(np.asarray(logits.centers)))


def layers_of(logits: ClassifierLogits) -> Logits | None:
    """Return a linear classifier, or a perceptron, as layers; None of another."""
    classifier, n_classes = logits.classifier, logits.n_classes
    if len(logits.codes) < n_classes or not hasattr(classifier, "n_features_in_"):
        return None
    n_features = int(classifier.n_features_in_)
    mean = np.array(np.broadcast_to(np.float64(logits.mean), n_features))
    scale = np.array(np.broadcast_to(np.float64(logits.scale), n_features))
    tried = np.random.default_rng(0).normal(size=(_TRIED, n_features))
    found = as_logits(classifier, n_classes, mean, scale, tried)
    return None if isinstance(found, EstimatorLogits) else found


def _as_layers(logits: ClassifierLogits) -> Logits:
    found = layers_of(logits)
    if found is None:
        raise ValueError(
            f"{logits.parameter}={logits.classifier!r} cannot be written to ONNX at "
            "exits, where calibration follows: only linear classifiers and perceptrons "
            "can."
        )
    return found
