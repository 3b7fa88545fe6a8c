"""States of several batches, joined after a stage."""

from collections import namedtuple

import pytest
import torch

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._rows import Constant, Count, Each, Rows

from .helpers import assert_close, at_seed, uncut
from .networks import (
    ConstantAlive,
    FoldedAlive,
    LSTMStateAlive,
    MultipleOfRowCountAlive,
    Plain,
    RowCountAlive,
    ShapeAlive,
    SkipAcross,
    TwoAlive,
)

NETWORKS = [
    Plain,
    SkipAcross,
    TwoAlive,
    RowCountAlive,
    MultipleOfRowCountAlive,
    ShapeAlive,
    FoldedAlive,
    ConstantAlive,
    LSTMStateAlive,
]


@pytest.mark.parametrize("make", NETWORKS)
def test_joined_batches_are_computed_as_one(make):
    network = at_seed(0, make)
    X = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    names = ["second", "third"]
    extractor = TorchExtractor(network, names)
    expected = uncut(network, names, X)
    rows = [[4, 0], [7], [1, 2, 8]]
    for stage in range(2):
        states = []
        for batch in rows:
            state = extractor.begin(X)
            for before in range(stage + 1):
                state, _ = extractor.advance(state, before)
            states.append(extractor.keep(state, torch.tensor(batch)))
        state = extractor.join(states)
        together = [row for batch in rows for row in batch]
        for after in range(stage + 1, 3):
            state, output = extractor.advance(state, after)
            assert_close(output, expected[after][together])


def test_joined_batches_keep_the_memory_format():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)
    ).to(memory_format=torch.channels_last)
    extractor = TorchExtractor(network, ["1"])
    X = torch.randn(3, 2, 8, 8).to(memory_format=torch.channels_last)
    states = [extractor.advance(extractor.begin(X), 0)[0] for _ in range(2)]
    (value,) = extractor.join(states).values
    assert value.is_contiguous(memory_format=torch.channels_last)


def test_rules_join_values_as_they_keep_them():
    a, b = torch.arange(6).reshape(1, 2, 3), torch.arange(12).reshape(1, 4, 3)
    assert Rows(1, 2).join([a, b]).shape == (1, 6, 3)
    assert Count(2).join([4, 6]) == 10
    constant = torch.ones(2)
    assert Constant().join([constant, constant.clone()]) is constant
    assert Constant().join([(1, 2), (1, 2)]) == (1, 2)
    Pair = namedtuple("Pair", "first second")
    joined = Each((Rows(0, 1), Count(1))).join(
        [Pair(torch.zeros(2), 2), Pair(torch.ones(1), 1)]
    )
    assert isinstance(joined, Pair)
    assert joined.first.tolist() == [0, 0, 1]
    assert joined.second == 3


@pytest.mark.parametrize(
    "values", [[1, 2], [torch.ones(2), torch.zeros(2)], ["a", None]], ids=str
)
def test_constants_that_differ_are_refused(values):
    with pytest.raises(ValueError, match="cannot be joined"):
        Constant().join(values)
