"""From a stage's output to one row of features per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .._utils._arrays import Features, to_tensor
from ._grids import average, finest_grid
from ._second_order import second_order, second_order_macs

Pooling = int | Literal["auto", "none", "second_order"] | Callable[[Any], Any]

# "auto": a finer grid keeps more of an early layer's signal, but the exit's cost and
# the class means grow with it.
_MOST_FEATURES = 1024


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

    pooling : {"auto", "none", "second_order"}, int or callable
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
            output = _pool_map(output, pooling, stage_name)
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


def _pool_map(output: Any, pooling: Any, stage_name: str) -> Tensor:
    n_axes = output.ndim - 2
    if n_axes > 3:
        raise ValueError(
            f"Cannot pool the output of stage {stage_name!r}, of shape "
            f"{tuple(output.shape)}, over a grid: pass pooling='none' or a function."
        )
    if not isinstance(output, Tensor):
        output = to_tensor(output)
    if _has_channels_last(output.shape):
        output = output.movedim(-1, 1)
    output = _at_least_single(output)
    if pooling == "second_order":
        return second_order(output)
    if pooling == "auto":
        pooling = max(finest_grid(output.shape[1], n_axes, _MOST_FEATURES), 1)
    return average(output, pooling)


def pooling_macs(output: Any, pooling: Pooling) -> int:
    """Return the multiply-adds that pooling one sample of an output takes.

    Those of a callable are not counted, and averages have none.
    """
    shape = list(np.shape(output))
    if pooling != "second_order" or len(shape) == 2:
        return 0
    if _has_channels_last(shape):
        shape.insert(1, shape.pop())
    return second_order_macs(shape[1:])
