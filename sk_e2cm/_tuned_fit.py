"""How samples are held out, and thresholds found on them."""

from __future__ import annotations

from copy import copy
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone, is_clusterer
from sklearn.metrics import get_scorer
from sklearn.utils.validation import check_is_fitted

from ._early_exit import EarlyExitMixin
from ._tuning._beyond_luck import beyond_luck
from ._tuning._choice import check_drop
from ._tuning._confidence import TEST_SIZE, DropTest, check_confidence, with_cautious
from ._tuning._folds import (
    check_folds,
    folds_of,
    set_aside,
    spare_singletons,
    spare_whole_classes,
)
from ._tuning._held_out import (
    Data,
    HeldOutPredictions,
    cross_predict,
    cross_predict_stream,
    fit_predict_held_out,
    predict_held_out,
)
from ._tuning._problem import ThresholdProblem
from ._tuning._risk import RiskControl, promised
from ._tuning._search import Points, evaluate, search
from ._tuning._soft import SoftTargets
from ._tuning._starts import starts
from ._utils._arrays import is_lazy
from ._utils._validation import check_samples


class Found(NamedTuple):
    """What a search has found."""

    targets: SoftTargets
    goal: ThresholdProblem
    problem: ThresholdProblem
    points: Points


class TunedFit:
    """Holds samples out, and searches thresholds for a `TunedExitsCV`."""

    estimator: Any
    max_cost: float | None
    max_drop: float | None
    confidence: float | None
    scoring: Any
    per_class: bool
    risk: RiskControl | None
    cv: Any
    refit: bool
    verbose: int

    def _search(
        self, held_out: HeldOutPredictions, rng: np.random.RandomState
    ) -> Found:
        """Search thresholds: the best for every cost, by what is expected of them."""
        predictions = held_out.predictions
        n_groups = len(held_out.estimator.network_.labels) if self.per_class else 1
        targets = held_out.targets(self.scoring)
        goal = problem = held_out.problem(targets.losses(predictions.label), n_groups)
        if self.risk is not None:
            # What is promised is what candidates have to be good at.
            goal = held_out.problem(targets.spoilt(predictions.label), n_groups)
        exits = held_out.exits
        among = goal if exits is None else goal.of_exits(exits)
        further = starts(among, predictions, held_out.codes)
        points = search(among, further, rng, verbose=self.verbose)
        points = beyond_luck(among, points, held_out.distinct)
        if exits is not None:
            points = points.among(exits, goal.n_exits)
        return Found(targets, goal, problem, points)

    def _allowed(
        self, points: Points, problem: ThresholdProblem, estimator: Any, aside: Data
    ) -> tuple[Points, DropTest | None]:
        """Return the points that may be promised, by samples set aside.

        And the test of their drop, if `confidence` asks for one.
        """
        test = None
        if self.risk is not None:
            calibration = predict_held_out(estimator, aside)
            points = promised(self.risk, points, calibration)
            points = evaluate(problem, points.thresholds)
        if self.confidence is not None and self.max_drop is not None:
            tested = predict_held_out(estimator, aside)
            test = DropTest(tested, self.max_drop, self.confidence)
            points = test.passed(with_cautious(problem, points))
        return points, test

    def _check_estimator(self) -> None:
        if not isinstance(self.estimator, EarlyExitMixin):
            raise TypeError(
                "TunedExitsCV needs an E2CMClassifier or E2CMClusterer, got "
                f"{type(self.estimator).__name__}. In a pipeline, put TunedExitsCV in "
                "its place: make_pipeline(scaler, TunedExitsCV(classifier, ...))."
            )
        if isinstance(self.cv, str):
            check_is_fitted(self.estimator)

    def _check_goal(self, sample_weight: ArrayLike | None, *, has_labels: bool) -> None:
        goals = (self.max_cost is not None) + (self.max_drop is not None)
        if goals == 2 or (goals == 0 and self.risk is None):
            raise ValueError(
                f"Give {'only ' if goals else ''}one of max_cost= and max_drop=: the "
                "most accurate thresholds of at most this cost, or the cheapest that "
                "lose no more than this drop."
            )
        if not has_labels and self.scoring != "accuracy":
            raise ValueError(
                f"scoring={self.scoring!r} needs labels: without y, and for clusters, "
                "use scoring='accuracy', which is agreement with the full network."
            )
        get_scorer(self.scoring)  # refuses what it does not know
        check_drop(self.max_drop, self.scoring)
        if self.confidence is not None:
            check_confidence(self.max_drop, self.risk, self.scoring, sample_weight)
        if self.risk is not None and sample_weight is not None:
            raise ValueError(
                "risk= is a promise about samples that count alike, and does not take "
                "sample_weight."
            )

    def _checked(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> Data:
        array, y, weight = check_samples(self, X, y, sample_weight)
        # Of a data frame the estimator wants to know the columns.
        return Data(X if hasattr(X, "columns") else array, y, weight)

    def _own_estimator(self) -> Any:
        """Return a copy that is as verbose as this."""
        prefit = isinstance(self.cv, str)
        estimator = copy(self.estimator) if prefit else clone(self.estimator)
        estimator.verbose = self.verbose or estimator.verbose
        return estimator

    def _split(
        self, data: Data, rng: np.random.RandomState
    ) -> tuple[Any, Data, NDArray[np.intp]]:
        """Return an estimator, labelled data, and the fold that holds out each."""
        estimator = self._own_estimator()
        if isinstance(self.cv, str):
            return estimator, data, np.zeros(len(data.weight), dtype=np.intp)
        if data.y is None and not is_clusterer(estimator):
            y, head_classes = estimator._own_labels(data.X, data.weight)
            estimator.set_params(head_classes=head_classes)
            data = Data(data.X, y, data.weight)
        return estimator, data, folds_of(self.cv, data.X, data.y, rng)

    def _predict(
        self, data: Data, rng: np.random.RandomState
    ) -> tuple[HeldOutPredictions, Data]:
        """Predict the samples held out, but for those set aside."""
        estimator, data, folds = self._split(data, rng)
        reserved = np.zeros(len(folds), dtype=bool)
        if self.risk is not None or self.confidence is not None:
            size = TEST_SIZE if self.risk is None else self.risk.calibration_size
            reserved = set_aside(size, folds, data.y, rng)
            if not isinstance(self.cv, str):
                reserved = spare_whole_classes(reserved, data.y)
        aside, data = data.only(reserved), data.only(~reserved)
        if isinstance(self.cv, str):
            return predict_held_out(estimator, data), aside
        used = data.weight > 0
        y = None if data.y is None else data.y[used]
        folds[used] = spare_singletons(folds[used], y)
        check_folds(folds[used], y)
        if self.refit:
            return cross_predict(estimator, data, folds[used]), aside
        train = data.only(folds < 0)
        if not train.weight.any():
            raise ValueError(
                "refit=False needs samples that are never held out: cv=0.2, say, or a "
                "PredefinedSplit with -1 for them."
            )
        return fit_predict_held_out(estimator, train, data.only(folds >= 0)), aside

    def _predict_stream(self, data: Data) -> tuple[HeldOutPredictions, Data]:
        """Predict the samples of a stream that are held out; none are set aside."""
        nobody = Data(data.X, None, np.zeros(0))
        for name in ("risk", "confidence"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name}= sets samples aside, and does not take what comes batch "
                    "by batch. Pass the samples held out as one array or numpy.memmap, "
                    "with cv='prefit'."
                )
        estimator = self._own_estimator()
        if isinstance(self.cv, str):
            return predict_held_out(estimator, data), nobody
        if is_lazy(data.X) and data.y is None and not is_clusterer(estimator):
            raise ValueError(
                "Without y thresholds agree with the full network, which of what comes "
                "batch by batch takes cv='prefit'."
            )
        if not isinstance(self.cv, Integral) or not self.refit:
            raise ValueError(
                "Of what comes batch by batch folds follow from the content of the "
                "samples: use refit=True and a number of folds, or 'prefit', as cv=; "
                f"got cv={self.cv!r} and refit={self.refit}."
            )
        return cross_predict_stream(estimator, data, int(self.cv)), nobody
