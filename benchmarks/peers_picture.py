"""The pictures of `peers.py`: accuracy against multiply-adds, and against seconds."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from .tables import read_table

PICTURES = Path(__file__).parents[1] / "docs" / "_static"
TITLES = {
    "fashion_mnist": "ResNet-20, Fashion-MNIST",
    "cifar10": "ResNet-20, CIFAR-10",
    "efficientnet": "EfficientNet-Lite0, CIFAR-10",
}
FULL, STATIC = "full", "static"
# What the front page shows, and how.
LANDING = {
    "E2CM, default": ("sk-e2cm, default", {"color": "C0", "marker": "o"}),
    "E2CM, carry=1": ("sk-e2cm, carry=1", {"color": "C2", "marker": "s"}),
    "Shallow-Deep, 20 epochs": (
        "exits trained for 20 epochs (Shallow-Deep)",
        {"color": "C1", "marker": "v", "ls": "--"},
    ),
    "E2CM, the paper's": (
        "the paper's E2CM",
        {"color": "C4", "marker": "D", "ls": "--"},
    ),
}
Row = dict[str, str]


def looks(methods: Iterable[str]) -> dict[str, dict]:
    """Give every method its colour: ours whole lines, the others dashed ones."""
    pairs = plt.get_cmap("tab20").colors  # of a dark colour and a light one
    colours, markers = cycle(pairs[::2] + pairs[1::2]), cycle("os^vD<>phX")
    return {
        method: {
            "color": next(colours),
            "marker": next(markers),
            "ms": 4,
            "ls": "-" if method.startswith("E2CM") else "--",
        }
        for method in methods
    }


def means(rows: list[Row], x: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean x and accuracy of every budget, over the seeds."""
    budgets = dict.fromkeys(row["budget"] for row in rows)
    points = [
        [
            np.mean([float(row[field]) for row in rows if row["budget"] == budget])
            for field in (x, "accuracy")
        ]
        for budget in budgets
    ]
    x_values, accuracy = np.array(points).T
    return x_values, accuracy


def draw_macs() -> None:
    runs = read_table("peers_runs")
    subjects = [s for s in TITLES if any(run["subject"] == s for run in runs)]
    if not subjects:
        return
    exits = [run for run in runs if run["budget"] not in (FULL, STATIC)]
    style = looks(dict.fromkeys(run["method"] for run in exits))
    figure, axes = panels(len(subjects))
    for panel, subject in zip(axes[0], subjects, strict=True):
        for method, look in style.items():
            here = [
                r for r in exits if (r["subject"], r["method"]) == (subject, method)
            ]
            if here:
                panel.plot(*means(here, "cost"), label=method, **look)
        of_subject = [run for run in runs if run["subject"] == subject]
        static = [run for run in of_subject if run["budget"] == STATIC]
        for i, method in enumerate(dict.fromkeys(run["method"] for run in static)):
            here = [run for run in static if run["method"] == method]
            label = None if i else "smaller networks"
            panel.plot(*means(here, "cost"), "k*", ms=10, label=label)
        full = [
            float(run["accuracy"])
            for run in of_subject
            if run["budget"] == FULL and run["method"].startswith("E2CM")
        ]
        if full:
            panel.axhline(np.mean(full), color="gray", ls=":", label="full network")
        panel.set(title=TITLES[subject], xlabel="fraction of the multiply-adds")
    one_legend(axes)
    save(figure, axes, "peers.png")


def draw_seconds() -> None:
    rows = read_table("peers_times")
    subjects = [s for s in TITLES if any(row["network"] == s for row in rows)]
    if not subjects:
        return
    sizes = list(dict.fromkeys(row["images at once"] for row in rows))
    style = looks(dict.fromkeys(row["method"] for row in rows))
    figure, axes = panels(len(subjects), len(sizes))
    for line, size in zip(axes, sizes, strict=True):
        for panel, subject in zip(line, subjects, strict=True):
            for method, look in style.items():
                key = subject, method, size
                here = [
                    row
                    for row in rows
                    if (row["network"], row["method"], row["images at once"]) == key
                ]
                if here:
                    panel.plot(*means(here, "time"), label=method, **look)
            panel.set(
                title=f"{TITLES[subject]}, {size} at once",
                xlabel="fraction of the plain network's time",
            )
    one_legend(axes)
    save(figure, axes, "peers_seconds.png")


def draw_landing() -> None:
    """Draw what the front page shows: one network, one image at a time."""
    rows = [
        row
        for row in read_table("peers_times")
        if (row["network"], row["images at once"]) == ("cifar10", "1")
    ]
    full = read_table("peers_runs")
    plain = np.mean(
        [
            float(run["accuracy"])
            for run in full
            if (run["subject"], run["budget"], run["method"])
            == ("cifar10", FULL, "E2CM, default")
        ]
    )
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for method, (label, look) in LANDING.items():
        here = [row for row in rows if row["method"] == method]
        axes.plot(*means(here, "time"), label=label, ms=6, **look)
    axes.plot(1.0, plain, "k*", ms=14, label="the plain network")
    axes.axhline(plain, color="gray", ls=":", lw=1)
    axes.set(
        title=f"{TITLES['cifar10']}, one image at a time",
        xlabel="time, as a fraction of the plain network's",
        ylabel="accuracy on the test images",
    )
    axes.legend(loc="lower right")
    figure.savefig(PICTURES / "landing.png", dpi=130)
    plt.close(figure)


def panels(n_columns: int, n_rows: int = 1):
    return plt.subplots(
        n_rows,
        n_columns,
        figsize=(6 * n_columns, 5 * n_rows),
        layout="constrained",
        squeeze=False,
    )


def one_legend(axes: np.ndarray) -> None:
    """Draw a legend in the first panel; a method need not be in every panel."""
    drawn: dict[str, object] = {}
    for panel in axes.flat:
        drawn |= dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
    axes[0, 0].legend(drawn.values(), drawn, fontsize="small")


def save(figure, axes: np.ndarray, name: str) -> None:
    for line in axes:
        line[0].set_ylabel("accuracy on the test images")
    figure.savefig(PICTURES / name, dpi=110)
    plt.close(figure)
