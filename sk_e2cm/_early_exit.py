"""Prediction with early exits, shared by all estimators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ._costs import CostsMixin
from ._extractors import Extractor
from ._multi_exit._network import Exits, MultiExitNetwork
from ._multi_exit._thresholds import first_exit, is_closed
from ._utils._arrays import Floats
from ._utils._labels import labels_like
from ._utils._streams import as_one
from ._utils._validation import check_weight

# No probability reaches it.
_NOBODY_LEAVES = 2.0


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


class EarlyExitMixin(CostsMixin):
    """Prediction with early exits."""

    @property
    def extractor_(self) -> Extractor:
        """The extractor used."""
        check_is_fitted(self, "network_")
        return self.network_.extractor

    def prepare(self, X: ArrayLike) -> Self:
        """Get ready for requests: after loading, the first one would take longer.

        Runs samples through every stage and every open exit, whatever the thresholds,
        as one batch of `batch_size` and one by one. What is done once for a shape of
        samples, on a device, or for a size of batches is done then. Predictions are
        the same.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            One or some real samples of the shape that was fitted, repeated to fill a
            batch.

        Returns
        -------
        Self
            The estimator.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.

        ValueError
            If the samples are of another shape, or are no finite numbers.

        Examples
        --------
        >>> import pickle
        >>> from sklearn.datasets import load_iris
        >>> from sk_e2cm import E2CMClassifier
        >>> from sk_e2cm.testing import ToyExtractor
        >>> X, y = load_iris(return_X_y=True)
        >>> stored = pickle.dumps(E2CMClassifier(ToyExtractor()).fit(X, y))
        >>> clf = pickle.loads(stored).prepare(X[:1])
        >>> clf.predict(X[:3])
        array([0, 0, 0])
        """
        X = self._check_X(X)
        network = self.network_.to(self.device)
        closed = is_closed(network.thresholds(self.threshold))
        threshold = np.where(closed, np.inf, _NOBODY_LEAVES)
        # The batch first: more samples prove more about who may leave.
        for size in (self.batch_size, 1):
            batch = np.resize(X, (size, *X.shape[1:]))
            network.exits_and_proba(batch, threshold, batch_size=size)
        return self

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

    def _exits(self, X: ArrayLike) -> Exits:
        """Return the stage and the column of the label of each sample."""
        size = self.batch_size
        found = [
            network.exits(part, self.threshold, batch_size=size)
            for part, network in self._parts(X)
        ]
        return Exits(*as_one(found))

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
