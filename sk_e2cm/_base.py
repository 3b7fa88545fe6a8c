"""What the classifier and the clusterer have in common: parameters, fitted state."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from ._early_exit import EarlyExitMixin
from ._extractors import Extractor, RawFeatures, check_columns, check_extractor
from ._fitting._cross_fitting import ClassMeansHead, HeadSpec
from ._fitting._means import METRICS, OF_SECOND_ORDER
from ._fitting._statistics import N_FOLDS, folds_by_hash
from ._multi_exit._network import MultiExitNetwork
from ._utils._compat import StrOptions
from ._utils._validation import Interval


class BaseE2CM(EarlyExitMixin, BaseEstimator):
    """Class means at every exit: how they are fitted, and what is then known."""

    _parameter_constraints: dict[str, Any] = {
        "extractor": "no_validation",  # by fit, whose messages say more
        "metric": [StrOptions(METRICS)],
        "pooling": [
            StrOptions({"auto", "none", "second_order"}),
            Interval(Integral, 1, None, closed="left"),
            callable,
        ],
        "threshold": [Real, "array-like"],
        "calibration": [StrOptions({"temperature", "dirichlet"}), None],
        "shrinkage": [
            StrOptions({"ledoit_wolf", "oas"}),
            Interval(Real, 0, 1, closed="both"),
        ],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device, None],
        "memory": [str, PathLike, joblib.Memory, None],
        "verbose": ["verbose"],
    }

    extractor: Extractor | None
    metric: str
    pooling: Any
    shrinkage: str | float
    calibration: str | None

    @property
    def _head_spec(self) -> HeadSpec:
        return HeadSpec(self.metric, self.shrinkage, self.calibration)

    @property
    def _needs_products(self) -> bool:
        return self.metric in OF_SECOND_ORDER

    def _checked_extractor(self, X: ArrayLike) -> Extractor:
        extractor: Extractor = (
            RawFeatures() if self.extractor is None else self.extractor
        )
        check_extractor(extractor)
        check_columns(extractor, X)
        return extractor

    def _folds(self, hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
        # Uncalibrated Euclidean class means need no out-of-fold scores.
        plain = not self._needs_products and self.calibration is None
        return folds_by_hash(hashes, 1 if plain else N_FOLDS)

    def _set_network(
        self,
        X: Any,
        input_shape: tuple[int, ...],
        network: MultiExitNetwork,
        by_means: Sequence[ClassMeansHead],
        **fitted: Any,
    ) -> None:
        """Set all that was fitted at once: an interrupt leaves the old or the new."""
        seen = BaseEstimator()
        validate_data(seen, X, skip_check_array=True)
        state = vars(self) | vars(seen) | fitted
        if "feature_names_in_" not in vars(seen):
            state.pop("feature_names_in_", None)
        state["network_"] = network
        state["input_shape_"] = input_shape
        state["distance_scale_"] = [head.means.scale for head in by_means]
        state["temperature_"] = np.array([head.temperature for head in by_means])
        self.__dict__ = state

    def _warn_if_nobody_leaves(self) -> None:
        thresholds = self.network_.thresholds(self.threshold)
        if len(thresholds) and (thresholds > 1).all():
            warnings.warn(
                "threshold is above 1, and so above any probability, at every exit: "
                "nothing will leave early.",
                stacklevel=3,
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
