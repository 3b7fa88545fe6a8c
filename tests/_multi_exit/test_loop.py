"""The lazy loop against the full path."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from sk_e2cm import Extractor
from sk_e2cm._extractors import RawFeatures
from sk_e2cm._multi_exit._heads import Head
from sk_e2cm._multi_exit._logits import DistanceLogits
from sk_e2cm._multi_exit._loop import LazyLoop, Step, StepsOnHost
from sk_e2cm._multi_exit._pooling import Flatten
from sk_e2cm._multi_exit._thresholds import check_thresholds, is_closed
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


class Noting(ToyExtractor):
    """Notes which stages it was asked for at once, and which rows to keep."""

    def __init__(self, device=None):
        super().__init__(N_STAGES)
        self.advanced, self.kept = [], []
        if device is not None:
            self.device = torch.device(device)

    def advance_through(self, state, first, last):
        self.advanced.append((first, last))
        return super().advance_through(state, first, last)

    def keep(self, state, rows):
        self.kept.append(rows)
        return super().keep(state, rows)


class Recorder:
    """A head that remembers how many rows it was asked about."""

    carried = ()

    def __init__(self, head):
        self.head = head
        self.asked = []

    def proba(self, output):
        self.asked.append(len(output))
        return self.head.proba(output)


class Fixed:
    """A head that gives these probabilities to anyone."""

    carried = ()

    def __init__(self, *proba):
        self._proba = torch.tensor(proba, dtype=torch.float64)

    def proba(self, output):
        return self._proba.expand(len(output), -1)


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
    "above one": 1.5,
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


def make_heads(extractor):
    """Return heads whose probabilities are spread out."""
    rng = np.random.default_rng(5)
    heads = []
    for features in full_features(extractor, make_X(1)):
        means = torch.tensor(rng.normal(size=(N_CLASSES, features.shape[1])))
        sharpness = torch.full((N_CLASSES,), 1.5, dtype=torch.float64)
        heads.append(Head(Flatten(), DistanceLogits(means, sharpness)))
    return heads


def full_proba(extractor, X, heads):
    """Return the probabilities of every stage, by NumPy."""
    stages = []
    for head, features in zip(heads, full_features(extractor, X), strict=True):
        away = features[:, None] - head.logits.means.numpy()
        stages.append(softmax(-1.5 * np.linalg.norm(away, axis=2), axis=1))
    return np.stack(stages, axis=1)


def needed(threshold, *, skip_closed=True):
    """Return a user's threshold as the loop takes it."""
    thresholds = check_thresholds(threshold, N_STAGES - 1, N_CLASSES)
    closed = is_closed(thresholds) & skip_closed
    return [
        None if skip else float(row[0]) if len(row) == 1 else torch.tensor(row)
        for row, skip in zip(thresholds, closed, strict=True)
    ]


def run(extractor, heads, X, thresholds, batch_size=None):
    """Return all steps of a run, in order."""
    loop = LazyLoop(extractor, heads, thresholds, X, batch_size or len(X))
    return [step for steps in loop.run() for step in steps]


def leave(extractor, X, heads, threshold, batch_size=None, **params):
    """Return where each sample has left, and with which probabilities."""
    stage, proba = np.full(len(X), -1), np.empty((len(X), N_CLASSES))
    asked = needed(threshold, **params)
    loop = LazyLoop(extractor, heads, asked, X, batch_size or len(X))
    for made in loop.run():
        steps = StepsOnHost(made, every=False)
        probas, confidences = steps.of("proba"), steps.of("confidence")
        for step, (at, rows) in enumerate(zip(steps.stages, steps.rows, strict=True)):
            stage[rows], proba[rows] = at, probas[step]
            assert_array_equal(confidences[step], probas[step].max(axis=1))
            assert_array_equal(steps.of("label")[step], probas[step].argmax(axis=1))
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
    X, heads = make_X(), make_heads(extractor)
    proba = full_proba(extractor, X, heads)
    thresholds = check_thresholds(threshold, N_STAGES - 1, N_CLASSES)
    by_class = np.broadcast_to(thresholds, (N_STAGES - 1, N_CLASSES))
    expected, margin = first_exit_by_loops(proba, by_class)
    clear = margin > 1e-5
    assert clear.mean() > 0.99

    stage, left_with = leave(extractor, X, heads, threshold, batch_size)
    assert_array_equal(stage[clear], expected[clear])
    at_exit = proba[np.arange(300), stage]
    assert_allclose(left_with[clear], at_exit[clear], rtol=0, atol=1e-7)


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_samples_leave_at_every_stage(extractor):
    # Otherwise the comparison above would show little.
    stage, _ = leave(extractor, make_X(), make_heads(extractor), 0.6)
    assert (np.bincount(stage, minlength=N_STAGES) > 10).all()


def test_without_exits_everyone_leaves_at_the_only_stage():
    X, means = make_X(), torch.eye(N_CLASSES, N_FEATURES, dtype=torch.float64)
    head = Head(Flatten(), DistanceLogits(means, torch.ones(N_CLASSES)))
    (step,) = run(RawFeatures(), [head], X, [])
    assert step.stage == 0
    assert step.rows == slice(0, 300)
    distances = np.linalg.norm(X[:, None] - np.eye(N_CLASSES, N_FEATURES), axis=2)
    assert_allclose(step.proba, softmax(-distances, axis=1))
    assert StepsOnHost([step]).stages == [0]


# Who has left is not computed again


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("batch_size", [1, 37, 300])
def test_a_stage_computes_those_who_have_not_left_before(threshold, batch_size):
    extractor = CountingExtractor(ToyExtractor(N_STAGES))
    heads = make_heads(ToyExtractor(N_STAGES))
    stage, _ = leave(extractor, make_X(), heads, threshold, batch_size)
    expected = [(stage >= j).sum() for j in range(N_STAGES)]
    assert_array_equal(extractor.rows, expected)


def test_the_loop_ends_when_nobody_is_left():
    extractor = CountingExtractor(ToyExtractor(N_STAGES))
    heads = make_heads(ToyExtractor(N_STAGES))
    steps = run(extractor, heads, make_X(), [None, 0.0, 0.0])
    assert [step.stage for step in steps] == [1]
    assert_array_equal(extractor.rows, [300, 300, 0, 0])


def test_rows_are_those_of_the_batch():
    heads = make_heads(ToyExtractor(N_STAGES))
    steps = run(ToyExtractor(N_STAGES), heads, make_X(), [0.6] * 3)
    there = np.arange(300)
    assert [step.stage for step in steps] == [0, 1, 2, 3]
    for step in steps:
        assert_array_equal(np.arange(300)[step.rows], there)
        assert step.proba.shape == (len(there), N_CLASSES)
        there = there[step.confidence.numpy() < 0.6]


def test_nothing_is_gathered_before_somebody_leaves():
    extractor = Noting()
    steps = run(extractor, make_heads(extractor), make_X(), [1.5] * 3)
    assert [step.rows for step in steps] == [slice(0, 300)] * N_STAGES
    assert extractor.kept == []


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8, 1.5])
def test_of_one_sample_no_rows_are_ever_taken(threshold):
    extractor = Noting()
    for x in make_X(30):
        steps = run(extractor, make_heads(extractor), x[None], [threshold] * 3)
        assert all(step.rows == slice(0, 1) for step in steps)
    assert extractor.kept == []


def test_the_last_of_many_is_gathered_once():
    extractor = Noting()
    X = np.array([[9.0, 0, 0, 0], [0.0, 0, 0, 0], [9.0, 0, 0, 0]])
    means = torch.tensor([[9.0], [0.0]])
    sure = Head(Flatten(), DistanceLogits(means, torch.tensor([9.0, 0.0])))
    heads = [sure, *[Fixed(0.5, 0.5)] * 3]
    steps = run(extractor, heads, X, [torch.tensor([0.4, INF]), 0.9, 0.9])
    assert [len(step.label) for step in steps] == [3, 1, 1, 1]
    assert [rows.tolist() for rows in extractor.kept] == [[1]]


def test_the_batch_is_not_written_to():
    X = make_X()
    X.flags.writeable = False
    stage, _ = leave(RunningSum(), X, make_heads(RunningSum()), 0.6)
    assert_array_equal(X, make_X())
    assert len(np.unique(stage)) == N_STAGES


@pytest.mark.parametrize(
    ("device", "kind"), [(None, np.ndarray), ("cpu", torch.Tensor)], ids=str
)
def test_extractors_with_a_device_get_tensors_of_rows_and_others_arrays(device, kind):
    extractor = Noting(device)
    run(extractor, make_heads(extractor), make_X(), [0.6] * 3)
    assert len(extractor.kept) == 3
    for rows in extractor.kept:
        assert isinstance(rows, kind)
        assert rows.dtype in (np.int64, torch.int64)
        assert (np.diff(rows) > 0).all()


# Closed exits


def test_a_closed_exit_is_not_asked():
    extractor = ToyExtractor(N_STAGES)
    heads = [Recorder(head) for head in make_heads(extractor)]
    stage, _ = leave(extractor, make_X(), heads, [INF, 0.6, INF])
    asked = [head.asked for head in heads]
    assert asked == [[], [300], [], [(stage > 1).sum()]]


def test_a_closed_exit_is_asked_on_demand_but_nobody_leaves():
    extractor = ToyExtractor(N_STAGES)
    heads = [Recorder(head) for head in make_heads(extractor)]
    stage, _ = leave(extractor, make_X(), heads, [INF, 0.6, INF], skip_closed=False)
    n_late = (stage > 1).sum()
    assert [head.asked for head in heads] == [[300], [300], [n_late], [n_late]]
    assert set(stage) == {1, 3}


def test_an_exit_closed_for_some_classes_is_open():
    extractor = ToyExtractor(N_STAGES)
    heads = [Recorder(head) for head in make_heads(extractor)]
    thresholds = np.full((N_STAGES - 1, N_CLASSES), INF)
    thresholds[1, 2] = 0.5
    stage, proba = leave(extractor, make_X(), heads, thresholds)
    assert [len(head.asked) for head in heads] == [0, 1, 0, 1]
    assert (proba[stage == 1].argmax(axis=1) == 2).all()
    assert 0 < (stage == 1).sum() < 300


@pytest.mark.parametrize(
    ("thresholds", "runs"),
    [
        ([0.6, 0.6, 0.6], [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ([None, 0.6, None], [(0, 1), (2, 3)]),
        ([0.6, None, None], [(0, 0), (1, 3)]),
        ([None, None, 0.6], [(0, 2), (3, 3)]),
        ([None, None, None], [(0, 3)]),
    ],
)
def test_stages_between_open_exits_are_run_as_one(thresholds, runs):
    extractor = Noting()
    run(extractor, make_heads(extractor), make_X(), thresholds)
    assert extractor.advanced == runs


# The decision


def test_a_probability_equal_to_the_threshold_leaves_the_loop():
    heads = [Fixed(0.5, 0.25, 0.25), *[Fixed(1, 0, 0)] * 3]
    for n in (1, 5):
        stage, proba = leave(ToyExtractor(N_STAGES), make_X(n), heads, 0.5)
        assert_array_equal(stage, 0)
        assert_array_equal(proba, [[0.5, 0.25, 0.25]] * n)


@pytest.mark.parametrize("n", [1, 5])
def test_whose_confidence_is_nan_leaves_at_once(n):
    heads = [Fixed(0.5, 0.5), Fixed(np.nan, np.nan), *[Fixed(1, 0)] * 2]
    steps = run(ToyExtractor(N_STAGES), heads, make_X(n), [0.9] * 3)
    assert [step.stage for step in steps] == [0, 1]


# Steps as arrays


def make_step(stage, rows):
    numbers = range(rows.start, rows.stop) if isinstance(rows, slice) else rows
    confidence = torch.tensor([10.0 * stage + row for row in numbers])
    rows = rows if isinstance(rows, slice) else torch.tensor(rows)
    proba = confidence[:, None] - torch.tensor([1.0, 0.0])
    return Step(stage, rows, proba, None if stage else proba.max(dim=1))


def test_steps_that_others_follow_for_all_their_samples_can_be_left_out():
    everyone = slice(3, 8)
    steps = [make_step(0, everyone), make_step(2, everyone), make_step(4, [5, 6])]
    assert StepsOnHost(steps).stages == [0, 2, 4]
    last = StepsOnHost(steps, every=False)
    assert last.stages == [2, 4]
    assert last.rows[0] == everyone
    assert_array_equal(last.rows[1], [5, 6])
    assert [found.tolist() for found in last.of("confidence")] == [
        [23, 24, 25, 26, 27],
        [45, 46],
    ]
    assert [label.tolist() for label in last.of("label")] == [[1] * 5, [1] * 2]
    assert_array_equal(last.of("proba")[1], [[44, 45], [45, 46]])


def test_rows_may_count_from_another_sample_on():
    steps = [make_step(0, slice(0, 3)), make_step(1, [2])]
    found = StepsOnHost(steps, first_row=10)
    assert found.rows[0] == slice(10, 13)
    assert_array_equal(found.rows[1], [12])


# Survivors of several batches are joined


class Joining(Noting):
    """Notes, too, which states were joined."""

    def __init__(self):
        super().__init__()
        self.joined, self.sizes = [], []

    def advance_through(self, state, first, last):
        self.sizes.append((last, len(state)))
        return super().advance_through(state, first, last)

    def join(self, states):
        self.joined.append([len(state) for state in states])
        return super().join(states)


class Alone(ToyExtractor):
    """Has no method join."""

    join = property(lambda self: getattr(super(), "no such method"))


def test_an_extractor_without_join_runs_batch_by_batch():
    extractor = CountingExtractor(Alone(N_STAGES))
    assert not hasattr(extractor, "join")
    heads = make_heads(ToyExtractor(N_STAGES))
    X = make_X()
    loop = LazyLoop(extractor, heads, [0.6] * 3, X, 20)
    for i, steps in enumerate(loop.run()):
        for step in steps:
            rows = np.arange(300)[step.rows]
            assert (rows // 20 == i).all()
    stage, _ = leave(ToyExtractor(N_STAGES), X, heads, 0.6, 20)
    assert_array_equal(stage, leave(Alone(N_STAGES), X, heads, 0.6, 20)[0])


@pytest.mark.parametrize("batch_size", [2, 10, 33, 100])
def test_later_stages_run_full(batch_size):
    extractor, X = Joining(), make_X(2000)
    heads = make_heads(extractor)
    leave(extractor, X, heads, 0.6, batch_size)
    for stage in range(1, N_STAGES):
        sizes = [size for at, size in extractor.sizes if at == stage]
        # The last ones are what is left over.
        *full, _ = sizes
        assert min(full) >= min(batch_size, 32)
        assert max(sizes) <= max(batch_size, 64)


@pytest.mark.parametrize("batch_size", [2, 10, 33, 100])
def test_at_most_one_batch_waits_at_each_exit(batch_size):
    extractor, X = Joining(), make_X(2000)
    loop = LazyLoop(extractor, make_heads(extractor), [0.6] * 3, X, batch_size)
    most = 0
    for _ in loop.run():
        waiting = [sum(g.size for g in groups) for groups in loop._waiting]
        most = max(most, *waiting)
        assert all(n < batch_size for n in waiting)
    assert most > 0
    assert not any(loop._waiting)


@pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_answers_do_not_depend_on_who_was_joined(threshold, batch_size):
    X, heads = make_X(), make_heads(ToyExtractor(N_STAGES))
    stage, proba = leave(ToyExtractor(N_STAGES), X, heads, threshold, batch_size)
    alone, proba_alone = leave(Alone(N_STAGES), X, heads, threshold, batch_size)
    assert_array_equal(stage, alone)
    assert_allclose(proba, proba_alone, rtol=0, atol=1e-7)


def test_of_a_single_batch_nothing_is_joined_or_split():
    extractor = Joining()
    run(extractor, make_heads(extractor), make_X(), [0.6] * 3)
    assert extractor.joined == []
    assert len(extractor.kept) == 3


# Batches that the memory does not hold


class Small(ToyExtractor):
    """Has memory for so many samples at one of its stages."""

    def __init__(self, stage, n_samples, error):
        super().__init__(N_STAGES)
        self.stage, self.n_samples, self.error = stage, n_samples, error
        self.refused = []

    def advance(self, state, stage):
        if stage == self.stage and len(state) > self.n_samples:
            self.refused.append(len(state))
            raise self.error
        return super().advance(state, stage)


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError("no array"),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stage", range(N_STAGES))
def test_a_batch_too_large_for_the_memory_is_halved_and_nothing_is_lost(stage, error):
    X, heads = make_X(), make_heads(ToyExtractor(N_STAGES))
    extractor = Small(stage, 9, error)
    with pytest.warns(UserWarning, match="smaller batch_size") as warned:
        found = leave(extractor, X, heads, 0.6, batch_size=80)
    assert len(warned) == 1
    expected = leave(ToyExtractor(N_STAGES), X, heads, 0.6, batch_size=80)
    assert_array_equal(found[0], expected[0])
    assert_allclose(found[1], expected[1], rtol=0, atol=1e-7)
    # What was too large once is not tried again.
    assert extractor.refused == sorted(extractor.refused, reverse=True)
    assert len(set(extractor.refused)) == len(extractor.refused)


def test_one_sample_that_the_memory_does_not_hold_is_an_error():
    extractor = Small(2, 0, MEMORY_ERRORS[0])
    heads = make_heads(ToyExtractor(N_STAGES))
    with (
        pytest.warns(UserWarning, match="smaller batch_size"),
        pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"),
    ):
        run(extractor, heads, make_X(5), [1.5] * 3)


@pytest.mark.parametrize("batch_size", [8, 20])
def test_nothing_is_lost_where_there_is_no_memory_to_join(batch_size):
    class Joins(ToyExtractor):
        calls = 0

        def join(self, states):
            self.calls += 1
            if self.calls % 3 == 1:
                raise MemoryError("no room to join")
            return super().join(states)

    X, heads = make_X(), make_heads(ToyExtractor(N_STAGES))
    with pytest.warns(UserWarning, match="smaller batch_size"):
        stage, _ = leave(Joins(N_STAGES), X, heads, 0.6, batch_size)
    assert_array_equal(stage, leave(ToyExtractor(N_STAGES), X, heads, 0.6)[0])


def test_other_errors_are_not_tried_again():
    extractor = Small(1, 9, RuntimeError("mat1 and mat2 shapes"))
    heads = make_heads(ToyExtractor(N_STAGES))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(extractor, heads, make_X(), [1.5] * 3)
    assert extractor.refused == [300]


# Outputs that are none


class Returns(ToyExtractor):
    """Returns the same at its second stage, whatever it is asked for."""

    def __init__(self, output):
        super().__init__(N_STAGES)
        self.output = output

    def advance(self, state, stage):
        state, output = super().advance(state, stage)
        return state, self.output if stage == 1 else output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.ones((4, 4)), r"'part2' returned 4 rows for 5 samples.*keep\(\)"),
        (np.full((5, 4), "a"), "'part2' are no numbers but of type <U1"),
        (torch.ones(5, 4, dtype=torch.complex64), "'part2'.*complex64"),
    ],
)
def test_an_output_that_cannot_be_features_names_its_stage(output, message):
    extractor = Returns(output)
    with pytest.raises(ValueError, match=message):
        run(extractor, make_heads(RunningSum()), make_X(5), [None, 0.6, 0.6])
