"""What stands at the exits where all features are kept: exits that remember, heads.

The features of the one pass are gone through exit by exit. An exit may see those of the
exits before it, and more of the samples that these were unsure of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from .._utils._arrays import Floats
from ._classifiers import fit_classifier
from ._cross_fitting import (
    CrossFit,
    FittedHead,
    HeadSpec,
    StageInputs,
    calibrate,
    fit_class_means,
    fit_one,
    head_of,
    means_of,
    naming,
)
from ._kept import JoinedFeatures, chunks
from ._scores import Combination, Scorer, combination_weights, log_proba
from ._statistics import MOST_FEATURES, N_FOLDS, Statistics, folds_by_hash, sum_over
from ._unseen import CombinedScores, ScoresWithoutFold, scores_of

# So that samples which the exit before is sure of keep some weight.
_FLOOR = 0.05


def fit_stages(statistics: Statistics, spec: HeadSpec) -> Iterator[FittedHead]:
    """Fit the heads of all exits and, at last, the class means of the last stage."""
    if not spec.needs_everything:
        yield from fit_class_means(statistics, spec)
        return
    last = len(statistics.stage_names) - 1
    yield from fit_exits(statistics, spec, range(last))
    of_last = spec._replace(carry=0, parts=("class_means",))
    yield from fit_exits(statistics, of_last, [last])


def refit_exits(
    statistics: Statistics,
    spec: HeadSpec,
    heads: Sequence[FittedHead],
    set_fitted: Callable[[Sequence[FittedHead]], CrossFit],
    exits: Sequence[int],
) -> CrossFit:
    """Fit these exits anew, as if there were no others, and set what was fitted.

    `heads` are those of all exits; the others stay as they are, to be closed.
    """
    found = list(heads)
    for exit_, head in zip(exits, fit_exits(statistics, spec, exits), strict=True):
        found[exit_] = head
    return set_fitted(found)


def fit_exits(
    statistics: Statistics, spec: HeadSpec, exits: Sequence[int]
) -> Iterator[FittedHead]:
    """Fit the heads of exits from the features of all samples, one after the other.

    Parameters
    ----------
    statistics : Statistics
        With the features of all samples.

    spec : HeadSpec
        What stands at an exit.

    exits : sequence of int
        Their stages, in ascending order. Each carries the features of as many before it
        in this sequence as `spec` says, or as there are.
    """
    folds = _folds_of_all(statistics)
    weight = statistics.sample_weight
    most = MOST_FEATURES if _takes_covariances(spec) else np.inf
    narrow = [features.shape[1] <= most for features in statistics.features]
    for place, stage in enumerate(exits):
        before = exits[max(place - spec.carry, 0) : place]
        # What is too wide for a covariance neither carries nor is carried.
        carried = tuple(s for s in before if narrow[s]) if narrow[stage] else ()
        with naming(statistics.stage_names[stage]):
            inputs = _inputs(statistics, spec, stage, carried, folds, weight)
            if spec.carry and spec.is_class_means:
                head, emphasis = _fit_remembering(statistics, spec, inputs, folds)
                weight = statistics.sample_weight * emphasis
            elif spec.is_class_means:
                head = fit_one(statistics, spec, inputs)
            else:
                head = _fit_parts(statistics, spec, inputs)
        yield head


def _folds_of_all(statistics: Statistics) -> NDArray[np.intp]:
    """Return a fold for each sample; those that are not held out have some, too."""
    folds = statistics.folds
    others = folds.max() + 1 + folds_by_hash(statistics.hashes, N_FOLDS)
    return np.where(folds >= 0, folds, others)


def _inputs(
    statistics: Statistics,
    spec: HeadSpec,
    stage: int,
    carried: tuple[int, ...],
    folds: NDArray[np.intp],
    sample_weight: Floats,
) -> StageInputs:
    stages = (*carried, stage)
    features = JoinedFeatures([statistics.features[s] for s in stages])
    if _takes_covariances(spec) and carried and features.shape[1] > MOST_FEATURES:
        raise ValueError(
            f"carry={spec.carry} joins {features.shape[1]} features of the stages "
            f"{[statistics.stage_names[s] for s in stages]}, and covariances are taken "
            f"of at most {MOST_FEATURES}. Use a smaller carry, or a coarser pooling."
        )
    sums = None
    if "class_means" in spec.parts:
        of_samples = folds, statistics.codes, sample_weight
        sums = sum_over(features, *of_samples, second=spec.needs_products)
    rounding = np.concatenate([statistics.rounding[s] for s in stages])
    return StageInputs(features, sums, rounding, sample_weight, carried)


def _takes_covariances(spec: HeadSpec) -> bool:
    return "class_means" in spec.parts and spec.needs_products


def _fit_remembering(
    statistics: Statistics,
    spec: HeadSpec,
    inputs: StageInputs,
    folds: NDArray[np.intp],
) -> tuple[FittedHead, Floats]:
    """Fit class means; return the emphasis that samples have at the next exit, too.

    It falls with how sure of a sample's own class this exit is, out of fold: the next
    one exists for the others.
    """
    without = means_of(statistics, spec, inputs)
    means = without(None)
    n_classes = len(means.means)
    unseen = ScoresWithoutFold(without, inputs.features, statistics, n_classes)
    calibration = calibrate(statistics, spec, unseen)
    head = head_of(
        "class_means", statistics, spec, inputs, means, unseen, calibration, means
    )
    proba = np.empty(len(folds))
    others = np.flatnonzero(statistics.folds < 0)
    others = others[folds[others].argsort(kind="stable")]
    for rows, scores in chain(
        ((statistics.held_out[places], scores) for places, scores in unseen),
        (
            (some, scores_of(without, inputs.features, folds, some, n_classes))
            for some in chunks(others)
        ),
    ):
        of_classes = softmax(calibration(scores), axis=1)
        proba[rows] = of_classes[np.arange(len(rows)), statistics.codes[rows]]
    emphasis = np.sqrt(1 - proba + _FLOOR)
    return head, emphasis / emphasis.mean()


def _fit_parts(
    statistics: Statistics, spec: HeadSpec, inputs: StageInputs
) -> FittedHead:
    """Fit a classifier, or a combination."""
    parts: list[Callable[[int | None], Scorer]] = []
    for part in spec.parts:
        if isinstance(part, str):
            parts.append(means_of(statistics, spec, inputs))
        else:
            # Several blocks of samples may be scored without a fold.
            fitted = cache(partial(fit_classifier, part, statistics, inputs))
            parts.append(fitted)
    n_classes = int(statistics.codes.max()) + 1
    unseen = [
        ScoresWithoutFold(part, inputs.features, statistics, n_classes)
        for part in parts
    ]
    of_all = [part(None) for part in parts]
    if len(parts) == 1:
        (scorer,), (scores,) = of_all, unseen
        return head_of("classifier", statistics, spec, inputs, scorer, scores)
    some = statistics.held_out[unseen[0].blocks[0]]
    weights = combination_weights(
        [log_proba(scores.scores(0)) for scores in unseen],
        statistics.codes[some],
        statistics.sample_weight[some],
        n_samples=len(np.unique(statistics.hashes[some])),
    )
    has_means = "class_means" in spec.parts
    means: Any = of_all[spec.parts.index("class_means")] if has_means else None
    whole, combined = Combination(of_all, weights), CombinedScores(unseen, weights)
    return head_of(
        "combination", statistics, spec, inputs, whole, combined, means=means
    )
