"""What the benchmarks compare with, and the weights that they ship."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from benchmarks import (
    clusters,
    clusters_picture,
    peers,
    peers_ours,
    peers_static,
    peers_store,
    peers_trained,
)
from benchmarks.accuracy import BUDGETS, ROUNDING, Judged, chosen, drawn, shared
from benchmarks.peers_subjects import Images, Subject
from benchmarks.peers_times import in_the_loop
from benchmarks.peers_trained import GeometricEnsembles, TrainedExits, costs_of
from benchmarks.resnet20 import BLOCKS, WIDTHS, ResNet20, load_trained
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


# Peers


@pytest.fixture
def frozen():
    """A ResNet-20 with random weights, and a few images of noise."""
    torch.manual_seed(0)
    network = ResNet20(3).eval().to(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    parts = [
        Images(
            rng.integers(256, size=(n, 3, 16, 16), dtype=np.uint8),
            rng.integers(10, size=n),
        )
        for n in (130, 40, 50)
    ]
    extractor = TorchExtractor(network, ["stem", "blocks.3", "blocks.6"])
    return Subject("cifar10", extractor, *parts)


@pytest.fixture
def kept(monkeypatch, tmp_path):
    for module in (peers_ours, peers_store, peers_trained):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    return peers_store.Store(tmp_path / "runs.csv")


def test_trained_exits_mix_maxima_and_averages_of_sixteen_cells(frozen):
    feed = frozen.feed()
    exits = TrainedExits(feed.widths, 10)
    exits.share.data = torch.tensor([0.2, 0.5, 0.9])
    *pooled, _ = next(feed.plain("tune"))
    found = exits(pooled)
    maps = list(frozen.extractor.staged_transform(frozen.tune.X))
    for output, share, layer, logits in zip(
        maps, [0.2, 0.5, 0.9], exits.layers, found, strict=False
    ):
        n, channels, height, width = output.shape
        cells = np.reshape(output, (n, channels, 4, height // 4, 4, width // 4))
        mixed = share * cells.max((3, 5)) + (1 - share) * cells.mean((3, 5))
        weight, bias = (value.detach().numpy() for value in layer.parameters())
        expected = mixed.reshape(n, -1) @ weight.T + bias
        np.testing.assert_allclose(logits.detach(), expected, rtol=1e-3, atol=1e-4)


def test_an_exit_of_a_cascade_adds_to_what_the_one_before_says():
    torch.manual_seed(0)
    alone, cascade = TrainedExits([6, 6], 4), TrainedExits([6, 6], 4, True)
    cascade.load_state_dict(alone.state_dict(), strict=False)
    pooled = [torch.rand(5, 2, 6), torch.rand(5, 2, 6)]
    first, second = alone(pooled)
    found = cascade(pooled)
    assert torch.equal(found[0], first)
    expected = second + first @ cascade.links[0].weight.T
    torch.testing.assert_close(found[1], expected)
    found[1].sum().backward()
    assert cascade.layers[0].weight.grad is None  # the one before is not trained by it


def test_ensembles_are_geometric_means_with_biases_of_classes():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(4), size=(6, 3))
    ensembles = GeometricEnsembles(3, 4)
    ensembles.bias.data = torch.from_numpy(rng.normal(size=(3, 4)))
    ensembles.log_weight.data = torch.from_numpy(rng.normal(size=(3, 3)))
    found = ensembles(torch.from_numpy(np.log(proba))).exp().detach().numpy()
    weight, bias = (
        np.exp(values.detach().numpy())
        for values in (ensembles.log_weight, ensembles.bias)
    )
    for m in range(3):
        powers = [proba[:, j] ** weight[m, j] for j in range(m + 1)]
        product = bias[m] * np.prod(powers, axis=0)
        expected = product / product.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, m], expected)


def test_ensembles_fit_better_than_any_exit_alone():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=300)
    logits = 2 * np.eye(3)[y][:, None] + rng.normal(0, 2, (300, 4, 3))
    log_proba = torch.from_numpy(logits).log_softmax(dim=2)
    ensembles = GeometricEnsembles(4, 3).double()
    ensembles.fit(log_proba, torch.from_numpy(y))
    of_ensembles = ensembles(log_proba)[np.arange(300), :, y].mean(dim=0)
    alone = log_proba[np.arange(300), :, y].mean(dim=0)
    assert (of_ensembles > alone).all()
    assert of_ensembles[-1] > of_ensembles[0]


def test_costs_of_trained_exits_are_their_multiplications():
    exits, cascade = TrainedExits([6, 8], 4), TrainedExits([6, 8], 4, True)
    assert exits.macs().tolist() == [12 + 24, 16 + 32]
    assert cascade.macs().tolist() == [12 + 24, 16 + 32 + 16]
    macs = np.array([100.0, 200.0, 400.0])
    nobody = np.full((2, 1), np.inf)
    costs = costs_of(macs, exits.macs())
    assert costs.cumulative(nobody)[-1] == pytest.approx(1)
    everywhere = costs.cumulative(np.zeros((2, 1)))
    np.testing.assert_allclose(everywhere, [136 / 400, 284 / 400, 484 / 400])
    # The exits of a cascade run even where they are closed.
    always = costs_of(macs, exits.macs(), is_cascade=True).cumulative(nobody)
    np.testing.assert_allclose(always, everywhere)


def test_trained_exits_say_the_same_in_the_loop_that_is_timed(frozen):
    feed = frozen.feed()
    exits = TrainedExits(feed.widths, 10).requires_grad_(False)
    network = in_the_loop(frozen, exits, feed.pools)
    assert [head.macs for head in network.heads] == [*exits.macs(), 0]
    found = network.staged_proba(frozen.tune.X, np.inf, batch_size=16)
    *pooled, _ = next(feed.plain("tune"))
    for of_exit, logits in zip(found, exits(pooled), strict=False):
        np.testing.assert_allclose(of_exit, logits.softmax(dim=1), atol=1e-4)


def test_what_is_stored_is_not_run_again(frozen, kept, monkeypatch, capsys):
    short = {k: v for k, v in peers_trained.METHODS.items() if v.epochs == 1}
    cascade = {"cascade": peers_trained.Method(True, 1)}
    monkeypatch.setattr(peers_trained, "METHODS", short | cascade)
    names = [*short, "cascade"]
    todo = [(name, seed) for name in names for seed in (0, 1)]
    peers.run(frozen, "trained", todo, kept)
    assert kept.done() == {("cifar10", n, seed) for n in names for seed in (0, 1)}
    before = kept.path.read_text()
    monkeypatch.setattr(peers_trained, "answers", None)  # it would fail
    peers.run(frozen, "trained", todo, kept)
    assert kept.path.read_text() == before
    header, *lines = peers_store.summary(kept)
    assert len(header) == len(lines[0])
    assert [line[:3] for line in lines] == [["cifar10", name, "2"] for name in names]
    kept.forget(("cifar10", "cascade", 1))
    assert kept.done() == {("cifar10", *each) for each in todo[:-1]}


def test_thresholds_are_chosen_anew_from_answers_that_were_kept(
    frozen, kept, monkeypatch
):
    short = {k: v for k, v in peers_trained.METHODS.items() if v.epochs == 1}
    todo = [(name, 0) for name in short]
    peers.run(frozen, "trained", todo, kept)
    before = kept.path.read_text()
    monkeypatch.setattr(peers_trained, "answers", None)  # it would fail
    peers.choose_again(frozen, todo, kept)
    assert kept.path.read_text() == before
    monkeypatch.setattr(peers_store, "BUDGETS", [0.9])
    peers.choose_again(frozen, todo, kept)
    assert {line["budget"] for line in kept.lines()} == {"0.9", peers_store.FULL}


def test_thresholds_of_a_budget_are_the_best_that_keep_it(frozen):
    rng = np.random.default_rng(0)
    tune, test = (rng.dirichlet(np.ones(10), size=(n, 4)) for n in (40, 50))
    costs = costs_of(np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(3))
    answers = peers_store.Answers(tune, test, costs, 0.0, 0)
    found = peers_store.frontier(answers, frozen.tune.y, seed=0)
    chosen = peers_store.within(found, 0.5)
    problem = peers_store.problem_of(answers, tune, frozen.tune.y)
    _, cost = problem.totals(chosen)
    affordable = found.cost <= 0.5 + peers_store.ROUNDING
    assert cost == pytest.approx(found.cost[affordable][-1])
    assert found.loss[affordable][-1] == found.loss[affordable].min()
    assert peers_store.within(found, 0.2) is None
    points = peers_store.points(answers, frozen, seed=0)
    right = test[:, -1].argmax(axis=1) == frozen.test.y
    assert points["full"] == pytest.approx((right.mean(), 1.0))


def test_fitted_exits_are_saved(frozen, kept):
    found = peers_ours.fitted(frozen, "E2CM, default", 0)
    assert found.tune.shape == (len(frozen.tune.y), 4, 10)
    assert peers_ours.saved_at("cifar10", "E2CM, default", 0).exists()


def test_the_large_network_has_the_widths_of_the_shipped_weights():
    assert peers_static.scaled(16) == WIDTHS
    small = ResNet20(3, widths=peers_static.METHODS["ResNet-8, 16 channels"])
    assert small(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert len(small.blocks) == 3
