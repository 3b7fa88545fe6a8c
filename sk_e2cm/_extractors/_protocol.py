"""What the loop asks of an extractor, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Extractor(ABC):
    """A frozen model that is computed stage by stage.

    Anything with these members serves, a subclass or not. A *state* is whatever is
    needed between two stages; only the extractor looks inside. Each row of X is
    computed independently of the others, so rows may be dropped after any stage.

    Subclasses are values: copies are the object itself, so that clones of an
    estimator share it.

    Attributes
    ----------
    stage_names : sequence of str
        One name per stage, for messages. The last stage always answers; the others
        are exits.

    See Also
    --------
    TorchExtractor : A torch network, cut into stages.
    PipelineExtractor : Fitted scikit-learn transformers as stages.

    Notes
    -----
    Three more members are used where they are there: ``fingerprint``, a string that
    names the content, under which ``memory=`` stores features (otherwise a hash of
    what would be pickled); ``to(device)``, the extractor on another device; and
    ``feature_names_in_``, the columns that X must have if it is a data frame.

    Examples
    --------
    Two stages for rows of numbers: the first column alone, then all of them.

    >>> from sk_e2cm import E2CMClassifier, Extractor
    >>> class FirstColumn(Extractor):
    ...     stage_names = ("first column", "all columns")
    ...     def begin(self, X):
    ...         return X
    ...     def advance(self, state, stage):
    ...         return state, state[:, :1] if stage == 0 else state
    ...     def keep(self, state, rows):
    ...         return state[rows]
    ...     def macs(self, input_shape):
    ...         return [1.0, input_shape[0]]
    >>> X = [[0.0, 3.0], [0.1, 5.0], [9.0, 4.0], [9.1, 6.0]]
    >>> clf = E2CMClassifier(FirstColumn(), threshold=0.5).fit(X, [0, 0, 1, 1])
    >>> clf.predict_exit(X)
    array([0, 0, 0, 0])
    """

    @property
    @abstractmethod
    def stage_names(self) -> Sequence[str]:
        """One name per stage, for messages."""

    @abstractmethod
    def begin(self, X: NDArray[Any]) -> Any:
        """Return the state before the first stage for the rows of `X`.

        Parameters
        ----------
        X : ndarray of shape (n_samples, ...)
            A batch. It must not be written to.

        Returns
        -------
        state
            Anything.
        """

    @abstractmethod
    def advance(self, state: Any, stage: int) -> tuple[Any, Any]:
        """Compute one stage.

        Parameters
        ----------
        state : state
            As `begin`, `keep` or the stage before returned it.

        stage : int
            From 0 to the number of exits.

        Returns
        -------
        state : state
            The state after the stage.

        output : ndarray or tensor of shape (n_samples, ...)
            The stage's features; they need to be valid only until the next stage.
        """

    @abstractmethod
    def keep(self, state: Any, rows: NDArray[np.intp]) -> Any:
        """Reduce a state to some of its rows.

        Parameters
        ----------
        state : state
            As `advance` returned it.

        rows : ndarray of int
            The rows to keep, in this order.

        Returns
        -------
        state
            With ``len(rows)`` rows.
        """

    @abstractmethod
    def macs(self, input_shape: tuple[int, ...]) -> ArrayLike:
        """Return the multiply-adds from the input to the end of each stage.

        Parameters
        ----------
        input_shape : tuple of int
            The shape of one sample.

        Returns
        -------
        array-like of shape (n_stages,)
            Cumulative, for one sample. Another unit of cost serves as well if the
            exits' own arithmetic, which is added in multiply-adds, is small in it.
        """

    def staged_transform(self, X: NDArray[Any]) -> Iterator[Any]:
        """Compute all stages for one batch, one after the other.

        Parameters
        ----------
        X : ndarray of shape (n_samples, ...)
            One batch. It is not written to.

        Yields
        ------
        output : ndarray of shape (n_samples, ...)
            The features of each stage.
        """
        state = self.begin(X)
        for stage in range(len(self.stage_names)):
            state, output = self.advance(state, stage)
            # A copy: the next stage may overwrite it.
            yield np.array(output)

    def __copy__(self) -> Self:
        """Return the object itself."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the object itself."""
        return self
