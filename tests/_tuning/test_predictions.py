"""What stages predict, kept in a few numbers for each sample."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._fitting._calibration import RULED_OUT
from sk_e2cm._tuning import _predictions
from sk_e2cm._tuning._predictions import StagePredictions, places_of


def make_proba(n_stages=4, n=50, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(n_classes), size=(n, n_stages))
    return proba, rng.integers(n_classes, size=n)


def in_parts(proba, codes, *batches):
    parts = [StagePredictions.from_proba(proba[rows], codes[rows]) for rows in batches]
    return StagePredictions.joined(parts)


@pytest.mark.parametrize(
    "batches",
    [[slice(None)], [slice(0, 50)], [slice(0, 7), slice(7, 8), slice(8, 50)]],
    ids=["all", "one slice", "three slices"],
)
def test_predictions_are_the_largest_probabilities_and_sums_by_class(batches):
    proba, codes = make_proba()
    predictions = in_parts(proba, codes, *batches)
    class_proba = np.zeros((3, 3))
    for stage in range(4):
        for i in range(50):
            assert predictions.label[stage, i] == proba[i, stage].argmax()
            assert predictions.confidence[stage, i] == max(proba[i, stage])
            if stage < 3:  # the last is no exit
                class_proba[codes[i]] += proba[i, stage]
    assert_allclose(predictions.class_proba(codes), class_proba, rtol=1e-12)
    assert_array_equal(predictions.classes, np.tile([0, 1, 2], (50, 1)))
    assert_allclose(predictions.last_log_proba, np.log(proba[:, 3]), rtol=1e-12)
    of_exits = np.log(proba[:, :3]).mean(axis=1)
    assert_allclose(predictions.exits_log_proba, of_exits, rtol=1e-12)


def test_blocks_in_any_order_are_the_same_predictions():
    proba, codes = make_proba()
    order = np.random.default_rng(1).permutation(50)

    def blocks_of(stage):
        return lambda: ((rows, proba[rows, stage]) for rows in np.split(order, [9, 30]))

    found = StagePredictions.from_blocks([*map(blocks_of, range(4))], codes, 3)
    expected = StagePredictions.from_proba(proba, codes)
    for name, value in vars(expected).items():
        assert_array_equal(getattr(found, name), value)


def test_of_equal_probabilities_the_first_is_predicted():
    proba = np.array([[[0.2, 0.4, 0.4]], [[0.5, 0.0, 0.5]]])
    predictions = StagePredictions.from_proba(proba, np.array([0, 1]))
    assert_array_equal(predictions.label, [[1, 0]])
    assert_array_equal(predictions.confidence, [[0.4, 0.5]])


def test_impossible_classes_have_finite_log_probabilities():
    proba = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    predictions = StagePredictions.from_proba(proba, np.array([0]))
    assert_allclose(predictions.last_log_proba, [[RULED_OUT, 0.0]])
    assert_allclose(predictions.exits_log_proba, [[0.0, RULED_OUT]])


def test_a_class_without_samples_adds_no_probabilities():
    proba, codes = make_proba()
    codes = np.where(codes == 1, 2, codes)
    found = StagePredictions.from_proba(proba, codes).class_proba(codes)
    assert_array_equal(found[1], 0.0)
    assert (found[[0, 2]] > 0).all()


def test_without_exits_there_are_no_probabilities_to_add():
    proba, codes = make_proba(n_stages=1)
    predictions = StagePredictions.from_proba(proba, codes)
    assert_array_equal(predictions.class_proba(codes), 0.0)
    assert_array_equal(predictions.confidence, proba.max(axis=2).T)


def test_of_many_classes_those_are_kept_that_matter_and_the_mean_of_the_others():
    proba, codes = make_proba(n_classes=300)
    predictions = StagePredictions.from_proba(proba, codes)
    n_kept = predictions.classes.shape[1]
    assert n_kept == _predictions._MOST_CLASSES + 4
    for i in range(50):
        kept = predictions.classes[i]
        assert (np.diff(kept) > 0).all()
        wanted = {codes[i], *predictions.label[:, i]}
        assert wanted <= set(kept)
        # Beside these, the last stage holds none of the others more likely.
        by_last = set(kept) - wanted
        others = np.setdiff1d(np.arange(300), kept)
        assert min(proba[i, 3, [*by_last]]) >= proba[i, 3, others].max()
        expected = np.append(proba[i, 3, kept], proba[i, 3, others].mean())
        assert_allclose(np.exp(predictions.last_log_proba[i]), expected)
        rest = np.log(proba[i, :3][:, others].mean(axis=1)).mean()
        assert_allclose(predictions.exits_log_proba[i, -1], rest)
    assert_array_equal(predictions.counts, [*[1] * n_kept, 300 - n_kept])


def test_places_are_where_a_class_stands():
    classes = np.array([[1, 4, 7], [0, 2, 9]])
    assert_array_equal(places_of(classes, np.array([7, 0])), [2, 0])
