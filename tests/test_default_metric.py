"""Whitened class means by default, and Euclidean ones where they cannot be had."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits, load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from sk_e2cm import E2CMClassifier, E2CMClusterer
from sk_e2cm._fitting import _statistics
from sk_e2cm.testing import ToyExtractor

X, y = load_digits(return_X_y=True)


def classifier(**params):
    return E2CMClassifier(ToyExtractor(), **params)


def clusterer(**params):
    return E2CMClusterer(ToyExtractor(), 10, random_state=0, **params)


BOTH = pytest.mark.parametrize(
    ("make", "n_fitted"), [(classifier, 3), (clusterer, 2)], ids=["classes", "clusters"]
)


def test_class_means_are_whitened_by_default():
    X, y = load_wine(return_X_y=True)
    ours = E2CMClassifier(calibration=None, shrinkage=0.0).fit(X, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    assert ours.metric_ == ["mahalanobis"]
    assert ours.metric_reason_ is None


@BOTH
def test_ten_distinct_samples_for_each_class_are_enough(make, n_fitted):
    fitted = make().fit(X[:100], y[:100])
    assert fitted.metric_ == ["mahalanobis"] * n_fitted
    assert fitted.metric_reason_ is None


@BOTH
@pytest.mark.parametrize("calibration", ["temperature", "dirichlet", None])
def test_fewer_samples_have_the_euclidean_metric(make, n_fitted, calibration):
    few = X[:99], y[:99]
    fitted = make(calibration=calibration).fit(*few)
    assert fitted.metric_ == ["euclidean"] * n_fitted
    for what in ("metric='mahalanobis'", "at least 100 distinct", "there are 99"):
        assert what in fitted.metric_reason_
    euclidean = make(calibration=calibration, metric="euclidean").fit(*few)
    assert_allclose(fitted.exit_proba(X), euclidean.exit_proba(X))
    assert euclidean.metric_reason_ is None


def test_samples_that_are_repeated_or_weigh_nothing_do_not_count():
    rows = np.r_[np.arange(90), np.arange(90)]
    assert classifier().fit(X[rows], y[rows]).metric_[0] == "euclidean"
    weight = np.where(np.arange(150) < 90, 5.0, 0.0)
    assert classifier().fit(X[:150], y[:150], weight).metric_[0] == "euclidean"


@BOTH
def test_stages_with_too_many_features_have_the_euclidean_metric(
    make, n_fitted, monkeypatch
):
    monkeypatch.setattr(_statistics, "MOST_FEATURES", 30)
    # The stages see 22, 43 and 64 features.
    fitted = make().fit(X[:100], y[:100])
    assert fitted.metric_ == ["mahalanobis", "euclidean", "euclidean"][:n_fitted]
    assert str(["part2", "part3"][: n_fitted - 1]) in fitted.metric_reason_
    euclidean = make(metric="euclidean").fit(X[:100], y[:100])
    found, expected = (each.exit_proba(X)[:, 1:] for each in (fitted, euclidean))
    assert_allclose(found, expected)
