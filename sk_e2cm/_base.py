"""What the classifier and the clusterer have in common: parameters, fitted state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ._early_exit import EarlyExitMixin
from ._extractors import Extractor, RawFeatures, check_columns, check_extractor
from ._fitting._assembly import build_network
from ._fitting._cross_fitting import CrossFit, FittedHead, HeadSpec
from ._fitting._exits import refit_exits
from ._fitting._kept import Kept
from ._fitting._means import METRICS, OF_SECOND_ORDER, metric_for
from ._fitting._statistics import (
    MOST_FEATURES,
    N_FOLDS,
    Statistics,
    folds_by_hash,
    in_one_fold,
)
from ._multi_exit._grafting import linear_exits
from ._utils._arrays import SampleRows
from ._utils._compat import StrOptions
from ._utils._validation import Interval
from ._utils._warnings import warn

# A fifth of so many samples are enough to calibrate on.
_MANY = 10_000


@dataclass(frozen=True, kw_only=True)
class Fit:
    """All of a fit but the exits, which may be fitted more than once.

    Parameters
    ----------
    some : ndarray or SomeRows, of shape (n, ...)
        Samples to measure on.

    largest : float
        The largest absolute value of the samples.

    columns : BaseEstimator
        Knows the columns of the samples.

    since : float
        When the fit began: costs in seconds are measured last.

    extractor : Extractor
        The network in stages.

    statistics : Statistics
        Of the pass over the data.

    spec : HeadSpec
        How exits are fitted.

    too_few : str or None
        Why under another metric than asked.

    kept : Kept or Statistics
        The shapes and the rounding of all stages.

    dtypes : list of dtype
        Of the features of all stages.

    last : FittedHead
        The head of the last stage.

    last_means : tuple of FittedHead
        Its class means, if there are any.

    labels : ndarray of shape (n_classes,)
        What the columns of the probabilities stand for.

    in_parts : bool, default=False
        Whether more samples may come, and statistics stay for it.

    attributes : callable
        Returns fitted attributes of the estimator's own, given the means of the stages
        that have a head of means, or None for each without.
    """

    some: SampleRows
    largest: float
    columns: BaseEstimator
    since: float
    extractor: Extractor
    statistics: Statistics
    spec: HeadSpec
    too_few: str | None
    kept: Kept | Statistics
    dtypes: list[np.dtype[Any]]
    last: FittedHead
    last_means: tuple[FittedHead, ...]
    labels: NDArray[Any]
    in_parts: bool = False
    attributes: Callable[[list[Any]], dict[str, Any]]


def columns_of(X: Any) -> BaseEstimator:
    """Return what knows the number of the columns, and their names if they have any."""
    seen = BaseEstimator()
    validate_data(seen, X, skip_check_array=True)
    return seen


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
        "carry": [Interval(Integral, 0, 2, closed="both")],
        "cost_unit": [StrOptions({"macs", "seconds"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device, None],
        "n_jobs": [Integral, None],
        "memory": [str, PathLike, joblib.Memory, None],
        "verbose": ["verbose"],
    }

    extractor: Extractor | None
    metric: str
    pooling: Any
    shrinkage: str | float
    calibration: str | None
    carry: int
    cost_unit: str
    n_jobs: int | None

    def _check_carry(self) -> None:
        """Refuse what features cannot be carried with."""
        if not self.carry:
            return
        if self.metric not in OF_SECOND_ORDER:
            raise ValueError(
                f"carry={self.carry} takes metric='mahalanobis', got "
                f"metric={self.metric!r}: only a covariance says what features of "
                "several exits are worth together."
            )
        if self.pooling == "none" or callable(self.pooling):
            raise ValueError(
                f"carry={self.carry} joins features that are pooled over grids, and "
                f"pooling={self.pooling!r} has others: use 'second_order', 'auto' or a "
                "number of cells."
            )

    def _head_spec(
        self,
        n_distinct: int,
        n_classes: int,
        parts: tuple[Any, ...] = ("class_means",),
    ) -> tuple[HeadSpec, str | None]:
        """Say how heads are fitted, and why under another metric than asked."""
        metric, reason = metric_for(self.metric, n_distinct, n_classes)
        carry = self.carry
        if reason and carry:
            carry, reason = 0, f"{reason} Nothing is carried, either."
        return HeadSpec(metric, self.shrinkage, self.calibration, carry, parts), reason

    def _checked_extractor(self, X: ArrayLike) -> Extractor:
        extractor: Extractor = (
            RawFeatures() if self.extractor is None else self.extractor
        )
        check_extractor(extractor)
        check_columns(extractor, X)
        return extractor

    def _folds(
        self, hashes: NDArray[np.uint64], codes: NDArray[np.intp], spec: HeadSpec
    ) -> NDArray[np.intp]:
        # Uncalibrated Euclidean class means need no out-of-fold scores.
        plain = not spec.needs_products and spec.calibration is None
        folds = folds_by_hash(hashes, 1 if plain and spec.is_class_means else N_FOLDS)
        if spec.is_class_means:
            return folds
        if len(hashes) >= _MANY:
            # Classifiers take their time: they are fitted twice rather than six times.
            # Of few distinct samples none may be in fold 0.
            folds = np.where(folds == folds.min(), 0, -1)
        # A classifier knows nothing of a class that is held out as a whole.
        whole = in_one_fold(folds, codes)
        return folds if whole.all() else np.where(whole, -1, folds)

    def _set_fitted(self, fit: Fit, exits: Sequence[FittedHead]) -> CrossFit:
        """Set all that was fitted at once: an interrupt leaves the old or the new."""
        heads = [*exits, fit.last]
        network = build_network(
            fit.extractor,
            self.pooling,
            heads,
            shapes=fit.kept.shapes,
            rounding=fit.kept.rounding,
            dtypes=fit.dtypes,
            labels=fit.labels,
            input_shape=fit.some.shape[1:],
        )
        seconds = None
        if self.cost_unit == "seconds":
            network, seconds = self._in_seconds(
                network, fit.some, self.batch_size, since=fit.since
            )
        by_means = [*exits, *fit.last_means]
        means = [head.means for head in by_means]
        metrics = [each.metric if each else None for each in means]
        reason = fit.too_few or self._too_wide(network.stage_names, metrics)
        fitted = fit.attributes([each and each.means for each in means]) | {
            "network_": network,
            "seconds_": seconds,
            "_warned_of": set(),
            "input_shape_": fit.some.shape[1:],
            "metric_": metrics,
            "metric_reason_": reason,
            "distance_scale_": [each and each.scale for each in means],
            "temperature_": np.array([head.temperature for head in by_means]),
            "_fitted_numbers": (fit.some.dtype, fit.largest),
        }
        # Nothing is set before this point, so that a failed fit leaves no trace.
        state = vars(self) | vars(fit.columns) | fitted
        if "feature_names_in_" not in vars(fit.columns):
            state.pop("feature_names_in_", None)
        if not fit.in_parts:
            state.pop("statistics_", None)
        self.__dict__ = state
        set_again = partial(self._set_fitted, fit)
        refit = partial(refit_exits, fit.statistics, fit.spec, exits, set_again)
        return CrossFit(fit.statistics, heads, refit if fit.spec.carry else None)

    def _too_wide(
        self, stage_names: Sequence[str], metrics: Sequence[str | None]
    ) -> str | None:
        """Say which stages have too many features for a covariance, if some have."""
        used = zip(stage_names, metrics, strict=False)
        names = [name for name, metric in used if metric not in (None, self.metric)]
        if not names:
            return None
        return (
            f"metric={self.metric!r} takes at most {MOST_FEATURES} features, and these "
            f"stages have more: {names}. A coarser pooling, such as 'auto', has fewer."
        )

    def to_linear(self) -> list[torch.nn.Sequential]:
        """Return the exits as layers, to be grafted on the network and trained on.

        A nearest class mean is a linear layer, since
        ``argmin_k ||f - c_k||^2 = argmax_k (c_k.f - ||c_k||^2 / 2)``, and so is a
        whitened one. Exits that are trained by gradient start from what one pass has
        found instead of from random weights.

        Returns
        -------
        list of torch.nn.Sequential
            For each exit its pooling, from the stage's output to features of shape
            (n_samples, n_features), and a `torch.nn.Linear` of `n_features` inputs with
            an output for each class. Copies: what is done to them does not change the
            estimator. Euclidean means have the weights c_k and the biases
            -||c_k||^2 / 2, without the scales s_k; whitened ones and linear classifiers
            give the logits of the exit, temperature included.

        Raises
        ------
        ValueError
            If an exit is not linear in the features of its own stage: with `carry`,
            with ``calibration="dirichlet"``, or with a `head` that is not linear.

        Examples
        --------
        >>> import numpy as np
        >>> import torch
        >>> from sk_e2cm import E2CMClassifier, TorchExtractor
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> X = np.arange(40, dtype=np.float32).reshape(20, 2)
        >>> clf = E2CMClassifier(TorchExtractor(network, exits=["0"]))
        >>> clf.fit(X, [0, 1] * 10).to_linear()[0][1]
        Linear(in_features=3, out_features=2, bias=True)
        """
        check_is_fitted(self, "network_")
        return linear_exits(self.network_)

    def _warn_if_nobody_leaves(self) -> None:
        thresholds = self.network_.thresholds(self.threshold)
        if len(thresholds) and (thresholds > 1).all():
            warn(
                "threshold is above 1, and so above any probability, at every exit: "
                "nothing will leave early."
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
