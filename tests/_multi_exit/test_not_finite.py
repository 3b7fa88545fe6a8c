"""NaN and infinity on the lazy path: the stage and the sample are named."""

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sk_e2cm._multi_exit._full_pass import FullPass
from sk_e2cm._multi_exit._heads import Head
from sk_e2cm._multi_exit._logits import DistanceLogits
from sk_e2cm._multi_exit._network import MultiExitNetwork

from .networks import LABELS, N_CLASSES, make_network, make_X

INF, NAN = np.inf, np.nan


def where(stage, rows):
    number = rf"{len(rows)} of \d+ samples \(the first is number {rows[0]} of its batch"
    return rf"stage '{stage}'.*{number}"


@pytest.mark.parametrize("ask", ["exits", "proba", "staged_proba"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_output_that_is_not_finite_names_its_stage_and_sample(ask, value):
    network, X = make_network(), make_X(10)
    X[[5, 6], 4] = value  # of the third stage
    with pytest.raises(ValueError, match=r"output of " + where("part3", [5, 6])):
        getattr(network, ask)(X, 1.5, batch_size=10)


def test_after_others_have_left_a_sample_is_named_by_the_same_number():
    network = make_network()
    X = make_X(64)
    stage, _ = network.exits(X, 0.9, batch_size=64)
    late = np.flatnonzero(stage == 3)
    assert 1 < len(late) < np.sum(stage >= 2) < 64
    X[late[1], 7] = NAN  # of the last stage
    message = rf"'part4'.*1 of {len(late)} samples \(the first is number {late[1]} of"
    with pytest.raises(ValueError, match=message):
        network.exits(X, 0.9, batch_size=64)


def test_a_sample_is_named_by_its_number_in_the_batch():
    X = make_X(64)
    X[50, 0] = NAN
    with pytest.raises(ValueError, match=where("part1", [2])):
        make_network().exits(X, 0.9, batch_size=16)


def test_one_sample_alone_is_named_too():
    X = make_X(1)
    X[0, 0] = NAN
    with pytest.raises(ValueError, match=where("part1", [0])):
        make_network().exits(X, 1.5, batch_size=1)


def test_what_is_not_finite_behind_a_closed_exit_is_found_where_it_is_asked():
    X = make_X(10)
    X[3, 0] = NAN
    with pytest.raises(ValueError, match=where("part3", [3])):
        make_network().exits(X, [INF, INF, 0.9], batch_size=10)


def make_network_with_squares():
    plain = make_network()
    means = torch.arange(4.0 * N_CLASSES).reshape(N_CLASSES, 4)
    heads = list(plain.heads)
    heads[1] = Head(heads[1].pooling, DistanceLogits(means, torch.ones(N_CLASSES)))
    return MultiExitNetwork(plain.extractor, heads, LABELS, plain.costs, "auto")


@pytest.mark.parametrize("batch_size", [1, 10])
def test_numbers_too_large_for_single_precision_are_squared_in_double(batch_size):
    network = make_network_with_squares()
    X = make_X(10, dtype=np.float32)
    expected = network.exits(X, 1.5, batch_size=batch_size)
    X[7, 3] = 1e30  # its square is no float32
    found = network.exits(X, 1.5, batch_size=batch_size)
    assert_array_equal(np.delete(found.label, 7), np.delete(expected.label, 7))
    full_pass = FullPass(
        network.extractor, pooling="auto", batch_size=10, memory=joblib.Memory(None)
    )
    (batch,) = full_pass(X)
    proba = network.proba_of_features(batch)
    assert np.isfinite(proba).all()
    staged = network.staged_proba(X, 1.5, batch_size=batch_size)
    assert_allclose(staged, proba.swapaxes(0, 1), atol=1e-5)
    # So far away all means are equally far.
    assert_allclose(proba[7, 1], 1 / N_CLASSES, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 10])
def test_nan_that_arises_in_a_head_names_its_stage(batch_size):
    network = make_network_with_squares()
    X = make_X(10, dtype=np.float64)
    X[7, 3] = 1e200  # its square is no float64 either
    number = 7 % batch_size
    message = r"head of " + where("part2", [number])
    for ask in (network.exits, network.proba, network.staged_proba):
        with pytest.raises(ValueError, match=message):
            ask(X, 1.5, batch_size=batch_size)
    full_pass = FullPass(
        network.extractor,
        pooling="auto",
        batch_size=batch_size,
        memory=joblib.Memory(None),
    )
    with pytest.raises(ValueError, match=message):
        [network.proba_of_features(batch) for batch in full_pass(X)]
