"""What an extractor is made of, and can be made of again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from ._trace import Trace


class MadeOf(NamedTuple):
    """What an extractor can be made of again.

    Parameters
    ----------
    module : nn.Module
        The frozen copy of the network, which is not to be run.

    trace : Trace
        Of what runs.

    exits : tuple of str
        The names of the exits.

    others : dict
        Further parameters of `TorchExtractor`, by their names.

    in_other_layout : bool
        Whether it is the second of its own `layouts`.
    """

    module: nn.Module
    trace: Trace
    exits: tuple[str, ...]
    others: dict[str, Any]
    in_other_layout: bool


def chained(modules: Sequence[nn.Module]) -> nn.Sequential:
    """Return one network of a chain of modules, in which each is one stage."""
    # A shell of its own for each, so that one module may serve two stages.
    return nn.Sequential(*(nn.Sequential(module) for module in modules))
