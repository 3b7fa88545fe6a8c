"""Soft targets against formulas, and the share of labels in them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from sk_e2cm._tuning import _predictions
from sk_e2cm._tuning._predictions import StagePredictions
from sk_e2cm._tuning._problem import class_weights, sample_losses
from sk_e2cm._tuning._soft import (
    _CELL,
    SoftTargets,
    distinct_samples,
    label_share,
    soft_targets,
    together,
)

from ..references import best_powers

N, N_CLASSES = 3000, 4
SCORINGS = ["accuracy", "balanced_accuracy"]


def make_proba(seed=0, n=N):
    """Return the probabilities of two exits and of a last stage that is surer."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, N_CLASSES)) * 2
    noise = rng.normal(size=(2, n, N_CLASSES)) * [[[2.0]], [[1.0]]]
    return softmax(np.stack([*(logits + noise) / 2, logits]), axis=2)


def all_classes(codes):
    return np.tile(np.arange(N_CLASSES), (len(codes), 1))


def draw_labels(proba, seed=1):
    chance = np.random.default_rng(seed).uniform(size=(len(proba), 1))
    return (proba.cumsum(axis=1)[:, :-1] < chance).sum(axis=1)


def predict(proba, codes):
    return StagePredictions.from_proba(proba.swapaxes(0, 1), codes)


def targets_of(proba, codes, weight=None, scoring="accuracy"):
    weight = np.ones(len(codes)) if weight is None else weight
    class_weight = class_weights(scoring, codes, weight, N_CLASSES)
    # Those that are alike in all are copies.
    known = np.column_stack([*proba, codes])
    _, content = np.unique(known, axis=0, return_inverse=True)
    distinct = distinct_samples(content.ravel().astype(np.uint64), codes)
    return soft_targets(predict(proba, codes), codes, weight, class_weight, distinct)


# Losses


def make_targets(share, scoring="accuracy", n=200):
    proba = make_proba(n=n)
    codes = draw_labels(proba[-1]) // 2 * 2  # of unequal classes, some without samples
    weight = np.random.default_rng(2).uniform(size=n)
    class_weight = class_weights(scoring, codes, weight, N_CLASSES)
    targets = SoftTargets(codes, all_classes(codes), proba[-1], class_weight, share)
    return targets, proba.argmax(axis=2), weight


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_loss_is_one_less_the_label_mixed_with_its_probability(share):
    targets, label, _ = make_targets(share)
    loss = targets.losses(label)
    for stage in range(3):
        for i, said in enumerate(label[stage]):
            right, likely = said == targets.codes[i], targets.proba[i, said]
            expected = 1 - (share * right + (1 - share) * likely)
            assert loss[stage, i] == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_balanced_losses_are_means_over_the_classes_that_the_label_may_be(share):
    targets, label, weight = make_targets(share, "balanced_accuracy")
    loss, codes = targets.losses(label), targets.codes
    total, found = weight.sum(), np.unique(codes)
    worth = {k: total / weight[codes == k].sum() / len(found) for k in found}
    for stage in range(3):
        for i, said in enumerate(label[stage]):
            truth = (1 - share) * targets.proba[i]
            truth[codes[i]] += share
            expected = sum(truth[k] * worth[k] for k in found if k != said)
            assert loss[stage, i] == pytest.approx(expected)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_labels_alone_give_the_losses_of_the_score(scoring):
    targets, label, weight = make_targets(1.0, scoring)
    expected = sample_losses(scoring, label, targets.codes, weight)
    assert_allclose(targets.losses(label), expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_spoilt_is_wrong_where_the_last_stage_is_likely_right(share):
    targets, label, _ = make_targets(share)
    spoilt = targets.spoilt(label)
    for stage in range(3):
        for i, said in enumerate(label[stage]):
            last = label[2, i]
            right = share * (last == targets.codes[i])
            right += (1 - share) * targets.proba[i, last]
            assert spoilt[stage, i] == pytest.approx(right * (said != last))


# Probabilities


@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
def test_powers_of_the_last_stage_and_the_exits_have_the_least_log_loss(power):
    proba = make_proba(n=300)
    codes = draw_labels(0.5 * proba[-1] + 0.5 * proba[0])
    weight = np.random.default_rng(0).uniform(0.5, 2, 300)
    proba[-1] = softmax(power * np.log(proba[-1]), axis=1)
    found = together(predict(proba, codes), codes, np.arange(300), weight)
    expected, loss = best_powers(proba, codes, weight)
    assert_allclose(found, expected, rtol=0, atol=1e-2)
    assert loss(found) < loss(expected) + 1e-6


def test_powers_are_found_on_some_rows_and_used_for_all():
    proba = make_proba(n=400)
    codes = draw_labels(proba[-1])
    rows = np.arange(100, 400)
    changed = np.where(np.arange(400) < 100, (codes + 1) % N_CLASSES, codes)
    found, expected = (
        together(predict(proba, each), each, rows, np.ones(300))
        for each in (changed, codes)
    )
    assert_array_equal(found, expected)
    assert found.shape == (400, N_CLASSES)


def test_exits_count_where_they_know_more_than_the_last_stage():
    proba = make_proba()
    codes = draw_labels(proba[-1])
    mixed_up = np.stack([proba[2], proba[2], of_others(proba[2])])
    found = together(predict(mixed_up, codes), codes, np.arange(N), np.ones(N))
    assert_allclose(found, proba[2], rtol=0, atol=0.1)


def test_a_class_that_is_ruled_out_wrongly_makes_no_probability_infinite():
    proba = np.eye(N_CLASSES)[np.arange(40) % N_CLASSES][None].repeat(2, axis=0)
    codes = np.where(np.arange(40) < 3, 0, np.arange(40) % N_CLASSES)
    found = together(predict(proba, codes), codes, np.arange(40), np.ones(40))
    assert_allclose(found.sum(axis=1), 1)
    assert (found > 0).all()


# The share of the labels


def share_by_loops(proba, codes, weight, worth):
    """Return the share for probabilities that are calibrated already."""
    label, squares, by_chance = proba.argmax(axis=2), 0.0, 0.0
    for exit_ in range(2):
        differ = [i for i in range(len(codes)) if label[exit_, i] != label[2, i]]
        differ.sort(key=lambda i: -proba[exit_, i].max())
        n_cells = max(round(len(differ) / _CELL), 1)
        sums = np.zeros(n_cells)
        for place, i in enumerate(differ):
            early, last = label[exit_, i], label[2, i]
            lost = worth[last] * (last == codes[i]) - worth[early] * (early == codes[i])
            values = np.zeros(N_CLASSES)  # what is lost if the label is k
            values[last], values[early] = worth[last], -worth[early]
            mean = proba[2, i] @ values
            sums[place * n_cells // len(differ)] += weight[i] * (lost - mean)
            by_chance += weight[i] ** 2 * (proba[2, i] @ values**2 - mean**2)
        squares += (sums**2).sum()
    return min(max(1 - by_chance / squares, 0.0), 1.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("worth", [[1.0, 1, 1, 1], [0.2, 3, 1, 2]])
def test_the_share_is_that_of_james_and_stein(seed, worth):
    proba = make_proba(seed, n=600)
    codes = draw_labels(np.roll(proba[2], 1, axis=1) * 0.3 + 0.7 * proba[2])
    weight = np.random.default_rng(seed).uniform(0.5, 2, 600)
    targets = SoftTargets(codes, all_classes(codes), proba[2], np.array(worth), 0.0)
    found = label_share(targets, proba.argmax(axis=2), proba.max(axis=2), weight)
    assert found == pytest.approx(share_by_loops(proba, codes, weight, worth))
    assert 0 < found < 1


@pytest.mark.parametrize("power", [1.0, 0.4, 3.0], ids=["right", "unsure", "too sure"])
def test_labels_count_little_where_the_last_stage_needs_but_a_temperature(power):
    proba = make_proba()
    codes = draw_labels(proba[-1])
    given = np.stack([*proba[:-1], softmax(power * np.log(proba[-1]), axis=1)])
    assert targets_of(given, codes).share < 0.3


def of_others(proba):
    return np.random.default_rng(3).permutation(proba)


def half_of_others(proba):
    return np.where(np.arange(len(proba))[:, None] % 2, proba, of_others(proba))


def of_one_class(proba):
    return softmax(np.log(proba) + np.array([5.0, 0, 0, 0]), axis=1)


BAD = [of_others, half_of_others, of_one_class]


@pytest.mark.parametrize("spoil", BAD, ids=[each.__name__ for each in BAD])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_labels_count_for_most_where_the_last_stage_is_bad(spoil, scoring):
    proba = make_proba()
    codes = draw_labels(proba[-1])
    given = np.stack([*proba[:-1], spoil(proba[-1])])
    assert targets_of(given, codes, scoring=scoring).share > 0.5


@pytest.mark.parametrize("scoring", SCORINGS)
def test_labels_count_nearly_alone_where_all_stages_are_wrong_alike(scoring):
    proba = make_proba()
    codes = draw_labels(proba[-1])
    given = np.stack([of_one_class(of_stage) for of_stage in proba])
    assert targets_of(given, codes, scoring=scoring).share > 0.9


def test_labels_that_are_the_last_stages_own_answers_are_all_that_counts():
    proba = make_proba()
    codes = proba[-1].argmax(axis=1)
    targets = targets_of(proba, codes)
    label = proba.argmax(axis=2)
    assert targets.share == 1
    assert_array_equal(targets.losses(label), label != codes)
    assert_array_equal(targets.spoilt(label), label != codes)


def test_where_all_stages_agree_no_share_matters():
    proba = make_proba()[[2, 2, 2]]
    targets = targets_of(proba, draw_labels(proba[2]))
    assert 0 <= targets.share <= 1


@pytest.mark.parametrize("scoring", SCORINGS)
def test_many_classes_are_told_apart_as_far_as_it_matters(scoring, monkeypatch):
    n, n_classes = 3000, 200
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(n, 1, n_classes)) + rng.normal(size=(n, 3, n_classes))
    proba = softmax(logits, axis=2)
    codes = draw_labels(proba[:, -1])
    weight = np.ones(n)
    class_weight = class_weights(scoring, codes, weight, n_classes)
    distinct = distinct_samples(np.arange(n, dtype=np.uint64), codes)
    found = []
    for most in (n_classes, _predictions._MOST_CLASSES):
        monkeypatch.setattr(_predictions, "_MOST_CLASSES", most)
        predictions = StagePredictions.from_proba(proba, codes)
        targets = soft_targets(predictions, codes, weight, class_weight, distinct)
        found.append((targets.share, targets.losses(predictions.label)))
    (all_share, of_all), (some_share, of_some) = found
    assert some_share == pytest.approx(all_share, abs=0.05)
    assert_allclose(of_some.mean(axis=1), of_all.mean(axis=1), rtol=0, atol=0.01)


# Weights


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_sample_that_occurs_twice_is_one_of_twice_the_weight(scoring):
    proba = make_proba(n=800)
    codes = draw_labels(proba[-1])
    proba[-1] = of_one_class(proba[-1])
    weight = np.random.default_rng(0).integers(1, 4, size=800)
    weighted = targets_of(proba, codes, weight, scoring)
    repeated = targets_of(
        proba.repeat(weight, axis=1), codes.repeat(weight), scoring=scoring
    )
    assert 0 < weighted.share < 1
    assert repeated.share == pytest.approx(weighted.share)
    assert_allclose(repeated.proba, weighted.proba.repeat(weight, axis=0))


def test_the_size_of_the_weights_does_not_matter():
    proba = make_proba(n=800)
    codes = draw_labels(proba[-1])
    proba[-1] = of_one_class(proba[-1])
    weight = np.random.default_rng(0).uniform(size=800)
    sizes = 1e-200, 1, 1e200
    shares = [targets_of(proba, codes, size * weight).share for size in sizes]
    assert shares == pytest.approx([shares[1]] * 3)


def test_samples_are_distinct_if_content_or_label_tells_them_apart():
    hashes, codes = np.array([7, 7, 2**63, 2**63, 0]), np.array([0, 1, 2, 2, 2])
    distinct = distinct_samples(hashes.astype(np.uint64), codes)
    which = distinct.which
    assert len(set(which)) == len(distinct.first) == 4
    assert which[2] == which[3]
    assert_array_equal(which[distinct.first], np.arange(4))
    total = distinct.add(np.array([1.0, 2, 3, 4, 5]))
    assert total[which[2]] == 7
    assert total[which[4]] == 5
