"""EfficientNet-Lite0 with its ImageNet weights: ``make demo-imagenet``.

Twice the same frozen network. First with its own thousand classes, on a few pictures
that other packages bring: a smoke run, in which each picture stands for a class.
Then as a frozen extractor for other data, without its head: class means or a
scikit-learn classifier answer at the last stage. Features are cached, so a second run
is quick.
"""

import argparse
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from networks import lite0
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from story import choose, draw, show, sweep, time_ratio

from sk_e2cm import E2CMClassifier, TorchExtractor

# What the pictures show, by the number of the ImageNet class.
PICTURES = {
    "sklearn/datasets/images/china.jpg": 698,  # palace
    "sklearn/datasets/images/flower.jpg": 985,  # daisy
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": 652,  # military uniform
    "skimage/data/camera.png": 872,  # tripod
    "skimage/data/chelsea.png": 281,  # tabby
    "skimage/data/coffee.png": 967,  # espresso
    "skimage/data/motorcycle_left.png": 665,  # moped
    "skimage/data/rocket.jpg": 657,  # missile
}
FINALS = {
    "class means": "class_means",
    "LDA": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
}


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--samples",
        type=int,
        default=10_000,
        help="for the means; as many to test at most",
    )
    add("--side", type=int, default=96, help="of the scaled images, for transfer")
    add("--max-drop", type=float, default=0.01, help="of accuracy, for the threshold")
    add("--cache", type=Path, default=datasets.home() / "features")
    add("--picture", type=Path, default=Path("build/imagenet.png"))
    args = parser.parse_args(arguments)

    smoke_run()
    tables, chosen = {}, {}
    for spec in ("torchvision:CIFAR10", "torchvision:FashionMNIST"):
        for name, final in FINALS.items():
            key = f"{spec.partition(':')[2]}, {name}"
            tables[key], chosen[key] = transfer(key, spec, final, args)
    draw("EfficientNet-Lite0, frozen", tables, chosen, args.picture)


def smoke_run() -> None:
    """Let crops of each picture vote for its class, and look at other crops of it."""
    from torchvision.models import EfficientNet_B0_Weights

    names = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    network = lite0(side=224)
    rng = np.random.default_rng(0)
    y = np.repeat(list(PICTURES.values()), 16)
    X, X_test = (
        np.stack([crop(open_picture(p), rng) for p in PICTURES for _ in range(16)])
        for _ in range(2)
    )
    extractor = TorchExtractor(network, 6, input_shape=X.shape[1:])
    extractor.summary()
    clf = E2CMClassifier(
        extractor,
        final="network",
        head_classes=np.arange(1000),
        batch_size=16,
        verbose=1,
    ).fit(X, y)
    print("\nOther crops of the same pictures; the network chooses among 1000 classes.")
    print(f"{'class':18}{'network right':>15}{'early right':>13}{'mean MACs':>11}")
    for label in PICTURES.values():
        crops = X_test[y == label]
        right = (run(network, crops).argmax(axis=1) == label).mean()
        early = (clf.predict(crops) == label).mean()
        print(f"{names[label]:18}{right:15.2f}{early:13.2f}{clf.cost(crops):11.2f}")


def open_picture(path: str) -> Image.Image:
    package, _, rest = path.partition("/")
    folder = Path(__import__(package).__file__).parent
    return Image.open(folder / rest).convert("RGB")


def crop(picture: Image.Image, rng, side: int = 224) -> np.ndarray:
    """Cut out a square of most of the picture, anywhere, perhaps mirrored."""
    length = int(min(picture.size) * rng.uniform(0.8, 1))
    left, top = (rng.integers(0, whole - length + 1) for whole in picture.size)
    box = (left, top, left + length, top + length)
    pixels = np.asarray(picture.resize((side, side), box=box)).transpose(2, 0, 1)
    return pixels[:, :, ::-1] if rng.random() < 0.5 else pixels


def transfer(title: str, spec: str, final, args) -> tuple[list[dict], float]:
    """Fit on other data, choose a threshold, and score it on fresh samples."""
    data = datasets.load(spec)
    n = args.samples
    network = lite0(args.side)
    extractor = TorchExtractor(
        network, 6, output="network._avg_pooling", input_shape=data.X_train.shape[1:]
    )
    # On a CPU small batches are quicker: large maps cost more memory than arithmetic.
    clf = E2CMClassifier(
        extractor, final=final, batch_size=32, memory=args.cache, verbose=1
    )
    clf.fit(data.X_train[:n], data.y_train[:n])
    tune, test = ((data.X_test[i:n:2], data.y_test[i:n:2]) for i in (0, 1))
    chosen = choose(sweep(clf, *tune), args.max_drop)
    rows = sweep(clf, *test)
    show(f"{title} answers at the last stage", rows, chosen)
    clf.set_params(threshold=chosen)
    ratio = time_ratio(
        clf.predict, partial(run, network), test[0], size=32, n_batches=8, repeats=3
    )
    print(f"Time of 32 at once: {ratio:.2f} of the uncut network's.")
    return rows, chosen


@torch.inference_mode()
def run(network, batch: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(batch)).numpy()


if __name__ == "__main__":
    main()
