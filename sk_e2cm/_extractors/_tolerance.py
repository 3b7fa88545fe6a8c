"""Whether two computations of the same samples agree but for rounding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Larger numbers mark what does not count, such as the logits of what is masked.
_MARKS = 1e30


class MixedSamples(ValueError):
    """What is computed for a sample depends on more than the sample."""


class Tolerance(NamedTuple):
    """By how much a feature may differ.

    The largest number of a tensor says nothing of its other features. So a feature may
    differ by a share of its own range over the samples, of its own size, and of the
    median range of features: it may be small because larger numbers cancel in it.

    Parameters
    ----------
    of_range, of_size, of_typical : float
        The shares of these three; all 0 asks for the same bits.

    of_eps : float
        Each of these shares is at least so many times the distance of floats from 1.

    of_scale : float, default=0.0
        The share of the mean size of all features, too, where samples may be so alike
        that ranges are mere rounding.
    """

    of_range: float
    of_size: float
    of_typical: float
    of_eps: float
    of_scale: float = 0.0

    def agree(self, a: Tensor, b: Tensor, axis: int | None, among: Tensor) -> bool:
        """Tell whether `a` is `b` but for rounding.

        Parameters
        ----------
        a, b : tensor
            Numbers of other kinds than floats have to be equal.

        axis : int or None
            Along which the samples lie, if they do.

        among : tensor
            What `b` is a part of: more samples tell better what features are like.
        """
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        dtype = a.dtype
        a, b, among = map(_plain, (a, b, among))
        if torch.equal(a, b) or not a.is_floating_point():
            return torch.equal(a, b)
        differ = (a != b) & ~(a.isnan() & b.isnan())
        if self == EXACT:
            return not differ.any()
        # What is infinite or NaN in one of the two only stays larger than any bound.
        apart = (a - b).abs().nan_to_num(torch.inf, torch.inf).where(differ, 0)
        # Of what has been dequantised, or taken apart, the type of its parts.
        given = dtype if dtype.is_floating_point else a.dtype
        least = self.of_eps * torch.finfo(given).eps
        of_range, of_size, of_typical = (max(share, least) for share in self[:3])
        ranges = _ranges(among, axis)
        varied = ranges[ranges > 0]
        typical = float(varied.median()) if len(varied) else 0.0
        size = b.abs().nan_to_num(0, 0)
        scale = float(size.where(size < _MARKS, 0).mean())
        bound = of_range * ranges + of_size * size + of_typical * typical
        bound = bound + self.of_scale * scale
        return bool((apart <= bound).all())


EXACT = Tolerance(0.0, 0.0, 0.0, 0.0)


class Precision(NamedTuple):
    """What rounding may do to a sample.

    Parameters
    ----------
    same_size : Tolerance
        Where the other samples of the batch have changed, but not their number.

    other_size : Tolerance
        Where the batch has another size: it may be computed by another algorithm.
    """

    same_size: Tolerance
    other_size: Tolerance


# A mix-up hardly passes, but rounding may not either. Whoever the other samples are,
# the same algorithm computes the same bits, unless it adds in another order each time.
STRICT = Precision(EXACT, Tolerance(1e-3, 1e-5, 1e-5, 2))

# For what cannot be computed in double precision, and for extractors of others.
_LOOSE = Tolerance(1e-2, 1e-5, 1e-4, 16)
LENIENT = Precision(_LOOSE, _LOOSE)

# All that is more than rounding is seen.
_TIGHT = Tolerance(1e-9, 1e-11, 1e-12, 0)
IN_DOUBLE = Precision(_TIGHT, _TIGHT)


def _plain(values: Tensor) -> Tensor:
    """Return what can be compared; halves in single precision, to be subtracted."""
    if values.is_quantized:
        return values.dequantize()
    if values.is_complex():
        return torch.view_as_real(values)
    is_half = values.is_floating_point() and values.itemsize < 4
    return values.float() if is_half else values


def _ranges(values: Tensor, axis: int | None) -> Tensor:
    """Return the largest less the smallest value of each feature."""
    if axis is None:
        return values.new_zeros(())
    counts = values.abs() < _MARKS
    largest = values.where(counts, -torch.inf).amax(axis, keepdim=True)
    smallest = values.where(counts, torch.inf).amin(axis, keepdim=True)
    return (largest - smallest).clamp(min=0)
