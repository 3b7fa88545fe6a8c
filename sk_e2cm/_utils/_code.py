"""Where classes and functions come from, and what their code refers to."""

from __future__ import annotations

import dis
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any

_OWN_PACKAGE = __name__.partition(".")[0]

_LIBRARIES = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]

# Where it was written, what it is documented and annotated with, and what Python and
# torch find out about a class as it is used.
_INCIDENTAL = {
    "__abstractmethods__",
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__slotnames__",
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
}

# What stands for the names in __slots__, which are counted as such.
_MADE_BY_PYTHON = (GetSetDescriptorType, MemberDescriptorType)


def installed_name(obj: Any) -> tuple[str, str, str] | None:
    """Return module, name and version of a class or function of an installed package.

    None for those of users, and for those that cannot be imported by their name, such
    as what a decorator of an installed package returns.
    """
    module: str = getattr(obj, "__module__", None) or ""
    if not is_installed(module):
        return None
    found: Any = sys.modules.get(module)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not obj:
        return None
    package = sys.modules.get(module.partition(".")[0])
    return module, obj.__qualname__, str(getattr(package, "__version__", ""))


def is_installed(module: str) -> bool:
    """Tell whether a module, by its name, is this package's, installed or compiled."""
    if module in ("", "__main__", "__mp_main__"):
        return False
    package = module.partition(".")[0]
    if package == _OWN_PACKAGE:
        return True
    return any(_is_installed(_spec(name)) for name in {module, package})


def _spec(name: str) -> ModuleSpec | None:
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    # Of a module within a package Python would import the package to find out.
    return None if "." in name else importlib.util.find_spec(name)


def _is_installed(spec: ModuleSpec | None) -> bool:
    if spec is None or spec.origin is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    if spec.origin.endswith(tuple(EXTENSION_SUFFIXES)):
        return True
    path = Path(spec.origin)
    in_packages = {"site-packages", "dist-packages"}.intersection(path.parts)
    return bool(in_packages) or any(map(path.is_relative_to, _LIBRARIES))


def class_content(cls: type) -> tuple[Any, ...]:
    """Return what a class is made of."""
    own = {
        name: value
        for name, value in sorted(vars(cls).items())
        if name not in _INCIDENTAL and not isinstance(value, _MADE_BY_PYTHON)
    }
    return type(cls), cls.__bases__, own


def function_content(function: FunctionType) -> tuple[Any, ...]:
    """Return what a function computes with: code, defaults, closure and globals."""
    return (
        _code_content(function.__code__),
        function.__defaults__,
        function.__kwdefaults__,
        _referred(function),
    )


def _code_content(code: CodeType) -> tuple[Any, ...]:
    """Return what a code object does, but not where it was written."""
    constants = [
        _code_content(value) if isinstance(value, CodeType) else value
        for value in code.co_consts
    ]
    return (
        code.co_code,
        code.co_exceptiontable,
        code.co_flags,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars),
        constants,
    )


def _referred(function: FunctionType) -> dict[str, Any]:
    """Return the values that a function's code takes from outside, by their names.

    Of modules that are not installed, the members that the code names: all names but
    those of local variables are looked for in them.
    """
    found: dict[str, Any] = {}
    for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True
    ):
        with suppress(ValueError):  # a cell that nothing was put into
            found[name] = cell.cell_contents
    scope = function.__globals__
    if not is_installed(scope.get("__name__", "")):
        for code in _codes(function.__code__):
            for instruction in dis.get_instructions(code):
                if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL"):
                    name = instruction.argval
                    if name in scope:
                        found[name] = scope[name]
            found |= _imported(code, scope)
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    for name in sorted(found):
        if isinstance(found[name], ModuleType):
            found |= _members(name, found[name], names, set())
    return {name: found[name] for name in sorted(found)}


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object, and those of the functions within it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)


def _imported(code: CodeType, scope: dict[str, Any]) -> dict[str, Any]:
    """Return the modules that code imports when it runs, if they are users'."""
    found: dict[str, Any] = {}
    instructions = [
        each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"
    ]
    for at, instruction in enumerate(instructions):
        if instruction.opname != "IMPORT_NAME":
            continue
        level, wanted = (each.argval for each in instructions[at - 2 : at])
        name = "." * level + instruction.argval
        with suppress(ImportError):
            full = importlib.util.resolve_name(name, scope.get("__package__"))
            found[name] = _module_or_source(full)
            for member in wanted or ():  # may be modules, too
                found[f"{name}.{member}"] = _module_or_source(f"{full}.{member}")
    return {name: module for name, module in found.items() if module is not None}


def _module_or_source(name: str) -> Any:
    """Return a user's module; its source if it was not imported, which would run it."""
    if is_installed(name):
        return None
    if name in sys.modules:
        return sys.modules[name]
    package, *inside = name.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    files = [Path(spec.origin)] if spec.origin and not inside else []
    for folder in spec.submodule_search_locations or [] if inside else []:
        files.append(Path(folder, *inside).with_suffix(".py"))
        files.append(Path(folder, *inside, "__init__.py"))
    return next((file.read_bytes() for file in files if file.is_file()), None)


def _members(
    path: str, module: ModuleType, names: set[str], seen: set[str]
) -> dict[str, Any]:
    """Return what a module that is not installed has under these names."""
    found: dict[str, Any] = {}
    if module.__name__ in seen or is_installed(module.__name__):
        return found
    for name in sorted(names & set(vars(module))):
        member = vars(module)[name]
        found[f"{path}.{name}"] = member
        if isinstance(member, ModuleType):
            inside = seen | {module.__name__}
            found |= _members(f"{path}.{name}", member, names, inside)
    return found
