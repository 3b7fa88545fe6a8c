"""The tables of the docs."""

import csv
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"


def write_table(name: str, lines: list[list[str]]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def read_table(name: str) -> list[dict[str, str]]:
    """Return the lines of a table, none if there is none."""
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def spread(values: np.ndarray) -> str:
    """Return a median and the range around it, as they stand in a cell."""
    return f"{np.median(values):.2f} ({np.min(values):.2f}-{np.max(values):.2f})"
