import pytest
import torch

from sk_e2cm._extractors._tolerance import EXACT, IN_DOUBLE, LENIENT, STRICT

TOLERANCES = [STRICT.other_size, LENIENT.same_size, IN_DOUBLE.same_size]


def features(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator, dtype=torch.float64).to(dtype)


def agree(tolerance, a, b):
    return tolerance.agree(a, b, axis=0, among=b)


@pytest.mark.parametrize("tolerance", [EXACT, *TOLERANCES])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_equal_agrees_even_if_it_is_no_finite_number(tolerance, value):
    a = features()
    a[1, 2] = value
    assert agree(tolerance, a.clone(), a)


@pytest.mark.parametrize("tolerance", [EXACT, *TOLERANCES])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_number_is_neither_infinite_nor_nan(tolerance, value):
    a, b = features(), features()
    b[1, 2] = value
    assert not agree(tolerance, a, b)
    assert not agree(tolerance, b, a)


def test_the_same_bits_are_asked_for():
    a = features()
    assert not agree(EXACT, a, torch.nextafter(a, a + 1))


@pytest.mark.parametrize("tolerance", [STRICT.other_size, LENIENT.same_size])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_to_the_next_float_agrees(tolerance, dtype):
    a = features(dtype)
    assert agree(tolerance, torch.nextafter(a, a + 1), a)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("hide", [-1e4, torch.finfo(torch.float32).min, 0.0])
def test_columns_filled_with_one_number_hide_nothing_in_others(tolerance, hide):
    a, b = features(), features()
    a[:, 1:], b[:, 1:] = hide, hide
    a[0, 0] += 0.1
    assert not agree(tolerance, a, b)


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_large_features_hide_nothing_in_others(tolerance):
    a, b = features(), features()
    a[:, 3] *= 1e4
    b[:, 3] *= 1e4
    a[0, 0] += 0.1
    assert not agree(tolerance, a, b)


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_an_offset_hides_nothing(tolerance):
    a, b = features() + 1000, features() + 1000
    a[0, 0] += 0.1
    assert not agree(tolerance, a, b)


def test_what_large_numbers_leave_when_they_cancel_may_differ():
    big = 1e3 * features(torch.float32)
    a = torch.cat([big, (big + 1e-4) - big], dim=1)
    b = torch.cat([big, torch.full_like(big, 1e-4)], dim=1)
    assert agree(STRICT.other_size, a, b)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_whole_numbers_have_to_be_equal(dtype):
    a = (features() > 0).to(dtype)
    assert agree(LENIENT.same_size, a, a.clone())
    assert not agree(LENIENT.same_size, a, 1 - a if dtype is torch.int64 else ~a)


def test_other_shapes_and_types_do_not_agree():
    a = features()
    assert not agree(LENIENT.same_size, a, a[:, :3])
    assert not agree(LENIENT.same_size, a, a.float())


def test_complex_numbers_are_compared_by_their_parts():
    a = torch.complex(features(), features())
    assert agree(IN_DOUBLE.same_size, a, a.clone())
    assert not agree(IN_DOUBLE.same_size, a, a.conj().resolve_conj())
