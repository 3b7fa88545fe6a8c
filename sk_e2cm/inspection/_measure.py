"""Accuracy, cost, calibration and time of a fitted estimator, for a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_clusterer
from sklearn.utils import check_consistent_length, gen_batches

from .._delegation import DelegatesToEstimator, with_exits
from .._early_exit import accuracy
from .._multi_exit._thresholds import first_exit, is_closed
from .._utils._labels import codes_of, labels_like
from .._utils._validation import is_number, is_whole
from ..metrics import accuracy_cost_curve, calibration_error
from ._exits import counts_by_stage
from ._races import PredictionRace, TimeRatio
from ._report import Report


def report(
    estimator: Any,
    network: Any,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    max_drop: float = 0.01,
    n_rounds: int = 9,
    random_state: int | None = 0,
) -> Report:
    """Measure whether early exits pay on this network, these samples, this machine.

    Accuracy, costs and calibration come from one run of all stages; times are of
    ``estimator.predict`` against the plain network, NumPy arrays in, in turn on the
    same samples, in the threads that torch has. Nothing else should run meanwhile.

    Parameters
    ----------
    estimator : TunedExitsCV, E2CMClassifier, E2CMClusterer or Pipeline
        Fitted; a pipeline ends in one of these.

    network : Module, callable or None
        What users would run without this package: the module that the extractor was
        made of, or a function of an array of samples: of those that the estimator gets
        in a pipeline. A copy of the module is run, in eval mode. None stands for what
        the extractor keeps of it, or for all its stages.

    X : array-like of shape (n_samples, ...)
        Some hundred or thousand samples that neither the network nor the estimator has
        seen; the probabilities of all stages are kept for them.

    y : array-like of shape (n_samples,), default=None
        True labels. By default, and for clusters always, the answers of the full
        network.

    batch_sizes : sequence of int, default=(1, 32)
        How many samples each call of ``predict`` gets. One call with many samples is
        timed, too, against the size that is quickest for the plain network, if X has
        two of the estimator's batches.

    max_drop : float, default=0.01
        Accuracy that may be lost, for the verdict.

    n_rounds : int, default=9
        Rounds that medians are taken of; of less than five nothing can be told from
        noise. A round takes about a second for each way to predict, longer if two
        batches do, or the samples that make 64 in all rounds.

    random_state : int, default=0
        Chooses the samples that are timed; None for others at each call.

    Returns
    -------
    Report
        To be printed, drawn by its ``plot``, or read.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.

    TypeError
        If it is no estimator with early exits, or if the network is none.

    ValueError
        If a parameter is no such number, if X and y do not fit the estimator, or if
        it has no exits.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_e2cm import E2CMClassifier
    >>> from sk_e2cm.inspection import report
    >>> from sk_e2cm.testing import ToyExtractor
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = E2CMClassifier(ToyExtractor()).fit(X[:1000], y[:1000])
    >>> found = report(clf, None, X[1000:], y[1000:], n_rounds=1)
    >>> found.stage_names
    ('part1', 'part2', 'part3')
    """
    sizes = _checked_sizes(batch_sizes)
    _check_numbers(n_rounds, max_drop)
    inside, X = with_exits(estimator, X)
    if not inside.network_.n_exits:
        raise ValueError("There is nothing to report: the estimator has no exits.")
    X, inside = inside._check_X(X), _without_names(inside)
    if y is not None and not is_clusterer(inside):
        check_consistent_length(X, y)
    else:
        y = None
    order = np.random.default_rng(random_state).permutation(len(X))
    race = PredictionRace(inside._quiet(), network, X[order], n_rounds)
    return Report(
        **_answers(inside, X, y),
        own_score=None if y is None else _own_score(race.plain, inside, X, y),
        times=_times(race, len(X), sizes, inside.batch_size),
        max_drop=float(max_drop),
        is_tuned=_is_tuned(estimator),
        has_labels=y is not None,
    )


def _without_names(inside: Any) -> Any:
    """Return a copy that asks arrays, checked before, for no names of columns."""
    nameless = copy(inside)
    vars(nameless).pop("feature_names_in_", None)
    return nameless


def _times(
    race: PredictionRace, n_samples: int, batch_sizes: list[int], own_size: int
) -> list[TimeRatio]:
    """Time each size, and many batches in one call if there are some."""
    sizes = sorted({min(size, n_samples) for size in batch_sizes})
    times = [race.run(size) for size in sizes]
    if n_samples >= 2 * own_size:
        # The plain network, too, gets many samples in the way that suits it.
        quickest = min(times, key=lambda time: time.plain)
        times.append(race.run(quickest.at_once, in_one_call=True))
    return times


def _own_score(
    plain: Callable[[NDArray[Any]], Any], inside: Any, X: NDArray[Any], y: ArrayLike
) -> float | None:
    """Return the accuracy of the plain network; None if its classes are not known."""
    labels, head_classes = inside.network_.labels, getattr(inside, "head_classes", None)
    if getattr(inside, "final", None) not in ("auto", "network"):
        return None  # it may have been trained for other classes
    if head_classes is None and labels.dtype.kind not in "biuf":
        return None  # nobody knows the order of text
    columns = labels if head_classes is None else np.asarray(head_classes)
    answers = []
    for rows in gen_batches(len(X), inside.batch_size):
        output = plain(X[rows])
        if getattr(output, "ndim", 0) != 2 or output.shape[1] != len(columns):
            return None
        answers.append(np.asarray(output.argmax(1)))
    return accuracy(y, columns[np.concatenate(answers)])


def _answers(inside: Any, X: NDArray[Any], y: ArrayLike | None) -> dict[str, Any]:
    """Return the fields of a report that follow from one run of all stages."""
    network = inside.network_
    proba = inside.exit_proba(X)
    stage = first_exit(proba, inside.threshold)
    labels = network.labels
    early, full = network.labels_at(proba, stage), network.labels_at(proba, -1)
    true = full if y is None else labels_like(y, labels)
    codes = codes_of(true, labels)
    counts = counts_by_stage(
        stage, codes, early == true, network.n_exits + 1, len(labels)
    )
    lost = (full == true).astype(float) - (early == true)
    sure = proba[np.arange(len(X)), stage].max(axis=1)
    left = np.bincount(stage, minlength=network.n_exits + 1)
    total = np.bincount(stage, sure, minlength=network.n_exits + 1)
    is_open = np.append(~is_closed(network.thresholds(inside.threshold)), True)
    score, cost, _ = accuracy_cost_curve(
        true, proba[:, is_open], inside.stage_cost_[is_open], classes=labels
    )
    return {
        "stage_names": tuple(network.stage_names),
        "is_open": is_open,
        "stage_cost": inside.stage_cost_,
        "counts": counts,
        "confidence": np.divide(
            total, left, out=np.full(len(left), np.nan), where=left > 0
        ),
        "calibration_error": np.array(
            [
                calibration_error(true, proba[:, i], classes=labels)
                for i in range(proba.shape[1])
            ]
        ),
        "score": float((early == true).mean()),
        "full_score": float((full == true).mean()),
        "drop_error": max(float(lost.std() / len(lost) ** 0.5), 1 / len(lost)),
        "cost": float(inside.stage_cost_[stage].mean()),
        "unit": network.costs.unit,
        "curve": (cost, score),
        "classes": labels,
    }


def _is_tuned(estimator: Any) -> bool:
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    return isinstance(last, DelegatesToEstimator)


def _checked_sizes(batch_sizes: Any) -> list[int]:
    """Return numbers of samples.

    Raises
    ------
    ValueError
        If they are none.
    """
    sizes = list(batch_sizes) if isinstance(batch_sizes, Iterable) else []
    if not all(map(is_whole, sizes)) or min(sizes, default=0) < 1:
        raise ValueError(
            f"batch_sizes must be whole numbers from 1 on, got {batch_sizes!r:.60}."
        )
    return [int(size) for size in sizes]


def _check_numbers(n_rounds: Any, max_drop: Any) -> None:
    if not is_whole(n_rounds) or n_rounds < 1:
        raise ValueError(
            f"n_rounds must be a whole number from 1 on, got {n_rounds!r}."
        )
    if not is_number(max_drop) or not 0 <= max_drop <= 1:
        raise ValueError(f"max_drop must be from 0 to 1, got {max_drop!r:.60}.")
