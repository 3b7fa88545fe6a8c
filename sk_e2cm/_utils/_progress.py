"""Progress bars: tqdm's where it is installed, otherwise plain text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_WIDTH = 30


class Bar(Protocol):
    """What is drawn."""

    def update(self, n: int) -> Any:
        """Draw that so many more are done."""

    def close(self) -> Any:
        """End the line."""


class PlainBar:
    """How much is done, how fast, and for how long it will go on.

    Parameters
    ----------
    total : int or None
        How much there is to do; None if nobody knows.

    what : str
        That is being done.

    unit : str
        What is counted.
    """

    def __init__(self, total: int | None, what: str, unit: str) -> None:
        self.total = total
        self.what = what
        self.unit = unit
        self.done = 0
        self._started = time.perf_counter()

    def update(self, n: int) -> None:
        """Draw that so many more are done."""
        self.done += n
        taken = max(time.perf_counter() - self._started, 1e-9)
        text = f"{self.done} {self.unit}, {self.done / taken:.3g} {self.unit}/s"
        if self.total:
            filled = "#" * min(_WIDTH * self.done // self.total, _WIDTH)
            left = taken / max(self.done, 1) * max(self.total - self.done, 0)
            text = (
                f"{filled:-<{_WIDTH}} {self.done} of {self.total} {self.unit}, "
                f"{self.done / taken:.3g} {self.unit}/s, {left:.0f} s left"
            )
        # What an earlier, longer line has left is blanked out.
        print(f"\r{self.what}: {text:<80}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        print(file=sys.stderr)


def shown(
    items: Iterable[T],
    total: int | None,
    *,
    verbose: int,
    what: str,
    unit: str = "samples",
    n_of: Callable[[T], int],
) -> Iterator[T]:
    """Yield items, and draw how far those are who use them.

    Parameters
    ----------
    items : iterable
        Each is done when the next one is asked for.

    total : int or None
        How many there are, in the unit; None if nobody knows.

    verbose : int
        0 to draw nothing.

    what : str
        That is being done.

    unit : str, default="samples"
        What is counted.

    n_of : callable
        How many an item counts for.
    """
    if not verbose:
        yield from items
        return
    bar = _bar(total, f"[sk_e2cm] {what}", unit)
    try:
        for item in items:
            yield item
            bar.update(n_of(item))
    finally:
        bar.close()


def _bar(total: int | None, what: str, unit: str) -> Bar:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return PlainBar(total, what, unit)
    bar: Bar = tqdm(total=total, desc=what, unit=f" {unit}")
    return bar
