"""The report: its figures against their definitions, and its words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm.inspection import TimeRatio, report
from sk_e2cm.metrics import calibration_error

N_CLASSES = 3


def samples(n, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % N_CLASSES
    X = rng.normal(size=(n, 6)) + 1.2 * np.eye(6)[y]
    return X.astype(np.float32), y


def make_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, N_CLASSES),
    )


def ratio_of(ratio, *, n_quicker, n_rounds=9, at_once=1, n_batches=1):
    return TimeRatio(
        at_once=at_once,
        n_batches=n_batches,
        plain=1.0,
        early=ratio,
        ratio=ratio,
        low=ratio - 0.1,
        high=ratio + 0.1,
        n_quicker=n_quicker,
        n_rounds=n_rounds,
    )


@pytest.fixture(scope="module")
def network():
    return make_network().eval()


@pytest.fixture(scope="module")
def clf(network):
    X, y = samples(300, 0)
    extractor = TorchExtractor(network, ["1", "3"])
    return E2CMClassifier(extractor, threshold=0.6).fit(X, y)


@pytest.fixture(scope="module")
def new():
    return samples(200, 1)


@pytest.fixture(scope="module")
def found(clf, network, new):
    return report(clf, network, *new, batch_sizes=(1, 8), n_rounds=1)


def test_scores_and_cost_are_those_of_the_estimator(found, clf, new):
    X, y = new
    full = clf.exit_proba(X)[:, -1].argmax(axis=1) == y
    early = clf.predict(X) == y
    assert found.score == clf.score(X, y)
    assert found.full_score == full.mean()
    assert found.drop == pytest.approx(full.mean() - early.mean())
    difference = full.astype(float) - early
    assert found.drop_error == pytest.approx(difference.std() / len(X) ** 0.5)
    assert found.cost == pytest.approx(clf.cost(X))
    np.testing.assert_array_equal(found.stage_cost, clf.stage_cost_)


def test_stages_are_described_by_who_leaves_there(found, clf, new):
    X, y = new
    all_of_it = clf.predict_all(X)
    right = all_of_it.label == y
    for stage in range(3):
        here = all_of_it.exit == stage
        assert found.leaves[stage] == here.mean()
        assert found.counts[stage, :, 1].sum() == right[here].sum()
        sure = all_of_it.proba[here].max(axis=1).mean()
        assert found.confidence[stage] == pytest.approx(sure)
        error = calibration_error(y, clf.exit_proba(X)[:, stage])
        assert found.calibration_error[stage] == pytest.approx(error)


def test_the_table_has_a_line_for_each_stage_and_each_way_to_predict(found):
    lines = str(found).splitlines()
    for name in (*found.stage_names, *map(str, found.times)):
        assert [line for line in lines if line.startswith(name)], name
    said = " ".join(str(found).split())
    assert said.endswith(" ".join(found.verdict))


def test_exits_that_are_closed_say_so(clf, network, new):
    closed = E2CMClassifier(clf.extractor, final="class_means").fit(*samples(300, 0))
    closed.set_params(threshold=[0.5, np.inf])
    found = report(closed, network, *new, batch_sizes=(8,), n_rounds=1)
    assert found.is_open.tolist() == [True, False, True]
    (line,) = [x for x in str(found).splitlines() if x.startswith("3 ")]
    assert line.endswith("closed")
    assert np.isnan(found.confidence[1])


def test_without_labels_the_answers_of_the_full_network_are_right(clf, network, new):
    X, _ = new
    found = report(clf, network, X, batch_sizes=(8,), n_rounds=1)
    assert found.full_score == 1.0
    full = clf.exit_proba(X)[:, -1].argmax(axis=1)
    assert found.score == (clf.predict(X) == full).mean()
    assert "agreement" in str(found)


def test_of_clusters_labels_are_ignored(network, new):
    clusterer = E2CMClusterer(TorchExtractor(network, ["1"]), n_clusters=3)
    clusterer.fit(samples(200, 0)[0])
    found = report(clusterer, None, *new, batch_sizes=(8,), n_rounds=1)
    assert not found.has_labels
    assert found.full_score == 1.0


def test_a_search_and_a_pipeline_are_looked_into(clf, network, new):
    X, y = samples(300, 0)
    search = TunedExitsCV(clf, max_drop=0.05, cv="prefit").fit(X, y)
    pipeline = make_pipeline(FunctionTransformer(), search)
    pipeline[0].fit(X)
    found = report(pipeline, network, *new, batch_sizes=(8,), n_rounds=1)
    assert found.is_tuned
    assert found.score == search.score(*new)


class TestTimes:
    def test_early_exits_and_the_network_see_the_same_samples(self, clf, new):
        class Recorded(E2CMClassifier):
            def predict(self, X):
                early.append(X)
                return super().predict(X)

        def network(X):
            plain.append(X)
            return np.zeros((len(X), N_CLASSES))

        early, plain = [], []
        recorded = Recorded(clf.extractor, final="class_means")
        recorded.fit(*samples(300, 0))
        found = report(recorded, network, *new, batch_sizes=(8,), n_rounds=2)
        assert found.times[0].at_once == 8
        # Two batches of the plain network alone say how many a round has.
        plain = plain[2:]
        assert len(plain) >= 6
        for ours, theirs in zip(early, plain, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_many_samples_in_one_call_are_timed_where_there_are_some(self, clf, new):
        X, _ = new
        small = E2CMClassifier(clf.extractor, batch_size=16, final="class_means")
        small.fit(*samples(300, 0))
        *alone, many = report(small, None, X, batch_sizes=(1, 8), n_rounds=1).times
        assert [each.n_batches for each in alone] == [1, 1]
        # In batches of the size that is quickest for the plain network.
        quickest = min(alone, key=lambda each: each.plain)
        assert many.at_once == quickest.at_once
        assert many.at_once * many.n_batches >= 2 * 16
        assert str(many).endswith("samples in one call")
        few = report(small, None, X[:31], batch_sizes=(1,), n_rounds=1)
        assert len(few.times) == 1

    def test_no_batch_is_larger_than_there_are_samples(self, clf, new):
        X, _ = new
        found = report(clf, None, X[:5], batch_sizes=(32, 64), n_rounds=1)
        assert [each.at_once for each in found.times] == [5]

    def test_the_network_stays_as_it_was(self, clf, new):
        network = make_network().double().eval()
        network.add_module("norm", torch.nn.BatchNorm1d(N_CLASSES).double().train())
        state = {name: value.clone() for name, value in network.state_dict().items()}
        report(clf, network, *new, batch_sizes=(8,), n_rounds=1)
        assert network.norm.training
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name])

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, ">f4", bool])
    def test_samples_are_converted_as_the_estimator_converts_them(self, dtype):
        X, y = samples(200, 0)
        X = np.round(3 * X).clip(0, 9).astype(dtype)
        network = make_network().eval()
        clf = E2CMClassifier(TorchExtractor(network, ["1"]), final="network").fit(X, y)
        found = report(clf, network, X, y, batch_sizes=(8,), n_rounds=1)
        assert found.own_score == pytest.approx(found.full_score)

    def test_data_frames_and_bars_do_not_disturb(self, clf, capsys, recwarn):
        pandas = pytest.importorskip("pandas")
        X, y = samples(200, 0)
        X = pandas.DataFrame(X, columns=list("abcdef"))
        loud = E2CMClassifier(clf.extractor, final="class_means", verbose=1).fit(X, y)
        capsys.readouterr()
        report(loud, None, X, y, batch_sizes=(8,), n_rounds=2)
        # One bar, of the pass over all stages.
        assert capsys.readouterr().err.count("predict:   0%") == 1
        assert not [w for w in recwarn if "feature names" in str(w.message)]

    @pytest.mark.parametrize(
        ("ratio", "n_quicker", "n_rounds", "pays"),
        [
            (0.5, 9, 9, True),
            (0.5, 8, 9, True),
            (0.5, 7, 9, None),
            (0.98, 9, 9, None),
            (1.2, 0, 9, False),
            (1.2, 2, 9, None),
            (0.5, 4, 4, None),
        ],
    )
    def test_what_noise_may_explain_is_neither_gain_nor_loss(
        self, ratio, n_quicker, n_rounds, pays
    ):
        time = ratio_of(ratio, n_quicker=n_quicker, n_rounds=n_rounds)
        assert time.pays is pays


class TestOwnScore:
    def test_it_is_the_accuracy_of_the_network_as_it_was_given(
        self, found, network, new
    ):
        X, y = new
        with torch.inference_mode():
            answers = network(torch.from_numpy(X)).argmax(1).numpy()
        assert found.own_score == (answers == y).mean()

    def test_head_classes_say_which_column_is_which(self, network, new):
        X, y = samples(300, 0)
        extractor = TorchExtractor(network, ["1"])
        clf = E2CMClassifier(extractor, head_classes=[2, 0, 1], final="network")
        found = report(clf.fit(X, y), network, *new, batch_sizes=(8,), n_rounds=1)
        assert found.own_score == pytest.approx(found.full_score)

    def test_of_other_outputs_or_text_nothing_is_said(self, network, new):
        X, y = new
        own = E2CMClassifier(TorchExtractor(network, ["1"]), final="network")
        own.fit(*samples(300, 0))
        found = report(own, lambda X: X, X, y, batch_sizes=(8,), n_rounds=1)
        assert found.own_score is None
        names = np.array(["a", "b", "c"])
        X_fit, y_fit = samples(300, 0)
        of_text = E2CMClassifier(own.extractor)
        of_text.fit(X_fit, names[y_fit])
        network = make_network()
        found = report(of_text, network, X, names[y], batch_sizes=(8,), n_rounds=1)
        assert found.own_score is None

    def test_class_means_that_were_asked_for_need_no_network(self, network, new):
        own = E2CMClassifier(TorchExtractor(network, ["1"]), final="class_means")
        own.fit(*samples(300, 0))
        found = report(own, network, *new, batch_sizes=(8,), n_rounds=1)
        assert found.own_score is None

    def test_where_the_network_does_not_fit_the_data_there_is_no_verdict(self, found):
        (only,) = replace(found, own_score=found.full_score - 0.2).verdict
        assert only.startswith("The network's own outputs are right for")
        near = replace(found, own_score=found.full_score - 0.01).verdict
        assert not near[0].startswith("The network's own")


class TestVerdict:
    @pytest.fixture
    def base(self, found):
        quick = ratio_of(0.5, n_quicker=9)
        return replace(
            found,
            times=[quick],
            score=0.9,
            full_score=0.9,
            drop_error=0.001,
            confidence=found.counts[:, :, 1].sum(1) / found.counts.sum((1, 2)),
            is_tuned=True,
            own_score=None,
        )

    def test_what_is_quicker_and_loses_nothing_is_to_be_used(self, base):
        assert base.verdict == [
            "Use it for one sample at a time: 0.50 of the network's time."
        ]

    def test_what_is_slower_is_not(self, base):
        slow = ratio_of(1.5, n_quicker=0, at_once=32)
        said = replace(base, times=[slow]).verdict
        assert said[0].startswith("Do not use it for batches of 32: 1.50")
        assert "cost_unit='seconds'" in said[1]
        assert len(replace(base, times=[slow], unit="time").verdict) == 1

    def test_what_cannot_be_told_from_noise_is_no_gain(self, base):
        same = ratio_of(1.0, n_quicker=4, at_once=32, n_batches=4)
        said = replace(base, times=[same]).verdict
        assert said[0].startswith("No gain for 128 samples in one call: 1.00")

    @pytest.mark.parametrize(("n_rounds", "start"), [(4, "Nothing to say"), (5, "Use")])
    def test_of_fewer_than_five_rounds_nothing_is_said(self, base, n_rounds, start):
        quick = ratio_of(0.5, n_quicker=n_rounds, n_rounds=n_rounds)
        said, *_ = replace(base, times=[quick]).verdict
        assert said.startswith(start)

    def test_a_loss_beyond_max_drop_and_luck_is_named(self, base):
        said = replace(base, score=0.85).verdict
        assert said[0].startswith("Quicker for one sample at a time")
        assert "5.0 points of accuracy, more than max_drop allows (1.0)" in said[1]

    @pytest.mark.parametrize("score", [0.91, 0.895, 0.88])
    def test_what_may_be_within_max_drop_or_beyond_is_left_open(self, base, score):
        said = replace(base, score=score, drop_error=0.02).verdict
        assert said[0].startswith("Quicker for one sample at a time")
        assert said[1].startswith("200 samples are too few to say")
        word = "gains" if score > base.full_score else "loses"
        assert f"here it {word} {abs(100 * (base.full_score - score)):.1f}" in said[1]

    def test_one_sample_is_not_evidence_enough(self, clf, network, new):
        X, y = new
        found = report(clf, network, X[:1], y[:1], batch_sizes=(1,), n_rounds=1)
        assert found.drop_error == 1.0

    def test_thresholds_that_are_not_tuned_are_named(self, base):
        assert "not tuned" in replace(base, is_tuned=False).verdict[-1]

    def test_exits_that_are_too_sure_are_named(self, base):
        sure = replace(base, confidence=base.confidence + np.array([0.3, 0, 0]))
        (name, *_) = base.stage_names
        assert sure.verdict[-1].startswith(f"Too sure of themselves: {name}.")
        assert len(replace(sure, has_labels=False).verdict) == 1

    def test_where_nobody_leaves_the_reason_is_named(self, base):
        counts = np.zeros_like(base.counts)
        counts[-1, :, 1] = 10
        nobody = replace(base, counts=counts)
        assert "Few reach the thresholds" in nobody.verdict[0]
        closed = replace(nobody, is_open=np.array([False, False, True]))
        assert "has closed all exits: none was worth opening" in closed.verdict[0]
        untuned = replace(nobody, is_tuned=False)
        assert "Choose thresholds with TunedExitsCV" in untuned.verdict[0]


def test_what_is_drawn(found):
    import matplotlib.pyplot as plt

    figure = found.plot()
    tradeoff, exits, times, calibration = figure.axes
    assert tradeoff.get_ylabel() == "Accuracy"
    assert [t.get_text() for t in exits.get_xticklabels()] == list(found.stage_names)
    widths = [bar.get_width() for bar in times.patches]
    np.testing.assert_allclose(widths, [each.ratio for each in found.times])
    points = calibration.collections[0].get_offsets()
    assert len(points) == (found.leaves > 0).sum()
    plt.close(figure)


def test_what_is_right_and_sure_throughout_can_be_drawn(found, tmp_path):
    import matplotlib.pyplot as plt

    counts = np.zeros_like(found.counts)
    counts[0, :, 1] = 10
    figure = replace(found, counts=counts, confidence=np.array([1, np.nan, np.nan]))
    figure.plot().savefig(tmp_path / "sure.png")
    assert (tmp_path / "sure.png").stat().st_size > 0
    plt.close("all")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_sizes": ()}, r"batch_sizes must be whole numbers from 1 on, got \(\)"),
        ({"batch_sizes": (0,)}, "batch_sizes must be"),
        ({"batch_sizes": (1.5,)}, "batch_sizes must be"),
        ({"n_rounds": 0}, "n_rounds must be a whole number from 1 on, got 0"),
        ({"max_drop": -0.1}, "max_drop must be from 0 to 1, got -0.1"),
        ({"max_drop": "1%"}, "max_drop must be"),
        ({"max_drop": True}, "max_drop must be"),
        ({"max_drop": np.nan}, "max_drop must be"),
    ],
)
def test_other_parameters_are_refused(clf, network, new, params, message):
    with pytest.raises(ValueError, match=message):
        report(clf, network, *new, **params)


def test_what_is_no_network_is_refused(clf, new):
    with pytest.raises(TypeError, match="network must be the module"):
        report(clf, "resnet18", *new, n_rounds=1)


def test_numbers_of_numpy_are_numbers(clf, network, new):
    sizes, drop = np.array([1, 8]), np.float32(0.5)
    found = report(clf, network, *new, batch_sizes=sizes, n_rounds=1, max_drop=drop)
    assert [each.at_once for each in found.times] == [1, 8]
    assert found.max_drop == 0.5


def test_without_exits_there_is_nothing_to_report(network, new):
    none = E2CMClassifier(TorchExtractor(network, []), final="class_means")
    with pytest.raises(ValueError, match="the estimator has no exits"):
        report(none.fit(*samples(300, 0)), network, *new)


def test_labels_of_another_length_are_refused(clf, network, new):
    X, y = new
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        report(clf, network, X, y[:-1])
