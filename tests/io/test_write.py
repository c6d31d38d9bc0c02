"""Whole or not at all: what a reader sees while a file is written, and after it failed."""

import errno

import pytest

from nca_gen.errors import UserError
from nca_gen.io import write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.npz"
    write.text(path, "old")
    with write.whole(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
        assert draft.suffix == ".npz"  # writers that go by it
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_was_stopped_leaves_nothing(tmp_path, error):
    path = tmp_path / "a.json"
    write.data(path, b"old")

    def stopped():
        with write.whole(path) as draft:
            draft.write_bytes(b"half of")
            raise error

    with pytest.raises(error):
        stopped()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_a_full_disk_is_one_line(tmp_path):
    def full():
        with write.whole(tmp_path / "a") as draft:
            draft.write_bytes(b"half of")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*/a: No space left on device; free space, or choose another"):
        full()
    assert names(tmp_path) == []
    with pytest.raises(UserError, match=r"cannot write .*/none/a: No such file or directory"):
        write.text(tmp_path / "none" / "a", "text")


def test_what_is_no_unicode_is_a_question_mark(tmp_path):
    write.text(tmp_path / "a", "é \udcff")
    assert (tmp_path / "a").read_bytes() == "é ?".encode()
