"""Exits as layers: what they say, that they learn, and which are none."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from sk_e2cm._multi_exit._costs import Costs
from sk_e2cm._multi_exit._grafting import CentredPooling, linear_exits
from sk_e2cm._multi_exit._heads import FoldedHead, Head
from sk_e2cm._multi_exit._logits import (
    DirichletLogits,
    DistanceLogits,
    LinearLogits,
    PerceptronLogits,
    WeightedLogits,
)
from sk_e2cm._multi_exit._network import MultiExitNetwork
from sk_e2cm._multi_exit._pooling import make_pooling
from sk_e2cm.testing import ToyExtractor

from .networks import LABELS, N_CLASSES

CHANNELS, SHAPE = 40, (40, 4, 4)
POOLINGS = ["auto", 1, 2, "none", "second_order"]
NUMBERS = torch.Generator().manual_seed(0)


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=NUMBERS)


def make_output(n=20, dtype=torch.float32):
    return randn(n, *SHAPE, dtype=dtype) + 1


def pool(pooling="auto", dtype=torch.float32):
    return make_pooling(pooling, "part1", SHAPE, dtype, 1)


def graft(head, dtype=torch.float32):
    """Return the only exit as layers."""
    shape = N_CLASSES, N_CLASSES
    last = Head(pool(1), LinearLogits(randn(*shape), randn(N_CLASSES)))
    costs = Costs(np.ones(2) / 2, np.zeros(2))
    network = MultiExitNetwork(ToyExtractor(2), [head, last], LABELS, costs, "auto")
    (layers,) = linear_exits(network)
    return layers


def linear(pooling, dtype=torch.float32, centred=False):
    width = pooling(make_output(1, dtype)).shape[1]
    weight, bias = randn(N_CLASSES, width, dtype=dtype), randn(N_CLASSES, dtype=dtype)
    return LinearLogits(weight, bias, randn(width, dtype=dtype) if centred else None)


def whitened(pooling, dtype=torch.float32, centred=False):
    return Head(pooling, linear(pooling, dtype, centred))


# What they say


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("centred", [False, True])
def test_linear_exits_have_the_probabilities_of_the_exit(pooling, dtype, centred):
    head = whitened(pool(pooling, dtype), dtype, centred)
    output = make_output(dtype=dtype)
    layers = graft(head)
    assert isinstance(layers[1], nn.Linear)
    assert isinstance(layers[0], CentredPooling) == (centred or dtype == torch.float64)
    assert layers[1].weight.dtype == dtype
    found = layers(output).softmax(dim=1).detach()
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    assert_allclose(found, head.proba(output), rtol=0, atol=tolerance)


def test_averages_that_are_folded_into_weights_are_taken_apart_again():
    pooling = pool(1)
    logits = linear(pooling)
    layers, output = graft(FoldedHead(pooling, logits)), make_output()
    assert layers[1].in_features == CHANNELS
    found = layers(output).softmax(dim=1).detach()
    assert_allclose(found, Head(pooling, logits).proba(output), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_what_rounding_asks_for_in_the_exit_is_in_the_layers(dtype, offset):
    pooling = pool("none")
    output = randn(20, *SHAPE) + offset
    centre = pooling(output).mean(dim=0).to(dtype)
    weight, bias = randn(N_CLASSES, len(centre), dtype=dtype), randn(N_CLASSES)
    head = Head(pooling, LinearLogits(weight, bias.to(dtype), centre))
    found = graft(head)(output).softmax(dim=1).detach()
    assert_allclose(found, head.proba(output), rtol=0, atol=1e-4)


def test_what_is_in_double_precision_takes_features_in_single():
    head, output = whitened(pool(), torch.float32), make_output()
    head.logits = head.logits.double()
    found = graft(head)(output).softmax(dim=1).detach()
    assert_allclose(found, head.proba(output), rtol=0, atol=1e-9)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_nearest_class_mean_has_the_largest_logit(pooling):
    pooling = pool(pooling, torch.float64)
    output = make_output(dtype=torch.float64)
    features = pooling(output)
    means = features[:N_CLASSES] + 0.1
    sharpness = torch.full((N_CLASSES,), 2.0, dtype=torch.float64)
    layers = graft(Head(pooling, DistanceLogits(means, sharpness)))
    assert_array_equal(layers[1].weight.detach(), means)
    half = [-(c @ c) / 2 for c in means.numpy()]
    assert_allclose(layers[1].bias.detach(), half, rtol=1e-12)
    away = np.linalg.norm(features.numpy()[:, None] - means.numpy(), axis=2)
    assert_array_equal(layers(output).argmax(dim=1), away.argmin(axis=1))


# What is done to them


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_flow_to_the_layer_and_to_the_stage(pooling):
    layers = graft(whitened(pool(pooling)))
    output = make_output().requires_grad_()
    codes = torch.arange(20) % N_CLASSES
    optimizer = torch.optim.SGD(layers.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(layers(output), codes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert output.grad.abs().sum() > 0
    assert losses[1] < losses[0]


def test_they_are_copies():
    head, output = whitened(pool("second_order")), make_output()
    before = head.proba(output)
    layers = graft(head)
    with torch.no_grad():
        for tensor in (*layers.parameters(), *layers.buffers()):
            tensor.zero_()
    assert_array_equal(head.proba(output), before)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_all_of_a_copy_is_moved_to_another_device(pooling):
    layers = graft(whitened(pool(pooling))).to("meta")
    for name, _ in layers[0].named_buffers():
        assert getattr(layers[0], name).device.type == "meta"


# What is none


def dirichlet(pooling):
    square = torch.eye(N_CLASSES)
    return DirichletLogits(linear(pooling), square, randn(N_CLASSES), -30.0)


def perceptron(pooling):
    layers = [
        LinearLogits(randn(5, CHANNELS), randn(5), torch.zeros(CHANNELS)),
        LinearLogits(randn(N_CLASSES, 5), randn(N_CLASSES)),
    ]
    return PerceptronLogits(layers, "relu")


def combined(pooling):
    return WeightedLogits([linear(pooling), linear(pooling)], torch.ones(2), -30.0)


@pytest.mark.parametrize("make", [dirichlet, perceptron, combined])
def test_exits_that_are_not_linear_are_refused_by_name(make):
    pooling = pool(1)
    with pytest.raises(ValueError, match=r"stage 'part1' is not linear.*dirichlet"):
        graft(Head(pooling, make(pooling)))


def test_an_exit_that_carries_features_is_refused_by_name():
    pooling = pool(1)
    with pytest.raises(ValueError, match=r"stage 'part1' takes features.*carry=0"):
        graft(Head(pooling, linear(pooling), carried=(0,)))
