"""Passes that are split among workers of Dask."""

import os
import sys
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread

import joblib
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from sk_e2cm import E2CMClassifier, E2CMClusterer
from sk_e2cm.testing import ToyExtractor

from .test_workers import SETTINGS, assert_same_exits, foreign_extractor, make_data

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    # A cluster gives up a worker that takes longer to start again.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=120)
        yield client


def fit_on_dask(estimator, *data):
    """Fit, in another thread: none of these tests may wait forever."""
    fitted = Future()

    def fit():
        try:
            with joblib.parallel_config("dask"):
                fitted.set_result(clone(estimator).fit(*data))
        except Exception as error:
            fitted.set_exception(error)

    Thread(target=fit, daemon=True).start()
    return fitted.result(timeout=120)


@pytest.mark.parametrize("params", SETTINGS.values(), ids=SETTINGS)
def test_workers_of_dask_give_the_fit_of_one(client, params):
    X, y, weight = make_data()
    clf = E2CMClassifier(ToyExtractor(), batch_size=50, **params)
    expected = clone(clf).fit(X, y, weight)
    assert_same_exits(fit_on_dask(clf, X, y, weight), expected, X)


def test_workers_of_dask_find_the_clusters_of_one(client):
    X, _, _ = make_data()
    clusterer = E2CMClusterer(ToyExtractor(), 4, batch_size=50, random_state=0)
    expected = clone(clusterer).fit(X)
    found = fit_on_dask(clusterer, X)
    assert_array_equal(found.labels_, expected.labels_)
    assert_allclose(found.exit_proba(X), expected.exit_proba(X), rtol=0, atol=1e-9)


def test_a_worker_of_dask_that_lacks_the_package_of_an_extractor_is_told_of(
    client, monkeypatch
):
    X, y, _ = make_data()
    clf = E2CMClassifier(foreign_extractor(monkeypatch), batch_size=50)
    with pytest.raises(ImportError, match=r"A worker lacks.*only_here.*Install"):
        fit_on_dask(clf, X, y)


def test_a_worker_of_dask_that_lacks_this_package_is_told_of(client):
    X, y, _ = make_data()
    clf = E2CMClassifier(ToyExtractor(), batch_size=50)
    name = "sk_e2cm._fitting._workers"
    client.run(lambda: sys.modules.update({name: None}))
    with pytest.raises(ImportError, match=r"A worker lacks.*sk_e2cm.*Install"):
        fit_on_dask(clf, X, y)
    client.run(lambda: sys.modules.pop(name))
    assert_same_exits(fit_on_dask(clf, X, y), clone(clf).fit(X, y), X)


class MortalOnce(ToyExtractor):
    """Ends the first worker that has done a part and begun another.

    That worker removes `mark`, a file, so that no other one ends.
    """

    def __init__(self, mark):
        super().__init__()
        self.mark, self.home, self.n_runs = mark, os.getpid(), 0

    def advance(self, state, stage):
        if os.getpid() != self.home:
            self.n_runs += 1
            # A part is four batches at most, of three stages each.
            if self.n_runs > 12:
                with suppress(FileNotFoundError):
                    self.mark.unlink()
                    os._exit(1)
        return super().advance(state, stage)


@pytest.fixture
def mortal(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    yield MortalOnce(mark)
    assert not mark.exists()


def test_a_part_that_ends_one_worker_too_many_is_told_of(
    client, cluster, mortal, monkeypatch
):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    X, y, _ = make_data()
    with pytest.raises(RuntimeError, match="ended one after another"):
        fit_on_dask(E2CMClassifier(mortal, batch_size=50), X, y)


def test_what_a_worker_of_dask_that_ends_had_to_do_is_done_by_others(client, mortal):
    X, y, weight = make_data()
    clf = E2CMClassifier(mortal, batch_size=50)
    expected = clone(clf).fit(X, y, weight)
    assert_same_exits(fit_on_dask(clf, X, y, weight), expected, X)
