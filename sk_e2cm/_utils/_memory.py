"""Batches that the memory of a device does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ._warnings import warn

T = TypeVar("T")

# Errors of other allocators than CUDA's have no class of their own.
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory was lacking, of whichever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    is_of_torch = isinstance(error, RuntimeError)
    return is_of_torch and any(words in str(error) for words in _SAID)


def release_memory(device: torch.device) -> None:
    """Give back what torch keeps for later tensors."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def halving(run: Callable[[int], T], n_samples: int, device: torch.device) -> T:
    """Call with a number of samples; with half of it where memory is lacking.

    Parameters
    ----------
    run : callable
        Takes how many samples to run at once.

    n_samples : int
        The first number to try.

    device : torch.device
        Where they are run.

    Raises
    ------
    Exception
        What `run` raises, if that is something else, or for a single sample.
    """
    size = n_samples
    while True:
        try:
            return run(size)
        except Exception as error:
            if not is_out_of_memory(error) or size == 1:
                raise
        # Not within the except clause, which keeps the tensors of the stack alive.
        release_memory(device)
        if size == n_samples:
            warn_of_smaller_batches()
        size //= 2


def warn_of_smaller_batches() -> None:
    """Warn that fewer samples than asked for are run at once."""
    warn(
        "The memory of the device does not hold as many samples as a batch. Fewer are "
        "run at once, which changes no answer; with a smaller batch_size nothing has "
        "to be run twice."
    )
