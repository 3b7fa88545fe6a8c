"""Networks in low precision, in another memory format, and on a GPU."""

import copy

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from sk_e2cm import E2CMClassifier, TorchExtractor

from .test_paper import paper_probabilities

LOW = [torch.float16, torch.bfloat16]


def low_precision_outputs(network, X):
    """Run the network by hand in its own precision; return what exits see, as float."""
    with torch.no_grad():
        stem = network.stem(torch.from_numpy(X).to(network.head.weight.dtype))
        down = network.down(stem + torch.relu(network.block(stem)))
    return [value.float().flatten(1).double().numpy() for value in (stem, down)]


@pytest.fixture
def low(network, request):
    return copy.deepcopy(network).to(request.param)


@pytest.mark.parametrize("low", LOW, indirect=True, ids=str)
def test_a_network_in_low_precision_is_judged_in_full_precision(low, digits):
    X, y = digits[0][:200], digits[1][:200]
    extractor = TorchExtractor(low, ["stem", "down"])
    paper = {"metric": "euclidean", "pooling": "none", "calibration": None}
    clf = E2CMClassifier(extractor, batch_size=200, **paper)
    proba = clf.fit(X, y).exit_proba(X)
    for stage, outputs in enumerate(low_precision_outputs(low, X)):
        expected = paper_probabilities(outputs, y, outputs)
        np.testing.assert_allclose(proba[:, stage], expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["auto", 1])
@pytest.mark.parametrize("low", LOW, indirect=True, ids=str)
def test_averages_of_low_precision_are_taken_in_full(low, digits, pooling):
    X, y = digits[0][:200], digits[1][:200]
    extractor = TorchExtractor(low, ["stem", "down"])
    means = E2CMClassifier(extractor, pooling=pooling).fit(X, y).class_means_
    stem, _ = low_precision_outputs(low, X)
    grid = 4 if pooling == "auto" else 1
    cells = stem.reshape(200, 8, grid, 8 // grid, grid, 8 // grid).mean(axis=(3, 5))
    expected = [cells.reshape(200, -1)[y == k].mean(axis=0) for k in range(10)]
    np.testing.assert_allclose(means[0], expected, atol=1e-6)


@pytest.mark.parametrize("low", LOW, indirect=True, ids=str)
def test_a_head_in_low_precision_answers(low, digits):
    X, y = digits
    clf = E2CMClassifier(TorchExtractor(low, ["stem"]), final="network")
    clf.fit(X[:200], y[:200]).set_params(threshold=np.inf)
    with torch.no_grad():
        expected = low(torch.from_numpy(X).to(low.head.weight.dtype)).argmax(dim=1)
    agree = clf.predict(X) == expected.numpy()
    assert agree.mean() > 0.99  # in batches of other sizes it rounds differently


def test_maps_stay_in_channels_last_format_when_samples_leave(network, digits):
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    extractor = TorchExtractor(network, ["stem", "block"])
    state = extractor.begin(digits[0][:6])
    for stage in range(2):
        state, output = extractor.advance(state, stage)
        assert output.is_contiguous(memory_format=torch.channels_last)
        state = extractor.keep(state, np.array([3, 1]) if stage else np.arange(4))
        maps = [value for value in state.values if value.dim() == 4]
        assert maps
        for value in maps:
            assert value.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_decides_as_the_cpu_does(network, digits, monkeypatch):
    # By default cuDNN rounds what convolutions take to ten bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    X, y = digits
    clf = E2CMClassifier(TorchExtractor(network, ["stem", "down"])).fit(
        X[:600], y[:600]
    )
    on_gpu = copy.deepcopy(clf).set_params(device="cuda")
    np.testing.assert_allclose(on_gpu.exit_proba(X), clf.exit_proba(X), atol=1e-3)
    sure = abs(clf.exit_proba(X).max(axis=2) - clf.threshold).min(axis=1) > 1e-3
    np.testing.assert_array_equal(on_gpu.predict(X)[sure], clf.predict(X)[sure])


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
def test_data_sorted_by_class_far_from_zero_lose_no_digits(offset):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2, 3], [1200, 600, 600, 600])
    means = 0.05 * rng.normal(size=(4, 20))
    means[1:] += offset
    X, X_new = ((means[y] + 0.1 * rng.normal(size=(3000, 20))) for _ in range(2))
    single = E2CMClassifier(metric="mahalanobis").fit(X.astype(np.float32), y)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    lda.fit(X.astype(np.float32).astype(np.float64), y)
    agree = single.predict(X_new.astype(np.float32)) == lda.predict(X_new)
    assert agree.mean() > 0.97


def test_masked_outputs_of_the_network_are_no_infinities():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 6)

        def forward(self, x):
            off = torch.tensor([False, False, False, False, True, True])
            least = torch.finfo(torch.float32).min
            return self.last(self.first(x).relu()).masked_fill(off, least)

    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Masked()
    with torch.no_grad():
        y = network(torch.from_numpy(X)).argmax(dim=1).numpy()
    clf = E2CMClassifier(
        TorchExtractor(network, ["first"]),
        final="network",
        head_classes=range(6),
        calibration=None,
    ).fit(X, y)
    np.testing.assert_array_equal(clf.set_params(threshold=np.inf).predict(X), y)
