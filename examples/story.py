"""What the examples share: thresholds swept, chosen, timed, printed and drawn."""

import statistics
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from sk_e2cm.metrics import first_exit

THRESHOLDS = [0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]


def sweep(clf, X, y, thresholds=THRESHOLDS) -> list[dict]:
    """Score every threshold from one run of the network; the last row has no exits."""
    thresholds = [*thresholds, np.inf]
    n_stages = len(clf.stage_cost_)
    right = np.zeros(len(thresholds))
    leaves = np.zeros((len(thresholds), n_stages))
    # Piece by piece: the probabilities of a thousand classes need much memory.
    size = 2**25 // (len(clf.classes_) * n_stages)
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        proba = clf.exit_proba(X[rows])
        is_right = clf.classes_[proba.argmax(axis=2)] == y[rows, None]
        for i, threshold in enumerate(thresholds):
            exits = first_exit(proba, threshold)
            right[i] += is_right[np.arange(len(exits)), exits].sum()
            leaves[i] += np.bincount(exits, minlength=n_stages)
    return [
        {
            "threshold": threshold,
            "accuracy": right[i] / len(y),
            "MACs": 1.0
            if threshold == np.inf
            else leaves[i] @ clf.stage_cost_ / len(y),
            "leaves": leaves[i] / len(y),
        }
        for i, threshold in enumerate(thresholds)
    ]


def choose(rows: list[dict], max_drop: float):
    """Return the cheapest threshold that loses at most `max_drop` of accuracy."""
    enough = rows[-1]["accuracy"] - max_drop
    good = [row for row in rows if row["accuracy"] >= enough]
    return min(good, key=lambda row: row["MACs"])["threshold"]


def named(threshold: float):
    """Return what tables call a threshold that nobody reaches."""
    return "none" if threshold == np.inf else threshold


def time_ratio(early, full, X, *, size: int, n_batches: int, repeats: int = 5) -> float:
    """Return the time of ``early(batch)`` over that of ``full(batch)``.

    The two are taken in turn on the same batches; of all repeats it is the median.
    """
    size = min(size, len(X))
    starts = np.linspace(0, len(X) - size, n_batches).astype(int)
    batches = [np.array(X[start : start + size]) for start in starts]
    ratios = []
    for _ in range(repeats):
        spent = {early: 0.0, full: 0.0}
        for batch in batches:
            for run in (early, full):
                started = time.perf_counter()
                run(batch)
                spent[run] += time.perf_counter() - started
        ratios.append(spent[early] / spent[full])
    return statistics.median(ratios)


def show(title: str, rows: list[dict], chosen, label: str = "threshold") -> None:
    """Print a table; the chosen threshold, or what `label` calls it, has a star."""
    numbers = [key for key in rows[0] if key not in ("threshold", "leaves")]
    print(f"\n{title}; * is the chosen {label}.")
    header = "  ".join(f"{key:>8}" for key in numbers)
    print(f"{label:<9}   {header}  % leaving at each exit and the last stage")
    for row in rows:
        star = "*" if row["threshold"] == chosen else " "
        cells = "  ".join(f"{row[key]:8.3f}" for key in numbers)
        shares = " ".join(f"{100 * share:3.0f}" for share in row["leaves"])
        print(f"{named(row['threshold'])!s:>9}{star}  {cells}  {shares}")


def draw(
    title: str, tables: dict[str, list[dict]], chosen: dict, picture: Path
) -> None:
    """Draw accuracy against cost; the chosen thresholds have circles."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for (name, rows), marker in zip(tables.items(), "osD^v<>", strict=False):
        curve = sorted((row["MACs"], row["accuracy"]) for row in rows[:-1])
        (line,) = axes.plot(*zip(*curve, strict=True), marker + "-", ms=4, label=name)
        axes.axhline(rows[-1]["accuracy"], color=line.get_color(), linestyle=":")
        best = next(row for row in rows if row["threshold"] == chosen[name])
        axes.plot(best["MACs"], best["accuracy"], "o", ms=14, mfc="none", mec="k")
    axes.set(
        title=title,
        xlabel="cost, in fractions of the network's multiply-adds",
        ylabel="accuracy (dotted: nobody leaves early)",
    )
    axes.legend(loc="lower right")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)
    print(f"Picture: {picture}")
