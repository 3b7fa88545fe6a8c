"""The figures of arXiv 2103.01148 beside ours: ``python -m benchmarks.paper_figures``.

The paper's points are of a ResNet-152 on CIFAR-10, ours of a ResNet-20: theirs are
marked as the paper's, and only the ways in which methods differ can be compared. On the
left what one epoch allows, on the right no limit, alone and combined.
"""

from .peers_picture import means, panels, save
from .tables import read_table

CIFAR10 = "cifar10"
# Fractions of the multiply-adds, and accuracies.
PAPER_ONE_EPOCH = {
    "E2CM": [(0.23, 0.79), (0.30, 0.87), (0.52, 0.89)],
    "Shallow-Deep": [(0.26, 0.61), (0.41, 0.82), (0.60, 0.88)],
}
PAPER_NO_LIMIT = {
    "E2CM and Shallow-Deep": [
        (0.15, 0.824),
        (0.20, 0.864),
        (0.25, 0.885),
        (0.30, 0.888),
    ],
}
ONE_EPOCH = [
    "Shallow-Deep, 1 epoch",
    "BranchyNet, 1 epoch",
    "E2CM, the paper's",
    "E2CM, default",
    "E2CM, second order, Dirichlet",
    "E2CM, carry=1",
    "E2CM, carry=2",
]
NO_LIMIT = [
    "Shallow-Deep, 20 epochs",
    "Zero Time Waste, 20 epochs",
    "earlyon, 4 epochs",
    "E2CM, second order, Dirichlet",
    "E2CM, carry=2",
    "E2CM, perceptron",
    "E2CM, means and perceptron",
]


def draw(panel, title: str, paper: dict[str, list], methods: list[str]) -> None:
    for marker, (name, points) in zip("sD", paper.items(), strict=False):
        label = f"{name}, ResNet-152 (paper)"
        panel.plot(*zip(*points, strict=True), f"k:{marker}", mfc="none", label=label)
    runs = [
        run
        for run in read_table("peers_runs")
        if run["budget"] not in ("full", "static")
    ]
    for method in methods:
        here = [r for r in runs if (r["subject"], r["method"]) == (CIFAR10, method)]
        if here:
            look = "-o" if method.startswith("E2CM") else "--^"
            panel.plot(*means(here, "cost"), look, ms=4, label=f"{method}, ResNet-20")
    panel.set(title=title, xlabel="fraction of the multiply-adds")
    panel.legend(fontsize="x-small")


def main() -> None:
    figure, axes = panels(2)
    left, right = axes[0]
    draw(left, "CIFAR-10, one epoch at most", PAPER_ONE_EPOCH, ONE_EPOCH)
    draw(right, "CIFAR-10, no limit", PAPER_NO_LIMIT, NO_LIMIT)
    save(figure, axes, "paper_figures.png")


if __name__ == "__main__":
    main()
