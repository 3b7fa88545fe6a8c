"""The benchmark of scale, on little data."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import scale, scale_jobs, scale_picture, tables
from examples import datasets


@pytest.fixture
def images(monkeypatch):
    """Put little in place of Fashion-MNIST."""
    X = np.random.default_rng(0).integers(256, size=(20, 1, 4, 4)).astype(np.uint8)
    y = np.arange(20) % 10
    data = datasets.DataSet(X, y, X, y)
    monkeypatch.setattr(datasets, "load", lambda name: data)
    return X, y


def test_images_of_the_stream_are_repeated_with_noise_and_the_same_each_time(images):
    X, y = images
    stream = scale_jobs.Noisy(300)
    given, labels = map(np.concatenate, zip(*stream, strict=True))
    np.testing.assert_array_equal(given[:20], X)
    np.testing.assert_array_equal(labels, np.resize(y, 300))
    assert len(np.unique(given, axis=0)) == 300
    again, _ = map(np.concatenate, zip(*stream, strict=True))
    np.testing.assert_array_equal(again, given)


def test_each_class_of_the_synthetic_data_occurs():
    X, y = scale_jobs.gaussians(50, n=60, d=3, seed=0)
    assert X.shape == (60, 3)
    assert len(np.unique(y)) == 50


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    monkeypatch.setattr(scale_picture, "PICTURE", tmp_path / "scale.png")
    return tmp_path


def test_runs_that_are_there_are_not_run_again(folder, monkeypatch):
    called = []

    def call(*arguments):
        called.append(arguments)
        return {"seconds": len(called), "MB": 1.0}

    monkeypatch.setattr(scale, "call", call)
    for _ in range(2):
        scale.run(["width"])
    assert called == 3 * [("width", str(d)) for d in scale.WIDTHS]


def test_the_table_has_the_median_of_the_rounds_and_their_range(folder):
    runs = [["job", "of", "round", "measured"]]
    for round_, seconds in enumerate([5.0, 1.0, 2.0]):
        measured = {"seconds": seconds, "metric": "euclidean"}
        runs.append(["width", "64", str(round_), json.dumps(measured)])
    tables.write_table("scale_runs", runs)
    header, times, metric = scale.summed_up()
    assert header == ["job", "of", "what", "median", "least", "most"]
    assert times == ["width", "64", "seconds", "2", "1", "5"]
    assert metric == ["width", "64", "metric", "euclidean", "", ""]
    tables.write_table("scale", [header, times])
    scale_picture.draw(tables.read_table("scale"))
    with Image.open(folder / "scale.png") as picture:
        assert picture.size[0] > 1000


def test_closed_exits_differ_by_nothing():
    one, other = np.array([np.inf, 0.5]), np.array([np.inf, 0.75])
    assert scale.largest_difference(one, one) == 0
    assert scale.largest_difference(one, other) == 0.25
