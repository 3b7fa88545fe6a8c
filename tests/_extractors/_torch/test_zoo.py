"""Real architectures, each left at four places that were chosen by their cost."""

import csv
import pickle

import numpy as np
import pytest
import torch

from sk_e2cm import TorchExtractor
from sk_e2cm._extractors._torch._trace import Trace

from .helpers import assert_right, halving
from .zoo import ENTRIES, TABLE, counted, deviations, evenly_cut, network

BY_NAME = {entry.name: entry for entry in ENTRIES}
QUANTIZED = BY_NAME["MLP, quantised"]

# Each of its layers rounds its input in steps of 1/255 of the range that the whole
# batch has, and the range changes when samples leave: half a step up and down for
# each of seven layers.
ROUNDING = {QUANTIZED: 7 / 255}


def params(entries):
    return [
        pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] * entry.slow)
        for entry in entries
    ]


@pytest.fixture(params=params(ENTRIES))
def entry(request):
    return request.param


def fractions(entry):
    macs = evenly_cut(entry).macs(entry.shape)
    return macs[:-1] / macs[-1]


def in_table():
    with TABLE.open(newline="") as file:
        return {line["network"]: line for line in csv.DictReader(file)}


def test_samples_differ_enough_for_a_mix_up_to_be_seen(entry):
    with torch.no_grad():
        output = network(entry)(entry.batch(5))
    apart = (output[:, None] - output).abs().amax(2)[~torch.eye(5, dtype=torch.bool)]
    assert apart.min() > 1e-3 * output.abs().max()


def test_stages_are_those_of_the_uncut_network(entry):
    exits = evenly_cut(entry).exits
    extractor = TorchExtractor(network(entry), exits, fold=False)
    full, dropped = deviations(extractor, network(entry), entry.batch(5))
    assert full <= 1e-5
    assert dropped <= ROUNDING.get(entry, 1e-5)


def test_folding_norms_is_but_rounding(entry):
    # The deepest networks are 1e-5 off what they are in double precision themselves.
    full, dropped = deviations(evenly_cut(entry), network(entry), entry.batch(5))
    assert full <= 3e-5
    assert dropped <= ROUNDING.get(entry, 1e-4)


# How torch loads its quantised tensors.
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_a_pickle_computes_the_same(entry):
    extractor, X = evenly_cut(entry), entry.batch(2)
    loaded = pickle.loads(pickle.dumps(extractor))
    assert loaded == extractor
    outputs = extractor.staged_transform(X)
    for output, value in zip(loaded.staged_transform(X), outputs, strict=True):
        assert torch.equal(output, value)


@pytest.mark.parametrize(
    "entry", params(entry for entry in ENTRIES if entry.library == "torchvision")
)
def test_multiply_adds_are_those_published(entry):
    macs = evenly_cut(entry).macs(entry.shape)[-1]
    assert macs / 1e9 == pytest.approx(entry.published, rel=0.02)


def test_chosen_names_make_the_same_extractor(entry):
    extractor = evenly_cut(entry)
    assert TorchExtractor(network(entry), extractor.exits) == extractor


def test_chosen_exits_divide_the_cost_evenly(entry):
    ideal = [0.2, 0.4, 0.6, 0.8]
    np.testing.assert_allclose(fractions(entry), ideal, atol=0.15)


def test_chosen_exits_do_not_lie_inside_what_is_computed_in_one_piece(entry):
    graph = Trace(network(entry)).graph
    leaves = {node.target for node in graph.nodes if node.op == "call_module"}
    for name in evenly_cut(entry).exits:
        around = f"network.{name}".split(".")[:-1]
        assert not leaves & {".".join(around[:i]) for i in range(len(around) + 1)}


def test_the_convolution_of_lite0_that_cannot_be_traced_is_one_piece():
    entry = BY_NAME["tf_efficientnet_lite0"]
    extractor = TorchExtractor(network(entry), ["conv_stem", "bn1"])
    assert_right(extractor, network(entry), entry.batch(5))


def test_what_rounds_by_the_batch_computes_the_same_in_the_same_company():
    layers, X = network(QUANTIZED), QUANTIZED.batch(5)
    extractor = evenly_cut(QUANTIZED)
    ends = [*(int(name) + 1 for name in extractor.exits), len(layers)]
    start, before, company = 0, np.arange(5), X
    for end, (rows, output) in zip(ends, halving(extractor, X), strict=True):
        company = layers[start:end](company[[[*before].index(row) for row in rows]])
        assert torch.equal(output, company)
        start, before = end, rows


def test_the_table_has_all_networks_by_name():
    names = [*in_table()]
    assert names == sorted(BY_NAME, key=str.lower)


def test_the_table_has_the_cost_that_is_counted_and_published(entry):
    line = in_table()[entry.name]
    assert line["G multiply-adds"] == counted(entry)
    assert line["G published"] == str(entry.published or "")


def test_no_stage_in_the_table_is_off_by_more_than_rounding(entry):
    line = in_table()[entry.name]
    assert int(line["cuts"]) >= 7
    assert float(line["deviation in full"]) <= 1e-5
    assert float(line["deviation with samples dropped"]) <= ROUNDING.get(entry, 1e-5)
