"""Prediction with early exits, shared by all estimators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ._extractors import Extractor, has
from ._inputs import InputsMixin
from ._multi_exit._network import Exits, MultiExitNetwork
from ._multi_exit._seconds import Seconds
from ._multi_exit._thresholds import first_exit
from ._streams import as_one
from ._utils._arrays import Floats, SampleRows
from ._utils._compat import validate_parameter_constraints
from ._utils._labels import labels_like
from ._utils._validation import check_weight
from ._utils._warnings import warn


class Predictions(NamedTuple):
    """What `predict_all` returns of each sample.

    Parameters
    ----------
    label : ndarray of shape (n_samples,)
        As `predict` returns it.

    proba : ndarray of shape (n_samples, n_classes)
        The probabilities at its exit; of a clusterer those of the clusters.

    exit : ndarray of int, shape (n_samples,)
        Where it left, as `predict_exit` returns it.

    cost : ndarray of shape (n_samples,)
        What that has cost, in fractions of the network's multiply-adds, or of its time.
    """

    label: NDArray[Any]
    proba: Floats
    exit: NDArray[np.intp]
    cost: Floats


class EarlyExitMixin(InputsMixin):
    """Prediction with early exits."""

    @property
    def extractor_(self) -> Extractor:
        """The extractor used."""
        check_is_fitted(self, "network_")
        return self.network_.extractor

    @property
    def stage_cost_(self) -> Floats:
        """Cost of exiting at each stage.

        In fractions of the network's multiply-adds, or of its time, those of the open
        exits included: the last may exceed 1.
        """
        check_is_fitted(self, "network_")
        self._warn_of_other_conditions(self.network_)
        return self.network_.stage_cost(self.threshold)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict labels, exiting early where possible.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples,)
            The label of each sample.
        """
        label = self._exits(X).label
        return self.network_.labels[label]

    def predict_exit(self, X: ArrayLike) -> NDArray[np.intp]:
        """Return the stage at which each sample exits.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples,)
            From 0, the first exit, to the number of exits, the last stage.
        """
        return self._exits(X).stage

    def predict_all(self, X: ArrayLike) -> Predictions:
        """Return label, probabilities, exit and cost of each sample, from one run.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Returns
        -------
        Predictions
            A named tuple of `label`, `proba`, `exit` and `cost`, one of each for each
            sample.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sk_e2cm import E2CMClassifier
        >>> from sk_e2cm.testing import ToyExtractor
        >>> X, y = load_iris(return_X_y=True)
        >>> found = E2CMClassifier(ToyExtractor()).fit(X, y).predict_all(X)
        >>> found.label.shape, found.proba.shape, found.exit.shape, found.cost.shape
        ((150,), (150, 3), (150,), (150,))
        """
        size, found = self.batch_size, []
        for part, network in self._parts(X):
            exits, proba = network.exits_and_proba(
                part, self.threshold, batch_size=size
            )
            found.append((network.labels[exits.label], proba, exits.stage))
        label, proba, stage = as_one(found)
        return Predictions(label, proba, stage, self.stage_cost_[stage])

    def staged_predict(self, X: ArrayLike) -> Iterator[NDArray[Any]]:
        """Yield the labels predicted so far after each stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Yields
        ------
        ndarray of shape (n_samples,)
            Samples that have exited keep their label; the others get the label
            that is most probable at this stage. The last equals ``predict(X)``.
        """
        found = [
            network.labels[proba.argmax(axis=2)]
            for proba, network in self._staged_parts(X)
        ]
        yield from np.concatenate(found, axis=1)

    def exit_proba(self, X: ArrayLike) -> Floats:
        """Return the probabilities of all stages, without early exits.

        Each stage is computed for all samples, and `memory` is used.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples, n_exits + 1, n_classes)
            Probabilities of the classes at every stage.
        """
        found = [
            network.proba_of_features(batch) for batch, network in self._features_of(X)
        ]
        return np.concatenate(found)

    def cost(self, X: ArrayLike) -> float:
        """Return the mean cost of predicting these samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Returns
        -------
        float
            Mean fraction of the network's multiply-adds, or of its time.
        """
        stage = self.predict_exit(X)
        return float(self.stage_cost_[stage].mean())

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

    def _exits(self, X: ArrayLike) -> Exits:
        """Return the stage and the column of the label of each sample."""
        size = self.batch_size
        found = [
            network.exits(part, self.threshold, batch_size=size)
            for part, network in self._parts(X)
        ]
        return Exits(*map(np.concatenate, zip(*found, strict=True)))

    def _staged_parts(self, X: ArrayLike) -> Iterator[tuple[Floats, MultiExitNetwork]]:
        """Yield the probabilities known after each stage, along the first axis."""
        for part, network in self._parts(X):
            size = self.batch_size
            yield network.staged_proba(part, self.threshold, batch_size=size), network

    def _early_and_full(
        self, X: ArrayLike
    ) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[Any]]:
        """Return stage and label with early exits, and the label without.

        As `exit_proba`, it computes every stage and uses `memory`.
        """
        found = []
        for batch, network in self._features_of(X):
            proba = network.proba_of_features(batch)
            stage = first_exit(proba, self.threshold)
            labels = network.labels_at(proba, stage), network.labels_at(proba, -1)
            found.append((stage, *labels))
        stage, early, full = as_one(found)
        return stage, early, full


class EarlyExitClassifierMixin(EarlyExitMixin):
    """Probabilities of classes, and accuracy, with early exits."""

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities of each sample at its exit.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        size = self.batch_size
        found = [
            network.proba(part, self.threshold, batch_size=size)
            for part, network in self._parts(X)
        ]
        return np.concatenate(found)

    def staged_predict_proba(self, X: ArrayLike) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities known so far after each stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted.

        Yields
        ------
        ndarray of shape (n_samples, n_classes)
            See `staged_predict`. The last equals ``predict_proba(X)``.
        """
        found = [proba for proba, _ in self._staged_parts(X)]
        yield from np.concatenate(found, axis=1)

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Return the accuracy of ``predict(X)``, from cached features if there are any.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples of the shape that was fitted; of torch's loaders and datasets
            batches of (X, y) or (X, y, weight).

        y : array-like of shape (n_samples,), default=None
            True labels. None where they come with X.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            Accuracy.
        """
        found = [
            (batch.y, own._labels(batch.X), batch.sample_weight)
            for own, batch in self._scored_parts(X, y, sample_weight)
        ]
        return accuracy(*as_one(found))

    def _labels(self, X: ArrayLike) -> NDArray[Any]:
        if self.memory is None:
            return self.predict(X)
        _, labels, _ = self._early_and_full(X)
        return labels


def accuracy(y: ArrayLike, labels: NDArray[Any], sample_weight: Any = None) -> float:
    """Return the weighted share of labels that are the true ones, `y`.

    Raises
    ------
    ValueError
        If `y` or the weights are of another length, or no labels or weights.
    """
    y = labels_like(y, labels)
    check_consistent_length(y, labels)
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        check_classification_targets(y)  # and refuse measurements
    return float(np.average(y == labels, weights=check_weight(sample_weight, len(y))))
