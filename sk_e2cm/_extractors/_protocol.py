"""The protocol of extractors, and defaults for its optional members."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .._utils._arrays import to_numpy
from .._utils._compat import InvalidParameterError
from .._utils._hashing import content_hash
from ._outputs import state_and_output

_NEEDED = ("stage_names", "begin", "advance", "keep", "macs")

# What they, and the methods that may be there, take.
_METHODS = {
    "begin": ("X",),
    "advance": ("state", "stage"),
    "keep": ("state", "rows"),
    "macs": ("input_shape",),
    "advance_through": ("state", "first", "last"),
    "join": ("states",),
    "uncut": ("X",),
    "layouts": (),
    "to": ("device",),
}


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
    More members are used where they are there: `advance_through`, for extractors that
    run several stages quicker at once; ``join(states)``, the states of several batches
    after the same stage as one, with the rows of all in their order: without it,
    predictions run later stages on the few samples that are left of each batch; with
    it, states wait while other batches are computed; ``uncut(X)``, the output of the
    network as it was given, by whose time costs in seconds are measured; ``layouts()``,
    the extractor itself and others that compute the same in other memory formats, of
    which the quickest is taken where seconds are measured; ``verify(X)``, which `fit`
    calls with its samples to have a model refused that mixes them (otherwise some of
    them are run through the stages in several batches and compared); ``fingerprint``, a
    string that names the content, under which ``memory=`` stores features; ``device``,
    where outputs are tensors on that device, which are computed in inference mode, and
    `keep` is to get tensors of rows there; ``findings``, a value that is pickled with
    estimators and set again when they are loaded; ``to(device)``, the extractor on
    another device; ``feature_names_in_``, the columns that X must have if it is a data
    frame; and ``channel_axes(input_shape)``, for samples of this shape the axis of the
    channels in the output of each stage, such as 1 or -1, or None if it is unknown:
    poolings then guess it from the shape of the output, and `fit` warns.

    Without a ``fingerprint``, features are stored under a hash of the attributes, of
    the extractor's code and of all that this refers to; packages that are installed
    count by name and version. If the extractor changes its attributes as it is used
    (counts its calls, say), it finds nothing again: give it a ``fingerprint``.

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

        rows : ndarray of int, or tensor of int
            The rows to keep, in this order. A tensor on the extractor's `device` if it
            has one, an array if not.

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

    def advance_through(self, state: Any, first: int, last: int) -> tuple[Any, Any]:
        """Compute several stages, between which no sample leaves.

        Parameters
        ----------
        state : state
            As `begin`, `keep` or the stage before `first` returned it.

        first, last : int
            The first and the last of the stages.

        Returns
        -------
        state : state
            The state after the last of them.

        output : ndarray or tensor of shape (n_samples, ...)
            Of the last of them.
        """
        for stage in range(first, last + 1):
            state, output = state_and_output(self, self.advance(state, stage))
        return state, output

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
            state, output = state_and_output(self, self.advance(state, stage))
            # A copy: the next stage may overwrite it.
            is_tensor = isinstance(output, Tensor)
            yield to_numpy(output.detach()) if is_tensor else np.array(output)

    def __copy__(self) -> Self:
        """Return the object itself."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the object itself."""
        return self


def optional(extractor: Any, member: str) -> Any:
    """Return an optional member; None if it is lacking, or stands for its absence."""
    return getattr(extractor, member, None)


def has(extractor: Any, member: str) -> bool:
    """Tell whether an optional member is there; see `optional`."""
    return optional(extractor, member) is not None


def layouts_of(extractor: Extractor) -> list[Extractor]:
    """Return the extractor, and others in other memory formats if it knows any.

    Raises
    ------
    TypeError
        If it returns something else.
    """
    layouts = optional(extractor, "layouts")
    if layouts is None:
        return [extractor]
    found = layouts()
    is_sequence = isinstance(found, Sequence) and len(found) > 0
    if not is_sequence or found[0] is not extractor:
        raise TypeError(
            f"{type(extractor).__name__}.layouts must return a sequence of extractors, "
            f"itself first, got {found!r:.60}."
        )
    for other in found:
        check_extractor(other)
    return list(found)


def through(extractor: Extractor) -> Callable[[Any, int, int], tuple[Any, Any]]:
    """Return its `advance_through`, or the default where it is no `Extractor`."""
    default = partial(Extractor.advance_through, extractor)
    return optional(extractor, "advance_through") or default


def on_device(extractor: Extractor, device: str | torch.device | None) -> Extractor:
    """Return the extractor on `device`, or where it is if that is None."""
    if device is None:
        return extractor
    to = optional(extractor, "to")
    if to is None:
        raise ValueError(
            f"device={device!r} needs an extractor that can be moved: "
            f"{type(extractor).__name__} has no method to(device). Use device=None."
        )
    moved: Extractor = to(device)
    return moved


def channel_axes_of(
    extractor: Extractor, input_shape: tuple[int, ...]
) -> list[int | None]:
    """Return the axis of the channels in each stage's output, None where unknown.

    Raises
    ------
    ValueError
        If there are more or fewer than stages.
    """
    n_stages = len(extractor.stage_names)
    channel_axes = optional(extractor, "channel_axes")
    if channel_axes is None:
        return [None] * n_stages
    axes = list(channel_axes(input_shape))
    if len(axes) != n_stages:
        raise ValueError(
            f"{type(extractor).__name__}.channel_axes returned {axes!r} for "
            f"{n_stages} stages; one axis for each is needed, or None."
        )
    return axes


def check_device(device: Any, name: str = "device") -> torch.device:
    """Return the device, with its number if it has one: "cuda" is "cuda:0".

    Raises
    ------
    ValueError
        If there is no such device.
    """
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name} {str(device)!r} is not available here ({error}). "
            "Use device=None to stay on the network's own, or 'cpu'."
        ) from error


def fingerprint_of(extractor: Extractor) -> str:
    """Return a key for the extractor's content, the same in every process."""
    fingerprint = getattr(extractor, "fingerprint", None)
    return content_hash(extractor) if fingerprint is None else fingerprint


def check_extractor(extractor: Any) -> None:
    """Refuse what is no extractor; a bare network is the likeliest mistake."""
    if isinstance(extractor, nn.Module):
        raise InvalidParameterError(
            f"extractor is a torch module, {type(extractor).__name__}. Cut it into "
            "stages: TorchExtractor(network, exits=[...])."
        )
    missing = [member for member in _NEEDED if not hasattr(extractor, member)]
    if missing or isinstance(extractor, type):
        raise InvalidParameterError(
            f"extractor must be an object like sk_e2cm.Extractor; {extractor!r} "
            f"lacks {missing or 'being an instance'}."
        )
    name = type(extractor).__name__
    names = extractor.stage_names
    is_sequence = isinstance(names, (Sequence, np.ndarray)) and not isinstance(
        names, (str, bytes)
    )
    if not (is_sequence and len(names) and all(isinstance(n, str) for n in names)):
        raise InvalidParameterError(
            f"{name}.stage_names must be a sequence with one name for each stage, got "
            f"{names!r}."
        )
    for member, arguments in _METHODS.items():
        _check_method(extractor, member, arguments)
    if hasattr(extractor, "device"):
        check_device(extractor.device, f"{name}.device")


def _check_method(extractor: Any, member: str, arguments: tuple[str, ...]) -> None:
    """Refuse a member that cannot be called with these arguments."""
    method = getattr(extractor, member, None)
    if method is None and member not in _NEEDED:
        return
    try:
        if not callable(method):
            raise TypeError(f"it is {method!r}")
        inspect.signature(method).bind(*arguments)
    except TypeError as error:
        raise InvalidParameterError(
            f"{type(extractor).__name__}.{member} must be a method that takes "
            f"({', '.join(arguments)}): {error}."
        ) from None


def check_columns(extractor: Any, X: Any) -> None:
    """Refuse a data frame with other columns than the extractor was fitted on.

    Extractors get arrays, and would not notice.
    """
    expected = getattr(extractor, "feature_names_in_", None)
    if expected is None or not hasattr(X, "columns"):
        return
    if list(X.columns) != list(expected):
        raise ValueError(
            f"X has the columns {list(X.columns)[:10]}, but the extractor was fitted "
            f"on {list(expected)[:10]}, in this order."
        )
