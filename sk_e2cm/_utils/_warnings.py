"""Warnings that name the line of the user, however deep they arise."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("sk_e2cm.", "sklearn.", "torch.")


def warn(message: str) -> None:
    """Warn, at the first line outside of this package, of scikit-learn and of torch."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None:
        if not f"{frame.f_globals.get('__name__', '')}.".startswith(_INSIDE):
            break
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
