"""Progress bars."""

import sys

import pytest

from sk_e2cm._utils._progress import shown


@pytest.fixture
def plain(monkeypatch):
    """Do without tqdm."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)


def run(total, verbose=1):
    items = ["a" * 4, "b" * 4, "c" * 2]
    found = shown(items, total, verbose=verbose, what="fit", n_of=len)
    assert [*found] == items


def test_nothing_is_drawn_unless_asked_for(capsys):
    run(10, verbose=0)
    said = capsys.readouterr()
    assert said.out == said.err == ""


@pytest.mark.usefixtures("plain")
def test_without_tqdm_a_line_says_how_much_is_done_how_fast_and_how_long(capsys):
    run(10)
    said = capsys.readouterr().err
    assert said.endswith("\n")
    lines = said.split("\r")[1:]
    done = [line.split(": ")[1].split()[1] for line in lines]
    assert done == ["4", "8", "10"]
    for line in lines:
        assert line.startswith("[sk_e2cm] fit: ")
        assert "of 10 samples" in line
        assert "samples/s" in line
        assert "s left" in line
    assert "-" * 18 in lines[0]
    assert "#" * 30 in lines[2]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("total", [None, 0])
def test_where_nobody_knows_the_total_the_line_says_what_is_done(capsys, total):
    run(total)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("[sk_e2cm] fit: 10 samples, ")
    assert "left" not in last


@pytest.mark.usefixtures("plain")
def test_the_line_ends_where_an_error_ends_the_work(capsys):
    def items():
        yield "abc"
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        [*shown(items(), 10, verbose=1, what="fit", n_of=len)]
    assert capsys.readouterr().err.endswith("\n")


def test_with_tqdm_it_draws(capsys):
    pytest.importorskip("tqdm")
    run(10)
    said = capsys.readouterr().err
    assert "[sk_e2cm] fit: 100%" in said
    assert "10/10" in said
    assert "samples/s" in said
