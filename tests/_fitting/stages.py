"""Statistics of several stages whose features are kept, and plain references."""

import numpy as np

from sk_e2cm._fitting._statistics import Statistics

from ..samples import make_hashes


def make_stages(n=150, widths=(2, 3, 4), n_classes=3, n_folds=3, seed=0):
    """Return samples that later stages tell apart better; codes, folds, weights."""
    rng = np.random.default_rng(seed)
    codes, folds = np.arange(n) % n_classes, np.arange(n) // n_classes % n_folds
    features = []
    for stage, width in enumerate(widths):
        centres = (1 + stage) * 0.7 * rng.normal(size=(n_classes, width))
        scale, shift = rng.uniform(0.5, 3, width), rng.normal(size=width)
        noise = rng.normal(size=(n, width))
        features.append(scale * (centres[codes] + noise) + shift)
    return features, folds, codes, rng.integers(1, 4, n).astype(float)


def statistics_of(samples, hashes=None, n_distinct=None):
    """Return what a pass over these samples gives that has kept everything."""
    features, folds, codes, weight = samples
    n = len(codes)
    return Statistics(
        stage_names=tuple("abcd"[: len(features)]),
        sums=[],
        features=features,
        shapes=[f.shape[1:] for f in features],
        rounding=[np.zeros(f.shape[1]) for f in features],
        kept=np.arange(n),
        hashes=make_hashes(n) if hashes is None else hashes,
        folds=folds,
        codes=codes,
        sample_weight=weight,
        n_distinct=n_distinct or n,
    )


def whitened_scores(train, codes, weight, features, shrinkage=0.3):
    """Return the scores of linear discriminant analysis, by NumPy and by formulas."""
    classes = np.arange(codes.max() + 1)
    means = np.array(
        [
            np.average(train[codes == k], axis=0, weights=weight[codes == k])
            for k in classes
        ]
    )
    centred = train - means[codes]
    covariance = (weight[:, None] * centred).T @ centred / weight.sum()
    deviation = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(deviation, deviation)
    shrunk = (1 - shrinkage) * correlation + shrinkage * np.eye(len(deviation))
    inverse = np.linalg.inv(shrunk * np.outer(deviation, deviation))
    away = features[:, None] - means
    distances = np.einsum("nkd,de,nke->nk", away, inverse, away)
    priors = np.bincount(codes, weight) / weight.sum()
    return np.log(priors) - distances / 2


def unseen(samples, joined, score):
    """Return scores of all samples by what is fitted without the fold of each.

    `score` takes features, codes and weights to fit to, and features to score.
    """
    _, folds, codes, weight = samples
    scores = np.zeros((len(codes), codes.max() + 1))
    for fold in np.unique(folds):
        inside, others = folds == fold, folds != fold
        fitted_to = joined[others], codes[others], weight[others]
        scores[inside] = score(*fitted_to, joined[inside])
    return scores
