"""Arrays that need no further checks."""

import numpy as np
import pytest
import torch

from sk_e2cm._utils._validation import is_valid


@pytest.mark.parametrize(
    "X",
    [
        np.ones((2, 3, 4)),
        np.ones((1, 3, 4), dtype=np.float16),
        np.ones((2, 3, 4), dtype=np.uint8),
        np.ones((2, 3, 4), dtype=bool)[:, ::-1],
    ],
)
def test_arrays_of_finite_numbers_of_the_right_shape_are_valid(X):
    assert is_valid(X, (3, 4))


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(np.ones((2, 4, 3)), id="another shape"),
        pytest.param(np.ones((3, 4)), id="one sample"),
        pytest.param(np.ones((0, 3, 4)), id="none"),
        pytest.param(np.full((2, 3, 4), np.nan), id="NaN"),
        pytest.param(np.full((2, 3, 4), -np.inf), id="infinity"),
        pytest.param(np.array([[[np.inf]], [[-np.inf]]]), id="both infinities"),
        pytest.param(np.full((2, 3, 4), 3e38, np.float32), id="sums overflow"),
        pytest.param(np.full((2, 3, 4), "a"), id="text"),
        pytest.param(np.ones((2, 3, 4), dtype=object), id="objects"),
        pytest.param(np.ones((2, 3, 4), dtype=complex), id="complex"),
        pytest.param(np.ones((2, 3, 4)).tolist(), id="lists"),
        pytest.param(torch.ones(2, 3, 4), id="a tensor"),
        pytest.param(np.ma.ones((2, 3, 4)), id="masked"),
    ],
)
def test_anything_else_is_left_to_scikit_learn(X):
    assert not is_valid(X, (3, 4))
