"""Texts of attributes and code: alike for what is alike, and else not."""

import enum
import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from sk_e2cm._saving._describe import Describer


@dataclass
class Sizes:
    """As the settings of a network are often kept."""

    width: int = 3

    def doubled(self):
        return 2 * self.width


class Kind(enum.Enum):
    """Which way to go."""

    LEFT = 1
    RIGHT = 2


class Plain:
    """An object of a user's."""

    def __init__(self, size):
        self.size = size
        self.itself = self


def doubled(x):
    return 2 * x


def text(value):
    return Describer().text(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "None"),
        (0.1, "0.1"),
        (np.float32(0.5), "0.5"),
        ((1, "a"), "(1, 'a')"),
        ([1, [2]], "(1, (2))"),
        ({"b": 1, "a": None}, "{'b': 1, 'a': None}"),
        ({"b", "a", "c"}, "('a', 'b', 'c')"),
        (slice(1, None), "slice(1, None, None)"),
        (torch.Size([2, 3]), "(2, 3)"),
        (torch.float32, "torch.float32"),
        (torch.device("cpu"), "device"),
        (nn.functional.relu, "relu"),
        (torch.sigmoid, "sigmoid"),
        (nn.ReLU, "ReLU"),
        (functools.partial(nn.functional.leaky_relu, 0.2), "partial(leaky_relu, "),
        (torch.nn.functional, "torch.nn.functional"),
        (Kind.LEFT, "Kind.LEFT"),
        (Plain(3), "Plain{'size': 3, 'itself': the same Plain}"),
        (Sizes(3), "Sizes{'width': 3}"),
        (LogisticRegression(), "LogisticRegression{}"),
        (nn.ReLU(), "ReLU{}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_text_says_what_a_value_is(value, expected):
    assert text(value).startswith(expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), torch.zeros(2).double()),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        (np.zeros(2), np.zeros((2, 1))),
        (np.array(["a"], dtype=object), np.array(["b"], dtype=object)),
        (Plain(1), Plain(2)),
        ([1, 2], [2, 1]),
    ],
    ids=["numbers", "types", "bfloat16", "shapes", "objects", "users", "order"],
)
def test_other_values_have_other_texts(one, other):
    assert text(one) != text(other)


def test_parts_of_the_network_are_described_by_their_kind():
    weight, layer = torch.zeros(2), nn.Linear(2, 2)
    describer = Describer([weight, layer])
    assert describer.text([weight, layer]) == "(a tensor of shape (2,), Linear)"


def code_of(value):
    describer = Describer()
    describer.text(value)
    return describer.code


def test_code_of_users_is_noted_wherever_it_is_met():
    assert set(code_of([{"activation": functools.partial(doubled)}])) == {"doubled"}
    assert code_of(nn.ReLU()) == code_of(LogisticRegression) == code_of(len) == {}


def test_what_python_makes_of_a_data_class_is_no_code():
    assert set(code_of(Sizes)) == {"Sizes", "Sizes.width", "Sizes.doubled"}
    assert set(code_of(Kind)) == {"Kind"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (lambda x: 2 * x, lambda x: 2*x, True),
        (lambda x: 2 * x, lambda x: 3 * x, False),
        (lambda x, y=1: x + y, lambda x, y=2: x + y, False),
    ],
    ids=["layout", "constant", "default"],
)  # fmt: skip
def test_functions_without_a_name_are_told_apart(one, other, same):
    assert (code_of(one) == code_of(other)) is same


def test_several_functions_on_one_line_are_told_by_their_bytecode():
    one, other = (lambda x: x + 1), (lambda x: x - 1)
    assert code_of(one) != code_of(other)
    assert "bytecode" in code_of(one)["<lambda>"]


def test_decorated_functions_are_told_apart_by_what_is_inside():
    @torch.no_grad()
    def one(x):
        return x + 1

    @torch.no_grad()
    def other(x):
        return x + 2

    other.__wrapped__.__name__ = other.__name__ = "one"
    assert code_of(one) != code_of(other)


def test_two_functions_of_one_name_are_both_noted():
    def make(size):
        def doubled(x):
            return size * x

        return doubled

    assert set(code_of([make(1), make(2)])) == {"doubled", "doubled (2)"}
    assert code_of(make(1)) != code_of(make(2))
