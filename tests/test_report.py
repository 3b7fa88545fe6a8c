"""The report: its figures against their definitions, and its words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm import report as command
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


@pytest.fixture(scope="module")
def network():
    return make_network().eval()


@pytest.fixture(scope="module")
def clf(network):
    X, y = samples(300, 0)
    extractor = TorchExtractor(network, ["1", "3"])
    return E2CMClassifier(extractor, threshold=0.6, final="class_means").fit(X, y)


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
    assert lines[-len(found.verdict) :] == found.verdict


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
        seen = []

        def network(X):
            seen.append(X)
            return np.zeros((len(X), N_CLASSES))

        found = report(clf, network, *new, batch_sizes=(8,), n_rounds=2)
        assert {len(batch) for batch in seen} == {8}
        # Two batches alone, then three rounds, of which the first warms up.
        n_batches = (len(seen) - 2) / 3
        assert n_batches == int(n_batches) >= 2
        assert found.times[0].at_once == 8

    def test_many_batches_in_one_call_are_timed_where_there_are_some(self, clf, new):
        X, _ = new
        small = E2CMClassifier(clf.extractor, batch_size=16, final="class_means")
        small.fit(*samples(300, 0))
        *alone, many = report(small, None, X, batch_sizes=(1,), n_rounds=1).times
        assert [each.n_batches for each in alone] == [1]
        assert many.n_batches == len(X) // 16
        assert str(many) == "192 samples in one call"
        few = report(small, None, X[:20], batch_sizes=(1,), n_rounds=1)
        assert len(few.times) == 1

    def test_no_batch_is_larger_than_there_are_samples(self, clf, new):
        X, _ = new
        found = report(clf, None, X[:5], batch_sizes=(32, 64), n_rounds=1)
        assert [each.at_once for each in found.times] == [5]

    def test_the_network_stays_as_it_was(self, clf, new):
        network = make_network().double().train()
        state = {name: value.clone() for name, value in network.state_dict().items()}
        report(clf, network, *new, batch_sizes=(8,), n_rounds=1)
        assert network.training
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name])

    @pytest.mark.parametrize(
        ("ratio", "low", "high", "pays"),
        [
            (0.5, 0.4, 0.6, True),
            (0.98, 0.97, 0.99, None),
            (0.9, 0.8, 1.01, None),
            (1.2, 1.1, 1.3, False),
            (1.1, 0.99, 1.3, None),
        ],
    )
    def test_what_noise_may_explain_is_neither_gain_nor_loss(
        self, ratio, low, high, pays
    ):
        assert TimeRatio(1, 1, 1.0, ratio, ratio, low, high).pays is pays


class TestVerdict:
    @pytest.fixture
    def base(self, found):
        quick = TimeRatio(1, 1, 1.0, 0.5, 0.5, 0.4, 0.6)
        return replace(
            found,
            times=[quick],
            score=0.9,
            full_score=0.9,
            drop_error=0.001,
            confidence=found.counts[:, :, 1].sum(1) / found.counts.sum((1, 2)),
            is_tuned=True,
        )

    def test_what_is_quicker_and_loses_nothing_is_to_be_used(self, base):
        assert base.verdict == [
            "Use it for one sample at a time: 0.50 of the network's time."
        ]

    def test_what_is_slower_is_not(self, base):
        slow = TimeRatio(32, 1, 1.0, 1.5, 1.5, 1.4, 1.6)
        said = replace(base, times=[slow]).verdict
        assert said[0].startswith("Do not use it for batches of 32: 1.50")
        assert "cost_unit='seconds'" in said[1]
        assert len(replace(base, times=[slow], unit="time").verdict) == 1

    def test_what_cannot_be_told_from_noise_is_no_gain(self, base):
        same = TimeRatio(32, 4, 1.0, 1.0, 1.0, 0.9, 1.1)
        said = replace(base, times=[same]).verdict
        assert said[0].startswith("No gain for 128 samples in one call: 1.00")

    def test_a_loss_beyond_max_drop_and_luck_is_named(self, base):
        said = replace(base, score=0.85).verdict
        assert "at a loss of accuracy" in said[0]
        assert "5.0 points of accuracy, more than max_drop allows (1.0)" in said[1]
        lucky = replace(base, score=0.85, drop_error=0.03).verdict
        assert not any("more than max_drop" in each for each in lucky)

    def test_too_few_samples_are_named(self, base):
        said = replace(base, drop_error=0.02).verdict
        assert "too few to tell a loss of 1.0 points" in said[1]

    def test_thresholds_that_are_not_tuned_are_named(self, base):
        assert "not tuned" in replace(base, is_tuned=False).verdict[1]

    def test_exits_that_are_too_sure_are_named(self, base):
        sure = replace(base, confidence=base.confidence + np.array([0.3, 0, 0]))
        (name, *_) = base.stage_names
        assert sure.verdict[-1].startswith(f"Too sure of themselves: {name}.")
        assert len(replace(sure, has_labels=False).verdict) == 1

    def test_where_nobody_leaves_the_reason_is_named(self, base):
        counts = np.zeros_like(base.counts)
        counts[-1, :, 1] = 10
        nobody = replace(base, counts=counts)
        assert "Early layers do not tell" in nobody.verdict[0]
        closed = replace(nobody, is_open=np.array([False, False, True]))
        assert "has closed all exits" in closed.verdict[0]
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


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_sizes": ()}, r"batch_sizes must be whole numbers from 1 on, got \(\)"),
        ({"batch_sizes": (0,)}, "batch_sizes must be"),
        ({"batch_sizes": (1.5,)}, "batch_sizes must be"),
        ({"n_rounds": 0}, "n_rounds must be whole numbers from 1 on, got 0"),
        ({"max_drop": -0.1}, "max_drop must be from 0 to 1, got -0.1"),
        ({"max_drop": "1%"}, "max_drop must be"),
    ],
)
def test_other_parameters_are_refused(clf, network, new, params, message):
    with pytest.raises(ValueError, match=message):
        report(clf, network, *new, **params)


def test_what_is_no_network_is_refused(clf, new):
    with pytest.raises(TypeError, match="network must be the module"):
        report(clf, "resnet18", *new, n_rounds=1)


def test_labels_of_another_length_are_refused(clf, network, new):
    X, y = new
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        report(clf, network, X, y[:-1])


class TestCommand:
    @pytest.fixture
    def files(self, tmp_path):
        network = tmp_path / "mine.py"
        network.write_text(
            "import torch\n"
            "def make():\n"
            "    torch.manual_seed(0)\n"
            "    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(),\n"
            "                               torch.nn.Linear(16, 3))\n"
            "def nothing():\n"
            "    return None\n"
        )
        X, y = samples(240, 0)
        np.savez(tmp_path / "data.npz", X=X, y=y)
        return tmp_path

    @pytest.mark.filterwarnings("ignore:The thresholds chosen close")
    @pytest.mark.filterwarnings("ignore:By the clock")
    def test_it_prints_a_verdict_and_saves_a_picture(self, files, capsys):
        picture = files / "report.png"
        arguments = ["--network", f"{files / 'mine.py'}:make"]
        arguments += ["--data", str(files / "data.npz"), "--exits", "1"]
        command.main([*arguments, "--batch-size", "8", "--picture", str(picture)])
        said = capsys.readouterr().out
        assert "120 samples" in said
        assert "Full network: accuracy" in said
        assert picture.stat().st_size > 0

    def test_samples_of_a_training_set_are_left_alone(self, tmp_path):
        X, y = samples(30, 0)
        path = tmp_path / "all.npz"
        np.savez(path, X_train=X, y_train=y, X_test=X[:10], y_test=y[:10])
        found, labels = command.load_samples(str(path))
        np.testing.assert_array_equal(found, X[:10])
        np.testing.assert_array_equal(labels, y[:10])

    @pytest.mark.parametrize(
        ("network", "message"),
        [
            ("mine.py:other", "no attribute 'other'"),
            ("mine.py", "neither FILE.py:FUNCTION nor MODULE:FUNCTION"),
            ("lacking.py:make", "No such file"),
            ("no_such_module:make", "No module named"),
            ("mine.py:nothing", "returned a NoneType, no nn.Module"),
        ],
    )
    def test_what_is_no_network_ends_it(self, files, network, message):
        spec = str(files / network) if network.startswith(("mine", "lack")) else network
        with pytest.raises(SystemExit, match=message):
            command.main(["--network", spec, "--data", str(files / "data.npz")])

    def test_files_without_samples_end_it(self, files):
        np.savez(files / "other.npz", images=np.zeros(3))
        arguments = ["--network", f"{files / 'mine.py'}:make", "--data"]
        with pytest.raises(SystemExit, match="needs the arrays X and y"):
            command.main([*arguments, str(files / "other.npz")])
        with pytest.raises(SystemExit, match="No such file"):
            command.main([*arguments, str(files / "lacking.npz")])
