"""What the benchmarks compare with, and the weights that they ship."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from benchmarks import clusters, clusters_picture
from benchmarks.accuracy import BUDGETS, ROUNDING, Judged, chosen, drawn, shared
from benchmarks.resnet20 import BLOCKS, load_trained
from benchmarks.train_resnet20 import N_WITHHELD, split
from examples import datasets
from sk_e2cm import TorchExtractor
from sk_e2cm.testing import ToyExtractor


def make_judged(n=200, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    right = rng.random((n, 3)) < [0.6, 0.8, 0.9]
    label = np.where(right, y[:, None], 1 - y[:, None])
    confidence = rng.uniform(0.5, 1.0, (n, 3))
    is_one = np.where(label, confidence, 1 - confidence)
    proba = np.stack([1 - is_one, is_one], axis=2)
    return Judged(y, proba, np.array([0.1, 0.5, 1.0]))


def test_points_are_accuracy_and_cost_of_the_first_confident_exit():
    judged = make_judged()
    accuracy, cost = judged.points(np.array([[0.85, 0.7]]))[0]
    right, spent = 0, 0.0
    for i in range(200):
        confident = judged.confidence[i] >= [0.85, 0.7]
        stage = int(np.flatnonzero([*confident, True])[0])
        right += judged.right[i, stage]
        spent += judged.stage_cost[stage]
    assert accuracy == pytest.approx(right / 200)
    assert cost == pytest.approx(spent / 200)


@pytest.mark.parametrize("draw", [shared, lambda judged: drawn(judged, 0)])
def test_the_rivals_choose_the_most_accurate_within_each_budget(draw):
    tuning = make_judged()
    thresholds = draw(tuning)
    points = tuning.points(thresholds)
    found = chosen(thresholds, tuning, tuning)
    for budget, (accuracy, cost) in zip(BUDGETS, found, strict=True):
        within = points[points[:, 1] <= budget + ROUNDING]
        assert accuracy == within[:, 0].max()
        assert cost <= budget + ROUNDING


def test_nothing_is_chosen_where_everything_costs_too_much():
    tuning = make_judged()._replace(stage_cost=np.array([0.4, 0.5, 1.0]))
    found = chosen(np.zeros((1, 2)), tuning, tuning)
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2:]).all()


def test_withheld_images_are_no_training_images():
    rows, withheld = split(50_000)
    assert len(withheld) == N_WITHHELD
    assert np.array_equal(np.sort(np.append(rows, withheld)), np.arange(50_000))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least", "macs"),
    [("fashion_mnist", 0.92, 31.1e6), ("cifar10", 0.9, 40.6e6)],
)
def test_the_trained_networks_are_as_accurate_as_the_docs_say(name, least, macs):
    try:
        data = datasets.load(f"npz:{name}")
    except FileNotFoundError as error:
        pytest.skip(f"{name}: {error}")
    network = load_trained(name)
    with torch.inference_mode():
        batches = torch.from_numpy(data.X_test).split(100)
        answers = torch.cat([network(batch).argmax(dim=1) for batch in batches])
    assert (answers.numpy() == data.y_test).mean() >= least
    extractor = TorchExtractor(network, BLOCKS)
    assert extractor.macs(data.X_test.shape[1:])[-1] == pytest.approx(macs, rel=0.01)


# Clusters


@pytest.fixture
def subject():
    X, y = load_digits(return_X_y=True)
    data = datasets.DataSet(X[:1000], y[:1000], X[1000:], y[1000:])
    return clusters.Subject("digits", 0, None, ToyExtractor(), data, {}, 500)


@pytest.fixture
def search(subject):
    return clusters.tuned(subject, {"metric": "mahalanobis"})


def test_thresholds_within_a_budget_agree_most(search):
    cost, score = search.frontier_["cost"], search.frontier_["expected_score"]
    for budget in (cost[0], 0.7, 2.0):
        found = clusters.within(search, budget)
        (at,) = np.flatnonzero((search.frontier_["threshold"] == found).all(axis=1))
        assert cost[at] <= budget
        assert score[at] == score[cost <= budget].max()
    assert clusters.within(search, cost[0] / 2) is None


def test_runs_are_what_the_clusterer_predicts(subject, search):
    found = {
        (run.images, run.budget): run for run in clusters.runs(subject, "", search)
    }
    for images, X, y in (
        ("training", subject.data.X_train, subject.data.y_train),
        ("test", subject.data.X_test, subject.data.y_test),
    ):
        run = found[images, 0.6]
        clf = search.estimator_.set_params(threshold=clusters.within(search, 0.6))
        assert run.cost == pytest.approx(clf.cost(X))
        assert adjusted_rand_score(y, clf.predict(X)) == pytest.approx(run.ARI)
        clf.set_params(threshold=np.inf)
        assert adjusted_rand_score(y, clf.predict(X)) == pytest.approx(run.full_ARI)


def test_means_are_those_of_shares_over_seeds():
    def run(seed, budget, acc, full):
        scores = acc, 0.0, 0.0, full, 1.0, 1.0
        return clusters.Run("a", seed, "test", "b", budget, 0.4, *scores)

    found = [run(0, 0.4, 0.6, 0.8), run(1, 0.4, 0.9, 0.9), run(0, 0.6, 0.8, 0.8)]
    (line,) = clusters.mean_lines(found, "ACC")
    assert line[:3] == ["a", "test", "b"]
    cells = dict(zip(map(str, clusters.BUDGETS), line[4:], strict=True))
    assert cells == {
        **dict.fromkeys(cells, ""),
        "0.4": "0.875 (0.400)",
        "0.6": "1.000 (0.400)",
    }


def test_the_picture_has_every_run_and_the_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters_picture, "PICTURE", tmp_path / "clusters.png")
    runs = [
        clusters.Run("mnist", seed, images, exits, budget, budget - 0.01, *[acc] * 6)
        for images in ("training", "test")
        for exits in clusters_picture.SHOWN
        for seed, acc in ((0, 0.5), (1, 0.7))
        for budget in (0.3, 0.6)
    ]
    runs = [run for run in runs if (run.seed, run.budget) != (1, 0.3)]
    mean = clusters_picture.mean_curve(runs, "paper")
    np.testing.assert_allclose(mean, [[0.29, 0.5], [0.59, 0.6]])
    clusters_picture.draw(runs)
    with Image.open(tmp_path / "clusters.png") as picture:
        picture.verify()
