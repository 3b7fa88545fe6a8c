"""Data sets by name: from a folder, from torchvision, from OpenML, or from disk.

======================  ========================================================
``npz:NAME``            ``NAME.npz`` (or a path to it) with X_train, y_train,
                        X_test and y_test
``torchvision:NAME``    a class of ``torchvision.datasets``, downloaded if needed
``openml:NAME``         a data set of OpenML, downloaded if needed; rows whose
                        length is that of a square image become images
``imagefolder:PATH``    one folder of pictures for each class, in ``PATH/train``
                        and ``PATH/val`` (or ``test``), or in ``PATH`` itself
======================  ========================================================

Everything lives in ``$SK_E2CM_DATA``, by default ``~/.cache/sk_e2cm``. Images are
uint8 of shape (n, channels, height, width). Pictures are decoded once into a file
that is then read batch by batch, so a data set need not fit into memory; decoding
goes on where it was interrupted.
"""

import inspect
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from tqdm import tqdm


class DataSet(NamedTuple):
    """Two parts, of which the first is what networks are trained on."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def home() -> Path:
    return Path(os.environ.get("SK_E2CM_DATA", "~/.cache/sk_e2cm")).expanduser()


def load(spec: str, *, side: int = 224) -> DataSet:
    """Load a data set; pictures of many sizes become squares of this side."""
    kind, _, name = spec.partition(":")
    loaders = {
        "npz": load_npz,
        "torchvision": load_torchvision,
        "openml": load_openml,
        "imagefolder": load_image_folder,
    }
    if kind not in loaders or not name:
        raise ValueError(
            f"{spec!r} is none of {', '.join(f'{k}:...' for k in loaders)}."
        )
    if kind in ("torchvision", "imagefolder"):
        return loaders[kind](name, side)
    return loaders[kind](name)


def load_npz(name: str) -> DataSet:
    path = Path(name) if name.endswith(".npz") else home() / f"{name}.npz"
    with np.load(path) as file:
        return DataSet(*(file[part] for part in DataSet._fields))


def load_openml(name: str) -> DataSet:
    from sklearn.datasets import fetch_openml

    X, y = fetch_openml(name, data_home=home(), as_frame=False, return_X_y=True)
    X = _as_images(X)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.2, stratify=y, random_state=0
    )
    return DataSet(X_train, y_train, X_test, y_test)


def _as_images(X: np.ndarray) -> np.ndarray:
    for channels in (1, 3):
        side = round((X.shape[1] / channels) ** 0.5)
        is_image = side > 7 and channels * side**2 == X.shape[1]
        if is_image and X.min() >= 0 and X.max() <= 255:
            return X.reshape(-1, channels, side, side).astype(np.uint8)
    return X.astype(np.float32)


def load_torchvision(name: str, side: int) -> DataSet:
    from torchvision import datasets

    for path in home().glob("*.npz"):  # the same data, brought in another way
        if path.stem.replace("_", "") == name.lower():
            return load_npz(str(path))
    make = getattr(datasets, name)
    takes_train = "train" in inspect.signature(make).parameters
    parts = [
        make(
            home(),
            download=True,
            **({"train": train} if takes_train else {"split": split}),
        )
        for train, split in ((True, "train"), (False, "test"))
    ]
    decoded = [
        decode(part, home() / f"{name}-{side}-{split}", side)
        for part, split in zip(parts, ("train", "test"), strict=True)
    ]
    return DataSet(*decoded[0], *decoded[1])


def load_image_folder(path: str, side: int) -> DataSet:
    from torchvision.datasets import ImageFolder

    root = Path(path)
    cache = home() / f"{'-'.join(root.resolve().parts[1:])}-{side}"
    parts = [root / part for part in ("train", "val", "test") if (root / part).is_dir()]
    if len(parts) >= 2:
        train, test = (
            decode(ImageFolder(part), cache / part.name, side) for part in parts[:2]
        )
        return DataSet(*train, *test)
    X, y = decode(ImageFolder(root), cache, side)
    train, test = train_test_split(
        np.arange(len(y)), test_size=0.2, stratify=y, random_state=0
    )
    return DataSet(X[train], y[train], X[test], y[test])


def decode(pictures, folder: Path, side: int, chunk: int = 512):
    """Write all pictures to one file, square and of one size, and map it.

    How many have been written is noted after each chunk, so that a second call goes
    on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, labels, progress = (
        folder / name for name in ("images.npy", "labels.npy", "progress.json")
    )
    n, (first, _) = len(pictures), pictures[0]
    channels = 1 if first.mode in ("1", "L") else 3
    started = {"n": n, "done": 0}
    if progress.exists() and json.loads(progress.read_text())["n"] == n:
        started = json.loads(progress.read_text())
    mode = "r+" if started["done"] else "w+"
    X = np.lib.format.open_memmap(images, mode, np.uint8, (n, channels, side, side))
    y = np.lib.format.open_memmap(labels, mode, np.int64, (n,))

    def write(i: int) -> None:
        picture, y[i] = pictures[i]
        X[i] = squared(picture, channels, side)

    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=n, initial=started["done"], desc=folder.name, unit="picture") as bar,
    ):
        for start in range(started["done"], n, chunk):
            stop = min(start + chunk, n)
            list(pool.map(write, range(start, stop)))
            X.flush()
            y.flush()
            progress.write_text(json.dumps({"n": n, "done": stop}))
            bar.update(stop - start)
    return np.load(images, mmap_mode="r"), np.load(labels)


def squared(picture, channels: int, side: int) -> np.ndarray:
    """Scale the shorter side of a picture, and cut out the middle."""
    picture = picture.convert("L" if channels == 1 else "RGB")
    width, height = picture.size
    scale = side / min(width, height)
    if scale != 1:
        picture = picture.resize((round(width * scale), round(height * scale)))
    left, top = ((length - side) // 2 for length in picture.size)
    pixels = np.asarray(picture.crop((left, top, left + side, top + side)))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
