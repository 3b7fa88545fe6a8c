"""Whether early exits pay, in figures, in a picture and in words."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import Floats
from ._axes import axes_grid
from ._exits import ExitDisplay
from ._races import TimeRatio
from ._tradeoff import TradeoffDisplay

# Of the verdict, in characters.
_WIDTH = 80
# Of the samples: fewer are next to none.
_NEXT_TO_NOTHING = 0.02
# As many standard errors are more than luck.
_ERRORS = 2.0
# By so much confidence may be above what is right, and by so many standard errors.
_TOO_SURE, _SURELY = 0.05, 3.0
# By so much the network's own outputs are worse where X is not what it takes.
_FOREIGN = 0.05


@dataclass(frozen=True, eq=False, kw_only=True)
class Report:
    """What early exits do to accuracy, cost and time; made by `report`.

    ``print(found)`` prints all of it, ``found.plot()`` draws it.

    Parameters
    ----------
    stage_names : tuple of str
        The exits and the last stage.

    is_open : ndarray of bool, shape (n_exits + 1,)
        Whether samples may leave there.

    stage_cost : ndarray of shape (n_exits + 1,)
        Cost of leaving at each stage, in fractions of `unit`.

    counts : ndarray of shape (n_exits + 1, n_classes, 2)
        How many samples of each class leave at each stage, with a wrong and with a
        right answer.

    confidence : ndarray of shape (n_exits + 1,)
        Mean probability of the answers given at each stage; NaN where nobody leaves.

    calibration_error : ndarray of shape (n_exits + 1,)
        Of each stage, over all samples: see `sk_e2cm.metrics.calibration_error`.

    score, full_score : float
        Accuracy with early exits, and with none: of an estimator without labels, the
        share of samples that get the answer of the full network, and 1.

    own_score : float or None
        Accuracy of the plain network's own outputs, if it has one for each class and
        their order is known.

    drop_error : float
        Standard error of ``full_score - score``; one sample among all at least.

    cost : float
        Mean cost, in fractions of `unit`.

    unit : str
        "multiply-adds" or "time".

    curve : tuple of two ndarray of shape (n_points,)
        Cost and score of the thresholds that all open exits may share.

    classes : ndarray of shape (n_classes,)
        Labels.

    times : list of TimeRatio
        One for each way to predict.

    max_drop : float
        What may be lost, see `report`.

    is_tuned : bool
        Whether the thresholds come from a `TunedExitsCV`.

    has_labels : bool
        Whether scores are accuracies.
    """

    stage_names: tuple[str, ...]
    is_open: NDArray[np.bool_]
    stage_cost: Floats
    counts: NDArray[np.intp]
    confidence: Floats
    calibration_error: Floats
    score: float
    full_score: float
    own_score: float | None
    drop_error: float
    cost: float
    unit: str
    curve: tuple[Floats, Floats]
    classes: NDArray[Any]
    times: list[TimeRatio]
    max_drop: float
    is_tuned: bool
    has_labels: bool

    @property
    def leaves(self) -> Floats:
        """The share of the samples that leave at each stage, (n_exits + 1,)."""
        return np.asarray(self._left / self.counts.sum())

    @property
    def _left(self) -> NDArray[np.intp]:
        return np.asarray(self.counts.sum(axis=(1, 2)))

    @property
    def _share_right(self) -> Floats:
        """Of who leaves at each stage, the share that is right; 0 of nobody."""
        right = self.counts[:, :, 1].sum(axis=1)
        return np.asarray(right / np.maximum(self._left, 1))

    @property
    def drop(self) -> float:
        """What early exits lose: ``full_score - score``."""
        return self.full_score - self.score

    @property
    def verdict(self) -> list[str]:
        """Whether to use early exits, for each way to predict, and what to try."""
        if self.own_score is not None and self._is_foreign(self.own_score):
            return [
                f"The network's own outputs are right for {self.own_score:.1%}, what "
                "stands in their place at the last stage for "
                f"{self.full_score:.1%}. Is X prepared as in the network's training "
                "(pictures of 0..255 are the usual trap), and are its outputs in the "
                "order of the labels? Until that is settled, nothing here says "
                "anything. If it was trained for other classes, fit with "
                "final='class_means' (of the command, --final class_means)."
            ]
        left = 1.0 - self.leaves[-1]
        if left < _NEXT_TO_NOTHING:
            return [self._why_nobody_leaves(left)]
        margin = _ERRORS * self.drop_error
        keeps = self.drop + margin <= self.max_drop
        said = [_about_time(time, keeps) for time in self.times]
        said += [*self._about_accuracy(margin), *self._about_confidence()]
        if self.unit != "time" and any(time.pays is not True for time in self.times):
            said.append(
                "Multiply-adds are not seconds: with cost_unit='seconds' TunedExitsCV "
                "closes exits that cost more time than they save."
            )
        return said

    def _is_foreign(self, own_score: float) -> bool:
        variance = sum(p * (1 - p) for p in (own_score, self.full_score))
        error = (variance / self.counts.sum()) ** 0.5
        return self.full_score - own_score > max(_FOREIGN, _ERRORS * error)

    def _why_nobody_leaves(self, left: float) -> str:
        start = f"Do not use it as it is: {left:.1%} of the samples leave early."
        if not self.is_tuned:
            return f"{start} Choose thresholds with TunedExitsCV."
        if not self.is_open[:-1].any():
            return (
                f"{start} TunedExitsCV has closed all exits: none was worth opening "
                "within its limits."
            )
        return f"{start} Few reach the thresholds of early exits."

    def _about_accuracy(self, margin: float) -> list[str]:
        of = "accuracy" if self.has_labels else "agreement"
        points, allowed = 100 * self.drop, 100 * self.max_drop
        said = []
        if self.drop - margin > self.max_drop:
            how = "TunedExitsCV(max_drop=, confidence=0.95)"
            if self.is_tuned:
                how = "confidence=0.95, or a smaller max_drop"
            said.append(
                f"It loses {points:.1f} points of {of}, more than max_drop allows "
                f"({allowed:.1f}): choose thresholds with {how}."
            )
        elif self.drop + margin > self.max_drop:
            lost = f"loses {points:.1f}" if points >= 0 else f"gains {-points:.1f}"
            said.append(
                f"{int(self.counts.sum())} samples are too few to say whether it loses "
                f"more than {allowed:.1f} points of {of}, which max_drop allows: here "
                f"it {lost}, with a standard error of {100 * self.drop_error:.1f}."
            )
        if not self.is_tuned:
            said.append("Thresholds are not tuned: TunedExitsCV may find cheaper ones.")
        return said

    def _about_confidence(self) -> list[str]:
        used = np.flatnonzero(self._left[:-1])
        n, share = self._left[used], self._share_right[used]
        # The binomial formula, with a share of one at least among so many.
        error = np.sqrt(np.maximum(share * (1 - share), 1 / n) / n)
        gap = self.confidence[used] - share
        names = [
            self.stage_names[i]
            for i in used[gap > np.maximum(_SURELY * error, _TOO_SURE)]
        ]
        if not self.has_labels or not names:
            return []
        return [
            f"Too sure of themselves: {', '.join(names)}. Were the exits fitted to few "
            "samples, or to those that the network was trained on?"
        ]

    def __str__(self) -> str:
        """Return tables and the verdict."""
        name = "accuracy" if self.has_labels else "agreement with the full network"
        points, error = abs(100 * self.drop), 100 * self.drop_error
        lost = "lost" if self.drop >= 0 else "gained"
        at = f"at {self.cost:.2f} of its {self.unit}"
        if self.unit == "time":
            at = f"and {self.cost:.2f} of its time predicted"
        lines = [
            *self._stage_lines(),
            "",
            f"Full network: {name} {self.full_score:.4f}.",
            fill(
                f"With early exits: {self.score:.4f}, {points:.2f} points {lost} "
                f"(standard error {error:.2f}), {at}.",
                _WIDTH,
            ),
            *self._own_line(),
            "",
            *self._time_lines(),
            "",
            *(fill(sentence, _WIDTH) for sentence in self.verdict),
        ]
        return "\n".join(lines)

    def _own_line(self) -> list[str]:
        if self.own_score is None:
            return []
        return [f"The network's own outputs, as it was given: {self.own_score:.4f}."]

    def _stage_lines(self) -> list[str]:
        width = max(map(len, (*self.stage_names, "stage")))
        lines = [
            f"{int(self.counts.sum())} samples; costs are fractions of the network's "
            f"{self.unit}.",
            f"{'stage':{width}}    cost  leaves   right    sure  calibration error",
        ]
        for i, name in enumerate(self.stage_names):
            line = f"{name:{width}}  {self.stage_cost[i]:6.3f}  {self.leaves[i]:6.3f}"
            if self._left[i]:
                line += f"  {self._share_right[i]:6.3f}  {self.confidence[i]:6.3f}"
            else:
                line += f"  {'-':>6}  {'-':>6}"
            error = self.calibration_error[i]
            line += f"  {error:17.3f}" if np.isfinite(error) else f"  {'-':>17}"
            lines.append(line + ("" if self.is_open[i] else "  closed"))
        return lines

    def _time_lines(self) -> list[str]:
        width = max(len(str(time)) for time in self.times)
        lines = [
            f"{'per sample':{width}}  network, ms  early exits, ms  ratio (quartiles)"
        ]
        lines += [
            f"{time!s:{width}}  {1e3 * time.plain:11.3f}  {1e3 * time.early:15.3f}  "
            f"{time.ratio:.2f} ({time.low:.2f} to {time.high:.2f})"
            for time in self.times
        ]
        return lines

    def plot(self) -> Any:
        """Draw the trade-off, who leaves where, times, and how calibrated exits are.

        Returns
        -------
        matplotlib.figure.Figure
            New, with four axes.
        """
        figure, ((first, second), (third, fourth)) = axes_grid(type(self).__name__)
        score = "Accuracy" if self.has_labels else "Agreement"
        TradeoffDisplay(
            *self.curve,
            self.full_score,
            chosen=(self.cost, self.score),
            name="one threshold for all open exits",
            unit=self.unit,
        ).plot(first)
        first.set_ylabel(score)
        names = np.array(self.stage_names)[self.is_open]
        ExitDisplay(self.counts[self.is_open], self.classes, stage_names=names).plot(
            second
        )
        self._draw_times(third)
        self._draw_calibration(fourth)
        return figure

    def _draw_times(self, ax: Any) -> None:
        ratio = np.array([[time.ratio, time.low, time.high] for time in self.times]).T
        rows = np.arange(len(self.times))
        ax.barh(rows, ratio[0], xerr=[ratio[0] - ratio[1], ratio[2] - ratio[0]])
        ax.axvline(1.0, color="k", linestyle=":")
        ax.set_yticks(rows, [str(time) for time in self.times])
        ax.invert_yaxis()
        ax.set_xlabel("Time, in fractions of the plain network's (dotted)")

    def _draw_calibration(self, ax: Any) -> None:
        used = self._left > 0
        share = self._share_right[used]
        ax.scatter(self.confidence[used], share, s=20 + 300 * self.leaves[used])
        for i, confidence, y in zip(
            np.flatnonzero(used), self.confidence[used], share, strict=True
        ):
            ax.annotate(
                self.stage_names[i],
                (confidence, y),
                xytext=(8, -12),
                textcoords="offset points",
            )
        ax.axline((0.0, 0.0), slope=1.0, color="k", linestyle=":")
        low = min(*self.confidence[used], *share)
        ax.set(
            xlim=(low - 0.05, 1.05),
            ylim=(low - 0.05, 1.05),
            xlabel="Mean confidence of who leaves there",
            ylabel="Share that is right",
        )


def _about_time(time: TimeRatio, keeps: bool) -> str:
    ratio = f"{time.ratio:.2f} of the network's time"
    if time.is_short:
        return f"Nothing to say for {time}: {ratio}, in too few rounds (n_rounds)."
    if time.pays is None:
        return f"No gain for {time}: {ratio}, which noise may explain."
    if not time.pays:
        return f"Do not use it for {time}: {ratio}."
    return f"{'Use it' if keeps else 'Quicker'} for {time}: {ratio}."
