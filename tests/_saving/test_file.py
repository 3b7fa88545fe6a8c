"""Files that are not what `save` has written are refused, and none runs code."""

import hashlib
import json
import os
import pickle
import struct
import sys

import numpy as np
import pytest
import torch

from sk_e2cm import E2CMClassifier, load, save
from sk_e2cm._saving import _file

from .networks import small

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(60, 3))


@pytest.fixture(scope="module")
def fitted(X):
    return E2CMClassifier().fit(X, np.arange(60) % 3)


@pytest.fixture
def file(fitted, tmp_path):
    save(fitted, tmp_path / "clf")
    return tmp_path / "clf"


def rewritten(path, change, tensors=None):
    """Write a file whose header `change` has changed, as whoever wants harm may."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    header = json.loads(metadata["sk_e2cm"])
    change(header)
    text = json.dumps(header)
    digest = hashlib.sha256(text.encode()).hexdigest()
    kept = safetensors.load_file(path) | (tensors or {})
    safetensors.save_file(kept, path, {"sk_e2cm": text, "sk_e2cm_sha256": digest})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere"):
        load(tmp_path / "nowhere")


def test_folders_are_no_files(fitted, tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        save(fitted, tmp_path)
    with pytest.raises(ValueError, match="is a folder: name the file"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing"):
        save(fitted, tmp_path / "missing" / "clf")


@pytest.mark.parametrize("make", [str, lambda path: path], ids=["text", "path"])
def test_paths_may_be_text(make, fitted, X, tmp_path):
    save(fitted, make(tmp_path / "clf"))
    np.testing.assert_array_equal(
        load(make(tmp_path / "clf")).predict(X), fitted.predict(X)
    )


def test_a_path_is_no_number(fitted):
    with pytest.raises(TypeError, match="PathLike"):
        save(fitted, 3)
    with pytest.raises(TypeError, match="PathLike"):
        load(3)


class _Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\0" * 100, pickle.dumps(_Harm()), b"PK\3\4" + b"\0" * 60],
    ids=["empty", "text", "zeros", "pickle", "zip"],
)
def test_files_of_another_kind_are_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match=r"no file that sk_e2cm.save has written"):
        load(tmp_path / "other")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["none", "torch's"])
def test_tensors_without_an_estimator_are_refused(metadata, tmp_path):
    safetensors.save_file({"weight": torch.ones(3)}, tmp_path / "other", metadata)
    with pytest.raises(ValueError, match="holds tensors, but no estimator"):
        load(tmp_path / "other")


def test_a_file_that_is_cut_off_anywhere_is_refused(file):
    content = file.read_bytes()
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match="or not all of it"):
            load(file)


def test_a_header_that_is_changed_anywhere_is_refused(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for place in range(0, 8 + length, 5):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"read|damaged|no estimator"):
            load(file)


def test_a_newer_format_asks_for_an_upgrade(file):
    rewritten(file, lambda header: header.update(format=2, version="9.1"))
    with pytest.raises(ValueError, match=r"by sk-e2cm 9.1, in format 2.* Upgrade"):
        load(file)


def _of(part, **others):
    return lambda header: header["estimator"][part].update(others)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.clear(),
        lambda header: header.pop("estimator"),
        lambda header: header.update(estimator=[]),
        lambda header: header["estimator"].pop("network"),
        lambda header: header["estimator"].update({"class": "os.system"}),
        lambda header: header["estimator"].update({"class": ["E2CMClassifier"]}),
        _of("parameters", unknown=1),
        _of("parameters", pooling={"is": "function", "of": "os.system"}),
        _of("parameters", pooling={"is": "object", "class": "os.system"}),
        _of("parameters", head={"is": "estimator", "class": "Pipeline"}),
        _of("parameters", head={"is": ["estimator"]}),
        _of("parameters", threshold={"is": "array", "tensor": "none"}),
        _of("network", labels={"is": "array", "tensor": "labels", "dtype": "x"}),
        _of("network", heads=3),
    ],
    ids=[
        "nothing",
        "no estimator",
        "a list",
        "no network",
        "another class",
        "a list of classes",
        "unknown parameter",
        "unknown kind",
        "unknown class",
        "unknown estimator",
        "no kind",
        "no tensor",
        "unknown numbers",
        "no heads",
    ],
)
def test_headers_that_make_no_sense_are_damaged(change, file):
    rewritten(file, change)
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"header of .* is damaged"):
        load(file)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "other",
    [torch.ones(2, dtype=torch.int64), torch.ones(3, dtype=torch.float32)],
    ids=["shape", "numbers"],
)
def test_other_tensors_than_the_header_says_are_refused(other, file):
    rewritten(file, lambda header: None, {"labels": other})
    with pytest.raises(ValueError, match="the tensor 'labels' is of"):
        load(file)


@pytest.mark.parametrize("stride", [[0], [10**12], [-1], [1, 1]], ids=str)
def test_tensors_take_no_more_memory_than_the_file(stride, file):
    def change(header):
        header["estimator"]["network"]["labels"]["stride"] = stride

    rewritten(file, change)
    with pytest.raises(ValueError, match=r"header of .* is damaged"):
        load(file)


def test_deeply_nested_headers_are_damaged(file):
    depth = 5_000

    def change(header):
        nested = []
        for _ in range(300):
            nested = [nested]
        header["estimator"]["parameters"]["threshold"] = nested

    rewritten(file, change)
    text = "[" * depth + "]" * depth
    digest = hashlib.sha256(text.encode()).hexdigest()
    tensors = safetensors.load_file(file)
    safetensors.save_file(tensors, file, {"sk_e2cm": text, "sk_e2cm_sha256": digest})
    with pytest.raises(ValueError, match=r"header of .* is damaged"):
        load(file)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_may_be_read_by_whom_other_files_may(file):
    beside = file.with_name("beside")
    beside.touch()
    assert file.stat().st_mode == beside.stat().st_mode


def test_an_interrupt_leaves_what_was_there(fitted, file, monkeypatch):
    before = file.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_file.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(fitted, file)
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == ["clf"]


@pytest.mark.parametrize("call", [save, load], ids=["save", "load"])
def test_a_missing_package_is_named(call, fitted, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    arguments = (fitted, file) if call is save else (file,)
    with pytest.raises(ImportError, match=r'pip install "sk-e2cm\[saving\]"'):
        call(*arguments)


def test_what_was_loaded_needs_the_file_no_more(path, clf, some, tmp_path):
    X, _ = some
    (tmp_path / "copy").write_bytes(path.read_bytes())
    loaded = load(tmp_path / "copy", small(seed=1))
    content = bytearray((tmp_path / "copy").read_bytes())
    with (tmp_path / "copy").open("r+b") as opened:
        opened.write(bytes(len(content)))
    np.testing.assert_array_equal(loaded.exit_proba(X), clf.exit_proba(X))
