"""Progress bars."""

import pytest

from sk_e2cm._utils._progress import PlainBar, shown


def run(total, verbose=1):
    items = ["a" * 4, "b" * 4, "c" * 2]
    found = shown(items, total, verbose=verbose, what="fit", n_of=len)
    assert [*found] == items


def test_nothing_is_drawn_unless_asked_for(capsys):
    run(10, verbose=0)
    said = capsys.readouterr()
    assert said.out == said.err == ""


@pytest.mark.usefixtures("plain_bars")
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
    assert "#" * 8 + "-" * 12 in lines[0]
    assert "#" * 20 in lines[2]


@pytest.mark.usefixtures("plain_bars")
@pytest.mark.parametrize("total", [None, 0])
def test_where_nobody_knows_the_total_the_line_says_what_is_done(capsys, total):
    run(total)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("[sk_e2cm] fit: 10 samples, ")
    assert "left" not in last


@pytest.mark.usefixtures("plain_bars")
def test_the_line_ends_where_an_error_ends_the_work(capsys):
    def items():
        yield "abc"
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        [*shown(items(), 10, verbose=1, what="fit", n_of=len)]
    assert capsys.readouterr().err.endswith("\n")


@pytest.mark.usefixtures("plain_bars")
def test_the_line_is_narrower_than_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run(10)
    lines = capsys.readouterr().err.rstrip("\n").split("\r")[1:]
    assert [len(line) for line in lines] == [39] * 3


def test_it_draws_a_few_times_a_second_and_the_end(capsys):
    bar = PlainBar(1000, "fit", "samples")
    for _ in range(1000):
        bar.update(1)
    bar.close()
    said = capsys.readouterr().err
    assert said.count("\r") < 100
    assert "1000 of 1000" in said


def test_what_was_never_drawn_leaves_no_line(capsys):
    PlainBar(10, "fit", "samples").close()
    assert capsys.readouterr().err == ""


def test_with_tqdm_it_draws(capsys):
    pytest.importorskip("tqdm")
    run(10)
    said = capsys.readouterr().err
    assert "[sk_e2cm] fit: 100%" in said
    assert "10/10" in said
    assert "samples/s" in said
