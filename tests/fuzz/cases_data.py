"""Cases of data: samples, labels and weights of every kind, and numbers of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestCentroid

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

from .calls import (
    ask,
    careful,
    check_sound,
    classifier_for,
    cut,
    demand_answer,
    demand_refusal,
    demand_same,
    everything,
    methods_of,
)
from .data import (
    CONVERTED,
    Samples,
    Variant,
    choose,
    make_rows,
    make_samples,
    weight_variants,
    x_variants,
    y_variants,
)
from .networks import make_network
from .references import check_lazy, check_rows, demand_close, demand_equal
from .verdict import Fault

Notes = list[str]


def _setting(rng: Generator, notes: Notes) -> tuple[Any, Samples, Any]:
    """Return an estimator, with a network or not, and samples for it."""
    if rng.integers(2):
        samples = make_rows(rng, int(rng.integers(24, 60)))
        extractor = [None, ToyExtractor()][rng.integers(2)]
        clf = classifier_for(rng, extractor, pooling="auto", calibration="temperature")
        return clf, samples, None
    made = make_network(rng)
    notes.append(str(made))
    samples = make_samples(rng, made, int(rng.integers(24, 60)))
    extractor = demand_answer(cut(made), "a right network")
    clf = classifier_for(rng, extractor, calibration="temperature")
    return clf, samples, made.network


def _judge(variant: Variant, done: Any, expected: Any, estimator: Any, X: Any) -> str:
    """Compare what came of a variant with its verdict."""
    what = f"{variant.name}"
    if variant.verdict == "wrong":
        return demand_refusal(done, what).outcome
    if variant.verdict == "same":
        demand_answer(done, what)
        if expected is not None:
            demand_same(what, everything(estimator, X), expected)
    elif done.error is None:
        check_sound(estimator, X)
    return done.outcome


def samples_at_fit(rng: Generator, notes: Notes) -> str:
    estimator, (X, y), network = _setting(rng, notes)
    variant = choose(rng, x_variants(rng, X))
    if variant.name in CONVERTED:
        estimator.set_params(calibration=None)
    expected = everything(estimator.fit(X, y), X)
    notes.append(f"X: {variant.name}")
    wrong = _at_fit(variant, estimator)
    if rng.integers(3) == 0:
        clusterer = E2CMClusterer(estimator.extractor, n_clusters=2, random_state=0)
        estimator, expected = clusterer, None
    elif rng.integers(4) == 0:
        estimator = TunedExitsCV(estimator, max_drop=0.1, cv=2, random_state=0)
        expected = None
    notes.append(repr(estimator))
    given = variant.value
    done = careful(lambda: estimator.fit(given, y), X=given, y=y, network=network)
    if done.error is not None:
        return _judge(wrong, done, None, estimator, X)
    if wrong is not variant:  # fitted on another shape
        check_sound(estimator, given)
        return done.outcome
    return _judge(wrong, done, expected, estimator, X)


def _at_fit(variant: Variant, estimator: Any) -> Variant:
    """Soften the verdict where only later samples can tell what is right.

    Many networks take samples of several shapes, and raw features all whole numbers.
    """
    loose = ["another axis", "another width"]
    if not hasattr(estimator.extractor, "exits"):
        loose += ["fractions", "out of the vocabulary", "negative token", "huge token"]
    return variant._replace(verdict="either") if variant.name in loose else variant


def samples_at_predict(rng: Generator, notes: Notes) -> str:
    estimator, (X, y), network = _setting(rng, notes)
    if rng.integers(3) == 0:
        estimator = E2CMClusterer(estimator.extractor, n_clusters=2, random_state=0)
    notes.append(repr(estimator))
    fitted = careful(lambda: estimator.fit(X, y), X=X, y=y)
    if "clusters of rounding" in str(fitted.error):
        return "refused"
    demand_answer(fitted, "samples")
    variant = choose(rng, x_variants(rng, X))
    method = methods_of(estimator)[rng.integers(len(methods_of(estimator)))]
    notes.append(f"{method} of X: {variant.name}")
    given = variant.value
    expected = np.asarray(ask(estimator, method, X))
    done = careful(
        lambda: ask(estimator, method, given),
        estimator=estimator,
        X=given,
        network=network,
    )
    if "x[None]" in str(done.error) and variant.name != "one sample without axis":
        raise Fault(f"advice for a single sample, given for {variant.name}")
    if variant.verdict == "wrong":
        return demand_refusal(done, variant.name).outcome
    if variant.verdict == "same":
        answer = np.asarray(demand_answer(done, variant.name))
        demand_same(variant.name, {method: answer}, {method: expected})
    return done.outcome


def labels(rng: Generator, notes: Notes) -> str:
    estimator, (X, y), network = _setting(rng, notes)
    estimator.fit(X, y)
    expected, full = estimator.predict(X), estimator.exit_proba(X)
    final = estimator.final_
    variant = choose(rng, y_variants(rng, y))
    notes += [f"y: {variant.name}", repr(estimator)]
    given = variant.value
    if rng.integers(3) == 0:
        return _labels_of_search(rng, estimator, X, y, variant)
    done = careful(
        lambda: estimator.fit(X, given),
        estimator=estimator,
        X=X,
        y=given,
        network=network,
    )
    if variant.verdict == "wrong":
        return demand_refusal(done, variant.name).outcome
    if variant.verdict == "either":
        if done.error is None:
            check_sound(estimator, X)
        return done.outcome
    demand_answer(done, variant.name)
    if len(estimator.classes_) != full.shape[2]:
        raise Fault(f"classes_ are {estimator.classes_}")
    if estimator.final_ == final and "gaps" not in variant.name:
        demand_close(variant.name, estimator.exit_proba(X), full, 1e-5)
        demand_equal(variant.name, estimator.predict(X), estimator.classes_[expected])
    score = careful(lambda: estimator.score(X, given), X=X, y=given)
    own = (np.searchsorted(estimator.classes_, estimator.predict(X)) == y).mean()
    demand_close("score", demand_answer(score, "score"), own, 1e-9)
    return "answered"


def _labels_of_search(
    rng: Generator, clf: Any, X: Any, y: np.ndarray, variant: Variant
) -> str:
    search = TunedExitsCV(clf, max_drop=0.2, cv=2, random_state=0)
    given = variant.value
    done = careful(lambda: search.fit(X, given), estimator=search, X=X, y=given)
    if variant.verdict == "wrong" and variant.name != "None":
        return demand_refusal(done, f"{variant.name}, by a search,").outcome
    if variant.verdict == "same":
        demand_answer(done, f"{variant.name}, by a search,")
    if done.error is None:
        check_lazy(search, X)
    return done.outcome


def weights(rng: Generator, notes: Notes) -> str:
    estimator, (X, y), network = _setting(rng, notes)
    variants = weight_variants(rng, len(X))
    plain, variant = variants[0].value, choose(rng, variants)
    notes += [f"sample_weight: {variant.name}", repr(estimator)]
    expected = everything(estimator.fit(X, y, sample_weight=plain), X)
    given = variant.value
    as_search = rng.integers(4) == 0
    other = TunedExitsCV(estimator, max_drop=0.2, cv=2, random_state=0)
    fitted = other if as_search else estimator
    done = careful(
        lambda: fitted.fit(X, y, sample_weight=given),
        estimator=fitted,
        X=X,
        y=y,
        sample_weight=given,
        network=network,
    )
    if as_search or variant.name == "scaled":
        expected = None
    outcome = _judge(variant, done, expected, fitted, X)
    if variant.name == "plain" and not as_search and network is None:
        twice = np.repeat(np.arange(len(X)), plain.astype(int))
        _check_means(estimator, (X, y, plain), (X[twice], y[twice]), "repeated rows")
        zeros = np.where(np.arange(len(X)) % 3 == 0, 0.0, plain)
        used = zeros > 0
        few = X[used], y[used], plain[used]
        _check_means(estimator, (X, y, zeros), few, "rows of weight 0")
    return outcome


def _check_means(estimator: Any, a: Any, b: Any, what: str) -> None:
    means = estimator.fit(*a).class_means_
    for one, other in zip(means, estimator.fit(*b).class_means_, strict=True):
        demand_close(f"weights against {what}", one, other, 1e-9)


def lengths(rng: Generator, notes: Notes) -> str:
    """X, y and weights that do not belong together, and very few samples."""
    estimator, (X, y), _ = _setting(rng, notes)
    notes.append(repr(estimator))
    n = int(rng.choice([1, 2, 3, 4, 5, 6]))
    few = X[:n], y[:n]
    calls = {
        "few samples": (few, None),
        "one sample": ((X[:1], y[:1]), False),
        "X is longer": ((X, y[:-1]), False),
        "y is longer": ((X[:-1], y), False),
        "weights are longer": ((X, y, np.ones(len(X) + 1)), False),
        "equal samples": ((np.repeat(X[:1], len(X), axis=0), y), None),
        "two samples, each twice": ((X[np.arange(len(X)) % 2], y), None),
        "a class of one sample": ((X, np.where(np.arange(len(y)) == 4, 99, y)), True),
        "each class once": ((X[:4], np.arange(4)), None),
    }
    name = list(calls)[rng.integers(len(calls))]
    notes.append(name)
    arguments, right = calls[name]
    done = careful(
        lambda: estimator.fit(*arguments), estimator=estimator, arguments=arguments
    )
    if right is False:
        return demand_refusal(done, name).outcome
    if right:
        demand_answer(done, name)
    if done.error is None:
        check_lazy(estimator, X)
        check_rows(estimator, X, np.random.RandomState(0), 2e-2)
    return done.outcome


def numbers(rng: Generator, notes: Notes) -> str:
    """Rows whose unit, offset, order and constant columns do not matter."""
    X, y = make_rows(rng)
    metric = ("euclidean", "mahalanobis")[rng.integers(2)]
    single = bool(rng.integers(2))
    X = X.astype(np.float32).astype(X.dtype)
    X[::5, 0] = 0.0
    clf = E2CMClassifier(
        [None, ToyExtractor(2)][rng.integers(2)],
        metric=metric,
        calibration=("temperature", None, "dirichlet")[rng.integers(3)],
        shrinkage=("ledoit_wolf", "oas", 0.1)[rng.integers(3)],
        threshold=0.6,
        final=("auto", "class_means")[rng.integers(2)],
    )
    dtype = np.float32 if single else np.float64
    changes = {
        "a common unit": X * 2.0 ** rng.integers(-60, 60),
        "a small unit": X * 1e-7,
        "a large unit": X * 1e9,
        "an offset": X + 2.0**12,
        "an enormous unit": X * 1e160,
        "a vanishing unit": X * 1e-160,
        "another order": X,
        "negative zeros": np.where(X == 0, -0.0, X),
        "a constant column": np.column_stack([X, np.full(len(X), rng.normal())]),
        "a column of noise in the last digits": np.column_stack(
            [X, 1e4 * (1 + np.finfo(dtype).eps * rng.normal(size=len(X)))]
        ).astype(dtype),
        "units of columns": X * 2.0 ** rng.integers(-8, 8, X.shape[1]),
        "constant within classes": np.column_stack([X, 1.0 * y]),
    }
    name = list(changes)[rng.integers(len(changes))]
    if name not in ("another order", "negative zeros"):
        clf.set_params(calibration=None)  # folds follow from the bits of the samples
    notes += [name, repr(clf), str(np.dtype(dtype))]
    extreme = name in ("an enormous unit", "a vanishing unit")
    dtype = np.float64 if extreme else dtype
    X, other = X.astype(dtype), changes[name].astype(dtype)
    expected = demand_answer(careful(lambda: clf.fit(X, y), X=X, y=y), "plain rows")
    expected = clf.exit_proba(X)
    order = rng.permutation(len(X)) if name == "another order" else np.arange(len(X))
    done = careful(lambda: clf.fit(other[order], y[order]), X=other, y=y)
    if done.error is not None and extreme:
        return done.outcome
    demand_answer(done, name)
    # Another number of columns is shrunk in another way.
    same = metric == "euclidean" or "column" not in name
    if name == "units of columns":
        same = metric == "mahalanobis"
    if "constant" in name or (clf.extractor is not None and "column" in name):
        same = False
    if same:
        loose = "noise" in name or single
        demand_close(name, clf.exit_proba(other), expected, 2e-2 if loose else 1e-4)
    if "constant" in name and metric == "mahalanobis":
        _check_units(clf, other, y, name)
    check_lazy(clf, other)
    check_rows(clf, other, np.random.RandomState(0), 1e-3)
    return "answered"


def _check_units(clf: Any, X: np.ndarray, y: np.ndarray, name: str) -> None:
    """Whitened answers do not depend on the unit of a column."""
    units = np.ones(X.shape[1], X.dtype)
    units[-1] = 1024.0
    expected = clf.exit_proba(X)
    other = clf.fit(X * units, y).exit_proba(X * units)
    demand_close(f"{name}, in another unit", other, expected, 2e-2)
    clf.fit(X, y)


def known_estimators(rng: Generator, notes: Notes) -> str:
    """scikit-learn's own estimators, where they compute the same."""
    X, y = make_rows(rng)
    which = rng.integers(3)
    notes.append(("LDA", "nearest centroid", "k-means")[which])
    if which == 0:
        clf = E2CMClassifier(
            metric="mahalanobis", shrinkage=0.0, calibration=None, final="class_means"
        ).fit(X, y)
        lda = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
        if clf.metric_ == ["mahalanobis"]:  # there were samples enough
            demand_close("LDA", clf.predict_proba(X), lda.predict_proba(X), 1e-6)
    elif which == 1:
        clf = E2CMClassifier(metric="euclidean", calibration=None).fit(X, y)
        centroids = NearestCentroid().fit(X, y).centroids_
        demand_close("nearest centroid", clf.class_means_[0], centroids, 1e-9)
        distances = pairwise_distances(X, centroids)
        labels = (distances / distances.mean(axis=0)).argmin(axis=1)
        demand_equal("nearest mean", clf.predict(X), labels)
    else:
        k = int(rng.integers(2, 5))
        extractor = [None, ToyExtractor()][rng.integers(2)]
        ours = E2CMClusterer(extractor, k, random_state=3)
        weight = rng.integers(1, 4, len(X)).astype(float)
        demand_answer(
            careful(lambda: ours.fit(X, sample_weight=weight), X=X), "k-means"
        )
        theirs = KMeans(k, random_state=3).fit(X, sample_weight=weight)
        demand_equal("k-means", ours.labels_, theirs.labels_)
        demand_close("centers", ours.cluster_centers_, theirs.cluster_centers_, 1e-9)
        demand_close("inertia", ours.inertia_, theirs.inertia_, 1e-6 * theirs.inertia_)
        demand_close("transform", ours.transform(X), theirs.transform(X), 1e-6)
        check_lazy(ours, X)
    return "answered"
