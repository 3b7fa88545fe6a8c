"""What leaving costs, counted or measured, shared by all estimators."""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from ._extractors import has
from ._inputs import InputsMixin
from ._multi_exit._network import MultiExitNetwork
from ._multi_exit._seconds import Seconds
from ._utils._arrays import Floats, SampleRows
from ._utils._compat import validate_parameter_constraints
from ._utils._warnings import warn


class CostsMixin(InputsMixin):
    """Costs of stages and exits, in multiply-adds or in seconds."""

    @property
    def stage_cost_(self) -> Floats:
        """Cost of exiting at each stage.

        In fractions of the network's multiply-adds, or of its time, those of the open
        exits included: the last may exceed 1.
        """
        check_is_fitted(self, "network_")
        self._warn_of_other_conditions(self.network_)
        return self.network_.stage_cost(self.threshold)

    def summary(self) -> None:
        """Print a table of the stages: thresholds, and what they cost.

        In fractions of the network's multiply-adds, or of its time. A closed exit, of
        threshold inf, costs nothing; of several thresholds the lowest is shown.

        Examples
        --------
        >>> import numpy as np
        >>> from sk_e2cm import E2CMClassifier
        >>> from sk_e2cm.testing import ToyExtractor
        >>> X = np.arange(80.0).reshape(20, 4)
        >>> clf = E2CMClassifier(ToyExtractor(n_stages=2), threshold=0.8)
        >>> clf.fit(X, [0, 1] * 10).summary()
        Costs in fractions of the network's multiply-adds
        stage  threshold   stage    exit  leaving here
        part1        0.8  0.5000  0.0010        0.5010
        part2             0.5000  0.0000        1.0010
        """
        check_is_fitted(self, "network_")
        self._warn_of_other_conditions(self.network_)
        network = self.network_
        thresholds = network.thresholds(self.threshold)
        exits = network.costs.added(thresholds) - network.costs.stages
        shown = [f"{lowest:.4g}" for lowest in thresholds.min(axis=1)]
        width = max(len("stage"), *(len(name) for name in network.stage_names))
        print(f"Costs in fractions of the network's {network.costs.unit}")
        print(f"{'stage':{width}}  threshold   stage    exit  leaving here")
        for name, threshold, own, exit_, total in zip(
            network.stage_names,
            [*shown, ""],
            network.costs.stages,
            exits,
            network.stage_cost(self.threshold),
            strict=True,
        ):
            print(
                f"{name:{width}}  {threshold:>9}  {own:.4f}  {exit_:.4f}  "
                f"{total:>12.4f}"
            )

    def measure_seconds(self, X: ArrayLike, *, batch_size: int | None = None) -> Self:
        """Measure anew what stages and exits take: on another machine, for instance.

        Nothing is fitted. With ``cost_unit="seconds"`` costs are fractions of time
        afterwards. Those of a fit with "macs" stay as they are: `seconds_` is set.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted; best some batches of those that will
            be predicted.

        batch_size : int, default=None
            Samples per batch. By default, the parameter `batch_size`.

        Returns
        -------
        Self
            The estimator, with `seconds_`.

        Raises
        ------
        ValueError
            If the timer is too coarse for a whole batch.
        """
        size = self.batch_size if batch_size is None else batch_size
        names = ("batch_size", "cost_unit")
        validate_parameter_constraints(
            {name: self._parameter_constraints[name] for name in names},
            {"batch_size": size, "cost_unit": self.cost_unit},
            caller_name=f"{type(self).__name__}.measure_seconds",
        )
        X = self._check_X(X)
        network, seconds = self._in_seconds(self.network_, X, int(size))
        measured: dict[str, Any] = {"seconds_": seconds, "_warned_of": set()}
        if self.cost_unit == "seconds" or self.network_.costs.unit == "time":
            measured["network_"] = network
        self.__dict__ = vars(self) | measured
        return self

    def _in_seconds(
        self,
        network: MultiExitNetwork,
        X: SampleRows,
        batch_size: int,
        *,
        since: float | None = None,
    ) -> tuple[MultiExitNetwork, Seconds]:
        """Return the network with its costs in time, and what was measured."""
        if self.extractor is not None and not has(network.extractor, "uncut"):
            name = type(network.extractor).__name__
            warn(
                f"cost_unit='seconds' measures {name} and does not use its own costs, "
                f"those of {name}.macs. Since it has no method uncut(X), the cost 1 is "
                "the time of all its stages without exits."
            )
        return network.in_seconds(X, batch_size, self.device, since=since)
