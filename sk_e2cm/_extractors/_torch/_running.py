"""How the stages of a network that was cut are run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..._utils._arrays import row_chunks, to_numpy
from .._independence import some_samples
from .._protocol import Extractor
from ._facts import Facts
from ._runner import Runner
from ._staged import Live, StagedNetwork


class RunsStages(Extractor):
    """Runs batches stage by stage, and takes rows out between two stages.

    A subclass sets the network as it was given, the form of it that runs, what runs
    it, and what is known of it.
    """

    _given: StagedNetwork
    _network: StagedNetwork
    _runner: Runner
    _facts: Facts

    def begin(self, X: ArrayLike | Tensor) -> Live:
        """Return the state before the first stage.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, ...)
            Copied, converted to the network's dtype and moved to its device.

        Returns
        -------
        state
            To be passed to `advance`.

        Raises
        ------
        ValueError
            If `X` has token ids that the network does not know, or if samples of this
            shape cannot be computed stage by stage.
        """
        batch = self._network.batch(X)
        self._facts.refuse_unknown_ids(batch)
        if self._runner.learn(batch):
            self._facts.note_row(batch[:1])
        return self._runner.start(batch)

    def advance(self, state: Live, stage: int) -> tuple[Live, Tensor]:
        """Compute one stage.

        Parameters
        ----------
        state : state
            As the stage before it, or `begin`, returned it.

        stage : int
            From 0 to the number of exits.

        Returns
        -------
        state : state
            The state after the stage.

        output : tensor of shape (n_samples, ...)
            Valid until the next stage is computed.
        """
        return self.advance_through(state, stage, stage)

    def advance_through(
        self, state: Live, first: int, last: int
    ) -> tuple[Live, Tensor]:
        """Compute several stages as one: nothing is done between them.

        Parameters
        ----------
        state : state
            As the stage before `first`, or `begin`, returned it.

        first, last : int
            The first and the last of the stages.

        Returns
        -------
        state : state
            The state after the last of them.

        output : tensor of shape (n_samples, ...)
            Valid until the next stage is computed.
        """
        if not torch.is_inference_mode_enabled():  # to ask is quicker than to enter
            with torch.inference_mode():
                return self.advance_through(state, first, last)
        try:
            return self._network.advance_through(state, first, last)
        except IndexError as error:  # not of the shape, which has been run before
            raise ValueError(
                f"X has an id that the network does not know: {error}"
            ) from error

    @torch.inference_mode()
    def keep(self, state: Live, rows: NDArray[np.intp] | Tensor) -> Live:
        """Reduce a state to some of its rows.

        Parameters
        ----------
        state : state
            As `advance` returned it.

        rows : ndarray of int, or tensor of int on the extractor's device
            The rows to keep, in this order.

        Returns
        -------
        state
            With ``len(rows)`` rows.
        """
        return self._network.keep(state, rows)

    @torch.inference_mode()
    def join(self, states: Sequence[Live]) -> Live:
        """Join the states of several batches after the same stage.

        Parameters
        ----------
        states : sequence of state
            As `advance` or `keep` returned them.

        Returns
        -------
        state
            With the rows of all, in this order.

        Raises
        ------
        ValueError
            If a value that is to be the same for every batch is not.
        """
        return self._network.join(states)

    def verify(self, X: NDArray[Any]) -> None:
        """Check on some of these samples that samples may leave.

        Parameters
        ----------
        X : ndarray of shape (n_samples, ...)
            Real ones. At most 64 of them are run, in their own precision and, if that
            leaves a doubt, in double precision.

        Raises
        ------
        ValueError
            If there are token ids that the network does not know, or if it draws random
            numbers, keeps something between batches, or mixes the samples of a batch.
        """
        if self._network.dtype is torch.int64:
            # All of X, so that samples are numbered as in X.
            n_before = 0
            for part in row_chunks(X):
                batch = self._network.batch(part)
                self._facts.refuse_unknown_ids(batch, n_before, len(X))
                n_before += len(part)
        samples = some_samples(X)
        self.begin(samples)
        self._runner.verify(samples)

    def form_for(self, X: ArrayLike | Tensor) -> StagedNetwork:
        """Return the stages that run for samples of this shape, to be exported.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, ...)
            Some samples.

        Returns
        -------
        StagedNetwork
            With norms folded where that was proved to be right.

        Raises
        ------
        ValueError
            As `begin`.
        """
        batch = self._network.batch(X)
        self._runner.learn(batch)
        return self._runner.form_for(batch)

    @torch.inference_mode()
    def uncut(self, X: ArrayLike) -> Any:
        """Run the network as it was given: in one piece, and with nothing folded.

        What the stages are to be compared with, above all in time.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            One batch. It is not written to.

        Returns
        -------
        tensor
            What the network, or the module named `output`, returns, with samples along
            the first axis if these have been met.
        """
        output = self._given.run(X)
        rules = self._given.rules.get(torch.Size(np.shape(X)[1:]))
        if rules and isinstance(output, Tensor):
            return output.movedim(rules[-1].axis, 0)
        return output

    def staged_transform(self, X: ArrayLike | Tensor) -> Iterator[Any]:
        """Compute all stages for one batch, one after the other.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, ...)
            One batch. It is not written to.

        Yields
        ------
        output : ndarray or tensor of shape (n_samples, ...)
            Of the kind that `X` is.
        """
        state = self.begin(X)
        for stage in range(len(self._network.ends)):
            state, output = self.advance(state, stage)
            # A copy: the next stage may overwrite it.
            yield output.clone() if isinstance(X, Tensor) else to_numpy(output)
