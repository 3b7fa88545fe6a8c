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
goes on where it was interrupted, and starts anew where pictures have changed.
"""

import copy
import hashlib
import inspect
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from tqdm import tqdm

KINDS = "npz:NAME, torchvision:NAME, openml:NAME or imagefolder:PATH"


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
    match kind if name else "":
        case "npz":
            return load_npz(name)
        case "torchvision":
            return load_torchvision(name, side)
        case "openml":
            return load_openml(name)
        case "imagefolder":
            return load_image_folder(name, side)
    raise ValueError(f"{spec!r} is not {KINDS}.")


def load_npz(name: str) -> DataSet:
    path = Path(name) if name.endswith(".npz") else home() / f"{name}.npz"
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path}. Write it with numpy.savez, with the arrays "
            f"{', '.join(DataSet._fields)}, or set SK_E2CM_DATA to the folder it is in."
        )
    with np.load(path) as file:
        lacking = sorted(set(DataSet._fields) - set(file))
        if lacking:
            raise ValueError(f"{path} has no {', '.join(lacking)}, only {file.files}.")
        return DataSet(*(file[part] for part in DataSet._fields))


def load_openml(name: str) -> DataSet:
    from sklearn.datasets import fetch_openml

    X, y = fetch_openml(
        name, data_home=home(), as_frame=False, return_X_y=True, parser="liac-arff"
    )
    X = _as_images(X.astype(np.float32))
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.2, stratify=y, random_state=0
    )
    return DataSet(X_train, y_train, X_test, y_test)


def _as_images(X: np.ndarray) -> np.ndarray:
    for channels in (1, 3):
        side = round((X.shape[1] / channels) ** 0.5)
        is_square = side > 7 and channels * side**2 == X.shape[1]
        if is_square and X.min() >= 0 and X.max() <= 255 and not (X % 1).any():
            return X.reshape(-1, channels, side, side).astype(np.uint8)
    return X


def load_torchvision(name: str, side: int) -> DataSet:
    from torchvision import datasets

    for path in home().glob("*.npz"):  # the same data, brought in another way
        if path.stem.replace("_", "") == name.lower():
            return load_npz(str(path))
    make = getattr(datasets, name, None)
    if make is None:
        raise ValueError(f"torchvision.datasets has no {name}.")
    takes = inspect.signature(make).parameters
    if "train" in takes:
        options = [{"train": True}, {"train": False}]
    elif "split" in takes:
        options = [{"split": "train"}, {"split": "test"}]
    else:
        raise ValueError(f"torchvision's {name} has no part to test on.")
    train, test = (make(home(), download=True, **option) for option in options)
    return DataSet(
        *decode(train, Path(name, "train"), side),
        *decode(test, Path(name, "test"), side),
    )


def load_image_folder(path: str, side: int) -> DataSet:
    from torchvision.datasets import ImageFolder

    root = Path(path).expanduser().resolve()
    held_out = [root / part for part in ("val", "test") if (root / part).is_dir()]
    if (root / "train").is_dir() and held_out:
        train, test = ImageFolder(root / "train"), ImageFolder(held_out[0])
        if train.classes != test.classes:
            raise ValueError(
                f"Classes that {train.root} and {test.root} do not share: "
                f"{sorted({*train.classes} ^ {*test.classes})}."
            )
    else:
        train = ImageFolder(root)
        test = copy.copy(train)
        train.samples, test.samples = train_test_split(
            train.samples, test_size=0.2, stratify=train.targets, random_state=0
        )
    name = Path(*root.parts[1:])
    return DataSet(
        *decode(train, name / "train", side), *decode(test, name / "test", side)
    )


def decode(pictures, name: Path, side: int, chunk: int = 512):
    """Write all pictures to one file, square and of one size, and map it.

    How many have been written is noted after each chunk, so that a second call goes
    on from there.
    """
    channels = 3
    if hasattr(pictures, "data"):  # already an array: all are like the first
        first, _ = pictures[0]
        channels, side = len(first.getbands()), min(side, *first.size)
    n, shape = len(pictures), (channels, side, side)
    folder = home() / "decoded" / name / "x".join(map(str, shape))
    folder.mkdir(parents=True, exist_ok=True)
    images, labels, progress = (
        folder / name for name in ("images.npy", "labels.npy", "progress.json")
    )
    content = content_of(pictures)
    noted = json.loads(progress.read_text()) if progress.exists() else {}
    done = noted["done"] if noted.get("content") == content else 0
    if not done:
        for old in (progress, images, labels):
            old.unlink(missing_ok=True)  # who has mapped it keeps what they have
    mode = "r+" if done else "w+"
    X = np.lib.format.open_memmap(images, mode, np.uint8, (n, *shape))
    y = np.lib.format.open_memmap(labels, mode, np.int64, (n,))

    def write(i: int) -> None:
        picture, y[i] = pictures[i]
        X[i] = squared(picture, channels, side)

    with (
        ThreadPoolExecutor() as pool,
        tqdm(
            total=n, initial=done, desc=str(Path(*name.parts[-2:])), unit="picture"
        ) as bar,
    ):
        for start in range(done, n, chunk):
            stop = min(start + chunk, n)
            list(pool.map(write, range(start, stop)))
            X.flush()
            y.flush()
            note = progress.with_suffix(".new")
            note.write_text(json.dumps({"content": content, "done": stop}))
            note.replace(progress)
            bar.update(stop - start)
    return np.load(images, mmap_mode="r"), np.load(labels)


def content_of(pictures) -> str:
    """Return a key that changes where files were added, removed or written anew."""
    key = hashlib.sha256(str(len(pictures)).encode())
    for path, label in getattr(pictures, "samples", ()):
        key.update(f"{path} {label} {os.stat(path).st_mtime_ns}".encode())
    return key.hexdigest()


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
