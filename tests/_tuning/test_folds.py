"""Which samples are held out."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import (
    KFold,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm._tuning._folds import check_folds, folds_of, set_aside, spare_whole_classes
from sk_e2cm.testing import ToyExtractor

RNG = np.random.default_rng(0)
y = RNG.choice(3, p=[0.6, 0.3, 0.1], size=200)
X = RNG.normal(size=(200, 6)) + y[:, None]
NEVER = np.arange(200) % 4 - 1


def folds_by(cv, y=y, seed=0):
    return folds_of(cv, X[: len(y)], y, np.random.RandomState(seed))


def held_out_by_loop(splits):
    """Return the fold of each sample, one sample at a time."""
    folds = [-1] * 200
    for fold, (_, test) in enumerate(splits):
        for i in test:
            folds[i] = fold
    return folds


def tuned(**params):
    clf = E2CMClassifier(ToyExtractor())
    return TunedExitsCV(clf, max_drop=0.3, random_state=0, **params)


# Folds


@pytest.mark.parametrize(
    ("cv", "splitter"),
    [
        (5, StratifiedKFold(5)),
        (None, StratifiedKFold(5)),
        (KFold(3), KFold(3)),
        (PredefinedSplit(NEVER), PredefinedSplit(NEVER)),
        (list(KFold(4).split(X)), KFold(4)),
        ([(np.arange(50, 200), np.arange(50))], PredefinedSplit([0] * 50 + [-1] * 150)),
        (
            [(list(range(20, 200)), list(range(20)))],
            PredefinedSplit([0] * 20 + [-1] * 180),
        ),
    ],
    ids=["int", "none", "k-fold", "predefined", "iterable", "one split", "lists"],
)
def test_each_sample_is_in_the_fold_that_tests_it(cv, splitter):
    assert folds_by(cv).tolist() == held_out_by_loop(splitter.split(X, y))
    tuned(cv=cv).fit(X, y)


def test_a_share_is_held_out_of_each_class():
    folds = folds_by(0.3)
    assert set(folds) == {-1, 0}
    for k in range(3):
        of_class = folds[y == k]
        assert abs((of_class == 0).sum() - 0.3 * len(of_class)) <= 1


def test_a_share_is_drawn_by_the_random_state():
    assert_array_equal(folds_by(0.3, seed=1), folds_by(0.3, seed=1))
    assert (folds_by(0.3, seed=1) != folds_by(0.3, seed=2)).any()


def test_labels_may_be_text():
    names = np.array(["cat", "dog", "bird"])[y]
    assert_array_equal(
        folds_by(5, y=names), held_out_by_loop(StratifiedKFold(5).split(X, names))
    )


# Splitters that do not fit


@pytest.mark.parametrize(
    "cv",
    [
        RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
        ShuffleSplit(2, test_size=0.5, random_state=0),
    ],
    ids=lambda cv: type(cv).__name__,
)
def test_nobody_is_held_out_twice(cv):
    with pytest.raises(ValueError, match="out more than once"):
        tuned(cv=cv).fit(X, y)


@pytest.mark.parametrize(
    "cv",
    [TimeSeriesSplit(3), ShuffleSplit(1, test_size=0.2, train_size=0.5)],
    ids=lambda cv: type(cv).__name__,
)
def test_who_is_not_held_out_trains(cv):
    with pytest.raises(ValueError, match="leaves samples unused"):
        tuned(cv=cv).fit(X, y)


def test_a_class_that_lies_in_one_fold_is_named():
    names = np.array(["bird", "cat", "dog", "owl"])[np.arange(200) // 50]
    message = r"classes \['bird'\] are held out in one fold.*Use fewer folds"
    with pytest.raises(ValueError, match=message):
        tuned(cv=KFold(4)).fit(X, names)
    with pytest.raises(ValueError, match=r"classes \['cat', 'dog'\]"):
        tuned(cv=PredefinedSplit(np.isin(names, ["cat", "dog"]) - 1)).fit(X, names)


@pytest.mark.parametrize("cv", [1, 0.0, 1.0, 1.5, -0.2, "all", {}.keys])
def test_what_is_no_cross_validation_is_refused(cv):
    with pytest.raises(ValueError, match="'cv' parameter of TunedExitsCV must be"):
        tuned(cv=cv).fit(X, y)


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("cv", [PredefinedSplit(np.full(200, -1)), []], ids=["-1", "0"])
def test_somebody_must_be_held_out(cv, refit):
    with pytest.raises(ValueError, match="holds no samples out"):
        tuned(cv=cv, refit=refit).fit(X, y)


# Class means without the samples held out


@pytest.mark.parametrize(
    "cv", [0.3, PredefinedSplit(NEVER)], ids=["share", "predefined"]
)
def test_without_refit_the_means_are_those_of_who_is_never_held_out(cv):
    search = tuned(cv=cv, refit=False).fit(X, y)
    train = folds_by(cv) < 0
    expected = E2CMClassifier(ToyExtractor()).fit(X[train], y[train])
    for means, others in zip(
        search.estimator_.class_means_, expected.class_means_, strict=True
    ):
        assert_array_equal(means, others)
    assert_array_equal(search.exit_proba(X), expected.exit_proba(X))


def test_with_refit_the_means_are_those_of_all():
    search = tuned(cv=0.3).fit(X, y)
    for k in range(3):
        np.testing.assert_allclose(
            search.estimator_.class_means_[-1][k], X[y == k].mean(axis=0)
        )


@pytest.mark.parametrize("cv", [5, KFold(3)], ids=["int", "k-fold"])
def test_without_refit_somebody_is_never_held_out(cv):
    with pytest.raises(ValueError, match=r"refit=False needs .* cv=0.2, say"):
        tuned(cv=cv, refit=False).fit(X, y)


# The samples set aside


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_samples_are_set_aside_from_those_held_out_of_each_class(share):
    aside = set_aside(share, NEVER, y, np.random.RandomState(0))
    assert aside.dtype == bool
    assert not aside[NEVER < 0].any()
    for k in range(3):
        of_class = aside[(NEVER >= 0) & (y == k)]
        assert abs(of_class.sum() - share * len(of_class)) <= 1


def test_samples_are_set_aside_by_the_random_state():
    first, again, other = (
        set_aside(0.5, NEVER, y, np.random.RandomState(seed)) for seed in (1, 1, 2)
    )
    assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    "labels", [None, np.where(np.arange(200) == 2, 9, y)], ids=["none", "one alone"]
)
def test_samples_are_set_aside_without_labels_or_with_a_class_of_one(labels):
    aside = set_aside(0.5, NEVER, labels, np.random.RandomState(0))
    assert aside[NEVER >= 0].sum() == 75
    assert not aside[NEVER < 0].any()


def test_samples_may_be_set_aside_from_more_classes_than_there_are_samples_asked():
    many = np.arange(200) // 2
    aside = set_aside(0.2, np.zeros(200, dtype=int), many, np.random.RandomState(0))
    assert aside.sum() == 40


# Without labels


def folds_without_labels(cv, seed=0):
    return folds_of(cv, X, None, np.random.RandomState(seed))


def clusters_tuned(**params):
    clusterer = E2CMClusterer(ToyExtractor(), n_clusters=3, random_state=0)
    return TunedExitsCV(clusterer, max_drop=0.3, random_state=0, **params)


@pytest.mark.parametrize(
    ("cv", "n_folds"),
    [(5, 5), (2, 2), (200, 200), (np.int64(4), 4), (None, 5)],
    ids=["5", "2", "one each", "numpy", "none"],
)
def test_without_labels_a_number_of_folds_is_shuffled(cv, n_folds):
    folds = folds_without_labels(cv)
    assert np.bincount(folds).tolist() == [200 // n_folds] * n_folds
    assert (np.diff(folds) < 0).any()
    assert_array_equal(folds_without_labels(cv), folds)
    assert (folds_without_labels(cv, seed=1) != folds).any()


@pytest.mark.parametrize("cv", [5, 0.2, None], ids=str)
def test_of_sorted_data_no_fold_holds_out_whole_clusters(cv):
    folds, clusters = folds_without_labels(cv), np.arange(200) // 40
    for k in range(5):
        assert 0 < (folds[clusters == k] == 0).mean() < 0.4
    labels = y.argsort()
    assert clusters_tuned(cv=cv).fit(X[labels]).best_score_ >= 0.7


@pytest.mark.parametrize("share", [0.3, 0.05, np.float64(0.5)], ids=str)
def test_without_labels_a_share_is_drawn_by_the_random_state(share):
    folds = folds_without_labels(share)
    assert (folds == 0).sum() == share * 200
    assert set(folds) == {-1, 0}
    assert_array_equal(folds_without_labels(share), folds)
    assert (folds_without_labels(share, seed=1) != folds).any()


@pytest.mark.parametrize(
    "cv",
    [KFold(3), PredefinedSplit(NEVER), list(KFold(4).split(X))],
    ids=["k-fold", "predefined", "iterable"],
)
def test_without_labels_each_sample_is_in_the_fold_that_tests_it(cv):
    splits = cv if isinstance(cv, list) else cv.split(X)
    assert folds_without_labels(cv).tolist() == held_out_by_loop(splits)
    clusters_tuned(cv=cv).fit(X)


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (RepeatedKFold(n_splits=3, n_repeats=2), "out more than once"),
        (TimeSeriesSplit(3), "leaves samples unused"),
        (PredefinedSplit(np.full(200, -1)), "holds no samples out"),
    ],
    ids=["twice", "unused", "nobody"],
)
@pytest.mark.parametrize("refit", [True, False])
def test_without_labels_splitters_that_do_not_fit_are_refused(cv, message, refit):
    with pytest.raises(ValueError, match=message):
        clusters_tuned(cv=cv, refit=refit).fit(X)


@pytest.mark.parametrize("cv", [5, KFold(3)], ids=["int", "k-fold"])
def test_without_refit_some_of_a_clusterers_samples_are_never_held_out(cv):
    with pytest.raises(ValueError, match=r"refit=False needs .* cv=0.2, say"):
        clusters_tuned(cv=cv, refit=False).fit(X)


def test_without_labels_folds_are_only_asked_to_hold_somebody_out():
    folds = np.repeat([0, 1], 100)
    check_folds(folds, None)
    check_folds(np.where(folds == 1, -1, 0), None)
    with pytest.raises(ValueError, match="holds no samples out"):
        check_folds(np.full(200, -1), None)
    # With labels they are asked for more.
    with pytest.raises(ValueError, match=r"classes \[0\] are held out in one fold"):
        check_folds(folds, folds)


def test_a_fold_may_not_hold_out_just_whole_clusters():
    k_means = clusters_tuned().estimator.fit(X).labels_
    search = clusters_tuned(cv=PredefinedSplit(np.where(k_means == 1, 0, -1)))
    with pytest.raises(ValueError, match="Each cluster lies in one fold alone"):
        search.fit(X)


def test_splitters_that_need_labels_are_refused_without_them():
    with pytest.raises(ValueError, match=r"needs labels.*KFold\(shuffle=True\)"):
        folds_of(StratifiedKFold(3), X, None, np.random.RandomState(0))


@pytest.mark.parametrize(("share", "n_aside"), [(0.2, 30), (0.5, 75), (0.9, 135)])
def test_without_labels_a_share_of_those_held_out_is_set_aside(share, n_aside):
    first, again, other = (
        set_aside(share, NEVER, None, np.random.RandomState(seed)) for seed in (1, 1, 2)
    )
    assert first.dtype == bool
    assert first.sum() == n_aside
    assert not first[NEVER < 0].any()
    assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("y", [None, np.arange(20) % 4], ids=["clusters", "classes"])
def test_a_single_fold_may_not_hold_out_everybody(y):
    with pytest.raises(ValueError, match="all samples out in one fold"):
        check_folds(np.zeros(20, dtype=int), y)


def test_no_class_is_set_aside_as_a_whole():
    y = np.array([0, 0, 1, 1, 2])
    aside = np.array([True, False, True, True, True])
    expected = [True, False, False, False, False]
    np.testing.assert_array_equal(spare_whole_classes(aside, y), expected)
    np.testing.assert_array_equal(spare_whole_classes(aside, None), aside)
