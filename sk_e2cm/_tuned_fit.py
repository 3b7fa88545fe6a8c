"""How samples are held out, and thresholds chosen on them."""

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
from ._multi_exit._thresholds import is_closed
from ._tuning._beyond_luck import beyond_luck
from ._tuning._choice import check_drop, choose
from ._tuning._clock import is_slower
from ._tuning._confidence import TEST_SIZE, DropTest, check_confidence, with_cautious
from ._tuning._folds import (
    check_folds,
    folds_of,
    set_aside,
    spare_singletons,
    spare_whole_classes,
)
from ._tuning._frontier import Frontier, frontier_of
from ._tuning._held_out import (
    Data,
    HeldOutPredictions,
    cross_predict,
    cross_predict_stream,
    fit_predict_held_out,
    predict_held_out,
)
from ._tuning._problem import ThresholdProblem, check_has_labels
from ._tuning._risk import RiskControl, promised
from ._tuning._search import Points, concatenate, evaluate, search, used_exits
from ._tuning._soft import SoftTargets
from ._tuning._starts import starts
from ._utils._arrays import Floats, is_lazy
from ._utils._validation import check_samples
from ._utils._warnings import warn

_BY_TIME = (
    " In seconds an exit may also cost more than it saves: see estimator_.seconds_, "
    "and try a larger batch_size."
)


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

    def _searched(
        self, held_out: HeldOutPredictions, rng: np.random.RandomState
    ) -> tuple[HeldOutPredictions, Found]:
        """Search thresholds; once more, if exits carry, without those of no use."""
        found = self._search(held_out, rng)
        if held_out.refit is None:
            return held_out, found
        used = used_exits(found.problem, found.points)
        if not 0 < len(used) < found.problem.n_exits:
            return held_out, found
        # The others have nothing to be remembered for.
        held_out = held_out.refit(used)
        return held_out, self._search(held_out, rng)

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

    def _tune(
        self,
        held_out: HeldOutPredictions,
        aside: Data,
        rng: np.random.RandomState,
        *,
        in_parts: bool,
    ) -> None:
        """Choose thresholds for an estimator by what it predicts, and set all of it.

        `in_parts` says whether more samples may come, and statistics stay for it.
        """
        held_out, found = self._searched(held_out, rng)
        targets, goal, problem, points = found
        network = held_out.estimator.network_
        nobody = np.full((1, *points.thresholds.shape[1:]), np.inf)
        # Always a candidate, and the last, though others may be better.
        points = concatenate(points, evaluate(goal, nobody))
        points, test = self._allowed(points, problem, held_out.estimator, aside)
        frontier = frontier_of(self.scoring, points, held_out)
        of_which = "" if self.risk is None else " that the promise allows"
        unit = network.costs.unit
        best = choose(frontier, self.max_cost, self.max_drop, of_which, unit)
        full = evaluate(problem, nobody), frontier.full_score
        chosen = full if best is None else frontier.at(best)
        if slower := is_slower(held_out, chosen[0].thresholds[0], self.max_cost):
            chosen = full
        fitted = self._best(held_out.estimator, frontier, chosen, targets.share, test)
        state = vars(self) | fitted
        if not in_parts:
            state.pop("statistics_", None)
        # At once: an interrupt leaves the old or the new.
        self.__dict__ = state
        if not slower:
            n_aside = int(np.count_nonzero(aside.weight))
            self._warn_if_nobody_leaves(chosen[0].thresholds[0], unit, n_aside, test)

    def _best(
        self,
        estimator: Any,
        frontier: Frontier,
        chosen: tuple[Points, float],
        label_share: float,
        test: DropTest | None,
    ) -> dict[str, Any]:
        """Return the fitted attributes."""
        points, score = chosen
        (best,) = points.thresholds
        threshold = self._as_users_give_them(best)
        of_frontier = frontier.points
        return {
            "frontier_": {
                "cost": of_frontier.cost,
                "score": frontier.score,
                "expected_score": 1.0 - of_frontier.loss,
                "threshold": self._as_users_give_them(of_frontier.thresholds),
            },
            "full_score_": frontier.full_score,
            "best_score_": score,
            "best_cost_": float(points.cost[0]),
            "label_share_": label_share,
            "best_threshold_": threshold.copy(),
            "drop_upper_": test and test.upper(best),
            # Copies, so that who changes one changes no other.
            "estimator_": estimator.set_params(
                threshold=threshold.copy(), verbose=self.estimator.verbose
            ),
        }

    def _warn_if_nobody_leaves(
        self, thresholds: Floats, unit: str, n_aside: int, test: DropTest | None
    ) -> None:
        closed = is_closed(thresholds)
        if not len(closed):
            warn(
                "The estimator has no exits, and so there are no thresholds to choose: "
                "give it an extractor with exits."
            )
        elif closed.all():
            goals = {"cost": self.max_cost, "drop": self.max_drop, "risk": self.risk}
            asked = [goal for goal, value in goals.items() if value is not None]
            warn(
                "The thresholds chosen close every exit: nothing will leave early. "
                + self._about_samples_aside(n_aside, test)
                + f"Allow a larger {' or '.join(asked)}, hold out more samples, or use "
                "a metric and a pooling that make better exits."
                + _BY_TIME
                * (unit == "time")
            )

    def _about_samples_aside(self, n_aside: int, test: DropTest | None) -> str:
        """Say that they are too few, if no thresholds at all could pass on them."""
        too_few = test is not None and test.is_hopeless
        if self.risk is not None:
            too_few = self.risk.n_promised(np.zeros(1), n_aside) == 0
        if not too_few:
            return ""
        return (
            f"{n_aside} samples were set aside to test on, too few for what is to be "
            "promised even if early exits spoil none of them. "
        )

    def _as_users_give_them(self, thresholds: Floats) -> Floats:
        return thresholds if self.per_class else thresholds[..., 0]

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
        check_has_labels(self.scoring, has_labels)
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
        self._check_sets_none_aside()
        estimator = self._own_estimator()
        if isinstance(self.cv, str):
            return predict_held_out(estimator, data, self.scoring), nobody
        if is_lazy(data.X) and data.y is None and not is_clusterer(estimator):
            raise ValueError(
                "Without y thresholds agree with the full network, which of what comes "
                "batch by batch takes cv='prefit'."
            )
        return cross_predict_stream(estimator, data, self._n_folds()), nobody

    def _check_sets_none_aside(self) -> None:
        """Refuse promises, of what comes batch by batch."""
        for name in ("risk", "confidence"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name}= sets samples aside, and does not take what comes batch "
                    "by batch. Pass the samples held out as one array or numpy.memmap, "
                    "with cv='prefit'."
                )

    def _n_folds(self) -> int:
        """Return the number of folds, of what comes batch by batch."""
        if not isinstance(self.cv, Integral) or not self.refit:
            raise ValueError(
                "Of what comes batch by batch folds follow from the content of the "
                "samples: use refit=True and a number of folds, or 'prefit', as cv=; "
                f"got cv={self.cv!r} and refit={self.refit}."
            )
        return int(self.cv)
