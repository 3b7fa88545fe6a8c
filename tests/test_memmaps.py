"""Memory maps, which may be larger than memory: never copied as a whole."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

N, WIDTH = 1000, 2**14
SIZE = 4 * N * WIDTH
# A sample without weight, or many, among others.
WEIGHTS = {
    "all count": None,
    "one does not": np.where(np.arange(N) == 500, 0.0, 1.0),
    "many do not": np.where(np.arange(N) % 3 == 1, 0.0, 1.0),
}


@pytest.fixture(scope="module")
def y():
    return np.random.default_rng(0).integers(3, size=N)


@pytest.fixture(scope="module")
def mapped(y, tmp_path_factory):
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("memmap") / "X"
    X = np.memmap(path, np.float32, "w+", shape=(N, WIDTH))
    for rows in np.array_split(np.arange(N), 20):
        X[rows] = rng.random((len(rows), 1))
        X[rows, :6] = rng.normal(size=(len(rows), 6)) + 1.5 * y[rows, None]
    X.flush()
    return np.memmap(path, np.float32, "r", shape=(N, WIDTH))


class Small(ToyExtractor):
    """Features are kept, and are to be few beside the samples."""

    def begin(self, X):
        return X[:, :6].copy()


def make(estimator, *args, **params):
    return estimator(Small(), *args, batch_size=32, **params)


def fit_classifier(X, y, weight):
    return make(E2CMClassifier).fit(X, y, weight)


def fit_clusterer(X, y, weight):
    return make(E2CMClusterer, 3, random_state=0).fit(X, sample_weight=weight)


def fit_in_parts(X, y, weight):
    return make(E2CMClassifier).partial_fit(X, y, range(3), weight).finalize()


def tuned(**params):
    rng = np.random.default_rng(2)
    codes = np.arange(60) % 3
    normal = rng.normal(size=(60, WIDTH)) + 1.5 * codes[:, None]
    beforehand = normal.astype(np.float32), codes

    def fit(X, y, weight):
        clf = make(E2CMClassifier)
        if params["cv"] == "prefit":
            clf.fit(*beforehand)
        search = TunedExitsCV(clf, max_drop=0.1, random_state=0, **params)
        return search.fit(X, y, weight)

    return fit


FITS = {
    "classifier": fit_classifier,
    "clusterer": fit_clusterer,
    "partial fit": fit_in_parts,
    "tuned, fitted before": tuned(cv="prefit"),
    "tuned, folds": tuned(cv=3),
    "tuned, a part held out": tuned(cv=0.5, refit=False),
}


def peak_of(call):
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_fit_takes_a_part_of_the_memory_that_the_samples_would(
    fit, weight, mapped, y
):
    _, peak = peak_of(lambda: fit(mapped, y, weight))
    assert peak < SIZE / 3


@pytest.mark.parametrize("name", ["one does not", "many do not"])
@pytest.mark.parametrize(
    "fit", ["classifier", "clusterer", "partial fit", "tuned, fitted before"]
)
def test_samples_without_weight_might_as_well_be_missing(fit, name, mapped, y):
    weight, X = WEIGHTS[name], np.array(mapped[:50])
    used = weight > 0
    found = FITS[fit](mapped, y, weight)
    expected = FITS[fit](np.array(mapped[used]), y[used], weight[used])
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), atol=1e-9)
    if hasattr(found, "frontier_"):
        assert_allclose(found.frontier_["cost"], expected.frontier_["cost"])


@pytest.mark.parametrize("method", ["predict", "predict_exit", "exit_proba", "cost"])
def test_predictions_take_a_part_of_the_memory_that_the_samples_would(
    method, mapped, y
):
    fitted = fit_classifier(mapped[:200], y[:200], None)
    found, peak = peak_of(lambda: getattr(fitted, method)(mapped))
    assert peak < SIZE / 3
    assert_array_equal(found, getattr(fitted, method)(np.array(mapped)))


def test_scores_take_a_part_of_the_memory_that_the_samples_would(mapped, y):
    fitted = fit_classifier(mapped[:200], y[:200], None)
    weight = WEIGHTS["one does not"]
    score, peak = peak_of(lambda: fitted.score(mapped, y, weight))
    assert peak < SIZE / 3
    assert score == fitted.score(np.array(mapped), y, weight)


def test_numbers_of_another_kind_are_looked_at_in_parts(mapped, y):
    whole = np.arange(200 * WIDTH).reshape(200, WIDTH) % 7
    whole[:, :6] += 3 * y[:200, None]
    fitted = fit_classifier(whole, y[:200], None)
    _, peak = peak_of(lambda: fitted.predict(mapped))
    assert peak < SIZE / 3


def test_half_precision_is_looked_at_in_parts(y, tmp_path):
    # Its sum overflows, so that every number has to be looked at.
    X = np.memmap(tmp_path / "X", np.float16, "w+", shape=(N, WIDTH))
    X[:] = 50
    X[:, :6] += 3 * y[:, None] + np.random.default_rng(0).normal(size=(N, 6))
    fitted, peak = peak_of(lambda: fit_classifier(X, y, None))
    assert peak < X.nbytes / 3
    X[700, 9] = np.nan
    for call in (fitted.predict, lambda X: fit_classifier(X, y, None)):
        with pytest.raises(ValueError, match=r"Input X contains NaN.\nE2CMClassifier"):
            call(X)


@pytest.mark.filterwarnings("ignore:cost_unit='seconds' measures")
def test_seconds_are_measured_on_some_of_the_samples_that_count(mapped, y):
    clf = make(E2CMClassifier, cost_unit="seconds")
    assert clf.fit(mapped, y, WEIGHTS["many do not"]).seconds_.plain > 0
