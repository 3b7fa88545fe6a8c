"""How thresholds are chosen for samples that come in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from ._fitting._labelled import LabelledStatistics
from ._in_parts import FinishedAttribute, FitsInParts
from ._tuned_fit import TunedFit
from ._tuning._held_out import Data, cross_predict_seen


class TunedInParts(FitsInParts, TunedFit):
    """Adds `partial_fit`, `merge` and what goes with them to a choice of thresholds.

    A copy of the estimator, made for each call, sees the samples.
    """

    random_state: Any

    _finished_by = "estimator_"
    estimator_ = FinishedAttribute()
    best_threshold_ = FinishedAttribute()
    best_score_ = FinishedAttribute()
    best_cost_ = FinishedAttribute()
    full_score_ = FinishedAttribute()
    drop_upper_ = FinishedAttribute()
    frontier_ = FinishedAttribute()
    label_share_ = FinishedAttribute()

    def _seen(
        self,
        before: LabelledStatistics | None,
        X: Any,
        y: Any,
        classes: ArrayLike | None,
        sample_weight: ArrayLike | None,
    ) -> LabelledStatistics:
        """Run the network over samples, and return their statistics."""
        n_folds = self._checked_n_folds()
        estimator = self._own_estimator()
        if before is not None:
            # So that it knows the columns.
            estimator._set_seen(before)
        return estimator._seen(before, X, y, classes, sample_weight, n_folds)

    def _check_source(self, seen: LabelledStatistics) -> None:
        """Refuse statistics of other features, or of other folds."""
        self._own_estimator()._check_source(seen, self._checked_n_folds())

    def _finish(self) -> None:
        """Fit a copy of the estimator to what was seen, and choose its thresholds."""
        # Parameters may have changed since.
        self._check_source(self.statistics_)
        held_out = cross_predict_seen(self._own_estimator(), self.statistics_.copy())
        nobody = Data(held_out.X, None, np.zeros(0))
        rng = check_random_state(self.random_state)
        self._tune(held_out, nobody, rng, in_parts=True)

    def _checked_n_folds(self) -> int:
        """Return the number of folds; refuse what parts do not allow."""
        self._check_estimator()
        self._check_goal(None, has_labels=True)
        self._check_sets_none_aside()
        if isinstance(self.cv, str):
            raise ValueError(
                "cv='prefit' takes a fitted estimator as it is, and partial_fit fits a "
                "copy of it: use a number of folds."
            )
        return self._n_folds()
