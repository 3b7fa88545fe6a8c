"""Samples of Gaussian classes, what they sum up to, and plain references."""

from itertools import pairwise

import numpy as np

from sk_e2cm._fitting._statistics import Statistics
from sk_e2cm._fitting._sums import ClassSums

N_FOLDS, N_CLASSES, N_FEATURES = 3, 4, 5


def make_samples(n=200, seed=0, offset=0.0, separation=1.0):
    """Return features, folds, classes and weights; each class lies in each fold."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % N_CLASSES
    folds = (np.arange(n) // N_CLASSES) % N_FOLDS
    centres = separation * rng.normal(size=(N_CLASSES, N_FEATURES))
    features = offset + centres[classes] + rng.normal(size=(n, N_FEATURES))
    return features, folds, classes, rng.integers(1, 4, n).astype(float)


def make_sums(samples, shift=None, batches=(), second=True):
    """Sum up the samples, cut into batches at these rows."""
    features, folds, classes, weight = samples
    shift = features.mean(axis=0, dtype=np.float64) if shift is None else shift
    sums = ClassSums(shift, second=second)
    for start, stop in pairwise([0, *batches, len(features)]):
        rows = slice(start, stop)
        sums.add(features[rows], folds[rows], classes[rows], weight[rows])
    return sums


def make_statistics(samples, kept=None, hashes=None, shift=None):
    """Return what a pass over these samples gives, if it has kept some features.

    Samples of fold -1 are not held out.
    """
    features, folds, classes, weight = samples
    n = len(features)
    kept = np.arange(n) if kept is None else kept
    hashes = make_hashes(n) if hashes is None else hashes
    shift = features.mean(axis=0) if shift is None else shift
    sums = ClassSums(shift, second=True)
    sums.add(features, folds, classes, weight)
    return Statistics(
        stage_names=("layer1",),
        sums=[sums],
        features=[features[kept]],
        shapes=[features.shape[1:]],
        rounding=[np.zeros(features.shape[1])],
        kept=kept,
        hashes=hashes[kept],
        folds=folds[kept],
        codes=classes[kept],
        sample_weight=weight[kept],
        n_distinct=n,
    )


def make_hashes(n):
    return np.random.default_rng(9).integers(2**64, size=n, dtype=np.uint64)


def take(samples, rows):
    return [array[rows] for array in samples]


def repeat(samples):
    """Return each sample as often as its weight says, with weights of one."""
    times = samples[3].astype(int)
    *arrays, weight = (np.repeat(array, times, axis=0) for array in samples)
    return [*arrays, np.ones_like(weight)]


def means_by_loops(features, classes, weight):
    means = np.zeros((N_CLASSES, features.shape[1]))
    for k in range(N_CLASSES):
        total = 0.0
        for i in np.flatnonzero(classes == k):
            means[k] += weight[i] * features[i]
            total += weight[i]
        means[k] /= total
    return means


def scatter_by_numpy(features, classes, weight):
    """Return the pooled within-class covariance from numpy.cov of each class."""
    covariance = np.zeros((features.shape[1], features.shape[1]))
    for k in np.unique(classes):
        rows = classes == k
        share = weight[rows].sum() / weight.sum()
        covariance += share * np.cov(
            features[rows].T.astype(np.float64), aweights=weight[rows], bias=True
        )
    return covariance
