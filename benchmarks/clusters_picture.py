"""The picture of `clusters.py`: every run and the mean, as in the paper's figure."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "clusters.png"
SHOWN = {"paper": "C3", "Euclidean": "C1", "whitened": "C0"}

# Read off the figure of arXiv 2103.01148: cost and accuracy, early and in full.
AUTHORS = {
    "mnist": [(0.38, 0.89), (1.0, 0.93)],
    "fashion_mnist": [(0.38, 0.58), (1.0, 0.60)],
}


def draw(runs) -> None:
    names = sorted({run.data for run in runs})
    if not names:
        return
    figure, axes = plt.subplots(
        2, len(names), figsize=(5 * len(names), 7), squeeze=False, layout="constrained"
    )
    for column, name in enumerate(names):
        for row, images in enumerate(("training", "test")):
            here = [run for run in runs if (run.data, run.images) == (name, images)]
            draw_one(axes[row, column], here, f"{name}, {images} images")
            if images == "training":
                points = np.array(AUTHORS[name]).T
                axes[row, column].plot(*points, "k*", label="the authors' figure")
    axes[0, 0].legend(loc="lower right")
    figure.savefig(PICTURE, dpi=120)


def draw_one(ax, runs, title: str) -> None:
    for exits, color in SHOWN.items():
        for seed in sorted({run.seed for run in runs}):
            line = [run for run in runs if (run.seed, run.exits) == (seed, exits)]
            costs, scores = [run.cost for run in line], [run.ACC for run in line]
            ax.plot(costs, scores, color=color, alpha=0.3, linewidth=0.8)
        ax.plot(*mean_curve(runs, exits).T, color=color, linewidth=2, label=exits)
    ax.set(title=title, xlabel="fraction of the multiply-adds", ylabel="accuracy")


def mean_curve(runs, exits: str) -> np.ndarray:
    """Return mean cost and accuracy for each budget, shape (n_budgets, 2)."""
    budgets = sorted({run.budget for run in runs})
    of_budgets = (
        [(run.cost, run.ACC) for run in runs if (run.exits, run.budget) == (exits, b)]
        for b in budgets
    )
    return np.array([np.mean(points, axis=0) for points in of_budgets if points])
