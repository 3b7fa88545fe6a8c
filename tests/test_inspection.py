"""Pictures show what was measured."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError

from sk_e2cm import E2CMClassifier, E2CMClusterer, TunedExitsCV
from sk_e2cm.inspection import ExitDisplay, TradeoffDisplay
from sk_e2cm.testing import CountingExtractor, ToyExtractor

NAMES = np.array(["bird", "cat", "dog"])


@pytest.fixture(autouse=True)
def figures_in_memory():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    X, y = make_classification(
        n_samples=240,
        n_features=12,
        n_informative=8,
        n_classes=3,
        class_sep=1.5,
        random_state=0,
    )
    return X, NAMES[y]


@pytest.fixture(scope="module")
def fitted(data):
    X, y = data
    return E2CMClassifier(ToyExtractor(), threshold=0.6).fit(X[:120], y[:120])


@pytest.fixture
def clf(fitted):
    """Return an estimator whose parameters a test may change."""
    copy = clone(fitted)
    copy.__dict__.update(fitted.__dict__)
    return copy


@pytest.fixture(scope="module")
def search(data):
    clf = E2CMClassifier(ToyExtractor())
    return TunedExitsCV(clf, max_drop=0.05, random_state=0).fit(*data)


@pytest.fixture(scope="module")
def new(data):
    return data[0][120:], data[1][120:]


def texts(artists):
    return [artist.get_text() for artist in artists]


# The trade-off


def shared_by_loop(clf, X, y):
    """Return cost and score of every threshold that all exits can share."""
    proba = clf.exit_proba(X)
    confidence, label = proba.max(axis=2), clf.classes_[proba.argmax(axis=2)]
    costs = clf.stage_cost_
    points = []
    for threshold in [*np.unique(confidence[:, :-1]), 2.0]:
        cost, right = [], []
        for i in range(len(X)):
            stage = 0
            while stage < 2 and confidence[i, stage] < threshold:
                stage += 1
            cost.append(costs[stage])
            right.append(label[i, stage] == y[i])
        points.append((np.mean(cost), np.mean(right)))
    return np.array(points)


def test_the_curve_is_the_best_that_shared_thresholds_give(clf, new):
    X, y = new
    display = TradeoffDisplay.from_estimator(clf, X, y)
    points = shared_by_loop(clf, X, y)
    best = []
    for cost, score in points:
        cheaper = points[points[:, 0] < cost - 1e-9, 1]
        as_cheap = points[points[:, 0] <= cost + 1e-9, 1]
        if score == as_cheap.max() and not (cheaper >= score).any():
            best.append((cost, score))
    expected = np.unique(np.round(best, 9), axis=0)
    assert_allclose(
        np.stack([display.cost, display.score], axis=1), expected, atol=1e-8
    )
    assert len(expected) > 5
    assert display.full_score == points[-1, 1]


def test_what_is_drawn_of_an_estimator(clf, new):
    X, y = new
    display = TradeoffDisplay.from_estimator(clf, X, y)
    assert display.chosen == (clf.cost(X), clf.score(X, y))
    assert_array_equal(display.line_.get_xdata(), display.cost)
    assert_array_equal(display.line_.get_ydata(), display.score)
    dotted, dot = display.ax_.get_lines()[1:]
    assert list(dotted.get_ydata()) == [display.full_score] * 2
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == display.chosen
    assert texts(display.ax_.get_legend().get_texts()) == ["E2CMClassifier"]
    assert display.ax_.get_ylabel() == "Score"
    assert display.ax_.get_xlabel().startswith("Cost, in fractions of the network's")


def test_the_frontier_of_a_search_needs_no_samples(search):
    display = TradeoffDisplay.from_estimator(search)
    assert_array_equal(display.cost, search.frontier_["cost"])
    assert_array_equal(display.score, search.frontier_["score"])
    assert display.full_score == search.full_score_
    assert display.chosen == (search.best_cost_, search.best_score_)
    assert texts(display.ax_.get_legend().get_texts()) == ["TunedExitsCV"]


def test_a_search_is_measured_on_samples_if_there_are_some(search, new):
    X, y = new
    display = TradeoffDisplay.from_estimator(search, X, y)
    inside = TradeoffDisplay.from_estimator(search.estimator_, X, y)
    assert_array_equal(display.cost, inside.cost)
    assert_array_equal(display.score, inside.score)
    assert display.chosen == (search.cost(X), search.score(X, y))


def test_the_curve_does_not_depend_on_which_exits_are_open(clf, new):
    display = TradeoffDisplay.from_estimator(clf, *new)
    clf.set_params(threshold=np.inf)
    closed = TradeoffDisplay.from_estimator(clf, *new)
    assert_allclose(closed.cost, display.cost)
    assert_allclose(closed.score, display.score)


def test_a_network_without_exits_is_one_point(data):
    X, y = data
    clf = E2CMClassifier().fit(X, y)
    display = TradeoffDisplay.from_estimator(clf, X, y)
    assert display.cost == pytest.approx([1.0])
    assert display.score == pytest.approx([clf.score(X, y)])


def test_the_trade_off_of_predictions_is_that_of_the_estimator(clf, new):
    X, y = new
    display = TradeoffDisplay.from_predictions(
        y.tolist(), clf.exit_proba(X).tolist(), clf.stage_cost_
    )
    expected = TradeoffDisplay.from_estimator(clf, X, y)
    assert_array_equal(display.cost, expected.cost)
    assert_array_equal(display.score, expected.score)
    assert display.full_score == expected.full_score
    assert display.chosen is None
    assert display.ax_.get_legend() is None
    assert len(display.ax_.get_lines()) == 2


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_classes_say_which_column_is_which_label(clf, new, order):
    X, y = new
    proba, part = clf.exit_proba(X), y != "cat"
    display = TradeoffDisplay.from_predictions(
        y[part], proba[part][:, :, order], clf.stage_cost_, classes=NAMES[order]
    )
    expected = NAMES[proba[part, -1].argmax(axis=1)] == y[part]
    assert display.full_score == pytest.approx(expected.mean())


def test_labels_that_are_not_as_many_as_the_columns_are_refused(clf, new):
    X, y = new
    part = y != "cat"
    with pytest.raises(ValueError, match="classes"):
        TradeoffDisplay.from_predictions(
            y[part], clf.exit_proba(X)[part], clf.stage_cost_
        )


def test_an_estimator_needs_samples_for_its_trade_off(clf, new):
    with pytest.raises(ValueError, match="Give X: only a fitted TunedExitsCV"):
        TradeoffDisplay.from_estimator(clf)
    with pytest.raises(NotFittedError):
        TradeoffDisplay.from_estimator(clone(clf), *new)


def test_curves_share_axes_and_have_names(search, clf, new):
    _, ax = plt.subplots()
    one = TradeoffDisplay.from_estimator(search, name="tuned", ax=ax)
    two = TradeoffDisplay.from_estimator(clf, *new, name="new", ax=ax)
    assert one.ax_ is two.ax_ is ax
    assert one.figure_ is ax.figure
    assert texts(ax.get_legend().get_texts()) == ["tuned", "new"]
    assert one.line_.get_color() != two.line_.get_color()
    assert plt.get_fignums() == [1]


# Who leaves where


@pytest.fixture
def counts(clf, new):
    """Return the counts of each stage and class, one sample at a time."""
    (X, y), counts = new, np.zeros((3, 3, 2), dtype=int)
    exits, predicted = clf.predict_exit(X), clf.predict(X)
    for i in range(len(X)):
        k = NAMES.tolist().index(y[i])
        counts[exits[i], k, int(predicted[i] == y[i])] += 1
    return counts


def test_samples_are_counted_by_stage_class_and_correctness(clf, new, counts):
    display = ExitDisplay.from_estimator(clf, *new)
    assert_array_equal(display.counts, counts)
    assert_array_equal(display.classes, NAMES)
    assert display.stage_names == ("part1", "part2", "part3")
    assert (counts.sum(axis=(1, 2)) > 5).all()


def test_samples_are_counted_in_one_lazy_run(data, new):
    X, y = data
    extractor = CountingExtractor(ToyExtractor())
    clf = E2CMClassifier(extractor, threshold=0.6).fit(X[:120], y[:120])
    extractor.rows[:] = 0
    counts = ExitDisplay.from_estimator(clf, *new).counts
    later = counts.sum(axis=(1, 2))[::-1].cumsum()[::-1]
    assert extractor.rows.tolist() == later.tolist()


def test_a_search_shows_where_its_estimator_lets_samples_leave(search, new):
    display = ExitDisplay.from_estimator(search, *new)
    expected = ExitDisplay.from_estimator(search.estimator_, *new)
    assert_array_equal(display.counts, expected.counts)
    assert display.counts.sum() == len(new[0])


def test_bars_are_shares_of_all_samples(clf, new, counts):
    display = ExitDisplay.from_estimator(clf, *new)
    right, wrong = display.ax_.containers
    for stage in range(3):
        n_wrong, n_right = counts[stage].sum(axis=0)
        assert right[stage].get_height() == pytest.approx(n_right / len(new[0]))
        assert wrong[stage].get_height() == pytest.approx(n_wrong / len(new[0]))
        assert wrong[stage].get_y() == right[stage].get_height()
    assert texts(display.ax_.get_legend().get_texts()) == ["right", "wrong"]
    assert texts(display.ax_.get_xticklabels()) == ["part1", "part2", "part3"]


def test_colours_are_shares_of_each_class(clf, new, counts):
    display = ExitDisplay.from_estimator(clf, *new, by="class")
    shown = display.ax_.get_images()[0].get_array()
    for k in range(3):
        for stage in range(3):
            share = counts[stage, k].sum() / counts[:, k].sum()
            assert shown[k, stage] == pytest.approx(share)
    assert texts(display.ax_.get_yticklabels()) == NAMES.tolist()
    assert display.ax_.get_ylabel() == "True class"
    assert len(display.figure_.axes) == 2  # with a colour bar


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_exits_of_predictions_are_those_of_the_estimator(clf, new, counts, order):
    X, y = new
    display = ExitDisplay.from_predictions(
        y.tolist(),
        clf.predict(X).tolist(),
        clf.predict_exit(X).tolist(),
        classes=NAMES[order],
    )
    assert_array_equal(display.counts, counts[:, order])
    assert texts(display.ax_.get_xticklabels()) == ["0", "1", "2"]


def test_a_class_without_samples_has_a_row_without_colour():
    display = ExitDisplay.from_predictions(
        ["bird", "dog"], ["bird", "bird"], [0, 1], classes=NAMES, by="class"
    )
    assert display.counts[:, 1].sum() == 0
    shown = display.ax_.get_images()[0].get_array()
    assert shown.tolist() == [[1, 0], [0, 0], [0, 1]]


def test_without_stage_names_there_are_as_many_stages_as_occur():
    display = ExitDisplay.from_predictions([0, 1, 1], [0, 1, 0], [0, 2, 2])
    expected = [[[0, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [1, 1]]]
    assert display.counts.tolist() == expected


def test_a_display_may_be_drawn_again_in_another_way(clf, new):
    display = ExitDisplay.from_estimator(clf, *new)
    _, ax = plt.subplots()
    assert display.plot(ax, by="class") is display
    assert display.ax_ is ax
    assert len(ax.get_images()) == 1


def test_exits_can_be_shown_in_two_ways_only(clf, new):
    message = "by must be 'correctness' or 'class', got 'stage'"
    with pytest.raises(ValueError, match=message):
        ExitDisplay.from_estimator(clf, *new, by="stage")
    assert not plt.get_fignums()


def test_exits_are_shown_of_fitted_estimators(clf, search, new):
    for estimator in (clone(clf), clone(search)):
        with pytest.raises(NotFittedError):
            ExitDisplay.from_estimator(estimator, *new)


def test_labels_of_another_length_are_refused(clf, new):
    X, y = new
    for display in (TradeoffDisplay, ExitDisplay):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            display.from_estimator(clf, X, y[:-1])


# Agreement with the full network


@pytest.fixture(scope="module", params=["clusterer", "tuned"])
def clusters(data, request):
    clusterer = E2CMClusterer(ToyExtractor(), 3, threshold=0.7, random_state=0)
    if request.param == "tuned":
        clusterer = TunedExitsCV(clusterer, max_drop=0.1, random_state=0)
    return clusterer.fit(data[0][:120])


def agreement_by_loop(estimator, X):
    """Return the stage, the label and that of the last stage of each sample."""
    inside, found = getattr(estimator, "estimator_", estimator), []
    proba, thresholds = inside.exit_proba(X), np.broadcast_to(inside.threshold, 2)
    for i in range(len(X)):
        stage = 0
        while stage < 2 and proba[i, stage].max() < thresholds[stage]:
            stage += 1
        found.append((stage, proba[i, stage].argmax(), proba[i, -1].argmax()))
    return np.array(found).T


@pytest.mark.parametrize("own", [True, False], ids=["clusters", "classes"])
def test_without_labels_the_trade_off_is_against_agreement(clf, clusters, new, own):
    estimator, (X, _) = clusters if own else clf, new
    display = TradeoffDisplay.from_estimator(estimator, X)
    stage, label, full = agreement_by_loop(estimator, X)
    cost = estimator.stage_cost_[stage].mean()
    assert display.chosen == pytest.approx((cost, np.mean(label == full)))
    assert display.full_score == display.score[-1] == 1
    expected = TradeoffDisplay.from_predictions(
        full, estimator.exit_proba(X), estimator.stage_cost_, classes=range(3)
    )
    assert_allclose(display.cost, expected.cost)
    assert_allclose(display.score, expected.score)
    assert len(display.cost) > 5


@pytest.mark.parametrize("own", [True, False], ids=["clusters", "classes"])
def test_without_labels_exits_are_right_if_they_agree(clf, clusters, new, own):
    estimator, (X, _) = clusters if own else clf, new
    display = ExitDisplay.from_estimator(estimator, X, by="class")
    counts = np.zeros((3, 3, 2), dtype=int)
    for stage, label, full in zip(*agreement_by_loop(estimator, X), strict=True):
        counts[stage, full, int(label == full)] += 1
    assert_array_equal(display.counts, counts)
    assert counts[-1, :, 0].sum() == 0
    assert_array_equal(display.classes, np.arange(3) if own else NAMES)
    assert texts(display.ax_.get_yticklabels()) == [str(k) for k in display.classes]


@pytest.mark.parametrize("as_y", [lambda y: y, lambda y: y[:3]], ids=["all", "some"])
def test_labels_of_clusters_are_ignored(clusters, new, as_y):
    X, y = new
    for show in (TradeoffDisplay.from_estimator, ExitDisplay.from_estimator):
        display, expected = show(clusters, X, as_y(y)), show(clusters, X)
        for name in vars(expected).keys() & {"cost", "score", "counts", "classes"}:
            assert_array_equal(getattr(display, name), getattr(expected, name))


# Without matplotlib


@pytest.mark.parametrize("display", [TradeoffDisplay, ExitDisplay])
def test_without_matplotlib_an_error_says_what_to_install(
    clf, new, display, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=f"{display.__name__} requires matplotlib"):
        display.from_estimator(clf, *new)
