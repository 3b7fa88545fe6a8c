"""Deep embedded clustering, as the papers define it, and the example around it."""

import re
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

import dec
import deep_clusters
import story

from sk_e2cm import TorchExtractor


def make_images(n=120, side=8, seed=0):
    """Return bright squares in three corners, as bytes, and the corner of each."""
    rng = np.random.default_rng(seed)
    corner = np.arange(n) % 3
    X = rng.integers(0, 60, (n, 1, side, side), dtype=np.uint8)
    for image, (top, left) in zip(
        X, np.array([(0, 0), (0, 1), (1, 1)])[corner], strict=True
    ):
        half = side // 2
        image[0, top * half :, left * half :][:half, :half] += 150
    return X, corner


def test_the_encoder_is_that_of_the_papers():
    encoder = dec.make_encoder(784)
    macs = TorchExtractor(encoder, dec.EXITS).macs((1, 28, 28))
    widths = [784, 500, 500, 2000, 10]
    each = [a * b for a, b in pairwise(widths)]
    assert list(macs) == list(np.cumsum(each))
    assert_allclose(macs / macs[-1], [0.24, 0.39, 0.99, 1], atol=0.005)


def test_soft_assignments_are_students_t():
    rng = np.random.default_rng(0)
    z, centers = rng.normal(size=(20, 4)), rng.normal(size=(3, 4))
    q = np.zeros((20, 3))
    for i in range(20):
        for j in range(3):
            q[i, j] = 1 / (1 + ((z[i] - centers[j]) ** 2).sum())
        q[i] /= q[i].sum()
    found = dec.assignments(torch.from_numpy(z), torch.from_numpy(centers))
    assert_allclose(found.numpy(), q, rtol=1e-10)
    p = np.array([[q[i, j] ** 2 / q[:, j].sum() for j in range(3)] for i in range(20)])
    p /= p.sum(axis=1, keepdims=True)
    assert_allclose(dec.sharpened(found).numpy(), p, rtol=1e-10)


def test_varied_images_stay_what_they_are():
    X, corner = make_images()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        varied = dec.varied(torch.from_numpy(X)).numpy()
    assert varied.shape == X.shape
    assert 0 <= varied.min() < varied.max() <= 255
    assert not np.allclose(varied, X)
    brightest = varied.reshape(len(X), 2, 4, 2, 4).mean(axis=(2, 4)).reshape(-1, 4)
    assert (brightest.argmax(axis=1) == np.array([0, 1, 3])[corner]).mean() > 0.95


@pytest.mark.parametrize("n_clusters", [2, 3, 4])
def test_clustering_accuracy_is_that_of_the_best_matching(n_clusters):
    rng = np.random.default_rng(n_clusters)
    y, labels = rng.integers(3, size=60), rng.integers(n_clusters, size=60)
    names = [*range(3), *(-1,) * max(n_clusters - 3, 0)]
    best = max(
        (np.array(match)[labels] == y).mean()
        for match in permutations(names, n_clusters)
    )
    assert dec.clustering_accuracy(y, labels) == pytest.approx(best)


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(dec, "WIDTHS", [50, 50, 200, 10])


def test_an_encoder_is_trained_once_and_saved(narrow, tmp_path, monkeypatch):
    X, corner = make_images()
    params = {"seed": 3, "n_pretraining": 60, "n_refinement": 2}
    with torch.random.fork_rng():
        first = dec.load_or_train(tmp_path / "new", "a", X, 3, **params)
        again = dec.train(X, 3, *params.values())
    assert not first.training
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)  # the seed says it all
    centers = dec.first_centers(first, torch.from_numpy(X), 3, seed=0)
    q = dec.assignments(dec.embed(first, torch.from_numpy(X)), centers)
    assert dec.clustering_accuracy(corner, q.argmax(dim=1).numpy()) > 0.9

    monkeypatch.setattr(dec, "train", lambda *_, **__: pytest.fail("trained again"))
    loaded = dec.load_or_train(tmp_path / "new", "a", X, 3, **params)
    for one, other in zip(first.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        dec.load_or_train(tmp_path / "new", "a", X, 3, **{**params, "seed": 4})


def test_the_example_tells_the_whole_story(narrow, tmp_path, monkeypatch, capsys):
    X, y = make_images(n=300)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SK_E2CM_DATA", str(tmp_path))
    parts = {"X_train": X[:200], "y_train": y[:200]}
    np.savez(tmp_path / "corners.npz", **parts, X_test=X[200:], y_test=y[200:])

    def once(*runs, size, n_batches):
        return story.time_ratio(*runs, size=size, n_batches=1, repeats=1)

    monkeypatch.setattr(deep_clusters, "time_ratio", once)
    options = ["--data", "npz:corners", "--pretraining", "30", "--refinement", "1"]
    with torch.random.fork_rng():
        deep_clusters.main([*options, "--max-drop", "0.03", "--picture", "a/b.png"])
    printed = capsys.readouterr().out
    assert "On 100 new images, full network:" in printed
    rows = re.findall(r"^(0\.\d+)(.) +([\d.]+) +([\d.]+) +([\d.]+)", printed, re.M)
    assert [row[0] for row in rows if row[1] == "*"] == ["0.030"]
    assert len(rows) == len(deep_clusters.MAX_DROPS) + 1
    costs = [float(row[4]) for row in rows]
    assert costs == sorted(costs)
    for size in (1, 1024):
        assert f"Time of {size} at once" in printed
    assert (tmp_path / "dec" / "corners-0-30-1.pt").exists()
    with Image.open(tmp_path / "a" / "b.png") as picture:
        picture.verify()
