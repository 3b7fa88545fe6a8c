"""Thresholds by class, worked out by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sk_e2cm._tuning._starts import _RANGES, class_based_thresholds

# Their quantiles are plain numbers.
CONFIDENCE = np.linspace(0.0, 1.0, 101)[:, None].repeat(3, axis=1).T
CLASS_PROBA = np.array(
    [
        [0.85, 0.10, 0.05, 0.00],  # 0.75 between the two largest
        [0.40, 0.35, 0.05, 0.20],  # 0.05
        [0.10, 0.20, 0.60, 0.10],  # 0.40
        [0.00, 0.10, 0.30, 0.60],  # 0.30
    ]
)
# From 0 for the easiest class to 1 for the hardest.
HARDNESS = [0.0, 1.0, 0.5, 0.45 / 0.7]


def test_each_class_has_its_place_between_the_lowest_and_the_highest_threshold():
    found = class_based_thresholds(CLASS_PROBA, CONFIDENCE)
    assert len(found) == len(_RANGES)
    for thresholds, (alpha, beta) in zip(found, _RANGES, strict=True):
        expected = [alpha + (beta - alpha) * hardness for hardness in HARDNESS]
        assert_allclose(thresholds, [expected] * 3, rtol=0, atol=1e-12)


def test_the_easiest_class_has_the_lowest_threshold_and_the_hardest_the_highest():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1.0, (2, 50))
    class_proba = rng.dirichlet(np.ones(6), size=6)
    gaps = [max(row) - sorted(row)[-2] for row in class_proba]
    easiest_first = np.argsort(gaps)[::-1]
    for thresholds, limits in zip(
        class_based_thresholds(class_proba, confidence), _RANGES, strict=True
    ):
        alpha, beta = np.quantile(confidence.ravel(), limits)
        assert_allclose(thresholds[:, easiest_first[0]], alpha, rtol=1e-12)
        assert_allclose(thresholds[:, easiest_first[-1]], beta, rtol=1e-12)
        assert (np.diff(thresholds[:, easiest_first]) > 0).all()
        assert (thresholds[0] == thresholds[1]).all()  # the same at all exits


def test_the_ranges_rise():
    for alpha, beta in _RANGES:
        assert 0 <= alpha < beta <= 1


@pytest.mark.parametrize("n_samples", [1.0, 7.0, np.array([[1.0], [50], [3], [200]])])
def test_sums_over_samples_and_exits_do_as_well_as_means(n_samples):
    expected = class_based_thresholds(CLASS_PROBA, CONFIDENCE)
    found = class_based_thresholds(CLASS_PROBA * n_samples, CONFIDENCE)
    assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_order_of_the_probabilities_does_not_matter():
    # What a class is mistaken for, or that it mostly is, does not make it harder.
    expected = class_based_thresholds(CLASS_PROBA, CONFIDENCE)
    found = class_based_thresholds(CLASS_PROBA[:, [2, 0, 3, 1]], CONFIDENCE)
    assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_classes_equally_easy_all_have_the_lowest_threshold():
    class_proba = np.full((4, 4), 0.125) + 0.5 * np.eye(4)
    for thresholds, (alpha, _) in zip(
        class_based_thresholds(class_proba, CONFIDENCE), _RANGES, strict=True
    ):
        assert_allclose(thresholds, alpha, rtol=0, atol=1e-12)


def test_a_class_without_samples_counts_among_the_hardest():
    class_proba = CLASS_PROBA.copy()
    class_proba[2] = 0.0
    for thresholds, (_, beta) in zip(
        class_based_thresholds(class_proba, CONFIDENCE), _RANGES, strict=True
    ):
        assert_allclose(thresholds[:, 2], beta, rtol=0, atol=1e-12)
        assert (thresholds[:, [0, 1, 3]] < beta).all()
