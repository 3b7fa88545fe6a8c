"""What only code could make again is refused by name, and nothing is written."""

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_e2cm import (
    E2CMClassifier,
    E2CMClusterer,
    PipelineExtractor,
    TorchExtractor,
    TunedExitsCV,
    load,
    save,
)
from sk_e2cm.testing import ToyExtractor

from .networks import small


def flat_means(output):
    return output.flatten(1)[:, ::16]


class Mine(TorchExtractor):
    """A subclass, of which nobody knows what it does."""


def over_transformers(extractor):
    X = np.random.default_rng(0).normal(size=(100, 64))
    scaler = StandardScaler().fit(X)
    transformers = [scaler, PCA(8).fit(scaler.transform(X))]
    return E2CMClassifier(PipelineExtractor(transformers, costs=[1, 9]))


REFUSED = {
    "pooling": (
        lambda extractor: E2CMClassifier(extractor, pooling=flat_means),
        "pooling=<function flat_means.*: it is code",
    ),
    "final": (
        lambda extractor: E2CMClassifier(extractor, final=RandomForestClassifier(5)),
        r"final=RandomForestClassifier\(n_estimators=5\) cannot be saved: of scikit",
    ),
    "head": (
        lambda extractor: E2CMClassifier(extractor, head=RandomForestClassifier(5)),
        "head=RandomForestClassifier",
    ),
    "one of several heads": (
        lambda extractor: E2CMClassifier(
            extractor, head=["class_means", MLPClassifier(4, max_iter=3)]
        ),
        r"head\.1=MLPClassifier",
    ),
    "clusterer": (
        lambda extractor: E2CMClusterer(extractor, clusterer=GaussianMixture(3)),
        "clusterer=GaussianMixture",
    ),
    "frozen clusterer": (
        lambda extractor: E2CMClusterer(
            clusterer=FrozenEstimator(KMeans(3).fit(np.eye(64)))
        ),
        "clusterer=FrozenEstimator",
    ),
    "random state": (
        lambda extractor: E2CMClusterer(
            extractor, 3, random_state=np.random.RandomState(0)
        ),
        r"random_state=RandomState\(MT19937\).*: pass a whole number",
    ),
    "scoring": (
        lambda extractor: TunedExitsCV(
            E2CMClassifier(extractor), max_drop=0.2, scoring=make_scorer(accuracy_score)
        ),
        "scoring=make_scorer.*: it is code",
    ),
    "cv": (
        lambda extractor: TunedExitsCV(
            E2CMClassifier(extractor), max_drop=0.2, cv=KFold(3)
        ),
        r"cv=KFold.*pass a number of folds",
    ),
    "what is tuned": (
        lambda extractor: TunedExitsCV(
            E2CMClassifier(extractor, pooling=flat_means), max_drop=0.2
        ),
        r"estimator\.pooling=<function",
    ),
    "extractor": (
        lambda extractor: E2CMClassifier(ToyExtractor()),
        "extractor=.*Toy.* cannot be saved: only a TorchExtractor",
    ),
    "pipeline": (over_transformers, "extractor=PipelineExtractor"),
    "subclass": (
        lambda extractor: E2CMClassifier(Mine(small(), ["first"])),
        "extractor=Mine",
    ),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("which", list(REFUSED))
def test_what_cannot_be_saved_is_refused_by_name(which, extractor, some, tmp_path):
    make, message = REFUSED[which]
    X, y = some
    estimator = make(extractor)
    is_row_wise = which in ("frozen clusterer", "extractor", "pipeline")
    estimator.fit(X.reshape(len(X), -1) if is_row_wise else X, y)
    with pytest.raises(TypeError, match=message):
        save(estimator, tmp_path / "estimator")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "estimator",
    [
        KMeans(3),
        make_pipeline(StandardScaler(), E2CMClassifier()),
        AgglomerativeClustering(),
        None,
    ],
    ids=["k-means", "pipeline", "agglomerative", "nothing"],
)
def test_other_estimators_are_refused_by_name(estimator, tmp_path):
    with pytest.raises(TypeError, match=f"got {type(estimator).__name__}"):
        save(estimator, tmp_path / "estimator")


@pytest.mark.parametrize(
    "estimator",
    [E2CMClassifier(), E2CMClusterer(), TunedExitsCV(E2CMClassifier(), max_drop=0.1)],
    ids=["classifier", "clusterer", "tuned"],
)
def test_only_what_is_fitted_can_be_saved(estimator, tmp_path):
    with pytest.raises(NotFittedError):
        save(estimator, tmp_path / "estimator")


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (None, ValueError, "fitted over a network: pass it as network=, a Small"),
        ("small", TypeError, "must be a torch.nn.Module.* got str"),
        (small, TypeError, "must be a torch.nn.Module.* got function"),
        ([1, 2], TypeError, "torch.nn.Module, got int"),
        (TorchExtractor(small(), ["first"]), TypeError, "the torch module itself"),
    ],
    ids=["missing", "text", "function", "list of numbers", "extractor"],
)
def test_what_is_no_network_is_refused(network, error, message, path):
    with pytest.raises(error, match=message):
        load(path, network)


def test_a_network_that_is_not_needed_is_refused(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 4))
    save(E2CMClassifier().fit(X, np.arange(60) % 2), tmp_path / "clf")
    with pytest.raises(ValueError, match="without a network: load it with network=Non"):
        load(tmp_path / "clf", small())


def test_a_later_fit_may_be_saved_where_an_earlier_one_was(extractor, some, tmp_path):
    X, y = some
    clf = E2CMClassifier(extractor, final=LogisticRegression(max_iter=200)).fit(X, y)
    save(clf, tmp_path / "clf")
    save(clf.set_params(threshold=0.4), tmp_path / "clf")
    assert load(tmp_path / "clf", small(seed=1)).threshold == 0.4
    assert [each.name for each in tmp_path.iterdir()] == ["clf"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_head_is_refused_whatever_the_parameters_say_by_now(
    extractor, some, tmp_path
):
    clf = E2CMClassifier(extractor, head=MLPClassifier(4, max_iter=3)).fit(*some)
    with pytest.raises(TypeError, match=r"^head=MLPClassifier"):
        save(clf, tmp_path / "clf")
    clf.set_params(head="class_means")
    with pytest.raises(TypeError, match=r"heads\.0\.logits.*=PerceptronLogits"):
        save(clf, tmp_path / "clf")
