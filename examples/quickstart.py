"""Early exits for a trained network, from end to end: ``make demo``.

A small residual network is trained on scikit-learn's digits and frozen. Class means
at seven exits let easy digits leave early. The thresholds are chosen on images that
the network was not trained on, and everything is measured on a third set.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from digits_network import split_digits, train
from story import draw, show, time_ratio

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

MAX_DROP = 0.01
DROPS = [0.0, 0.005, 0.01, 0.02, 0.05, 0.1]
METHODS = {
    "default": {},
    "the paper's": {"metric": "euclidean", "calibration": None, "pooling": "none"},
}


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
    clf = E2CMClassifier(extractor).fit(X, y)
    early = clf.predict(X_test)
    print(f"{extractor!r}\n{(early == y_test).mean():.1%} right, untuned.\n")

    tables = {}
    for name, params in METHODS.items():
        clf = E2CMClassifier(extractor, batch_size=512, **params)
        # One more: thresholds for the trade-off that you want.
        search = TunedExitsCV(clf, max_drop=MAX_DROP, random_state=0).fit(X, y)
        tables[name] = measure(network, search, X_test, y_test)
        title = f"Exits: {name}; times are those of the network"
        show(title, tables[name], MAX_DROP, label="max_drop")
    summarize(tables["default"])
    chosen = dict.fromkeys(tables, MAX_DROP)
    draw("Digits: early exits of a frozen network", tables, chosen, picture)


def measure(network, search, X, y) -> list[dict]:
    """Score and time what the frontier has for every drop, on fresh images."""
    clf, frontier = search.estimator_, search.frontier_
    full = partial(run, network)
    rows = []
    for drop in [*DROPS, np.inf]:
        # By rising cost: the first is the cheapest. At last nobody leaves.
        enough = frontier["score"] >= search.full_score_ - drop - 1e-9
        threshold = np.inf
        if drop < np.inf and enough.any():
            threshold = frontier["threshold"][enough.argmax()]
        clf.set_params(threshold=threshold)
        leaves = np.bincount(clf.predict_exit(X), minlength=len(clf.stage_cost_))
        row = {
            "threshold": drop,
            "accuracy": clf.score(X, y),
            "MACs": clf.cost(X),
            "leaves": leaves / len(X),
        }
        for name, size, n_batches in (("time: one", 1, 20), ("all", len(X), 1)):
            row[name] = time_ratio(clf.predict, full, X, size=size, n_batches=n_batches)
        rows.append(row)
    return rows


@torch.inference_mode()
def run(network, batch: np.ndarray):
    return network(torch.from_numpy(batch))


def summarize(rows: list[dict]) -> None:
    early = next(row for row in rows if row["threshold"] == MAX_DROP)
    drop = 100 * (rows[-1]["accuracy"] - early["accuracy"])
    print(
        f"Chosen on held-out images: max_drop={MAX_DROP}. On the test images "
        f"{drop:+.2f} points lost, {early['MACs']:.2f} of the MACs, "
        f"{early['time: one']:.2f} of the time for one image and "
        f"{early['all']:.2f} for all at once."
    )


if __name__ == "__main__":
    main()
