"""What stages and exits take in seconds, in a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._utils._arrays import Floats
from ._costs import Costs


@dataclass(frozen=True, eq=False)
class Seconds:
    """What one sample takes, in seconds, in batches of one size on one machine.

    Parameters
    ----------
    stage_names : tuple of str
        The exits and the last stage.

    stages : ndarray of shape (n_exits + 1,)
        Of each stage.

    heads : ndarray of shape (n_exits + 1,)
        Of each head, and of finding out who leaves there.

    poolings : ndarray of shape (n_exits + 1,)
        Of pooling each stage's output, where heads carry features; else that is a part
        of `heads`, and this is 0.

    carried : tuple of tuple of int
        For each head the earlier stages whose features it carries.

    going_on : ndarray of shape (n_exits + 1,)
        Of keeping those who stay after it, and of joining them.

    plain : float
        Of the network as it was given: arrays in, labels out.

    whole : float
        Of the same as it is run here, with all exits closed.

    stage_spread, head_spread : ndarray of shape (n_exits + 1,)
        Half the distance between the quartiles of the rounds, in seconds; of a head
        with its pooling.

    plain_spread, whole_spread : float
        As these.

    batch_size : int
        Samples per batch.

    at_once : int
        Samples run at once: no more than `batch_size`, fewer where that is quicker.

    n_rounds : int
        How many the medians are taken of.

    device : str
        Where it was measured.

    n_threads : int
        Of torch.
    """

    stage_names: tuple[str, ...]
    stages: Floats
    heads: Floats
    poolings: Floats
    carried: tuple[tuple[int, ...], ...]
    going_on: Floats
    plain: float
    whole: float
    stage_spread: Floats
    head_spread: Floats
    plain_spread: float
    whole_spread: float
    batch_size: int
    at_once: int
    n_rounds: int
    device: str
    n_threads: int

    @property
    def costs(self) -> Costs:
        """The same, in shares of the plain network's time."""
        return Costs(
            self.stages / self.plain,
            self.heads / self.plain,
            self.going_on / self.plain,
            unit="time",
            poolings=self.poolings / self.plain,
            carried=self.carried,
        )

    @property
    def runs_fewer(self) -> bool:
        """Whether fewer samples than a batch are run at once."""
        return self.at_once < self.batch_size

    @property
    def is_noise(self) -> NDArray[np.bool_]:
        """Which stages cannot be told from noise, (n_exits + 1,)."""
        return np.asarray(self.stages <= self.stage_spread)

    def __str__(self) -> str:
        """Return a table, in microseconds."""
        width = max(len(name) for name in (*self.stage_names, "as it was given"))
        where = f"{self.device}, {self.n_threads} threads"
        lines = [
            f"Microseconds per sample, batches of {self.batch_size} "
            f"({self.at_once} at once), {where}, medians of {self.n_rounds} rounds",
            f"{'stage':{width}}  {'its own':>18}  {'its exit':>18}  {'staying':>9}",
        ]
        for name, *numbers, noise in zip(
            self.stage_names,
            self.stages,
            self.stage_spread,
            self.heads + self.poolings,
            self.head_spread,
            self.going_on,
            self.is_noise,
            strict=True,
        ):
            own, own_spread, head, head_spread, staying = numbers
            note = "  (cannot be told from noise)" if noise else ""
            lines.append(
                f"{name:{width}}  {_micro(own, own_spread)}  "
                f"{_micro(head, head_spread)}  {1e6 * staying:9.1f}{note}"
            )
        plain, whole = self.plain, self.whole
        lines += [
            f"{'as it was given':{width}}  {_micro(plain, self.plain_spread)}",
            f"{'exits closed':{width}}  {_micro(whole, self.whole_spread)}"
            f"  ({whole / plain:.2f} of it)",
        ]
        return "\n".join(lines)


def _micro(seconds: float, spread: float) -> str:
    return f"{1e6 * seconds:9.1f} +- {1e6 * spread:5.1f}"
