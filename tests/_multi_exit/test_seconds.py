"""Costs in seconds, by a clock that goes on only when the tests say so."""

import pickle
import time
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm.testing import ToyExtractor

INF = np.inf
# Seconds per sample of each stage, of the exits, and of the network as it was given.
STAGES = np.array([2e-3, 3e-3, 5e-3])
EXITS = np.array([1e-4, 2e-4, 0.0])
PLAIN = 8e-3


class Clock:
    """Stands still but where it is told to go on."""

    def __init__(self):
        self.now = 100.0
        self.tick = self.least = 0.0

    def __deepcopy__(self, memo):
        return self

    def __call__(self):
        self.now += self.tick
        return self.now if not self.least else self.now // self.least * self.least


class Timed(ToyExtractor):
    """Takes so many seconds by the clock, for each stage and sample."""

    staying = 0.0

    def __init__(self, clock, stages=STAGES, plain=PLAIN):
        super().__init__(3)
        self.clock, self.stages, self.plain = clock, np.array(stages), plain

    def advance(self, state, stage):
        self.clock.now += self.stages[stage] * len(state)
        state, output = super().advance(state, stage)
        return state, output[:, :, None]  # of two axes pooling is not asked

    def uncut(self, X):
        self.clock.now += self.plain * len(X)
        return X[:, :, None]

    def keep(self, state, rows):
        self.clock.now += self.staying * len(rows)
        return super().keep(state, rows)


class TimedPooling:
    """Takes the time of an exit by the clock."""

    def __init__(self, clock, exits=EXITS):
        self.clock, self.exits = clock, np.array(exits)

    def __call__(self, output):
        stage = {2: 0, 4: 1, 5: 2}[output.shape[1]]
        self.clock.now += self.exits[stage] * len(output)
        return output[:, :, 0]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def make_data(n=400, seed=0):
    """Return samples that are told apart the better, the more features are seen."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    return rng.normal(size=(n, 5)) + 1.5 * y[:, None], y


def fitted(clock, batch_size=16, extractor=None, exits=EXITS, threshold=0.9, **params):
    X, y = make_data()
    extractor = Timed(clock) if extractor is None else extractor
    pooling = TimedPooling(clock, exits)
    clf = E2CMClassifier(
        extractor,
        pooling=pooling,
        cost_unit="seconds",
        batch_size=batch_size,
        **params,
    )
    return clf.fit(X, y).set_params(threshold=threshold)


def assert_costs_what_it_takes(clf, clock):
    X, _ = make_data(seed=1)
    predicted = clf.cost(X)
    before = clock.now
    clf.predict(X)
    assert_allclose(predicted, (clock.now - before) / (PLAIN * len(X)), rtol=1e-6)


# What is measured


@pytest.mark.parametrize("batch_size", [1, 16, 31])
def test_stages_and_exits_take_what_the_clock_says(clock, batch_size):
    seconds = fitted(clock, batch_size).seconds_
    assert_allclose(seconds.stages, STAGES, rtol=1e-6)
    assert_allclose(seconds.heads, EXITS, rtol=1e-6, atol=1e-12)
    assert_allclose(seconds.plain, PLAIN, rtol=1e-6)
    assert_allclose(seconds.whole, STAGES.sum(), rtol=1e-6)
    assert seconds.stage_names == ("part1", "part2", "part3")
    assert seconds.batch_size == seconds.at_once == batch_size
    assert seconds.device == "cpu"
    assert seconds.n_rounds >= 7
    assert not seconds.is_noise.any()


def test_one_is_the_time_of_the_network_as_it_was_given(clock):
    clf = fitted(clock, threshold=0.5)
    assert_allclose(clf.stage_cost_, np.cumsum(STAGES + EXITS) / PLAIN, rtol=1e-6)
    clf.set_params(threshold=[INF, 0.5])
    open_ = EXITS * [0, 1, 1]
    assert_allclose(clf.stage_cost_, np.cumsum(STAGES + open_) / PLAIN, rtol=1e-6)


def test_the_last_stage_may_cost_less_than_the_network_as_it_was_given(clock):
    clf = fitted(clock, extractor=Timed(clock, plain=20e-3), threshold=INF)
    assert_allclose(clf.stage_cost_[-1], 0.5, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 8, 50])
@pytest.mark.parametrize("threshold", [0.5, 0.7, [INF, 0.6], INF])
def test_the_cost_is_the_time_that_predictions_take(clock, batch_size, threshold):
    clf = fitted(clock, batch_size, threshold=threshold)
    assert_costs_what_it_takes(clf, clock)


def test_those_who_stay_pay_for_being_kept(clock):
    class Copies(Timed):
        staying = 1e-3

    clf = fitted(clock, batch_size=400, extractor=Copies(clock), threshold=0.7)
    assert_allclose(clf.seconds_.going_on, [1e-3, 1e-3, 0], rtol=1e-6)
    expected = np.cumsum(STAGES + EXITS + np.array([0, 1e-3, 1e-3])) / PLAIN
    assert_allclose(clf.stage_cost_, expected, rtol=1e-6)
    assert_costs_what_it_takes(clf, clock)


def test_fewer_samples_run_at_once_where_that_is_quicker(clock):
    class Crowded(Timed):
        def advance(self, state, stage):
            if len(state) > 64:
                self.clock.now += 0.5e-3 * len(state)
            return super().advance(state, stage)

    clf = fitted(clock, batch_size=256, extractor=Crowded(clock))
    assert clf.seconds_.at_once == 64
    assert_allclose(clf.seconds_.stages, STAGES, rtol=1e-6)
    X, _ = make_data()
    rows = []
    clf.extractor_.begin = lambda X: (
        rows.append(len(X)) or ToyExtractor.begin(clf.extractor_, X)
    )
    clf.predict(X)
    assert max(rows) == 64


def test_the_quickest_memory_format_is_taken(clock):
    class Faster(Timed):
        def layouts(self):
            return self, self.other

    slow = Faster(clock)
    slow.other = Faster(clock, stages=STAGES / 2)
    clf = fitted(clock, extractor=slow)
    assert clf.extractor_ is slow.other
    assert_allclose(clf.seconds_.stages, STAGES / 2, rtol=1e-6)
    slow.other = Faster(clock, stages=STAGES * 0.99)  # hardly quicker
    assert fitted(clock, extractor=slow).extractor_ is slow


def test_a_clusterer_counts_itself_among_what_was_given(clock):
    X, _ = make_data()
    clusterer = E2CMClusterer(
        Timed(clock), 3, cost_unit="seconds", pooling="none", random_state=0
    ).fit(X)
    clusterer.set_params(threshold=INF)
    # k-means takes no time by this clock.
    assert_allclose(clusterer.seconds_.plain, PLAIN)
    assert_allclose(clusterer.stage_cost_[-1], STAGES.sum() / PLAIN, rtol=1e-6)


# Without a fit


def test_measure_seconds_measures_anew(clock):
    clf = fitted(clock, threshold=0.5)
    X, _ = make_data()
    labels = clf.predict(X)
    clf.extractor.stages = STAGES * [3, 1, 1]  # another machine
    assert clf.measure_seconds(X) is clf
    assert_allclose(clf.seconds_.stages, STAGES * [3, 1, 1], rtol=1e-6)
    assert_allclose(clf.stage_cost_[0], (6e-3 + 1e-4) / PLAIN, rtol=1e-6)
    assert_array_equal(clf.predict(X), labels)


def test_multiply_adds_stay_costs_where_they_were_asked_for(clock):
    X, y = make_data()
    clf = E2CMClassifier(Timed(clock), pooling="none").fit(X, y)
    before = clf.stage_cost_
    assert clf.seconds_ is None
    clf.measure_seconds(X, batch_size=5)
    assert_allclose(clf.seconds_.stages, STAGES, rtol=1e-6)
    assert clf.seconds_.batch_size == 5
    assert_array_equal(clf.stage_cost_, before)
    clf.set_params(cost_unit="seconds").measure_seconds(X)
    assert clf.network_.costs.unit == "time"
    assert_allclose(np.diff(clf.stage_cost_)[0], STAGES[1] / PLAIN, rtol=1e-6)
    clf.set_params(cost_unit="macs").fit(X, y)
    assert clf.seconds_ is None
    assert_array_equal(clf.stage_cost_, before)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "all"])
def test_another_batch_size_is_checked(clock, batch_size):
    clf = fitted(clock)
    with pytest.raises(ValueError, match=r"batch_size.*measure_seconds.*must be"):
        clf.measure_seconds(make_data()[0], batch_size=batch_size)


def test_a_tuned_estimator_measures_anew_and_keeps_its_thresholds(clock):
    X, y = make_data()
    search = TunedExitsCV(fitted(clock), max_drop=0.05, cv="prefit").fit(X, y)
    threshold = search.best_threshold_.copy()
    search.estimator_.extractor.stages = STAGES * [1, 1, 2]
    assert search.measure_seconds(X) is search
    assert_allclose(search.seconds_.stages, STAGES * [1, 1, 2], rtol=1e-6)
    assert_array_equal(search.estimator_.threshold, threshold)


def test_what_was_measured_is_pickled(clock):
    clf = fitted(clock, batch_size=64)
    clf.network_.at_once = {"cpu": 32}
    loaded = pickle.loads(pickle.dumps(clf))
    assert_array_equal(loaded.seconds_.stages, clf.seconds_.stages)
    assert_array_equal(loaded.stage_cost_, clf.stage_cost_)
    assert loaded.network_.at_once == {"cpu": 32}


# Tables


def test_the_table_says_what_was_measured_and_where(clock):
    lines = str(fitted(clock).seconds_).splitlines()
    assert "batches of 16" in lines[0]
    assert "cpu" in lines[0]
    assert "threads" in lines[0]
    own, its_exit = ["2000.0", "+-", "0.0"], ["100.0", "+-", "0.0"]
    assert lines[2].split() == ["part1", *own, *its_exit, "0.0"]
    assert lines[-2].startswith("as it was given")
    assert "8000.0" in lines[-2]
    assert "1.25 of it" in lines[-1]


def test_a_stage_that_cannot_be_told_from_noise_says_so(clock):
    class Noisy(Timed):
        def advance(self, state, stage):
            if stage == 1:
                self.clock.now += len(state) * rng.normal(scale=0.02)
            return super().advance(state, stage)

    rng = np.random.default_rng(0)
    clf = fitted(clock, extractor=Noisy(clock))
    assert clf.seconds_.is_noise.tolist() == [False, True, False]
    table = str(clf.seconds_).splitlines()
    assert ["noise" in line for line in table[2:5]] == [False, True, False]


def test_the_summary_speaks_of_time(clock, capsys):
    fitted(clock, threshold=[0.5, INF]).summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Costs in fractions of the network's time"
    assert lines[2].split() == ["part1", "0.5", "0.2500", "0.0125", "0.2625"]
    assert lines[3].split() == ["part2", "inf", "0.3750", "0.0000", "0.6375"]


# Thresholds chosen by seconds


def tuned(clock, batch_size=16, **params):
    X, y = make_data()
    clf = fitted(clock, batch_size, **params)
    return TunedExitsCV(clf, max_drop=0.1, cv="prefit", random_state=0).fit(X, y)


def test_an_exit_that_costs_more_than_it_saves_is_closed(clock):
    cheap = tuned(clock)
    assert np.isfinite(cheap.best_threshold_).all()
    dear = tuned(clock, exits=[4e-3, 2e-4, 0.0])
    assert np.isinf(dear.best_threshold_[0])
    assert np.isfinite(dear.best_threshold_[1])
    assert dear.best_cost_ < STAGES.sum() / PLAIN


def test_where_nothing_pays_all_exits_are_closed_and_that_is_said(clock):
    with pytest.warns(UserWarning, match="close every exit.*may also cost more"):
        search = tuned(clock, exits=[9e-3, 9e-3, 0.0])
    assert np.isinf(search.best_threshold_).all()
    assert_allclose(search.best_cost_, STAGES.sum() / PLAIN, rtol=1e-6)
    assert search.best_score_ == search.full_score_


def test_exits_that_are_slower_by_the_clock_than_by_the_sum_are_closed(clock):
    class SlowWhenFew(Timed):
        join = property(lambda self: getattr(super(), "no such method"))

        def advance(self, state, stage):
            # What a full batch takes, and more, for the few that are left.
            few = len(state) < 16
            self.clock.now += few * 16 * 8 * self.stages[stage]
            return super().advance(state, stage)

    with pytest.warns(UserWarning, match="By the clock, leaving early.*all exits"):
        search = tuned(clock, extractor=SlowWhenFew(clock))
    assert np.isinf(search.best_threshold_).all()
    assert search.best_score_ == search.full_score_
    assert_allclose(search.best_cost_, search.stage_cost_[-1])


def test_a_cost_that_cannot_be_met_is_said_in_time(clock):
    X, y = make_data()
    search = TunedExitsCV(fitted(clock), max_cost=0.1, cv="prefit")
    with pytest.raises(ValueError, match=r"least possible cost is 0.2.*network's time"):
        search.fit(X, y)


# Bad input


def test_another_batch_size_than_was_measured_is_warned_of_once(clock):
    clf = fitted(clock, batch_size=16)
    X, _ = make_data()
    labels = clf.predict(X)
    clf.set_params(batch_size=32)
    with pytest.warns(UserWarning, match=r"batch_size=16.*measure_seconds"):
        assert_array_equal(clf.predict(X), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.cost(X)
        clf.predict(X)
        assert len(clf.stage_cost_) == 3
        clf.summary()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.measure_seconds(X).predict(X)


def test_another_device_than_was_measured_is_warned_of_once(clock):
    clf = fitted(clock)
    X, _ = make_data()
    labels = clf.predict(X)
    object.__setattr__(clf.seconds_, "device", "cuda:0")
    with pytest.warns(UserWarning, match=r"device='cuda:0'.*measure_seconds") as found:
        assert_array_equal(clf.predict(X), labels)
    # The user's line is named, not one of ours.
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.cost(X)


def test_an_extractor_that_counts_in_a_unit_of_its_own_is_timed_all_the_same(clock):
    class Euros(Timed):
        uncut = property(lambda self: getattr(super(), "no such method"))

        def macs(self, input_shape):
            return [1.0, 100.0, 101.0]

    with pytest.warns(UserWarning, match=r"does not use its own costs.*Euros.macs"):
        clf = fitted(clock, extractor=Euros(clock), threshold=INF)
    # One is the time of all its stages.
    assert_allclose(clf.stage_cost_, np.cumsum(STAGES) / STAGES.sum(), atol=1e-4)


def test_a_timer_too_coarse_for_stages_is_warned_of(clock):
    clock.tick, clock.least = 1e-5, 0.05
    with pytest.warns(UserWarning, match=r"timer of this machine is coarse, 0.05 s"):
        clf = fitted(clock, batch_size=8)
    assert np.isfinite(clf.stage_cost_).all()
    X, y = make_data()
    assert clf.score(X, y) > 0.8


def test_a_timer_that_stands_still_is_refused(clock):
    still = Timed(clock, stages=np.zeros(3), plain=0.0)
    with pytest.raises(ValueError, match=r"too coarse.*cost_unit='macs'"):
        fitted(clock, extractor=still, exits=np.zeros(3))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "uncut must return one row for each of 16 samples, got a NoneType"),
        (np.ones((2, 3)), r"got a ndarray of shape \(2, 3\)"),
        (np.float64(1.0), "got a float64"),
    ],
)
def test_an_uncut_network_without_a_row_for_each_sample_is_refused(
    clock, output, message
):
    class Bad(Timed):
        def uncut(self, X):
            return output

    with pytest.raises(TypeError, match=message):
        fitted(clock, extractor=Bad(clock))


@pytest.mark.parametrize("layouts", [None, (), "other"], ids=str)
def test_layouts_that_are_no_extractors_itself_first_are_refused(clock, layouts):
    class Bad(Timed):
        def layouts(self):
            return (Timed(clock),) if layouts == "other" else layouts

    with pytest.raises(TypeError, match=r"Bad.layouts must return a sequence"):
        fitted(clock, extractor=Bad(clock))


def test_optional_members_that_are_none_are_not_there(clock):
    class Without(Timed):
        join = uncut = layouts = None

    with pytest.warns(UserWarning, match="no method uncut"):
        clf = fitted(clock, extractor=Without(clock))
    assert_allclose(clf.seconds_.plain, STAGES.sum(), rtol=1e-6)


def test_a_batch_larger_than_x_is_all_of_x(clock):
    clf = fitted(clock, batch_size=10**6)
    assert_allclose(clf.seconds_.stages, STAGES, rtol=1e-6)
    assert clf.seconds_.batch_size == 10**6
    clf.set_params(batch_size=16)
    clf.measure_seconds(make_data()[0][:5])
    assert clf.network_.at_once == {}


def test_tuning_by_seconds_gets_by_with_little_memory(clock):
    class Small(Timed):
        def advance(self, state, stage):
            if len(state) > 10:
                raise torch.OutOfMemoryError("10 at most")
            return super().advance(state, stage)

        def uncut(self, X):
            state = self.begin(X)
            return self.advance(state, 2)[1]

    with pytest.warns(UserWarning, match="smaller batch_size"):
        search = tuned(clock, batch_size=64, extractor=Small(clock))
    X, y = make_data()
    # No more than it was measured with are run at once.
    assert search.score(X, y) > 0.7


def test_after_a_fit_by_time_costs_stay_in_time(clock):
    clf = fitted(clock, threshold=0.5).set_params(cost_unit="macs")
    clf.extractor.stages = STAGES * 2
    clf.measure_seconds(make_data()[0])
    assert_allclose(clf.stage_cost_, np.cumsum(2 * STAGES + EXITS) / PLAIN, rtol=1e-6)


def test_a_batch_that_the_memory_does_not_hold_is_measured_by_halves(clock):
    class Small(Timed):
        def uncut(self, X):
            if len(X) > 10:
                raise MemoryError("10 at most")
            return super().uncut(X)

    with pytest.warns(UserWarning, match="smaller batch_size") as warned:
        clf = fitted(clock, extractor=Small(clock), batch_size=32)
    assert clf.seconds_.batch_size == 32
    assert clf.seconds_.at_once == 8
    assert len(warned) == 1
    assert_allclose(clf.seconds_.stages, STAGES, rtol=1e-6)
