"""Batches that the memory of a device does not hold."""

from __future__ import annotations

import warnings

import torch

# What torch's allocators of the CPU say; their error has no class of its own.
_SAID_BY_CPU = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory was lacking, of whichever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    is_of_torch = isinstance(error, RuntimeError)
    return is_of_torch and any(words in str(error) for words in _SAID_BY_CPU)


def release_memory(device: torch.device) -> None:
    """Give back what torch keeps for later tensors."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def warn_of_smaller_batches(error: Exception) -> None:
    """Warn that fewer samples than asked for are run at once."""
    warnings.warn(
        f"The memory of the device does not hold batch_size samples at once ({error}). "
        "Fewer are run at once, which changes no answer. A smaller batch_size fails "
        "less often.",
        stacklevel=2,
    )
