"""The axes that displays draw on."""

from __future__ import annotations

from typing import Any

from .._utils._compat import check_matplotlib_support


def axes_for(ax: Any, caller: str) -> Any:
    """Return the axes given, or new ones."""
    check_matplotlib_support(caller)
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be axes of matplotlib, got {ax!r:.60}.")
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def axes_grid(caller: str) -> tuple[Any, Any]:
    """Return a new figure with two rows and two columns of axes."""
    check_matplotlib_support(caller)
    import matplotlib.pyplot as plt

    return plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
