"""What estimators demand of their data and of the extractor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite, check_array, check_X_y
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import has_fit_parameter
from torch.utils.data import DataLoader, Dataset

from ._arrays import as_numbers, is_lazy, row_chunks, to_array
from ._compat import HasMethods as _HasMethods
from ._compat import Interval as _Interval
from ._compat import _check_sample_weight
from ._labels import as_labels

WRAP = (
    "If the network takes several inputs, wrap it in a module that takes one array, "
    "and splits it."
)

NO_WEIGHT = "sample_weight is zero for every sample."


def is_whole(value: Any) -> bool:
    """Tell a whole number, which True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Tell a real number, which True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


class Interval(_Interval):
    """A constraint as scikit-learn's, to which True, False and fractions are none."""

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether `val` is a number of the interval."""
        numbers = int, float, np.integer, np.floating
        if isinstance(val, bool) or not isinstance(val, numbers):
            return False
        satisfied: bool = super().is_satisfied_by(val)
        return satisfied


class HasMethods(_HasMethods):
    """A constraint as scikit-learn's, which a class does not meet: it is to be made."""

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether `val` is an object with the methods."""
        return not isinstance(val, type) and super().is_satisfied_by(val)


def as_array(X: Any) -> NDArray[Any]:
    """Return samples as an array of real numbers; tensors are copied to the CPU.

    Raises
    ------
    TypeError
        If X is a source of batches, is not in memory, or is several inputs.

    ValueError
        If the samples differ in shape, or are no numbers.
    """
    if isinstance(X, (Dataset, DataLoader)):
        raise TypeError(
            f"X must be an array or a tensor of all samples, got a {type(X).__name__}. "
            "Stack its samples; a numpy.memmap need not fit into memory."
        )
    if is_lazy(X):
        raise TypeError(
            f"X must be an array in memory here, got one of {type(X).__module__}. "
            "Read some of its samples, such as X[:1000]."
        )
    # One kind of sparse array is a dict; below, all are refused alike.
    if isinstance(X, Mapping) and not issparse(X):
        raise TypeError(
            f"X must be one array or tensor, got a {type(X).__name__} of "
            f"{[*X][:5]}. {WRAP}"
        )
    if isinstance(X, (list, tuple)):
        try:
            return as_numbers(X, "X")
        except ValueError:
            shapes = _shapes(X)
            if len(shapes) == 1:
                raise
            such_as = f", such as {shapes[0]} and {shapes[-1]}" if shapes else ""
            hint = f" {WRAP}" if isinstance(X, tuple) else ""
            raise ValueError(
                f"The samples of X have different shapes{such_as}. Bring them to "
                f"one shape: crop, resize or pad.{hint}"
            ) from None
    array = to_array(X, "X")
    # Of what is no array NumPy makes one without axes.
    if array.ndim == 0 and not hasattr(X, "ndim"):
        raise TypeError(
            f"X must be an array or a tensor of all samples, got a {type(X).__name__}. "
            "What comes batch by batch has to be a Dataset or DataLoader of torch's."
        )
    return as_numbers(array, "X")


def is_valid(X: Any, input_shape: tuple[int, ...]) -> TypeGuard[NDArray[Any]]:
    """Tell whether X is, for certain, an array of finite numbers of such samples."""
    if type(X) is not np.ndarray or X.shape[1:] != input_shape or not len(X):
        return False
    if X.dtype.kind == "f" and X.dtype.itemsize <= 8:
        # One sum is quicker than a look at each; if it overflows, nothing is certain.
        with np.errstate(over="ignore", invalid="ignore"):
            return math.isfinite(X.sum())
    return X.dtype.kind in "biu"


def _shapes(X: Any) -> list[tuple[int, ...]]:
    """Return the shapes of the samples; none where these are ragged themselves."""
    try:
        return sorted({tuple(np.shape(sample)) for sample in X})
    except ValueError:
        return []


def check_weight(sample_weight: Any, n_samples: int) -> NDArray[np.float64]:
    """Return one weight for each sample, by default 1.

    Raises
    ------
    ValueError
        If they are no finite numbers, negative, all zero, or of another length.
    """
    if sample_weight is not None:
        sample_weight = as_numbers(sample_weight, "sample_weight")
        # scikit-learn refuses it since 1.8 only.
        if sample_weight.size and not sample_weight.any():
            raise ValueError(NO_WEIGHT)
        if sample_weight.ndim == 0:
            sample_weight = sample_weight.item()
    weight: NDArray[np.float64] = _check_sample_weight(
        sample_weight,
        np.empty((n_samples, 1)),
        dtype=np.float64,
        ensure_non_negative=True,
    )
    with np.errstate(over="ignore"):
        if not np.isfinite(weight.sum()):
            raise ValueError("sample_weight is so large that its sum is infinite.")
    return weight


def check_samples(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: ArrayLike | None,
    *,
    needs_y: bool = False,
) -> tuple[NDArray[Any], Any, NDArray[np.float64]]:
    """Return valid samples, labels and weights."""
    several = isinstance(X, tuple)
    X = as_array(X)
    if y is None and not needs_y:
        X = check_numbers(estimator, X)
    else:
        y = None if y is None else as_labels(y, warn=True)
        if several and y is not None and len(X) != len(y):
            raise ValueError(
                f"X is a tuple of {len(X)} samples, but y has {len(y)} labels. {WRAP}"
            )
        X, y = check_X_y(
            X, y, allow_nd=True, ensure_all_finite=False, estimator=estimator
        )
        _refuse_not_finite(estimator, X)
        check_classification_targets(y)
    return X, y, check_weight(sample_weight, len(X))


def check_numbers(estimator: BaseEstimator, X: NDArray[Any]) -> NDArray[Any]:
    """Return samples that are finite."""
    X = check_array(
        X, allow_nd=True, ensure_all_finite=False, estimator=estimator, input_name="X"
    )
    _refuse_not_finite(estimator, X)
    return X


def _refuse_not_finite(estimator: BaseEstimator, X: NDArray[Any]) -> None:
    """Refuse NaN and infinity; of all X at once scikit-learn may make a mask."""
    name = type(estimator).__name__
    for part in row_chunks(X):
        assert_all_finite(part, estimator_name=name, input_name="X")


def with_weight(sample_weight: NDArray[np.float64]) -> NDArray[np.bool_] | slice:
    """Return what selects the samples that count, without a copy if all do."""
    used = sample_weight > 0
    return slice(None) if used.all() else used


def check_has_proba(name: str, classifier: Any) -> None:
    """Refuse a classifier without probabilities.

    Raises
    ------
    ValueError
        If it is one.
    """
    if not hasattr(classifier, "predict_proba"):
        raise ValueError(
            f"{name} has no predict_proba. Choose another classifier, or wrap it in "
            "sklearn.calibration.CalibratedClassifierCV."
        )


def weight_params(
    name: str, estimator: Any, sample_weight: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return what the estimator's ``fit`` takes of the weights.

    Raises
    ------
    ValueError
        If it takes none, and they are not all the same.
    """
    if has_fit_parameter(estimator, "sample_weight"):
        return {"sample_weight": sample_weight}
    if np.ptp(sample_weight):
        raise ValueError(
            f"{name} does not take sample_weight. Choose another, or fit without "
            "weights."
        )
    return {}


def check_n_clusters(n_clusters: int, n_samples: int) -> None:
    """Refuse more clusters than samples."""
    if n_clusters > n_samples:
        raise ValueError(
            f"n_clusters={n_clusters} is more than there are samples: "
            f"n_samples={n_samples}. Samples of weight zero do not count."
        )


def check_macs(macs: Any, n_stages: int, extractor: Any) -> NDArray[np.float64]:
    """Return what an extractor says its stages cost, if that makes sense."""
    name = f"{type(extractor).__name__}.macs()"
    cumulative = as_numbers(macs, name).astype(np.float64)
    if (
        cumulative.shape != (n_stages,)
        or not np.isfinite(cumulative).all()
        or (np.diff(cumulative, prepend=0.0) < 0).any()
    ):
        raise ValueError(
            f"{name} must return {n_stages} numbers, one per stage, "
            f"none below the one before it; it returned {macs!r}."
        )
    return cumulative
