"""Which files belong to a set, what is told of the others, and what names their content."""

from __future__ import annotations

import hashlib
import os
import shutil

from nca_gen.io import walk


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_names_are_in_natural_order_of_any_case(tmp_path):
    put(tmp_path, "a.png", "b/10.PNG", "b/9.png", "z.zarr/0.png", "b/c/d/1.png")
    assert walk.walk(tmp_path, (".png",)).names == ["a.png", "b/9.png", "b/10.PNG", "b/c/d/1.png"]
    assert walk.below(tmp_path, (".png", ".zarr")) == ["a.png", "b/9.png", "b/10.PNG", "b/c/d/1.png", "z.zarr"]


def test_files_below_a_folder(tmp_path):
    put(tmp_path, "b/10.PNG", "b/9.png", "a.png", ".x/1.png", "b/.y.png", "c.txt", "z.zarr/0/1.png")
    assert walk.below(tmp_path, (".png",)) == ["a.png", "b/9.png", "b/10.PNG"]
    assert walk.below(tmp_path, (".zarr", ".txt")) == ["c.txt", "z.zarr"]


def test_what_might_be_meant_is_told(tmp_path):
    """Other endings, hidden files, files without an ending; not tables, words and what file managers leave."""
    put(tmp_path, *(f"{i}.dcm" for i in (10, 9, 2, 1)), "a.png", "._a.png", ".hid/b.png", "IM0001", "s.zarr/0")
    put(tmp_path, "labels.csv", "README", "notes.txt", "x/Thumbs.db", ".DS_Store")
    files = walk.walk(tmp_path, (".png",))
    assert files.names == ["a.png"]
    assert sorted(files.said[0].removeprefix("passed over: ").split("; ")) == [
        "1 hidden (._a.png)",
        "1 of *.zarr (s.zarr)",
        "1 without a suffix (IM0001)",
        "4 of *.dcm (1.dcm, 2.dcm, 9.dcm and 1 more)",
    ]
    assert walk.walk(put(tmp_path / "y", "a.png", "b.txt"), (".png",)).said == []


def test_links_are_followed_and_nothing_is_walked_twice(tmp_path):
    """A folder elsewhere, one that is there already, one above, a link in a linked folder; a link that leads nowhere
    is a file, of which its reader will complain."""
    put(tmp_path / "far", "1.png", "deep/2.png")
    put(tmp_path / "set", "real/0.png")
    for name, to in (("a", "far"), ("b", "set/real"), ("c", "set"), ("d.png", "nowhere"), ("e", "far/deep")):
        (tmp_path / "set" / name).symlink_to(tmp_path / to)
    (tmp_path / "far" / "again").symlink_to(tmp_path / "set")
    files = walk.walk(tmp_path / "set", (".png",))
    assert files.names == ["a/1.png", "a/deep/2.png", "d.png", "real/0.png"]
    there = "linked to a folder that is there"
    assert files.passed == [("a/again", there), ("b", there), ("c", there), ("e", there)]
    assert "4 linked to a folder that is there (a/again, b, c and 1 more)" in files.said[0]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/2.png")
    whole = walk.os.scandir

    def locked(path):
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(walk.os, "scandir", locked)
    files = walk.walk(tmp_path, (".png",))
    assert files == (["a/1.png"], [("b", "permission denied")])


def test_content_is_that_of_the_bytes(tmp_path, monkeypatch):
    """Not of the place; of a folder that of its files; of a large file some parts tell, the first and last among
    them."""
    put(tmp_path, "x/1.png", "x/s.zarr/0", "x/s.zarr/10", "x/s.zarr/9")
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    names = ("1.png", "s.zarr")
    keys = [walk.content(tmp_path / "x" / name) for name in names]
    assert keys == [walk.content(tmp_path / "y" / name) for name in names]
    assert keys[0] == hashlib.sha256(b"x/1.png").digest()
    (tmp_path / "y/s.zarr/9").write_bytes(b"!")
    assert walk.content(tmp_path / "y/s.zarr") != keys[1]
    monkeypatch.setattr(walk, "LARGE", 1000)
    monkeypatch.setattr(walk, "PART", 10)
    file = tmp_path / "large"
    file.write_bytes(bytes(2000))
    whole = walk.content(file)
    for changed, differs in ((0, True), (1999, True), (985, True), (15, False)):
        data = bytearray(2000)
        data[changed] = 1
        file.write_bytes(data)
        assert (walk.content(file) != whole) == differs
    file.write_bytes(bytes(2001))
    assert walk.content(file) != whole


def test_what_systems_leave_is_no_part_of_a_set(tmp_path):
    """Previews and waste that file servers and desktops put beside images; a pipe, which never ends."""
    put(tmp_path, "a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.png", "x/__MACOSX/a.png", "$RECYCLE.BIN/b.png")
    os.mkfifo(tmp_path / "c.png")
    files = walk.walk(tmp_path, (".png",))
    assert files.names == ["a.png"]
    assert sorted(files.said[0].removeprefix("passed over: ").split("; ")) == [
        "1 no file, but a pipe or a device (c.png)",
        "3 of the operating system ($RECYCLE.BIN, @eaDir, x/__MACOSX)",
    ]
