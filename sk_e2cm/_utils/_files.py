"""Files and folders that are there as a whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what takes the place of `path` once all is written.

    An error, or an interrupt, leaves what was there before, and nothing beside it.
    """
    with TemporaryDirectory(dir=path.absolute().parent) as folder:
        written = Path(folder) / path.name
        yield written
        os.replace(written, path)
