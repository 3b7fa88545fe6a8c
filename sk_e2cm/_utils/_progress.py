"""Progress bars: tqdm's where it is installed, otherwise plain text."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_WIDTH = 20

# Seconds between two drawings: terminals are slow.
_PAUSE = 0.1


class Bar(Protocol):
    """What is drawn."""

    def update(self, n: int) -> Any:
        """Draw that so many more are done."""

    def close(self) -> Any:
        """End the line."""


class PlainBar:
    """A line that says how much is done, how fast, and for how long it will go on.

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
        self._drawn, self._shown = -math.inf, 0

    def update(self, n: int) -> None:
        """Draw that so many more are done, unless it was drawn just now."""
        if not n:
            return
        self.done += n
        if time.perf_counter() - self._drawn > _PAUSE or self.done == self.total:
            self._draw()

    def close(self) -> None:
        """End the line, if there is any."""
        if self._shown != self.done:
            self._draw()
        if self.done:
            print(file=sys.stderr)

    def _draw(self) -> None:
        self._drawn, self._shown = time.perf_counter(), self.done
        # A longer line would be drawn below itself each time.
        width = shutil.get_terminal_size().columns - 1
        text = self._text(self._drawn)
        print(f"\r{text:<{width}.{width}}", end="", file=sys.stderr, flush=True)

    def _text(self, now: float) -> str:
        taken = max(now - self._started, 1e-9)
        speed = f"{self.done / taken:.3g} {self.unit}/s"
        if not self.total:
            return f"{self.what}: {self.done} {self.unit}, {speed}"
        filled = "#" * min(_WIDTH * self.done // self.total, _WIDTH)
        left = taken / max(self.done, 1) * max(self.total - self.done, 0)
        return (
            f"{self.what}: {filled:-<{_WIDTH}} {self.done} of {self.total} "
            f"{self.unit}, {speed}, {left:.0f} s left"
        )


@contextmanager
def drawing(
    total: int | None, *, verbose: int, what: str, unit: str = "samples"
) -> Iterator[Callable[[int], Any]]:
    """Give a function that draws that so many more are done.

    Parameters
    ----------
    total : int or None
        How many there are; None if nobody knows.

    verbose : int
        0 to draw nothing.

    what : str
        That is being done.

    unit : str, default="samples"
        What is counted.
    """
    if not verbose:
        yield lambda n: None
        return
    bar = _bar(total, f"[sk_e2cm] {what}", unit)
    try:
        yield bar.update
    finally:
        bar.close()


def shown(
    items: Iterable[T],
    total: int | None,
    *,
    verbose: int,
    what: str,
    unit: str = "samples",
    n_of: Callable[[T], int],
) -> Iterator[T]:
    """Yield items, and draw how many their user is done with; see `drawing`.

    `n_of` says how many an item counts for.
    """
    with drawing(total, verbose=verbose, what=what, unit=unit) as done:
        for item in items:
            yield item
            done(n_of(item))


def _bar(total: int | None, what: str, unit: str) -> Bar:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return PlainBar(total, what, unit)
    bar: Bar = tqdm(total=total, desc=what, unit=f" {unit}")
    return bar
