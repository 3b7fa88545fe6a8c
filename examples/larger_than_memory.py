"""Pictures on disk that are larger than the memory: fit, tune and predict in batches.

CIFAR-10 becomes folders of pictures, one for each class. From there on the process
gets no more memory than --limit GiB, torch included, which is less than the pictures
take as an array. EfficientNet-Lite0 with its ImageNet weights is frozen, and class
means answer at its last stage. Two minutes.
"""

import argparse
import resource
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from networks import lite0
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

BATCH_SIZE = 32
PARTS = ("train", "tune", "test")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", default="torchvision:CIFAR10", help=datasets.KINDS)
    add(
        "--samples",
        type=int,
        default=4800,
        help="for the fit; half to tune and to test",
    )
    add("--side", type=int, default=224, help="of the pictures")
    add("--limit", type=float, default=2.0, help="of memory, in GiB")
    add("--folder", type=Path, default=datasets.home() / "pictures")
    args = parser.parse_args(arguments)

    write_pictures(args.data, args.samples, args.folder)
    resource.setrlimit(resource.RLIMIT_DATA, [int(args.limit * 2**30)] * 2)
    loaders = {part: loader_of(args.folder / part, args.side) for part in PARTS}
    n = {part: len(loader.dataset) for part, loader in loaders.items()}
    as_array = sum(n.values()) * 3 * args.side**2 * 4 / 2**30
    print(f"{as_array:.2f} GiB of pictures, {args.limit:.2f} GiB of memory.")

    # It scales pictures down, and normalises them, itself.
    network, shape = lite0(96), (3, args.side, args.side)
    extractor = TorchExtractor(
        network, 6, output="network._avg_pooling", input_shape=shape
    )
    clf = E2CMClassifier(extractor, batch_size=BATCH_SIZE, verbose=1)
    clf.fit(loaders["train"])
    search = TunedExitsCV(clf, max_drop=0.01, cv="prefit").fit(loaders["tune"])

    for name, threshold in (("nobody leaves", np.inf), ("early exits", None)):
        fitted = search.estimator_
        if threshold is not None:
            fitted = clf.set_params(threshold=threshold)
        started = time.perf_counter()
        labels = fitted.predict(loaders["test"])
        seconds = time.perf_counter() - started
        right = (labels == loaders["test"].dataset.targets).mean()
        print(f"{name:14} accuracy {right:.4f}, {seconds:.0f} s, decoding included")
    print(
        f"On the pictures held out it was {search.best_score_:.4f} in place of "
        f"{search.full_score_:.4f}. Of fewer than a thousand, that says little."
    )
    print(f"Cost {search.cost(loaders['test']):.2f} of the multiply-adds.")
    print(f"The process has used {peak():.2f} GiB, torch included.")


def peak() -> float:
    """Return the most memory that this process has used, in GiB."""
    status = Path("/proc/self/status")
    if not status.exists():  # not on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
    # What getrusage says there may be that of the process which has started this one.
    (line,) = (n for n in status.read_text().splitlines() if n.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def write_pictures(spec: str, n_samples: int, folder: Path) -> None:
    """Write pictures for the fit, and half as many to tune and to test."""
    if (folder / PARTS[0]).exists():
        print(f"The pictures are those that are in {folder} already.")
        return
    data = datasets.load(spec)
    half = n_samples // 2
    rows = {
        "train": (data.X_train, data.y_train, slice(n_samples)),
        "tune": (data.X_test, data.y_test, slice(half)),
        "test": (data.X_test, data.y_test, slice(half, 2 * half)),
    }
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for part, (X, y, some) in rows.items():
        for i, (pixels, label) in enumerate(zip(X[some], y[some], strict=True)):
            path = unfinished / part / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    unfinished.rename(folder)


def loader_of(folder: Path, side: int) -> DataLoader:
    steps = [v2.ToImage(), v2.ToDtype(torch.float32), v2.Resize(side, antialias=True)]
    return DataLoader(ImageFolder(folder, v2.Compose(steps)), BATCH_SIZE)


if __name__ == "__main__":
    main()
