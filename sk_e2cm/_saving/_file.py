"""The file: tensors, and a header in JSON among the metadata of safetensors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .._utils._files import replacing

# Raised when files of this version can no longer be read as those of the last one.
FORMAT = 1

_HEADER = "sk_e2cm"
_DIGEST = "sk_e2cm_sha256"


def write(
    path: str | os.PathLike[str], header: Mapping[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Write a file at once: an interrupt leaves what was there before.

    Raises
    ------
    FileNotFoundError
        If its folder does not exist.

    ValueError
        If it is a folder.
    """
    save_file = _safetensors().torch.save_file
    where = Path(path)
    if where.is_dir():
        raise ValueError(f"{str(where)!r} is a folder: name a file in it.")
    if not where.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(where.parent)!r}.")
    text = json.dumps({"format": FORMAT, **header}, allow_nan=False)
    metadata = {_HEADER: text, _DIGEST: _digest(text)}
    with replacing(where) as written:
        written.touch()
        mode = written.stat().st_mode
        save_file(tensors, written, metadata)
        written.chmod(mode)  # safetensors lets nobody else read it


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors of a file.

    Raises
    ------
    FileNotFoundError
        If there is none.

    ValueError
        If it is none that `write` has written, as it was, or in a newer format.
    """
    where = Path(path)
    safetensors = _safetensors()
    if where.is_dir():
        raise ValueError(f"{str(where)!r} is a folder: name the file that was saved.")
    if not where.exists():
        raise FileNotFoundError(f"There is no file {str(where)!r}.")
    try:
        with safetensors.safe_open(where, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{str(where)!r} cannot be read ({error}): it is no file that "
            "sk_e2cm.save has written, or not all of it. A pickle is loaded by "
            "joblib.load or pickle.load, if you trust it."
        ) from error
    return _header(metadata, where), tensors


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say that a file is damaged where its header is not what `write` has written."""
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"The header of {os.fspath(path)!r} is damaged, or does not fit the "
            f"tensors of the file ({reason}). Save the estimator anew."
        ) from error


def _header(metadata: Mapping[str, str], where: Path) -> dict[str, Any]:
    text = metadata.get(_HEADER)
    if text is None:
        raise ValueError(
            f"{str(where)!r} holds tensors, but no estimator: it was not written by "
            "sk_e2cm.save."
        )
    with reading(where):
        if metadata[_DIGEST] != _digest(text):
            raise ValueError("it is not as it was written")
        header: dict[str, Any] = json.loads(text)
        found = int(header["format"])
    if found > FORMAT:
        raise ValueError(
            f"{str(where)!r} was written by sk-e2cm {header.get('version')}, in format "
            f"{found}, and this version knows formats up to {FORMAT}. Upgrade sk-e2cm."
        )
    return header


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            'save and load need the package safetensors: pip install "sk-e2cm[saving]".'
        ) from error
    return safetensors
