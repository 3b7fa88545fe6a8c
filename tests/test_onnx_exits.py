"""A folder of stages: run as a whole, on two machines, and with parts lacking."""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

from sk_e2cm import onnx_exits, to_onnx

from ._extractors._torch.networks import FoldedAlive, ResidualNetwork
from ._onnx.helpers import check_answers, fit, samples, thirds

OnnxExits = onnx_exits.OnnxExits

EXITS = ["first", "second", "third"]


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    X, y = samples((4,))
    return fit(FoldedAlive(), EXITS, X, y)


@pytest.fixture(scope="module")
def folder(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "stages"
    to_onnx(fitted, path, single_file=False)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "stages")


@pytest.fixture
def X():
    return samples((4,))[0]


def edit(folder, change):
    path = folder / onnx_exits.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_the_module_is_short_and_imports_onnxruntime_and_numpy_alone():
    lines = Path(onnx_exits.__file__).read_text().splitlines()
    assert len(lines) < 150
    words = [line.split() for line in lines]
    imports = [each[1] for each in words if each[:1] in (["import"], ["from"])]
    names = {name.split(".")[0] for name in imports}
    assert names - sys.stdlib_module_names == {"numpy", "onnxruntime"}


def test_samples_leave_as_they_do_in_torch(folder, fitted, X):
    check_answers(OnnxExits(folder).run, fitted, X)


@pytest.mark.parametrize(
    "threshold",
    [
        np.full((3, 1), np.inf),
        np.zeros((3, 1)),
        np.array([[np.inf], [0.4], [0.4]]),
        np.full((3, 3), [0.5, np.inf, 0.4]),
    ],
    ids=["closed", "open", "some", "per_class"],
)
def test_other_thresholds_may_be_given(folder, fitted, X, threshold):
    exits = OnnxExits(folder)
    check_answers(lambda X: exits.run(X, threshold), fitted, X, threshold)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_stages_may_run_on_different_machines(folder, fitted, X, cut):
    expected = OnnxExits(folder).run(X)
    here, there = (
        OnnxExits(folder, range(cut)),
        OnnxExits(folder, range(cut, 4)),
    )
    found, live = here.leave(here.begin(X))
    goes_on = found.exit < 0
    assert 0 < goes_on.sum() < len(X)
    others, nothing = there.leave(live)
    assert not nothing
    for own, of_others, wanted in zip(found, others, expected, strict=True):
        own[goes_on] = of_others
        np.testing.assert_array_equal(own, wanted)


def test_of_samples_that_have_all_left_nothing_is_alive(folder, X):
    here = OnnxExits(folder, range(2))
    found, live = here.leave(here.begin(X), np.zeros((3, 1)))
    assert (found.exit == 0).all()
    assert not live
    others, nothing = OnnxExits(folder, range(2, 4)).leave(live)
    assert len(others.label) == len(others.exit) == 0
    assert not nothing


def test_stages_that_are_not_there_or_not_loaded_are_named(folder, X):
    with pytest.raises(ValueError, match="among 0 to 3"):
        OnnxExits(folder, range(2, 9))
    there = OnnxExits(folder, range(1, 4))
    with pytest.raises(ValueError, match=r"Stage 1 needs .*, got \['X'\]"):
        there.run(X)


def test_what_fails_halfway_leaves_no_folder(fitted, tmp_path, monkeypatch):
    _folder = pytest.importorskip("sk_e2cm._onnx._folder")
    monkeypatch.delattr(_folder.shutil, "copyfile")
    with pytest.raises(AttributeError):
        to_onnx(fitted, tmp_path / "stages", single_file=False)
    assert not [*tmp_path.iterdir()]


def test_thresholds_below_all_probabilities_are_written(fitted, tmp_path, X):
    before = fitted.threshold
    try:
        fitted.set_params(threshold=-np.inf)
        to_onnx(fitted, tmp_path / "stages", single_file=False)
    finally:
        fitted.set_params(threshold=before)
    assert (OnnxExits(tmp_path / "stages").run(X).exit == 0).all()


def test_integers_and_double_precision_are_converted(folder, X):
    exits = OnnxExits(folder)
    whole = np.round(4 * X)
    expected = exits.run(whole).probabilities
    for dtype in (np.int32, np.float64):
        found = exits.run(whole.astype(dtype)).probabilities
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.zeros((2, 3)), ValueError, r"the shape \(4,\), got \(3,\)"),
        (np.float32(0), ValueError, r"the shape \(4,\), got \(\)"),
        ([["a"] * 4], TypeError, "an array of float32"),
        (np.zeros((2, 4), complex), TypeError, "an array of float32"),
    ],
    ids=["features", "no samples", "strings", "complex"],
)
def test_samples_that_do_not_fit_are_refused(folder, X, error, message):
    with pytest.raises(error, match=message):
        OnnxExits(folder).run(X)


@pytest.mark.parametrize(
    "thresholds", [np.zeros((2, 1)), np.zeros((3, 2)), np.full((3, 1), np.nan), 0.5]
)
def test_thresholds_that_do_not_fit_are_refused(folder, X, thresholds):
    with pytest.raises(ValueError, match=r"shape \(3,\), \(3, 1\) or \(3, 3\)"):
        OnnxExits(folder).run(X, thresholds)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_manifest_that_lacks_a_stage_is_refused(copied, stage):
    edit(copied, lambda manifest: manifest["stages"].pop(stage))
    with pytest.raises(ValueError, match="lacks a stage"):
        OnnxExits(copied)


def test_a_manifest_of_another_format_is_refused(copied):
    edit(copied, lambda manifest: manifest.update(format=2))
    with pytest.raises(ValueError, match="has the format 2, not 1"):
        OnnxExits(copied)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        OnnxExits(tmp_path)


def test_a_stage_without_its_file_is_refused(copied):
    (copied / "stage_2.onnx").unlink()
    with pytest.raises(Exception, match=r"stage_2\.onnx"):
        OnnxExits(copied)
    OnnxExits(copied, range(2))


@pytest.mark.slow
def test_an_environment_of_onnxruntime_and_numpy_alone_runs_both(tmp_path):
    torch.manual_seed(0)
    X, y = samples((3, 8, 8))
    fitted = fit(ResidualNetwork(), ["stem", "block1", "block2"], X, y)
    fitted.set_params(threshold=thirds(fitted, X))
    to_onnx(fitted, tmp_path / "early.onnx")
    to_onnx(fitted, tmp_path / "stages", single_file=False)
    np.save(tmp_path / "X.npy", X)
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "onnxruntime", "numpy"]
    subprocess.run(install, check=True, capture_output=True)
    script = """
import sys
import numpy as np
import onnxruntime
from onnx_exits import OnnxExits
X = np.load("../X.npy")
found = onnxruntime.InferenceSession("../early.onnx").run(None, {"X": X})
for name, one, other in zip(("label", "proba", "exit"), found, OnnxExits(".").run(X)):
    assert np.allclose(one, other, atol=1e-6), name
    np.save(f"../{name}.npy", one)
lacking = {"torch", "sklearn", "sk_e2cm", "scipy", "onnx"}
assert not lacking.intersection(sys.modules)
"""
    subprocess.run([python, "-c", script], check=True, cwd=tmp_path / "stages")
    answers = [np.load(tmp_path / f"{n}.npy") for n in ("label", "proba", "exit")]
    check_answers(lambda X: [each[: len(X)] for each in answers], fitted, X)
