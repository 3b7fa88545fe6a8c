"""Networks of every kind, as one file and as one for each stage."""

import numpy as np
import pytest
import torch
from torch import nn

from sk_e2cm import onnx_exits, to_onnx

from .._extractors._torch import networks
from .._extractors._torch.zoo import N_TOKENS, Classifier
from .helpers import check_answers, fit, samples, written

LAYERS = [
    networks.Plain,
    networks.SkipAcross,
    networks.TwoAlive,
    networks.RowCountAlive,
    networks.ShapeAlive,
    networks.FoldedAlive,
    networks.ConstantAlive,
    networks.BufferRead,
    networks.MutatedAfterTheCut,
]


def both(fitted, folder):
    """Return what the one file answers, and what the folder does."""
    session = written(fitted, folder)
    to_onnx(fitted, folder / "stages", single_file=False)
    exits = onnx_exits.OnnxExits(folder / "stages")
    return [lambda X: session.run(None, {"X": X}), exits.run]


@pytest.mark.parametrize("make", LAYERS, ids=lambda make: make.__name__)
def test_whatever_is_alive_between_stages_samples_leave_as_they_do_in_torch(
    tmp_path, make
):
    torch.manual_seed(0)
    X, y = samples((4,))
    fitted = fit(make(), ["first", "second", "third"], X, y)
    for answers in both(fitted, tmp_path):
        stage = check_answers(answers, fitted, X)
    assert len(np.unique(stage)) > 2


@pytest.mark.parametrize(
    ("make", "exits", "shape"),
    [
        (networks.conv_chain, ["1", "2"], (3, 8, 8)),
        (networks.ResidualNetwork, ["stem", "block1", "block2"], (3, 8, 8)),
        (networks.in_place_chain, ["0", "2"], (4,)),
        (networks.SequenceFirst, ["first", "second"], (5, 4)),
        (networks.Attention, ["embed", "layer"], (5, 4)),
        (networks.LSTMStateAlive, ["second", "third"], (4,)),
        (networks.MultipleOfRowCountAlive, ["first", "second"], (4,)),
    ],
    ids=[
        "conv",
        "residual",
        "in_place",
        "sequence_first",
        "attention",
        "lstm",
        "count",
    ],
)
def test_networks_of_every_kind_leave_as_they_do_in_torch(tmp_path, make, exits, shape):
    torch.manual_seed(0)
    X, y = samples(shape)
    fitted = fit(make(), exits, X, y)
    for answers in both(fitted, tmp_path):
        check_answers(answers, fitted, X)


@pytest.mark.slow
def test_a_transformer_over_token_ids_leaves_as_it_does_in_torch(tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    y = np.arange(96) % 3
    X = rng.integers(1, N_TOKENS // 2, size=(96, 16)) + 8 * y[:, None]
    X[::4, 10:] = 0
    fitted = fit(Classifier(), ["encoder.layers.1", "encoder.layers.3"], X, y)
    for answers in both(fitted, tmp_path):
        check_answers(answers, fitted, X)


def test_a_network_without_exits_is_written_without_thresholds(tmp_path):
    X, y = samples((4,))
    fitted = fit(networks.Plain(), [], X, y)
    session = written(fitted, tmp_path)
    assert [each.name for each in session.get_inputs()] == ["X"]
    check_answers(lambda X: session.run(None, {"X": X}), fitted, X)


def test_a_network_in_double_precision_keeps_it(tmp_path):
    X, y = samples((4,))
    fitted = fit(networks.chain().double(), ["1", "3"], X.astype(np.float64), y)
    session = written(fitted, tmp_path)
    assert session.get_inputs()[0].type == "tensor(double)"
    answers = session.run(None, {"X": X.astype(np.float64)})
    np.testing.assert_allclose(answers[1], fitted.predict_proba(X), atol=1e-12)


def test_what_torch_cannot_write_is_refused_by_the_name_of_the_stage(tmp_path):
    X, y = samples((4,))
    network = nn.Sequential(
        nn.Linear(4, 4),
        networks.Function(lambda x: torch.special.i1(x)),
        nn.Linear(4, 3),
    )
    fitted = fit(network, ["0", "1"], X, y)
    message = r"Stage '1' cannot be written to ONNX by torch\.onnx: .*bessel_i1"
    with pytest.raises(ValueError, match=message):
        to_onnx(fitted, tmp_path / "early.onnx")
    assert not list(tmp_path.iterdir())


def test_convolutions_in_double_precision_are_refused(tmp_path):
    X, y = samples((3, 8, 8))
    fitted = fit(networks.conv_chain().double(), ["1"], X.astype(np.float64), y)
    with pytest.raises(ValueError, match=r"Stage '1' has Conv .*module\.float\(\)"):
        to_onnx(fitted, tmp_path / "early.onnx")


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_files_have_the_version_of_operations_that_was_asked_for(tmp_path, opset):
    onnx = pytest.importorskip("onnx")
    X, y = samples((3, 8, 8))
    fitted = fit(networks.conv_chain(), ["1", "2"], X, y)
    session = written(fitted, tmp_path, opset=opset)
    check_answers(lambda X: session.run(None, {"X": X}), fitted, X)
    model = onnx.load(tmp_path / "early.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]


def test_weights_of_more_than_a_message_holds_lie_beside_the_file(
    tmp_path, monkeypatch
):
    _files = pytest.importorskip("sk_e2cm._onnx._files")
    monkeypatch.setattr(_files, "_MOST_BYTES", 1000)
    X, y = samples((3, 8, 8))
    fitted = fit(networks.conv_chain(), ["1", "2"], X, y)
    sizes = []
    for _ in range(2):
        session = written(fitted, tmp_path)
        sizes.append((tmp_path / "early.onnx.data").stat().st_size)
    assert sizes[0] == sizes[1] > 1000
    assert len([*tmp_path.iterdir()]) == 2
    check_answers(lambda X: session.run(None, {"X": X}), fitted, X)


def test_the_same_file_runs_in_openvino(tmp_path):
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    X, y = samples((3, 8, 8))
    fitted = fit(networks.ResidualNetwork(), ["stem", "block1", "block2"], X, y)
    written(fitted, tmp_path)
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(tmp_path / "early.onnx"), "CPU", exact)
    check_answers(lambda X: model([X]).to_tuple(), fitted, X)
