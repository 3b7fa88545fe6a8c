r"""Early exits for your own network on your own data, the whole story.

    python examples/bench_your_own.py --network torchvision:mobilenet_v3_large \
        --weights DEFAULT --data imagefolder:PATH

The class means come from the first part of the data, thresholds from half of the
second part, and everything that is reported from the other half. --network may also be
mymodule:make or path/to/my.py:make, a function without parameters that returns a
network: `own` in networks.py says of which images. Features are cached
batch by batch: a run that was interrupted goes on where it stopped, and a second run
with the same exits, but another --final or --max-drop, is quick.
"""

import argparse
from functools import partial
from pathlib import Path

import datasets
import networks
import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from story import choose, draw, named, show, sweep, time_ratio

from sk_e2cm import E2CMClassifier, TorchExtractor

FINAL = {
    "linear": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "auto": "auto",
    "network": "network",
    "class_means": "class_means",
}


def main(arguments=None) -> None:
    args = parse(arguments)
    network = networks.load(args.network, args.weights, args.side)
    data = datasets.load(args.data, side=network.side)
    # Every n-th: pictures in folders are sorted by class.
    step = max(1, len(data.X_train) // args.fit_samples)
    X, y = data.X_train[::step], data.y_train[::step]
    tune, test = ((data.X_test[i::2], data.y_test[i::2]) for i in (0, 1))
    print(
        f"{args.network} on {args.data}: {len(X)} samples for the class means, "
        f"{len(tune[1])} for the threshold, {len(test[1])} to report."
    )

    shape = X.shape[1:]
    extractor = TorchExtractor(
        network, args.exits, output=args.output, input_shape=shape
    )
    extractor.summary()
    clf = E2CMClassifier(
        extractor,
        metric=args.metric,
        final=FINAL[args.final],
        batch_size=args.batch_size,
        device=args.device,
        memory=args.cache,
        verbose=1,
    ).fit(X, y)
    print(f"The last stage is answered by: {clf.final_}.")
    if clf.metric_reason_:
        print(f"Some exits are Euclidean: {clf.metric_reason_}")

    chosen = choose(sweep(clf, *tune), args.max_drop)
    rows = sweep(clf, *test)
    show(f"{args.network} on {args.data}, samples never seen before", rows, chosen)
    report(clf, network, test[0], rows, chosen)
    draw(
        f"{args.network} on {args.data}",
        {clf.final_: rows},
        {clf.final_: chosen},
        args.picture,
    )


def parse(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--network", required=True, help=networks.KINDS)
    add("--weights", default="DEFAULT", help="DEFAULT, NONE or a file")
    add("--side", type=int, help="of the scaled images; default: the network's")
    add("--data", required=True, help=f"{datasets.KINDS}; see datasets.py")
    add("--exits", default="6", help="how many, or names with commas in between")
    add("--output", help="the last module run, such as avgpool; default: all")
    add(
        "--metric",
        default="mahalanobis",
        choices=("mahalanobis", "euclidean"),
        help="of the distances to the class means",
    )
    add("--final", default="auto", choices=FINAL, help="what answers at the last stage")
    add("--max-drop", type=float, default=0.01, help="of accuracy, for the threshold")
    add("--fit-samples", type=int, default=20_000, help="for the class means")
    add("--batch-size", type=int, default=128, help="try 32 for large maps on a CPU")
    add("--device", help="cpu, cuda, ...; default: cpu")
    add("--cache", default=datasets.home() / "features", help="of features; a folder")
    add("--picture", type=Path, default=Path("build/bench_your_own.png"))
    args = parser.parse_args(arguments)
    if args.exits.isdigit():
        args.exits = int(args.exits)
    else:
        args.exits = [inside(name) for name in args.exits.split(",")]
    args.output = args.output and inside(args.output)
    return args


def inside(name: str) -> str:
    """Return the name of a module of the network within what prepares its input."""
    return f"network.{name.removeprefix('network.')}"


def report(clf, network, X, rows: list[dict], chosen) -> None:
    """Time the chosen threshold against the uncut network."""
    clf.set_params(threshold=chosen)
    full = partial(run, network.to(clf.extractor_.to(clf.device or "cpu").device))
    row = next(row for row in rows if row["threshold"] == chosen)
    drop = 100 * (rows[-1]["accuracy"] - row["accuracy"])
    print(
        f"\nThreshold {named(chosen)}: {row['accuracy']:.4f} right "
        f"({drop:+.2f} points lost), {row['MACs']:.3f} of the multiply-adds."
    )
    for size, n_batches in ((1, 30), (min(clf.batch_size, len(X)), 4)):
        ratio = time_ratio(clf.predict, full, X, size=size, n_batches=n_batches)
        print(f"Time of {size} at once: {ratio:.2f} of the uncut network's.")


@torch.inference_mode()
def run(network, batch: np.ndarray) -> np.ndarray:
    device = network.mean.device
    return network(torch.from_numpy(batch).to(device)).cpu().numpy()


if __name__ == "__main__":
    main()
