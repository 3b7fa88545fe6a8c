"""One pass over the data, split among the workers of joblib."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from operator import attrgetter
from typing import Any, Protocol

import joblib
import numpy as np
import sklearn
import torch
from joblib.parallel import get_active_backend
from numpy.typing import NDArray
from sklearn.utils.parallel import Parallel, delayed

from .._extractors import device_of, fingerprint_of, on_device
from .._multi_exit._full_pass import Batch, FullPass
from .._utils._arrays import SampleRows
from .._utils._hashing import content_hash
from .._utils._progress import shown
from ._kept import Samples
from ._statistics import RunningStatistics, Statistics

# So that none waits long for the last.
_TASKS_PER_WORKER = 2


class Summed(Protocol):
    """What samples are added to, here and by workers."""

    def of_none(self) -> Any:
        """Return the same, of no samples yet."""

    def add(self, batch: Batch, samples: Samples) -> None:
        """Add the samples of a batch."""

    def merge(self, other: Any, codes: NDArray[np.intp]) -> None:
        """Add what another has seen, whose class k is called ``codes[k]`` here."""


@dataclass(frozen=True)
class _Shipped:
    """A pass as bytes, which a worker that has unpacked it before knows by its key.

    Of weights the bytes do not say where they were: that is `device`.
    """

    key: str
    device: torch.device
    payload: bytes = field(compare=False)


_Task = tuple[_Shipped, NDArray[Any], Samples, Summed]


@lru_cache(maxsize=1)
def _unpacked(shipped: _Shipped) -> FullPass:
    # Networks take their time to be cut.
    full_pass: FullPass = pickle.loads(shipped.payload)
    if device_of(full_pass.extractor) != shipped.device:
        full_pass.extractor = on_device(full_pass.extractor, shipped.device)
    return full_pass


def run(
    full_pass: FullPass,
    X: SampleRows,
    samples: Samples,
    into: Summed,
    n_jobs: int | None,
    verbose: int = 0,
) -> None:
    """Add all samples to what has seen none yet.

    Parameters
    ----------
    full_pass : FullPass
        What is run.

    X : ndarray or SomeRows, of shape (n_samples, ...)
        Samples.

    samples : Samples
        What is known of them.

    into : RunningStatistics or ClusterFeatures
        To which they are added.

    n_jobs : int or None
        Of joblib: None is 1, unless `joblib.parallel_config` says more.

    verbose : int, default=0
        Whether to draw a progress bar.

    Raises
    ------
    RuntimeError
        If a worker ends in the middle; of Dask, one after another at the same part.

    ImportError
        If a worker lacks a package.
    """
    n_workers = joblib.effective_n_jobs(n_jobs)
    drawn = partial(shown, total=len(X), verbose=verbose, what="fit")
    if n_workers == 1:
        for batch in drawn(full_pass(X), n_of=attrgetter("n_samples")):
            into.add(batch, samples.take(batch.rows))
        return
    shipped, n_classes = _shipped(full_pass), int(samples.codes.max()) + 1
    parts = [*_split(len(X), full_pass.batch_size, n_workers)]
    tasks = ((shipped, X[rows], samples.take(rows), into) for rows in parts)
    found = zip(parts, _found(tasks, n_jobs), strict=True)
    try:
        for _, part in drawn(found, n_of=lambda each: each[0].stop - each[0].start):
            into.merge(part, np.arange(n_classes))
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker has ended in the middle of the pass, for want of memory perhaps, "
            'and what it had done is lost. With joblib.parallel_config("dask") another '
            "does its part again."
        ) from error
    except ImportError as error:
        raise ImportError(
            f"A worker lacks what is installed here: {error}. Install the same "
            "packages on all machines."
        ) from error


def collect_statistics(
    full_pass: FullPass,
    X: SampleRows,
    samples: Samples,
    *,
    second: bool = False,
    everything: bool = False,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> Statistics:
    """Run the network once; sum over all samples and keep the features of some.

    `second` and `everything` are those of `RunningStatistics`, the others of `run`.
    """
    running = RunningStatistics(
        full_pass.stage_names, second=second, everything=everything
    )
    run(full_pass, X, samples, running, n_jobs, verbose)
    return running.finish()


def _found(tasks: Iterable[_Task], n_jobs: int | None) -> Iterator[Summed]:
    backend, _ = get_active_backend()
    if hasattr(backend, "client"):  # joblib's for Dask.
        return _found_by_dask(backend, tasks)
    # Other backends wait for all parts, and hold them.
    way = "generator" if backend.supports_return_generator else "list"
    parallel = Parallel(n_jobs=n_jobs, return_as=way)
    return iter(parallel(delayed(_part)(task) for task in tasks))


def _found_by_dask(backend: Any, tasks: Iterable[_Task]) -> Iterator[Summed]:
    """Ask Dask itself: joblib waits forever for a task that Dask has given up."""
    from distributed import KilledWorker

    def part_of_pass(packed: bytes) -> Summed:
        # Local functions are sent by value. A worker that is sent the name of what it
        # cannot import is gone without a word; here, it fails like any task.
        found: Summed = pickle.loads(packed)()
        return found

    client, config = backend.client, sklearn.get_config()
    with warnings.catch_warnings():
        # It advises to send data ahead, which would be lost with a worker.
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
        futures = [
            client.submit(
                part_of_pass,
                pickle.dumps(partial(_part_under, config, task)),
                pure=False,
                **backend.submit_kwargs,
            )
            for task in tasks
        ]
    try:
        with backend.retrieval_context():
            for future in futures:
                yield future.result()
    except KilledWorker as error:
        raise RuntimeError(
            "Workers of Dask have ended one after another at the same part of the "
            "pass, for want of memory perhaps."
        ) from error
    finally:
        # If one has failed, nobody wants the others.
        client.cancel(futures)


def _part_under(config: dict[str, Any], task: _Task) -> Summed:
    with sklearn.config_context(**config):
        return _part(task)


def _part(task: _Task) -> Summed:
    shipped, X, samples, like = task
    found: Summed = like.of_none()
    for batch in _unpacked(shipped)(X):
        found.add(batch, samples.take(batch.rows))
    return found


def _shipped(full_pass: FullPass) -> _Shipped:
    extractor, pooling = full_pass.extractor, full_pass.pooling
    parts = (
        fingerprint_of(extractor),
        pooling,
        full_pass.batch_size,
        full_pass.memory.location,
    )
    # Functions as pooling= need not be importable elsewhere.
    wrapped = joblib.wrap_non_picklable_objects(full_pass, keep_wrapper=False)
    device = device_of(extractor)
    return _Shipped(content_hash(parts), device, pickle.dumps(wrapped))


def _split(n_samples: int, batch_size: int, n_workers: int) -> Iterator[slice]:
    """Yield parts of whole batches: each has the same company as in one pass."""
    n_batches = -(-n_samples // batch_size)
    n_tasks = min(_TASKS_PER_WORKER * n_workers, n_batches)
    bounds = [batch_size * (n_batches * i // n_tasks) for i in range(n_tasks + 1)]
    for start, stop in pairwise(bounds):
        yield slice(start, min(stop, n_samples))
