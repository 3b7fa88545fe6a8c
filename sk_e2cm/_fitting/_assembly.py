"""From fitted heads to a network with exits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._extractors import Extractor
from .._multi_exit._costs import Costs
from .._multi_exit._full_pass import Shape
from .._multi_exit._heads import FoldedHead, Head, LinearLogits
from .._multi_exit._network import MultiExitNetwork
from .._multi_exit._pooling import GridAverage, PoolingSpec, make_pooling
from .._utils._arrays import Features, as_floats
from .._utils._validation import check_macs
from ._cross_fitting import FittedHead

# Averages are folded into the weights after them where the map has so few positions for
# each cell. Measured on two cores, microseconds for 32 maps in channels-last format:
# 29 in place of 88 for 64 x 7 x 7 maps, but 98 in place of 53 for 16 x 28 x 28.
_MOST_POSITIONS_PER_CELL = 4

# Weights of all positions, in numbers and in shares of the network's multiply-adds.
_MOST_WEIGHTS = 2_000_000
_MOST_OF_NETWORK = 0.01


def build_network(
    extractor: Extractor,
    pooling: PoolingSpec,
    fitted: Sequence[FittedHead],
    features: Sequence[Features],
    shapes: Sequence[Shape],
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

    features : sequence of ndarray
        Of each stage; only their types matter.

    shapes : sequence of tuple of int
        Of each stage's output for one sample.

    labels : ndarray of shape (n_classes,)
        What the columns of the probabilities stand for.

    input_shape : tuple of int
        Of one sample.
    """
    macs = check_macs(extractor.macs(input_shape), len(fitted))
    heads = []
    for name, head, of_stage, shape in zip(
        extractor.stage_names, fitted, features, shapes, strict=True
    ):
        pooled = make_pooling(pooling, name, shape, as_floats(of_stage[:0]).dtype)
        heads.append(fold_average(Head(pooled, head.logits), macs[-1]))
    costs = Costs.from_counts(macs, np.array([float(head.macs) for head in heads]))
    return MultiExitNetwork(extractor, heads, labels, costs, pooling)


def fold_average(head: Head, network_macs: float) -> Head:
    """Fold an average over a map into the linear layer after it, where that is quicker.

    That is so for small maps, and it is done as long as the weights of all positions
    are few.
    """
    pooling, logits = head.pooling, head.logits
    if not isinstance(pooling, GridAverage) or not isinstance(logits, LinearLogits):
        return head
    n_positions, n_cells = pooling.shares.shape
    n_weights = logits.macs // n_cells * n_positions
    is_small = n_positions <= _MOST_POSITIONS_PER_CELL * n_cells
    is_cheap = n_weights < min(_MOST_WEIGHTS, _MOST_OF_NETWORK * network_macs)
    if not logits.is_centred and is_small and is_cheap:
        return FoldedHead(pooling, logits)
    return head
