"""The extractors that users test with."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone

from sk_e2cm import E2CMClassifier, Extractor, TorchExtractor
from sk_e2cm._multi_exit._full_pass import fingerprint_of
from sk_e2cm.testing import CountingExtractor, ToyExtractor


def widths_of(n_features, n_stages):
    """Return j/J of the features, rounded up, in whole numbers."""
    return [-(-j * n_features // n_stages) for j in range(1, n_stages + 1)]


@pytest.mark.parametrize("n_stages", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (10,), (1, 4), (2, 3, 4), (3, 1)])
def test_toy_stages_see_more_and_more_of_any_sample(shape, n_stages):
    X = np.random.default_rng(0).normal(size=(6, *shape))
    flat = X.reshape(6, -1)
    outputs = list(ToyExtractor(n_stages).staged_transform(X))
    widths = widths_of(flat.shape[1], n_stages)
    assert widths[-1] == flat.shape[1]
    for output, width in zip(outputs, widths, strict=True):
        assert_array_equal(output, flat[:, :width])


@pytest.mark.parametrize(("n_stages", "n_features"), [(25, 25), (14, 42), (7, 49)])
def test_toy_stages_round_up_exactly(n_stages, n_features):
    outputs = ToyExtractor(n_stages).staged_transform(np.zeros((1, n_features)))
    widths = [output.shape[1] for output in outputs]
    assert widths == widths_of(n_features, n_stages)


def test_toy_stages_have_names():
    assert ToyExtractor(2).stage_names == ("part1", "part2")


def test_a_toy_state_is_reduced_to_any_rows():
    X = np.random.default_rng(0).normal(size=(6, 2, 2))
    extractor = ToyExtractor(2)
    state, _ = extractor.advance(extractor.begin(X), 0)
    rows = np.array([4, 1])
    _, output = extractor.advance(extractor.keep(state, rows), 1)
    assert_array_equal(output, X.reshape(6, 4)[rows])


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_a_toy_stage_costs_1000_for_every_feature_seen(shape):
    widths = widths_of(int(np.prod(shape)), 3)
    assert list(ToyExtractor(3).macs(shape)) == [1000 * width for width in widths]


def test_a_toy_extractor_does_not_write_to_x():
    X = np.random.default_rng(0).normal(size=(6, 4))
    X.flags.writeable = False
    assert [output.shape for output in list(ToyExtractor(2).staged_transform(X))] == [
        (6, 2),
        (6, 4),
    ]


@pytest.mark.parametrize(
    "extractor", [ToyExtractor(2), CountingExtractor(ToyExtractor())]
)
def test_copies_are_the_extractor_itself(extractor):
    assert isinstance(extractor, Extractor)
    assert copy.copy(extractor) is extractor
    assert copy.deepcopy(extractor) is extractor
    assert clone(E2CMClassifier(extractor)).extractor is extractor


@pytest.mark.parametrize(
    "extractor", [ToyExtractor(2), CountingExtractor(ToyExtractor())]
)
def test_the_repr_makes_the_extractor_again(extractor):
    again = eval(repr(extractor))
    assert repr(again) == repr(extractor)
    assert fingerprint_of(again) == fingerprint_of(extractor)


def test_counting_starts_at_zero_and_adds_up():
    extractor = CountingExtractor(ToyExtractor(3))
    assert_array_equal(extractor.rows, [0, 0, 0])
    list(extractor.staged_transform(np.zeros((5, 4))))
    list(extractor.staged_transform(np.zeros((2, 4))))
    assert_array_equal(extractor.rows, [7, 7, 7])


def test_counting_counts_the_rows_that_were_kept():
    extractor = CountingExtractor(ToyExtractor(3))
    state, _ = extractor.advance(extractor.begin(np.zeros((5, 4))), 0)
    state, _ = extractor.advance(extractor.keep(state, np.array([0, 3])), 1)
    extractor.advance(extractor.keep(state, np.array([1])), 2)
    assert_array_equal(extractor.rows, [5, 2, 1])


def test_counts_may_be_reset():
    extractor = CountingExtractor(ToyExtractor(2))
    list(extractor.staged_transform(np.zeros((5, 4))))
    extractor.rows[:] = 0
    list(extractor.staged_transform(np.zeros((3, 4))))
    assert_array_equal(extractor.rows, [3, 3])


def test_counting_changes_nothing_of_what_it_counts():
    X = np.random.default_rng(0).normal(size=(6, 4))
    toy = ToyExtractor(3)
    counting = CountingExtractor(toy)
    assert counting.stage_names == toy.stage_names
    assert_array_equal(counting.macs((4,)), toy.macs((4,)))
    for found, expected in zip(
        list(counting.staged_transform(X)), list(toy.staged_transform(X)), strict=True
    ):
        assert_array_equal(found, expected)


def test_counting_keeps_the_rows_asked_for():
    X = np.random.default_rng(0).normal(size=(6, 4))
    extractor = CountingExtractor(ToyExtractor(2))
    state, _ = extractor.advance(extractor.begin(X), 0)
    rows = np.array([5, 0])
    _, output = extractor.advance(extractor.keep(state, rows), 1)
    assert_array_equal(output, X[rows])


def test_counting_shares_the_fingerprint_of_what_it_counts():
    counting = CountingExtractor(ToyExtractor(3))
    assert counting.fingerprint == fingerprint_of(ToyExtractor(3))
    list(counting.staged_transform(np.zeros((5, 4))))
    assert counting.fingerprint == fingerprint_of(ToyExtractor(3))
    assert counting.fingerprint != CountingExtractor(ToyExtractor(2)).fingerprint
    assert CountingExtractor(counting).fingerprint == counting.fingerprint


def test_estimators_with_and_without_counting_predict_the_same():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 6)), np.arange(60) % 3
    plain = E2CMClassifier(ToyExtractor(3), threshold=0.4).fit(X, y)
    counting = CountingExtractor(ToyExtractor(3))
    counted = E2CMClassifier(counting, threshold=0.4).fit(X, y)
    assert_array_equal(counting.rows, [60, 60, 60])
    assert_array_equal(counted.predict_proba(X), plain.predict_proba(X))


def test_counting_tells_where_channels_are_if_anybody_does():
    assert CountingExtractor(ToyExtractor(2)).channel_axes((4,)) == [None, None]
    network = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 1), torch.nn.Flatten())
    extractor = TorchExtractor(network, ["0"])
    assert CountingExtractor(extractor).channel_axes((2, 5)) == [1, None]
