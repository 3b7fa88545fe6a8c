"""No network at all: X itself is the only stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._protocol import Extractor


class RawFeatures(Extractor):
    """The extractor of an estimator without one."""

    stage_names = ("X",)

    def begin(self, X: NDArray[Any]) -> NDArray[Any]:
        return X

    def advance(
        self, state: NDArray[Any], stage: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        return state, state

    def keep(self, state: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
        return state[rows]

    def macs(self, input_shape: tuple[int, ...]) -> list[float]:
        return [0.0]

    def to(self, device: str | torch.device) -> RawFeatures:
        return self  # nothing to move
