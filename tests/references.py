"""What others compute, in another way: the references of more than one test."""

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import softmax


def smoothed_log_loss(beta, logits, classes, weight):
    """One sample's weight is spread evenly over all classes; plain loops.

    For that share no class is further than 30 from the likeliest.
    """
    n, n_classes = logits.shape
    smooth = 1 / (weight.sum() + 1) / n_classes
    loss = 0.0
    for i in range(n):
        scaled = beta * (logits[i] - logits[i].max())
        log_proba = scaled - np.log(np.exp(scaled).sum())
        loss -= weight[i] * (1 - n_classes * smooth) * log_proba[classes[i]]
        for k in range(n_classes):
            least = beta * max(logits[i, k] - logits[i].max(), -30)
            loss -= weight[i] * smooth * (log_proba[k] + least - scaled[k])
    return loss / weight.sum()


def minimise(logits, classes, weight):
    found = minimize_scalar(
        lambda log_beta: smoothed_log_loss(np.exp(log_beta), logits, classes, weight),
        bounds=(np.log(1e-3), np.log(1e4)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return np.exp(found.x)


def best_powers(proba, codes, weight):
    """Return the product of powers of the last stage and of the exits' mean.

    And the log loss that it has the least of, as a function of probabilities. One
    sample's worth of the targets is spread over the classes beforehand.

    Parameters
    ----------
    proba : ndarray of shape (n_stages, n_samples, n_classes)
        Of all stages.
    """
    n, n_classes = proba.shape[1:]
    smooth = 1 / (n + 1) / n_classes
    target = (1 - n_classes * smooth) * np.eye(n_classes)[codes] + smooth
    log_proba = np.log(np.maximum(proba, np.exp(-30.0)))
    parts = np.stack([log_proba[:-1].mean(axis=0), log_proba[-1]])

    def loss(proba):
        return -np.average((target * np.log(proba)).sum(axis=1), weights=weight)

    def power(exponents):
        return softmax(np.tensordot(exponents, parts, axes=1), axis=1)

    found = minimize(lambda e: loss(power(e)), np.ones(2), bounds=[(0, None)] * 2)
    return power(found.x), loss


def leave(proba, thresholds):
    """Return the stage and the class of each sample, one sample at a time."""
    found = []
    for sample in proba:
        for stage, row in enumerate(sample):
            k = row.argmax()
            if stage == len(sample) - 1:
                break
            limit = thresholds[stage]
            if row[k] >= (limit if np.ndim(limit) == 0 else limit[k]):
                break
        found.append((stage, k))
    return np.array(found).T
