"""What the loop asks of an extractor, and how it is asked."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_e2cm import E2CMClassifier, Extractor
from sk_e2cm._extractors import (
    RawFeatures,
    channel_axes_of,
    device_of,
    fingerprint_of,
    on_device,
    through,
)
from sk_e2cm.testing import CountingExtractor, ToyExtractor

from ..outputs import make_output


class Bare:
    """The five members, and no base class."""

    stage_names = ("a", "b", "c")

    def begin(self, X):
        return X

    def advance(self, state, stage):
        return state + stage, 10 * state

    def keep(self, state, rows):
        return state[rows]

    def macs(self, input_shape):
        return [1.0, 2.0, 3.0]


class Subclass(Bare, Extractor):
    pass


class Quicker(Bare):
    def advance_through(self, state, first, last):
        return "state", (first, last)


@pytest.mark.parametrize("extractor", [Bare(), Subclass()])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 2), (1, 2)])
def test_stages_are_by_default_computed_one_after_the_other(extractor, first, last):
    state = expected = np.arange(4.0)
    for stage in range(first, last + 1):
        expected, output = extractor.advance(expected, stage)
    state, found = through(extractor)(state, first, last)
    assert_array_equal(state, expected)
    assert_array_equal(found, output)


def test_an_extractor_may_know_a_quicker_way():
    assert through(Quicker())(None, 0, 2) == ("state", (0, 2))


def test_arrays_are_on_the_cpu():
    assert device_of(ToyExtractor()) == torch.device("cpu")


def test_an_extractor_says_where_its_tensors_are():
    extractor = Bare()
    extractor.device = torch.device("meta")
    assert device_of(extractor).type == "meta"
    assert CountingExtractor(extractor).device.type == "meta"
    assert not hasattr(CountingExtractor(Bare()), "device")


def test_a_fingerprint_stands_for_the_content():
    extractor = ToyExtractor()
    assert fingerprint_of(extractor) == fingerprint_of(ToyExtractor())
    assert fingerprint_of(extractor) != fingerprint_of(ToyExtractor(2))
    extractor.fingerprint = "toy 1"
    assert fingerprint_of(extractor) == "toy 1"


def test_raw_features_are_x_itself():
    X = make_output(5, 3)
    extractor = RawFeatures()
    state, output = extractor.advance(extractor.begin(X), 0)
    assert_array_equal(output, X)
    assert_array_equal(extractor.keep(state, np.array([3, 1])), X[[3, 1]])
    assert list(extractor.macs((3,))) == [0]


def test_without_a_device_an_extractor_stays_where_it_is():
    extractor = ToyExtractor()
    assert on_device(extractor, None) is extractor


def test_raw_features_need_no_device():
    extractor = RawFeatures()
    assert on_device(extractor, "cuda") is extractor


def test_a_device_asks_for_an_extractor_that_can_be_moved():
    with pytest.raises(ValueError, match=r"device='cpu'.*ToyExtractor"):
        on_device(ToyExtractor(), "cpu")


class Lacking(Bare):
    """Says of each member that it may do without that it has none."""

    to = advance_through = channel_axes = verify = None
    keep_all = join = uncut = layouts = fingerprint = None


def test_none_stands_for_a_member_that_is_lacking():
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    found, expected = (
        E2CMClassifier(each).fit(X, y).predict_proba(X) for each in (Lacking(), Bare())
    )
    assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"device='cpu'.*Lacking"):
        on_device(Lacking(), "cpu")


class Told(Bare):
    def __init__(self, *axes):
        self.axes = axes

    def channel_axes(self, input_shape):
        return self.axes


def test_an_extractor_may_tell_where_its_channels_are():
    assert channel_axes_of(Bare(), (4,)) == [None, None, None]
    assert channel_axes_of(Told(1, None, -1), (4,)) == [1, None, -1]


@pytest.mark.parametrize("axes", [(), (1,), (1, 1, 1, 1)])
def test_axes_of_other_stages_than_there_are_are_refused(axes):
    with pytest.raises(ValueError, match=r"Told\.channel_axes returned .* 3 stages"):
        channel_axes_of(Told(*axes), (4,))
