"""Small extractors for tests: ours, and those of whoever writes an extractor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ._extractors import (
    Extractor,
    channel_axes_of,
    check_extractor,
    fingerprint_of,
    state_and_output,
    through,
    verify,
)

__all__ = ["CountingExtractor", "ToyExtractor"]


class ToyExtractor(Extractor):
    """Stages that see more and more of a sample's features, at a growing cost.

    It takes samples of any shape: stage j of J sees the first j/J of the flattened
    features, rounded up, and the last stage sees them all.

    Parameters
    ----------
    n_stages : int, default=3
        At least 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_e2cm.testing import ToyExtractor
    >>> extractor = ToyExtractor(n_stages=2)
    >>> state = extractor.begin(np.ones((5, 4)))
    >>> state, output = extractor.advance(state, 0)
    >>> output.shape
    (5, 2)
    """

    def __init__(self, n_stages: int = 3) -> None:
        self.n_stages = n_stages
        if not isinstance(n_stages, int) or n_stages < 1:
            raise ValueError(f"n_stages must be a number from 1 on, got {n_stages!r}.")

    @property
    def stage_names(self) -> tuple[str, ...]:
        """One name per stage."""
        return tuple(f"part{i + 1}" for i in range(self.n_stages))

    def begin(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return the flattened samples."""
        return X.reshape(len(X), -1)

    def advance(
        self, state: NDArray[Any], stage: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the state, unchanged, and the features seen by this stage."""
        return state, state[:, : self._n_seen(state.shape[1])[stage]]

    def keep(self, state: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return these rows."""
        return state[rows]

    def join(self, states: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the rows of several states as one."""
        return np.concatenate(states)

    def macs(self, input_shape: tuple[int, ...]) -> ArrayLike:
        """Return a cost of 1000 for every feature seen."""
        return 1000.0 * self._n_seen(int(np.prod(input_shape)))

    def _n_seen(self, n_features: int) -> NDArray[np.intp]:
        stages = np.arange(1, self.n_stages + 1)
        return -(-stages * n_features // self.n_stages)

    def __repr__(self) -> str:
        """Return the call that makes this object."""
        return f"{type(self).__name__}(n_stages={self.n_stages})"


class CountingExtractor(Extractor):
    """Counts the rows that reach each stage of another extractor.

    Parameters
    ----------
    extractor : extractor
        Does the work.

    Attributes
    ----------
    rows : ndarray of shape (n_stages,)
        How many rows each stage has computed so far. May be set to 0 in between.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_e2cm import E2CMClassifier
    >>> from sk_e2cm.testing import CountingExtractor, ToyExtractor
    >>> extractor = CountingExtractor(ToyExtractor(n_stages=2))
    >>> X = np.arange(8.0).reshape(4, 2)
    >>> clf = E2CMClassifier(extractor, threshold=0.0).fit(X, [0, 0, 1, 1])
    >>> extractor.rows[:] = 0
    >>> _ = clf.predict(X)
    >>> extractor.rows
    array([4, 0])
    """

    def __init__(self, extractor: Extractor) -> None:
        check_extractor(extractor)
        self.extractor = extractor
        self.rows = np.zeros(len(extractor.stage_names), dtype=np.intp)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """One name per stage."""
        return tuple(self.extractor.stage_names)

    @property
    def fingerprint(self) -> str:
        """Of the extractor that does the work: counting changes nothing."""
        return fingerprint_of(self.extractor)

    @property
    def device(self) -> torch.device:
        """Of the extractor that does the work, if it has one."""
        device: torch.device = getattr(self.extractor, "device")  # noqa: B009
        return device

    def begin(self, X: NDArray[Any]) -> tuple[Any, int]:
        """Return the state before the first stage, with its number of rows."""
        return self.extractor.begin(X), len(X)

    def verify(self, X: NDArray[Any]) -> None:
        """Check the extractor that does the work, without counting."""
        verify(self.extractor, X)

    def advance(self, state: tuple[Any, int], stage: int) -> tuple[Any, Any]:
        """Compute one stage and count its rows."""
        inner, n_rows = state
        self.rows[stage] += n_rows
        returned = self.extractor.advance(inner, stage)
        inner, output = state_and_output(self.extractor, returned)
        return (inner, n_rows), output

    def advance_through(
        self, state: tuple[Any, int], first: int, last: int
    ) -> tuple[Any, Any]:
        """Compute several stages as one and count the rows of each."""
        inner, n_rows = state
        self.rows[first : last + 1] += n_rows
        inner, output = through(self.extractor)(inner, first, last)
        return (inner, n_rows), output

    def keep(self, state: tuple[Any, int], rows: NDArray[np.intp]) -> tuple[Any, int]:
        """Reduce the state to these rows."""
        return self.extractor.keep(state[0], rows), len(rows)

    @property
    def uncut(self) -> Callable[[NDArray[Any]], Any]:
        """Runs the network as it was given, if there is one, without counting."""
        run: Callable[[NDArray[Any]], Any] = getattr(self.extractor, "uncut")  # noqa: B009
        return run

    @property
    def join(self) -> Callable[[Sequence[tuple[Any, int]]], tuple[Any, int]]:
        """Joins states, if the extractor that does the work can."""
        join_inner = getattr(self.extractor, "join")  # noqa: B009

        def join(states: Sequence[tuple[Any, int]]) -> tuple[Any, int]:
            inner, n_rows = zip(*states, strict=True)
            return join_inner(inner), sum(n_rows)

        return join

    def macs(self, input_shape: tuple[int, ...]) -> ArrayLike:
        """Return the cost of the extractor that does the work."""
        return self.extractor.macs(input_shape)

    def channel_axes(self, input_shape: tuple[int, ...]) -> list[int | None]:
        """Return the axes of the extractor that does the work, None where unknown."""
        return channel_axes_of(self.extractor, input_shape)

    def __repr__(self) -> str:
        """Return the call that makes this object."""
        return f"{type(self).__name__}({self.extractor!r})"
