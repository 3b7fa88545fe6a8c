"""From a stage's output to logits and class probabilities."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import log_softmax, softmax

from sk_e2cm._fitting._calibration import Dirichlet, Temperature
from sk_e2cm._fitting._folding import fold
from sk_e2cm._fitting._means import ClassMeans, WhitenedMeans
from sk_e2cm._multi_exit._heads import FoldedHead, Head
from sk_e2cm._multi_exit._logits import (
    DirichletLogits,
    DistanceLogits,
    LinearLogits,
    Logits,
    NetworkLogits,
)
from sk_e2cm._multi_exit._pooling import Flatten, GridAverage, SecondOrder
from sk_e2cm._utils._arrays import to_tensor

from ..outputs import average_by_loops, make_output

N, N_CLASSES, N_FEATURES = 60, 3, 5


def make_features(seed=0):
    """Return codes and features."""
    rng = np.random.default_rng(seed)
    codes = np.arange(N) % N_CLASSES
    return codes, rng.normal(size=(N, N_FEATURES)) + codes[:, None]


def make_means():
    rng = np.random.default_rng(1)
    means = rng.normal(size=(N_CLASSES, N_FEATURES))
    priors = np.array([0.5, 0.3, 0.2])
    return [
        ClassMeans(means),
        ClassMeans(means, np.array([1.0, 2.0, 0.5])),
        WhitenedMeans(means, priors, np.diag([1.0, 2.0, 3.0, 4.0, 5.0]), 0.1),
    ]


def make_calibrations():
    rng = np.random.default_rng(2)
    coef = rng.normal(size=(N_CLASSES, N_CLASSES))
    return [Temperature(), Temperature(2.5), Dirichlet(0.5, coef, coef[0])]


def make_linear(n_features=N_FEATURES, dtype=torch.float64):
    """Return linear logits, and the weight and the bias that they were made of."""
    weight, bias = make_output(N_CLASSES, n_features), make_output(N_CLASSES)
    logits = LinearLogits(
        torch.tensor(weight, dtype=dtype), torch.tensor(bias).to(dtype)
    )
    return logits, weight, bias


def proba_by(logits, features):
    """Return the probabilities of features, an array, as an array."""
    with torch.inference_mode():
        return logits.to_proba(logits(to_tensor(features))).numpy()


# Probabilities


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_are_the_softmax_in_double_precision(dtype):
    logits = torch.tensor(10 * make_output(N, N_CLASSES), dtype=dtype)
    proba = Logits().to_proba(logits)
    assert proba.dtype == torch.float64
    assert_allclose(proba, softmax(logits.double().numpy(), axis=1), rtol=1e-12)


def test_confidences_near_one_are_told_apart():
    # In single precision 1 - 1e-9 is 1.
    proba = Logits().to_proba(torch.tensor([[20.0, 0.0], [21.0, 0.0]]))
    assert 0 < 1 - proba[1, 0] < 1 - proba[0, 0] < 1e-8


# Linear in the features


@pytest.mark.parametrize("centred", [False, True])
def test_linear_logits_are_those_of_a_linear_layer(centred):
    _, features = make_features()
    _, weight, bias = make_linear(dtype=torch.float64)
    centre = make_output(N_FEATURES, dtype=np.float64) if centred else np.zeros(5)
    logits = LinearLogits(
        torch.tensor(weight).double(),
        torch.tensor(bias).double(),
        torch.tensor(centre) if centred else None,
    )
    found = logits(torch.tensor(features))
    assert logits.macs == N_CLASSES * N_FEATURES
    for i in range(N):
        for k in range(N_CLASSES):
            expected = bias[k] + sum(
                float(weight[k, d]) * (features[i, d] - centre[d])
                for d in range(N_FEATURES)
            )
            assert found[i, k].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("given", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_of_the_weights_is_that_of_the_arithmetic(dtype, given):
    logits, weight, bias = make_linear(dtype=dtype)
    features = make_output(N, N_FEATURES)
    found = logits(torch.tensor(features, dtype=given))
    assert found.dtype == dtype
    exact = features.astype(float) @ weight.T.astype(float) + bias
    assert_allclose(found, exact, atol=1e-12 if dtype == torch.float64 else 1e-5)


def test_features_far_from_zero_lose_no_digits_to_a_centre():
    centre = np.full(N_FEATURES, 1e6, dtype=np.float32)
    near = np.float32(0.125) * np.round(8 * make_output(N, N_FEATURES))
    logits, weight, bias = make_linear(dtype=torch.float32)
    centred = LinearLogits(logits.weight, logits.bias, torch.tensor(centre))
    found = centred(torch.tensor(centre + near))
    assert_allclose(found, near @ weight.T + bias, atol=1e-5)


# By distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_are_the_euclidean_ones(dtype):
    _, features = make_features()
    means, scale = make_output(N_CLASSES, N_FEATURES), np.array([1.0, 2.0, 0.5])
    logits = DistanceLogits(
        torch.tensor(means).to(dtype), torch.tensor(1 / scale).to(dtype)
    )
    found = logits(torch.tensor(features, dtype=dtype))
    expected = [
        [-np.sqrt(((f - c) ** 2).sum()) / s for c, s in zip(means, scale, strict=True)]
        for f in features
    ]
    assert found.dtype == dtype
    assert_allclose(found, expected, atol=1e-12 if dtype == torch.float64 else 1e-5)
    assert logits.macs == N_CLASSES * N_FEATURES


@pytest.mark.parametrize("n", [3, 200])  # torch has another way for many
def test_distances_of_features_far_from_zero_lose_no_digits(n):
    offset = np.float32(1e6)
    near = np.round(4 * make_output(n, N_FEATURES)).astype(np.float32)
    means = near[:3] + 1
    logits = DistanceLogits(torch.tensor(offset + means), torch.ones(3))
    expected = -np.linalg.norm(near[:, None] - means, axis=2)
    assert_allclose(logits(torch.tensor(offset + near)), expected, rtol=1e-6)


# Dirichlet calibration


@pytest.mark.parametrize("least", [-30.0, -2.0])
def test_dirichlet_logits_are_linear_in_log_probabilities(least):
    _, features = make_features()
    rng = np.random.default_rng(3)
    coef, intercept = rng.normal(size=(3, 3)), rng.normal(size=3)
    inner, weight, bias = make_linear()
    logits = DirichletLogits(inner, torch.tensor(coef), torch.tensor(intercept), least)
    found = logits(torch.tensor(features))
    for row, f in zip(found, features, strict=True):
        z = np.maximum(log_softmax(weight.astype(float) @ f + bias), least)
        assert_allclose(row, coef @ z + intercept, atol=1e-12)
    assert logits.macs == N_CLASSES * N_FEATURES + N_CLASSES**2


def test_a_class_that_is_ruled_out_does_not_rule_dirichlet_logits():
    inner = LinearLogits(torch.tensor([[1e5], [0.0], [0.0]]), torch.zeros(3))
    logits = DirichletLogits(inner, torch.eye(3), torch.zeros(3), least=-30.0)
    assert logits(torch.ones(1, 1)).tolist() == [[0.0, -30.0, -30.0]]


# Class means with their calibration


@pytest.mark.parametrize("means", make_means())
@pytest.mark.parametrize("calibration", make_calibrations())
@pytest.mark.parametrize(
    ("dtype", "bounds"),
    [(np.float64, {"rtol": 1e-10}), (np.float32, {"rtol": 0, "atol": 1e-5})],
)
def test_probabilities_are_the_softmax_of_calibrated_scores(
    means, calibration, dtype, bounds
):
    _, features = make_features()
    features = features.astype(dtype)
    proba = proba_by(fold(means, calibration, features), features)
    logits = calibration(means.scores(features.astype(float)))
    for row, probabilities in zip(logits, proba, strict=True):
        expected = np.exp(row) / np.exp(row).sum()
        assert_allclose(probabilities, expected, **bounds)


@pytest.mark.parametrize("means", make_means())
@pytest.mark.parametrize("calibration", make_calibrations())
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_sum_to_one(means, calibration, scale, dtype):
    _, features = make_features()
    features = features.astype(dtype)
    proba = proba_by(fold(means, calibration, features), dtype(scale) * features)
    assert (proba >= 0).all()
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("means", make_means())
@pytest.mark.parametrize(
    ("calibration", "macs"), list(zip(make_calibrations(), [0, 0, 9], strict=True))
)
def test_an_exit_costs_its_means_and_its_calibration(means, calibration, macs):
    _, features = make_features()
    logits = fold(means, calibration, features)
    assert logits.macs == N_CLASSES * N_FEATURES + macs


@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.0])
def test_the_temperature_is_what_scores_are_divided_by(temperature):
    _, features = make_features()
    means = make_means()[1]
    logits = fold(means, Temperature(1 / temperature), features)
    expected = softmax(means.scores(features) / temperature, axis=1)
    assert_allclose(proba_by(logits, features), expected, rtol=1e-10)


def test_probabilities_of_float32_features_are_float64():
    _, features = make_features()
    logits = fold(make_means()[0], Temperature(), features)
    proba = proba_by(logits, features.astype(np.float32))
    assert proba.dtype == np.float64
    assert_allclose(proba, proba_by(logits, features), atol=1e-6)


@pytest.mark.parametrize("means", make_means())
@pytest.mark.parametrize("calibration", make_calibrations())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_have_the_type_of_the_features(means, calibration, dtype):
    _, features = make_features()
    features = features.astype(dtype)
    logits = fold(means, calibration, features)(torch.tensor(features))
    assert logits.numpy().dtype == dtype


# The network's head


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_networks_logits_become_their_softmax(dtype):
    _, features = make_features()
    given = features[:, :3].astype(dtype)
    logits = NetworkLogits(np.arange(3), normalized=False)
    proba = proba_by(logits, given)
    assert_allclose(proba, softmax(given.astype(float), axis=1))
    assert proba.dtype == np.float64
    assert logits.macs == 0


def test_columns_are_put_into_the_order_of_the_classes():
    _, features = make_features()
    logits = NetworkLogits(np.array([4, 0, 2]), normalized=False)
    expected = softmax(features[:, [4, 0, 2]], axis=1)
    assert_allclose(proba_by(logits, features), expected)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(np.float32, 1e-7), (np.float64, 1e-12)], ids=str
)
def test_probabilities_of_the_network_are_spread_over_the_columns_used(dtype, atol):
    proba = np.array([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.25, 0.25, 0.5]], dtype)
    logits = NetworkLogits(np.array([2, 0]), normalized=True)
    expected = [[0.6, 0.4], [1.0, 0.0], [2 / 3, 1 / 3]]
    assert_allclose(proba_by(logits, proba), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("columns", [[0, 1], [1, 0]], ids=str)
@pytest.mark.parametrize("normalized", [False, True])
def test_a_single_output_is_of_the_second_column_against_the_first(columns, normalized):
    logits = np.array([[-3.0], [0.0], [0.5]])
    second = 1 / (1 + np.exp(-logits))
    head = NetworkLogits(np.array(columns), normalized)
    found = proba_by(head, second if normalized else logits)
    assert_allclose(found, np.hstack([1 - second, second])[:, columns], rtol=1e-12)


@pytest.mark.parametrize("normalized", [False, True])
def test_a_single_output_that_is_not_finite_gives_nan(normalized):
    head = NetworkLogits(np.arange(2), normalized)
    assert np.isnan(proba_by(head, np.array([[np.nan], [np.inf]]))).all()


def test_log_probabilities_are_logits():
    _, features = make_features()
    logits = NetworkLogits(np.arange(N_FEATURES), normalized=False)
    expected = softmax(features, axis=1)
    found = proba_by(logits, log_softmax(features, axis=1))
    assert_allclose(found, expected, rtol=1e-12)


# Heads pool before


def test_a_head_is_its_logits_of_the_pooled_output():
    output = make_output(7, 4, 6, 9)
    logits, weight, bias = make_linear(4 * 2**2)
    head = Head(GridAverage(2, (4, 6, 9), torch.float32), logits)
    expected = average_by_loops(output, 2) @ weight.T + bias
    assert_allclose(head(torch.tensor(output)), expected, atol=1e-5)
    assert_allclose(head(output), expected, atol=1e-5)


def test_a_head_costs_its_pooling_and_its_logits():
    pooling = SecondOrder((4, 2, 3), torch.float32)
    logits, *_ = make_linear(17)
    assert Head(pooling, logits).macs == 6 * 4 * 4 + N_CLASSES * 17
    assert Head(Flatten(), logits).macs == N_CLASSES * 17


@pytest.mark.parametrize("grid", [1, 2, 3])
@pytest.mark.parametrize(
    "shape", [(4, 6, 6), (4, 5, 7), (3, 8), (6, 6, 4), (2, 3, 4, 5)], ids=str
)
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
def test_a_folded_head_gives_the_logits_of_its_average(shape, grid, dtype, atol):
    output = torch.tensor(make_output(7, *shape), dtype=dtype)
    pooling = GridAverage(grid, shape, dtype)
    logits, *_ = make_linear(pooling(output).shape[1], dtype)
    folded = FoldedHead(pooling, logits)
    expected = Head(pooling, logits)(output)
    found = folded(output)
    assert found.dtype == dtype
    assert_allclose(found, expected, rtol=0, atol=atol)
    assert_allclose(folded(output.numpy()), expected, rtol=0, atol=atol)
    # In memory alone the channels may be last, or anywhere.
    for axis in range(2, output.dim()):
        moved = output.movedim(1, axis).contiguous().movedim(axis, 1)
        assert_allclose(folded(moved), expected, rtol=0, atol=atol)


def test_a_folded_head_takes_maps_of_other_sizes():
    pooling = GridAverage(2, (4, 6, 6), torch.float32)
    logits, weight, bias = make_linear(16, torch.float32)
    output = make_output(7, 4, 9, 5)
    expected = average_by_loops(output, 2) @ weight.T + bias
    found = FoldedHead(pooling, logits)(torch.tensor(output))
    assert_allclose(found, expected, atol=1e-5)


def test_a_folded_head_costs_a_weight_for_each_position():
    logits, *_ = make_linear(16)
    folded = FoldedHead(GridAverage(2, (4, 6, 9), torch.float64), logits)
    assert folded.macs == N_CLASSES * 4 * 6 * 9
