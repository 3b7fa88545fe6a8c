"""What a network is, apart from its weights, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from .._extractors._torch import Trace
from .._utils._code import is_installed
from ._describe import Describer
from ._tensors import named_tensors

# What every module has: hooks, weights and modules of its own.
_OF_ANY_MODULE = set(vars(nn.Module()))

# Between the names of a class and of the library that it comes from.
_OF = " of "

# The most differences that a message names.
_MOST_NAMED = 5


def architecture(network: nn.Module) -> dict[str, Any]:
    """Return what a network is before it is run: modules, attributes, code, weights.

    Texts and numbers, the same in every process. Of weights only names, shapes and
    which are tied.
    """
    tensors = named_tensors(network)
    modules = dict(network.named_modules(remove_duplicate=False))
    describer = Describer([*tensors.values(), *modules.values()])
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    attributes = {
        name: _attributes(module, describer) for name, module in modules.items()
    }
    for module in modules.values():
        describer.note(type(module))
    return {
        "modules": {name: _kind(module) for name, module in modules.items()},
        "attributes": {name: own for name, own in attributes.items() if own},
        "shapes": {name: str(tuple(each.shape)) for name, each in tensors.items()},
        "tied": {
            name: first[id(tensor)]
            for name, tensor in tensors.items()
            if first[id(tensor)] != name
        },
        "code": describer.code,
    }


def operations(trace: Trace) -> dict[str, Any]:
    """Return what a network computes, operation by operation, and with which code."""
    describer = Describer()
    places: dict[fx.Node, int] = {}
    found = []
    for node in trace.graph.nodes:
        places[node] = len(places)
        args = _argument((node.args, node.kwargs), places, describer)
        target = node.target
        name = getattr(target, "__name__", None) or str(target)
        if isinstance(target, FunctionType):
            describer.note(target)
        constant = vars(trace.root).get(str(target))
        if node.op == "get_attr" and isinstance(constant, Tensor):
            # Numbers follow from the code, but for rounding.
            name += f" {constant.dtype} {tuple(constant.shape)}"
        found.append(f"{node.op} {name} {args}")
    return {"operations": found, "code": describer.code}


def differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the architecture of a network differs from that of the saved one."""
    yield from _by_name(
        saved["modules"], given["modules"], "the module {!r}", "is a {}"
    )
    yield from _by_name(
        saved["shapes"], given["shapes"], "the tensor {!r}", "has the shape {}"
    )
    yield from _by_name(saved["tied"], given["tied"], "{!r}", "is tied to {!r}")
    for name, kind in saved["modules"].items():
        if name in given["modules"]:
            own, others = (each["attributes"].get(name, {}) for each in (saved, given))
            if _OF in kind:  # other versions have more or fewer
                own = {each: text for each, text in own.items() if each in others}
                others = {each: others[each] for each in own}
            of = f" of {name!r} ({kind})" if name else f" of the network ({kind})"
            yield from _by_name(own, others, "the attribute {!r}" + of, "is {}")
    yield from _other_code(saved["code"], given["code"])


def other_operations(
    saved: Mapping[str, Any], given: Mapping[str, Any]
) -> Iterator[str]:
    """Yield how what a network computes differs from what the saved one did."""
    own, others = saved["operations"], given["operations"]
    for place, (before, after) in enumerate(zip(own, others, strict=False)):
        if before != after:
            yield f"operation {place} is {before!r} in the file and {after!r} now"
            break
    else:
        if len(own) != len(others):
            yield f"it has {len(others)} operations, and {len(own)} in the file"
    yield from _other_code(saved["code"], given["code"])


def check_same(found: Sequence[str]) -> None:
    """Refuse a network that differs from the saved one.

    Raises
    ------
    ValueError
        With the first differences.
    """
    if not found:
        return
    more = len(found) - _MOST_NAMED
    others = f"; and {more} more" if more > 0 else ""
    raise ValueError(
        "network is not the one that was saved: "
        f"{'; '.join(found[:_MOST_NAMED])}{others}. Give it the class, the "
        "parameters and the code of the saved one; its weights do not matter."
    )


def _kind(module: nn.Module) -> str:
    """Return the name of a module's class and, if it is installed, of its library."""
    kind = type(module)
    library = kind.__module__.partition(".")[0]
    return kind.__name__ + (_OF + library if is_installed(kind.__module__) else "")


def _attributes(module: nn.Module, describer: Describer) -> dict[str, str]:
    """Return the plain attributes of a module that are no weights."""
    of_library = is_installed(type(module).__module__)
    return {
        name: describer.text(value)
        for name, value in vars(module).items()
        if name not in _OF_ANY_MODULE
        and not isinstance(value, Tensor)
        # These follow from the others, and come and go with the version.
        and not (of_library and name.startswith("_"))
    }


def _argument(value: Any, places: Mapping[fx.Node, int], describer: Describer) -> str:
    if isinstance(value, fx.Node):
        return f"%{places[value]}"
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
        return f"slice{_argument(value, places, describer)}"
    if isinstance(value, Mapping):
        pairs = [f"{k}={_argument(v, places, describer)}" for k, v in value.items()]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_argument(v, places, describer) for v in value)})"
    if isinstance(value, (torch.memory_format, torch.layout)):
        return str(value)
    return describer.text(value)


def _by_name(
    saved: Mapping[str, str], given: Mapping[str, str], what: str, is_: str
) -> Iterator[str]:
    for name in [*saved, *(name for name in given if name not in saved)]:
        before, after = saved.get(name), given.get(name)
        if before == after:
            continue
        thing = what.format(name)
        if after is None:
            yield f"{thing} {is_.format(before)} in the file, and is missing now"
        elif before is None:
            yield f"{thing} {is_.format(after)} now, and is not in the file"
        else:
            yield f"{thing} {is_.format(before)} in the file, and {after} now"


def _other_code(saved: Mapping[str, str], given: Mapping[str, str]) -> Iterator[str]:
    for name in [*saved, *(name for name in given if name not in saved)]:
        before, after = saved.get(name), given.get(name)
        if before is None or after is None:
            where = "the file" if after is None else "the network given"
            yield f"{name} is part of the code of {where} only"
        elif before.partition(":")[0] != after.partition(":")[0]:
            yield (
                f"the code of {name} cannot be compared: it is known by its "
                f"{before.partition(':')[0]} in the file, and by its "
                f"{after.partition(':')[0]} now (put it into a module)"
            )
        elif before != after:
            yield f"the code of {name} differs"
