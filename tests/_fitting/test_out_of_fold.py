"""Probabilities of the last stage, and of all, for samples they have not seen."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from sk_e2cm._fitting._cross_fitting import CrossFit, HeadSpec, fit_class_means
from sk_e2cm._fitting._last_stage import choose_last_head

from ..samples import N_CLASSES, make_samples, make_statistics
from .heads import proba_by
from .held_out import proba_of

SPEC = HeadSpec("euclidean", 0.3, "temperature")
CLASSES = np.arange(N_CLASSES)


def make_outputs(n=200, signal=2.0, seed=0):
    """Return samples whose features are a network's outputs, one for each class."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % N_CLASSES
    outputs = rng.normal(size=(n, N_CLASSES))
    outputs[np.arange(n), codes] += signal
    folds = (np.arange(n) // N_CLASSES) % 3
    return outputs, folds, codes, np.ones(n)


def choose(final, statistics):
    *_, by_means = fit_class_means(statistics, SPEC)
    return choose_last_head(final, None, by_means, statistics, CLASSES)


def right(proba, codes):
    return (proba.argmax(axis=1) == codes).mean()


# The last stage


def test_class_means_predict_the_samples_of_other_folds():
    statistics = make_statistics(make_samples())
    *_, by_means = fit_class_means(statistics, SPEC)
    head = choose("class_means", statistics)
    found = proba_of(head)
    assert_allclose(found, proba_of(by_means), rtol=1e-12)
    seen = proba_by(head.logits, statistics.features[-1])
    assert np.abs(found - seen).max() > 1e-3


def test_the_network_predicts_all_samples_held_out():
    samples = make_outputs()
    outputs, folds, *_ = samples
    folds[::3] = -1
    found = proba_of(choose("network", make_statistics(samples)))
    assert_allclose(found, softmax(outputs[folds >= 0], axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    "classifier",
    [GaussianNB(), LogisticRegression()],
    ids=lambda classifier: type(classifier).__name__,
)
def test_a_classifier_is_fitted_without_the_fold_of_each_sample(classifier):
    samples = make_samples()
    features, folds, codes, weight = samples
    folds[::5] = -1  # fitted to each time
    found = proba_of(choose(classifier, make_statistics(samples)))
    expected = np.zeros((200, N_CLASSES))
    for fold in range(3):
        train = folds != fold
        fitted = classifier.__class__().fit(
            features[train], codes[train], sample_weight=weight[train]
        )
        expected[folds == fold] = fitted.predict_proba(features[folds == fold])
    assert_allclose(found, expected[folds >= 0], rtol=1e-6)


def test_a_classifier_that_takes_no_weights_is_fitted_without():
    samples = make_samples()
    samples[3][:] = 1
    features, folds, codes, _ = samples
    found = proba_of(choose(KNeighborsClassifier(), make_statistics(samples)))
    first = folds == 0
    fitted = KNeighborsClassifier().fit(features[~first], codes[~first])
    expected = fitted.predict_proba(features[first])
    assert_allclose(found[first], expected, rtol=1e-12)


def test_weights_that_a_classifier_does_not_take_are_refused():
    with pytest.raises(ValueError, match=r"KNeighborsClassifier.*sample_weight"):
        choose(KNeighborsClassifier(), make_statistics(make_samples()))


def test_a_class_in_one_fold_alone_has_no_probability_there():
    samples = make_samples()
    _, folds, codes, _ = samples
    folds[codes == 2] = 1
    found = proba_of(choose(GaussianNB(), make_statistics(samples)))
    assert_array_equal(found[folds == 1, 2], 0)
    assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    assert right(found[(folds != 1)], codes[folds != 1]) > 0.5


# Auto


def test_auto_does_not_judge_class_means_by_their_own_samples():
    samples = make_outputs(n=24, signal=0.5, seed=5)
    outputs, _, codes, _ = samples
    statistics = make_statistics(samples)
    means = choose("class_means", statistics)
    by_network = right(outputs, codes)
    assert right(proba_by(means.logits, outputs), codes) > by_network + 0.1
    assert right(proba_of(means), codes) < by_network
    assert choose("auto", statistics).kind == "network"


@pytest.mark.parametrize(
    ("spoilt", "kind"), [("held out", "class_means"), ("others", "network")]
)
def test_auto_looks_at_the_samples_held_out_alone(spoilt, kind):
    samples = make_outputs(signal=5.0)
    outputs, folds, *_ = samples
    folds[::2] = -1
    rows = folds >= 0 if spoilt == "held out" else folds < 0
    # The network is wrong there; its outputs still tell the classes apart.
    outputs[rows] = np.roll(outputs[rows], 1, axis=1) * 3
    assert choose("auto", make_statistics(samples)).kind == kind


# All stages


@pytest.mark.parametrize("final", ["class_means", "network", GaussianNB()])
def test_every_stage_predicts_every_sample_held_out(final):
    samples = make_outputs()
    samples[1][::3] = -1
    kept = np.arange(0, 200, 2)
    last = make_statistics(samples, kept)
    first = make_statistics(make_outputs(seed=1), kept)
    statistics = replace(
        last,
        stage_names=("first", "last"),
        sums=[*first.sums, *last.sums],
        features=[*first.features, *last.features],
        rounding=[*first.rounding, *last.rounding],
    )
    *exits, by_means = fit_class_means(statistics, SPEC)
    chosen = choose_last_head(final, None, by_means, statistics, CLASSES)
    cross_fit = CrossFit(statistics, [*exits, chosen])

    rows = kept[samples[1][kept] >= 0]
    assert_array_equal(cross_fit.codes, samples[2][rows])
    assert_array_equal(cross_fit.weight, samples[3][rows])
    assert_array_equal(cross_fit.hashes, statistics.hashes[samples[1][kept] >= 0])
    probas = [proba_of(head) for head in cross_fit.heads]
    assert len(probas) == 2
    assert_allclose(probas[0], proba_of(exits[0]), rtol=1e-12)
    assert_allclose(probas[1], proba_of(chosen), rtol=1e-12)
    for proba in probas:
        assert proba.shape == (len(rows), N_CLASSES)
        assert right(proba, samples[2][rows]) > 0.5
