"""What is saved in these tests: estimators over a small network of digits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, SGDClassifier

from sk_e2cm import (
    E2CMClassifier,
    E2CMClusterer,
    RiskControl,
    TorchExtractor,
    TunedExitsCV,
    load,
    save,
)

from .networks import small

EXITS = ["first", "second"]


def prefit(extractor, X, y):
    fitted = E2CMClassifier(extractor).fit(X, y)
    return TunedExitsCV(fitted, max_drop=0.1, cv="prefit")


# Makes of extractor, X and y an estimator.
ESTIMATORS = {
    "defaults": lambda extractor, X, y: E2CMClassifier(extractor),
    "as in the paper": lambda extractor, X, y: E2CMClassifier(
        extractor, metric="euclidean", calibration=None, pooling="none"
    ),
    "carrying": lambda extractor, X, y: E2CMClassifier(
        extractor, pooling="second_order", carry=1
    ),
    "dirichlet": lambda extractor, X, y: E2CMClassifier(
        extractor, calibration="dirichlet", threshold=[0.5, np.inf], shrinkage=0.2
    ),
    "logistic regression": lambda extractor, X, y: E2CMClassifier(
        extractor,
        final=LogisticRegression(max_iter=300, C=0.1),
        head=["class_means", LogisticRegression(max_iter=300)],
    ),
    "discriminant analysis": lambda extractor, X, y: E2CMClassifier(
        extractor,
        final=LinearDiscriminantAnalysis(),
        head=LinearDiscriminantAnalysis(),
    ),
    "gradient descent": lambda extractor, X, y: E2CMClassifier(
        extractor, final=SGDClassifier(loss="log_loss", random_state=0)
    ),
    "the network's head": lambda extractor, X, y: E2CMClassifier(
        extractor, final="network", head_classes=np.arange(10)
    ),
    "seconds": lambda extractor, X, y: E2CMClassifier(
        extractor, cost_unit="seconds", batch_size=64
    ),
    "clusters": lambda extractor, X, y: E2CMClusterer(extractor, 5, random_state=0),
    "mini-batch k-means": lambda extractor, X, y: E2CMClusterer(
        extractor, clusterer=MiniBatchKMeans(5, random_state=0), carry=1
    ),
    "tuned": lambda extractor, X, y: TunedExitsCV(
        E2CMClassifier(extractor, threshold=0.7),
        max_drop=0.1,
        risk=RiskControl(alpha=0.2),
        random_state=0,
    ),
    "tuned by class": lambda extractor, X, y: TunedExitsCV(
        E2CMClassifier(extractor), max_drop=0.1, per_class=True, random_state=0
    ),
    "tuned clusters": lambda extractor, X, y: TunedExitsCV(
        E2CMClusterer(extractor, 3, random_state=0), max_drop=0.1, random_state=0
    ),
    "tuned as it was fitted": prefit,
}


@dataclass
class Saved:
    """An estimator, its file, and what is loaded of it on other weights."""

    estimator: Any
    path: Path
    loaded: Any


@pytest.fixture(scope="session")
def some(digits):
    """Return 500 digits, fewer than a test of scikit-learn's would take."""
    X, y = digits
    return X[:500], y[:500]


@pytest.fixture(scope="session")
def extractor():
    return TorchExtractor(small(), EXITS)


@pytest.fixture(scope="session")
def clf(extractor, some):
    return E2CMClassifier(extractor).fit(*some)


@pytest.fixture(scope="session")
def path(clf, tmp_path_factory):
    """Return a file of `clf`."""
    path = tmp_path_factory.mktemp("saved") / "clf.safetensors"
    save(clf, path)
    return path


@pytest.fixture(scope="session", params=list(ESTIMATORS))
def saved(request, extractor, some, tmp_path_factory):
    estimator = ESTIMATORS[request.param](extractor, *some).fit(*some)
    path = tmp_path_factory.mktemp("saved") / "estimator.safetensors"
    save(estimator, path)
    return Saved(estimator, path, load(path, small(seed=1)))
