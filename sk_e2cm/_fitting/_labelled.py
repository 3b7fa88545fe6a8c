"""Statistics of samples with labels, whichever calls and machines they came from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from .._multi_exit._full_pass import FullPass, Shape
from .._utils._arrays import Floats, SampleRows, largest
from .._utils._hashing import row_hashes
from .._utils._labels import labels_like
from ._kept import Samples
from ._statistics import RunningStatistics, Statistics, folds_by_hash


class Source(NamedTuple):
    """Where features come from: what has to be the same for their sums to add.

    Parameters
    ----------
    network : str
        A key for the extractor's content.

    pooling
        See `E2CMClassifier`.

    input_shape : tuple of int
        Of one sample.

    products : bool
        Whether products of features are summed, too, as a whitened metric needs it.

    n_folds : int
        In which samples are summed.
    """

    network: str
    pooling: Any
    input_shape: Shape
    products: bool
    n_folds: int

    def check_same(self, other: Source) -> None:
        """Refuse another one.

        Raises
        ------
        ValueError
            Which names the difference.
        """
        words = {
            "network": "another network, or the same cut at other exits",
            "pooling": f"pooling={other.pooling!r} in place of {self.pooling!r}",
            "input_shape": f"samples of the shape {other.input_shape} in place of "
            f"{self.input_shape}",
            "products": "another metric: only one of both sums products of features",
            "n_folds": f"samples in {other.n_folds} folds in place of {self.n_folds}",
        }
        for name, difference in words.items():
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"Statistics cannot be added of {difference}.")


class Finished(NamedTuple):
    """Statistics of classes in ascending order of their labels.

    Parameters
    ----------
    statistics : Statistics
        Of all samples.

    labels : ndarray of shape (n_classes,)
        That have samples.

    n_distinct, weight : ndarray of shape (n_classes,)
        How many distinct samples each has, and the weight of all.
    """

    statistics: Statistics
    labels: NDArray[Any]
    n_distinct: NDArray[np.intp]
    weight: Floats


@dataclass
class LabelledStatistics:
    """Running statistics, and the labels that their codes stand for.

    Parameters
    ----------
    source : Source
        Of the features.

    running : RunningStatistics
        Of the samples so far.

    labels : ndarray of shape (n_classes,)
        In the order of the codes.

    columns : BaseEstimator
        Knows the columns of the samples.

    some : ndarray of shape (n, ...)
        Some of the samples, for measuring time.

    largest : float
        The largest absolute value of any.
    """

    source: Source
    running: RunningStatistics
    labels: NDArray[Any]
    columns: BaseEstimator
    some: NDArray[Any]
    largest: float = 0.0

    @classmethod
    def of_none(
        cls,
        full_pass: FullPass,
        source: Source,
        labels: NDArray[Any],
        columns: BaseEstimator,
        X: SampleRows,
    ) -> LabelledStatistics:
        """Return those of no samples yet, of which X are some to come."""
        running = RunningStatistics(full_pass.stage_names, second=source.products)
        some = X[: full_pass.batch_size].copy()
        return cls(source, running, labels, columns, some)

    def add(
        self,
        full_pass: FullPass,
        X: SampleRows,
        y: NDArray[Any],
        weight: Floats,
        done: Callable[[int], Any] = lambda n: None,
    ) -> None:
        """Run the network over samples, and add them; tell how many are done.

        Raises
        ------
        ValueError
            If a label is none of those known.
        """
        hashes = row_hashes(X)
        codes = self._codes_of(y)
        samples = Samples(
            hashes, folds_by_hash(hashes, self.source.n_folds), codes, weight
        )
        for batch in full_pass(X):
            self.running.add(batch, samples.take(batch.rows))
            done(batch.n_samples)
        self.largest = max(self.largest, largest(X))

    def name(self, classes: NDArray[Any]) -> None:
        """Add labels that may come."""
        new = np.setdiff1d(labels_like(classes, self.labels), self.labels)
        self.labels = np.concatenate([self.labels, new])

    def copy(self) -> LabelledStatistics:
        """Return the same statistics, to which others may be added."""
        return replace(self, running=self.running.copy())

    def merge(self, other: LabelledStatistics) -> None:
        """Add what another has seen, which stays as it is.

        Raises
        ------
        ValueError
            If the features come from elsewhere.
        """
        self.source.check_same(other.source)
        self.name(other.labels)
        self.running.merge(other.running, self._codes_of(other.labels))
        self.largest = max(self.largest, other.largest)
        if not len(self.some):
            self.some = other.some

    def for_sharing(self, *, features: bool) -> LabelledStatistics:
        """Return a copy, with the features kept or without any sample's."""
        if features:
            return copy.deepcopy(self)
        nothing = self.some[:0]
        running = copy.deepcopy(self.running.for_sharing())
        return replace(self, running=running, some=nothing)

    def finish(self) -> Finished:
        """Return what exits are fitted to; more may be added afterwards."""
        n_distinct = self.running.n_distinct()
        met = np.flatnonzero(n_distinct)
        codes = met[self.labels[met].argsort()]
        statistics = self.running.finish().take_classes(codes)
        weight = statistics.sums[-1].weight.sum(axis=0)
        return Finished(statistics, self.labels[codes], n_distinct[codes], weight)

    def _codes_of(self, y: NDArray[Any]) -> NDArray[np.intp]:
        order = self.labels.argsort()
        places = np.searchsorted(self.labels, y, sorter=order).clip(max=len(order) - 1)
        codes: NDArray[np.intp] = order[places]
        unknown = self.labels[codes] != y
        if unknown.any():
            raise ValueError(
                f"y has labels {np.unique(y[unknown])[:5].tolist()} that are none of "
                f"the classes so far, {np.sort(self.labels)[:5].tolist()}. Name all "
                "that will come, or new ones later, by classes=."
            )
        return codes
