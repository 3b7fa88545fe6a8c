"""What is right, computed in another way: plain NumPy, one sample at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.covariance import ledoit_wolf_shrinkage

from sk_e2cm._multi_exit._pooling import MapPooling

from ..outputs import average_by_loops
from ..references import leave
from .networks import Made, alone
from .verdict import Fault

# Confidences so near to a threshold may fall on either side of it.
NEAR = 1e-4


def tolerance(made: Made) -> float:
    """Return by how much probabilities may differ: by rounding in the network."""
    return {torch.float64: 1e-6, torch.bfloat16: 0.15}.get(made.dtype, 2e-3)


def demand_close(what: str, found: Any, expected: Any, atol: float) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise Fault(f"{what}: shape {found.shape} in place of {expected.shape}")
    if not np.allclose(found, expected, rtol=0, atol=atol, equal_nan=False):
        worst = np.nanmax(np.abs(found - expected)) if found.size else 0.0
        raise Fault(f"{what}: off by {worst:.3g}, allowed {atol:.3g}")


def demand_equal(what: str, found: Any, expected: Any) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape or not (found == expected).all():
        shapes = f"{found.shape} {found.dtype}, {expected.shape} {expected.dtype}"
        raise Fault(f"{what}: {(found != expected).sum()} differ ({shapes})")


def demand_proba(what: str, proba: Any) -> None:
    proba = np.asarray(proba)
    valid = np.isfinite(proba).all() and (proba >= 0).all()
    if not valid or not np.allclose(proba.sum(axis=-1), 1, atol=1e-4):
        raise Fault(f"{what} are no probabilities")


# The network


def features_of(made: Made, X: np.ndarray, grid: Any) -> list[np.ndarray]:
    """Return the pooled outputs of all stages, each sample computed alone."""
    tokens = made.family == "tokens"
    given = torch.from_numpy(np.ascontiguousarray(X))
    given = given.long() if tokens else given.to(made.dtype)
    rows = [alone(made, given[i : i + 1]) for i in range(len(X))]
    outputs = [torch.cat(stage).double().numpy() for stage in zip(*rows, strict=True)]
    return [pooled(made, output, grid) for output in outputs]


def pooled(made: Made, output: np.ndarray, grid: Any) -> np.ndarray:
    """Average over a grid, or flatten."""
    if output.ndim == 1:
        return output[:, None]
    if output.ndim == 2:
        return output
    if grid == "none":
        return output.reshape(len(output), -1)
    if made.family != "images":  # channels last
        output = np.moveaxis(output, -1, 1)
    if grid == "auto":
        axes = output.ndim - 2
        fits = [g for g in (4, 3, 2, 1) if output.shape[1] * g**axes <= 1024]
        grid = fits[0]
    return average_by_loops(output, grid)


# Class means


def class_means(f: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            np.average(f[codes == k], axis=0, weights=weight[codes == k])
            for k in np.unique(codes)
        ]
    )


def euclidean_scores(
    f: np.ndarray, codes: np.ndarray, weight: np.ndarray, new: np.ndarray
) -> np.ndarray:
    """Equations 1 to 3 of the paper: - d_k / s_k."""
    means = class_means(f, codes, weight)

    def distances(rows: np.ndarray) -> np.ndarray:
        return np.linalg.norm(rows[:, None] - means, axis=2)

    return -distances(new) / np.average(distances(f), axis=0, weights=weight)


def whitened_scores(
    f: np.ndarray,
    codes: np.ndarray,
    weight: np.ndarray,
    new: np.ndarray,
    shrinkage: Any,
) -> np.ndarray:
    """Linear discriminant analysis with a shrunk pooled covariance."""
    means = class_means(f, codes, weight)
    residuals = f - means[codes]
    scale = np.sqrt(np.average(residuals**2, axis=0, weights=weight))
    residuals = residuals / scale
    correlation = (weight[:, None] * residuals).T @ residuals / weight.sum()
    if shrinkage == "ledoit_wolf":
        shrinkage = ledoit_wolf_shrinkage(residuals, assume_centered=True)
    shrunk = (1 - shrinkage) * correlation + shrinkage * np.eye(len(scale))
    inverse = np.linalg.inv(shrunk)
    priors = np.bincount(codes, weight) / weight.sum()
    scores = []
    for mean, prior in zip(means, priors, strict=True):
        d = (new - mean) / scale
        scores.append(-np.einsum("nd,de,ne->n", d, inverse, d) / 2 + np.log(prior))
    return np.stack(scores, axis=1)


def well_posed(f: np.ndarray, codes: np.ndarray) -> bool:
    """Tell whether the formulas above lose no digits on these features."""
    residuals = f - class_means(f, codes, np.ones(len(f)))[codes]
    within = residuals.std(axis=0)
    return bool((within > 1e-3 * (np.abs(f).max(axis=0) + 1e-3)).all())


# Any fitted estimator against itself


def exempt(proba: np.ndarray, threshold: Any, near: float = NEAR) -> np.ndarray:
    """Tell which samples come near a threshold, or near a tie, at some stage."""
    limits = (
        np.broadcast_to(np.asarray(threshold, float), proba.shape[1] - 1)
        if (np.ndim(threshold) < 2)
        else np.asarray(threshold)
    )
    two = np.sort(proba, axis=2)[:, :, -2:]
    close = (two[..., 1] - two[..., 0] < near).any(axis=1)
    for j, limit in enumerate(limits):
        each = np.atleast_1d(limit)
        of_best = each[proba[:, j].argmax(axis=1)] if len(each) > 1 else each
        close |= np.abs(proba[:, j].max(axis=1) - of_best) < near
    return close


def check_lazy(clf: Any, X: Any, near: float = NEAR) -> None:
    """Early exits give what the full pass gives, by a loop over the samples."""
    proba = np.asarray(clf.exit_proba(X))
    demand_proba("exit_proba", proba)
    inside = getattr(clf, "estimator_", clf)
    threshold, labels = inside.threshold, inside.network_.labels
    shape = proba.shape[1] - 1, proba.shape[2]
    limits = np.asarray(threshold, float)
    limits = limits if limits.ndim == 2 else np.broadcast_to(limits, shape[:1])
    stage, label = leave(proba, limits)
    sure = ~exempt(proba, limits, near)
    found = clf.predict_exit(X)
    demand_equal("predict_exit against exit_proba", found[sure], stage[sure])
    predicted = clf.predict(X)
    demand_equal("predict against exit_proba", predicted[sure], labels[label][sure])
    steps = list(clf.staged_predict(X))
    demand_equal("the last of staged_predict", steps[-1][sure], predicted[sure])
    if sure.all():
        cost = np.asarray(clf.stage_cost_)[stage].mean()
        demand_close("cost", clf.cost(X), cost, 1e-9)
    if hasattr(clf, "predict_proba"):
        own = proba[np.arange(len(proba)), stage]
        atol = 10 * near
        demand_close("predict_proba", clf.predict_proba(X)[sure], own[sure], atol)


def check_rows(clf: Any, X: np.ndarray, rng: np.random.Generator, atol: float) -> None:
    """A sample's answer depends neither on the others nor on their order."""
    proba = clf.exit_proba(X)
    some = rng.choice(len(X), min(4, len(X)), replace=False)
    one_by_one = np.concatenate([clf.exit_proba(X[i : i + 1]) for i in some])
    demand_close("one by one against the batch", one_by_one, proba[some], atol)
    order = rng.permutation(len(X))
    demand_close("another order", clf.exit_proba(X[order]), proba[order], atol)
    part = order[: max(len(X) // 3, 1)]
    demand_close("a part of the batch", clf.exit_proba(X[part]), proba[part], atol)


def check_against_formulas(
    clf: Any, made: Made, X: np.ndarray, y: np.ndarray, atol: float
) -> None:
    """Every exit against NumPy's formulas, the last stage against the network."""
    features = features_of(made, X, clf.pooling)
    proba = clf.exit_proba(X)
    classes, codes = np.unique(y, return_inverse=True)
    weight = np.ones(len(X))
    # Ledoit and Wolf's formula counts equal samples once.
    distinct = len(np.unique(X, axis=0)) == len(X)
    told = clf.extractor_.channel_axes(X.shape[1:])
    for j, f in enumerate(features[:-1]):
        if clf.network_.heads[j].carried:
            continue
        if told[j] is None and isinstance(clf.network_.heads[j].pooling, MapPooling):
            continue  # the axis of the channels was guessed, and fit has warned
        whitened = (clf.distance_scale_[j] == 1).all()
        if not well_posed(f, codes) or (whitened and not distinct):
            continue
        if whitened:
            scores = whitened_scores(f, codes, weight, f, clf.shrinkage)
        else:
            scores = euclidean_scores(f, codes, weight, f)
        beta = 1 / clf.temperature_[j]
        expected = softmax(beta * scores, axis=1)
        if clf.calibration != "dirichlet":
            # What rounds in the network is amplified by a sharp temperature.
            slack = atol * max(1.0, beta * np.ptp(scores) / 50)
            demand_close(f"exit {j} against the formulas", proba[:, j], expected, slack)
    if clf.final_ == "network" and features[-1].shape[1] == len(classes):
        expected = features[-1]
        if "softmax" not in made.story:
            expected = softmax(expected, axis=1)
        demand_close("the last stage against the network", proba[:, -1], expected, atol)
