"""Which head the last stage gets."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from sk_e2cm._fitting._calibration import Temperature
from sk_e2cm._fitting._cross_fitting import FittedHead
from sk_e2cm._fitting._folding import fold
from sk_e2cm._fitting._last_stage import choose_last_head, own_answers
from sk_e2cm._fitting._means import ClassMeans
from sk_e2cm._fitting._statistics import Statistics
from sk_e2cm._fitting._sums import ClassSums
from sk_e2cm._multi_exit._estimator_logits import ClassifierLogits
from sk_e2cm._multi_exit._logits import DistanceLogits, NetworkLogits

from .heads import proba_by
from .held_out import proba_of

N, N_CLASSES = 300, 3
LABELS = np.array(["bird", "cat", "dog"])


def make_outputs(noise=1.0, width=N_CLASSES, seed=0):
    """Return codes and logits, of which column k stands for class k."""
    rng = np.random.default_rng(seed)
    codes = np.arange(N) % N_CLASSES
    logits = noise * rng.normal(size=(N, width))
    logits[np.arange(N), codes] += 2
    return codes, logits


def make_statistics(features, codes, weight=None, folds=None):
    """Return a pass over the data; samples of fold -1 are not held out."""
    n = len(features)
    weight = np.ones(n) if weight is None else weight
    folds = np.zeros(n, int) if folds is None else folds
    sums = ClassSums(features.mean(axis=0))
    sums.add(features, folds, codes, weight)
    hashes = np.random.default_rng(2).integers(2**64, size=n, dtype=np.uint64)
    return Statistics(
        stage_names=("last",),
        sums=[sums],
        features=[features],
        shapes=[features.shape[1:]],
        rounding=[np.zeros(features.shape[1])],
        kept=np.arange(n),
        hashes=hashes,
        folds=folds,
        codes=codes,
        sample_weight=weight,
        n_distinct=n,
    )


def head_by(means, features):
    """Return a head by these class means, whatever the fold."""
    means = ClassMeans(means)
    return FittedHead(
        "class_means",
        fold(means, Temperature(), features),
        lambda: [(np.arange(len(features)), softmax(means.scores(features), axis=1))],
        means=means,
        temperature=1.0,
    )


def nearest_mean(features, codes):
    means = [features[codes == k].mean(axis=0) for k in range(N_CLASSES)]
    return head_by(np.stack(means), features)


def choose(
    final,
    codes,
    features,
    *,
    classes=None,
    head_classes=None,
    weight=None,
    is_network=True,
):
    classes = np.arange(N_CLASSES) if classes is None else classes
    by_means = nearest_mean(features, codes)
    statistics = make_statistics(features, codes, weight)
    return choose_last_head(
        final, head_classes, by_means, statistics, classes, is_network=is_network
    )


def right(head, features, codes):
    return (proba_by(head.logits, features).argmax(axis=1) == codes).mean()


def test_what_is_held_out_is_predicted_when_the_head_has_moved_to_a_device():
    codes, logits = make_outputs()
    head = choose("network", codes, logits)
    before = proba_of(head)
    head.logits.to("meta")
    assert_array_equal(proba_of(head), before)


# The class means


def test_class_means_are_the_last_stages():
    codes, logits = make_outputs()
    by_means = nearest_mean(logits, codes)
    statistics = make_statistics(logits, codes)
    head = choose_last_head("class_means", None, by_means, statistics, np.arange(3))
    assert head is by_means


# The network's head


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_networks_probabilities_are_the_softmax_of_its_outputs(dtype):
    codes, logits = make_outputs()
    head = choose("network", codes, logits.astype(dtype))
    assert head.kind == "network"
    expected = softmax(logits, axis=1)
    assert_allclose(proba_by(head.logits, logits.astype(dtype)), expected, atol=1e-6)
    assert head.logits.macs == 0


def test_a_head_that_ends_in_a_softmax_is_taken_at_its_word():
    codes, logits = make_outputs()
    proba = softmax(logits, axis=1)
    head = choose("network", codes, proba)
    assert_allclose(proba_by(head.logits, proba), proba, rtol=1e-12)


def test_a_head_that_ends_in_a_log_softmax_gives_the_same_probabilities():
    codes, logits = make_outputs()
    head = choose("network", codes, log_softmax(logits, axis=1))
    expected = softmax(logits, axis=1)
    assert_allclose(
        proba_by(head.logits, log_softmax(logits, axis=1)), expected, rtol=1e-12
    )


def test_a_probability_of_zero_stays_zero():
    codes, logits = make_outputs()
    proba = softmax(logits, axis=1)
    proba[:3] = np.eye(3)
    head = choose("network", codes, proba)
    assert_allclose(proba_by(head.logits, np.eye(3)), np.eye(3), atol=1e-300)


def test_outputs_that_are_positive_but_do_not_sum_to_one_are_logits():
    codes, logits = make_outputs()
    positive = logits - logits.min()
    head = choose("network", codes, positive)
    assert_allclose(
        proba_by(head.logits, positive), softmax(positive, axis=1), rtol=1e-12
    )


def test_head_classes_say_which_column_stands_for_which_label():
    codes, logits = make_outputs()
    reordered = logits[:, [2, 0, 1]]
    head_classes = ["dog", "bird", "cat"]
    head = choose(
        "network", codes, reordered, classes=LABELS, head_classes=head_classes
    )
    expected = softmax(logits, axis=1)
    assert_allclose(proba_by(head.logits, reordered), expected, rtol=1e-12)


@pytest.mark.parametrize("normalized", [False, True])
def test_columns_of_labels_that_do_not_occur_are_left_out(normalized):
    codes, logits = make_outputs(width=5)
    logits = logits[:, [3, 0, 4, 1, 2]]
    outputs = softmax(logits, axis=1) if normalized else logits
    head = choose("network", codes, outputs, head_classes=[7, 0, 8, 1, 2])
    expected = softmax(logits[:, [1, 3, 4]], axis=1)
    assert_allclose(proba_by(head.logits, outputs), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [3, 40])
def test_probabilities_of_few_digits_are_taken_for_probabilities(width, dtype):
    rng = np.random.default_rng(0)
    codes = np.arange(200) % width
    logits = rng.normal(size=(200, width))
    logits[np.arange(200), codes] += 8
    given = torch.tensor(logits).softmax(dim=1).to(dtype).float().numpy()
    head = choose("network", codes, given, classes=np.arange(width))
    expected = softmax(logits, axis=1)
    error = np.abs(proba_by(head.logits, given) - expected).max()
    assert error < torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_log_probabilities_give_their_probabilities(dtype):
    codes, logits = make_outputs()
    given = torch.tensor(logits).log_softmax(dim=1).to(dtype).float().numpy()
    head = choose("network", codes, given)
    found = proba_by(head.logits, given)
    atol = 4 * torch.finfo(dtype).eps
    assert_allclose(found, softmax(logits, axis=1), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_of_a_sigmoid_the_odds_are_spread_over_the_classes(dtype):
    codes, logits = make_outputs(noise=2.0)
    given = torch.tensor(logits).sigmoid().to(dtype).float().numpy()
    head = choose("network", codes, given)
    found = proba_by(head.logits, given)
    atol = 20 * torch.finfo(dtype).eps
    assert_allclose(found, softmax(logits, axis=1), rtol=0, atol=atol)


def test_a_sigmoid_that_is_sure_of_a_class_is_finite():
    codes = np.arange(N) % N_CLASSES
    given = np.eye(N_CLASSES, dtype=np.float32)[codes]
    given[:5] = 1.0
    head = choose("network", codes, given)
    found = proba_by(head.logits, given)
    expected = given / given.sum(axis=1, keepdims=True)
    assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_small_logits_are_no_probabilities():
    codes, logits = make_outputs()
    given = 0.4 + 0.05 * logits
    head = choose("network", codes, given)
    assert_allclose(proba_by(head.logits, given), softmax(given, axis=1), rtol=1e-12)


def test_labels_may_be_any_numbers():
    codes, logits = make_outputs()
    head = choose("network", codes, logits, classes=np.array([-1.0, 5.0, 10.0]))
    assert_allclose(proba_by(head.logits, logits), softmax(logits, axis=1), rtol=1e-12)


def test_head_classes_may_be_given_as_a_list_of_numbers():
    codes, logits = make_outputs()
    head = choose("network", codes, logits[:, ::-1], head_classes=[2, 1, 0])
    assert_allclose(
        proba_by(head.logits, logits[:, ::-1]), softmax(logits, axis=1), rtol=1e-12
    )


@pytest.mark.parametrize("final", ["network", "auto"])
def test_head_classes_of_another_length_are_refused(final):
    codes, logits = make_outputs(width=4)
    with pytest.raises(ValueError, match=r"head_classes.*\(3,\).*4 columns"):
        choose(final, codes, logits, head_classes=[0, 1, 2])


@pytest.mark.parametrize("final", ["network", "auto"])
def test_labels_that_head_classes_lack_are_named(final):
    codes, logits = make_outputs()
    with pytest.raises(ValueError, match=r"head_classes lacks .*'dog'.* in y"):
        choose(
            final, codes, logits, classes=LABELS, head_classes=["bird", "cat", "cow"]
        )


def test_labels_that_head_classes_lack_are_named_plainly():
    codes, logits = make_outputs()
    with pytest.raises(ValueError, match=r"lacks the labels \[2\]"):
        choose("network", codes, logits, head_classes=[0, 1, 9])


@pytest.mark.parametrize("final", ["network", "auto"])
def test_numbers_in_text_do_not_stand_for_numbers(final):
    codes, logits = make_outputs()
    with pytest.raises(ValueError, match="head_classes lacks"):
        choose(final, codes, logits, head_classes=["0", "1", "2"])


@pytest.mark.parametrize("final", ["network", "auto"])
def test_head_classes_with_a_label_twice_are_refused(final):
    codes, logits = make_outputs(width=4)
    with pytest.raises(ValueError, match="head_classes"):
        choose(final, codes, logits, head_classes=[0, 0, 1, 2])


@pytest.mark.parametrize("width", [1, 2, 40])
def test_a_network_of_another_width_is_refused(width):
    features = np.zeros((N, width))
    with pytest.raises(ValueError, match=f"has {width} columns, but y has 3 classes"):
        choose("network", np.arange(N) % 3, features)


@pytest.mark.parametrize("dtype", ["U", object])
def test_text_labels_ask_for_head_classes(dtype):
    codes, logits = make_outputs()
    with pytest.raises(ValueError, match=r"text labels.*head_classes="):
        choose("network", codes, logits, classes=LABELS.astype(dtype))


# Auto


@pytest.mark.parametrize("classes", [np.arange(2), LABELS[:2]])
@pytest.mark.parametrize(
    ("weight", "expected"),
    [([2, 1], "network"), ([1, 1], "network"), ([1, 2], "class_means")],
)
def test_auto_takes_the_head_if_it_is_no_less_accurate(weight, expected, classes):
    # The head has the first sample right and the means have the second.
    features, codes = np.array([[1.0, 0.0], [1.0, 0.5]]), np.array([0, 1])
    by_means = head_by(np.array([[9.0, 9.0], [1.0, 0.2]]), features)
    assert features.argmax(axis=1).tolist() == [0, 0]
    assert proba_of(by_means).argmax(axis=1).tolist() == [1, 1]
    statistics = make_statistics(features, codes, np.array(weight, dtype=float))
    head = choose_last_head("auto", None, by_means, statistics, classes)
    assert head.kind == expected
    assert (head is by_means) == (expected == "class_means")


def test_auto_takes_the_head_if_both_are_right():
    codes, logits = make_outputs(noise=0.01)
    assert right(nearest_mean(logits, codes), logits, codes) == 1
    head = choose("auto", codes, logits)
    assert head.kind == "network"
    assert isinstance(head.logits, NetworkLogits)


def test_auto_drops_a_head_whose_columns_are_in_another_order():
    codes, logits = make_outputs(noise=0.5)
    with pytest.warns(UserWarning, match="final='auto'") as warned:
        head = choose("auto", codes, logits[:, [1, 2, 0]], classes=LABELS)
    (message,) = (str(each.message) for each in warned)
    by_means = nearest_mean(logits[:, [1, 2, 0]], codes)
    for accuracy in (
        (proba_of(by_means).argmax(axis=1) == codes).mean(),
        (logits[:, [1, 2, 0]].argmax(axis=1) == codes).mean(),
    ):
        assert f"{accuracy:.2%}" in message
    for cause in ("head_classes=", "0..255", "trained on something else"):
        assert cause in message
    assert head.kind == "class_means"
    assert right(head, logits[:, [1, 2, 0]], codes) > 0.9


def test_auto_takes_that_head_if_its_order_is_given():
    codes, logits = make_outputs(noise=0.5)
    head = choose(
        "auto",
        codes,
        logits[:, [1, 2, 0]],
        classes=LABELS,
        head_classes=LABELS[[1, 2, 0]],
    )
    assert head.kind == "network"
    assert right(head, logits[:, [1, 2, 0]], codes) > 0.9


@pytest.mark.parametrize("width", [2, 4])
def test_auto_takes_the_class_means_if_the_width_is_another(width):
    codes, _ = make_outputs()
    features = np.random.default_rng(0).normal(size=(N, width))
    head = choose("auto", codes, features)
    assert head.kind == "class_means"
    assert isinstance(head.logits, DistanceLogits)


@pytest.mark.parametrize("width", [N_CLASSES, 4, 60])
def test_features_of_no_network_are_dropped_without_a_word(width):
    codes, _ = make_outputs()
    features = np.random.default_rng(0).normal(size=(N, width))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = choose("auto", codes, features, is_network=False)
    assert head.kind == "class_means"


# Labels that are numbers of columns


# Of the columns 1, 2 and 4, and of some that no label of y stands for.
NUMBERS = np.array([1, 2, 4])


def make_wide(width, noise=1.0):
    codes, logits = make_outputs(noise)
    wide = np.full((N, width), -5.0)
    wide[:, NUMBERS] = logits
    return codes, logits, wide


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float64, object])
@pytest.mark.parametrize("final", ["network", "auto"])
@pytest.mark.parametrize("width", [5, 50])
def test_labels_that_are_numbers_of_columns_select_them(final, width, dtype):
    codes, logits, wide = make_wide(width, noise=0.1)
    if dtype is object and final == "network":
        pytest.skip("asks for head_classes, as of text")
    head = choose(final, codes, wide, classes=NUMBERS.astype(dtype))
    assert head.kind == "network"
    expected = softmax(logits, axis=1)
    assert_allclose(proba_by(head.logits, wide), expected, rtol=1e-12)


def test_probabilities_of_columns_without_samples_go_to_the_others():
    codes, logits, wide = make_wide(5)
    head = choose("network", codes, softmax(wide, axis=1), classes=NUMBERS)
    found = proba_by(head.logits, softmax(wide, axis=1))
    assert_allclose(found, softmax(logits, axis=1), rtol=1e-10)


@pytest.mark.parametrize(
    "classes",
    [[-1, 0, 2], [0, 2, 6], [0, 0.5, 2], ["0", "2", "4"]],
    ids=str,
)
def test_other_labels_are_no_numbers_of_columns(classes):
    codes, _, wide = make_wide(6)
    assert choose("auto", codes, wide, classes=np.array(classes)).kind == "class_means"


def test_as_many_columns_as_labels_are_those_in_their_order():
    codes, logits = make_outputs()
    head = choose("network", codes, logits, classes=np.array([0, 1, 9]))
    assert_allclose(proba_by(head.logits, logits), softmax(logits, axis=1), rtol=1e-12)


@pytest.mark.parametrize("width", [5, 50])
def test_a_head_with_more_columns_that_is_worse_is_named(width):
    codes, _, wide = make_wide(width)
    wide[::2] = wide[::2, ::-1]  # half of the samples, as if they were prepared wrongly
    with pytest.warns(UserWarning, match=r"class means.*\d%.*own head.*\d%"):
        head = choose("auto", codes, wide, classes=NUMBERS)
    assert head.kind == "class_means"


def test_many_features_that_are_no_scores_are_dropped_without_a_word():
    codes, _ = make_outputs()
    features = np.random.default_rng(0).normal(size=(N, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("auto", codes, features).kind == "class_means"
    with pytest.raises(ValueError, match="has 64 columns, but y has 3 classes"):
        choose("network", codes, features)


# A single output


def make_single():
    rng = np.random.default_rng(0)
    codes = np.arange(N) % 2
    logits = 4.0 * codes - 2 + rng.normal(size=N)
    by_means = head_by(np.array([[-2.0], [2.0]]), logits[:, None])
    return codes, logits[:, None], by_means


@pytest.mark.parametrize("ends_in_sigmoid", [False, True])
@pytest.mark.parametrize(
    ("classes", "head_classes"),
    [([0, 1], None), ([3, 7], None), (["no", "yes"], ["no", "yes"])],
    ids=str,
)
def test_a_single_output_is_of_the_second_class(classes, head_classes, ends_in_sigmoid):
    codes, logits, by_means = make_single()
    proba = 1 / (1 + np.exp(-logits))
    features = proba if ends_in_sigmoid else logits
    statistics = make_statistics(features, codes)
    classes = np.array(classes)
    head = choose_last_head("network", head_classes, by_means, statistics, classes)
    found = proba_by(head.logits, features)
    assert_allclose(found, np.hstack([1 - proba, proba]), rtol=1e-12)
    codes_found, width = own_answers([features[:2], features[2:]])
    assert_array_equal(codes_found, found.argmax(axis=1))
    assert width == 2


def test_head_classes_of_a_single_output_are_of_low_and_high():
    codes, logits, _ = make_single()
    statistics, classes = make_statistics(logits, 1 - codes), np.array(["high", "low"])
    by_means = head_by(np.array([[2.0], [-2.0]]), logits)
    with pytest.warns(UserWarning, match="final='auto'"):
        choose_last_head("auto", None, by_means, statistics, classes)
    head = choose_last_head("network", ["low", "high"], by_means, statistics, classes)
    proba = 1 / (1 + np.exp(-logits))
    assert_allclose(proba_by(head.logits, logits)[:, :1], proba, rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(1,\).*single output has two"):
        choose_last_head("network", ["high"], by_means, statistics, classes)


# A classifier


@pytest.mark.parametrize(
    "classifier",
    [LogisticRegression(), GaussianNB(), KNeighborsClassifier()],
    ids=lambda classifier: type(classifier).__name__,
)
def test_a_classifier_is_fitted_on_the_last_features(classifier):
    codes, features = make_outputs(width=6)
    head = choose(classifier, codes, features, classes=LABELS)
    assert head.kind == "classifier"
    assert isinstance(head.logits, ClassifierLogits)
    expected = classifier.__class__().fit(features, codes).predict_proba(features)
    assert_allclose(proba_by(head.logits, features), expected)


def test_the_classifier_passed_in_is_not_fitted():
    codes, features = make_outputs(width=6)
    classifier = GaussianNB()
    choose(classifier, codes, features)
    assert not hasattr(classifier, "classes_")


def test_weights_are_passed_to_the_classifier():
    codes, features = make_outputs(width=6)
    weight = np.random.default_rng(1).integers(1, 4, N)
    head = choose(GaussianNB(), codes, features, weight=weight.astype(float))
    repeated = GaussianNB().fit(
        np.repeat(features, weight, axis=0), np.repeat(codes, weight)
    )
    expected = repeated.predict_proba(features)
    assert_allclose(proba_by(head.logits, features), expected, rtol=1e-6, atol=1e-12)
    unweighted = proba_by(choose(GaussianNB(), codes, features).logits, features)
    assert np.abs(unweighted - expected).max() > 1e-3


def test_a_classifier_without_probabilities_is_refused():
    codes, features = make_outputs(width=6)
    with pytest.raises(ValueError, match=r"LinearSVC.*no predict_proba"):
        choose(LinearSVC(), codes, features)
