"""What the stages predict for samples held out, in a few numbers for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .._fitting._calibration import RULED_OUT
from .._fitting._unseen import Block
from .._utils._arrays import Floats

# The probabilities of so many classes are kept of a sample, beside those that stages
# answer. Of the others, of which there are none for most users, it is their mean.
_MOST_CLASSES = 32


def log_of(proba: Floats) -> Floats:
    """Return log probabilities, finite where there is none."""
    found: Floats = np.log(np.maximum(proba, np.exp(RULED_OUT)))
    return found


@dataclass(frozen=True)
class StagePredictions:
    """What every stage predicts for some samples: a class, and its probability.

    Probabilities are kept of some classes: of all, unless these are many. Then they are
    kept of the true class, of those that stages answer and of the last stage's most
    probable ones; one more column is the mean of all others.

    Parameters
    ----------
    n_classes : int
        Of the network.

    confidence, label : ndarray of shape (n_stages, n_samples)
        The largest probability, and whose it is.

    classes : ndarray of shape (n_samples, n_kept)
        In ascending order.

    last_log_proba, exits_log_proba : ndarray of shape (n_samples, n_columns)
        Log probabilities of the last stage, and their mean over the exits; 0 without
        exits. There are `n_kept` columns, and one more if that is not all classes.

    exits_proba : ndarray of shape (n_samples, n_kept)
        Sum of the exits' probabilities.
    """

    n_classes: int
    confidence: Floats
    label: NDArray[np.intp]
    classes: NDArray[np.intp]
    last_log_proba: Floats
    exits_log_proba: Floats
    exits_proba: Floats

    @classmethod
    def from_blocks(
        cls,
        stages: Sequence[Callable[[], Iterable[Block]]],
        codes: NDArray[np.intp],
        n_classes: int,
    ) -> Self:
        """Return those of stages whose probabilities come block by block.

        Parameters
        ----------
        stages : sequence of callable
            Each yields the blocks of one stage, and is called twice.

        codes : ndarray of shape (n_samples,)
            The true classes.

        n_classes : int
            Of the network.
        """
        n_stages, n_samples = len(stages), len(codes)
        confidence = np.empty((n_stages, n_samples))
        label = np.empty((n_stages, n_samples), dtype=np.intp)
        for stage, blocks in enumerate(stages):
            for places, proba in blocks():
                answer = proba.argmax(axis=1)
                label[stage, places] = answer
                confidence[stage, places] = proba[np.arange(len(proba)), answer]

        n_kept = min(n_classes, _MOST_CLASSES + n_stages)
        n_columns = n_kept + (n_kept < n_classes)
        classes = np.empty((n_samples, n_kept), dtype=np.intp)
        last = np.empty((n_samples, n_columns))
        exits, summed = np.zeros((n_samples, n_columns)), np.zeros((n_samples, n_kept))
        *of_exits, of_last = stages
        for places, proba in of_last():
            wanted = np.vstack([label[:, places], codes[places]])
            classes[places] = _likeliest(proba, wanted, n_kept)
            last[places] = log_of(_of_classes(proba, classes[places]))
        for blocks in of_exits:
            for places, proba in blocks():
                found = _of_classes(proba, classes[places])
                exits[places] += log_of(found) / len(of_exits)
                summed[places] += found[:, :n_kept]
        return cls(n_classes, confidence, label, classes, last, exits, summed)

    @classmethod
    def from_proba(cls, proba: Floats, codes: NDArray[np.intp]) -> Self:
        """Return those of probabilities of shape (n_samples, n_stages, n_classes)."""
        _, n_stages, n_classes = proba.shape
        everybody = np.arange(len(codes))

        def of_stage(stage: int) -> Callable[[], Iterable[Block]]:
            return lambda: [(everybody, proba[:, stage])]

        return cls.from_blocks([*map(of_stage, range(n_stages))], codes, n_classes)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return those of several parts as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            parts[0].n_classes,
            np.hstack([part.confidence for part in parts]),
            np.hstack([part.label for part in parts]),
            *(
                np.vstack([getattr(part, name) for part in parts])
                for name in (
                    "classes",
                    "last_log_proba",
                    "exits_log_proba",
                    "exits_proba",
                )
            ),
        )

    @property
    def counts(self) -> Floats:
        """How many classes each column of the log probabilities stands for."""
        found = np.ones(self.last_log_proba.shape[1])
        found[-1] += self.n_classes - len(found)
        return found

    def class_proba(self, codes: NDArray[np.intp]) -> Floats:
        """Return the sum of the exits' probabilities over the samples of each class.

        Of shape (n_classes, n_classes); `codes` are the true classes, (n_samples,).
        """
        found = np.zeros((self.n_classes, self.n_classes))
        np.add.at(found, (codes[:, None], self.classes), self.exits_proba)
        return found


def places_of(classes: NDArray[np.intp], codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return in which column of its classes that of each sample is.

    Parameters
    ----------
    classes : ndarray of shape (n_samples, n_kept)
        Ascending in each row.

    codes : ndarray of shape (n_samples,)
        Each one of those.

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    found: NDArray[np.intp] = (classes < codes[:, None]).sum(axis=1)
    return found


def _likeliest(
    proba: Floats, wanted: NDArray[np.intp], n_kept: int
) -> NDArray[np.intp]:
    """Return the wanted classes and the most probable others, (n_samples, n_kept).

    `wanted` has the shape (n_wanted, n_samples).
    """
    n_samples, n_classes = proba.shape
    if n_kept == n_classes:
        return np.tile(np.arange(n_classes), (n_samples, 1))
    first = proba.copy()
    first[np.arange(n_samples), wanted] = 2.0
    return np.sort(np.argpartition(-first, n_kept, axis=1)[:, :n_kept], axis=1)


def _of_classes(proba: Floats, classes: NDArray[np.intp]) -> Floats:
    """Return the probabilities of some classes, and the mean of the others, if any."""
    if classes.shape == proba.shape:
        return proba
    found = np.take_along_axis(proba, classes, axis=1)
    n_others = proba.shape[1] - classes.shape[1]
    others = np.maximum(1.0 - found.sum(axis=1), 0.0) / n_others
    return np.column_stack([found, others])
