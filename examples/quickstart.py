"""Early exits for a trained network, from end to end: ``make demo``.

A small residual network is trained on scikit-learn's digits and frozen. Class means
at seven exits let easy digits leave early. The threshold is chosen on images that
the network was not trained on, and everything is measured on a third set.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from digits_network import split_digits, train
from sklearn.model_selection import GridSearchCV
from story import draw, show, sweep, time_ratio

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
    chosen = {
        name: search.best_params_["threshold"] for name, search in searches.items()
    }
    for name, rows in tables.items():
        show(f"Confidence: {name}; times are those of the network", rows, chosen[name])
    summarize(tables["calibrated"], chosen["calibrated"])
    draw("Digits: early exits of a frozen network", tables, chosen, picture)


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
    """Score and time every threshold on fresh images."""
    clf = search.best_estimator_
    chosen = clf.threshold
    rows = sweep(clf, X, y, search.cv_results_["param_threshold"].tolist())
    full = partial(run, network)
    for row in rows:
        clf.set_params(threshold=row["threshold"])
        for name, size, n_batches in (("time: one", 1, 20), ("all", len(X), 1)):
            row[name] = time_ratio(clf.predict, full, X, size=size, n_batches=n_batches)
    clf.set_params(threshold=chosen)
    return rows


@torch.inference_mode()
def run(network, batch: np.ndarray):
    return network(torch.from_numpy(batch))


def summarize(rows: list[dict], chosen: float) -> None:
    early = next(row for row in rows if row["threshold"] == chosen)
    drop = 100 * (rows[-1]["accuracy"] - early["accuracy"])
    print(
        f"Chosen on held-out images: threshold {chosen}. On the test images "
        f"{drop:+.2f} points lost, {early['MACs']:.2f} of the MACs, "
        f"{early['time: one']:.2f} of the time for one image and "
        f"{early['all']:.2f} for all at once."
    )


if __name__ == "__main__":
    main()
