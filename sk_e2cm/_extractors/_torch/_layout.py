"""Which axis of a stage's output holds the channels, told by what torch computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ._cut import Stage, stages_of
from ._freeze import device_of_weights, frozen_copy
from ._state import random_state_kept
from ._trace import Trace

Axis = int | None

# Takes an operation, its arguments, and the tensors that it has returned.
Rule = Callable[[Any, Sequence[Any], dict[str, Any], Sequence[Tensor]], list[Axis]]

# By the names of torch's operations. Channels come last in what these return,
_MAKES_LAST = re.compile(r"embedding|one_hot|conv_tbc|lstm|gru|rnn")

# and are taken to come last, second, or before the axes of a map by these,
_USES_LAST = re.compile(
    r"(?<!bi)(?<!tri)(?<!upsample_)linear|layer_norm|rms_norm|multi_head_attention|encoder_layer"
)
_USES_SECOND = re.compile(r"batch_norm|instance_norm|group_norm")
_USES_MAPS = re.compile(r"conv|pool.*[123]d|pixel_shuffle|pixel_unshuffle")

# and their number may change in these.
_PRODUCT = re.compile(r"mm|bmm|addmm|baddbmm|matmul")
_JOINS = re.compile(r"cat|concat|concatenate")


@random_state_kept()
def find_channel_axes(
    trace: Trace, ends: Sequence[fx.Node], row: Tensor
) -> tuple[Axis, ...]:
    """Return the axis of the channels in the output of each stage.

    Parameters
    ----------
    trace : Trace
        Of the network.

    ends : sequence of fx.Node
        The last operation of every stage.

    row : tensor of shape (1, ...)
        A sample, made up if need be.

    Returns
    -------
    tuple of int or None
        Counted with the samples as the first axis; None where nothing tells.
    """
    # Without computing anything, if possible. A copy runs, since networks may keep what
    # they compute.
    for device in (torch.device("meta"), device_of_weights(trace.module)):
        stages = stages_of(frozen_copy(trace.root, device), trace.graph, ends)
        two, three = (torch.cat([row] * n).to(device) for n in (2, 3))
        try:
            return tuple(_follow(stages, two, three))
        except Exception:
            # Some operations need values, and networks may refuse a sample that is made
            # up. What is wrong with real ones is said where these are run.
            continue
    return (None,) * len(ends)


@torch.inference_mode()
def _follow(stages: Sequence[Stage], two: Tensor, three: Tensor) -> list[Axis]:
    with _Channels() as channels:
        pairs = list(zip(_outputs(stages, two), _outputs(stages, three), strict=True))
    return [_samples_first(channels.axis(a), a.shape, b.shape) for a, b in pairs]


def _outputs(stages: Sequence[Stage], batch: Tensor) -> Iterator[Tensor]:
    values: tuple[Any, ...] = (batch,)
    for stage in stages:
        values = stage(*values)
        yield values[0]


def _samples_first(axis: Axis, two: Sequence[int], three: Sequence[int]) -> Axis:
    """Return the axis once the samples, by which two batches differ, come first."""
    samples = [i for i, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
    if axis is None or len(samples) != 1 or samples[0] == axis:
        return None
    return axis + (axis < samples[0])


class _Channels(TorchDispatchMode):
    """Follows the axis of the channels through all that torch computes while it is on.

    Layers tell where it is, views move it, and most other operations leave it where it
    was. It is unknown where they contradict each other.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._axes: Any = WeakTensorKeyDictionary()

    def axis(self, tensor: Tensor) -> Axis:
        """Return where the channels of a tensor are, None if that is unknown."""
        axis: Axis = self._axes.get(tensor)
        return axis

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        rule = self._rule(func)
        if rule is None:
            with self:  # of its parts, if it is put together from others
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if rule is None and func.namespace in ("aten", "quantized"):
            rule = self._kept
        if rule is not None and (found := list(_tensors(result))):
            axes = rule(func, args, kwargs, found)
            self._axes.update(zip(found, axes, strict=True))
        return result

    def _rule(self, func: Any) -> Rule | None:
        """Return what tells the axis in the results of an operation by its name."""
        name = _name(func)
        if _MAKES_LAST.search(name):
            return _last
        if _PRODUCT.fullmatch(name):
            return self._of_product
        if _JOINS.fullmatch(name):
            return self._joined
        if _USES_LAST.search(name) or _USES_SECOND.search(name):
            return self._of_layer
        if _USES_MAPS.search(name):
            return self._of_layer
        return self._moved if _is_view(func) else None

    def _of_layer(
        self, func: Any, args: Any, kwargs: Any, found: Sequence[Tensor]
    ) -> list[Axis]:
        name = _name(func)
        x, known, told = args[0], self.axis(args[0]), _told(name, args)
        axis = told if known is None else known
        # Of one map without channels, such as TextCNN's embeddings, a convolution makes
        # some; of an axis that had another meaning it makes nobody knows what.
        if "conv" in name and axis != told:
            axis = told if x.shape[told] == 1 else None
        return [axis, *[None] * (len(found) - 1)]

    def _of_product(
        self, func: Any, args: Any, kwargs: Any, found: Sequence[Tensor]
    ) -> list[Axis]:
        *_, a, b = _tensors(args)
        if a.dim() < 2 or b.dim() < 2:
            return [None]
        # Over the last axis of `a` and the last but one of `b` products are summed up.
        axes = {
            axis + found[0].dim() - x.dim()
            for x, summed in ((a, a.dim() - 1), (b, b.dim() - 2))
            if (axis := self.axis(x)) is not None and axis != summed
        }
        if not axes and b.dim() == 2 and self.axis(b) is None:  # weights
            axes = {found[0].dim() - 1}
        return [_agreed(axes)]

    def _joined(
        self, func: Any, args: Any, kwargs: Any, found: Sequence[Tensor]
    ) -> list[Axis]:
        return [_agreed({self.axis(x) for x in _tensors(args)} - {None})]

    def _moved(
        self, func: Any, args: Any, kwargs: Any, found: Sequence[Tensor]
    ) -> list[Axis]:
        """Return where a view has the axis, by its stride.

        In a tensor that repeats the same entry along all other axes.
        """
        x, *others = args
        axis = self.axis(x)
        if axis is None:
            return [None] * len(found)
        strides = [int(i == axis) for i in range(x.dim())]
        alone = torch.empty_strided(x.shape, strides, device=x.device)
        # A copy has the strides of its own, and its axes where they were.
        return [
            axis if moved is None and view.shape == x.shape else moved
            for view in _tensors(func(alone, *others, **kwargs))
            for moved in [_only_axis(view)]
        ]

    def _kept(
        self, func: Any, args: Any, kwargs: Any, found: Sequence[Tensor]
    ) -> list[Axis]:
        """Return the axis of as many channels as before."""
        given = [
            (x, axis) for x in _tensors(args) if (axis := self.axis(x)) is not None
        ]
        return [
            _agreed(
                {
                    axis + more
                    for x, axis in given
                    # Axes are aligned at the end.
                    if (more := y.dim() - x.dim()) >= 0
                    and y.shape[axis + more] == x.shape[axis]
                }
            )
            for y in found
        ]


def _last(func: Any, args: Any, kwargs: Any, found: Sequence[Tensor]) -> list[Axis]:
    return [tensor.dim() - 1 for tensor in found]


def _agreed(axes: set[Any]) -> Axis:
    return axes.pop() if len(axes) == 1 else None


def _told(name: str, args: Sequence[Any]) -> Axis:
    """Return where a layer takes the channels of its input to be."""
    x = args[0]
    if _USES_SECOND.search(name):
        return 1
    if _USES_LAST.search(name):
        # Norms of whole maps tell nothing.
        is_of_map = name.endswith(("layer_norm", "rms_norm")) and len(args[1]) > 1
        return None if is_of_map else x.dim() - 1
    digit = re.search(r"([123])d", name)
    if digit is None:
        n_axes = args[1].dim() - 2 if "conv" in name else 2
    else:
        n_axes = int(digit[1])
    return int(x.dim() - 1 - n_axes)


def _name(func: Any) -> str:
    name: str = func._schema.name.split("::")[1]
    return name


def _is_view(func: Any) -> bool:
    """Tell operations that may return the memory that they are given."""
    alias = [value.alias_info for value in func._schema.returns[:1]]
    is_read = any(info is not None and not info.is_write for info in alias)
    return is_read or _name(func) == "_unsafe_view"


def _only_axis(view: Tensor) -> Axis:
    """Return the only axis along which a step leads to another entry."""
    sizes = zip(view.shape, view.stride(), strict=True)
    axes = {i for i, (size, stride) in enumerate(sizes) if size > 1 and stride}
    return _agreed(axes)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
