"""Heads fitted to all samples, and their out-of-fold probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from .._multi_exit._logits import Logits
from .._utils._arrays import Floats
from ._calibration import Calibration, Temperature, fit_calibration
from ._covariance import Shrinkage
from ._folding import fold
from ._kept import SampleFeatures
from ._means import OF_SECOND_ORDER, Means, fit_means
from ._scores import Scorer
from ._statistics import Statistics, folds_by_hash
from ._sums import ClassSums
from ._unseen import Block, ScoresWithoutFold, UnseenScores


class HeadSpec(NamedTuple):
    """How the heads of exits are fitted; see `E2CMClassifier`.

    `parts` are what stands at an exit: "class_means", a classifier, or several.
    """

    metric: str
    shrinkage: Shrinkage
    calibration: str | None
    carry: int = 0
    parts: tuple[Any, ...] = ("class_means",)

    @property
    def needs_products(self) -> bool:
        """Whether class means take sums of products of the features."""
        return self.metric in OF_SECOND_ORDER

    @property
    def is_class_means(self) -> bool:
        """Whether nothing but class means stands at an exit."""
        return self.parts == ("class_means",)

    @property
    def needs_everything(self) -> bool:
        """Whether the features of all samples are needed after the pass."""
        return self.carry > 0 or not self.is_class_means


@dataclass(frozen=True)
class FittedHead:
    """The fitted head of one stage, an exit or the last.

    Parameters
    ----------
    kind : {"class_means", "network", "classifier", "combination", "clusterer"}
        What computes the logits.

    logits : Logits
        From features to logits, fitted to all samples.

    out_of_fold : callable
        Yields the probabilities of the samples held out, from what has not seen them,
        block by block: their places among these, and an array of the shape (n_places,
        n_classes).

    carried : tuple of int, default=()
        Earlier stages whose features come before its own.

    means : Means, default=None
        The class means, if it has any.

    temperature : float, default=1.0
        Of its calibration; 1 is the paper's.
    """

    kind: str
    logits: Logits
    out_of_fold: Callable[[], Iterator[Block]]
    carried: tuple[int, ...] = field(default=(), kw_only=True)
    means: Means | None = field(default=None, kw_only=True)
    temperature: float = field(default=1.0, kw_only=True)


@dataclass(frozen=True)
class CrossFit:
    """A fit, with out-of-fold probabilities of every stage.

    Parameters
    ----------
    statistics : Statistics
        Of the pass over the data.

    heads : list of FittedHead
        One for each stage.

    refit : callable, default=None
        Returns the `CrossFit` with the exits of these stages fitted anew, as if there
        were no others; it sets the estimator, too. None where others do not matter.
    """

    statistics: Statistics
    heads: list[FittedHead]
    refit: Callable[[Sequence[int]], CrossFit] | None = None

    @property
    def codes(self) -> NDArray[np.intp]:
        """The true classes of the samples held out."""
        return self.statistics.codes[self.statistics.held_out]

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Of their content."""
        return self.statistics.hashes[self.statistics.held_out]

    @property
    def weight(self) -> Floats:
        """Their weights."""
        return self.statistics.sample_weight[self.statistics.held_out]


class StageInputs(NamedTuple):
    """What the head of one stage is fitted to.

    Parameters
    ----------
    features : ndarray or JoinedFeatures, of shape (n_kept, n_features)
        Those carried and, last, its own.

    sums : ClassSums or None
        Of all samples; None if no class means are wanted.

    rounding : ndarray of shape (n_features,)
        How far rounding may move each feature.

    sample_weight : ndarray of shape (n_kept,)
        Of the samples.

    carried : tuple of int, default=()
        Earlier stages whose features come before its own.
    """

    features: SampleFeatures
    sums: ClassSums | None
    rounding: Floats
    sample_weight: Floats
    carried: tuple[int, ...] = ()


def fit_class_means(statistics: Statistics, spec: HeadSpec) -> Iterator[FittedHead]:
    """Fit the class means of every stage by itself, one after the other."""
    for stage, name in enumerate(statistics.stage_names):
        inputs = StageInputs(
            statistics.features[stage],
            statistics.sums[stage],
            statistics.rounding[stage],
            statistics.sample_weight,
        )
        with naming(name):
            yield fit_one(statistics, spec, inputs)


@contextmanager
def naming(stage_name: str) -> Iterator[None]:
    """Say at which stage something went wrong."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Stage {stage_name!r}: {error}") from error


def fit_one(statistics: Statistics, spec: HeadSpec, inputs: StageInputs) -> FittedHead:
    """Fit the class means of one stage, and calibrate them out of fold."""
    without = means_of(statistics, spec, inputs)
    means = without(None)
    unseen = ScoresWithoutFold(without, inputs.features, statistics, len(means.means))
    return head_of("class_means", statistics, spec, inputs, means, unseen, means=means)


def means_of(
    statistics: Statistics, spec: HeadSpec, inputs: StageInputs
) -> Callable[[int | None], Means]:
    """Return a function from a fold to the class means without it (None: of all)."""
    if inputs.sums is None:
        raise ValueError("Class means need sums over the samples.")
    without = fit_means(
        spec.metric,
        inputs.sums,
        inputs.features,
        statistics.codes,
        inputs.sample_weight,
        shrinkage=spec.shrinkage,
        n_samples=statistics.n_distinct,
        rounding=inputs.rounding,
    )
    # Who scores many samples asks for one fold after the other, each several times.
    return lru_cache(maxsize=1)(without)


def head_of(
    kind: str,
    statistics: Statistics,
    spec: HeadSpec,
    inputs: StageInputs,
    scorer: Scorer,
    unseen: UnseenScores,
    calibration: Calibration | None = None,
    means: Means | None = None,
) -> FittedHead:
    """Return a head that is calibrated on out-of-fold scores.

    `calibration` is found by default.
    """
    calibration = calibration or calibrate(statistics, spec, unseen)
    out_of_fold = partial(_calibrated, unseen, calibration)
    if spec.calibration == "dirichlet":
        halves = cache(partial(_calibrated_on_halves, statistics, spec, unseen))
        out_of_fold = partial(_by_other_half, statistics, unseen, halves, calibration)
    return FittedHead(
        kind,
        fold(scorer, calibration, inputs.features),
        out_of_fold,
        carried=inputs.carried,
        means=means,
        temperature=1 / calibration.inverse_temperature,
    )


def _calibrated(unseen: UnseenScores, calibration: Calibration) -> Iterator[Block]:
    """Yield probabilities of the samples held out, block by block.

    A temperature is one number fitted to all of them: no single one matters to it.
    """
    for places, scores in unseen:
        yield places, softmax(calibration(scores), axis=1)


def _by_other_half(
    statistics: Statistics,
    unseen: UnseenScores,
    halves: Callable[[], list[Calibration | None]],
    calibration: Calibration,
) -> Iterator[Block]:
    """Yield the same by calibrations that have not seen the sample either.

    Where all samples are in one half, it is that of all.
    """
    in_half = _halves_of(statistics)
    for places, scores in unseen:
        proba = np.empty_like(scores)
        for half, other in enumerate(halves()):
            inside = in_half[places] == half
            proba[inside] = softmax((other or calibration)(scores[inside]), axis=1)
        yield places, proba


def _calibrated_on_halves(
    statistics: Statistics, spec: HeadSpec, unseen: UnseenScores
) -> list[Calibration | None]:
    """Return, for each half of the samples held out, the calibration on the other."""
    in_half = _halves_of(statistics)[unseen.blocks[0]]
    outside = [np.flatnonzero(in_half != half) for half in range(2)]
    return [
        calibrate(statistics, spec, unseen, rows) if len(rows) else None
        for rows in outside
    ]


def _halves_of(statistics: Statistics) -> NDArray[np.intp]:
    """Return in which half each sample held out is."""
    # The upper bits alone are independent of the remainders that may have made folds.
    hashes = statistics.hashes[statistics.held_out]
    return folds_by_hash(hashes >> np.uint64(32), 2)


def calibrate(
    statistics: Statistics,
    spec: HeadSpec,
    unseen: UnseenScores,
    which: NDArray[np.intp] | slice = slice(None),
) -> Calibration:
    """Calibrate on the first block of samples held out, or some of it.

    What nobody calibrates on, `unseen` is not asked for: it may take long.
    """
    if spec.calibration is None:
        return Temperature()
    rows = statistics.held_out[unseen.blocks[0][which]]
    return fit_calibration(
        spec.calibration,
        unseen.scores(0)[which],
        statistics.codes[rows],
        statistics.sample_weight[rows],
        n_samples=len(np.unique(statistics.hashes[rows])),
    )
