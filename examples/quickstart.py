"""Early exits for a trained network, from end to end: ``make demo``.

A small residual network is trained on scikit-learn's digits and frozen. Class means
at seven exits let easy digits leave early. The threshold is chosen on images that
the network was not trained on, and everything is measured on a third set.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from digits_network import split_digits, train
from sklearn.model_selection import GridSearchCV

from sk_e2cm import E2CMClassifier, TorchExtractor
from sk_e2cm.metrics import accuracy_cost_scorer, best_within_cost

MAX_COST = 0.4
CALIBRATED = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
PAPER = [0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17, 0.18, 0.20, 0.22]


def main() -> None:
    """Train, fit, choose, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--picture", default="build/quickstart.png", help="where to save it"
    )
    picture = Path(parser.parse_args().picture)

    train_set, (X, y), (X_test, y_test) = split_digits()
    started = time.perf_counter()
    network = train(*train_set)
    print(f"Your trained network: {time.perf_counter() - started:.0f} s of training.\n")

    # The three lines: cut, fit, predict.
    extractor = TorchExtractor(network, exits=7)
    clf = E2CMClassifier(extractor, batch_size=512).fit(X, y)
    early = clf.predict(X_test)
    print(f"{extractor!r}\n{(early == y_test).mean():.1%} right, untuned.\n")

    searches = {}
    for name, calibration, thresholds in [
        ("calibrated", "temperature", CALIBRATED),
        ("the paper's", None, PAPER),
    ]:
        searches[name] = choose(
            clf.set_params(calibration=calibration), thresholds, X, y
        )
    tables = {
        name: measure(network, search, X_test, y_test)
        for name, search in searches.items()
    }
    for name, rows in tables.items():
        show(name, rows, searches[name].best_params_["threshold"])
    summarize(tables["calibrated"], searches["calibrated"].best_params_["threshold"])
    draw(tables, searches, picture)
    print(f"Picture: {picture}")


def choose(clf, thresholds, X, y) -> GridSearchCV:
    """Choose a threshold by cross-validation; the network runs once for each fold."""
    with tempfile.TemporaryDirectory() as memory:
        search = GridSearchCV(
            clf.set_params(memory=memory),
            {"threshold": thresholds},
            scoring=accuracy_cost_scorer,
            refit=best_within_cost(MAX_COST),
        ).fit(X, y)
    search.best_estimator_.set_params(memory=None)
    return search


def measure(network, search, X, y) -> list[dict]:
    """Measure the full network and every threshold on fresh images."""
    clf = search.best_estimator_
    batch = torch.from_numpy(X)
    right = (run(network, batch).argmax(dim=1).numpy() == y).mean()
    leaves = np.eye(len(clf.class_means_))[-1]
    rows = [
        {"threshold": "full", "accuracy": right, "leaves": leaves, "cost": 1.0}
        | {"time of one": 1.0, "time of all": 1.0}
    ]
    chosen = clf.threshold
    for threshold in search.cv_results_["param_threshold"].tolist():
        clf.set_params(threshold=threshold)
        exits = clf.predict_exit(X)
        rows.append(
            {
                "threshold": threshold,
                "accuracy": clf.score(X, y),
                "leaves": np.bincount(exits, minlength=len(leaves)) / len(X),
                "cost": clf.stage_cost_[exits].mean(),
                "time of one": time_ratio(clf, network, X, size=1),
                "time of all": time_ratio(clf, network, X, size=len(X)),
            }
        )
    clf.set_params(threshold=chosen)
    return rows


@torch.inference_mode()
def run(network, batch):
    return network(batch)


def time_ratio(clf, network, X, *, size: int, repeats: int = 5) -> float:
    """Return the time of `clf` over the network's, the two taken in turn.

    Every repeat runs the same batches; of the repeats' ratios it is the median.
    """
    starts = np.linspace(0, len(X) - size, 20 if size == 1 else 1).astype(int)
    batches = [X[start : start + size] for start in starts]
    ratios = []
    for _ in range(repeats):
        early = full = 0.0
        for rows in batches:
            batch = torch.from_numpy(rows)
            t0 = time.perf_counter()
            clf.predict(rows)
            t1 = time.perf_counter()
            run(network, batch)
            early += t1 - t0
            full += time.perf_counter() - t1
        ratios.append(early / full)
    return statistics.median(ratios)


def show(name: str, rows: list[dict], chosen: float) -> None:
    """Print a table; the chosen threshold has a star."""
    print(
        f"Confidence: {name}. MACs and time relative to the full network; share of "
        "the images leaving\nat each exit, in %; * chosen on held-out images."
    )
    print("threshold  accuracy  MACs  time: one  all 449  exits 1 to 7, network's end")
    for row in rows:
        star = "*" if row["threshold"] == chosen else " "
        shares = " ".join(f"{100 * share:3.0f}" for share in row["leaves"])
        numbers = f"{row['accuracy']:.3f}   {row['cost']:.2f}       "
        times = f"{row['time of one']:.2f}     {row['time of all']:.2f}"
        print(f"{row['threshold']!s:>8}{star}    {numbers}{times}  {shares}")
    print()


def summarize(rows: list[dict], chosen: float) -> None:
    full = rows[0]
    early = next(row for row in rows if row["threshold"] == chosen)
    drop = 100 * (full["accuracy"] - early["accuracy"])
    print(
        f"Chosen on held-out images: threshold {chosen}. On the test images "
        f"{drop:+.2f} points lost, {early['cost']:.2f} of the MACs, "
        f"{early['time of one']:.2f} of the time for one image and "
        f"{early['time of all']:.2f} for all at once."
    )


def draw(tables, searches, picture: Path) -> None:
    """Draw accuracy against cost."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for (name, rows), marker in zip(tables.items(), "os", strict=True):
        early = sorted((row["cost"], row["accuracy"]) for row in rows[1:])
        axes.plot(*zip(*early, strict=True), marker + "-", label=f"E2CM, {name}")
        chosen = searches[name].best_params_["threshold"]
        best = next(row for row in rows if row["threshold"] == chosen)
        axes.plot(best["cost"], best["accuracy"], marker, ms=14, mfc="none", mec="k")
    full = tables["calibrated"][0]["accuracy"]
    axes.axhline(full, color="k", linestyle=":", label="the full network")
    axes.set(
        xlabel="cost, in fractions of the network's multiply-adds",
        ylabel="accuracy on test images",
        title="Digits: early exits of a frozen network",
    )
    axes.legend(loc="lower right")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    main()
