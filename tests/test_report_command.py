"""``python -m sk_e2cm.report``: what it measures, and what ends it."""

import sys

import numpy as np
import pytest
import torch

from sk_e2cm import report as command

from .test_report import samples


@pytest.fixture
def files(tmp_path):
    network = tmp_path / "mine.py"
    network.write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(),\n"
        "                               torch.nn.Linear(16, 3))\n"
        "def nothing():\n"
        "    return None\n"
    )
    X, y = samples(240, 0)
    np.savez(tmp_path / "data.npz", X=X, y=y)
    return tmp_path


@pytest.mark.filterwarnings("ignore:The thresholds chosen close")
@pytest.mark.filterwarnings("ignore:By the clock")
def test_it_prints_a_verdict_and_saves_a_picture(files, capsys):
    picture = files / "report.png"
    arguments = ["--network", f"{files / 'mine.py'}:make"]
    arguments += ["--data", str(files / "data.npz"), "--exits", "1"]
    command.main([*arguments, "--batch-size", "8", "--picture", str(picture)])
    said = capsys.readouterr().out
    assert "120 samples" in said
    assert "Full network: accuracy" in said
    assert picture.stat().st_size > 0


def test_samples_of_a_training_set_are_left_alone(tmp_path):
    X, y = samples(30, 0)
    path = tmp_path / "all.npz"
    np.savez(path, X_train=X, y_train=y, X_test=X[:10], y_test=y[:10])
    found, labels = command.load_samples(str(path))
    np.testing.assert_array_equal(found, X[:10])
    np.testing.assert_array_equal(labels, y[:10])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("mine.py:other", "it has no 'other'"),
        ("mine.py", "neither FILE.py:FUNCTION nor MODULE:FUNCTION"),
        ("lacking.py:make", r"there is no .*lacking\.py"),
        ("no_such_module:make", "there is no 'no_such_module'"),
        ("no_such.module:make", r"there is no 'no_such\.module'"),
        (".mine:make", r"there is no '\.mine'"),
        ("mine.py:nothing", "returned a NoneType, no nn.Module"),
    ],
)
def test_what_is_no_network_ends_it(files, network, message):
    spec = str(files / network) if ".py" in network else network
    with pytest.raises(SystemExit, match=message):
        command.main(["--network", spec, "--data", str(files / "data.npz")])


def test_a_file_may_have_the_name_of_a_module(files):
    (files / "mine.py").rename(files / "random.py")
    network = command.load_network(f"{files / 'random.py'}:make")
    assert isinstance(network, torch.nn.Sequential)
    import random

    assert random.random() < 1


def test_what_the_code_of_the_network_raises_is_shown(files):
    (files / "bad.py").write_text("import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        command.load_network(f"{files / 'bad.py'}:make")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("other.npz", lambda p: np.savez(p, images=np.zeros(3)), "X and y.*images"),
        ("array.npy", lambda p: np.save(p, np.zeros(3)), "no file of numpy.savez"),
        (
            "cut.npz",
            lambda p: p.write_bytes(b"PK\x03\x04"),
            "no file of numpy.savez",
        ),
        ("empty.npz", lambda p: p.write_bytes(b""), "no file of numpy.savez"),
        ("lacking.npz", lambda p: None, "No such file"),
    ],
)
def test_files_without_samples_end_it(files, name, write, message):
    write(files / name)
    arguments = ["--network", f"{files / 'mine.py'}:make", "--data"]
    with pytest.raises(SystemExit, match=message):
        command.main([*arguments, str(files / name)])


def test_pickled_objects_are_not_loaded(tmp_path):
    y = np.array([{}, {}], dtype=object)
    np.savez(tmp_path / "objects.npz", X=np.zeros(2), y=y)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        command.load_samples(str(tmp_path / "objects.npz"))


@pytest.mark.parametrize("exits", ["layr", "0", "1, 9"])
def test_exits_that_there_are_not_end_it(files, exits):
    arguments = ["--network", f"{files / 'mine.py'}:make", "--exits", exits]
    with pytest.raises(SystemExit, match=r"^sk_e2cm\.report: "):
        command.main([*arguments, "--data", str(files / "data.npz")])


def test_a_picture_that_cannot_be_written_ends_it_before_all(files, capsys):
    arguments = ["--network", "x:y", "--data", "z", "--picture"]
    for picture in (files, files / "no" / "x.png"):
        with pytest.raises(SystemExit):
            command.main([*arguments, str(picture)])
        assert "no file in a folder that exists" in capsys.readouterr().err


def test_a_picture_asks_for_matplotlib_before_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["--network", "x:y", "--data", "z", "--picture"]
    with pytest.raises(SystemExit):
        command.main([*arguments, str(tmp_path / "x.png")])
    assert "requires matplotlib" in capsys.readouterr().err
