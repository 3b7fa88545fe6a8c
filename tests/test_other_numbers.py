"""Samples of other numbers than those of the fit are named, if they matter."""

import warnings

import numpy as np
import pytest

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

BYTES = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4)).astype(np.uint8)
UNIT = (BYTES / 255).astype(np.float32)
NORMALIZED = ((UNIT - 0.45) / 0.22).astype(np.float64)
TABLE = BYTES.reshape(60, -1) / 31  # up to 8.2
y = (BYTES.mean(axis=(1, 2, 3)) > 127).astype(int)


def fit(X):
    return E2CMClassifier(ToyExtractor()).fit(X, y)


@pytest.mark.parametrize(
    ("fitted", "given"),
    [
        (UNIT, BYTES),
        (NORMALIZED, BYTES),
        (UNIT, BYTES.astype(np.int64)),
        (BYTES, UNIT),
        (BYTES, NORMALIZED),
        (BYTES.astype(np.int64), UNIT),
        (UNIT > 0.5, BYTES),
    ],
    ids=str,
)
def test_numbers_of_another_kind_and_scale_are_named(fitted, given):
    clf = fit(fitted)
    with pytest.warns(UserWarning, match="X holds") as warned:
        clf.predict(given)
    (message,) = (str(each.message) for each in warned)
    assert f"holds {given.dtype}" in message
    assert f"fitted on {fitted.dtype}" in message


@pytest.mark.parametrize(
    ("fitted", "given"),
    [
        (BYTES, BYTES[:1]),
        (BYTES, BYTES.astype(np.float32)),
        (BYTES, np.zeros_like(UNIT)),
        (BYTES, BYTES / 2),
        (BYTES.astype(np.float32), BYTES),
        (BYTES.astype(np.int64), BYTES),
        (BYTES, BYTES.astype(np.int16)),
        (UNIT, NORMALIZED),
        (TABLE, TABLE.round().astype(int)),
        (TABLE, TABLE.round().astype(int).tolist()),
        (TABLE.round().astype(int), TABLE),
        (TABLE.round().astype(int), TABLE[:1]),
    ],
    ids=lambda X: str(np.asarray(X).dtype),
)
def test_other_types_of_the_same_size_are_taken_without_a_word(fitted, given):
    clf = fit(fitted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = clf.predict(given)
    assert len(labels) == len(given)


@pytest.mark.parametrize(
    "method", ["predict_proba", "predict_exit", "exit_proba", "cost"]
)
def test_every_prediction_says_so_once(method):
    clf = fit(UNIT)
    with pytest.warns(UserWarning, match="X holds uint8") as warned:
        getattr(clf, method)(BYTES)
    assert len(warned) == 1


def test_tuned_estimators_and_clusterers_say_so_too():
    search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.5).fit(UNIT, y)
    clusterer = E2CMClusterer(ToyExtractor(), 2, random_state=0).fit(UNIT)
    for estimator in (search, clusterer):
        with pytest.warns(UserWarning, match="X holds uint8"):
            estimator.predict(BYTES)
