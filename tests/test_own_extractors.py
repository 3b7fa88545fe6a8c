"""Mistakes in an extractor of one's own are named: its class, and the member."""

import numpy as np
import pytest
import torch

from sk_e2cm import E2CMClassifier, Extractor
from sk_e2cm.testing import CountingExtractor, ToyExtractor

X = np.random.default_rng(0).normal(size=(60, 6))
y = (X[:, 0] + X[:, 3] > 0).astype(int)


class Mine(ToyExtractor):
    """Right, until a test changes a member."""


def with_member(name, member, base=Mine):
    return type("Mine", (base,), {name: member})()


def fitted(extractor):
    return E2CMClassifier(extractor, threshold=0.7).fit(X, y)


@pytest.mark.parametrize(
    "stage_names",
    [
        None,
        3,
        "abc",
        b"abc",
        [],
        [1, 2, 3],
        ["a", None],
        {"a", "b"},
        lambda self: ["a"],
    ],
)
def test_stage_names_of_another_kind(stage_names):
    extractor = with_member("stage_names", stage_names)
    with pytest.raises(ValueError, match=r"Mine\.stage_names must be a sequence"):
        fitted(extractor)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_stage_names_may_be_any_sequence(kind):
    extractor = with_member("stage_names", kind(["a", "b", "c"]))
    expected = fitted(Mine()).predict_proba(X)
    np.testing.assert_array_equal(fitted(extractor).predict_proba(X), expected)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("begin", lambda self: X),
        ("advance", lambda self, state: (state, state)),
        ("keep", None),
        ("keep", lambda self, state: state),
        ("macs", [1.0, 2.0, 3.0]),
        ("advance_through", lambda self, state, stages: (state, state)),
        ("to", "cpu"),
    ],
)
def test_a_member_that_cannot_be_called_as_it_will_be(name, member):
    with pytest.raises(ValueError, match=rf"Mine\.{name} must be a method that takes"):
        fitted(with_member(name, member))


@pytest.mark.parametrize("wrap", [lambda mine: mine, CountingExtractor])
@pytest.mark.parametrize("returned", [np.ones((2, 60)), None, (1, 2, 3), "ab"], ids=str)
def test_advance_that_does_not_return_two_values(returned, wrap):
    extractor = with_member("advance", lambda self, state, stage: returned)
    message = r"Mine\.advance must return two values, the state and the output, but it"
    with pytest.raises(TypeError, match=message):
        fitted(wrap(extractor))
    with pytest.raises(TypeError, match=message):
        next(extractor.staged_transform(X))


def test_advance_through_that_does_not_return_two_values():
    extractor = with_member("advance_through", lambda self, state, first, last: state)
    with pytest.raises(TypeError, match=r"Mine\.advance_through must return two"):
        fitted(extractor)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "returned no rows for 30 samples"),
        ({"a": 1}, "returned no rows for 30 samples"),
        (np.ones((29, 2)), r"returned 29 rows for 30 samples.*Mine\.advance\(\)"),
        ([[1.0], [1.0, 2.0]], r"output of Mine\.advance has parts of different shapes"),
        (
            torch.ones(30, 2, device="meta"),
            r"output of Mine\.advance is a tensor on the device 'meta'",
        ),
        (np.full((30, 2), "a"), "are no numbers but of type <U1"),
    ],
    ids=str,
)
def test_outputs_that_are_no_features(output, message):
    extractor = with_member("advance", lambda self, state, stage: (state, output))
    with pytest.raises(ValueError, match=message):
        fitted(extractor)


@pytest.mark.parametrize(
    "keep", [lambda self, state, rows: state, lambda self, state, rows: state[:1]]
)
def test_keep_that_returns_other_rows(keep):
    extractor = with_member("keep", keep)
    with pytest.raises(ValueError, match=r"returned \d+ rows? for .*Mine\.keep\(\)"):
        fitted(extractor)


@pytest.mark.parametrize(
    "costs",
    [None, 3.0, [1.0, 2.0], "abc", [1, "a", 2], [3, 2, 1], [1, np.nan, 2]],
    ids=str,
)
def test_macs_that_make_no_sense(costs):
    extractor = with_member("macs", lambda self, input_shape: costs)
    with pytest.raises(ValueError, match=r"Mine\.macs\(\) (must|has)"):
        fitted(extractor)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", 1.5, None], ids=str)
def test_a_device_that_is_not_there(device):
    extractor = with_member("device", device)
    with pytest.raises(ValueError, match=r"Mine\.device .* is not available here"):
        fitted(extractor)


def test_tensors_on_another_device_than_the_extractors():
    class Elsewhere(Extractor):
        stage_names = ("a", "b")
        device = "cpu"

        def begin(self, X):
            return torch.as_tensor(X, device="meta")

        def advance(self, state, stage):
            return state, state

        def keep(self, state, rows):
            return state[rows]

        def macs(self, input_shape):
            return [1.0, 2.0]

    message = (
        r"Elsewhere\.advance returned a tensor on meta, but Elsewhere\.device is cpu"
    )
    with pytest.raises(ValueError, match=message):
        fitted(Elsewhere())
