"""Every mistake gives an error that says what is wrong and what to do."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sk_e2cm import E2CMClassifier, E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm._utils._hashing import row_hashes
from sk_e2cm.testing import ToyExtractor

from .references import minimise

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
y = np.arange(40) % 2


def mlp(n_outputs=2):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, n_outputs))


@pytest.fixture
def clf():
    return E2CMClassifier(TorchExtractor(mlp(), ["1"]))


def test_prediction_before_fit(clf):
    for method in (clf.predict, clf.predict_proba, clf.predict_exit, clf.exit_proba):
        with pytest.raises(NotFittedError):
            method(X)
    with pytest.raises(NotFittedError):
        next(clf.staged_predict(X))
    with pytest.raises(NotFittedError):
        clf.cost(X)
    assert not hasattr(clf, "stage_cost_")


def test_empty_x(clf):
    with pytest.raises(ValueError, match="0 sample"):
        clf.fit(X[:0], y[:0])
    with pytest.raises(ValueError, match="0 sample"):
        clf.fit(X, y).predict(X[:0])


def test_x_of_a_shape_that_the_network_does_not_take(clf):
    with pytest.raises(ValueError, match=r"does not take samples of shape \(3,\)"):
        clf.fit(X[:, :3], y)


def test_x_of_a_shape_that_was_not_fitted():
    images = X.reshape(40, 1, 2, 2)
    clf = E2CMClassifier(ToyExtractor()).fit(images, y)
    with pytest.raises(ValueError, match=r"\(1, 4, 1\).*fitted on.*\(1, 2, 2\)"):
        clf.predict(X.reshape(40, 1, 4, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_or_infinity_in_x(clf, value):
    bad = X.copy()
    bad[3, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clf.fit(bad, y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clf.fit(X, y).predict(bad)


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


def test_nan_at_an_exit_names_the_stage_and_the_sample():
    extractor = TorchExtractor(nn.Sequential(nn.Identity(), Root(), mlp()), ["0", "1"])
    positive = abs(X)
    bad = positive.copy()
    bad[7, 0] = -1.0
    message = "stage '1' contains NaN or infinity for 1 of 40 samples .* number 7"
    with pytest.raises(ValueError, match=message):
        E2CMClassifier(extractor).fit(bad, y)
    clf = E2CMClassifier(extractor).fit(positive, y).set_params(threshold=2.0)
    with pytest.raises(ValueError, match="stage '1'"):
        clf.predict(bad)


def test_a_class_with_one_sample(clf):
    labels = y.copy()
    labels[0] = 7
    with pytest.warns(UserWarning, match=r"only one sample: \[7\]") as warned:
        clf.fit(X, labels)
    assert [each.filename for each in warned] == [__file__]
    assert clf.classes_.tolist() == [0, 1, 7]
    assert clf.set_params(calibration=None).fit(X, labels).classes_.tolist() == [
        0,
        1,
        7,
    ]


def test_the_only_sample_of_a_class_has_no_part_in_the_calibration():
    labels = y.copy()
    labels[0] = 7
    with pytest.warns(UserWarning, match=r"only one sample: \[7\]"):
        clf = E2CMClassifier(metric="euclidean").fit(X, labels)
    assert_allclose(clf.class_means_[0][2], X[0], rtol=1e-6)
    folds = row_hashes(X) % 5
    scores = np.zeros((40, 3))
    for i in range(1, 40):
        seen = (folds != folds[i]) | (labels == 7)
        for k, label in enumerate(clf.classes_):
            mean = X[seen & (labels == label)].mean(axis=0)
            scores[i, k] = -np.linalg.norm(X[i] - mean) / clf.distance_scale_[0][k]
    expected = minimise(scores[1:], labels[1:], np.ones(39))
    assert_allclose(1 / clf.temperature_[0], expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:The (least populated class|thresholds chosen)")
def test_the_only_sample_of_a_class_is_not_held_out_to_tune_on(clf):
    labels = y.copy()
    labels[0] = 7
    search = TunedExitsCV(clf, max_cost=2.0)
    with pytest.warns(UserWarning, match=r"only one sample: \[7\]"):
        search.fit(X, labels)
    assert search.estimator_.classes_.tolist() == [0, 1, 7]


def test_where_each_class_has_one_sample_there_is_nothing_to_calibrate_on(clf):
    with pytest.raises(ValueError, match="calibration=None"):
        clf.fit(X[:3], [0, 1, 2])
    clf.set_params(calibration=None).fit(X[:3], [0, 1, 2])
    assert_array_equal(clf.predict(X[:3]), [0, 1, 2])


class Width(ToyExtractor):
    """An exit that has other features for samples that begin with a large number."""

    def __init__(self, other):
        super().__init__(n_stages=2)
        self.other = other

    def advance(self, state, stage):
        state, output = super().advance(state, stage)
        if stage == 0 and len(state) and (state[:, 0] > 50).any():
            output = self.other(output)
        return state, output


OTHER_WIDTHS = {
    "one": (lambda x: x[:, :1], 1),
    "fewer": (lambda x: x[:, :-1], 3),
    "more": (lambda x: np.hstack([x, x]), 8),
}


@pytest.mark.parametrize(
    ("other", "width"), OTHER_WIDTHS.values(), ids=list(OTHER_WIDTHS)
)
@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_features_of_another_width_name_the_stage_and_the_widths(metric, other, width):
    wide = np.hstack([X, X])
    changed = wide.copy()
    changed[32:, 0] = 100.0
    extractor = Width(other)
    params = {"metric": metric, "batch_size": 8, "final": "class_means"}
    message = f"'part1' has {width} features for some samples and 4 for others"
    clf = E2CMClassifier(extractor, **params)
    with pytest.raises(ValueError, match="'part1' gives a sample other values of"):
        clf.fit(changed, y)
    clf.fit(wide, y)
    for ask in (clf.predict, clf.predict_proba, clf.exit_proba, clf.predict_exit):
        with pytest.raises(ValueError, match=message):
            ask(changed)
        with pytest.raises(ValueError, match=message):
            ask(changed[32:])


@pytest.mark.parametrize("pooling", ["none", lambda x: x[:, :, :0].reshape(len(x), 0)])
def test_a_stage_without_features_is_named(pooling):
    class Empty(ToyExtractor):
        def advance(self, state, stage):
            state, output = super().advance(state, stage)
            return state, np.zeros((len(output), 3, 0 if pooling == "none" else 2))

    with pytest.raises(ValueError, match=r"'part1' has no features.*\(40, 0\)"):
        E2CMClassifier(Empty(2), pooling=pooling).fit(X, y)


@pytest.mark.parametrize("value", [1e151, -1e200, 1e308])
@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_features_whose_squares_overflow_name_x_and_the_value(metric, value):
    large = X.astype(np.float64)
    large[7, 2] = value
    message = rf"stage 'X' are as large as {abs(value):.3g}".replace("+", r"\+")
    for estimator in (
        E2CMClassifier(metric=metric),
        E2CMClusterer(n_clusters=2, metric=metric),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.fit(large, y)


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
@pytest.mark.parametrize(
    ("dtype", "unit"), [(np.float32, 1e25), (np.float32, 1e-15), (np.float64, 1e120)]
)
def test_features_of_any_size_that_can_be_squared_are_answered(dtype, unit, metric):
    labels = (X[:, 0] > 0).astype(int)
    clf = E2CMClassifier(metric=metric, calibration=None)
    expected = clf.fit(X.astype(np.float64), labels).predict_proba(X)
    given = (X * np.float64(unit)).astype(dtype)
    clf.fit(given, labels)
    for found in (clf.predict_proba(given), clf.exit_proba(given)[:, 0]):
        assert_allclose(found, expected, rtol=0, atol=1e-4)


class Hopeless(GaussianNB):
    def predict_proba(self, X):
        proba = super().predict_proba(X)
        proba[X[:, 0] > 0] = np.nan
        return proba


def test_a_classifier_that_gives_nan_is_named():
    clf = E2CMClassifier(final=Hopeless(), threshold=np.inf).fit(X, y)
    n_bad = (X[:, 0] > 0).sum()
    message = rf"final=Hopeless\(\) returns NaN .* {n_bad} of 40 samples"
    for ask in (clf.predict, clf.exit_proba):
        with pytest.raises(ValueError, match=message):
            ask(X)
    search = TunedExitsCV(
        E2CMClassifier(ToyExtractor(2), final=Hopeless()), max_drop=0.1
    )
    with pytest.raises(ValueError, match=r"final=Hopeless\(\) returns NaN"):
        search.fit(X, y)


def test_one_class_only(clf):
    with pytest.raises(ValueError, match="y has 1 class"):
        clf.fit(X, np.zeros(40, dtype=int))


def test_weights_that_are_zero_or_negative(clf):
    with pytest.raises(ValueError, match="zero for every sample"):
        clf.fit(X, y, sample_weight=np.zeros(40))
    with pytest.raises(ValueError, match="y has 1 class"):
        clf.fit(X, y, sample_weight=y.astype(float))
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        clf.fit(X, y, sample_weight=-np.ones(40))


def test_text_labels_against_a_head_without_names(clf):
    labels = np.array(["yes", "no"])[y]
    with pytest.raises(ValueError, match="head_classes"):
        clf.set_params(final="network").fit(X, labels)
    clf.set_params(head_classes=["yes", "no"]).fit(X, labels)
    assert clf.final_ == "network"


def test_a_head_of_another_width():
    clf = E2CMClassifier(TorchExtractor(mlp(20), ["1"]), final="network")
    with pytest.raises(ValueError, match="20 columns, but y has 2 classes"):
        clf.fit(X, y)
    assert clf.set_params(final="auto").fit(X, y).final_ == "class_means"


def test_head_classes_that_do_not_fit(clf):
    with pytest.raises(ValueError, match="2 columns"):
        clf.set_params(head_classes=[0, 1, 2]).fit(X, y)
    with pytest.raises(ValueError, match=r"lacks the labels \[1\]"):
        clf.set_params(head_classes=[0, 5]).fit(X, y)


def test_a_final_classifier_without_probabilities(clf):
    with pytest.raises(ValueError, match="predict_proba"):
        clf.set_params(final=LinearSVC()).fit(X, y)


@pytest.mark.parametrize("threshold", [[0.5, 0.5], [[0.5, 0.5, 0.5]], [], [[[0.5]]]])
def test_thresholds_of_the_wrong_length(clf, threshold):
    with pytest.raises(ValueError, match=r"shape \(1, 2\), one per exit and class"):
        clf.set_params(threshold=threshold).fit(X, y)


def test_a_threshold_that_is_not_a_number(clf):
    with pytest.raises(ValueError, match="NaN"):
        clf.set_params(threshold=np.nan).fit(X, y)
    with pytest.raises(ValueError, match="threshold"):
        clf.set_params(threshold="high").fit(X, y)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there(clf, device):
    with pytest.raises(ValueError, match=f"device '{device}' is not available"):
        clf.set_params(device=device).fit(X, y)


def test_a_device_for_an_extractor_that_cannot_be_moved():
    clf = E2CMClassifier(ToyExtractor(), device="cpu")
    with pytest.raises(ValueError, match="ToyExtractor has no method to"):
        clf.fit(X, y)


def test_an_extractor_whose_costs_make_no_sense():
    class Shrinking(ToyExtractor):
        def macs(self, input_shape):
            return [3.0, 2.0, 1.0]

    with pytest.raises(ValueError, match=r"macs\(\) must return 3 numbers"):
        E2CMClassifier(Shrinking()).fit(X, y)


def test_a_bare_network_in_the_place_of_an_extractor():
    with pytest.raises(ValueError, match=r"torch module, Sequential\. Cut it"):
        E2CMClassifier(mlp()).fit(X, y)


@pytest.mark.parametrize("extractor", [object(), "resnet18", TorchExtractor])
def test_something_that_is_no_extractor(extractor):
    with pytest.raises(ValueError, match="extractor must be an object like"):
        E2CMClassifier(extractor).fit(X, y)


def test_an_extractor_that_keeps_rows_that_have_left():
    class Forgetful(ToyExtractor):
        def keep(self, state, rows):
            return state

    with pytest.raises(ValueError, match=r"returned 20 rows for 15 samples"):
        E2CMClassifier(Forgetful()).fit(X, X[:, 0] > 0)


def test_pooling_that_gives_no_row_per_sample():
    clf = E2CMClassifier(pooling=lambda output: output.reshape(-1))
    with pytest.raises(ValueError, match="pooling= must return"):
        clf.fit(X.reshape(40, 1, 2, 2), y)


@pytest.mark.parametrize(
    "mistake",
    [
        {"threshold": [0.1, 0.2, 0.3]},
        {"final": LinearSVC()},
        {"head_classes": [0]},
        {"device": "nonsense"},
    ],
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_failed_fit_leaves_the_estimator_as_it_was(clf, mistake):
    clf.fit(X, y)
    before, expected = dict(vars(clf)), clf.predict_proba(X)
    good = {name: getattr(clf, name) for name in mistake}
    with pytest.raises(ValueError):  # noqa: PT011 -- any mistake
        clf.set_params(**mistake).fit(X[:, ::-1], 1 - y)
    clf.set_params(**good)
    assert vars(clf) == before
    np.testing.assert_array_equal(clf.predict_proba(X), expected)


def test_a_failed_fit_on_other_data_leaves_the_estimator_as_it_was(clf):
    clf.fit(X, y)
    before = dict(vars(clf))
    with pytest.raises(ValueError, match="does not take"):
        clf.fit(X[:, :3], y)
    with pytest.raises(ValueError, match="0 sample"):
        clf.fit(X[:0], y[:0])
    assert vars(clf) == before
    assert clf.n_features_in_ == 4


def test_tensors_are_taken_like_arrays(clf):
    clf.fit(torch.from_numpy(X), torch.from_numpy(y))
    np.testing.assert_array_equal(clf.predict(torch.from_numpy(X)), clf.predict(X))


def test_a_tensor_may_carry_gradients_and_any_precision(clf):
    given = torch.from_numpy(X).bfloat16().requires_grad_()
    expected = clf.fit(given.detach().float(), y).predict_proba(given.detach().float())
    np.testing.assert_array_equal(clf.fit(given, y).predict_proba(given), expected)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_samples_of_different_shapes(clf, make):
    with pytest.raises(
        ValueError, match=r"different shapes, such as \(4,\) and \(5,\)"
    ):
        clf.fit([make(4), make(5), make(4)], [0, 1, 0])
    with pytest.raises(ValueError, match="different shapes"):
        clf.fit(X, y).predict([make(4), make(5)])


def test_samples_of_unequal_lists(clf):
    with pytest.raises(ValueError, match="different shapes"):
        clf.fit([[1, [2, 3]], [1, 2]], [0, 1])


@pytest.mark.parametrize("wrap", [lambda data: data, DataLoader])
def test_a_source_of_batches_in_the_place_of_an_array(clf, wrap):
    data = wrap(TensorDataset(torch.from_numpy(X), torch.from_numpy(y)))
    with pytest.raises(TypeError, match=r"array .* of all samples, got a \w+\."):
        clf.fit(X, y).measure_seconds(data)


def test_a_single_image():
    images = X.reshape(40, 1, 2, 2)
    clf = E2CMClassifier(ToyExtractor()).fit(images, y)
    with pytest.raises(ValueError, match=r"A single sample x is X = x\[None\]"):
        clf.predict(images[0])
    assert clf.predict(images[0][None]) == clf.predict(images)[0]


@pytest.mark.parametrize("unit", [1e160, 1e-160])
def test_features_whose_squares_leave_the_range_of_floats(unit):
    table = np.random.default_rng(0).normal(size=(60, 4)) * unit
    with pytest.raises(ValueError, match=r"stage 'X' .*squares overflow or vanish"):
        E2CMClassifier().fit(table, np.arange(60) % 2)
