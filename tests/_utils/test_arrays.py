"""Between arrays and tensors."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_e2cm._utils._arrays import as_floats, to_tensor

DISGUISES = {
    "plain": lambda x: x.copy(),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "reversed": lambda x: x[::-1].copy()[::-1],
    "transposed": lambda x: np.asfortranarray(x),
    "every other": lambda x: np.repeat(x, 2, axis=0)[::2],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "a list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
@pytest.mark.parametrize("convert", [to_tensor, as_floats])
def test_a_tensor_has_the_numbers_of_the_array(convert, disguise):
    array = np.arange(12.0).reshape(3, 4)
    assert_array_equal(convert(disguise(array)).numpy(), array)


@pytest.mark.parametrize("convert", [to_tensor, as_floats])
def test_memory_is_shared_where_it_can_be(convert):
    array = np.zeros((3, 4))
    convert(array)[1, 2] = 5.0
    assert array[1, 2] == 5.0


@pytest.mark.parametrize("convert", [to_tensor, as_floats])
def test_memory_that_must_not_be_written_to_is_copied(convert):
    array = np.zeros((3, 4))
    array.flags.writeable = False
    convert(array)[1, 2] = 5.0
    assert array[1, 2] == 0.0


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float16, torch.float32),
        (np.float32, torch.float32),
        (np.float64, torch.float64),
        (np.longdouble, torch.float64),
        (np.bool_, torch.float32),
        (np.uint8, torch.float32),
        (np.int16, torch.float32),
        (np.int32, torch.float64),
        (np.int64, torch.float64),
    ],
)
def test_arrays_become_floats_that_hold_their_numbers(dtype, expected):
    found = as_floats(np.ones((2, 3), dtype=dtype))
    assert found.dtype == expected
    assert (found == 1).all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float64),
        (torch.int32, torch.float64),
        (torch.uint8, torch.float32),
        (torch.bool, torch.float32),
    ],
)
def test_tensors_become_floats_that_hold_their_numbers(dtype, expected):
    found = as_floats(torch.ones(2, 3, dtype=dtype))
    assert found.dtype == expected
    assert (found == 1).all()


def test_floats_are_handed_on_as_they_are():
    tensor = torch.ones(2, 3)
    assert as_floats(tensor) is tensor
