"""What E2CMClassifier promises once it is fitted."""

from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch.utils.data import TensorDataset

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm.testing import CountingExtractor, ToyExtractor

EXITS = ["stem", "block", "down"]


@pytest.fixture(scope="module")
def extractor(network):
    return TorchExtractor(network, EXITS)


@pytest.fixture(scope="module")
def fitted(extractor, digits):
    X, y = digits
    return E2CMClassifier(extractor).fit(X[:1000], y[:1000])


@pytest.fixture
def clf(fitted):
    """Return an estimator whose parameters a test may change."""
    copy = clone(fitted)
    copy.__dict__.update(fitted.__dict__)
    return copy


@pytest.fixture(scope="module")
def X_new(digits):
    return digits[0][1000:]


def test_without_an_extractor_it_is_the_nearest_class_mean():
    X, y = load_iris(return_X_y=True)
    ours = E2CMClassifier(metric="euclidean").fit(X, y)
    theirs = NearestCentroid().fit(X, y)
    # Each distance is divided by its scale, so the two agree up to that.
    distances = np.linalg.norm(X[:, None] - theirs.centroids_, axis=2)
    expected = (distances / distances.mean(axis=0)).argmin(axis=1)
    np.testing.assert_allclose(ours.class_means_[0], theirs.centroids_)
    np.testing.assert_array_equal(ours.predict(X), expected)
    assert ours.stage_cost_.tolist() == [1.0]


def test_the_default_is_useful(fitted, digits, network, X_new):
    y = digits[1][1000:]
    with torch.no_grad():
        full = network(torch.from_numpy(X_new)).argmax(dim=1).numpy()
    assert fitted.score(X_new, y) > (full == y).mean() - 0.02
    assert 0 < (fitted.predict_exit(X_new) < 3).mean() < 1


def test_means_are_those_of_the_pooled_features_of_each_class(fitted, network, digits):
    X, y = (a[:1000] for a in digits)
    with torch.no_grad():
        stem = network.stem(torch.from_numpy(X))
    pooled = stem.reshape(1000, 8, 4, 2, 4, 2).mean(dim=(3, 5)).flatten(1).numpy()
    for k in range(10):
        expected = pooled[y == k].mean(axis=0)
        np.testing.assert_allclose(fitted.class_means_[0][k], expected, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9, np.inf, [0.5, np.inf, 0.8]])
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_the_lazy_path_agrees_with_the_full_path(clf, X_new, threshold, batch_size):
    clf.set_params(threshold=threshold, batch_size=batch_size)
    proba = clf.exit_proba(X_new)
    exits = np.full(len(X_new), 3)
    limits = np.broadcast_to(threshold, 3)
    for j in (2, 1, 0):
        exits[proba[:, j].max(axis=1) >= limits[j]] = j
    clear = (abs(proba[:, :3].max(axis=2) - limits) > 1e-5).all(axis=1)
    left_with = proba[np.arange(len(proba)), exits]
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(clf.predict_exit(X_new)[clear], exits[clear])
    np.testing.assert_allclose(
        clf.predict_proba(X_new)[clear], left_with[clear], atol=1e-5
    )


def test_a_sample_that_has_left_is_not_computed_again(extractor, digits, X_new):
    X, y = digits
    counting = CountingExtractor(extractor)
    clf = E2CMClassifier(counting, threshold=0.8).fit(X[:1000], y[:1000])
    assert counting.rows.tolist() == [1000] * 4
    exits = clf.predict_exit(X_new)
    counting.rows[:] = 0
    clf.predict(X_new)
    assert counting.rows.tolist() == [(exits >= stage).sum() for stage in range(4)]
    assert counting.rows[-1] < len(X_new)


def test_the_stages_are_steps_towards_the_prediction(clf, X_new):
    clf.set_params(threshold=0.8)
    exits, proba = clf.predict_exit(X_new), clf.exit_proba(X_new)
    steps = list(clf.staged_predict_proba(X_new))
    labels = list(clf.staged_predict(X_new))
    assert len(steps) == len(labels) == 4
    for k, (step, label) in enumerate(zip(steps, labels, strict=True)):
        known = proba[np.arange(len(proba)), np.minimum(exits, k)]
        np.testing.assert_allclose(step, known, atol=1e-5)
        np.testing.assert_array_equal(label, clf.classes_[step.argmax(axis=1)])
    np.testing.assert_array_equal(steps[-1], clf.predict_proba(X_new))
    np.testing.assert_array_equal(labels[-1], clf.predict(X_new))


def test_a_closed_exit_still_answers_in_the_staged_predictions(clf, X_new):
    clf.set_params(threshold=[np.inf, 0.8, np.inf])
    first = next(iter(clf.staged_predict_proba(X_new)))
    np.testing.assert_allclose(first, clf.exit_proba(X_new)[:, 0], atol=1e-5)


def test_the_cost_of_a_stage_is_the_networks_and_the_open_exits(clf, network):
    macs = np.array([9 * 8 * 64, 9 * 64 * 64, 9 * 8 * 16 * 16, 256 * 10]).cumsum()
    exits = 10 * np.array([128, 128, 256, 0])
    clf.set_params(threshold=0.9)
    np.testing.assert_allclose(clf.stage_cost_, (macs + exits.cumsum()) / macs[-1])
    clf.set_params(threshold=[np.inf, 0.9, np.inf])
    open_exits = exits * [0, 1, 0, 0]
    np.testing.assert_allclose(clf.stage_cost_, (macs + open_exits.cumsum()) / macs[-1])


def test_the_cost_of_samples_is_the_mean_over_where_they_leave(clf, X_new):
    clf.set_params(threshold=0.8)
    exits = clf.predict_exit(X_new)
    assert clf.cost(X_new) == pytest.approx(np.mean(clf.stage_cost_[exits]))


def test_closing_all_exits_gives_the_network(clf, network, X_new):
    clf.set_params(threshold=np.inf)
    with torch.no_grad():
        logits = network(torch.from_numpy(X_new))
    assert clf.final_ == "network"
    np.testing.assert_array_equal(clf.predict(X_new), logits.argmax(dim=1))
    expected = logits.double().softmax(dim=1)
    np.testing.assert_allclose(clf.predict_proba(X_new), expected, atol=1e-6)


def test_a_threshold_per_exit_and_class_lets_single_classes_leave(clf, X_new):
    threshold = np.full((3, 10), np.inf)
    threshold[0, 6] = 0.5
    clf.set_params(threshold=threshold)
    left = clf.predict_exit(X_new) == 0
    assert left.any()
    assert set(clf.predict(X_new)[left]) == {6}


def test_calibrated_confidence_is_the_share_of_right_answers(fitted, digits, X_new):
    y = digits[1][1000:]
    proba = fitted.exit_proba(X_new)[:, :3]
    confidence = proba.max(axis=2).mean(axis=0)
    accuracy = (proba.argmax(axis=2) == y[:, None]).mean(axis=0)
    np.testing.assert_allclose(confidence, accuracy, atol=0.08)
    uncalibrated = clone(fitted).set_params(metric="euclidean", calibration=None)
    uncalibrated.fit(digits[0][:1000], digits[1][:1000])
    paper = uncalibrated.exit_proba(X_new)[:, :3].max(axis=2).mean(axis=0)
    assert (paper < 0.25).all()
    assert (uncalibrated.temperature_ == 1).all()


def test_text_labels_are_given_back(extractor, digits, X_new):
    X, y = digits
    names = np.array([f"digit {k}" for k in range(10)])
    clf = E2CMClassifier(extractor).fit(X[:1000], names[y[:1000]])
    assert clf.classes_.tolist() == names.tolist()
    assert set(clf.predict(X_new)) <= set(names)
    assert (clf.predict(X_new) == names[y[1000:]]).mean() > 0.8


def test_head_classes_say_which_column_is_which_label(
    network, extractor, digits, X_new
):
    X, y = digits
    names = np.array([f"{9 - k} backwards" for k in range(10)])
    clf = E2CMClassifier(extractor, final="network", head_classes=names)
    clf.fit(X[:1000], names[y[:1000]]).set_params(threshold=np.inf)
    with torch.no_grad():
        columns = network(torch.from_numpy(X_new)).argmax(dim=1).numpy()
    np.testing.assert_array_equal(clf.predict(X_new), names[columns])


def test_a_head_in_another_order_is_not_trusted(extractor, digits):
    X, y = digits
    with pytest.warns(UserWarning, match=r"own head, right for .*head_classes="):
        clf = E2CMClassifier(extractor).fit(X[:1000], 9 - y[:1000])
    assert clf.final_ == "class_means"


def test_a_scikit_learn_classifier_may_give_the_final_answer(network, digits, X_new):
    X, y = digits
    extractor = TorchExtractor(network, ["stem"], output="down")
    logistic = LogisticRegression(C=0.5, max_iter=1000)
    clf = E2CMClassifier(extractor, final=logistic, pooling="none")
    clf.fit(X[:1000], y[:1000]).set_params(threshold=np.inf)
    with torch.no_grad():
        old, new = (
            network.down(s + torch.relu(network.block(s))).flatten(1).numpy()
            for s in (network.stem(torch.from_numpy(a)) for a in (X[:1000], X_new))
        )
    expected = clone(logistic).fit(old, y[:1000]).predict_proba(new)
    assert clf.final_ == "classifier"
    assert clf.get_params()["final__C"] == 0.5
    np.testing.assert_allclose(clf.predict_proba(X_new), expected, atol=1e-3)


def test_a_sample_of_weight_two_is_two_samples(extractor, digits, X_new):
    X, y = (a[:300] for a in digits)
    weight = np.random.default_rng(0).integers(0, 3, size=300)
    weighted = E2CMClassifier(extractor).fit(X, y, sample_weight=weight)
    repeated = E2CMClassifier(extractor).fit(X.repeat(weight, 0), y.repeat(weight))
    np.testing.assert_allclose(weighted.temperature_, repeated.temperature_, rtol=1e-5)
    np.testing.assert_allclose(
        weighted.exit_proba(X_new), repeated.exit_proba(X_new), atol=1e-5
    )


def test_two_threads_may_predict_with_one_estimator(clf, X_new):
    clf.set_params(threshold=0.8, batch_size=16)
    expected = clf.predict_proba(X_new)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: clf.predict_proba(X_new), range(8)))
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_x_is_not_written_to_by_an_in_place_first_layer():
    network = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(3, 2))
    X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    before = X.copy()
    clf = E2CMClassifier(TorchExtractor(network, ["0"])).fit(X, np.arange(20) % 2)
    clf.predict(X)
    list(clf.staged_predict(X))
    np.testing.assert_array_equal(X, before)


def test_past_the_working_memory_the_means_are_still_those_of_all_samples(digits):
    import sklearn

    X, y = digits
    X = X.reshape(len(X), -1)
    whole = E2CMClassifier(ToyExtractor()).fit(X, y)
    with sklearn.config_context(working_memory=0.2):
        subset = E2CMClassifier(ToyExtractor()).fit(X, y)
    for a, b in zip(whole.class_means_, subset.class_means_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert not np.array_equal(whole.temperature_, subset.temperature_)
    np.testing.assert_allclose(whole.temperature_, subset.temperature_, rtol=0.3)


@pytest.mark.parametrize("run", ["fit", "exit_proba", "predict", "fit a stream"])
@pytest.mark.usefixtures("plain_bars")
def test_verbose_draws_how_far_it_is(clf, digits, capsys, run):
    X, y = (a[:250] for a in digits)
    tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    runs = {
        "fit": lambda: clf.fit(X, y),
        "fit a stream": lambda: clf.fit(tensors),
        "exit_proba": lambda: clf.exit_proba(X),
        "predict": lambda: clf.predict(X),
    }
    clf.set_params(batch_size=100)
    runs[run]()
    assert capsys.readouterr().err == ""
    clf.set_params(verbose=1)
    runs[run]()
    drawn = capsys.readouterr().err
    assert "250 of 250 samples" in drawn
    # Predictions are of many batches at once.
    assert drawn.count("\r") == (1 if run == "predict" else 3)
    assert drawn.count("\n") == 1


@pytest.mark.usefixtures("plain_bars")
def test_verbose_workers_draw_how_far_they_are(digits, capsys):
    X, y = (a[:250] for a in digits)
    with joblib.parallel_config("threading"):
        E2CMClassifier(ToyExtractor(), batch_size=50, n_jobs=2, verbose=1).fit(X, y)
    assert "250 of 250 samples" in capsys.readouterr().err


@pytest.mark.parametrize("disguise", ["negative zeros", "byte order", "layout"])
def test_equal_samples_make_equal_fits(disguise):
    X = np.random.default_rng(0).normal(size=(200, 6)).round()
    y = (X[:, 0] + X[:, 5] > 0).astype(int)
    other = {
        "negative zeros": np.where(X == 0, -0.0, X),
        "byte order": X.astype(">f8"),
        "layout": np.asfortranarray(X),
    }[disguise]
    expected, found = (
        E2CMClassifier(ToyExtractor()).fit(Z, y).exit_proba(X) for Z in (X, other)
    )
    assert_allclose(found, expected, rtol=1e-12)


# All from one run


@pytest.mark.parametrize("threshold", [0.5, 0.9, np.inf])
def test_all_predictions_are_those_of_each_method(clf, X_new, threshold):
    clf.set_params(threshold=threshold)
    found = clf.predict_all(X_new)
    np.testing.assert_array_equal(found.label, clf.predict(X_new))
    np.testing.assert_array_equal(found.proba, clf.predict_proba(X_new))
    np.testing.assert_array_equal(found.exit, clf.predict_exit(X_new))
    assert found.cost.mean() == pytest.approx(clf.cost(X_new), rel=1e-12)
    np.testing.assert_array_equal(found.cost, clf.stage_cost_[found.exit])


def test_all_predictions_take_one_run_of_the_network(digits):
    X, y = digits
    extractor = CountingExtractor(ToyExtractor())
    clf = E2CMClassifier(extractor, threshold=1.0).fit(X[:500], y[:500])
    before = np.array(extractor.rows)
    clf.predict_all(X[500:600])
    np.testing.assert_array_equal(np.array(extractor.rows) - before, [100] * 3)


def test_tuned_estimators_and_clusterers_predict_all_too(digits):
    X, y = (a[:600] for a in digits)
    clf = E2CMClassifier(ToyExtractor())
    search = TunedExitsCV(clf, max_drop=0.05, random_state=0).fit(X, y)
    np.testing.assert_array_equal(search.predict_all(X).label, search.predict(X))
    clusterer = E2CMClusterer(ToyExtractor(), 4, random_state=0).fit(X)
    found = clusterer.predict_all(X)
    np.testing.assert_array_equal(found.label, clusterer.predict(X))
    assert found.proba.shape == (600, 4)
