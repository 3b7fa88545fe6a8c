"""A frozen torch network, cut into stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._utils._hashing import content_hash
from .._protocol import check_device
from ._facts import Facts
from ._freeze import check_module, device_of_weights, frozen_copy, picklable, share
from ._macs import summarize
from ._made_of import MadeOf, chained
from ._memory_format import in_channels_last
from ._placement import (
    checked_output_name,
    checked_shape,
    chosen,
    exit_names,
    is_choice,
    measure_plausibly,
    stage_ends,
)
from ._runner import Runner
from ._running import RunsStages
from ._staged import StagedNetwork
from ._trace import Trace


class TorchExtractor(RunsStages):
    """A trained torch network, frozen and cut into stages.

    The module is copied once, in eval mode and without gradients; the original is
    left as it was. It is cut with ``torch.fx`` by the constructor, and once more for
    each further device.

    Parameters
    ----------
    module : torch.nn.Module
        Takes a batch with one row per sample; further inputs need defaults.

    exits : sequence of str, int or "all"
        Where samples may leave: the names of modules in the order of execution,
        dotted as in ``module.named_modules()``, or one name. A number asks for that
        many, spaced evenly by cost. "all" takes every place that a number chooses
        from: cut at many places, and let :class:`TunedExitsCV` close what does not
        pay. A module called "all" is ``["all"]``.

    output : str, default=None
        The name of the last module run. What comes after it is neither computed
        nor costed, as in transfer learning. By default, the full network.

    input_shape : tuple of int, default=None
        The shape of one sample, used only to count the cost when `exits` is no list
        of names and in `summary`. By default, a shape that the network takes is
        looked for.

    fold : bool, default=True
        Let convolutions and linear layers do the work of the BatchNorm after them,
        where the outputs are the same but for rounding. The cost that is counted
        does not change.

    Attributes
    ----------
    exits : tuple of str
        The names of the exits, chosen ones included. Should one of "all" be refused
        when samples come, the error names it: pass the list of the others.

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
        If the weights have no values (device "meta"); if `module` takes something else
        than one tensor; if a name is unknown, given twice, out of order, used more than
        once in a forward pass, or inside what cannot be traced; if dropout is left on;
        if there are fewer places than `exits`, or no shape is found at which to count.

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

    Where BatchNorm is folded, it is then compared with the stages as they were, and
    once more by `verify`. What differs by more than rounding runs unfolded.

    Weights that are computed from others at each use, as by
    ``torch.nn.utils.parametrizations``, are computed once, for the copy. Of forward
    hooks the copy keeps torch's own and those that are methods of the network. Others
    are left out, with a warning that names their modules: they would go on to collect
    what the copy computes.

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
        fold: bool = True,
    ) -> None:
        check_module(module)
        names, last_name = exit_names(exits), checked_output_name(output)
        input_shape = None if input_shape is None else checked_shape(input_shape)
        # What is pickled and hashed; what runs may keep notes on itself.
        self._module = frozen_copy(module)
        trace = Trace(share(self._module), [*names, last_name])
        last = trace.node(last_name)
        trace.refuse_dropout(last)
        dtype = trace.input_dtype()
        if is_choice(exits):
            names = chosen(trace, exits, last, input_shape, dtype)
        self._trace = trace
        self._exits = names
        self._output = output
        self._input_shape = input_shape
        if not isinstance(fold, (bool, np.bool_)):
            raise TypeError(f"fold must be True or False, got {fold!r}.")
        self._fold = bool(fold)
        # As the network was given; in another layout another one runs.
        self._given = StagedNetwork(
            trace.root,
            trace.graph,
            stage_ends(trace, names, last, output),
            names=(*names, output or ""),
            dtype=dtype,
            device=self.device,
        )
        self._network = self._given
        self._runner = Runner(self._network, self._fold)
        self._facts = Facts(trace, self._module, self._network.ends, dtype)
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
        return cls(chained(modules), [str(i) for i in range(len(modules) - 1)])

    @property
    def exits(self) -> tuple[str, ...]:
        return self._exits

    @property
    def output(self) -> str | None:
        return self._output

    @property
    def stage_names(self) -> tuple[str, ...]:
        return (*self._exits, self._output or "output")

    @property
    def input_dtype(self) -> torch.dtype:
        """What samples are converted to."""
        return self._network.dtype

    @cached_property
    def device(self) -> torch.device:
        return device_of_weights(self._module)

    @cached_property
    def fingerprint(self) -> str:
        # The graph too: what was built may depend on more than weights and classes.
        module, code = picklable(self._module), self._trace.code()
        content = (type(self), module, self._exits, self._output, code)
        # Other forms of the same network round otherwise.
        folded = ("folded",) if self._runner.folded else ()
        layout = ("channels-last",) if self._is_in_other_layout else ()
        return content_hash((*content, *folded, *layout))

    def layouts(self) -> tuple[TorchExtractor, ...]:
        """Return this extractor in each memory format that may be the quickest.

        Returns
        -------
        tuple of TorchExtractor
            First the object itself. If it has 2-D convolutions, then one that runs in
            the other of the formats as given and channels-last, made once. Its
            outputs differ in rounding. It refuses samples if the network needs the
            format as given (has `view` where `reshape` would do).
        """
        other = self._in_other_layout
        return (self,) if other is None else (self, other)

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
        return self._facts.macs(input_shape)

    def channel_axes(self, input_shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """Return which axis of each stage's output holds the channels.

        Parameters
        ----------
        input_shape : tuple of int
            The shape of one sample.

        Returns
        -------
        tuple of int or None
            For each stage, as convolutions, norms and linear layers tell: 1 in
            (n_samples, channels, height, width), 2 in (n_samples, length, channels).
            None where nothing tells, or where layers contradict each other.
        """
        return self._facts.channel_axes(input_shape)

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
        meter = measure_plausibly(self._trace, shape, self._network.dtype)
        ends = (*self._exits, self._output or "")
        modules = [self._module.get_submodule(name) for name in ends]
        print(
            summarize(
                meter, self._trace.input, self.stage_names, modules, self._network.ends
            )
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
            self._elsewhere[there] = self._moved(there)
        return self._elsewhere[there]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TorchExtractor):
            return NotImplemented
        return self is other or self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return int(self.fingerprint[:15], 16)

    def __reduce__(self) -> tuple[Callable[..., TorchExtractor], tuple[Any, ...]]:
        make = self._like()
        if self._is_in_other_layout:
            make = partial(_other_layout, make)
        return make, (picklable(self._module), self._exits)

    @property
    def findings(self) -> tuple[dict[Any, Any], ...]:
        """What was found out about shapes of samples, to be pickled beside it."""
        folded = self._runner.folded
        of_folded = {} if folded is None else folded.rules
        facts = self._facts
        return self._network.rules, facts.all_macs, facts.all_axes, of_folded

    @findings.setter
    def findings(self, known: tuple[dict[Any, Any], ...]) -> None:
        rules, macs, axes, of_folded = known
        if self._runner.folded is not None:
            self._runner.folded.rules.update(of_folded)
        self._network.rules.update(rules)
        self._facts.all_macs.update(macs)
        self._facts.all_axes.update(axes)

    def __repr__(self) -> str:
        output = f", output={self._output!r}" if self._output else ""
        name = type(self._module).__name__
        fold = "" if self._fold else ", fold=False"
        return f"{type(self).__name__}({name}, exits={list(self._exits)}{output}{fold})"

    @property
    def made_of(self) -> MadeOf:
        """What it can be made of again, but for its `findings`."""
        others = {
            "output": self._output,
            "input_shape": self._input_shape,
            "fold": self._fold,
        }
        return MadeOf(
            self._module, self._trace, self._exits, others, self._is_in_other_layout
        )

    @property
    def _is_in_other_layout(self) -> bool:
        """Whether what runs is not the network as it was given."""
        return self._network is not self._given

    def _like(self) -> Callable[..., TorchExtractor]:
        return partial(type(self), **self.made_of.others)

    def _moved(self, there: torch.device) -> TorchExtractor:
        if self._is_in_other_layout:
            _, given = self.layouts()
            return _other(given.to(there))
        moved = self._like()(frozen_copy(self._module, there), self._exits)
        moved._elsewhere = self._elsewhere
        moved._facts.all_axes = self._facts.all_axes
        return moved

    @cached_property
    def _in_other_layout(self) -> TorchExtractor | None:
        """The network in channels-last format; of that one the network as given."""
        network = in_channels_last(self._given)
        if network is None:
            return None
        other = object.__new__(type(self))
        # All but what runs is the same.
        vars(other).update(vars(self))
        vars(other).pop("fingerprint", None)
        other._network = network
        other._runner = Runner(network, self._fold)
        other._elsewhere = {self.device: other}
        other._in_other_layout = self
        return other


def _other(extractor: TorchExtractor) -> TorchExtractor:
    _, other = extractor.layouts()
    return other


def _other_layout(
    make: Callable[..., TorchExtractor], module: nn.Module, exits: tuple[str, ...]
) -> TorchExtractor:
    """Return what a pickle holds of an extractor in the other layout."""
    return _other(make(module, exits))
