"""What the file answers, what may be set at run time, and what is refused."""

import json
import sys

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sk_e2cm import (
    E2CMClassifier,
    TorchExtractor,
    TunedExitsCV,
    onnx_exits,
    to_onnx,
)
from sk_e2cm.onnx_exits import OnnxExits
from sk_e2cm.testing import ToyExtractor

from ._extractors._torch.networks import Plain
from ._onnx.helpers import check_answers, fit, samples, session_of, written

EXITS = ["first", "second"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    X, y = samples((4,))
    return fit(Plain(), EXITS, X, y)


@pytest.fixture(scope="module")
def session(fitted, folder):
    return written(fitted, folder)


@pytest.fixture
def X():
    return samples((4,))[0]


def test_the_file_takes_X_and_returns_label_probabilities_and_exit(session):
    outputs = [each.name for each in session.get_outputs()]
    assert outputs == ["label", "probabilities", "exit"]
    first, *_ = session.get_inputs()
    assert (first.name, first.shape[1:], first.type) == ("X", [4], "tensor(float)")


def test_the_fitted_thresholds_need_not_be_given(fitted, session, X):
    check_answers(lambda X: session.run(None, {"X": X}), fitted, X)


@pytest.mark.parametrize(
    "threshold",
    [
        np.full((2, 1), np.inf),
        np.zeros((2, 1)),
        np.array([[np.inf], [0.4]]),
        np.array([[0.5, np.inf, 0.4], [0.35, 0.6, 0.45]]),
    ],
    ids=["closed", "open", "second", "per_class"],
)
def test_other_thresholds_may_be_given(fitted, session, X, threshold):
    given = {"thresholds": threshold}
    check_answers(lambda X: session.run(None, {"X": X, **given}), fitted, X, threshold)


def test_an_exit_that_was_closed_can_be_opened(tmp_path, fitted, X):
    before = fitted.threshold
    try:
        session = written(fitted.set_params(threshold=np.inf), tmp_path)
        *_, exit_ = session.run(None, {"X": X})
        assert (exit_ == 2).all()
        threshold = before[:, None]
        given = {"thresholds": threshold}
        check_answers(
            lambda X: session.run(None, {"X": X, **given}), fitted, X, threshold
        )
    finally:
        fitted.set_params(threshold=before)


@pytest.mark.parametrize("carry", [0, 1])
def test_exits_that_are_closed_can_be_left_out(tmp_path, carry):
    torch.manual_seed(0)
    X, y = samples((4,), n=300)
    exits = ["first", "second", "third"]
    fitted = fit(Plain(), exits, X, y, metric="mahalanobis", carry=carry)
    fitted.set_params(threshold=np.where([0, 1, 0], fitted.threshold, np.inf))
    session = written(fitted, tmp_path, only_open=True)
    stage = check_answers(lambda X: session.run(None, {"X": X}), fitted, X)
    assert {*stage} == {1, 3}
    to_onnx(fitted, tmp_path / "stages", single_file=False, only_open=True)
    folder = OnnxExits(tmp_path / "stages")
    check_answers(folder.run, fitted, X)
    # What a head carries is computed where it is.
    n_written = len(fitted.network_.heads[1].carried) + 2
    assert len(folder.stages) == n_written
    (thresholds,) = session.get_overridable_initializers()
    assert (thresholds.name, thresholds.shape[0]) == ("thresholds", n_written - 1)


def test_the_metadata_say_what_leaving_costs(fitted, session):
    about = session.get_modelmeta().custom_metadata_map
    found = {name: json.loads(value) for name, value in about.items()}
    assert found["stages"] == ["first", "second", "output"]
    assert found["costs"] == fitted.stage_cost_.tolist()
    assert found["cost_unit"] == "multiply-adds"
    assert found["classes"] == [0, 1, 2]
    assert found["sk_e2cm"] == __import__("sk_e2cm").__version__


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["cat", "dog", "eel"], object),
        ([3, 5, -7], np.int64),
        (np.array([1, 2, 3], dtype=np.uint8), np.int64),
        ([0.5, 1.0, 2.0], np.float64),
    ],
    ids=["strings", "integers", "bytes", "floats"],
)
def test_labels_are_those_of_the_fit(tmp_path, X, names, kind):
    y = np.array(names)[np.arange(len(X)) % 3]
    if y.dtype.kind == "f":
        y = np.floor(y * 2)
    fitted = fit(Plain(), EXITS, X, y)
    session = written(fitted, tmp_path)
    label, *_ = session.run(None, {"X": X})
    assert label.dtype == kind
    assert (label == fitted.predict(X)).mean() > 0.95


def test_tuned_thresholds_are_those_of_the_file(tmp_path):
    torch.manual_seed(0)
    X, y = samples((4,), n=300)
    clf = E2CMClassifier(TorchExtractor(Plain(), EXITS), final="class_means")
    search = TunedExitsCV(clf, max_cost=0.7, random_state=0).fit(X, y)
    session = written(search, tmp_path)
    check_answers(lambda X: session.run(None, {"X": X}), search, X)


def test_a_file_that_is_there_is_replaced_and_nothing_else_is_left(tmp_path, fitted, X):
    path = tmp_path / "early.onnx"
    path.write_text("something else")
    to_onnx(fitted, path)
    assert len(session_of(path).run(None, {"X": X})) == 3
    assert [each.name for each in tmp_path.iterdir()] == ["early.onnx"]


def test_nan_leaves_at_the_first_open_exit(session, X):
    X = X.copy()
    X[3] = np.nan
    *_, exit_ = session.run(None, {"X": X})
    assert exit_[3] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"thresholds": np.zeros((3, 1))},
            "Got invalid dimensions for input: thresholds",
        ),
        (
            {"thresholds": np.zeros((2, 2))},
            r"thresholds must have shape \(2, 1\) or \(2, 3\)",
        ),
        ({"X": np.zeros((5, 3), np.float32)}, "Got invalid dimensions for input: X"),
        ({"X": np.zeros((5, 4))}, "Unexpected input data type.*float"),
    ],
    ids=["exits", "classes", "features", "type"],
)
def test_what_does_not_fit_is_refused_at_run_time(session, X, given, message):
    with pytest.raises(Exception, match=message) as raised:
        session.run(None, {"X": X, **given})
    assert type(raised.value).__module__.startswith("onnxruntime")


def test_an_estimator_that_is_not_fitted_is_refused(tmp_path):
    clf = E2CMClassifier(TorchExtractor(Plain(), EXITS))
    with pytest.raises(NotFittedError):
        to_onnx(clf, tmp_path / "early.onnx")


def test_extractors_that_are_not_torchs_are_refused_by_name(tmp_path):
    X, y = samples((4,))
    for extractor, name in ((ToyExtractor(), "ToyExtractor"), (None, "RawFeatures")):
        clf = E2CMClassifier(extractor).fit(X, y)
        with pytest.raises(TypeError, match=f"and not {name}"):
            to_onnx(clf, tmp_path / "early.onnx")


def test_of_a_pipeline_the_last_step_is_asked_for(tmp_path, fitted):
    pipeline = make_pipeline(FunctionTransformer(), fitted)
    with pytest.raises(TypeError, match=r"to_onnx\(pipeline\[-1\], path\)"):
        to_onnx(pipeline, tmp_path / "early.onnx")


def test_what_has_no_exits_is_refused(tmp_path):
    with pytest.raises(TypeError, match="early exits"):
        to_onnx(nn.Linear(2, 2), tmp_path / "early.onnx")


@pytest.mark.parametrize("opset", [17, 99, 18.0, "18", True, np.array([18, 19])])
def test_versions_of_operations_that_nobody_writes_are_refused(tmp_path, fitted, opset):
    with pytest.raises(ValueError, match="must be a whole number from 18"):
        to_onnx(fitted, tmp_path / "early.onnx", opset=opset)


def test_half_precision_is_refused(tmp_path, X):
    fitted = fit(Plain().bfloat16(), EXITS, X, np.arange(len(X)) % 3)
    with pytest.raises(ValueError, match=r"module\.float\(\)"):
        to_onnx(fitted, tmp_path / "early.onnx")


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_layers_that_torch_has_quantised_are_refused(tmp_path, X):
    network = torch.ao.quantization.quantize_dynamic(Plain(), {nn.Linear})
    fitted = fit(network, EXITS, X, np.arange(len(X)) % 3)
    with pytest.raises(ValueError, match="quantised"):
        to_onnx(fitted, tmp_path / "early.onnx")


def test_paths_that_cannot_be_written_are_refused(tmp_path, fitted):
    with pytest.raises(IsADirectoryError, match="name a file"):
        to_onnx(fitted, tmp_path)
    with pytest.raises(FileExistsError, match="is there already"):
        to_onnx(fitted, tmp_path, single_file=False)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        to_onnx(fitted, tmp_path / "nowhere" / "early.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_lacking_package_is_named(tmp_path, fitted, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}: pip install .sk-e2cm\[onnx\]"):
        to_onnx(fitted, tmp_path / "early.onnx")


@pytest.mark.parametrize("single_file", [True, False])
def test_a_file_is_written_without_what_runs_it(
    fitted, tmp_path, monkeypatch, single_file
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    to_onnx(fitted, tmp_path / "written", single_file=single_file)
    assert (tmp_path / "written").exists()
    assert "onnxruntime" not in vars(onnx_exits)
