"""The estimator against the paper's formulas, written out once more."""

import numpy as np
import pytest
import torch

from sk_e2cm import E2CMClassifier, TorchExtractor

EXITS = ["stem", "block", "down"]


def features_of(network, X):
    """Run the network's layers by hand; return the flattened maps and the logits."""
    with torch.no_grad():
        stem = network.stem(torch.from_numpy(X))
        block = network.block(stem)
        down = network.down(stem + torch.relu(block))
        logits = network.head(down.flatten(1))
    maps = [stem, block, down]
    return [f.flatten(1).double().numpy() for f in maps], logits.double().numpy()


def paper_probabilities(train, y, new):
    """P(k|x) = softmax_k(-d_k(x) / s_k)."""
    n_classes = y.max() + 1
    c = np.stack([train[y == k].mean(axis=0) for k in range(n_classes)])

    def d(f):
        return np.stack([np.sqrt(((f - c_k) ** 2).sum(axis=1)) for c_k in c], axis=1)

    s = d(train).mean(axis=0)
    e = np.exp(-d(new) / s)
    return e / e.sum(axis=1, keepdims=True)


def paper_decision(proba, logits, thresholds):
    """Leave at the first exit with max_k P >= T, with argmax_k P."""
    labels, exits = [], []
    for i in range(len(logits)):
        for j, t in enumerate(thresholds):
            if proba[j][i].max() >= t:
                labels.append(proba[j][i].argmax())
                exits.append(j)
                break
        else:
            labels.append(logits[i].argmax())
            exits.append(len(thresholds))
    return np.array(labels), np.array(exits)


@pytest.fixture(scope="module")
def paper(network, digits):
    X, y = digits
    train, _ = features_of(network, X[:1200])
    new, logits = features_of(network, X[1200:])
    pairs = zip(train, new, strict=True)
    return [paper_probabilities(f, y[:1200], g) for f, g in pairs], logits


@pytest.fixture(scope="module")
def clf(network, digits):
    X, y = digits
    clf = E2CMClassifier(
        TorchExtractor(network, EXITS),
        metric="euclidean",
        pooling="none",
        calibration=None,
        final="network",
    )
    return clf.fit(X[:1200], y[:1200])


def test_probabilities_are_the_papers(clf, paper, digits):
    X, _ = digits
    proba, logits = paper
    ours = clf.exit_proba(X[1200:])
    for j in range(3):
        np.testing.assert_allclose(ours[:, j], proba[j], atol=1e-5)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours[:, 3], softmax, atol=1e-5)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_every_sample_leaves_where_and_with_what_the_paper_says(
    clf, paper, digits, quantile
):
    X, _ = digits
    proba, logits = paper
    thresholds = [np.quantile(p.max(axis=1), quantile) for p in proba]
    labels, exits = paper_decision(proba, logits, thresholds)
    clear = np.ones(len(labels), dtype=bool)
    for p, t in zip(proba, thresholds, strict=True):
        clear &= abs(p.max(axis=1) - t) > 1e-5
    clf.set_params(threshold=thresholds)
    assert clear.mean() > 0.95
    assert len(set(exits)) > 1
    np.testing.assert_array_equal(clf.predict(X[1200:])[clear], labels[clear])
    np.testing.assert_array_equal(clf.predict_exit(X[1200:])[clear], exits[clear])
