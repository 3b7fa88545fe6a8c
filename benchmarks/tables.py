"""The tables of the docs."""

import csv
from pathlib import Path

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
