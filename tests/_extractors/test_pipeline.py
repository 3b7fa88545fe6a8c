"""Fitted transformers as stages, held against scikit-learn's own transform."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)

import sk_e2cm
from sk_e2cm import E2CMClassifier, Extractor, PipelineExtractor
from sk_e2cm.testing import CountingExtractor

X, y = load_iris(return_X_y=True)
FRAME = pd.DataFrame(X, columns=["sepal l", "sepal w", "petal l", "petal w"])


def by_names():
    return ColumnTransformer(
        [("petals", StandardScaler(), ["petal w", "petal l"]), ("first", "drop", [0])],
        remainder="passthrough",
    )


def one_hot():
    return OneHotEncoder(handle_unknown="ignore")


PIPELINES = {
    "dense": make_pipeline(StandardScaler(), PolynomialFeatures(), PCA(5)),
    "sparse": make_pipeline(one_hot(), MaxAbsScaler(), TruncatedSVD(6, random_state=0)),
    "supervised": make_pipeline(Nystroem(random_state=0), LinearDiscriminantAnalysis()),
    "nested": make_pipeline(
        make_pipeline(StandardScaler(), PCA(3)), make_union(MaxAbsScaler(), PCA(1))
    ),
    "function": make_pipeline(FunctionTransformer(np.log1p), StandardScaler()),
}
UNIONS = {
    "dense": make_union(StandardScaler(), PCA(2), Nystroem(random_state=0)),
    "sparse": make_union(one_hot(), MaxAbsScaler(), one_hot()),
    "nested": make_union(make_pipeline(StandardScaler(), PCA(1)), PolynomialFeatures()),
    "passthrough": FeatureUnion([("all", "passthrough"), ("pca", PCA(2))]),
}
# Of these, the first takes columns by name.
BY_NAME = {
    "pipeline": make_pipeline(by_names(), PolynomialFeatures(), PCA(5)),
    "frames": make_pipeline(by_names(), PolynomialFeatures(), PCA(5)).set_output(
        transform="pandas"
    ),
    "nested": make_pipeline(make_pipeline(by_names(), PCA(2)), MaxAbsScaler()),
    "union": make_union(by_names(), PCA(2)),
    "union of frames": make_union(PCA(2), by_names()).set_output(transform="pandas"),
    "function": make_pipeline(
        FunctionTransformer(lambda frame: frame[["petal l", "sepal w"]]), PCA(2)
    ),
}
ALL = [*PIPELINES.values(), *UNIONS.values()]


def extractor_of(transformers, costs=None):
    n_stages = len(getattr(transformers, "transformer_list", transformers))
    return PipelineExtractor(transformers, costs=costs or range(1, n_stages + 1))


def dense(transformed):
    return np.asarray(
        transformed.toarray() if sparse.issparse(transformed) else transformed
    )


def expected_stages(fitted, X):
    """Return what scikit-learn computes."""
    if isinstance(fitted, FeatureUnion):
        parts = [dense(part.transform(X)) for _, part in fitted.transformer_list]
        return [np.hstack(parts[: i + 1]) for i in range(len(parts))]
    return [dense(fitted[: i + 1].transform(X)) for i in range(len(fitted))]


def assert_all_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, np.ndarray)
        assert_array_equal(a, b)


def assert_right_with_rows_dropped(extractor, X, expected):
    """Drop a third of the rows after every stage, and shuffle the others."""
    rng = np.random.default_rng(0)
    rows, state = np.arange(len(X)), extractor.begin(X)
    for stage, values in enumerate(expected):
        state, output = extractor.advance(state, stage)
        assert_allclose(output, values[rows], atol=1e-9)
        kept = rng.permutation(len(rows))[: len(rows) * 2 // 3]
        state, rows = extractor.keep(state, kept), rows[kept]


def assert_lazy_equals_full(clf, X):
    proba = clf.exit_proba(X)
    confident = proba.max(axis=2) >= clf.threshold
    confident[:, -1] = True
    stage = clf.predict_exit(X)
    assert_array_equal(stage, confident.argmax(axis=1))
    assert len(np.unique(stage)) > 1  # or it would show little
    expected = proba[np.arange(len(X)), stage]
    assert_allclose(clf.predict_proba(X), expected, atol=1e-9)


# The stages


@pytest.mark.parametrize("transformers", ALL)
def test_stages_are_steps_one_after_another_or_parts_side_by_side(transformers):
    fitted = clone(transformers).fit(X, y)
    outputs = list(extractor_of(fitted).staged_transform(X))
    assert_all_equal(outputs, expected_stages(fitted, X))
    assert_array_equal(outputs[-1], dense(fitted.transform(X)))


@pytest.mark.parametrize("as_sequence", [list, tuple])
def test_a_list_is_a_pipeline_without_names(as_sequence):
    fitted = clone(PIPELINES["dense"]).fit(X)
    steps = as_sequence(step for _, step in fitted.steps)
    assert_all_equal(
        list(extractor_of(steps).staged_transform(X)), expected_stages(fitted, X)
    )


def test_a_pipeline_may_end_before_its_classifier():
    fitted = make_pipeline(StandardScaler(), PCA(2), LogisticRegression()).fit(X, y)
    expected = expected_stages(fitted[:-1], X)
    assert_all_equal(list(extractor_of(fitted[:-1]).staged_transform(X)), expected)


@pytest.mark.parametrize("transformers", ALL, ids=[*PIPELINES, *UNIONS])
def test_rows_that_are_kept_give_the_same_rows(transformers):
    fitted = clone(transformers).fit(X, y)
    assert_right_with_rows_dropped(extractor_of(fitted), X, expected_stages(fitted, X))


@pytest.mark.parametrize("transformers", BY_NAME.values(), ids=BY_NAME)
def test_transformers_that_know_names_get_them_back(transformers):
    fitted = clone(transformers).fit(FRAME)
    extractor, expected = extractor_of(fitted), expected_stages(fitted, FRAME)
    assert_all_equal(list(extractor.staged_transform(X)), expected)
    assert_all_equal(list(extractor.staged_transform(FRAME)), expected)
    assert_right_with_rows_dropped(extractor, X, expected)


def test_names_are_those_of_any_part_of_a_union():
    nameless = FunctionTransformer(np.log1p)
    union = FeatureUnion([("log", nameless), ("named", by_names().fit(FRAME))])
    expected = expected_stages(union, FRAME)
    assert_all_equal(list(extractor_of(union).staged_transform(X)), expected)


def test_a_frame_keeps_the_names_it_has():
    extractor = extractor_of([StandardScaler().fit(FRAME)])
    with pytest.raises(ValueError, match="same order"):
        list(extractor.staged_transform(FRAME[FRAME.columns[::-1]]))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_x_may_be_of_any_type_that_the_transformers_take(dtype):
    numbers = X.round().astype(dtype)
    fitted = make_pipeline(one_hot(), TruncatedSVD(2, random_state=0)).fit(numbers)
    expected = expected_stages(fitted, numbers)
    assert_all_equal(list(extractor_of(fitted).staged_transform(numbers)), expected)


def test_samples_of_any_shape_may_be_flattened_by_a_function():
    images = X.reshape(-1, 2, 2)
    flatten = FunctionTransformer(lambda images: images.reshape(len(images), -1))
    fitted = make_pipeline(flatten, StandardScaler(), PCA(2)).fit(images)
    extractor = extractor_of(fitted)
    assert_all_equal(
        list(extractor.staged_transform(images)), expected_stages(fitted, images)
    )
    clf = E2CMClassifier(extractor, threshold=0.95).fit(images, y)
    assert_lazy_equals_full(clf, images)


def test_the_names_are_those_of_the_steps():
    steps = [("scale", StandardScaler()), ("map", PCA())]
    assert extractor_of(Pipeline(steps).fit(X)).stage_names == ("scale", "map")
    assert extractor_of(FeatureUnion(steps).fit(X)).stage_names == ("scale", "map")
    fitted = [step.fit(X) for _, step in steps]
    assert extractor_of(fitted).stage_names == ("standardscaler", "pca")


# As part of an estimator


@pytest.mark.parametrize("transformers", ALL, ids=[*PIPELINES, *UNIONS])
def test_leaving_early_gives_what_the_full_path_gives(transformers):
    extractor = extractor_of(clone(transformers).fit(X, y))
    clf = E2CMClassifier(extractor, threshold=0.95, batch_size=40).fit(X, y)
    assert_lazy_equals_full(clf, X)


@pytest.mark.parametrize("transformers", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.parametrize("data", [X, FRAME], ids=["array", "frame"])
def test_frames_and_arrays_leave_early_alike(transformers, data):
    extractor = extractor_of(clone(transformers).fit(FRAME))
    clf = E2CMClassifier(extractor, threshold=0.95).fit(data, y)
    assert_lazy_equals_full(clf, data)


@pytest.mark.parametrize("transformers", ALL, ids=[*PIPELINES, *UNIONS])
def test_early_leavers_never_reach_later_transformers(transformers):
    counting = CountingExtractor(extractor_of(clone(transformers).fit(X, y)))
    clf = E2CMClassifier(counting, threshold=0.95).fit(X, y)
    counting.rows[:] = 0
    stage = clf.predict_exit(X)
    still_there = [(stage >= j).sum() for j in range(len(counting.stage_names))]
    assert_array_equal(counting.rows, still_there)
    assert counting.rows[-1] < len(X)


def test_the_transformers_themselves_see_no_early_leavers():
    seen = []
    spy = FunctionTransformer(lambda X: seen.append(len(X)) or X)
    fitted = make_pipeline(StandardScaler(), spy).fit(X)
    clf = E2CMClassifier(extractor_of(fitted), threshold=0.95).fit(X, y)
    seen.clear()
    stage = clf.set_params(batch_size=len(X)).predict_exit(X)
    assert seen == [(stage == 1).sum()]
    assert 0 < seen[0] < len(X)


def test_a_frame_with_its_columns_in_another_order_is_refused():
    fitted = clone(BY_NAME["pipeline"]).fit(FRAME)
    clf = E2CMClassifier(extractor_of(fitted)).fit(FRAME, y)
    with pytest.raises(ValueError, match="in this order"):
        clf.predict(FRAME[FRAME.columns[::-1]])


def test_the_cost_is_that_of_the_transformers_and_of_the_exits():
    extractor = extractor_of(make_pipeline(StandardScaler(), PCA(2)).fit(X), [4, 96])
    assert_array_equal(extractor.macs((4,)), [4, 100])
    clf = E2CMClassifier(extractor, threshold=0.95).fit(X, y)
    # Three class means of four features, then three of two.
    assert_allclose(clf.stage_cost_, [(4 + 12) / 100, (100 + 12 + 6) / 100])
    assert_allclose(clf.cost(X), clf.stage_cost_[clf.predict_exit(X)].mean())
    clf.set_params(threshold=np.inf)
    assert_allclose(clf.stage_cost_, [4 / 100, (100 + 6) / 100])


def test_the_cost_of_a_union_is_the_sum_of_its_parts():
    extractor = extractor_of(make_union(StandardScaler(), PCA(2)).fit(X), [4, 96])
    clf = E2CMClassifier(extractor).fit(X, y)
    # The exits after both compare six features.
    assert_allclose(clf.stage_cost_, [(4 + 12) / 100, (100 + 12 + 18) / 100])


def test_a_search_runs_the_transformers_once_for_each_fold(tmp_path):
    counting = CountingExtractor(extractor_of(clone(PIPELINES["sparse"]).fit(X)))
    search = GridSearchCV(
        E2CMClassifier(counting, memory=str(tmp_path)),
        {"threshold": np.linspace(0.4, 0.99, 8)},
        cv=KFold(5, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(X, y)
    # Five folds of 120 + 30 samples, and 150 for the estimator that is kept.
    assert_array_equal(counting.rows, [6 * 150] * 3)
    assert search.best_score_ > 0.8


def test_a_search_may_range_over_extractors():
    extractors = [extractor_of(clone(union).fit(X)) for union in UNIONS.values()]
    search = GridSearchCV(E2CMClassifier(), {"extractor": extractors}, cv=3)
    assert search.fit(X, y).best_estimator_.extractor_ in extractors


# Extractors as values


def test_copies_and_clones_are_the_extractor_itself():
    extractor = extractor_of(clone(PIPELINES["dense"]).fit(X))
    assert isinstance(extractor, Extractor)
    assert copy.copy(extractor) is extractor
    assert copy.deepcopy(extractor) is extractor
    assert clone(E2CMClassifier(extractor)).extractor is extractor


@pytest.mark.parametrize("transformers", ALL, ids=[*PIPELINES, *UNIONS])
def test_a_pickle_makes_an_equal_extractor(transformers):
    extractor = extractor_of(clone(transformers).fit(X, y))
    again = pickle.loads(pickle.dumps(extractor))
    assert repr(again) == repr(extractor)
    assert again.fingerprint == extractor.fingerprint
    assert_array_equal(again.macs((4,)), extractor.macs((4,)))
    assert_all_equal(
        list(again.staged_transform(X)), list(extractor.staged_transform(X))
    )


CHILD = """
import pickle, sys
from sklearn.base import clone
from tests._extractors.test_pipeline import ALL, X, extractor_of, y
sent = pickle.load(sys.stdin.buffer)
built = [extractor_of(clone(each).fit(X, y)) for each in ALL]
print([e.fingerprint for e in sent] + [e.fingerprint for e in built], end="")
"""


def test_the_fingerprint_is_the_same_in_another_process():
    here = [extractor_of(clone(each).fit(X, y)) for each in ALL]
    sent = pickle.dumps(here)  # before any of them has its fingerprint
    said = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=sent,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        cwd=Path(sk_e2cm.__file__).parents[1],
        check=True,
        capture_output=True,
    ).stdout
    assert eval(said) == [extractor.fingerprint for extractor in here] * 2


def test_the_fingerprint_tells_content_apart():
    scaler, other = StandardScaler().fit(X), StandardScaler().fit(X + 1)
    pca = PCA(2).fit(X)
    contents = [
        [scaler],
        [other],
        [pca],
        [scaler, pca],
        [pca, scaler],
        [FunctionTransformer(np.log1p)],
        [FunctionTransformer(np.expm1)],
        Pipeline([("scaler", scaler), ("pca", pca)])[:1],
        FeatureUnion([("scaler", scaler), ("pca", pca)]),
    ]
    prints = [extractor_of(content).fingerprint for content in contents]
    assert prints[7] == prints[0]  # one and the same
    assert len(set(prints)) == len(contents) - 1


def test_neither_names_nor_costs_change_the_fingerprint():
    scaler = StandardScaler().fit(X)
    named = PipelineExtractor(Pipeline([("other", scaler)]), costs=[7])
    assert named.fingerprint == PipelineExtractor([scaler], costs=[1]).fingerprint


def test_the_originals_may_be_fitted_anew():
    fitted = clone(PIPELINES["dense"]).fit(X)
    extractor, expected = extractor_of(fitted), expected_stages(fitted, X)
    fitted.fit(2 * X[:50] + 1)
    assert not np.allclose(fitted[0].transform(X), expected[0])
    assert_all_equal(list(extractor.staged_transform(X)), expected)


def test_using_an_extractor_does_not_change_the_originals():
    fitted = clone(PIPELINES["sparse"]).fit(X)
    before = pickle.dumps(fitted)
    E2CMClassifier(extractor_of(fitted)).fit(X, y).predict(X)
    assert pickle.dumps(fitted) == before


def test_the_costs_are_copied():
    costs = np.array([4.0, 96.0])
    fitted = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    extractor = PipelineExtractor(fitted, costs=costs)
    costs[:] = 0
    assert_array_equal(extractor.costs, [4, 96])


def test_the_repr_names_the_stages_and_their_costs():
    fitted = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    text = repr(PipelineExtractor(fitted, costs=[4, 96.5]))
    assert text == (
        "PipelineExtractor(Pipeline([('standardscaler', StandardScaler()), "
        "('pca', PCA(n_components=2))]), costs=[4.0, 96.5])"
    )


# Mistakes


@pytest.mark.parametrize(
    "transformers",
    [
        make_pipeline(StandardScaler(), PCA(2)),
        make_union(StandardScaler(), PCA(2)),
        [StandardScaler()],
    ],
    ids=["pipeline", "union", "list"],
)
def test_transformers_that_are_not_fitted(transformers):
    with pytest.raises(NotFittedError, match="Step 'standardscaler' is not fitted"):
        extractor_of(transformers)


def test_one_transformer_of_several_that_is_not_fitted():
    with pytest.raises(NotFittedError, match=r"Step 'pca' is not fitted: PCA\(\)"):
        extractor_of([StandardScaler().fit(X), PCA()])


@pytest.mark.parametrize("step", ["passthrough", None, LogisticRegression()])
def test_steps_that_do_not_transform(step):
    fitted = Pipeline([("scale", StandardScaler()), ("odd", step)]).fit(X, y)
    with pytest.raises(TypeError, match="Step 'odd' is no transformer"):
        extractor_of(fitted)


def test_a_part_of_a_union_that_is_dropped():
    fitted = FeatureUnion([("scale", StandardScaler()), ("odd", "drop")]).fit(X)
    with pytest.raises(TypeError, match="Step 'odd' is no transformer"):
        extractor_of(fitted)


def test_the_message_says_how_to_leave_a_classifier_out():
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    with pytest.raises(TypeError, match=r"pipeline\[:-1\]"):
        extractor_of(fitted)


@pytest.mark.parametrize(
    "costs",
    [
        [1],
        [1, 2, 3],
        [[1, 2]],
        3,
        [],
        None,
        [1, -2],
        [1, np.nan],
        [np.inf, 1],
        ["1", "b"],
        {},
    ],
)
def test_costs_that_are_not_one_number_for_each_transformer(costs):
    fitted = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    with pytest.raises(ValueError, match=r"for each of standardscaler, pca"):
        PipelineExtractor(fitted, costs=costs)


def test_costs_are_asked_for():
    with pytest.raises(TypeError, match="costs"):
        PipelineExtractor([StandardScaler().fit(X)])


def test_weights_of_a_union():
    union = make_union(StandardScaler(), PCA(2)).fit(X)
    union.set_params(transformer_weights={"pca": 2.0})
    with pytest.raises(ValueError, match="transformer_weights are not supported"):
        extractor_of(union)


@pytest.mark.parametrize("transformers", [[], (), FeatureUnion([])])
def test_nothing_at_all(transformers):
    with pytest.raises(ValueError, match="at least one transformer"):
        PipelineExtractor(transformers, costs=[])


def test_a_device():
    extractor = extractor_of([StandardScaler().fit(X)])
    with pytest.raises(ValueError, match="PipelineExtractor has no method to"):
        E2CMClassifier(extractor, device="cpu").fit(X, y)


def test_x_that_the_transformers_do_not_take():
    clf = E2CMClassifier(extractor_of([StandardScaler().fit(X)]))
    with pytest.raises(ValueError, match="expecting 4 features"):
        clf.fit(X[:, :3], y)
    with pytest.raises(ValueError, match="dim 3"):
        clf.fit(X.reshape(-1, 2, 2), y)


def test_a_transformer_that_drops_rows():
    extractor = extractor_of([FunctionTransformer(lambda X: X[1:])])
    with pytest.raises(ValueError, match=r"returned 31 rows for 32 samples"):
        E2CMClassifier(extractor).fit(X, y)


def test_transformers_that_work_in_place_do_not_write_to_the_input():
    pipeline = make_pipeline(StandardScaler(copy=False), PCA(2)).fit(X.copy())
    given = X.copy()
    clf = E2CMClassifier(extractor_of(pipeline)).fit(given, y)
    clf.predict(given)
    assert_array_equal(given, X)


def test_one_transformer_needs_no_list():
    (features,) = PipelineExtractor(PCA(2).fit(X), costs=[1]).staged_transform(X)
    assert_allclose(features, PCA(2).fit_transform(X))


def test_two_transformers_of_a_class_have_names_of_their_own():
    extractor = extractor_of([MaxAbsScaler().fit(X), MaxAbsScaler().fit(X)])
    assert extractor.stage_names == ("maxabsscaler-1", "maxabsscaler-2")


def test_a_union_keeps_single_precision():
    union = make_union(StandardScaler(), MaxAbsScaler()).fit(X.astype(np.float32))
    *_, features = extractor_of(union).staged_transform(X.astype(np.float32))
    assert features.dtype == np.float32


@pytest.mark.parametrize("make", [sparse.coo_matrix, sparse.csc_array])
def test_rows_leave_sparse_results_of_any_format(make):
    pipeline = make_pipeline(FunctionTransformer(make), MaxAbsScaler()).fit(X)
    extractor = extractor_of(pipeline)
    state, _ = extractor.advance(extractor.begin(X), 0)
    _, features = extractor.advance(extractor.keep(state, np.array([3, 1])), 1)
    assert_allclose(features, pipeline.transform(X[[3, 1]]).toarray())


@pytest.mark.parametrize(
    "frame", [FRAME[FRAME.columns[::-1]], FRAME.rename(columns={"petal l": "length"})]
)
def test_a_fit_with_other_columns_is_refused(frame):
    extractor = extractor_of(make_pipeline(StandardScaler()).fit(FRAME))
    with pytest.raises(ValueError, match="X has the columns"):
        E2CMClassifier(extractor).fit(frame, y)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_columns_that_are_too_few_are_refused_by_the_transformer():
    extractor = extractor_of(make_pipeline(StandardScaler()).fit(FRAME))
    with pytest.raises(ValueError, match="X has 3 features, but StandardScaler"):
        E2CMClassifier(extractor).fit(X[:, :3], y)


def test_features_that_are_no_numbers_name_the_stage():
    words = FunctionTransformer(lambda Z: Z.astype(str)).fit(X)
    with pytest.raises(ValueError, match="stage 'functiontransformer' are no numbers"):
        E2CMClassifier(extractor_of([words])).fit(X, y)


def test_functions_are_told_apart_by_what_they_do(tmp_path):
    for column in range(2):
        take = FunctionTransformer(lambda Z, c=column: Z[:, [c]]).fit(X)
        clf = E2CMClassifier(extractor_of([take]), memory=str(tmp_path)).fit(X, y)
        means = [X[y == k, column].mean() for k in range(3)]
        assert_allclose(clf.class_means_[0][:, 0], means)


@pytest.mark.parametrize(
    "source",
    [
        "class Scaled(Base):\n    def transform(self, X): return {} * X",
        "def scaled(X): return {} * X\n"
        "class Scaled(Base):\n    def transform(self, X): return scaled(X)",
        "class Between(Base):\n    def transform(self, X): return {} * X\n"
        "class Scaled(Between): pass",
    ],
    ids=["class", "helper", "base"],
)
def test_a_users_transformer_is_told_by_its_code(source):
    class Base(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            return self

        def __sklearn_is_fitted__(self):
            return True

    def made(number):
        scope = {"Base": Base, "__name__": "__main__"}
        exec(source.format(number), scope)
        return extractor_of([scope["Scaled"]()]).fingerprint

    assert made(1) == made(1) != made(2)


def test_the_fingerprint_does_not_depend_on_use():
    extractor = extractor_of([KNeighborsTransformer().fit(X)])
    before = extractor.fingerprint
    list(extractor.staged_transform(X))
    assert pickle.loads(pickle.dumps(extractor)).fingerprint == before


def test_costs_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        extractor_of([PCA(2).fit(X)]).costs[0] = 3


def test_a_prediction_for_other_columns_is_refused():
    extractor = extractor_of(make_pipeline(StandardScaler()).fit(FRAME))
    clf = E2CMClassifier(extractor).fit(X, y)
    with pytest.raises(ValueError, match="X has the columns"):
        clf.predict(FRAME[FRAME.columns[::-1]])


@pytest.mark.parametrize("transformers", [None, 3, StandardScaler])
def test_what_is_no_transformer_is_refused(transformers):
    with pytest.raises(TypeError):
        PipelineExtractor(transformers, costs=[1])
