"""What takes the place of files and folders."""

import pytest

from sk_e2cm._utils._files import replacing


def test_what_was_written_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with replacing(path) as written:
        written.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert [*tmp_path.iterdir()] == [path]


def test_an_interrupt_leaves_what_was_there_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def interrupted():
        with replacing(path) as written:
            written.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_is_there_once_it_is_full(tmp_path):
    with replacing(tmp_path / "folder") as written:
        written.mkdir()
        (written / "file").write_text("content")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "file").read_text() == "content"


def test_a_path_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with replacing((tmp_path / "file").relative_to(tmp_path)) as written:
        written.write_text("content")
    assert (tmp_path / "file").read_text() == "content"
