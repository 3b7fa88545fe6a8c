"""What estimators demand of their data and of the extractor."""

from __future__ import annotations

import math
import warnings
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_X_y
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ._arrays import to_numpy
from ._compat import _check_sample_weight


def as_array(X: Any) -> Any:
    """Convert X to an array that scikit-learn can validate, copying tensors to the CPU.

    Raises
    ------
    TypeError
        If X is a source of batches.

    ValueError
        If the samples differ in shape.
    """
    if isinstance(X, (Dataset, DataLoader)):
        raise TypeError(
            f"X must be an array or a tensor of all samples, got a {type(X).__name__}. "
            "Stack its samples; a numpy.memmap need not fit into memory."
        )
    if isinstance(X, Tensor):
        return to_numpy(X.detach())
    if not isinstance(X, (list, tuple)):
        return X
    try:
        return np.asarray(X)
    except ValueError:
        raise ValueError(
            f"The samples of X have different shapes{_two_shapes(X)}. Bring them to "
            "one shape: crop, resize or pad."
        ) from None


def is_valid(X: Any, input_shape: tuple[int, ...]) -> TypeGuard[NDArray[Any]]:
    """Tell whether X is, for certain, an array of finite numbers of such samples."""
    if type(X) is not np.ndarray or X.shape[1:] != input_shape or not len(X):
        return False
    if X.dtype.kind == "f":
        # One sum is quicker than a look at each; if it overflows, nothing is certain.
        with np.errstate(over="ignore", invalid="ignore"):
            return math.isfinite(X.sum())
    return X.dtype.kind in "biu"


def _two_shapes(X: Any) -> str:
    try:
        shapes = sorted({tuple(np.shape(sample)) for sample in X})
    except ValueError:  # the samples themselves are lists of unequal lists
        return ""
    return f", such as {shapes[0]} and {shapes[-1]}"


def check_samples(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: ArrayLike | None,
    *,
    needs_y: bool = False,
) -> tuple[NDArray[Any], Any, NDArray[np.float64]]:
    """Return valid samples, labels and weights."""
    X = as_array(X)
    if y is None and not needs_y:
        X = check_array(X, allow_nd=True, estimator=estimator)
    else:
        X, y = check_X_y(X, y, allow_nd=True, estimator=estimator)
        check_classification_targets(y)
    weight = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    return X, y, weight


def with_weight(sample_weight: NDArray[np.float64]) -> NDArray[np.bool_] | slice:
    """Return what selects the samples that count, without a copy if all do.

    Raises
    ------
    ValueError
        If none does.
    """
    used = sample_weight > 0
    if not used.any():
        raise ValueError("sample_weight is zero for every sample.")
    return slice(None) if used.all() else used


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


def check_classes(
    classes: NDArray[Any],
    codes: NDArray[np.intp],
    hashes: NDArray[np.uint64],
    weight: NDArray[np.float64],
    *,
    calibrate: bool,
) -> NDArray[np.bool_]:
    """Return which samples are their class's only one, and cannot be held out.

    None, if nothing is calibrated.

    Raises
    ------
    ValueError
        If there is a single class, or nothing to calibrate on.

    Warns
    -----
    UserWarning
        If some are, with their classes.
    """
    if len(classes) < 2:
        raise ValueError(
            f"y has {len(classes)} class, {classes.tolist()}, and at least two are "
            "needed. Samples of weight zero do not count."
        )
    if not calibrate:
        return np.zeros(len(codes), dtype=bool)
    # Equal rows are one sample with the sum of their weights.
    codes_of_distinct, _ = np.unique(np.stack([codes, hashes.view(np.int64)]), axis=1)
    alone = (np.bincount(codes_of_distinct) == 1) & (np.bincount(codes, weight) <= 1)
    if alone.all():
        raise ValueError(
            "Calibration needs a class of at least two distinct samples, and each of "
            f"those in y has only one sample: {classes[:5].tolist()}. Add samples, or "
            "use calibration=None."
        )
    if alone.any():
        warnings.warn(
            f"These classes have only one sample: {classes[alone][:5].tolist()}. It is "
            "their mean, and says nothing of how sure of them one may be: they are "
            "left out of the calibration.",
            stacklevel=5,
        )
    return alone[codes]


def check_n_clusters(n_clusters: int, n_samples: int) -> None:
    """Refuse more clusters than samples."""
    if n_clusters > n_samples:
        raise ValueError(
            f"n_clusters={n_clusters} is more than there are samples: "
            f"n_samples={n_samples}. Samples of weight zero do not count."
        )


def check_macs(macs: ArrayLike, n_stages: int) -> NDArray[np.float64]:
    """Return what an extractor says its stages cost, if that makes sense."""
    cumulative = np.asarray(macs, dtype=np.float64)
    if (
        cumulative.shape != (n_stages,)
        or not np.isfinite(cumulative).all()
        or (np.diff(cumulative, prepend=0.0) < 0).any()
    ):
        raise ValueError(
            f"The extractor's macs() must return {n_stages} numbers, one per stage, "
            f"none below the one before it; it returned {macs!r}."
        )
    return cumulative


def codes_of(y: Any, labels: NDArray[Any]) -> NDArray[np.intp]:
    """Return the index of each label.

    Raises
    ------
    ValueError
        If a label is none of them.
    """
    unknown = np.setdiff1d(y, labels)
    if len(unknown):
        raise ValueError(
            f"y has labels {unknown[:5].tolist()} that are none of those known: "
            f"{labels[:5].tolist()}{', ...' if len(labels) > 5 else ''}."
        )
    order = labels.argsort()
    codes: NDArray[np.intp] = order[np.searchsorted(labels, y, sorter=order)]
    return codes


def labels_of(y: NDArray[Any], classes: Any, n_classes: int) -> NDArray[Any]:
    """Return the label of each column, by default the sorted labels of y.

    Raises
    ------
    ValueError
        If they are not as many as the columns.
    """
    labels = np.unique(y) if classes is None else np.asarray(classes)
    if len(labels) != n_classes:
        raise ValueError(
            f"There are {len(labels)} labels for {n_classes} columns of probabilities: "
            "pass classes= with one for each column."
        )
    return labels
