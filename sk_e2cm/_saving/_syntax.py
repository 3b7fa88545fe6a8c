"""What a function's source says, whatever its layout, comments and documentation."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

# What does not change what is computed, or is told by the rest.
_UNSAID = {"annotation", "ctx", "kind", "returns", "type_comment", "type_params"}


def syntax_of(function: FunctionType) -> str | None:
    """Return what the source of a function says, alike in every version of Python.

    None if there is no source, as for what was typed at a prompt, or if it cannot be
    told which of several functions of one line this is.
    """
    try:
        source = inspect.getsource(function)
        # A method is indented, and strings within it may be less so.
        tree = ast.parse("if 1:\n" + source if source[:1].isspace() else source)
    except (OSError, TypeError, SyntaxError):
        return None
    found = list(_definitions(tree, function.__name__))
    is_clear = len(found) == 1 or (found and not isinstance(found[0], ast.Lambda))
    return repr(_said(found[0])) if is_clear else None


def _definitions(tree: ast.AST, name: str) -> Iterator[ast.AST]:
    for node in ast.walk(tree):  # from the outside in
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.name == name:
                yield node
        elif isinstance(node, ast.Lambda) and name == "<lambda>":
            yield node


def _said(node: Any) -> Any:
    """Return a tree of syntax as tuples, without what is not there.

    Versions of Python differ in which optional parts they know.
    """
    if isinstance(node, list):
        return [_said(each) for each in node if not _is_text_alone(each)]
    if not isinstance(node, ast.AST):
        return node
    parts = [
        (name, _said(value))
        for name, value in ast.iter_fields(node)
        if name not in _UNSAID and value is not None and value != []
    ]
    return type(node).__name__, parts


def _is_text_alone(node: Any) -> bool:
    """Tell a docstring, or another string that nothing is done with."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)
