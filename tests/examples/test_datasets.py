"""Data sets by name, from small files in the real formats; nothing is downloaded."""

import gzip
import hashlib
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_wine

from sk_e2cm import E2CMClassifier
from sk_e2cm.testing import ToyExtractor

pytest.importorskip("tqdm")

import datasets

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Return the folder of all data sets, which does not exist yet."""
    monkeypatch.setenv("SK_E2CM_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def noise(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def assert_same(data, expected):
    for part, wanted in zip(data, expected, strict=True):
        np.testing.assert_array_equal(part, wanted)


# npz


@pytest.fixture
def arrays():
    return datasets.DataSet(noise(6, 1, 4, 4), np.arange(6), noise(2, 1, 4, 4), [0, 1])


def save(arrays, path):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays._asdict())


def test_npz_by_name_and_by_path(arrays, home, tmp_path):
    save(arrays, home / "mine.npz")
    save(arrays, tmp_path / "elsewhere.npz")
    assert_same(datasets.load("npz:mine"), arrays)
    assert_same(datasets.load(f"npz:{tmp_path}/elsewhere.npz"), arrays)


def test_a_missing_npz_says_where_it_should_be_and_what_is_in_it(home):
    message = f"There is no {home}/mine.npz.*X_train, y_train.*SK_E2CM_DATA"
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load("npz:mine")


def test_an_npz_that_lacks_arrays_says_which(arrays, home):
    home.mkdir()
    np.savez(home / "mine.npz", X_train=arrays.X_train, y=arrays.y_train)
    message = r"mine.npz has no X_test, y_test, y_train, only \['X_train', 'y'\]"
    with pytest.raises(ValueError, match=message):
        datasets.load("npz:mine")


# Folders of pictures

SIZES = [(8, 8), (12, 9), (9, 14), (30, 21)]


def write_pictures(folder, n=4, names=("cat", "dog", "emu"), suffix="png", grey=(0,)):
    """Write n pictures for each class, of several sizes; the first ones are grey."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            width, height = SIZES[i % len(SIZES)]
            pixels = noise(height, width) if i in grey else noise(height, width, 3)
            path = folder / name / f"{i}.{suffix}"
            Image.fromarray(pixels).save(path)
            os.utime(path, (0, 0))  # all the same, as from an archive


def by_hand(folder, suffix="png", side=8):
    """Return X and y, in the order of the names."""
    classes = sorted(path.name for path in folder.iterdir())
    paths = [path for name in classes for path in sorted((folder / name).iterdir())]
    labels = [classes.index(path.parent.name) for path in paths]
    return np.stack([squared_by_hand(path, side) for path in paths]), labels


def squared_by_hand(path, side):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.uint8)
    shorter = min(pixels.shape[:2])
    height, width = (round(side * n / shorter) for n in pixels.shape[:2])
    pixels = np.asarray(Image.fromarray(pixels).resize((width, height)))
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side].transpose(2, 0, 1)


@pytest.mark.parametrize("held_out", ["val", "test"])
@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_a_folder_with_two_parts(tmp_path, held_out, suffix):
    write_pictures(tmp_path / "train", suffix=suffix)
    write_pictures(tmp_path / held_out, n=2, suffix=suffix)
    data = datasets.load(f"imagefolder:{tmp_path}", side=8)
    assert data.X_train.shape == (12, 3, 8, 8)
    assert data.X_train.dtype == np.uint8
    expected = [*by_hand(tmp_path / "train"), *by_hand(tmp_path / held_out)]
    assert_same(data, expected)


def test_a_folder_in_one_part_is_split_by_class(tmp_path):
    write_pictures(tmp_path / "all", n=10)
    data = datasets.load(f"imagefolder:{tmp_path / 'all'}", side=8)
    assert np.bincount(data.y_train).tolist() == [8, 8, 8]
    assert np.bincount(data.y_test).tolist() == [2, 2, 2]
    found = {
        (x.tobytes(), label)
        for X, y in (data[:2], data[2:])
        for x, label in zip(X, y.tolist(), strict=True)
    }
    X, y = by_hand(tmp_path / "all")
    assert found == {(x.tobytes(), label) for x, label in zip(X, y, strict=True)}
    assert_same(datasets.load(f"imagefolder:{tmp_path / 'all'}", side=8), data)


def test_a_path_from_home_and_a_relative_path(tmp_path, monkeypatch):
    write_pictures(tmp_path / "all")
    expected = datasets.load(f"imagefolder:{tmp_path / 'all'}", side=8)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert_same(datasets.load("imagefolder:~/all", side=8), expected)
    assert_same(datasets.load("imagefolder:all", side=8), expected)


def test_all_grey_pictures_get_three_equal_channels(tmp_path):
    write_pictures(tmp_path / "all", grey=range(4))
    X = datasets.load(f"imagefolder:{tmp_path / 'all'}", side=8).X_train
    assert X.shape[1] == 3
    np.testing.assert_array_equal(X, X[:, [1, 2, 0]])


def test_a_square_is_cut_out_of_the_middle():
    pixels = noise(4, 10, 3)
    wide = Image.fromarray(pixels)
    np.testing.assert_array_equal(
        datasets.squared(wide, 3, 4), pixels[:, 3:7].transpose(2, 0, 1)
    )
    tall = Image.fromarray(pixels[:, :, 0].T)
    np.testing.assert_array_equal(
        datasets.squared(tall, 1, 4), pixels[:, 3:7, 0].T[None]
    )
    plain = Image.new("RGB", (7, 31), (10, 20, 30))
    assert (
        datasets.squared(plain, 3, 20).reshape(3, -1).T.tolist() == [[10, 20, 30]] * 400
    )


def test_parts_that_differ_in_their_classes(tmp_path):
    write_pictures(tmp_path / "train")
    write_pictures(tmp_path / "val", names=("cat", "dog", "fox"))
    with pytest.raises(ValueError, match=r"do not share: \['emu', 'fox'\]"):
        datasets.load(f"imagefolder:{tmp_path}", side=8)


# Decoding


@pytest.fixture
def opened(monkeypatch):
    """Return the paths of the pictures that have been opened, in any order."""
    from torchvision.datasets import ImageFolder

    paths, get = [], ImageFolder.__getitem__

    def counted(self, i):
        paths.append(self.samples[i][0])
        return get(self, i)

    monkeypatch.setattr(ImageFolder, "__getitem__", counted)
    return paths


def load_folder(root):
    return datasets.load(f"imagefolder:{root}", side=8)


def test_a_second_time_no_picture_is_opened(tmp_path, opened):
    write_pictures(tmp_path / "all")
    first = load_folder(tmp_path / "all")
    assert len(opened) == 12
    assert_same(load_folder(tmp_path / "all"), first)
    assert len(opened) == 12


class Pictures:
    """Red pictures, one of which may be broken."""

    def __init__(self, n):
        self.n, self.asked, self.broken = n, [], None

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i == self.broken:
            raise OSError("broken")
        self.asked.append(i)
        return Image.new("RGB", (5, 4), (i, 0, 0)), i + 100


def test_decoding_goes_on_where_it_was_interrupted():
    pictures = Pictures(11)
    pictures.broken = 9
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            datasets.decode(pictures, Path("red"), 4, chunk=4)
    assert {*range(8)} <= {*pictures.asked}
    pictures.asked, pictures.broken = [], None
    X, y = datasets.decode(pictures, Path("red"), 4, chunk=4)
    assert sorted(pictures.asked) == [8, 9, 10]
    assert X[:, 0, 0, 0].tolist() == [*range(11)]
    assert y.tolist() == [*range(100, 111)]


def test_a_crash_while_progress_is_noted(monkeypatch):
    pictures = Pictures(8)

    def crash(path, text):
        path.write_bytes(text[:5].encode())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", crash)
        with pytest.raises(KeyboardInterrupt):
            datasets.decode(pictures, Path("red"), 4, chunk=4)
    X, _ = datasets.decode(pictures, Path("red"), 4, chunk=4)
    assert X[:, 0, 0, 0].tolist() == [*range(8)]


def add(root):
    write_pictures(root, n=1, names=["fox"])


def remove(root):
    (root / "dog" / "3.png").unlink()


def rename(root):
    (root / "dog" / "0.png").rename(root / "dog" / "9.png")


def move(root):
    (root / "dog" / "0.png").rename(root / "cat" / "9.png")


def overwrite(root):
    Image.new("RGB", (8, 8)).save(root / "dog" / "3.png")


@pytest.mark.parametrize("change", [add, remove, rename, move, overwrite])
def test_a_folder_whose_content_changed_is_decoded_anew(tmp_path, change):
    write_pictures(tmp_path / "train")
    write_pictures(tmp_path / "val")
    before = load_folder(tmp_path)
    kept = [part.copy() for part in before]
    for part in ("train", "val"):
        change(tmp_path / part)
    expected = [*by_hand(tmp_path / "train"), *by_hand(tmp_path / "val")]
    assert_same(load_folder(tmp_path), expected)
    assert_same(before, kept)  # still mapped by whoever loaded it


def test_every_size_has_its_own_file(tmp_path):
    write_pictures(tmp_path / "all")
    for side in (8, 10, 8):
        data = datasets.load(f"imagefolder:{tmp_path / 'all'}", side=side)
        assert data.X_train.shape[2:] == (side, side)


class Watching(ToyExtractor):
    """Takes the means of images, which must be rows of `data`."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def begin(self, X):
        # A few are copied, to be looked at before the fit.
        assert len(X) <= 64 or np.shares_memory(X, self.data)
        return super().begin(X.mean(axis=(2, 3)))


def test_pictures_stay_on_disk_while_an_estimator_is_fitted():
    class Many(Pictures):
        def __getitem__(self, i):
            return Image.new("RGB", (64, 64), (i % 256, i // 256, i % 7)), i % 4

    X, y = datasets.decode(Many(1500), Path("many"), 64)
    assert isinstance(X, np.memmap)
    assert not X.flags.writeable
    tracemalloc.start()
    try:
        E2CMClassifier(Watching(X), batch_size=16).fit(X[::2], y[::2])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < X[::2].nbytes / 3


# torchvision


def write_idx(path, array):
    """Write MNIST's format: a magic number, the shape, and the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4")
    path.write_bytes(header.tobytes() + array.tobytes())


@pytest.mark.parametrize("name", ["KMNIST", "FashionMNIST"])
@pytest.mark.parametrize("side", [28, 224])
def test_torchvision_images_in_an_array_keep_their_size(home, name, side):
    expected = []
    for part, n in (("train", 5), ("t10k", 3)):
        X, y = noise(n, 28, 28), np.arange(n, dtype=np.uint8)
        write_idx(home / name / "raw" / f"{part}-images-idx3-ubyte", X)
        write_idx(home / name / "raw" / f"{part}-labels-idx1-ubyte", y)
        expected += [X[:, None], y]
    assert_same(datasets.load(f"torchvision:{name}", side=side), expected)


def test_torchvision_images_are_scaled_down_to_the_side(home):
    for part in ("train", "t10k"):
        X = np.full((2, 28, 28), 9, dtype=np.uint8)
        write_idx(home / "KMNIST" / "raw" / f"{part}-images-idx3-ubyte", X)
        write_idx(home / "KMNIST" / "raw" / f"{part}-labels-idx1-ubyte", X[:, 0, 0])
    data = datasets.load("torchvision:KMNIST", side=14)
    assert_same(data[:2], [np.full((2, 1, 14, 14), 9), [9, 9]])


def test_cifar100(home, monkeypatch):
    from torchvision.datasets import CIFAR100

    folder = home / "cifar-100-python"
    folder.mkdir(parents=True)
    expected = []
    for part, n in (("train", 5), ("test", 3)):
        X, fine = noise(n, 3, 32, 32), [*range(90, 90 + n)]
        batch = {"data": X.reshape(n, -1), "fine_labels": fine, "coarse_labels": [0]}
        (folder / part).write_bytes(pickle.dumps(batch))
        monkeypatch.setattr(CIFAR100, f"{part}_list", [[part, None]])
        expected += [X, fine]
    names = {"fine_label_names": [f"thing {i}" for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": None})
    assert_same(datasets.load("torchvision:CIFAR100"), expected)


def test_an_npz_goes_before_a_download(arrays, home):
    save(arrays, home / "fashion_mnist.npz")
    assert_same(datasets.load("torchvision:FashionMNIST"), arrays)


# OpenML


def write_openml(home, name, X, y):
    """Write what scikit-learn keeps of a download."""
    columns = [f"x{i}" for i in range(X.shape[1])]
    rows = [
        ",".join([*map(str, x), label]) for x, label in zip(X.tolist(), y, strict=True)
    ]
    kinds = [f"@ATTRIBUTE {column} NUMERIC" for column in columns]
    classes = f"@ATTRIBUTE class {{{','.join(np.unique(y))}}}"
    arff = "\n".join([f"@RELATION {name}", *kinds, classes, "@DATA", *rows])
    no = dict.fromkeys(["is_target", "is_ignore", "is_row_identifier"], "false")
    no["number_of_missing_values"] = "0"
    features = [
        {"index": str(i), "name": column, "data_type": "numeric", **no}
        for i, column in enumerate(columns)
    ]
    target = {"name": "class", "data_type": "nominal", **no, "is_target": "true"}
    features.append({"index": str(X.shape[1]), **target})
    description = {
        "id": "7",
        "name": name,
        "version": "1",
        "format": "ARFF",
        "status": "active",
        "url": "https://openml.org/data/v1/download/7/data.arff",
        "md5_checksum": hashlib.md5(arff.encode()).hexdigest(),
    }
    found = {"did": 7, "name": name, "version": 1, "status": "active"}
    quality = [{"name": "NumberOfInstances", "value": str(len(X))}]
    search = f"data/list/data_name/{name}/limit/2/status/active/"
    answers = {
        f"api/v1/json/{search}": {"data": {"dataset": [found]}},
        "api/v1/json/data/7": {"data_set_description": description},
        "api/v1/json/data/features/7": {"data_features": {"feature": features}},
        "api/v1/json/data/qualities/7": {"data_qualities": {"quality": quality}},
    }
    texts = {path: json.dumps(answer) for path, answer in answers.items()}
    for path, text in {**texts, "data/v1/download/7/data.arff": arff}.items():
        target = Path(f"{home}/openml/openml.org/{path}.gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(text.encode()))


def together(data):
    """Return all rows with their labels, sorted."""
    X = np.concatenate([data.X_train, data.X_test]).reshape(-1, data.X_train[0].size)
    y = np.concatenate([data.y_train, data.y_test])
    return by_row(X, y)


def by_row(X, y):
    return sorted((*x, label) for x, label in zip(X.tolist(), y, strict=True))


def test_openml_rows_that_are_images(home):
    X, y = load_digits(n_class=3, return_X_y=True)
    X, y = X[:50], y[:50].astype(str)
    write_openml(home, "digits", X, y)
    data = datasets.load("openml:digits")
    assert data.X_train.shape == (40, 1, 8, 8)
    assert data.X_test.shape == (10, 1, 8, 8)
    assert data.X_train.dtype == np.uint8
    assert together(data) == by_row(X, y)


def test_openml_rows_that_are_colour_images(home):
    images = noise(10, 3, 9, 9)
    write_openml(home, "colours", images.reshape(10, -1), np.array(["a", "b"] * 5))
    data = datasets.load("openml:colours")
    assert data.X_train.shape == (8, 3, 9, 9)
    assert {x.tobytes() for x in data.X_train} < {x.tobytes() for x in images}


TABLES = {
    "wine": load_wine().data,
    "fractions": rng.integers(0, 256, (20, 64)) / 256,
    "negative": rng.integers(-9, 9, (20, 64)),
    "large": rng.integers(0, 999, (20, 64)),
}


@pytest.mark.parametrize("name", TABLES)
def test_openml_tables_stay_tables(home, name):
    X = TABLES[name].astype(np.float32)
    y = np.array(["no", "yes"])[np.arange(len(X)) % 2]
    write_openml(home, name, X, y)
    data = datasets.load(f"openml:{name}")
    assert data.X_train.dtype == np.float32
    assert data.X_train.shape[1:] == X.shape[1:]
    assert together(data) == by_row(X, y)


# Mistakes


@pytest.mark.parametrize("spec", ["csv:mine", "mine", "npz:", "", "imagefolder"])
def test_a_kind_that_is_not_known(spec):
    with pytest.raises(ValueError, match=f"is not {datasets.KINDS}"):
        datasets.load(spec)


def test_a_torchvision_class_that_does_not_exist():
    with pytest.raises(ValueError, match=r"torchvision\.datasets has no NMIST"):
        datasets.load("torchvision:NMIST")


def test_a_torchvision_class_without_parts():
    with pytest.raises(ValueError, match="Caltech101 has no part to test on"):
        datasets.load("torchvision:Caltech101")


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        datasets.load(f"imagefolder:{tmp_path / 'nowhere'}")


def test_a_folder_without_classes(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"any class folder in .*empty"):
        datasets.load(f"imagefolder:{tmp_path / 'empty'}")
