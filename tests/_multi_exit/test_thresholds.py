"""Thresholds: their shape, and the decision to leave."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_e2cm._multi_exit._thresholds import (
    check_thresholds,
    first_exit,
    is_closed,
    stays,
)

from ..references import leave

INF, NAN = np.inf, np.nan

# The shape


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.5, [[0.5]] * 2),
        (np.float32(0.5), [[0.5]] * 2),
        (1, [[1.0]] * 2),
        (INF, [[INF]] * 2),
        ([0.5, INF], [[0.5], [INF]]),
        ((0, 1), [[0.0], [1.0]]),
        ([[1, 2, 3], [4, 5, INF]], [[1.0, 2.0, 3.0], [4.0, 5.0, INF]]),
    ],
)
def test_thresholds_are_brought_into_shape(threshold, expected):
    found = check_thresholds(threshold, n_exits=2, n_classes=3)
    assert found.dtype == np.float64
    assert found.tolist() == expected


def test_with_as_many_exits_as_classes_a_list_has_one_number_for_each_exit():
    found = check_thresholds([0.1, 0.2], n_exits=2, n_classes=2)
    assert found.tolist() == [[0.1], [0.2]]


@pytest.mark.parametrize(
    ("threshold", "n_groups"), [(0.9, 1), ([], 1), (np.ones((0, 3)), 3)], ids=str
)
def test_without_exits_there_are_no_thresholds(threshold, n_groups):
    found = check_thresholds(threshold, n_exits=0, n_classes=3)
    assert found.shape == (0, n_groups)


@pytest.mark.parametrize(
    "shape", [(0,), (1,), (3,), (3, 2), (2, 1), (1, 3), (2, 4), (2, 3, 1)]
)
def test_thresholds_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="threshold has shape") as error:
        check_thresholds(np.ones(shape), n_exits=2, n_classes=3)
    assert str(shape) in str(error.value)
    assert "(2, 3), one per exit and class" in str(error.value)


@pytest.mark.parametrize("threshold", [NAN, [0.5, NAN], [[NAN] * 3] * 2])
def test_a_threshold_of_nan_is_refused(threshold):
    with pytest.raises(ValueError, match="NaN"):
        check_thresholds(threshold, n_exits=2, n_classes=3)


@pytest.mark.parametrize(
    ("thresholds", "closed"),
    [
        ([[INF, INF], [INF, 0.5], [2.0, 2.0], [0.0, 0.0]], [True, False, False, False]),
        ([[INF], [1e300]], [True, False]),
        (np.ones((0, 3)), []),
        ([[-INF, -INF]], [False]),
    ],
)
def test_an_exit_is_closed_if_no_class_can_leave_by_it(thresholds, closed):
    assert is_closed(np.array(thresholds)).tolist() == closed


# The decision

DECISIONS = [
    ([0.7, 0.2, 0.1], [0.6, 0.9, 0.9], True),
    ([0.7, 0.2, 0.1], [0.8, 0.1, 0.1], False),  # other classes' do not matter
    ([0.1, 0.2, 0.7], [0.0, 0.0, 0.8], False),
    ([0.1, 0.2, 0.7], [INF, INF, 0.7], True),  # reaching it is enough
    ([0.25, 0.5, 0.25], [0.0, np.nextafter(0.5, 1), 0.0], False),
    ([0.4, 0.4, 0.2], [0.4, 0.9, 0.9], True),  # of equals the first is meant
    ([0.4, 0.4, 0.2], [0.9, 0.4, 0.4], False),
    ([1.0, 0.0, 0.0], [INF, 0.0, 0.0], False),
    ([0.4, 0.3, 0.3], [-INF, INF, INF], True),
    ([0.7, 0.2, 0.1], [0.7], True),  # one for all classes
    ([0.1, 0.2, 0.7], [np.nextafter(0.7, 1)], False),
    ([NAN, NAN, NAN], [0.9, 0.9, 0.9], True),  # so that its stage is known
    ([NAN, NAN, NAN], [INF], True),
]


@pytest.mark.parametrize(("proba", "thresholds", "leaves"), DECISIONS)
def test_the_threshold_of_the_predicted_class_decides(proba, thresholds, leaves):
    proba, thresholds = np.array([proba]), np.array(thresholds)
    confidence, label = proba.max(axis=1), proba.argmax(axis=1)
    assert stays(confidence, label, thresholds).tolist() == [not leaves]
    if np.isnan(confidence).any():
        return  # not to be had from probabilities
    expected = [0 if leaves else 1]
    shared = thresholds if len(thresholds) == 1 else thresholds[None]
    assert first_exit(np.stack([proba] * 2, 1), shared).tolist() == expected


@pytest.mark.parametrize(("proba", "thresholds", "leaves"), DECISIONS)
def test_tensors_are_decided_on_as_arrays_are(proba, thresholds, leaves):
    proba = torch.tensor([proba], dtype=torch.float64)
    thresholds = torch.tensor(thresholds, dtype=torch.float64)
    confidence, label = proba.max(dim=1)
    found = stays(confidence, label, thresholds)
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [not leaves]
    # The loop passes one sample's as a number, and thresholds that classes share too.
    assert bool(stays(confidence.item(), label, thresholds)) is not leaves
    if len(thresholds) == 1:
        assert stays(confidence, label, thresholds.item()).tolist() == [not leaves]


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_every_sample_is_held_against_the_threshold_of_its_own_class(kind):
    confidence = kind(np.array([0.6, 0.6, 0.6, 0.9]))
    label = kind(np.array([2, 0, 1, 0]))
    found = stays(confidence, label, kind(np.array([0.8, 0.6, 0.5])))
    assert found.tolist() == [False, True, False, False]
    assert stays(confidence, label, 0.7).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    "threshold",
    [0.5, [0.7, 0.5, 0.4], [INF, 0.5, INF], [[0.4, 0.6, INF]] * 3, INF, -INF, 1.5],
    ids=str,
)
def test_first_exit_is_the_first_where_a_sample_does_not_stay(threshold):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1, 1], size=(200, 4))
    thresholds = check_thresholds(threshold, n_exits=3, n_classes=3)
    stage, _ = leave(proba, np.broadcast_to(thresholds, (3, 3)))
    assert_array_equal(first_exit(proba, threshold), stage)


def test_without_exits_everyone_leaves_at_the_only_stage():
    proba = np.random.default_rng(0).dirichlet([1, 1, 1], size=(20, 1))
    for threshold in (0.5, np.ones(0), np.ones((0, 3))):
        assert_array_equal(first_exit(proba, threshold), np.zeros(20))
