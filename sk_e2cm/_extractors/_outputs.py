"""What an extractor's stages return: two values, the second of them features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._utils._arrays import refuse_without_numbers, to_array


def state_and_output(
    extractor: Any, returned: Any, member: str = "advance"
) -> tuple[Any, Any]:
    """Return what a stage returned, if it is two values.

    An array of two rows would be taken apart without an error.

    Raises
    ------
    TypeError
        With the extractor's class.
    """
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise TypeError(
            f"{type(extractor).__name__}.{member} must return two values, the state "
            f"and the output, but it returned a {type(returned).__name__}."
        )
    state, output = returned
    return state, output


def device_of(extractor: Any) -> torch.device:
    """Return where the outputs of its stages are; arrays are on the CPU."""
    return torch.device(getattr(extractor, "device", "cpu"))


def checked_output(extractor: Any, output: Any, stage_name: str, n_rows: int) -> Any:
    """Return a stage's output where its head is; refuse what cannot be features.

    Tensors of an extractor without `device` are moved to the CPU.

    Raises
    ------
    ValueError
        If there are other rows, or no numbers.
    """
    if _is_plain(extractor, output, n_rows):
        return output
    name, has_device = type(extractor).__name__, hasattr(extractor, "device")
    if isinstance(output, Tensor):
        if has_device and output.device.type != device_of(extractor).type:
            raise ValueError(
                f"{name}.advance returned a tensor on {output.device}, but "
                f"{name}.device is {device_of(extractor)}."
            )
        refuse_without_numbers(output, f"The output of {name}.advance")
    else:
        output = to_array(output, f"The output of {name}.advance")
    if output.shape[:1] != (n_rows,):
        what = f"{output.shape[0]} rows" if output.shape else "no rows"
        raise ValueError(
            f"Stage {stage_name!r} returned {what} for {n_rows} samples. "
            f"Does {name}.keep() drop the other rows, and {name}.advance() no other?"
        )
    refuse_other_than_numbers(output, stage_name)
    if isinstance(output, Tensor) and not has_device:
        return output.detach().cpu()
    return output


def _is_plain(extractor: Any, output: Any, n_rows: int) -> bool:
    """Tell at once what nearly all outputs are; checks take as long as small layers."""
    return (
        type(output) is Tensor
        and output.dtype is torch.float32
        and output.layout is torch.strided
        and not output.is_nested
        and output.shape[:1] == (n_rows,)
        and output.device == getattr(extractor, "device", None)
    )


def refuse_other_than_numbers(output: Any, stage_name: str) -> None:
    """Refuse arrays of text, objects or complex numbers."""
    if isinstance(output, Tensor):
        valid = not output.is_complex()
    else:
        output = np.asarray(output)
        valid = output.dtype.kind in "biuf"
    if not valid:
        raise ValueError(
            f"The features of stage {stage_name!r} are no numbers but of type "
            f"{output.dtype}."
        )
