"""Networks with exits, stored, copied and moved."""

import copy
import pickle

import joblib
import pytest
import torch
from numpy.testing import assert_array_equal

from sk_e2cm._multi_exit._network import MultiExitNetwork

from .networks import EXTRACTORS, LABELS, N_CLASSES, Movable, answers, make_network


def assert_same_answers(one, other):
    for a, b in zip(answers(one), answers(other), strict=True):
        assert_array_equal(a, b)


def through_pickle(network, _):
    return pickle.loads(pickle.dumps(network))


def through_joblib(network, path):
    joblib.dump(network, path / "network")
    return joblib.load(path / "network")


def through_memory_map(network, path):
    joblib.dump(network, path / "network")
    return joblib.load(path / "network", mmap_mode="r")


def through_deepcopy(network, _):
    return copy.deepcopy(network)


@pytest.mark.parametrize("make", EXTRACTORS.values(), ids=EXTRACTORS)
@pytest.mark.parametrize(
    "through",
    [through_pickle, through_joblib, through_memory_map, through_deepcopy],
    ids=["pickle", "joblib", "memory map", "deepcopy"],
)
def test_a_copy_gives_the_same_answers(make, through, tmp_path):
    network = make_network(make())
    expected = answers(network)
    other = through(network, tmp_path)
    assert_same_answers(network, other)
    assert_array_equal(other.labels, LABELS)
    assert other.pooling == "auto"
    assert_array_equal(other.stage_cost(0.5), network.stage_cost(0.5))
    # The weights are the copy's own.
    for head in other.heads:
        head.logits.bias += 100.0 * torch.arange(N_CLASSES)
    for found, before in zip(answers(network), expected, strict=True):
        assert_array_equal(found, before)


@pytest.mark.parametrize("make", EXTRACTORS.values(), ids=EXTRACTORS)
def test_equal_networks_have_equal_pickles(make):
    # Those of torch itself differ.
    one, other = make_network(make()), make_network(make())
    assert pickle.dumps(one) == pickle.dumps(other)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_network_that_is_there_already_is_itself(device):
    network = make_network(Movable())
    assert network.to(device) is network


def test_without_a_device_a_network_stays_where_it_is():
    network = make_network()
    assert network.to(None) is network
    with pytest.raises(ValueError, match=r"device='cpu'.*ToyExtractor"):
        network.to("cpu")


def test_on_another_device_are_extractor_and_heads_of_a_copy_made_once():
    network = make_network(Movable())
    there = network.to("meta")
    assert there.extractor.device.type == "meta"
    assert network.to(torch.device("meta")) is there
    assert there.to("meta") is there
    for here, moved in zip(network.heads, there.heads, strict=True):
        assert here.logits.weight.device.type == "cpu"
        assert {t.device.type for t in moved.buffers()} == {"meta"}
    assert_same_answers(network, make_network(Movable()))


def test_heads_are_put_on_the_device_of_the_extractor():
    plain = make_network(Movable())
    heads = copy.deepcopy(plain.heads)
    network = MultiExitNetwork(Movable("meta"), heads, LABELS, plain.costs, "auto")
    for head in network.heads:
        assert {t.device.type for t in head.buffers()} == {"meta"}
