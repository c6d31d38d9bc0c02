"""Whole or not at all: what a reader sees while a file is written, and after it failed."""

import errno
import json
import math
from pathlib import Path

import numpy as np
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


def test_json_is_what_every_reader_takes():
    """RFC 8259 has no NaN and no infinity; numpy's numbers are numbers; the rest is as the library has it."""
    value = {"a": (1, math.nan), "b": [np.float32(0.5), np.int64(3), -np.inf], "c": {"d": True, "e": None, "f": "NaN"}}
    assert write.notation(value) == '{"a": [1, null], "b": [0.5, 3, null], "c": {"d": true, "e": null, "f": "NaN"}}'
    assert write.notation({"b": 1, "a": 2}, sort_keys=True) == '{"a": 2, "b": 1}'
    with pytest.raises(TypeError):
        write.notation({"a": object()})


def test_there_is_one_writer_of_json():
    """All else would write NaN, which jq, JavaScript and databases refuse. (The report shows a config on its page.)"""
    package = Path(write.__file__).parents[1]
    writers = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if "json.dump" in path.read_text()
    }
    assert writers == {"io/write.py", "report/report.py"}


def test_facts_come_back(tmp_path):
    write.facts(tmp_path / "a.json", {"x": [1.5, math.inf]})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {"x": [1.5, None]}
