"""Early exits for deep clustering, without a label: ``make demo-clusters``.

An encoder is trained on MNIST by deep embedded clustering (`dec.py`), saved and frozen.
Its embedding is clustered by k-means, and centroids of the clusters at three exits let
easy images leave early. Thresholds are chosen by agreement with the full encoder.
Labels serve only to say, in the end, how good the clusters are.
"""

import argparse
from functools import partial
from pathlib import Path

import datasets
import dec
import numpy as np
from sklearn.cluster import KMeans
from story import time_ratio

from sk_e2cm import E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm.inspection import TradeoffDisplay

MAX_DROPS = [0.05, 0.02, 0.01, 0.005, 0.001]


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", default="torchvision:MNIST", help=datasets.KINDS)
    add("--seed", type=int, default=0, help="of the encoder")
    add("--pretraining", type=int, default=20, help="epochs of the autoencoder")
    add("--refinement", type=int, default=10, help="epochs of the clusters")
    add("--folder", type=Path, help="where encoders are saved, or were")
    add("--max-drop", type=float, default=0.01, help="of agreement")
    add("--picture", type=Path, default=Path("build/deep_clusters.png"))
    args = parser.parse_args(arguments)

    data = datasets.load(args.data)
    n_clusters = len(np.unique(data.y_test))
    name = Path(args.data.partition(":")[2]).stem.lower()
    encoder = dec.load_or_train(
        args.folder or datasets.home() / "dec",
        name,
        data.X_train,
        n_clusters,
        seed=args.seed,
        n_pretraining=args.pretraining,
        n_refinement=args.refinement,
    )

    clusterer = E2CMClusterer(
        TorchExtractor(encoder, dec.EXITS),
        clusterer=KMeans(n_clusters, n_init=20, random_state=args.seed),
        metric="mahalanobis",
        batch_size=1024,
    )
    search = TunedExitsCV(clusterer, max_drop=args.max_drop, random_state=0)
    search.fit(data.X_train)

    show(search, data.X_test, data.y_test)
    full = partial(dec.cluster, encoder, search.estimator_.clusterer_)
    for size, n_batches in ((1, 200), (1024, 8)):
        ratio = time_ratio(
            search.predict, full, data.X_test, size=size, n_batches=n_batches
        )
        print(f"Time of {size} at once: {ratio:.2f} of the encoder's and k-means'.")
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    display = TradeoffDisplay.from_estimator(search, name=name)
    display.figure_.savefig(args.picture, dpi=150)
    print(f"Picture: {args.picture}")


def show(search: TunedExitsCV, X: np.ndarray, y: np.ndarray) -> None:
    """Print what a few points of the frontier bring on new images; one was chosen."""
    full = search.exit_proba(X)[:, -1].argmax(axis=1)
    accuracy = dec.clustering_accuracy(y, full)
    print(
        f"\nOn {len(X)} new images, full network: {accuracy:.3f} of them in the cluster"
    )
    print("of their class. * is the drop that was asked for.")
    print(
        " drop   agreement  accuracy  MACs   % leaving at each exit and the last stage"
    )
    frontier, clusterer = search.frontier_, search.estimator_
    for drop in sorted({*MAX_DROPS, search.max_drop}, reverse=True):
        best = (frontier["score"] >= 1 - drop).argmax()
        clusterer.set_params(threshold=frontier["threshold"][best])
        labels, exits = clusterer.predict(X), clusterer.predict_exit(X)
        leaving = np.bincount(exits, minlength=len(clusterer.stage_cost_))
        print(
            f"{drop:5.3f}{'*' if drop == search.max_drop else ' '}"
            f"{(labels == full).mean():10.3f}"
            f"{dec.clustering_accuracy(y, labels):10.3f}"
            f"{clusterer.stage_cost_[exits].mean():8.3f}  ",
            *(f"{100 * share:3.0f}" for share in leaving / len(X)),
        )
    clusterer.set_params(threshold=search.best_threshold_)


if __name__ == "__main__":
    main()
