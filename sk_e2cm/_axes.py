"""Where pictures are drawn."""

from __future__ import annotations

from typing import Any

from ._utils._compat import check_matplotlib_support


def axes_for(ax: Any, caller: str) -> Any:
    """Return the axes given, or new ones."""
    check_matplotlib_support(caller)
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1] if ax is None else ax
