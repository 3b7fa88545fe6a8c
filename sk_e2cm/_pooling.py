"""From a stage's output to one row of features per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)

from ._arrays import to_tensor

Features = NDArray[np.floating]
Pooling = int | Literal["auto", "none"] | Callable[[Any], Any]

# "auto": a finer grid keeps more of an early layer's signal, but the exit's cost and
# the class means grow with it.
_LARGEST_GRID = 4
_MOST_FEATURES = 1024

_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: adaptive_avg_pool1d,
    2: adaptive_avg_pool2d,
    3: adaptive_avg_pool3d,
}


def pool(
    output: Any,
    pooling: Pooling,
    stage_name: str,
    rows: NDArray[np.intp],
) -> Features:
    """Make one row of finite features per sample from a stage's output.

    Parameters
    ----------
    output : tensor or ndarray
        Of shape (n, d), taken as it is, (n, length, channels), (n, channels, *sizes),
        or (n, side, side, channels).

    pooling : {"auto", "none"}, int or callable
        See `E2CMClassifier`.

    stage_name : str
        For the messages.

    rows : ndarray of shape (n,)
        Which samples of the batch these are.

    Returns
    -------
    ndarray of shape (n, n_features)
        A copy or the output itself: valid until the next stage is computed.
    """
    output = output if isinstance(output, Tensor) else np.asarray(output)
    n = len(output)
    if n != len(rows):
        raise ValueError(
            f"Stage {stage_name!r} returned {n} rows for {len(rows)} samples. Does the "
            "extractor's keep() drop the other rows?"
        )
    if isinstance(output, Tensor) and output.is_quantized:
        output = output.dequantize()
    if output.ndim > 2:
        if pooling == "none":
            output = output.reshape(n, -1)
        elif callable(pooling):
            output = pooling(output)
        else:
            output = _average_over_grid(output, pooling, stage_name)
    features = _to_array(output)
    if features.ndim != 2 or len(features) != n:
        raise ValueError(
            f"The features of stage {stage_name!r} have the shape {features.shape} "
            f"for {n} samples, but one row of numbers for each is needed: pooling= "
            "must return (n_samples, n_features)."
        )
    if features.dtype.kind not in "biuf":
        raise ValueError(
            f"The features of stage {stage_name!r} are no numbers but of type "
            f"{features.dtype}."
        )
    if not np.isfinite(features).all():
        bad = rows[~np.isfinite(features).all(axis=1)]
        raise ValueError(
            f"The output of stage {stage_name!r} contains NaN or infinity for "
            f"{len(bad)} of {n} samples (the first is number {bad[0]} of its batch). "
            "Check that layer and the scale of X."
        )
    return features


def _to_array(output: Any) -> Features:
    if isinstance(output, Tensor):
        output = _at_least_single(output.detach()).cpu().numpy()
    features = np.asarray(output)
    return features.astype(np.float32) if features.dtype == np.float16 else features


def _at_least_single(output: Tensor) -> Tensor:
    """Leave half precision behind: from here on everything is decided in more."""
    if output.is_floating_point() and output.itemsize >= 4:
        return output
    return output.float()


def _has_channels_last(shape: Sequence[int]) -> bool:
    """Tell tokens, and the square maps of Swin and its kin, by their shapes."""
    if len(shape) == 4:
        return shape[1] == shape[2] != shape[3]
    return len(shape) == 3


def _average_over_grid(output: Any, pooling: Any, stage_name: str) -> Tensor:
    if output.ndim - 2 not in _AVERAGE:
        raise ValueError(
            f"Cannot average the output of stage {stage_name!r}, of shape "
            f"{tuple(output.shape)}, over a grid: pass pooling='none' or a function."
        )
    if not isinstance(output, Tensor):
        output = to_tensor(output)
    if _has_channels_last(output.shape):
        output = output.movedim(-1, 1)
    output = _at_least_single(output)
    channels, *sizes = output.shape[1:]
    grid = pooling
    if pooling == "auto":
        grids = range(1, _LARGEST_GRID + 1)
        fine = [g for g in grids if channels * g ** len(sizes) <= _MOST_FEATURES]
        grid = max(fine, default=1)
    # Never finer than the map itself: that would only repeat values.
    cells = [min(grid, size) for size in sizes]
    return _AVERAGE[len(sizes)](output, cells).flatten(1)
