"""The lazy loop against the full path, and the decision to leave."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm import Extractor
from sk_e2cm._fitting._calibration import Temperature
from sk_e2cm._fitting._means import ClassMeans
from sk_e2cm._multi_exit._full_pass import RawFeatures
from sk_e2cm._multi_exit._heads import MeansHead
from sk_e2cm._multi_exit._loop import (
    check_thresholds,
    first_exit,
    is_closed,
    is_confident,
    run_lazily,
)
from sk_e2cm.testing import CountingExtractor, ToyExtractor

INF = np.inf
N_STAGES, N_CLASSES, N_FEATURES = 4, 3, 8


class RunningSum(Extractor):
    """Each stage adds the next two columns to what the stages before have summed.

    The output is the same memory at every stage.
    """

    stage_names = ("a", "b", "c", "d")

    def begin(self, X):
        return X, np.zeros((len(X), 2))

    def advance(self, state, stage):
        X, total = state
        total += X[:, 2 * stage : 2 * stage + 2]
        return state, total

    def keep(self, state, rows):
        return state[0][rows], state[1][rows]

    def macs(self, input_shape):
        return [1.0, 2.0, 3.0, 4.0]


class Recorder:
    """An answer that remembers how many rows it was asked about."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    @property
    def macs(self):
        return self.answer.macs

    def proba(self, features):
        self.asked.append(len(features))
        return self.answer.proba(features)


class Fixed:
    """An answer that gives these probabilities to anyone."""

    macs = 0

    def __init__(self, *proba):
        self._proba = np.array(proba, dtype=float)

    def proba(self, features):
        return np.tile(self._proba, (len(features), 1))


EXTRACTORS = [ToyExtractor(N_STAGES), RunningSum()]
THRESHOLDS = {
    "low": 0.4,
    "middle": 0.6,
    "high": 0.8,
    "by exit": [0.8, 0.6, 0.5],
    "by class": [[0.5, 0.6, INF], [0.5, INF, 0.6], [0.9, 0.5, 0.4]],
    "first closed": [INF, 0.6, 0.5],
    "one class closed": [[INF, 0.5, 0.5], [0.6, INF, 0.6], [0.7, 0.7, INF]],
    "two closed": [INF, INF, 0.6],
    "last closed": [0.6, 0.7, INF],
    "nobody leaves": INF,
    "all leave": 0.0,
}


def make_X(n=300, seed=0):
    return np.random.default_rng(seed).normal(size=(n, N_FEATURES))


def full_features(extractor, X):
    state, features = extractor.begin(X), []
    for stage in range(N_STAGES):
        state, output = extractor.advance(state, stage)
        features.append(output.copy())
    return features


def make_answers(extractor):
    rng = np.random.default_rng(5)
    return [
        MeansHead(
            ClassMeans(rng.normal(size=(N_CLASSES, f.shape[1]))), Temperature(1.5)
        )
        for f in full_features(extractor, make_X(1))
    ]


def full_proba(extractor, X, heads):
    features = full_features(extractor, X)
    return np.stack(
        [answer.proba(f) for answer, f in zip(heads, features, strict=True)], axis=1
    )


def leave(extractor, X, heads, thresholds, batch_size=None, **params):
    """Return where each sample has left, and with which probabilities."""
    thresholds = check_thresholds(thresholds, N_STAGES - 1, N_CLASSES)
    stage = np.full(len(X), -1)
    proba = np.zeros((len(X), N_CLASSES))
    batch_size = batch_size or len(X)
    for start in range(0, len(X), batch_size):
        batch = X[start : start + batch_size]
        for step in run_lazily(extractor, batch, heads, thresholds, "auto", **params):
            left = start + step.rows[step.leaves]
            assert (stage[left] == -1).all()  # nobody leaves twice
            stage[left] = step.stage
            proba[left] = step.proba[step.leaves]
    return stage, proba


def first_exit_by_loops(proba, thresholds):
    """Return where each sample leaves, and how near to another decision it was."""
    stages, margins = [], []
    for sample in proba:
        margin = INF
        for j, threshold in enumerate(thresholds):
            k = sample[j].argmax()
            margin = min(margin, abs(sample[j, k] - threshold[k]))
            if sample[j, k] >= threshold[k]:
                break
        else:
            j = len(thresholds)
        stages.append(j)
        margins.append(margin)
    return np.array(stages), np.array(margins)


# The lazy path and the full path agree


@pytest.mark.parametrize("extractor", EXTRACTORS)
@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("batch_size", [1, 37, 300])
def test_the_lazy_path_agrees_with_the_full_path(extractor, threshold, batch_size):
    X, heads = make_X(), make_answers(extractor)
    proba = full_proba(extractor, X, heads)
    thresholds = check_thresholds(threshold, N_STAGES - 1, N_CLASSES)
    expected, margin = first_exit_by_loops(proba, thresholds)
    clear = margin > 1e-5
    assert clear.mean() > 0.99

    stage, left_with = leave(extractor, X, heads, threshold, batch_size)
    assert_array_equal(stage[clear], expected[clear])
    at_exit = proba[np.arange(300), stage]
    assert_allclose(left_with[clear], at_exit[clear], rtol=0, atol=1e-7)


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_samples_leave_at_every_stage(extractor):
    # Otherwise the comparison above would show little.
    stage, _ = leave(extractor, make_X(), make_answers(extractor), 0.6)
    assert (np.bincount(stage, minlength=N_STAGES) > 10).all()


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
def test_first_exit_is_the_first_that_is_sure(threshold):
    extractor = ToyExtractor(N_STAGES)
    proba = full_proba(extractor, make_X(), make_answers(extractor))
    thresholds = check_thresholds(threshold, N_STAGES - 1, N_CLASSES)
    expected, _ = first_exit_by_loops(proba, thresholds)
    assert_array_equal(first_exit(proba, thresholds), expected)


def test_without_exits_everyone_leaves_at_the_only_stage():
    means = ClassMeans(np.eye(N_CLASSES, N_FEATURES))
    X, answer = make_X(), MeansHead(means, Temperature())
    (step,) = run_lazily(RawFeatures(), X, [answer], np.ones((0, N_CLASSES)), "auto")
    assert step.stage == 0
    assert step.leaves.all()
    assert_allclose(step.proba, answer.proba(X))
    assert_array_equal(first_exit(step.proba[:, None], np.ones((0, N_CLASSES))), 0)


# Who has left is not computed again


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("batch_size", [37, 300])
def test_a_stage_computes_those_who_have_not_left_before(threshold, batch_size):
    extractor = CountingExtractor(ToyExtractor(N_STAGES))
    heads = make_answers(ToyExtractor(N_STAGES))
    stage, _ = leave(extractor, make_X(), heads, threshold, batch_size)
    expected = [(stage >= j).sum() for j in range(N_STAGES)]
    assert_array_equal(extractor.rows, expected)


def test_the_loop_ends_when_nobody_is_left():
    extractor = CountingExtractor(ToyExtractor(N_STAGES))
    heads = make_answers(ToyExtractor(N_STAGES))
    thresholds = np.array([[INF] * 3, [0.0] * 3, [0.0] * 3])
    steps = list(run_lazily(extractor, make_X(), heads, thresholds, "auto"))
    assert [step.stage for step in steps] == [1]
    assert_array_equal(extractor.rows, [300, 300, 0, 0])


def test_rows_are_those_of_the_batch():
    heads = make_answers(ToyExtractor(N_STAGES))
    thresholds = check_thresholds(0.6, N_STAGES - 1, N_CLASSES)
    there = np.arange(300)
    for step in run_lazily(ToyExtractor(N_STAGES), make_X(), heads, thresholds, "auto"):
        assert_array_equal(step.rows, there)
        assert step.proba.shape == (len(there), N_CLASSES)
        there = there[~step.leaves]
    assert len(there) == 0


def test_the_batch_is_not_written_to():
    X = make_X()
    X.flags.writeable = False
    stage, _ = leave(RunningSum(), X, make_answers(RunningSum()), 0.6)
    assert_array_equal(X, make_X())
    assert len(np.unique(stage)) == N_STAGES


# Closed exits


def test_a_closed_exit_is_not_asked():
    extractor = ToyExtractor(N_STAGES)
    heads = [Recorder(answer) for answer in make_answers(extractor)]
    stage, _ = leave(extractor, make_X(), heads, [INF, 0.6, INF])
    asked = [answer.asked for answer in heads]
    assert asked == [[], [300], [], [(stage > 1).sum()]]


def test_a_closed_exit_is_asked_on_demand_but_nobody_leaves():
    extractor = ToyExtractor(N_STAGES)
    heads = [Recorder(answer) for answer in make_answers(extractor)]
    stage, _ = leave(extractor, make_X(), heads, [INF, 0.6, INF], skip_closed=False)
    n_late = (stage > 1).sum()
    assert [answer.asked for answer in heads] == [[300], [300], [n_late], [n_late]]
    assert set(stage) == {1, 3}


def test_an_exit_closed_for_some_classes_is_open():
    extractor = ToyExtractor(N_STAGES)
    heads = [Recorder(answer) for answer in make_answers(extractor)]
    thresholds = np.full((N_STAGES - 1, N_CLASSES), INF)
    thresholds[1, 2] = 0.5
    stage, proba = leave(extractor, make_X(), heads, thresholds)
    assert [len(answer.asked) for answer in heads] == [0, 1, 0, 1]
    assert (proba[stage == 1].argmax(axis=1) == 2).all()
    assert 0 < (stage == 1).sum() < 300


@pytest.mark.parametrize(
    ("thresholds", "closed"),
    [
        ([[INF, INF], [INF, 0.5], [2.0, 2.0], [0.0, 0.0]], [True, False, False, False]),
        ([[INF], [1e300]], [True, False]),
        (np.ones((0, 3)), []),
        ([[-INF, -INF]], [False]),
    ],
)
def test_an_exit_is_closed_if_no_class_can_leave_by_it(thresholds, closed):
    assert is_closed(np.array(thresholds)).tolist() == closed


# The decision


@pytest.mark.parametrize(
    ("proba", "thresholds", "leaves"),
    [
        ([0.7, 0.2, 0.1], [0.6, 0.9, 0.9], True),
        ([0.7, 0.2, 0.1], [0.8, 0.1, 0.1], False),  # other classes' do not matter
        ([0.1, 0.2, 0.7], [0.0, 0.0, 0.8], False),
        ([0.1, 0.2, 0.7], [INF, INF, 0.7], True),  # reaching it is enough
        ([0.25, 0.5, 0.25], [0.0, np.nextafter(0.5, 1), 0.0], False),
        ([0.4, 0.4, 0.2], [0.4, 0.9, 0.9], True),  # of equals the first is meant
        ([0.4, 0.4, 0.2], [0.9, 0.4, 0.4], False),
        ([1.0, 0.0, 0.0], [INF, 0.0, 0.0], False),
        ([0.4, 0.3, 0.3], [-INF, INF, INF], True),
    ],
)
def test_the_threshold_of_the_predicted_class_decides(proba, thresholds, leaves):
    assert is_confident(np.array([proba]), np.array(thresholds)).tolist() == [leaves]
    assert first_exit(np.array([[proba, proba]]), np.array([thresholds])).tolist() == [
        0 if leaves else 1
    ]


def test_a_probability_equal_to_the_threshold_leaves_the_loop():
    heads = [Fixed(0.5, 0.25, 0.25), *[Fixed(1, 0, 0)] * 3]
    stage, proba = leave(ToyExtractor(N_STAGES), make_X(5), heads, 0.5)
    assert_array_equal(stage, 0)
    assert_array_equal(proba, [[0.5, 0.25, 0.25]] * 5)


# Thresholds


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.5, [[0.5] * 3] * 2),
        (np.float32(0.5), [[0.5] * 3] * 2),
        (1, [[1.0] * 3] * 2),
        (INF, [[INF] * 3] * 2),
        ([0.5, INF], [[0.5] * 3, [INF] * 3]),
        ((0, 1), [[0.0] * 3, [1.0] * 3]),
        ([[1, 2, 3], [4, 5, INF]], [[1.0, 2.0, 3.0], [4.0, 5.0, INF]]),
    ],
)
def test_thresholds_are_brought_into_shape(threshold, expected):
    found = check_thresholds(threshold, n_exits=2, n_classes=3)
    assert found.dtype == np.float64
    assert found.tolist() == expected


def test_with_as_many_exits_as_classes_a_list_has_one_number_for_each_exit():
    found = check_thresholds([0.1, 0.2], n_exits=2, n_classes=2)
    assert found.tolist() == [[0.1, 0.1], [0.2, 0.2]]


@pytest.mark.parametrize("threshold", [0.9, [], np.ones((0, 3))])
def test_without_exits_there_are_no_thresholds(threshold):
    assert check_thresholds(threshold, n_exits=0, n_classes=3).shape == (0, 3)


@pytest.mark.parametrize(
    "shape", [(0,), (1,), (3,), (3, 2), (2, 1), (1, 3), (2, 4), (2, 3, 1)]
)
def test_thresholds_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="threshold has shape") as error:
        check_thresholds(np.ones(shape), n_exits=2, n_classes=3)
    assert str(shape) in str(error.value)
    assert "(2, 3), one per exit and class" in str(error.value)


@pytest.mark.parametrize("threshold", [np.nan, [0.5, np.nan], [[np.nan] * 3] * 2])
def test_a_threshold_of_nan_is_refused(threshold):
    with pytest.raises(ValueError, match="NaN"):
        check_thresholds(threshold, n_exits=2, n_classes=3)
