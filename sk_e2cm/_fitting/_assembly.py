"""From fitted heads to a network with exits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._extractors import Extractor, channel_axes_of
from .._multi_exit._costs import Costs
from .._multi_exit._full_pass import Shape
from .._multi_exit._heads import Head
from .._multi_exit._network import MultiExitNetwork
from .._multi_exit._pooling import MapPooling, PoolingSpec, make_pooling
from .._utils._arrays import Floats
from .._utils._validation import check_macs
from .._utils._warnings import warn
from ._cross_fitting import FittedHead
from ._folding import fold_average


def build_network(
    extractor: Extractor,
    pooling: PoolingSpec,
    fitted: Sequence[FittedHead],
    *,
    shapes: Sequence[Shape],
    dtypes: Sequence[np.dtype[Any]],
    rounding: Sequence[Floats],
    labels: NDArray[Any],
    input_shape: Shape,
) -> MultiExitNetwork:
    """Put a head on every stage, and count what stages and heads cost.

    Parameters
    ----------
    extractor : Extractor
        The network in stages.

    pooling
        See `E2CMClassifier`.

    fitted : sequence of FittedHead
        One for each stage.

    shapes : sequence of tuple of int
        Of each stage's output for one sample.

    dtypes : sequence of dtype
        Of each stage's features.

    rounding : sequence of ndarray of shape (n_features,)
        How far rounding may move each stage's features.

    labels : ndarray of shape (n_classes,)
        What the columns of the probabilities stand for.

    input_shape : tuple of int
        Of one sample.
    """
    macs = check_macs(extractor.macs(input_shape), len(fitted), extractor)
    heads, guesses = [], []
    # Features that are carried are needed as they are.
    carries = any(of_stage.carried for of_stage in fitted)
    axes = channel_axes_of(extractor, input_shape)
    for name, of_stage, shape, dtype, moved, axis in zip(
        extractor.stage_names, fitted, shapes, dtypes, rounding, axes, strict=True
    ):
        floats = torch.float32 if dtype == np.float32 else torch.float64
        pooled = make_pooling(pooling, name, shape, floats, axis)
        if axis is None and isinstance(pooled, MapPooling):
            guesses.append(f"{name!r}, {pooled.channels} channels in {shape}")
        head = Head(
            pooled,
            of_stage.logits,
            stage_name=name,
            n_features=len(moved) + sum(len(rounding[s]) for s in of_stage.carried),
            carried=of_stage.carried,
        )
        heads.append(head if carries else fold_average(head, macs[-1], moved))
    if guesses:
        _warn_of_guesses(guesses)
    poolings = np.array([float(head.pooling.macs) for head in heads])
    costs = Costs.from_counts(
        macs,
        np.array([float(head.macs) for head in heads]) - poolings,
        poolings,
        tuple(head.carried for head in heads) if carries else (),
    )
    return MultiExitNetwork(extractor, heads, labels, costs, pooling)


def _warn_of_guesses(guesses: Sequence[str]) -> None:
    warn(
        "Nothing tells which axis of a stage's output holds its channels, and it was "
        f"guessed from the shape for {', '.join(guesses)}. If that is wrong, pass a "
        "function of the output, or 'none', as pooling=.",
    )
