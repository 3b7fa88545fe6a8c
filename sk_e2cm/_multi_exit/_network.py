"""A frozen network with a head at every stage: what fitting makes, and tuning reads."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .._extractors import Extractor, device_of, on_device, picklable
from .._utils._arrays import Floats, SampleRows, to_tensor
from .._utils._memory import halving
from ._costs import Costs
from ._full_pass import Batch
from ._heads import Head, in_double, moved
from ._loop import LazyLoop, StepsOnHost
from ._measuring import measure_seconds
from ._nan import batches_with_nan, refuse_nan, refuse_nan_in
from ._pooling import PoolingSpec
from ._seconds import Seconds
from ._stopwatch import Race, race
from ._thresholds import check_thresholds, needed_on

Device = str | torch.device | None


class Exits(NamedTuple):
    """Where samples leave, and with what.

    Parameters
    ----------
    stage : ndarray of int, shape (n_samples,)
        From 0, the first exit, to the number of exits, the last stage.

    label : ndarray of int, shape (n_samples,)
        The column of the class that is most probable there.
    """

    stage: NDArray[np.intp]
    label: NDArray[np.intp]


class MultiExitNetwork:
    """A frozen network, a head for every stage, and what each of them costs.

    Parameters
    ----------
    extractor : Extractor
        The network in J + 1 stages.

    heads : sequence of Head
        One for each stage; moved to the device of the extractor.

    labels : ndarray of shape (n_classes,)
        What the columns of the probabilities stand for.

    costs : Costs
        Of the stages and of the heads.

    pooling
        How outputs are pooled, as users say it: see `E2CMClassifier`.

    at_once : dict of str to int, default=None
        The most samples to run at once on a device, where that was measured. Elsewhere
        all of a batch are.

    Notes
    -----
    `threshold` is everywhere what users give: a number, one per exit, or one per exit
    and class. An exit whose thresholds are all infinite is closed.
    """

    def __init__(
        self,
        extractor: Extractor,
        heads: Sequence[Head],
        labels: NDArray[Any],
        costs: Costs,
        pooling: PoolingSpec,
        at_once: dict[str, int] | None = None,
    ) -> None:
        self.extractor = extractor
        self.heads = tuple(moved(head, device_of(extractor)) for head in heads)
        self.labels = labels
        self.costs = costs
        self.pooling = pooling
        self.at_once = at_once or {}
        self._elsewhere: dict[str, MultiExitNetwork] = {}

    def __repr__(self) -> str:
        classes = len(self.labels)
        return f"{type(self).__name__}({self.extractor!r}, {classes} classes)"

    @property
    def stage_names(self) -> Sequence[str]:
        """The exits, and the last stage."""
        return self.extractor.stage_names

    @property
    def n_exits(self) -> int:
        """Number of exits: of stages but the last."""
        return len(self.heads) - 1

    def to(self, device: Device) -> MultiExitNetwork:
        """Return the network on another device; itself if that is None or its own.

        Raises
        ------
        ValueError
            If there is no such device, or if the extractor cannot be moved.
        """
        extractor = on_device(self.extractor, device)
        if extractor is self.extractor:
            return self
        if str(device) not in self._elsewhere:
            self._elsewhere[str(device)] = type(self)(
                extractor,
                copy.deepcopy(self.heads),
                self.labels,
                self.costs,
                self.pooling,
                self.at_once,
            )
        return self._elsewhere[str(device)]

    def in_seconds(
        self,
        X: SampleRows,
        batch_size: int,
        device: Device = None,
        *,
        since: float | None = None,
    ) -> tuple[MultiExitNetwork, Seconds]:
        """Return the network with its costs in time, and what was measured.

        The parameters are those of `measure_seconds`, and where to measure.
        """
        there = self.to(device)
        seconds, extractor = measure_seconds(
            there.extractor, there.heads, X, batch_size, since=since
        )
        if extractor is there.extractor:
            extractor = self.extractor
        elif there is not self:  # in another memory format
            extractor = on_device(extractor, device_of(self.extractor))
        network = type(self)(
            extractor,
            self.heads,
            self.labels,
            seconds.costs,
            self.pooling,
            # All of a batch, of whichever size, unless fewer are quicker.
            {seconds.device: seconds.at_once} if seconds.runs_fewer else {},
        )
        return network, seconds

    def race(
        self,
        X: NDArray[Any],
        threshold: ArrayLike,
        batch_size: int,
        device: Device = None,
    ) -> Race:
        """Time these thresholds on samples: see the function of this name."""
        there = self.to(device)
        used = device_of(there.extractor)
        needed = needed_on(self.thresholds(threshold), used, run_closed=False)

        def run(size: int) -> Race:
            return race(
                there.extractor,
                there.heads,
                needed,
                X,
                batch_size=size,
                at_once=there._at_once(size),
            )

        return halving(run, min(batch_size, len(X)), used)

    def _at_once(self, batch_size: int) -> int:
        device = str(device_of(self.extractor))
        return min(batch_size, self.at_once.get(device, batch_size))

    def thresholds(self, threshold: ArrayLike) -> Floats:
        """Return a user's threshold in the shape (n_exits, n_classes) or (n_exits, 1).

        Raises
        ------
        ValueError
            If it is NaN or has another shape.
        """
        return check_thresholds(threshold, self.n_exits, len(self.labels))

    def stage_cost(self, threshold: ArrayLike) -> Floats:
        """Return the cost of a sample that exits at each stage, (n_exits + 1,)."""
        return self.costs.cumulative(self.thresholds(threshold))

    def labels_at(self, proba: Floats, stage: Any) -> NDArray[Any]:
        """Return the label of each sample at its stage.

        Parameters
        ----------
        proba : ndarray of shape (n_samples, n_exits + 1, n_classes)
            Of all stages, nobody leaving.

        stage : ndarray of int, shape (n_samples,), or int
            Its stage, or that of all.

        Returns
        -------
        ndarray of shape (n_samples,)
            Of `labels`.
        """
        return self.labels[proba[np.arange(len(proba)), stage].argmax(axis=1)]

    def exits(self, X: NDArray[Any], threshold: ArrayLike, *, batch_size: int) -> Exits:
        """Let samples exit early; return their stages and labels.

        Parameters
        ----------
        X : ndarray of shape (n_samples, ...)
            Samples as the extractor takes them.

        threshold : float or array-like
            See Notes.

        batch_size : int
            Samples run at once.

        Returns
        -------
        Exits
            In the order of `X`.

        Raises
        ------
        ValueError
            If a stage or its head gives NaN.
        """
        label = np.empty(len(X), dtype=np.intp)
        stage = self._leave(X, threshold, batch_size, label=label)
        return Exits(stage, label)

    def proba(
        self, X: NDArray[Any], threshold: ArrayLike, *, batch_size: int
    ) -> Floats:
        """Let samples exit early; return their probabilities there.

        The parameters are those of `exits`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `X`.
        """
        proba = np.empty((len(X), len(self.labels)))
        self._leave(X, threshold, batch_size, proba=proba)
        return proba

    def exits_and_proba(
        self, X: NDArray[Any], threshold: ArrayLike, *, batch_size: int
    ) -> tuple[Exits, Floats]:
        """Let samples exit early; return where, with what label, and probabilities.

        The parameters are those of `exits`, and the network runs once.
        """
        label = np.empty(len(X), dtype=np.intp)
        proba = np.empty((len(X), len(self.labels)))
        stage = self._leave(X, threshold, batch_size, label=label, proba=proba)
        return Exits(stage, label), proba

    def _leave(
        self,
        X: NDArray[Any],
        threshold: ArrayLike,
        batch_size: int,
        **values: NDArray[Any],
    ) -> NDArray[np.intp]:
        """Let samples exit early; return where, and write what they leave with.

        `values` are arrays by the names of `StepsOnHost.of`.
        """
        stages = np.empty(len(X), dtype=np.intp)
        for steps in self._run(X, threshold, batch_size):
            found = [steps.of(name) for name in values]
            for stage, rows, *of_step in zip(
                steps.stages, steps.rows, *found, strict=True
            ):
                # Who stays is overwritten by a later step.
                stages[rows] = stage
                for array, value in zip(values.values(), of_step, strict=True):
                    array[rows] = value
        return stages

    def staged_proba(
        self, X: NDArray[Any], threshold: ArrayLike, *, batch_size: int
    ) -> Floats:
        """Return the probabilities known after each stage.

        Closed exits are run too, and nobody leaves there. The parameters are those of
        `exits`.

        Returns
        -------
        ndarray of shape (n_exits + 1, n_samples, n_classes)
            In the order of `X`.
        """
        proba = np.empty((len(self.heads), len(X), len(self.labels)))
        for steps in self._run(X, threshold, batch_size, every=True):
            found = steps.of("proba")
            for stage, rows, of_stage in zip(
                steps.stages, steps.rows, found, strict=True
            ):
                # For all later stages: samples that stay are overwritten there.
                proba[stage:, rows] = of_stage
        return proba

    @torch.inference_mode()
    def proba_of_features(self, batch: Batch) -> Floats:
        """Return the probabilities of all stages, (n, n_exits + 1, n_classes).

        Parameters
        ----------
        batch : Batch
            Of a `FullPass` with this pooling.
        """
        device = device_of(self.extractor)
        given = [to_tensor(features).to(device) for features in batch.features]
        proba = []
        for stage, (name, head) in enumerate(
            zip(self.stage_names, self.heads, strict=True)
        ):
            features = [given[s] for s in (*head.carried, stage)]
            found = head.proba_of(features)
            if found.isnan().any():
                found = in_double(head).proba_of(features)
            proba.append(found.cpu().numpy())
            refuse_nan(proba[-1].max(axis=1), name, np.arange(len(found)))
        return np.stack(proba, axis=1)

    def _run(
        self,
        X: NDArray[Any],
        threshold: ArrayLike,
        batch_size: int,
        *,
        every: bool = False,
    ) -> Iterator[StepsOnHost]:
        """Run the loop; `every` step at every exit is wanted, or the last ones only."""
        thresholds, device = self.thresholds(threshold), device_of(self.extractor)
        needed = needed_on(thresholds, device, run_closed=every)
        at_once = self._at_once(batch_size)
        loop = LazyLoop(self.extractor, self.heads, needed, X, at_once)
        with_nan: set[int] = set()
        for made in loop.run():
            steps = StepsOnHost(made, every=every)
            with_nan |= batches_with_nan(steps, batch_size)
            yield steps
        # Numbers may be too large for single precision.
        heads = [in_double(head) for head in self.heads] if with_nan else []
        for start in sorted(with_nan):
            batch = X[start : start + batch_size]
            again = LazyLoop(self.extractor, heads, needed, batch, batch_size)
            for made in again.run():
                refuse_nan_in(self.extractor, self.heads, batch, made)
                yield StepsOnHost(made, every=every, first_row=start)

    def __copy__(self) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrays, since another machine may lack the device, and since torch's own
        # pickles differ between processes.
        heads = [picklable(head) for head in self.heads]
        parts = (
            self.extractor,
            heads,
            self.labels,
            self.costs,
            self.pooling,
            self.at_once,
        )
        return type(self), parts, getattr(self.extractor, "findings", None)

    def __setstate__(self, findings: Any) -> None:
        # One sample, such as may come first, proves less than the samples of the fit.
        extractor: Any = self.extractor
        if findings is not None:
            extractor.findings = findings
