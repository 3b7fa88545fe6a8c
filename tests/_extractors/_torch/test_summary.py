"""The table that TorchExtractor.summary() prints."""

import copy
import re

import pytest
import torch
from torch import nn

from sk_e2cm import TorchExtractor

from .networks import Plain, ReturnsWhatTheyAre, chain, conv_chain, token_network

LINE = re.compile(r"(\S+) +(\w+) +(\(.*\)|no tensor) +([\d,]+) +(\d\.\d{3})")


def printed(capsys, extractor, *args, **options):
    """Return what summary() prints: the header and the fields of each line."""
    capsys.readouterr()
    assert extractor.summary(*args, **options) is None
    header, start, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"input +\(1, .*\) +0  0\.000", start)
    return header, [LINE.fullmatch(line).groups() for line in lines]


def shapes_of_one_sample(network, names, X):
    """Return the shapes of what the named modules return, seen by hooks."""
    network = copy.deepcopy(network).eval()
    seen = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: tuple(output.shape)})
        )
    with torch.no_grad():
        network(X)
    return [str(seen[name]) for name in names]


@pytest.mark.parametrize(
    ("make", "exits", "X"),
    [
        (chain, ["0", "3"], torch.zeros(1, 4)),
        (conv_chain, ["0", "2", "3"], torch.zeros(1, 3, 8, 8)),
        (token_network, ["0", "2"], torch.zeros(1, 5, dtype=torch.int64)),
        (Plain, ["first", "second"], torch.zeros(1, 4)),
    ],
)
def test_each_stage_has_a_line(capsys, make, exits, X):
    network = make()
    extractor = TorchExtractor(network, exits)
    shape = tuple(X.shape[1:])
    header, lines = printed(capsys, extractor, shape)
    names, modules, shapes, macs, shares = zip(*lines, strict=True)
    assert header.split("  ")[0] == "stage"
    assert names == (*exits, "output")
    ends = [network.get_submodule(name) for name in (*exits, "")]
    assert [*modules] == [type(end).__name__ for end in ends]
    assert [*shapes] == shapes_of_one_sample(network, [*exits, ""], X)
    expected = extractor.macs(shape)
    assert [int(n.replace(",", "")) for n in macs] == expected.tolist()
    for share, whole in zip(shares, expected / expected[-1], strict=True):
        assert float(share) == pytest.approx(whole, abs=5e-4)


def test_a_large_network_has_a_line_for_each_stage(capsys, large):
    extractor = TorchExtractor(large, 3, input_shape=(3, 64, 64))
    _, lines = printed(capsys, extractor)
    shapes = [line[2] for line in lines]
    names = [*extractor.exits, ""]
    assert shapes == shapes_of_one_sample(large, names, torch.zeros(1, 3, 64, 64))
    assert [line[0] for line in lines] == [*extractor.exits, "output"]


def test_columns_are_aligned(capsys):
    TorchExtractor(conv_chain(), ["0", "2"]).summary((3, 8, 8))
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert all(line == line.rstrip() for line in lines)


def test_the_shape_that_the_extractor_was_made_with_is_the_default(capsys):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    extractor = TorchExtractor(network, ["1"], input_shape=(3, 10, 12))
    _, lines = printed(capsys, extractor)
    assert [line[2] for line in lines] == ["(1, 4, 8, 10)", "(1, 2, 6, 8)"]
    _, lines = printed(capsys, extractor, (3, 6, 6))
    assert [line[2] for line in lines] == ["(1, 4, 4, 4)", "(1, 2, 2, 2)"]


def test_without_any_shape_one_that_the_network_takes_is_found(capsys):
    _, lines = printed(capsys, TorchExtractor(chain(), ["0"]))
    assert [line[2] for line in lines] == ["(1, 8)", "(1, 3)"]


def test_where_no_shape_is_found_input_shape_is_asked_for():
    network = nn.Sequential(nn.Unflatten(1, (2, 5)), nn.Linear(5, 5), nn.Linear(5, 2))
    extractor = TorchExtractor(network, ["1"])
    with pytest.raises(ValueError, match="pass input_shape="):
        extractor.summary()


def test_output_names_the_last_line_and_what_comes_after_it_is_left_out(capsys):
    extractor = TorchExtractor(chain(), ["0"], output="2")
    _, lines = printed(capsys, extractor, (4,))
    assert [line[0] for line in lines] == ["0", "2"]
    assert lines[-1] == ("2", "Linear", "(1, 8)", "96", "1.000")


def test_output_may_lie_inside_a_network_that_returns_a_container(capsys):
    extractor = TorchExtractor(ReturnsWhatTheyAre(dict), [], output="linear")
    _, lines = printed(capsys, extractor, (4,))
    assert lines == [("linear", "Linear", "(1, 4)", "16", "1.000")]


def test_a_network_without_multiply_adds_has_no_share(capsys):
    extractor = TorchExtractor(nn.Sequential(nn.ReLU(), nn.Tanh()), ["0"])
    _, lines = printed(capsys, extractor, (4,))
    assert [line[3:] for line in lines] == [("0", "0.000"), ("0", "0.000")]


def test_thousands_are_set_apart(capsys):
    extractor = TorchExtractor(nn.Sequential(nn.Linear(2000, 1000), nn.ReLU()), ["0"])
    _, lines = printed(capsys, extractor, (2000,))
    assert lines[0][3] == "2,000,000"


@pytest.mark.parametrize("shape", [(5,), (3, 8)])
def test_a_shape_that_the_network_does_not_take_is_refused(shape):
    extractor = TorchExtractor(chain(), ["0"])
    with pytest.raises(ValueError, match=r"shape \(" + str(shape[0])):
        extractor.summary(shape)


def test_a_summary_changes_nothing(capsys):
    extractor = TorchExtractor(chain(), ["0"])
    before = extractor.fingerprint
    printed(capsys, extractor, (4,))
    assert extractor.fingerprint == before
    assert extractor.macs((4,)).tolist() == [32, 120]


def test_a_number_is_no_shape():
    with pytest.raises(TypeError, match="input_shape must be a tuple"):
        TorchExtractor(chain(), ["0"]).summary(4)
