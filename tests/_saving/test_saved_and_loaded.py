"""What is loaded answers bit for bit as what was saved."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, load, save

from .conftest import EXITS
from .networks import small

METHODS = (
    "predict",
    "predict_proba",
    "predict_exit",
    "predict_all",
    "staged_predict",
    "exit_proba",
    "cost",
)


def answers(estimator, X):
    found = {
        name: getattr(estimator, name)(X)
        for name in METHODS
        if hasattr(estimator, name)
    }
    for name in ("predict_all", "staged_predict"):
        found[name] = list(found[name])
    return found


def assert_same(found, expected):
    """Compare values of any depth, bit for bit, types included."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.strides == expected.strides
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, (float, np.floating)):
        np.testing.assert_equal(found, expected)
    elif not hasattr(expected, "get_params"):
        assert repr(found) == repr(expected)


def inside(estimator):
    return getattr(estimator, "estimator_", estimator)


def test_answers_are_the_same_to_the_bit(saved, some):
    X, _ = some
    assert_same(answers(saved.loaded, X), answers(saved.estimator, X))


def test_a_single_sample_may_come_first(saved, some):
    X, _ = some
    again = load(saved.path, small(seed=2))
    assert_same(again.exit_proba(X[:1]), saved.estimator.exit_proba(X[:1]))


def test_fitted_attributes_come_back(saved):
    for which in (lambda estimator: estimator, inside):
        before, after = vars(which(saved.estimator)), vars(which(saved.loaded))
        assert set(after) == set(before)
        plain = [k for k, v in before.items() if k.endswith("_") and plainly(v)]
        assert plain
        assert_same({k: after[k] for k in plain}, {k: before[k] for k in plain})


def plainly(value):
    return isinstance(value, (np.ndarray, float, int, str, list, tuple, dict))


def test_costs_and_seconds_come_back(saved):
    before, after = inside(saved.estimator), inside(saved.loaded)
    assert_same(after.stage_cost_, before.stage_cost_)
    assert str(after.seconds_) == str(before.seconds_)
    assert after.network_.at_once == before.network_.at_once
    assert after.network_.costs.unit == before.network_.costs.unit


def test_the_table_of_costs_is_the_same(saved, capsys):
    saved.estimator.summary()
    before = capsys.readouterr().out
    saved.loaded.summary()
    assert capsys.readouterr().out == before


def test_parameters_come_back(saved):
    before, after = (each.get_params() for each in (saved.estimator, saved.loaded))
    assert str(after) == str(before)
    assert inside(saved.loaded).extractor == inside(saved.estimator).extractor


def test_the_same_form_of_the_network_runs(saved):
    before, after = inside(saved.estimator), inside(saved.loaded)
    assert after.extractor_.fingerprint == before.extractor_.fingerprint
    assert after.extractor_.findings[0] == before.extractor_.findings[0]
    assert after.extractor_.findings[3] == before.extractor_.findings[3]


def test_a_clone_is_not_fitted_and_fits_the_same(saved, some):
    X, y = some
    again = clone(saved.loaded)
    assert not hasattr(inside(again), "network_")
    is_timed = inside(saved.estimator).cost_unit == "seconds"
    if not is_timed and getattr(again, "cv", None) != "prefit":
        expected = clone(saved.estimator).fit(X, y)
        assert_same(again.fit(X, y).predict(X), expected.predict(X))


def test_what_was_loaded_may_be_pickled(saved, some):
    X, _ = some
    again = pickle.loads(pickle.dumps(saved.loaded))
    assert_same(again.exit_proba(X), saved.estimator.exit_proba(X))


def test_what_was_loaded_may_be_saved_again(saved, some, tmp_path):
    X, _ = some
    save(saved.loaded, tmp_path / "again")
    again = load(tmp_path / "again", small(seed=3))
    assert (tmp_path / "again").stat().st_size == saved.path.stat().st_size
    assert_same(again.exit_proba(X), saved.estimator.exit_proba(X))


def test_thresholds_of_what_was_loaded_may_be_changed(path, clf, some):
    X, _ = some
    loaded = load(path, small(seed=1)).set_params(threshold=0.5)
    expected = pickle.loads(pickle.dumps(clf)).set_params(threshold=0.5)
    assert_same(loaded.predict_exit(X), expected.predict_exit(X))


def test_exits_come_back_as_layers(path, clf):
    for found, expected in zip(
        load(path, small(seed=1)).to_linear(), clf.to_linear(), strict=True
    ):
        assert torch.equal(found[1].weight, expected[1].weight)


def test_distances_to_clusters_come_back(extractor, some, tmp_path):
    X, _ = some
    clusterer = E2CMClusterer(extractor, 4, random_state=0).fit(X)
    save(clusterer, tmp_path / "clusters")
    loaded = load(tmp_path / "clusters", small(seed=1))
    assert_same(loaded.transform(X), clusterer.transform(X))
    assert loaded.clusterer_ is loaded.network_.heads[-1].logits.clusterer
    assert loaded.n_iter_ == clusterer.n_iter_


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["ant", "bee", "cicada"]),
        np.array(["ant", "bee", "cicada"], dtype=object),
        np.array([-1, 5, 2**40]),
        np.array([0.0, 1.0, 2.0]),
        np.array([3, 4, 5], dtype=np.uint8),
    ],
    ids=["text", "objects", "whole numbers", "floats", "bytes"],
)
def test_labels_keep_their_type(labels, tmp_path):
    X = np.random.default_rng(0).normal(size=(90, 4))
    y = labels[np.arange(90) % 3]
    clf = E2CMClassifier().fit(X, y)
    save(clf, tmp_path / "clf")
    loaded = load(tmp_path / "clf")
    assert_same(loaded.classes_, clf.classes_)
    assert_same(loaded.predict(X), clf.predict(X))


def test_names_of_columns_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    X = np.random.default_rng(0).normal(size=(90, 2))
    frame = pandas.DataFrame(X, columns=["height", "width"])
    clf = E2CMClassifier().fit(frame, np.arange(90) % 3)
    save(clf, tmp_path / "clf")
    loaded = load(tmp_path / "clf")
    assert_same(loaded.feature_names_in_, clf.feature_names_in_)
    assert_same(loaded.predict(frame), clf.predict(frame))


def test_plain_features_may_be_clustered(tmp_path):
    X = np.random.default_rng(0).normal(size=(90, 2))
    clusterer = E2CMClusterer(n_clusters=3, random_state=0).fit(X)
    save(clusterer, tmp_path / "clusterer")
    assert_same(load(tmp_path / "clusterer").predict(X), clusterer.predict(X))


def test_partial_fits_are_finished_first(extractor, some, tmp_path):
    X, y = some
    clf = E2CMClassifier(extractor).partial_fit(X[:250], y[:250], classes=np.arange(10))
    clf.partial_fit(X[250:], y[250:])
    save(clf, tmp_path / "clf")
    loaded = load(tmp_path / "clf", small(seed=1))
    assert_same(answers(loaded, X), answers(clf, X))
    assert "statistics_" in vars(clf)
    assert not hasattr(loaded, "statistics_")


def test_where_features_are_cached_is_not_saved(extractor, some, tmp_path):
    clf = E2CMClassifier(extractor, memory=str(tmp_path / "cache")).fit(*some)
    save(clf, tmp_path / "clf")
    assert b"cache" not in (tmp_path / "clf").read_bytes()
    assert load(tmp_path / "clf", small(seed=1)).memory is None


def test_the_network_given_stays_as_it_was(path):
    given = small(seed=1).train()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    load(path, given)
    assert given.training
    assert all(given.state_dict()[name].equal(before[name]) for name in before)
    assert all(each.requires_grad for each in given.parameters())


def test_the_estimator_saved_stays_as_it_was(extractor, some, tmp_path):
    clf = E2CMClassifier(extractor).fit(*some)
    before = pickle.dumps(clf)
    save(clf, tmp_path / "clf")
    assert pickle.dumps(clf) == before


def test_the_first_request_proves_nothing_anew(path, some, monkeypatch):
    X, _ = some
    loaded = load(path, small(seed=1))

    def refuse(*_):
        raise AssertionError("the shape was met before")

    monkeypatch.setattr("sk_e2cm._extractors._torch._runner.prove", refuse)
    monkeypatch.setattr("sk_e2cm._extractors._torch._runner.learn_keep_rules", refuse)
    assert len(loaded.predict(X[:1])) == 1


_ELSEWHERE = """
import sys
import numpy as np
from sk_e2cm import load
from tests._saving.networks import small
loaded = load(sys.argv[1], small(seed=5))
np.save(sys.argv[3], loaded.exit_proba(np.load(sys.argv[2])))
"""


def test_a_fresh_process_answers_the_same(path, clf, some, tmp_path):
    X, _ = some
    np.save(tmp_path / "X.npy", X)
    files = path, tmp_path / "X.npy", tmp_path / "proba.npy"
    subprocess.run([sys.executable, "-c", _ELSEWHERE, *map(str, files)], check=True)
    assert_same(np.load(tmp_path / "proba.npy"), clf.exit_proba(X))


@pytest.mark.parametrize("unit", ["macs", "seconds"])
def test_what_runs_channels_last_does_so_again(unit, some, tmp_path):
    X, y = some
    given = TorchExtractor(small(), EXITS)
    _, other = given.layouts()
    # As if measuring had found it to be the quicker.
    clf = E2CMClassifier(given).fit(X, y)
    by_other = E2CMClassifier(other, cost_unit=unit).fit(X, y)
    clf.network_ = by_other.network_
    for name, estimator in {"chosen": clf, "passed": by_other}.items():
        save(estimator, tmp_path / name)
        loaded = load(tmp_path / name, small(seed=1))
        assert_same(loaded.exit_proba(X), estimator.exit_proba(X))
        assert loaded.extractor == estimator.extractor
        assert loaded.extractor_ == estimator.extractor_
