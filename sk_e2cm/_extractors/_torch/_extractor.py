"""A frozen torch network, cut into stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from numbers import Integral
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ..._utils._arrays import as_numbers, convert, to_numpy, to_tensor
from ..._utils._hashing import content_hash
from .._protocol import Extractor, check_device
from ._cut import stages_of
from ._freeze import check_module, device_of_weights, frozen_copy, picklable, share
from ._macs import measure, summarize
from ._placement import (
    checked_output,
    checked_shape,
    evenly_spaced,
    exit_names,
    measure_plausibly,
    stage_ends,
)
from ._quantized import exact_twin
from ._rows import INPUT, KeepRules
from ._trace import Trace
from ._verify import learn_keep_rules, run_uncut


class _Live(NamedTuple):
    """The values alive between two stages, what they are, and what is ahead."""

    values: tuple[Any, ...]
    rules: KeepRules
    ahead: tuple[KeepRules, ...]


class TorchExtractor(Extractor):
    """A trained torch network, frozen and cut into stages.

    The module is copied once, in eval mode and without gradients; the original is
    left as it was. It is cut with ``torch.fx`` by the constructor, and once more for
    each further device.

    Parameters
    ----------
    module : torch.nn.Module
        Takes a batch with one row per sample; further inputs need defaults.

    exits : sequence of str, or int
        Where samples may leave: the names of modules in the order of execution,
        dotted as in ``module.named_modules()``, or one name. A number asks for that
        many, spaced evenly by cost.

    output : str, default=None
        The name of the last module run. What comes after it is neither computed
        nor costed, as in transfer learning. By default, the full network.

    input_shape : tuple of int, default=None
        The shape of one sample, used only to count the cost when `exits` is a
        number and in `summary`. By default, a shape that the network takes is
        looked for.

    Attributes
    ----------
    exits : tuple of str
        The names of the exits, chosen ones included.

    output : str or None
        As passed.

    stage_names : tuple of str
        The exits and the last stage.

    fingerprint : str
        Names the content, weights included: the same in every process.

    device : torch.device
        Where the weights are.

    Raises
    ------
    TypeError
        If `module` is no torch module, is compiled or cannot be copied, or if `exits`
        are neither names nor a number.

    ValueError
        If a name is unknown, given twice, out of order, used more than once in a
        forward pass, or inside what cannot be traced; if dropout is left on; if there
        are fewer places than `exits`, or no shape is found at which to count.

    See Also
    --------
    TorchExtractor.from_modules : The stages as separate modules, for a network
        that cannot be traced.

    Notes
    -----
    A module that ``torch.fx`` cannot trace is kept whole. What is alive between two
    stages besides the exit's own value is found out by running three rows when a
    shape of input is first met. The stages are then compared with the uncut network,
    with rows dropped and reordered at every cut.

    While a network is cut or its cost is counted, torch changes how modules are
    called: do not run networks in other threads at that moment. Afterwards any
    number of threads may share one extractor. Copies, deep copies and clones are the
    object itself. Pickles hold the module and the names, with weights on the CPU.

    Examples
    --------
    >>> import torch
    >>> from sk_e2cm import TorchExtractor
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> extractor = TorchExtractor(network, exits=["1"])
    >>> for output in extractor.staged_transform(torch.zeros(5, 4)):
    ...     print(tuple(output.shape))
    (5, 8)
    (5, 3)
    >>> extractor.macs((4,)).tolist()
    [32.0, 56.0]
    """

    def __init__(
        self,
        module: nn.Module,
        exits: Sequence[str] | int,
        *,
        output: str | None = None,
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        check_module(module)
        names, last_name = exit_names(exits), checked_output(output)
        input_shape = None if input_shape is None else checked_shape(input_shape)
        # What is pickled and hashed; what runs may keep notes on itself.
        self._module = frozen_copy(module)
        trace = Trace(share(self._module), [*names, last_name])
        last = trace.node(last_name)
        trace.refuse_dropout(last)
        self._dtype = trace.input_dtype()
        if isinstance(exits, Integral):
            names = evenly_spaced(trace, int(exits), last, input_shape, self._dtype)
        self._ends = stage_ends(trace, names, last, output)
        self._trace = trace
        self._exits = names
        self._output = output
        self._input_shape = input_shape
        self._stages = stages_of(trace.root, trace.graph, self._ends)
        self._proven, self._twin = self._stages, self._module
        exact = exact_twin(trace.root)
        if exact is not trace.root:
            self._proven = stages_of(exact, trace.graph, self._ends)
            self._twin = exact.get_submodule("network")
        # Facts about (content, shape of input), found out when first asked for.
        self._rules: dict[torch.Size, tuple[KeepRules, ...]] = {}
        self._macs: dict[tuple[int, ...], NDArray[np.float64]] = {}
        self._elsewhere: dict[torch.device, TorchExtractor] = {self.device: self}

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module]) -> Self:
        """Take a chain of modules, each of which is one stage.

        Parameters
        ----------
        modules : sequence of torch.nn.Module
            Each takes what the one before it returns.

        Returns
        -------
        TorchExtractor
            With exits ``"0"``, ``"1"``, ... after all modules but the last.

        Raises
        ------
        ValueError
            If there are none.
        """
        if not isinstance(modules, Iterable) or isinstance(modules, Tensor):
            raise TypeError(f"modules must be a sequence of modules, got {modules!r}.")
        if not (modules := list(modules)):
            raise ValueError("from_modules needs at least one module.")
        for module in modules:
            check_module(module)
        # A shell of its own for each, so that one module may serve two stages.
        network = nn.Sequential(*(nn.Sequential(module) for module in modules))
        return cls(network, [str(i) for i in range(len(network) - 1)])

    @property
    def exits(self) -> tuple[str, ...]:
        return self._exits

    @property
    def output(self) -> str | None:
        return self._output

    @property
    def stage_names(self) -> tuple[str, ...]:
        return (*self._exits, self._output or "output")

    @cached_property
    def device(self) -> torch.device:
        return device_of_weights(self._module)

    @cached_property
    def fingerprint(self) -> str:
        # The code too: weights and names outlive a change of it.
        module, code = picklable(self._module), self._trace.code()
        return content_hash((type(self), module, self._exits, self._output, code))

    def begin(self, X: ArrayLike | Tensor) -> _Live:
        """Return the state before the first stage.

        Parameters
        ----------
        X : array-like or tensor of shape (n_samples, ...)
            Copied, converted to the network's dtype and moved to its device.

        Returns
        -------
        state
            To be passed to `advance`.
        """
        batch = self._tensor(X)
        shape = batch.shape[1:]
        if shape not in self._rules:
            self._rules[shape] = self._learn_rules(batch)
        return _Live((batch,), INPUT, self._rules[shape])

    def advance(self, state: _Live, stage: int) -> tuple[_Live, Tensor]:
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

    @torch.inference_mode()
    def advance_through(
        self, state: _Live, first: int, last: int
    ) -> tuple[_Live, Tensor]:
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
        values = state.values
        for stage in self._stages[first : last + 1]:
            values = stage(*values)
        rules, output = state.ahead[last], values[0]
        if rules.axis:
            output = output.movedim(rules.axis, 0)
        return _Live(values, rules, state.ahead), output

    @torch.inference_mode()
    def keep(self, state: _Live, rows: NDArray[np.intp] | Tensor) -> _Live:
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
        if not isinstance(rows, Tensor):
            rows = to_tensor(rows).to(self.device, torch.int64)
        values = state.rules.keep(state.values, rows)
        return _Live(values, state.rules, state.ahead)

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
        for stage in range(len(self._stages)):
            state, output = self.advance(state, stage)
            # A copy: the next stage may overwrite it.
            yield output.clone() if isinstance(X, Tensor) else to_numpy(output)

    def macs(self, input_shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Count the multiply-adds from the input to the end of each stage.

        Parameters
        ----------
        input_shape : tuple of int
            The shape of one sample.

        Returns
        -------
        ndarray of shape (n_stages,)
            Cumulative multiply-adds for one sample, by torch's flop counter.
        """
        shape = checked_shape(input_shape)
        if shape not in self._macs:
            spent = measure(self._trace, [shape], self._dtype).macs
            self._macs[shape] = np.array([spent[end] for end in self._ends])
        return self._macs[shape].copy()

    def summary(self, input_shape: tuple[int, ...] | None = None) -> None:
        """Print a table of the stages: module, output shape, cumulative multiply-adds.

        Parameters
        ----------
        input_shape : tuple of int, default=None
            The shape of one sample. By default that which the extractor was made
            with, or else one that the network takes: the first line says which.

        Raises
        ------
        ValueError
            If the network does not take this shape, or if none is found.

        Examples
        --------
        >>> import torch
        >>> from sk_e2cm import TorchExtractor
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> TorchExtractor(network, exits=["1"]).summary()
        stage   module      output shape  multiply-adds  share
        input               (1, 4)                    0  0.000
        1       ReLU        (1, 8)                   32  0.571
        output  Sequential  (1, 3)                   56  1.000
        """
        shape = self._input_shape if input_shape is None else input_shape
        meter = measure_plausibly(self._trace, shape, self._dtype)
        ends = (*self._exits, self._output or "")
        modules = [self._module.get_submodule(name) for name in ends]
        print(
            summarize(meter, self._trace.input, self.stage_names, modules, self._ends)
        )

    def to(self, device: str | torch.device) -> TorchExtractor:
        """Return this extractor on another device.

        Parameters
        ----------
        device : str or torch.device
            For instance ``"cpu"`` or ``"cuda"``.

        Returns
        -------
        TorchExtractor
            The object itself if it is there already; otherwise a copy, made once.

        Raises
        ------
        ValueError
            If there is no such device.
        """
        there = check_device(device)
        if there not in self._elsewhere:
            copy = self._like()(frozen_copy(self._module, there), self._exits)
            copy._elsewhere = self._elsewhere
            self._elsewhere[there] = copy
        return self._elsewhere[there]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TorchExtractor):
            return NotImplemented
        return self is other or self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return int(self.fingerprint[:15], 16)

    def __reduce__(self) -> tuple[Callable[..., TorchExtractor], tuple[Any, ...]]:
        return self._like(), (picklable(self._module), self._exits)

    def __repr__(self) -> str:
        output = f", output={self._output!r}" if self._output else ""
        name = type(self._module).__name__
        return f"{type(self).__name__}({name}, exits={list(self._exits)}{output})"

    def _like(self) -> Callable[..., TorchExtractor]:
        return partial(type(self), output=self._output, input_shape=self._input_shape)

    def _learn_rules(self, batch: Tensor) -> tuple[KeepRules, ...]:
        names = (*self._exits, self._output or "")
        labels = [repr(name) if name else "the network's output" for name in names]
        uncut = partial(run_uncut, self._twin, names)
        return learn_keep_rules(self._proven, labels, uncut, batch)

    def _tensor(self, X: ArrayLike | Tensor) -> Tensor:
        # Always a copy: the first layer may work in place.
        tensor = X.detach() if isinstance(X, Tensor) else to_tensor(as_numbers(X, "X"))
        return convert(tensor, self.device, self._dtype)
