"""Where samples may leave: places named, or spread evenly by cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn

from ..._utils._validation import is_whole
from ._macs import Meter, measure
from ._rows import Liveness
from ._trace import Trace

# Sides of square images, tried in this order when no shape is given: ImageNet's, the
# small data sets', then others.
_SIDES = (224, 32, 28, 64, 96, 128, 8, 16, 256, 299, 384, 512)

# In shares of a step: as near to where it should be each exit must lie for outer
# modules to be preferred to inner ones, and for places between blocks to be preferred
# to those within.
_EVEN = 0.35
_UNEVEN = 0.6


def exit_names(exits: Any) -> tuple[str, ...]:
    """Return the names given; none if `exits` is their number, or "all"."""
    if is_choice(exits):
        return ()
    if isinstance(exits, str):
        return (exits,)
    # Sets and the like have no order; a tensor without axes cannot be taken apart.
    others = (Set, Mapping, Tensor)
    in_order = isinstance(exits, Iterable) and not isinstance(exits, others)
    names = list(exits) if in_order else [exits]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            'exits must be names of modules, in order, a whole number, or "all", got '
            f"{exits!r}."
        )
    return tuple(map(str, names))


def is_choice(exits: Any) -> bool:
    """Tell whether the names are to be chosen: their number is given, or "all"."""
    return is_whole(exits) or (isinstance(exits, str) and exits == "all")


def checked_output_name(output: Any) -> str:
    """Return the name of the last module run; "" is the whole network."""
    if output is not None and not isinstance(output, str):
        raise TypeError(f"output must be the name of a module, got {output!r}.")
    return output or ""


def checked_shape(input_shape: Any) -> tuple[int, ...]:
    """Return the shape of one sample as a tuple of whole numbers.

    Raises
    ------
    TypeError
        If it is none.
    """
    try:
        # Of text and sets NumPy makes no whole numbers.
        sides = np.asarray(input_shape)
    except (ValueError, TypeError, RuntimeError):  # lists of unequal lists, tensors
        sides = np.empty((0, 0))
    if not sides.size:
        sides = sides.astype(int)
    if sides.ndim != 1 or sides.dtype.kind not in "iu" or (sides < 0).any():
        raise TypeError(
            "input_shape must be a tuple of whole numbers such as (3, 224, 224), got "
            f"{input_shape!r}."
        )
    return tuple(sides.tolist())


def stage_ends(
    trace: Trace, names: Sequence[str], last: fx.Node, output: str | None
) -> list[fx.Node]:
    """Return the last operation of every stage; refuse names that give no stages."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"exits names {', '.join(map(repr, twice))} more than once.")
    order = {node: i for i, node in enumerate(trace.graph.nodes)}
    ends = [*(trace.node(name) for name in names), last]
    labels = [*map(repr, names), repr(output) if output else "the network's output"]
    for i, (before, after) in enumerate(pairwise(ends)):
        if before is after:
            raise ValueError(
                f"exit {labels[i]} and {labels[i + 1]} are the same value: no "
                "computation lies between them. Leave one out."
            )
        if order[before] > order[after]:
            raise ValueError(
                f"exit {labels[i]} is computed after {labels[i + 1]}. Name the exits "
                "in the order of execution, and before output."
            )
    return ends


def chosen(
    trace: Trace,
    exits: Any,
    last: fx.Node,
    input_shape: tuple[int, ...] | None,
    dtype: torch.dtype,
) -> tuple[str, ...]:
    """Return the names of `exits` modules before `last`, or of "all".

    Raises
    ------
    ValueError
        If there are too few, or if no shape is found at which to count.
    """
    if exits != "all" and int(exits) < 1:
        raise ValueError(f"exits={exits}: at least one exit is needed.")
    meter = measure_plausibly(trace, input_shape, dtype)
    if exits == "all":
        return _all_places(trace, meter, last)
    return _evenly_spaced(trace, meter, int(exits), last)


def _all_places(trace: Trace, meter: Meter, last: fx.Node) -> tuple[str, ...]:
    """Return the names of the places at which the cost differs, in order."""
    names = tuple(_by_cost(_places_within(trace, meter, last), meter).values())
    if not names:
        raise ValueError(
            f'exits="all", but the network has no places to leave.{trace.untraced()}'
        )
    return names


def _evenly_spaced(
    trace: Trace, meter: Meter, n_exits: int, last: fx.Node
) -> tuple[str, ...]:
    """Return the names of `n_exits` modules that split the cost up to `last` evenly."""
    within = _places_within(trace, meter, last)
    by_cost = _by_cost(within, meter)
    if n_exits > len(by_cost):
        raise ValueError(
            f"exits={n_exits}, but the network has only {len(by_cost)} places to "
            f"leave: {', '.join(by_cost.values()) or 'none'}.{trace.untraced()}"
        )
    macs = meter.macs
    targets = macs[last] * np.arange(1, n_exits + 1) / (n_exits + 1)
    # One tensor alive is a place between blocks; within a block a skip is alive too.
    live = Liveness(trace.graph, last)
    between = {
        node: name
        for node, name in within.items()
        if sum(value in meter.shapes for value in live.after(node)) == 1
    }
    # The shorter a name, the further out the module.
    depths = sorted({name.count(".") for name in between.values()})
    outermost = (
        {node: name for node, name in between.items() if name.count(".") <= depth}
        for depth in depths
    )
    for candidates, tolerance in (
        *((outer, _EVEN) for outer in outermost),
        (between, _UNEVEN),
    ):
        names, error = _nearest(candidates, meter, targets)
        if names and error <= tolerance * targets[0]:
            return names
    return _nearest(within, meter, targets)[0]


def _places_within(trace: Trace, meter: Meter, last: fx.Node) -> dict[fx.Node, str]:
    """Return the places after some of the cost and before all of it, in order."""
    of_input = _descendants(trace.input)
    return {
        node: name
        for node, name in places(trace).items()
        # One sample has an axis of length 1 for its row, unless rows are mixed there.
        if 1 in meter.shapes.get(node, ())
        and node in of_input
        and 0 < meter.macs[node] < meter.macs[last]
    }


def _by_cost(candidates: dict[fx.Node, str], meter: Meter) -> dict[float, str]:
    """Return the name of a place at each cost, in order.

    Of places at the same cost the last: it has seen most.
    """
    return {meter.macs[node]: name for node, name in candidates.items()}


def _nearest(
    candidates: dict[fx.Node, str],
    meter: Meter,
    targets: NDArray[np.float64],
) -> tuple[tuple[str, ...], float]:
    """Choose a place for each target cost; return their names and the largest error.

    No names if the places are too few.
    """
    by_cost = _by_cost(candidates, meter)
    costs = np.array(sorted(by_cost))
    if len(costs) < len(targets):
        return (), np.inf
    _, chosen = linear_sum_assignment((targets[:, None] - costs) ** 2)
    chosen.sort()
    error = float(abs(costs[chosen] - targets).max())
    return tuple(by_cost[cost] for cost in costs[chosen]), error


def places(trace: Trace) -> dict[fx.Node, str]:
    """Return the values that a module returns, in order, with the module's name.

    Of several modules that return the same value the outermost gives the name.
    """
    names = {module: name for name, module in trace.module.named_modules() if name}
    at: dict[fx.Node, str] = {}
    for module, values in trace.returned.items():
        if module in names and len(values) == 1 and isinstance(values[0], fx.Proxy):
            node = values[0].node
            at[node] = min(at.get(node, names[module]), names[module], key=len)
    return {node: at[node] for node in trace.graph.nodes if node in at}


def _descendants(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    todo = [node]
    while todo:
        users = [user for user in todo.pop().users if user not in found]
        found.update(users)
        todo.extend(users)
    return found


def measure_plausibly(
    trace: Trace, input_shape: tuple[int, ...] | None, dtype: torch.dtype
) -> Meter:
    """Measure at `input_shape`, or at the first plausible shape that the network takes.

    Where the exits come to lie depends little on the size of the images.
    """
    if input_shape is not None:
        return measure(trace, [checked_shape(input_shape)], dtype)
    try:
        return measure(trace, _plausible_shapes(trace.module), dtype)
    except ValueError:
        raise ValueError(
            "The shape of one sample is needed to count the cost: pass input_shape=, "
            "for instance input_shape=(3, 224, 224) or, for token ids, (128,)."
        ) from None


def _plausible_shapes(network: nn.Module) -> Iterator[tuple[int, ...]]:
    for first in map(vars, network.modules()):
        if "in_features" in first:
            yield (first["in_features"],)
        elif "in_channels" in first:
            n_axes = len(first["kernel_size"])
            yield from ((first["in_channels"], *[side] * n_axes) for side in _SIDES)
        elif "num_embeddings" in first:
            yield from ((side,) for side in _SIDES)
        else:
            continue
        return
