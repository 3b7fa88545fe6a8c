"""From a module to one graph of operations, and from names to places in it."""

from __future__ import annotations

import difflib
import inspect
import operator
import threading
import traceback
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ._freeze import WRAP, restore, share
from ._state import random_state_kept

# Held while torch.fx replaces nn.Module.__call__ for every thread, and while the
# flop counter has hooks on every module.
TORCH_PATCHED = threading.RLock()

_MACHINERY = (
    str(Path(fx.__file__).parent),
    nn.Module.__call__.__code__.co_filename,
    __file__,
)

_DROPOUTS = (
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
)


# A network that converts a part of its input by itself takes the rest as numbers.
_CASTS = ("long", "int", "to", "type", "type_as")


class Trace:
    """A module as a graph, with the value that each of its modules returned.

    Parameters
    ----------
    module : nn.Module
        Frozen; the graph refers to its weights.

    exits : sequence of str
        Names of modules whose surroundings are always traced into.

    Attributes
    ----------
    root : nn.Module
        Holds `module` and the constants met in tracing; the graph's names start
        here.

    graph : fx.Graph
        One placeholder, the operations in the order of execution, one output.
    """

    def __init__(self, module: nn.Module, exits: Collection[str] = ()) -> None:
        self.module = module
        self.root = _OneInput(module)
        # Tracing leaves its own objects where a network keeps what it has computed.
        untouched = share(module)
        self._parts = list(zip(untouched.modules(), module.modules(), strict=True))
        self._opaque: dict[nn.Module, str] = {}
        opened = {m for name in exits for m in self._around(name)}
        with TORCH_PATCHED:
            while not self._trace_once(opened):
                pass
        self._refuse_other_than_tensor()

    def _trace_once(self, opened: Collection[nn.Module]) -> bool:
        """Trace once; what stops it becomes a leaf for the next attempt."""
        tracer = _Tracer(set(self.module.modules()), self._opaque, opened)
        try:
            with random_state_kept():
                self.graph = tracer.trace(self.root)
        except Exception as error:
            stopped = self.module if tracer.stopped is None else tracer.stopped
            where = _user_line(error)
            if stopped in opened or stopped is self.module:
                is_whole = stopped is self.module
                outside = "" if is_whole else ", or choose exits outside of it"
                raise ValueError(
                    f"{self._describe(stopped)} cannot be cut into stages: torch.fx "
                    f"stopped at {where}. Split the network by hand with "
                    f"TorchExtractor.from_modules{outside}."
                ) from error
            # What stops one module of a class stops its sisters too: one attempt
            # for all of them.
            for sister in self.module.modules():
                if type(sister) is type(stopped) and sister not in opened:
                    self._opaque[sister] = where
            return False
        finally:
            restore(self._parts)
        self.input = next(node for node in self.graph.nodes if node.op == "placeholder")
        self.returned = tracer.returned
        return True

    def _refuse_other_than_tensor(self) -> None:
        """Raise an error if the input is taken for a dict, a tuple or an object."""
        read = {_read(user, self.input) for user in self.input.users}
        key = next((key for key in read if isinstance(key, str)), None)
        # Of one row alone the shape may be meant.
        found = 0 if key is None and {0, 1} <= read else key
        if found is not None:
            raise ValueError(
                f"{type(self.module).__name__} reads {found!r} of its input as of a "
                f"dict or a tuple, but gets one tensor with a row per sample. {WRAP}"
            )

    def refuse_dropout(self, last: fx.Node) -> None:
        """Raise an error if dropout is on, eval mode or not, before the end `last`."""
        nodes = list(self.graph.nodes)
        on = [_place(n) for n in nodes[: nodes.index(last) + 1] if self._drops(n)]
        if on:
            raise ValueError(
                f"Dropout is on in {', '.join(on[:5])}, although the network is in "
                "eval mode: its outputs are random. A function such as "
                "torch.nn.functional.dropout needs training=self.training."
            )

    def _drops(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            leaf = self.root.get_submodule(str(node.target))
            if isinstance(leaf, nn.modules.dropout._DropoutNd):
                return leaf.training and leaf.p > 0
        if node.target not in _DROPOUTS:
            return False
        call = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        call.apply_defaults()
        return bool(call.arguments["training"] and call.arguments["p"])

    def node(self, name: str) -> fx.Node:
        """Return the graph's node for what the module called `name` returns."""
        module = self._named(name)
        values = self.returned.get(module, [])
        what = repr(name) if name else "the network"
        if not values:
            raise ValueError(f"{what} is not available: {self._why_unseen(module)}.")
        if len(values) > 1:
            raise ValueError(
                f"{what} is ambiguous: the module is used {len(values)} times in one "
                "forward pass. Name the module around the use that you mean."
            )
        if not isinstance(values[0], fx.Proxy):
            raise ValueError(
                f"{what} returns a {type(values[0]).__name__} and not one tensor. "
                "Name a module that returns the tensor you need"
                + (", with output=" if not name else "")
                + "."
            )
        return values[0].node

    def untraced(self) -> str:
        """Say which module is kept in one piece, and why, if there is one.

        Of several the one with the most places inside.
        """
        # What lies inside of another one has not returned.
        kept = [module for module in self.returned if module in self._opaque]
        if not kept:
            return ""
        largest = max(kept, key=lambda module: len(list(module.modules())))
        where = self._opaque[largest]
        return f" {self._describe(largest)} cannot be traced, stopped at {where}."

    def code(self) -> Any:
        """Return what the network does with its weights, as far as tracing saw it."""
        constants = {k: v for k, v in vars(self.root).items() if isinstance(v, Tensor)}
        targets = [node.target for node in self.graph.nodes]
        functions = [each for each in targets if isinstance(each, FunctionType)]
        return str(self.graph), constants, functions

    def input_dtype(self) -> torch.dtype:
        """Return int64 where the input serves to look something up.

        Otherwise the type of the weights.
        """
        todo = list(self.input.users)
        for user in todo:
            if user.target in (F.embedding, F.one_hot) or _indexes(user, self.input):
                return torch.int64
            if user.op == "call_module":
                modules = self.root.get_submodule(str(user.target)).modules()
                first = next((m for m in modules if m._parameters), None)
                if isinstance(first, (nn.Embedding, nn.EmbeddingBag)):
                    return torch.int64
            elif user.target not in _CASTS or list(self.input.users) == [user]:
                # A view, a slice, or a cast of all of it: the lookup may follow.
                todo.extend(u for u in user.users if u not in todo)
        floats = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return next(floats, torch.float32)

    def _named(self, name: str) -> nn.Module:
        try:
            return self.module.get_submodule(name)
        except AttributeError:
            names = [n for n, _ in self.module.named_modules() if n]
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(
                f"{type(self.module).__name__} has no module named {name!r}; "
                + (hint or f"it has {', '.join(map(repr, names[:20]))}.")
            ) from None

    def _around(self, name: str) -> list[nn.Module]:
        """Return the modules that have to be opened to reach the one named."""
        self._named(name)
        parts = name.split(".")[:-1]
        return [
            self.module.get_submodule(".".join(parts[:i]))
            for i in range(len(parts) + 1)
        ]

    def _why_unseen(self, module: nn.Module) -> str:
        for leaf in self.returned:
            if leaf is not module and any(m is module for m in leaf.modules()):
                if leaf in self._opaque:
                    return (
                        f"it lies inside {self._describe(leaf)}, which torch.fx cannot "
                        f"trace, stopped at {self._opaque[leaf]}"
                    )
                if not any(child in self.returned for child in leaf.children()):
                    return (
                        f"it lies inside {self._describe(leaf)}, which is computed "
                        "in one piece"
                    )
        return "the forward pass never calls it, or only reads its weights"

    def _describe(self, module: nn.Module) -> str:
        name = next(n for n, m in self.module.named_modules() if m is module)
        return f"{name!r} ({type(module).__name__})" if name else type(module).__name__


class _OneInput(nn.Module):
    """Calls the network with its first input; the others take their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, X: Tensor) -> Any:
        return self.network(X)


class _Tracer(fx.Tracer):
    """Notes what every module returns, and in which module tracing stopped."""

    def __init__(
        self,
        registered: Collection[nn.Module],
        opaque: Collection[nn.Module],
        opened: Collection[nn.Module],
    ) -> None:
        super().__init__()
        self.opaque = opaque
        self.opened = opened
        self.returned: dict[nn.Module, list[Any]] = {}
        self.stopped: nn.Module | None = None
        self.registered = registered

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m in self.opened or (_is_encoder(m) and m not in self.opaque):
            return False
        return m in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: fx.Proxy) -> bool:
        # An assertion holds, or the uncut network fails on the first few rows.
        user = _users_frames(traceback.extract_stack())[-1]
        if (user.line or "").startswith("assert"):
            return True
        return super().to_bool(obj)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if _is_encoder(m):
            forward = partial(_encode, m)
        if m not in self.registered and not m.state_dict():
            return forward(*args, **kwargs)  # made on the way, such as nn.ReLU()(x)
        try:
            value = super().call_module(m, forward, args, kwargs)
        except Exception:
            # The innermost is met first. A module that nobody registered cannot be
            # named, nor told apart from its copy in the next attempt.
            if self.stopped is None and m in self.registered:
                self.stopped = m
            raise
        self.returned.setdefault(m, []).append(value)
        return value


def _read(user: fx.Node, value: fx.Node) -> Any:
    """Return the index, or the name, by which `user` reads what no tensor has."""
    if user.target is operator.getitem and user.args[0] is value:
        key = user.args[1]
        return key if isinstance(key, (str, int)) else None
    name = user.args[1] if user.target is getattr else user.target
    is_member = user.target is getattr or user.op == "call_method"
    return name if is_member and not hasattr(Tensor, str(name)) else None


def _indexes(user: fx.Node, value: fx.Node) -> bool:
    """Tell whether `user` is ``something[value]``."""
    if user.target not in (operator.getitem, "__getitem__"):
        return False
    index = user.args[1]
    return index is value or (isinstance(index, tuple) and value in index)


def _place(node: fx.Node) -> str:
    """Name the module in whose forward a node was met."""
    *_, name = node.meta["nn_module_stack"]
    name = name.removeprefix("network").removeprefix(".")
    return repr(name) if name else "the network"


def _is_encoder(module: nn.Module) -> bool:
    is_encoder = isinstance(module, nn.TransformerEncoder)
    return is_encoder and type(module).forward is nn.TransformerEncoder.forward


def _encode(
    encoder: Any,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Any:
    """Compute what ``nn.TransformerEncoder.forward`` does, without its branches.

    These choose between faster ways to the same result, but for the padding: where
    torch packs the tokens, because all padding is at the end, it returns zeros there.
    """
    for layer in encoder.layers:
        src = layer(
            src,
            src_mask=mask,
            src_key_padding_mask=src_key_padding_mask,
            is_causal=bool(is_causal),
        )
    packs = encoder.use_nested_tensor and mask is None
    if packs and src_key_padding_mask is not None:
        padding = src_key_padding_mask.bool()
        at_end = (padding[:, 1:] >= padding[:, :-1]).all(1, keepdim=True)
        src = src.masked_fill((padding & at_end).unsqueeze(-1), 0.0)
    return src if encoder.norm is None else encoder.norm(src)


def _user_line(error: Exception) -> str:
    """Say where, in code that is neither torch.fx nor ours, an error arose."""
    users = _users_frames(traceback.extract_tb(error.__traceback__))
    if not users:
        return f"an error: {error}"
    frame = users[-1]
    place = f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line!r}"
    return f"{place} ({error})"


def _users_frames(
    frames: Iterable[traceback.FrameSummary],
) -> list[traceback.FrameSummary]:
    return [f for f in frames if not f.filename.startswith(_MACHINERY)]
