"""Public names and signatures change only with a line in ``public_api.txt``.

``python -m tests.test_public_api`` writes the file anew; it is part of the change.
"""

import importlib
import inspect
from pathlib import Path

FILE = Path(__file__).parent / "data" / "public_api.txt"
MODULES = [
    "sk_e2cm",
    "sk_e2cm.inspection",
    "sk_e2cm.metrics",
    "sk_e2cm.onnx_exits",
    "sk_e2cm.report",
    "sk_e2cm.testing",
]


def described() -> list[str]:
    """Return a line for each public class, function and method."""
    lines = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in names_of(module):
            found = getattr(module, name)
            if inspect.ismodule(found):
                lines.append(f"{module_name}.{name}")
                continue
            lines.append(f"{module_name}.{name}{parameters(found)}")
            if inspect.isclass(found):
                lines += [f"{module_name}.{name}.{method}" for method in methods(found)]
    return lines


def names_of(module) -> list[str]:
    """Return what a module says is public, or else all names that it defines."""
    defined = [
        name
        for name, value in sorted(vars(module).items())
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]
    return getattr(module, "__all__", defined)


def methods(cls: type) -> list[str]:
    """Return the public methods and properties that are this package's own."""
    found = []
    for name in sorted(dir(cls)):
        if name.startswith("_"):
            continue
        attribute = inspect.getattr_static(cls, name)
        owner = next(c for c in cls.__mro__ if name in vars(c))
        if owner.__module__.startswith("sk_e2cm"):
            is_method = callable(getattr(cls, name, None))
            shown = parameters(getattr(cls, name)) if is_method else ""
            found.append(name + ("" if isinstance(attribute, property) else shown))
    return found


def parameters(function) -> str:
    """Return names, kinds and defaults of parameters, without annotations."""
    if inspect.isclass(function) and issubclass(function, Exception):
        return ""
    signature = inspect.signature(function)
    bare = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in signature.parameters.values()
    ]
    return str(
        signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    )


def test_public_names_and_signatures_are_those_that_were_announced():
    assert described() == FILE.read_text().splitlines(), (
        "If this is meant: python -m tests.test_public_api, a line in CHANGELOG.md, "
        "and what docs/releasing.md says of deprecation."
    )


def test_public_names_are_sorted():
    for name in MODULES:
        names = names_of(importlib.import_module(name))
        assert names == sorted(names, key=lambda each: (each.islower(), each)), name


if __name__ == "__main__":
    FILE.write_text("\n".join(described()) + "\n")
