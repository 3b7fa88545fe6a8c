"""How the samples of predictions are checked and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from os import PathLike, fspath
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted, check_memory, validate_data

from ._extractors import Extractor, check_columns, check_device, device_of, on_device
from ._multi_exit._full_pass import Batch, FullPass
from ._multi_exit._network import MultiExitNetwork
from ._multi_exit._pooling import PoolingSpec
from ._multi_exit._seconds import Seconds
from ._utils._arrays import largest, row_chunks
from ._utils._compat import validate_parameter_constraints
from ._utils._progress import shown
from ._utils._streams import (
    SampleBatch,
    batches_of,
    check_in_order,
    in_large_parts,
    is_stream,
    n_samples_of,
)
from ._utils._validation import WRAP, as_array, check_numbers, is_valid
from ._utils._warnings import warn

T = TypeVar("T")

# So many batches are predicted together: samples of several that take no exit are
# joined.
_PART_BATCHES = 64

# What is so many times as large is on another scale.
_OTHER_SCALE = 10


class InputsMixin:
    """Checks samples as those of the fit were, and reads them.

    A subclass sets `network_` and `input_shape_` in ``fit``. `threshold`, `batch_size`,
    `device`, `memory` and `verbose` are read at each call, so they may be changed on a
    fitted estimator.
    """

    network_: MultiExitNetwork
    seconds_: Seconds | None
    _warned_of: set[str]
    input_shape_: tuple[int, ...]
    _fitted_numbers: tuple[np.dtype[Any], float]

    threshold: ArrayLike
    batch_size: int
    cost_unit: str
    extractor: Extractor | None
    device: Any
    memory: Any
    verbose: int
    _parameter_constraints: dict[str, Any]

    def _warn_of_other_conditions(self, network: MultiExitNetwork) -> None:
        """Warn once if costs were measured on another device or in other batches."""
        seconds = self.seconds_
        if seconds is None or network.costs.unit != "time":
            return
        own = device_of(network.extractor)
        device = str(own if self.device is None else check_device(self.device))
        if seconds.device != device:
            self._warn_once("device", seconds.device, device)
        if seconds.batch_size != self.batch_size:
            self._warn_once("batch_size", seconds.batch_size, self.batch_size)

    def _warn_once(self, name: str, measured: Any, now: Any) -> None:
        if name in self._warned_of:
            return
        self._warned_of.add(name)
        warn(
            f"Costs in seconds were measured with {name}={measured!r}, and {name} is "
            f"{now!r} now: predictions are right, but costs are those of before. Call "
            "measure_seconds(X), which needs no fit."
        )

    def _valid_parts(self, X: Any) -> Iterator[tuple[NDArray[Any], MultiExitNetwork]]:
        """Yield valid samples, many at a time.

        And with them the network on the device asked for.
        """
        check_in_order(X)
        size = self.batch_size
        batches = batches_of(X, batch_size=size, labelled=False, weighted=False)
        for given in in_large_parts(batches):
            valid = self._as_fitted(given.X)
            self._warn_of_other_conditions(self.network_)
            network = self.network_.to(self.device)
            for rows in gen_batches(len(valid), _PART_BATCHES * self.batch_size):
                yield valid[rows], network

    def _parts(self, X: Any) -> Iterator[tuple[NDArray[Any], MultiExitNetwork]]:
        """Yield the same, and draw a bar of how many have been predicted."""
        return self._drawn(self._valid_parts(X), X, lambda part: len(part[0]))

    def _features_of(self, X: Any) -> Iterator[tuple[Batch, MultiExitNetwork]]:
        """Yield what every stage makes of samples, batch by batch."""
        batches = (
            (batch, network)
            for part, network in self._valid_parts(X)
            for batch in self._full_pass(network.extractor, network.pooling)(part)
        )
        return self._drawn(batches, X, lambda each: each[0].n_samples)

    def _scored_parts(
        self, X: Any, y: Any, sample_weight: Any, *, labelled: bool = True
    ) -> Iterator[tuple[Self, SampleBatch]]:
        """Yield samples with weights and, if wanted, labels; and what predicts them.

        That draws how far it is, unless there are other parts to come.
        """
        size = self.batch_size
        given = batches_of(X, y, sample_weight, batch_size=size, labelled=labelled)
        if not is_stream(X):
            yield self, next(given)
            return
        quiet = self._quiet()
        for batch in self._drawn(in_large_parts(given), X, lambda b: len(b.X)):
            yield quiet, batch

    def _quiet(self) -> Self:
        """Return a copy that draws nothing: of many calls others draw one bar."""
        quiet = copy(self)
        quiet.verbose = 0
        return quiet

    def _drawn(
        self, items: Iterator[T], X: Any, n_of: Callable[[T], int]
    ) -> Iterator[T]:
        check_is_fitted(self, "network_")
        self._check_params_read()
        total, verbose = n_samples_of(X), self.verbose
        return shown(items, total, verbose=verbose, what="predict", n_of=n_of)

    def _full_pass(self, extractor: Extractor, pooling: PoolingSpec) -> FullPass:
        is_path = isinstance(self.memory, PathLike)
        try:
            memory = check_memory(fspath(self.memory) if is_path else self.memory)
        except OSError as error:
            raise ValueError(
                f"memory={self.memory!r} is no folder that can be written to: {error}."
            ) from error
        return FullPass(
            on_device(extractor, self.device),
            pooling=pooling,
            batch_size=self.batch_size,
            memory=memory,
        )

    def _check_params_read(self) -> None:
        """Refuse what has become of the parameters that are read at each call.

        The values of the thresholds are checked where they are used.
        """
        # scikit-learn's check takes a tenth of the time of a small network.
        if (
            type(self.batch_size) is int
            and self.batch_size > 0
            and type(self.threshold) in (float, np.ndarray)
            and (self.device is None or type(self.device) is str)
            and (self.memory is None or type(self.memory) is str)
            and type(self.verbose) is int
            and self.verbose == 0
        ):
            return
        names = ("threshold", "batch_size", "device", "memory", "verbose")
        validate_parameter_constraints(
            {name: self._parameter_constraints[name] for name in names},
            {name: getattr(self, name) for name in names},
            caller_name=type(self).__name__,
        )

    def _check_X(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self, "network_")
        self._check_params_read()
        return self._as_fitted(X)

    def _as_fitted(self, X: ArrayLike) -> NDArray[Any]:
        """Return samples that are like those of the fit."""
        # scikit-learn's checks take as long as a small network does on one sample.
        if not hasattr(self, "feature_names_in_") and is_valid(X, self.input_shape_):
            self._warn_of_other_numbers(X)
            return X
        check_columns(self.network_.extractor, X)
        array = as_array(X)
        given, fitted = array.shape, self.input_shape_
        # Of tables scikit-learn says as much, in its own words.
        if given[1:] != fitted and (len(fitted) > 1 or len(given) > 2):
            hint = ""
            if given == fitted:
                hint = " A single sample x is X = x[None]."
            elif isinstance(X, tuple):
                hint = f" {WRAP}"
            raise ValueError(
                f"X has samples of shape {given[1:]}, but {type(self).__name__} was "
                f"fitted on samples of shape {fitted}.{hint}"
            )
        array = check_numbers(self, array)
        # Of a data frame the names of the columns are compared.
        named = X if hasattr(X, "columns") else array
        validate_data(self, named, reset=False, skip_check_array=True)
        self._warn_of_other_numbers(array)
        return array

    def _warn_of_other_numbers(self, X: NDArray[Any]) -> None:
        """Warn of bytes in place of scaled pictures, or the other way round.

        Whole numbers of whichever type are usual among floats of their size, in tables
        above all, and say nothing.
        """
        dtype, fitted = self._fitted_numbers
        if X.dtype.kind == dtype.kind:
            return
        given = largest(X)
        is_float = X.dtype.kind == "f"
        is_fraction = is_float and any((part % 1).any() for part in row_chunks(X))
        if given > _OTHER_SCALE * fitted or (
            is_fraction and fitted > _OTHER_SCALE * given
        ):
            warn(
                f"X holds {X.dtype} of size up to {given:.3g}, but "
                f"{type(self).__name__} was fitted on {dtype} of size up to "
                f"{fitted:.3g}. Prepare X as the samples of the fit were."
            )
