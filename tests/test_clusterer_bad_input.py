"""Every mistake with a clusterer gives an error that says what is wrong."""

from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.cluster import DBSCAN, Birch, KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sk_e2cm import E2CMClusterer, TorchExtractor
from sk_e2cm.testing import CountingExtractor, ToyExtractor

X = np.random.default_rng(0).normal(size=(40, 6))
MANY = np.random.default_rng(1).normal(size=(300, 6))
SOME = np.arange(40) < 5
UNEQUAL = 1.0 + SOME


@pytest.fixture
def fitted():
    return E2CMClusterer(ToyExtractor(), 3, random_state=0).fit(X)


def with_value(value):
    bad = X.copy()
    bad[3, 1] = value
    return bad


class Predicts:
    """Finds whatever it is told to."""

    def __init__(self, predict):
        self.predict = predict

    def fit(self, X):
        pass


def as_column(X):
    return (X[:, :1] > 0).astype(int)


def all_but_one(X):
    return np.arange(len(X) - 1)


def nothing(X):
    return None


def one_name(X):
    return ["same"] * len(X)


class Mistake(NamedTuple):
    """What the message says, and what is wrong: parameters, data or weights."""

    match: str
    params: dict[str, Any] = {}
    X: Any = X
    sample_weight: Any = None
    error: type[Exception] = ValueError


NO_NUMBERS = r"NaN|infinity"
WRONG_THRESHOLD = r"threshold has shape .* shape \(2,\), .* shape \(2, 3\)"
ONE_FOUND = "has found one cluster only"
NO_PREDICT = "'clusterer' parameter .* implementing 'fit' and 'predict'"
NO_WEIGHTS = r"(?s)clusterer=.* does not take sample_weight\. Choose another"
WRONG_SHAPE = r"one label for each sample; for 40 samples .* of shape "

MISTAKES = {
    "more clusters than samples": Mistake(
        r"n_clusters=41 is more than .* n_samples=40", {"n_clusters": 41}
    ),
    "more clusters than samples that count": Mistake(
        r"n_clusters=6 .* n_samples=5.* weight zero do not count",
        {"n_clusters": 6},
        sample_weight=SOME.astype(float),
    ),
    "more clusters than samples, of a clusterer": Mistake(
        "n_samples=40 should be >= n_clusters=41", {"clusterer": KMeans(41)}
    ),
    "no clusters": Mistake("'n_clusters' parameter .* Got 0", {"n_clusters": 0}),
    "a clusterer that finds one cluster": Mistake(
        r"KMeans\(n_clusters=1\) has found one", {"clusterer": KMeans(1)}
    ),
    "one cluster with a name": Mistake(ONE_FOUND, {"clusterer": Predicts(one_name)}),
    "a clusterer of other features": Mistake(
        "X has 6 features, but KMeans is expecting 2",
        {"clusterer": FrozenEstimator(KMeans(2, random_state=0).fit(X[:, :2]))},
    ),
    "no predict": Mistake(NO_PREDICT, {"clusterer": DBSCAN()}),
    "no predict in a pipeline": Mistake(
        NO_PREDICT, {"clusterer": make_pipeline(StandardScaler(), DBSCAN())}
    ),
    "no clusterer at all": Mistake(NO_PREDICT, {"clusterer": "k-means"}),
    "labels in a column": Mistake(
        WRONG_SHAPE + r"\(40, 1\)", {"clusterer": Predicts(as_column)}
    ),
    "too few labels": Mistake(
        WRONG_SHAPE + r"\(39,\)", {"clusterer": Predicts(all_but_one)}
    ),
    "no labels": Mistake(WRONG_SHAPE + r"\(\)", {"clusterer": Predicts(nothing)}),
    "NaN": Mistake(NO_NUMBERS, X=with_value(np.nan)),
    "infinity": Mistake(NO_NUMBERS, X=with_value(np.inf)),
    "strings": Mistake("X has values of type <U", X=X.astype(str)),
    "no samples": Mistake("0 sample", X=X[:0]),
    "sparse": Mistake("[Ss]parse", X=sparse.csr_array(X), error=TypeError),
    "one sample": Mistake("1D array", X=X[0]),
    "names of two types": Mistake(
        "feature names", X=pd.DataFrame(X, columns=[*"abcde", 6]), error=TypeError
    ),
    "a bare network": Mistake(
        r"torch module, Linear\. Cut it", {"extractor": nn.Linear(6, 2)}
    ),
    "a network of other data": Mistake(
        r"does not take samples of shape \(6,\)",
        {"extractor": TorchExtractor(nn.Sequential(nn.Linear(5, 4), nn.ReLU()), ["0"])},
    ),
    "no extractor": Mistake("must be an object like", {"extractor": "resnet18"}),
    "one threshold too many": Mistake(WRONG_THRESHOLD, {"threshold": [0.1, 0.2, 0.3]}),
    "thresholds of other clusters": Mistake(
        WRONG_THRESHOLD, {"threshold": np.ones((2, 4))}
    ),
    "no thresholds": Mistake(WRONG_THRESHOLD, {"threshold": []}),
    "a threshold of NaN": Mistake("threshold contains NaN", {"threshold": np.nan}),
    "negative weights": Mistake("[Nn]egative", sample_weight=-UNEQUAL),
    "weights of zero": Mistake("zero", sample_weight=np.zeros(40)),
    "too few weights": Mistake("sample_weight.shape", sample_weight=UNEQUAL[:39]),
    "weights for a clusterer without": Mistake(
        NO_WEIGHTS, {"clusterer": Birch(n_clusters=3)}, sample_weight=UNEQUAL
    ),
    "weights for a pipeline": Mistake(
        NO_WEIGHTS,
        {"clusterer": make_pipeline(StandardScaler(), KMeans(3))},
        sample_weight=UNEQUAL,
    ),
    "a metric of its own": Mistake("'metric' parameter", {"metric": "cosine"}),
}


def assert_refused(fitted, mistake):
    """Fit with the mistake; nothing of what was fitted before is another."""
    before, content = dict(vars(fitted)), joblib.hash(vars(fitted))
    good = {name: getattr(fitted, name) for name in mistake.params}
    fitted.set_params(**mistake.params)
    with pytest.raises(mistake.error, match=mistake.match):
        fitted.fit(mistake.X, sample_weight=mistake.sample_weight)
    fitted.set_params(**good)
    assert vars(fitted) == before
    assert joblib.hash(vars(fitted)) == content


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_failed_fit_says_why_and_changes_nothing(fitted, mistake):
    assert_refused(fitted, mistake)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("extractor", [None, ToyExtractor()], ids=repr)
def test_samples_that_do_not_differ_are_one_cluster(fitted, extractor):
    params = {"extractor": extractor}
    assert_refused(fitted, Mistake(ONE_FOUND, params, X=np.ones((40, 6))))


@pytest.mark.parametrize("clusterer", [None, KMeans(150, random_state=0)])
def test_a_cluster_that_the_working_memory_leaves_without_samples(fitted, clusterer):
    params = {"n_clusters": 150, "clusterer": clusterer}
    match = r"features of 100 of 300 samples fit into .* working_memory, and none"
    with sklearn.config_context(working_memory=1e-5):
        assert_refused(fitted, Mistake(match, params, X=MANY))
        # Without exits there is nothing to keep.
        alone = E2CMClusterer(n_clusters=150, random_state=0).fit(MANY)
    assert len(alone.cluster_centers_) == 150
    fitted.set_params(**params).fit(MANY)
    assert len(fitted.stage_centers_[0]) == 150


def test_fewer_distinct_samples_than_clusters_are_clusters_each(fitted):
    table = np.repeat(X[:3], 20, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(3\)"):
        fitted.set_params(n_clusters=5).fit(table)
    assert set(fitted.labels_) == {0, 1, 2}
    np.testing.assert_allclose(fitted.cluster_centers_[fitted.labels_], table)
    assert fitted.exit_proba(X).shape == (40, 3, 3)


def test_as_many_samples_as_clusters_are_enough(fitted):
    fitted.fit(X, sample_weight=np.arange(40) < 3).set_params(threshold=np.inf)
    assert sorted(fitted.labels_[:3]) == [0, 1, 2]
    centers = fitted.cluster_centers_[fitted.labels_[:3]]
    np.testing.assert_allclose(centers, X[:3])
    assert fitted.inertia_ == pytest.approx(0)


def test_a_clusterer_without_weights_takes_weights_that_are_equal(fitted):
    fitted.set_params(clusterer=Birch(n_clusters=3))
    fitted.fit(X[SOME])
    expected = fitted.labels_
    fitted.fit(X, sample_weight=2 * SOME)  # and those of weight 0 are left out
    np.testing.assert_array_equal(fitted.labels_[SOME], expected)


def in_place(copy):
    return make_pipeline(StandardScaler(copy=copy), KMeans(3, random_state=0))


def test_a_clusterer_that_works_in_place_finds_the_same_clusters():
    table = X * [1, 2, 3, 4, 50, 600]
    fits = [
        E2CMClusterer(ToyExtractor(), clusterer=in_place(copy)).fit(table.copy())
        for copy in (True, False)
    ]
    np.testing.assert_array_equal(*[fit.labels_ for fit in fits])
    np.testing.assert_allclose(*[fit.cluster_centers_ for fit in fits])


@pytest.mark.parametrize("method", ["predict", "exit_proba"])
def test_a_clusterer_that_works_in_place_does_not_write_to_the_input(method):
    clusterer = E2CMClusterer(ToyExtractor(), clusterer=in_place(False))
    clusterer.fit(X.copy()).set_params(threshold=np.inf)
    given = X.copy()
    getattr(clusterer, method)(given)
    np.testing.assert_array_equal(given, X)


def test_a_threshold_above_all_probabilities_is_warned_of(fitted):
    with pytest.warns(UserWarning, match="nothing will leave early"):
        fitted.set_params(threshold=1.5).fit(X)


METHODS = ["predict", "predict_exit", "exit_proba", "transform", "cost"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (X[:, :5], "X has 5 features, but E2CMClusterer is expecting 6"),
        (X.reshape(40, 2, 3), r"samples of shape \(2, 3\), but .* shape \(6,\)"),
        (X[0], "1D array"),
        (X[:0], "0 sample"),
        (with_value(np.nan), "NaN"),
        (with_value(-np.inf), "infinity"),
        (X.astype(str), "X has values of type <U"),
        (sparse.csr_array(X), "[Ss]parse"),
        ([[1, 2], [3]], "different shapes"),
    ],
    ids=["width", "shape", "flat", "none", "nan", "inf", "text", "sparse", "ragged"],
)
def test_a_prediction_for_what_was_not_fitted(fitted, method, bad, match):
    error = TypeError if sparse.issparse(bad) else ValueError
    with pytest.raises(error, match=match):
        getattr(fitted, method)(bad)


@pytest.mark.parametrize("method", METHODS)
def test_use_before_the_fit(method):
    clusterer = E2CMClusterer(ToyExtractor())
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(clusterer, method)(X)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        next(clusterer.staged_predict(X))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        clusterer.get_feature_names_out()
    assert not hasattr(clusterer, "stage_cost_")
    assert not hasattr(clusterer, "n_iter_")


@pytest.mark.parametrize("threshold", [[0.5], np.ones((3, 2)), np.nan], ids=str)
def test_a_wrong_threshold_for_a_fitted_estimator(fitted, threshold):
    fitted.set_params(threshold=threshold)
    for use in (fitted.predict, fitted.predict_exit, fitted.cost):
        with pytest.raises(ValueError, match=r"threshold (contains NaN|has shape)"):
            use(X)


@pytest.mark.parametrize("X_of", [lambda X: X, torch.from_numpy, np.ndarray.tolist])
def test_arrays_tensors_and_lists_are_taken_alike(fitted, X_of):
    labels = E2CMClusterer(ToyExtractor(), 3, random_state=0).fit_predict(X_of(X))
    np.testing.assert_array_equal(labels, fitted.labels_)
    np.testing.assert_array_equal(fitted.predict(X_of(X)), fitted.predict(X))


def test_parameters_of_the_clusterer_are_validated():
    X = np.random.default_rng(0).normal(size=(40, 3))
    for clusterer in (KMeans(3, tol=-1.0), make_pipeline(KMeans(3, n_init=0))):
        with pytest.raises(ValueError, match="parameter of KMeans must be"):
            E2CMClusterer(clusterer=clusterer).fit(X)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=str)
def test_a_cluster_without_a_name(missing):
    names = np.array(["a", missing], dtype=object)
    named = Predicts(lambda X: names[(X[:, 0] > 0).astype(int)])
    with pytest.raises(ValueError, match=r"clusterer=.*Predicts.* contains NaN, None"):
        E2CMClusterer(ToyExtractor(), clusterer=named).fit(X)


@pytest.mark.parametrize("clusterer", [LogisticRegression(), LinearRegression()])
def test_what_needs_labels_is_no_clusterer(clusterer):
    with pytest.raises(
        ValueError, match=r"clusterer=.*Regression\(\) cannot be fitted"
    ):
        E2CMClusterer(ToyExtractor(), clusterer=clusterer).fit(X)


@pytest.mark.parametrize(
    ("threshold", "clusterer"),
    [
        ([0.5], None),
        (np.ones((2, 4)), None),
        ([0.5], KMeans(3)),
        (np.ones((3, 3)), KMeans(3)),
        ("high", None),
        (np.nan, KMeans(3)),
    ],
    ids=str,
)
def test_a_wrong_threshold_is_refused_before_the_network_runs(threshold, clusterer):
    extractor = CountingExtractor(ToyExtractor())
    model = E2CMClusterer(extractor, 3, clusterer=clusterer, threshold=threshold)
    with pytest.raises(ValueError, match="threshold"):
        model.fit(X)
    assert not extractor.rows.any()
