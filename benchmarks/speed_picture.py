"""The picture of `speed.py`: predicted and measured time, and time against MACs."""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from .tables import FOLDER

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "speed.png"


def draw(table: str) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    with (FOLDER / f"{table}.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["MACs"]]
    names = list(dict.fromkeys(row["network"] for row in rows))
    for i, name in enumerate(names):
        here = [row for row in rows if row["network"] == name]
        points = [(float(r["MACs"]), float(r["time"].split()[0])) for r in here]
        left.plot(*zip(*points, strict=True), "osD^v<>ph"[i % 9], ms=5, label=name)
    left.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    left.axhline(1, color="gray", linestyle=":")
    left.set(xlabel="fraction of the multiply-adds", ylabel="fraction of the time")
    left.legend(fontsize="small")
    with (FOLDER / f"{table}_frontier.csv").open() as file:
        points = list(csv.DictReader(file))
    for size in dict.fromkeys(point["images at once"] for point in points):
        here = [point for point in points if point["images at once"] == size]
        right.plot(
            [float(point["predicted"]) for point in here],
            [float(point["measured"]) for point in here],
            "o",
            ms=4,
            label=f"{size} at once",
        )
    most = max((float(point["measured"]) for point in points), default=1.0)
    right.plot([0, most], [0, most], color="gray", linewidth=0.8)
    right.fill_between(
        [0, most], [0, 0.9 * most], [0, 1.1 * most], color="gray", alpha=0.2
    )
    right.set(xlabel="predicted fraction of the time", ylabel="measured")
    right.legend(fontsize="small")
    figure.savefig(PICTURE, dpi=120)
