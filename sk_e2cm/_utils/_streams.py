"""Samples that come batch by batch: torch's datasets and loaders, lazy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length, gen_batches
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ._arrays import SampleRows, is_lazy, to_array
from ._labels import as_labels, labels_like
from ._validation import check_weight

# Samples that are looked at together before the network is trusted.
N_LOOKED_AT = 64

# Samples of so many bytes are predicted, or read, at once.
_READ_BYTES = 2**26

_IN_RANDOM_ORDER = RandomSampler, SubsetRandomSampler, WeightedRandomSampler


class SampleBatch(NamedTuple):
    """Some samples, with labels and weights if they have any.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        The samples.

    y : array-like of shape (n_samples,), default=None
        Their labels.

    sample_weight : array-like of shape (n_samples,), default=None
        Their weights.

    numbers : tuple of (int, int), default=None
        Of the first and the last batch that are joined here; None if X is all there is.
    """

    X: Any
    y: Any = None
    sample_weight: Any = None
    numbers: tuple[int, int] | None = None

    @property
    def counts(self) -> bool:
        """Whether there may be any weight, of a batch among others."""
        if self.numbers is None or self.sample_weight is None:
            return True
        return bool(np.any(self.sample_weight))

    @contextmanager
    def named(self) -> Iterator[None]:
        """Say in which batch something went wrong."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if self.numbers is None:
                raise
            first, last = self.numbers
            which = f"Batch {first}" if first == last else f"Batches {first} to {last}"
            raise type(error)(f"{which}: {error}") from error


def is_stream(X: Any) -> bool:
    """Tell what comes batch by batch from an array of all samples."""
    return brings_labels(X) or is_lazy(X)


def brings_labels(X: Any) -> bool:
    """Tell a stream with labels and weights in it, if any, from all else.

    A list of (x, y) is what scikit-learn's searches make of a part of a dataset; in
    nested lists, all parts of a sample have the same shape.
    """
    if isinstance(X, list) and X and isinstance(X[0], (list, tuple)):
        shape = tuple(getattr(X[0][0], "shape", ()))
        return len(X[0]) in (2, 3) and shape != () and np.shape(X[0][1]) != shape
    return isinstance(X, (Dataset, DataLoader))


def n_samples_of(X: Any) -> int | None:
    """Return how many samples there are, None if nobody knows."""
    counted: Any = X
    if isinstance(X, DataLoader):
        # Of batches that the loader does not make itself it knows no size.
        counted = None if X.batch_size is None else X.sampler
    try:
        if getattr(X, "drop_last", False):
            return len(X) * X.batch_size
        return int(X.shape[0]) if hasattr(X, "shape") else len(counted)
    # Numbers have neither shape nor length, nor have some datasets and tensors.
    except (IndexError, RuntimeError, TypeError, ValueError):
        return None


def batches_of(
    X: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int,
    labelled: bool = True,
    weighted: bool = True,
) -> Iterator[SampleBatch]:
    """Yield the batches of a loader, a dataset or a lazy array, or all of an array.

    Without what comes beside X if nobody wants it, whatever that may be.

    Raises
    ------
    TypeError
        If they are neither X, (X,), (X, y) nor (X, y, weight).

    ValueError
        If there are none, if labels or weights are given beside a loader, or if those
        beside a lazy array are no labels or weights, or not as many as samples.
    """
    if is_lazy(X):
        yield from _read(X, y, sample_weight, batch_size)
        return
    if not brings_labels(X):
        yield SampleBatch(X, y, sample_weight)
        return
    _check_no_labels(X, y, sample_weight)
    loader = X if isinstance(X, DataLoader) else _loader_of(X, batch_size)
    n_batches = 0
    for number, given in enumerate(loader):
        batch = _as_batch(given, number, labelled=labelled, weighted=weighted)
        n_batches += 1
        yield batch
    if not n_batches:
        raise ValueError(
            f"The {type(X).__name__} has given no batch. Is it empty, or can it be "
            "read once only? It has to start anew each time."
        )


def _loader_of(dataset: Dataset[Any], batch_size: int) -> DataLoader[Any]:
    # torch takes no number of NumPy's, and draws a seed for workers that are not there.
    size, generator = int(batch_size), torch.Generator()
    return DataLoader(dataset, batch_size=size, generator=generator)


def _read(X: Any, y: Any, sample_weight: Any, batch_size: int) -> Iterator[SampleBatch]:
    """Read many batches of a lazy array at once: it may be stored in large pieces."""
    n_samples = X.shape[0]
    if not isinstance(n_samples, Integral):
        raise ValueError(
            f"X has the shape {X.shape}, and so an unknown number of samples. Of an "
            "array of dask X.compute_chunk_sizes() finds it out."
        )
    if y is not None:
        y = as_labels(y, warn=True)
        check_consistent_length(X, y)
    if sample_weight is not None:
        sample_weight = check_weight(sample_weight, int(n_samples))
    n_bytes = batch_size * math.prod(X.shape[1:]) * np.dtype(X.dtype).itemsize
    n_read = batch_size * max(_READ_BYTES // max(n_bytes, 1), 1)
    number = 0
    # Of no samples one batch, so that others say what is wrong.
    for first in range(0, max(int(n_samples), 1), n_read):
        samples = np.asarray(X[first : first + n_read])
        n_expected = min(n_read, int(n_samples) - first)
        if len(samples) != n_expected:
            raise ValueError(
                f"X[{first}:{first + n_read}] has {len(samples)} samples, and by the "
                f"shape of X it should have {n_expected}."
            )
        for rows in gen_batches(max(len(samples), 1), batch_size):
            of_all = slice(first + rows.start, first + rows.stop)
            yield SampleBatch(
                samples[rows],
                None if y is None else y[of_all],
                None if sample_weight is None else sample_weight[of_all],
                (number, number),
            )
            number += 1


def _check_no_labels(X: Any, y: Any, sample_weight: Any) -> None:
    """Refuse labels and weights beside a stream, which has its own.

    Raises
    ------
    ValueError
        If there are any.
    """
    if y is not None or sample_weight is not None:
        raise ValueError(
            f"Labels and weights come from the {type(X).__name__}, as (X, y) or (X, y, "
            "weight). Leave out y and sample_weight."
        )


def check_in_order(X: Any) -> None:
    """Refuse a loader that is shuffled: nobody could tell whose predictions are whose.

    Raises
    ------
    ValueError
        If it is.
    """
    samplers = [getattr(X, name, None) for name in ("sampler", "batch_sampler")]
    samplers.append(getattr(samplers[1], "sampler", None))
    if any(isinstance(sampler, _IN_RANDOM_ORDER) for sampler in samplers):
        raise ValueError(
            "The loader is shuffled, and predictions would come in an order that "
            "nobody knows. Use one with shuffle=False."
        )


def _as_batch(
    given: Any, number: int, *, labelled: bool, weighted: bool
) -> SampleBatch:
    parts = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if isinstance(given, dict) or not 1 <= len(parts) <= 3:
        kind = type(given).__name__
        inside = f"{kind} of {len(given)}" if hasattr(given, "__len__") else kind
        raise TypeError(
            "A batch must be X, (X,), (X, y) or (X, y, weight), as a tuple or a list; "
            f"got a {inside}."
        )
    X, y, weight = [*parts, None, None][:3]
    batch = SampleBatch(X, y, weight, (number, number))
    with batch.named():
        X = to_array(X, "X")
        if not X.ndim:
            raise ValueError("X must hold samples along its first axis.")
        return batch._replace(
            X=X,
            y=None if y is None or not labelled else as_labels(y),
            sample_weight=None
            if weight is None or not weighted
            # One weight for each sample, or others will say so.
            else np.atleast_1d(to_array(weight, "sample_weight")),
        )


def with_enough_first(
    batches: Iterator[SampleBatch], n_samples: int
) -> Iterator[SampleBatch]:
    """Join the first batches, where they are small, to one of so many samples."""
    first: list[SampleBatch] = []
    n_joined = 0
    for batch in batches:
        first.append(batch)
        n_joined += len(batch.X)
        if n_joined >= n_samples:
            break
    if first:
        yield _joined(first)
    yield from batches


def in_large_parts(batches: Iterator[SampleBatch]) -> Iterator[SampleBatch]:
    """Join batches: samples that stay in the network are then computed together."""
    parts: list[SampleBatch] = []
    n_bytes = 0
    for batch in batches:
        if batch.numbers is None:
            yield batch
            continue
        parts.append(batch)
        n_bytes += batch.X.nbytes
        if n_bytes >= _READ_BYTES:
            yield _joined(parts)
            parts, n_bytes = [], 0
    if parts:
        yield _joined(parts)


def _joined(batches: Sequence[SampleBatch]) -> SampleBatch:
    if len(batches) == 1:
        return batches[0]
    first, last = batches[0], batches[-1]
    for batch in batches:
        with batch.named():
            check_alike(batch.X, first.X)
            if [part is None for part in batch[:3]] != [p is None for p in first[:3]]:
                raise ValueError(
                    "Labels and weights come with all batches, or with none."
                )
            if first.y is not None:
                labels_like(batch.y, first.y)
    X, y, weight = as_one([batch[:3] for batch in batches])
    numbers = first.numbers and last.numbers and (first.numbers[0], last.numbers[1])
    return SampleBatch(X, y, weight, numbers)


def as_one(found: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Join arrays of several batches, field by field; what is None stays so."""
    if len(found) == 1:
        return tuple(found[0])
    return tuple(
        None if parts[0] is None else np.concatenate(parts)
        for parts in zip(*found, strict=True)
    )


def check_alike(batch: SampleRows, first: NDArray[Any]) -> None:
    """Refuse samples of another shape or type than those of the first batch.

    Raises
    ------
    ValueError
        If they are.
    """
    for name, given, expected in (
        ("shape", batch.shape[1:], first.shape[1:]),
        ("type", batch.dtype, first.dtype),
    ):
        if given != expected:
            raise ValueError(
                f"Its samples have the {name} {given}, and those of the first batch "
                f"{expected}."
            )
