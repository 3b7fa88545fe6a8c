"""Classifiers and combinations at exits, against scikit-learn and plain loops."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sk_e2cm._fitting._calibration import RULED_OUT, Temperature, fit_calibration
from sk_e2cm._fitting._classifiers import check_head
from sk_e2cm._fitting._cross_fitting import HeadSpec, fit_class_means
from sk_e2cm._fitting._exits import fit_exits
from sk_e2cm._fitting._scores import combination_weights
from sk_e2cm._multi_exit._logits import LinearLogits, PerceptronLogits, WeightedLogits

from ..references import minimise
from ..samples import make_statistics
from .heads import proba_by
from .held_out import proba_of
from .stages import make_stages, statistics_of


def perceptron(activation="relu", layers=(5,)):
    return MLPClassifier(layers, activation=activation, max_iter=20, random_state=0)


# So few steps that rounding does not matter.
ONE_AGAINST_THE_REST = SGDClassifier(
    loss="log_loss",
    learning_rate="constant",
    eta0=0.01,
    max_iter=5,
    tol=None,
    random_state=0,
)
ACTIVATIONS = ["identity", "logistic", "relu", "tanh"]
LINEAR = {
    "a perceptron of one layer": perceptron("relu", ()),
    "logistic regression": LogisticRegression(),
    "without an intercept": LogisticRegression(fit_intercept=False),
    "discriminant analysis": LinearDiscriminantAnalysis(),
}
PERCEPTRONS = {
    **{name: perceptron(name) for name in ACTIVATIONS},
    "two layers": perceptron("tanh", (4, 3)),
}
OTHERS = {
    "naive Bayes": GaussianNB(),
    "a tree": DecisionTreeClassifier(max_depth=3, random_state=0),
    "neighbours": KNeighborsClassifier(7),
    "one against the rest": ONE_AGAINST_THE_REST,
    "calibrated": CalibratedClassifierCV(LinearSVC(), cv=2),
    "a pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
}


def make_samples(n_classes=3, n=120, weights=False, dtype=np.float64, width=4):
    """Return the samples of one stage."""
    (features,), *rest, weight = make_stages(n, (width,), n_classes)
    return [features.astype(dtype)], *rest, weight if weights else np.ones(n)


def fit(samples, *parts, calibration=None):
    """Return the head of the only stage."""
    spec = HeadSpec("mahalanobis", 0.3, calibration, parts=parts)
    (head,) = fit_exits(statistics_of(samples), spec, [0])
    return head


def scaled(classifier):
    return make_pipeline(StandardScaler(), clone(classifier))


def by_sklearn(classifier, features, codes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return scaled(classifier).fit(features, codes)


def unseen(classifier, samples):
    """Return the probabilities by clones fitted without the fold of each sample."""
    (features,), folds, codes, _ = samples
    proba = np.zeros((len(codes), codes.max() + 1))
    for fold in np.unique(folds[folds >= 0]):
        inside, others = folds == fold, folds != fold
        fitted = by_sklearn(classifier, features[others], codes[others])
        proba[inside] = fitted.predict_proba(features[inside])
    return proba[folds >= 0]


def name_of(value):
    return type(value).__name__


# What scikit-learn's own classifiers say


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("classifier", "kind"),
    [
        *(pytest.param(c, LinearLogits, id=name) for name, c in LINEAR.items()),
        *(
            pytest.param(c, PerceptronLogits, id=name)
            for name, c in PERCEPTRONS.items()
        ),
    ],
)
def test_linear_ones_and_perceptrons_run_in_torch_and_say_the_same(
    classifier, kind, n_classes, dtype
):
    samples = make_samples(n_classes, dtype=dtype)
    (features,), _, codes, _ = samples
    logits = fit(samples, classifier).logits
    if isinstance(logits, WeightedLogits):
        (logits,) = logits.parts
    assert isinstance(logits, kind)
    expected = by_sklearn(classifier, features, codes).predict_proba(features)
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    assert_allclose(proba_by(logits, features), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("classifier", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_others_run_as_they_are(classifier, n_classes):
    samples = make_samples(n_classes)
    (features,), _, codes, _ = samples
    found = proba_by(fit(samples, classifier).logits, features)
    expected = by_sklearn(classifier, features, codes).predict_proba(features)
    expected = softmax(np.maximum(np.log(expected + 1e-300), RULED_OUT), axis=1)
    assert_allclose(found, expected, rtol=0, atol=1e-6)


class Slopes(LogisticRegression):
    """Has coefficients and nothing else, as classifiers of other packages may."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.hidden = vars(self).pop("intercept_")
        return self

    def predict_proba(self, X):
        return softmax(X @ self.coef_.T + self.hidden, axis=1)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_coefficients_without_an_intercept_are_enough(fit_intercept):
    samples = make_samples()
    (features,), _, codes, _ = samples
    plain = LogisticRegression(fit_intercept=fit_intercept)
    expected = by_sklearn(plain, features, codes).predict_proba(features)
    logits = fit(samples, Slopes(fit_intercept=fit_intercept)).logits
    assert isinstance(logits, LinearLogits) != fit_intercept
    assert_allclose(proba_by(logits, features), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", [(), (5,), (4, 3)])
def test_multiply_adds_are_those_of_the_layers(layers):
    widths = [4, *layers, 3]
    expected = sum(a * b for a, b in pairwise(widths))
    assert fit(make_samples(), perceptron("relu", layers)).logits.macs == expected


class Between(SGDClassifier):
    """Has probabilities of another kind, which are 0 and 1 for most samples."""

    def __init__(self):
        super().__init__(loss="modified_huber", alpha=1e-6, random_state=0)

    def __sklearn_clone__(self):
        return Between()


class Backwards(LogisticRegression):
    """Has its classes in another order, as classifiers of other packages may."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.classes_, self.coef_ = self.classes_[::-1], self.coef_[::-1]
        self.intercept_ = self.intercept_[::-1]
        return self


def test_classes_may_be_in_any_order():
    samples = make_samples()
    (features,) = samples[0]
    found = proba_by(fit(samples, Backwards()).logits, features)
    expected = proba_by(fit(samples, LogisticRegression()).logits, features)
    assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_what_has_coefficients_but_another_link_runs_as_it_is():
    samples = make_samples(n_classes=2)
    (features,), _, codes, _ = samples
    features += 1000 * codes[:, None]
    (features,) = samples[0]
    between = np.linspace(features[0], features[1], 50)
    expected = by_sklearn(Between(), features, codes).predict_proba(between)
    assert set(expected[[0, -1]].ravel()) == {0, 1}
    found = proba_by(fit(samples, Between()).logits, between)
    assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [10, 40, 250])
def test_rows_have_the_squares_of_at_most_ten_features(width):
    samples = make_samples(width=width, n=300)
    (features,), _, codes, _ = samples
    scaled = StandardScaler().fit_transform(features) * np.sqrt(10 / width)
    expected = LogisticRegression().fit(scaled, codes).predict_proba(scaled)
    found = proba_by(fit(samples, LogisticRegression()).logits, features)
    assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classifier", [LogisticRegression(), GaussianNB()])
def test_features_that_rounding_makes_are_not_looked_at(classifier):
    features, folds, codes, weight = make_samples()
    noise = 1e-7 * np.random.default_rng(0).normal(size=(120, 1))
    with_noise = [np.hstack([features[0], noise * (1 + codes[:, None])])]
    statistics = statistics_of((with_noise, folds, codes, weight))
    statistics.rounding[0][-1] = 1e-6
    spec = HeadSpec("mahalanobis", 0.3, None, parts=(classifier,))
    (head,) = fit_exits(statistics, spec, [0])
    expected = proba_by(head.logits, with_noise[0])
    moved = with_noise[0] - [0, 0, 0, 0, 1e-6]
    assert_array_equal(proba_by(head.logits, moved), expected)


def test_constant_features_are_left_as_they_are():
    samples = make_samples()
    samples[0][0][:, 1] = 3.0
    (features,), _, codes, _ = samples
    found = proba_by(fit(samples, LogisticRegression()).logits, features)
    expected = by_sklearn(LogisticRegression(), features, codes)
    assert_allclose(found, expected.predict_proba(features), rtol=0, atol=1e-9)


# Out of fold, and weights


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "classifier", [LogisticRegression(), perceptron(), GaussianNB()], ids=name_of
)
@pytest.mark.parametrize("some", [False, True], ids=["all", "some held out"])
def test_samples_held_out_are_predicted_by_clones_that_have_not_seen_them(
    classifier, n_classes, some
):
    samples = make_samples(n_classes)
    samples[1][: 40 * some] = -1
    head = fit(samples, classifier)
    expected = unseen(classifier, samples)
    assert_allclose(proba_of(head), expected, rtol=0, atol=1e-8)
    assert head.kind == "classifier"
    assert head.means is None
    assert not hasattr(classifier, "classes_")


def test_calibration_is_fitted_to_what_is_said_of_samples_not_seen():
    samples = make_samples()
    head = fit(samples, LogisticRegression(C=100.0), calibration="temperature")
    log_proba = np.log(unseen(LogisticRegression(C=100.0), samples))
    beta = minimise(log_proba, samples[2], samples[3])
    assert_allclose(1 / head.temperature, beta, rtol=1e-4)
    (features,) = samples[0]
    fitted = by_sklearn(LogisticRegression(C=100.0), features, samples[2])
    expected = softmax(fitted.predict_log_proba(features) / head.temperature, axis=1)
    assert_allclose(proba_by(head.logits, features), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "classifier", [LogisticRegression(), GaussianNB()], ids=name_of
)
def test_a_weight_is_a_number_of_equal_samples(classifier):
    (features,), folds, codes, weight = samples = make_samples(weights=True)
    times = weight.astype(int)
    repeated = [
        [features.repeat(times, axis=0)],
        *(array.repeat(times) for array in (folds, codes, np.ones(120))),
    ]
    one, other = fit(samples, classifier), fit(repeated, classifier)
    found = proba_of(one).repeat(times, axis=0)
    assert_allclose(found, proba_of(other), rtol=0, atol=1e-4)
    found, expected = (proba_by(head.logits, features) for head in (one, other))
    assert_allclose(found, expected, rtol=0, atol=1e-4)


# Combinations


def log_loss(weights, scores, codes, sample_weight):
    """One sample's worth of the targets is spread over the classes beforehand."""
    log_proba = log_softmax(np.tensordot(weights, scores, axes=1), axis=1)
    n_classes = log_proba.shape[1]
    smooth = 1 / (sample_weight.sum() + 1) / n_classes
    target = (1 - n_classes * smooth) * np.eye(n_classes)[codes] + smooth
    return -np.average((target * log_proba).sum(axis=1), weights=sample_weight)


def make_scores(seed=0, n=300, n_classes=3):
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_classes, size=n)
    noise = rng.normal(size=(3, n, n_classes))
    signal = np.array([1.0, 2.0, 0.0])[:, None, None] * np.eye(n_classes)[codes]
    return log_softmax(2 * (signal + noise), axis=2), codes, rng.uniform(0.5, 2, n)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_weights_have_the_least_log_loss(seed, n_parts):
    scores, codes, weight = make_scores(seed)
    scores = scores[:n_parts]
    found = combination_weights(scores, codes, weight)
    expected = minimize(
        log_loss,
        np.ones(n_parts),
        args=(scores, codes, weight),
        bounds=[(0, None)] * n_parts,
    )
    assert_allclose(found, expected.x, rtol=0, atol=1e-3)
    assert log_loss(found, scores, codes, weight) < expected.fun + 1e-7


def test_classes_far_from_all_others_do_not_matter_to_the_weights():
    scores, codes, weight = make_scores()
    far = np.concatenate([scores, np.full((3, 300, 1), -40.0)], axis=2)
    further = np.concatenate([scores, np.full((3, 300, 1), -4000.0)], axis=2)
    found = combination_weights(further, codes, weight)
    assert_allclose(found, combination_weights(far, codes, weight), rtol=1e-6)


def test_a_part_that_knows_nothing_has_little_weight():
    scores, codes, weight = make_scores()
    found = combination_weights(scores, codes, weight)
    assert found[2] < 0.1 * found[1]


def test_where_nothing_tells_parts_apart_all_count_alike():
    uniform = np.full((2, 30, 3), np.log(1 / 3))
    assert combination_weights(uniform, np.arange(30) % 3, np.ones(30)).tolist() == [
        0.5,
        0.5,
    ]


def test_the_scale_of_sample_weights_does_not_change_a_combination():
    *samples, weight = make_samples(weights=True)
    parts = "class_means", GaussianNB()
    one = fit((*samples, weight), *parts)
    other = fit((*samples, 1e-4 * weight), *parts)
    assert_allclose(one.logits.weights, other.logits.weights, rtol=1e-4)


@pytest.mark.parametrize("calibration", [None, "temperature", "dirichlet"])
def test_a_combination_adds_up_the_log_probabilities_of_its_parts(calibration):
    samples = make_samples(n_classes=4)
    (features,), folds, codes, weight = samples
    statistics = make_statistics((features, folds, codes, weight))
    (means,) = fit_class_means(statistics, HeadSpec("mahalanobis", 0.3, None))
    others = [LogisticRegression(), GaussianNB()]
    head = fit(samples, "class_means", *others, calibration=calibration)
    unseen_by = [proba_of(means), *(unseen(part, samples) for part in others)]
    scores = [np.maximum(np.log(proba), RULED_OUT) for proba in unseen_by]
    weights = combination_weights(scores, codes, weight)
    fitted = [by_sklearn(part, features, codes) for part in others]
    seen = [
        proba_by(means.logits, features),
        *(part.predict_proba(features) for part in fitted),
    ]
    given = [np.maximum(np.log(proba), RULED_OUT) for proba in seen]
    assert head.kind == "combination"
    assert_allclose(head.means.means, means.means.means, atol=1e-12)
    combined, of_all = (np.tensordot(weights, e, axes=1) for e in (scores, given))
    calibrated = Temperature()
    if calibration:
        calibrated = fit_calibration(calibration, combined, codes, weight)
    expected = softmax(calibrated(of_all), axis=1)
    assert_allclose(proba_by(head.logits, features), expected, rtol=0, atol=1e-6)
    if calibration != "dirichlet":
        expected = softmax(calibrated(combined), axis=1)
        assert_allclose(proba_of(head), expected, rtol=0, atol=1e-6)


def test_a_combination_of_linear_parts_is_one_layer():
    samples = make_samples()
    one, other = LogisticRegression(), LinearDiscriminantAnalysis()
    head = fit(samples, "class_means", one, other)
    assert isinstance(head.logits, LinearLogits)
    assert head.logits.macs == 3 * 4
    weighted = fit(samples, "class_means", one, other, GaussianNB())
    assert weighted.logits.macs == 3 * 3 * 4


class Nothing(GaussianNB):
    """Gives no class any probability where the first feature is below its mean."""

    def predict_proba(self, X):
        return super().predict_proba(X) * (X[:, :1] > 0)


@pytest.mark.parametrize("parts", [(), ("class_means",)], ids=["alone", "combined"])
def test_where_no_class_has_a_probability_the_classifier_says_nothing(parts):
    samples = make_samples()
    (features,) = samples[0]
    nothing = features[:, 0] < features[:, 0].mean()
    head = fit(samples, *parts, Nothing(), calibration="temperature")
    proba = proba_by(head.logits, features)
    assert np.isfinite(proba_of(head)).all()
    if not parts:
        assert_allclose(proba[nothing], 1 / 3)
    assert (proba[~nothing].max(axis=1) > 1 / 3).all()
    assert_allclose(proba.sum(axis=1), 1)


class Counted(GaussianNB):
    fitted = 0

    def fit(self, X, y, sample_weight=None):
        Counted.fitted += 1
        return super().fit(X, y, sample_weight)


def test_without_a_calibration_a_classifier_is_fitted_once():
    Counted.fitted = 0
    head = fit(make_samples(), Counted())
    assert Counted.fitted == 1
    proba_of(head)
    proba_of(head)
    assert Counted.fitted == 1 + 3


# What cannot be used


class Frozen(GaussianNB):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y + 5, sample_weight)
        return self


class Unnamed(GaussianNB):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        del self.classes_
        return self


@pytest.mark.parametrize(
    ("head", "classes"), [(Frozen(), r"\[5, 6, 7\]"), (Unnamed(), r"\[\]")]
)
def test_classes_of_its_own_are_refused(head, classes):
    with pytest.raises(ValueError, match=f"head=.* has the classes_ {classes} after"):
        fit(make_samples(), head)


class Single(GaussianNB):
    def predict_proba(self, X):
        return super().predict_proba(X)[:, :1]


def test_probabilities_of_another_shape_are_refused():
    message = r"head=Single\(\) returns an array of the shape \(42, 1\).*\(42, 3\)"
    with pytest.raises(ValueError, match=message):
        fit(make_samples(), Single(), calibration="temperature")


class NoWeights(GaussianNB):
    def fit(self, X, y):
        return super().fit(X, y)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (RidgeClassifier(), r"RidgeClassifier\(\) has no predict_proba.*Calibrated"),
        (LogisticRegression, "which is no classifier. Make one"),
        (StandardScaler(), "has no predict_proba"),
        (3, "3, which is no classifier"),
        ("means", "'means' must be 'class_means', a classifier, or a list"),
        ([], "nothing to combine"),
        (["class_means"], "nothing to combine"),
        ([LogisticRegression()], "nothing to combine"),
        (["class_means", "class_means"], "'class_means' is at most one"),
        (["class_means", LinearSVC()], r"LinearSVC\(\) has no predict_proba"),
        (["class_means", "mean"], "must be 'class_means'"),
    ],
    ids=str,
)
def test_what_cannot_stand_at_an_exit_is_refused(head, message):
    with pytest.raises(ValueError, match=message):
        check_head(head)


def test_what_can_stand_there_is_one_or_several():
    one, other = LogisticRegression(), GaussianNB()
    assert check_head("class_means") == ("class_means",)
    assert check_head(one) == (one,)
    assert check_head([one, other]) == check_head((one, other)) == (one, other)
    assert check_head(["class_means", one]) == ("class_means", one)


def test_a_class_not_seen_outside_a_fold_is_named():
    samples = make_samples()
    samples[1][samples[2] == 2] = 1
    message = r"Stage 'a': head=Gauss.* not seen the classes number \[2\].* fold 1"
    with pytest.raises(ValueError, match=message):
        fit(samples, GaussianNB(), calibration="temperature")


def test_that_nothing_lies_outside_a_fold_is_said():
    samples = make_samples()
    samples[1][:] = 0
    message = r"Stage 'a': head=Gauss.*cannot be fitted to what lies outside fold 0"
    with pytest.raises(ValueError, match=message):
        fit(samples, GaussianNB(), calibration="temperature")


def test_weights_that_a_classifier_does_not_take_are_refused():
    with pytest.raises(ValueError, match=r"Stage 'a': .*NoWeights\(\) does not take"):
        fit(make_samples(weights=True), NoWeights())
    fit(make_samples(), NoWeights())


def test_what_a_classifier_says_is_wrong_is_passed_on():
    message = r"head=Logistic.*cannot be fitted: .*'C'"
    with pytest.raises(ValueError, match=message):
        fit(make_samples(), LogisticRegression(C=-1.0))


def test_probabilities_of_zero_rule_out_no_combination():
    samples = make_samples()
    forest = RandomForestClassifier(5, random_state=0)
    head = fit(samples, "class_means", forest, calibration="temperature")
    proba = proba_by(head.logits, samples[0][0])
    assert np.isfinite(proba).all()
    assert_allclose(proba.sum(axis=1), 1)
    assert np.isfinite(proba_of(head)).all()
