"""Passes that are split among workers."""

import os
import pickle
import sys
import types

import joblib
import numpy as np
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor
from sk_e2cm._fitting._workers import _shipped, _unpacked
from sk_e2cm._multi_exit._full_pass import FullPass
from sk_e2cm.testing import ToyExtractor

N = 700


def make_data(n=N, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=n)
    X = 1.5 * rng.normal(size=(4, 12))[y] + rng.normal(size=(n, 12))
    return X, y, rng.uniform(0.5, 2, n)


SETTINGS = {
    "default": {},
    "the paper's": {"metric": "euclidean", "calibration": None},
    "remembering": {"carry": 1},
    "a classifier": {"head": LogisticRegression()},
}


def assert_same_exits(found, expected, X):
    for one, other in zip(found.class_means_, expected.class_means_, strict=True):
        if one is not None:
            assert_allclose(one, other, rtol=0, atol=1e-12)
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), rtol=0, atol=1e-9)


def foreign_extractor(monkeypatch):
    """Return an extractor of a module that this process alone has."""
    module = types.ModuleType("only_here")
    module.Foreign = type("Foreign", (ToyExtractor,), {"__module__": "only_here"})
    monkeypatch.setitem(sys.modules, "only_here", module)
    return module.Foreign()


@pytest.mark.parametrize("params", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("working_memory", [1024, 0.01])
def test_workers_give_the_fit_of_one(params, working_memory):
    X, y, weight = make_data()
    clf = E2CMClassifier(ToyExtractor(), batch_size=50, **params)
    with sklearn.config_context(working_memory=working_memory):
        expected = clone(clf).fit(X, y, weight)
        found = clone(clf).set_params(n_jobs=2).fit(X, y, weight)
    assert_same_exits(found, expected, X)


def test_samples_without_weight_do_not_count():
    X, y, weight = make_data()
    weight = np.where(np.arange(N) % 3 == 0, 0, weight)
    clf = E2CMClassifier(ToyExtractor(), batch_size=50)
    expected = clone(clf).fit(X[weight > 0], y[weight > 0], weight[weight > 0])
    found = clf.set_params(n_jobs=2).fit(X, y, weight)
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), rtol=0, atol=1e-9)


def test_a_function_of_the_main_script_is_a_pooling_for_workers():
    X, y, _ = make_data()
    clf = E2CMClassifier(ToyExtractor(), pooling=lambda x: x[:, :3], n_jobs=2)
    found = clf.fit(X, y).exit_proba(X)
    assert_array_equal(clf.set_params(n_jobs=1).fit(X, y).exit_proba(X), found)


def test_a_network_of_torch_goes_to_the_workers():
    images, y = np.random.default_rng(0).random((90, 1, 8, 8)), np.arange(90) % 2
    images = images.astype(np.float32)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
    clf = E2CMClassifier(TorchExtractor(network, ["0"]), batch_size=16, n_jobs=2)
    found = clf.fit(images, y).exit_proba(images)
    expected = clf.set_params(n_jobs=None).fit(images, y).exit_proba(images)
    assert_allclose(found, expected, rtol=0, atol=1e-5)


def files_in(folder):
    return sum(path.is_file() for path in folder.rglob("*"))


def test_workers_remember_what_each_fit_asks_for(tmp_path):
    X, y, _ = make_data()
    first, second = tmp_path / "first", tmp_path / "second"
    clf = E2CMClassifier(ToyExtractor(), batch_size=50, n_jobs=2)
    clf.set_params(memory=str(first)).fit(X, y)
    n_files = files_in(first)
    for memory in (str(second), None):
        clf.set_params(memory=memory).fit(X + 1, y)
    assert files_in(first) == n_files > 0
    assert files_in(second) > 0


class Moved(ToyExtractor):
    """Is back on the CPU when it is unpacked, as weights are."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.device = torch.device(device)

    def to(self, device):
        return Moved(device)

    def __reduce__(self):
        return Moved, ()


def test_a_pass_runs_on_the_device_that_it_is_sent_from():
    full_pass = FullPass(
        Moved("meta"), pooling="auto", batch_size=50, memory=joblib.Memory(None)
    )
    assert pickle.loads(pickle.dumps(full_pass.extractor)).device.type == "cpu"
    assert _unpacked(_shipped(full_pass)).extractor.device.type == "meta"


class Mortal(ToyExtractor):
    """Ends its process where it is not the one that it was made in."""

    def __init__(self):
        super().__init__()
        self.home = os.getpid()

    def advance(self, state, stage):
        if os.getpid() != self.home:
            os._exit(1)
        return super().advance(state, stage)


def test_a_worker_that_ends_is_told_of():
    X, y, _ = make_data()
    clf = E2CMClassifier(Mortal(), n_jobs=2, batch_size=50)
    with pytest.raises(RuntimeError, match=r"A worker has ended.*parallel_config"):
        clf.fit(X, y)
    assert not hasattr(clf, "network_")


def test_a_worker_that_lacks_a_package_is_told_of(monkeypatch):
    X, y, _ = make_data()
    clf = E2CMClassifier(foreign_extractor(monkeypatch), n_jobs=2, batch_size=50)
    with pytest.raises(ImportError, match=r"A worker lacks.*only_here.*Install"):
        clf.fit(X, y)


@pytest.mark.parametrize("params", [{}, {"carry": 1}], ids=str)
@pytest.mark.parametrize("working_memory", [1024, 0.01])
def test_workers_find_the_clusters_of_one(params, working_memory):
    X, _, weight = make_data()
    clusterer = E2CMClusterer(
        ToyExtractor(), 4, batch_size=50, random_state=0, **params
    )
    with sklearn.config_context(working_memory=working_memory):
        expected = clone(clusterer).fit(X, sample_weight=weight)
        found = clone(clusterer).set_params(n_jobs=2).fit(X, sample_weight=weight)
    assert_array_equal(found.labels_, expected.labels_)
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), rtol=0, atol=1e-9)
