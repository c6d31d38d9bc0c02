"""Tables as spreadsheets of any country write them, and file names as people do."""

from __future__ import annotations

import pytest

from nca_gen.errors import UserError
from nca_gen.io import tables

KNOWN = {"filename": "filename", "file_name": "filename", "patient_id": "who"}
PLAIN = "filename,grade,note\na.png,1,Ü\nb.png,2,\n"


def table(path, data):
    file = path / "t.csv"
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return tables.rows(file, ("filename",), KNOWN)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_table_in_every_spelling(tmp_path, coding, delimiter, end):
    found = table(tmp_path, PLAIN.replace(",", delimiter).replace("\n", end).encode(coding))
    assert found == [
        (2, {"filename": "a.png", "grade": "1", "note": "Ü"}),
        (3, {"filename": "b.png", "grade": "2", "note": ""}),
    ]


def test_what_spreadsheets_add_changes_nothing(tmp_path):
    """A line that names the separator, blank lines and rows, blanks, empty cells behind, a column of row numbers."""
    text = '\nsep=;\n ; File-Name ;Patient ID; grade;;\n0; "a;b.png" ;P1 ;1;;\n;;;;;\n\n1;c.png\n'
    assert table(tmp_path, text.lstrip()) == [
        (3, {"filename": "a;b.png", "who": "P1", "grade": "1"}),
        (6, {"filename": "c.png", "who": "", "grade": ""}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'filename': it needs a column 'filename', and has none"),
        ("name,grade\n", r"no column 'filename': .* has \['name', 'grade'\]"),
        ("filename,grade,grade\n", "two columns that name 'grade'"),
        ("filename,file name\n", "two columns that name 'filename'"),
        ("filename,grade\na.png,1\nb.png,Smith, J,2\n", "line 3, has 4 cells, and the head has 2"),
    ],
)
def test_what_is_no_table_names_its_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        table(tmp_path, text)


FILES = ["a/1.png", "a/2.png", "b/1.png", "b/Zo\u00eb.PNG", "b/03.png", "c.x/1.nii.gz"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a/1.png", ["a/1.png"]),
        ("./a/1.png", ["a/1.png"]),
        (r"a\1.png", ["a/1.png"]),
        (" a/1.png ", ["a/1.png"]),
        ("A/1.PNG", ["a/1.png"]),
        ("a/1", ["a/1.png"]),
        ("b/Zoe\u0308.png", ["b/Zo\u00eb.PNG"]),
        ("zo\u00eb", ["b/Zo\u00eb.PNG"]),
        ("2.png", ["a/2.png"]),
        ("/mnt/set/a/2.png", ["a/2.png"]),
        (r"C:\set\a\2", ["a/2.png"]),
        ("03", ["b/03.png"]),
        ("1.png", ["a/1.png", "b/1.png"]),
        ("c.x/1", ["c.x/1.nii.gz"]),
        ("1.nii.gz", ["c.x/1.nii.gz"]),
        ("c/2.png", []),
        ("3", []),
        ("2.jpg", []),
        ("12.png", []),
        ("", []),
    ],
)
def test_a_name_means_one_file_or_is_not_guessed(given, found):
    assert tables.matched([given], FILES) == [found]


def test_the_nearer_spelling_wins():
    files = ["A.png", "a.png", "x/a.png"]
    found = tables.matched(["a.png", "A.png", "./a.png", "X/A.PNG"], files)
    assert found == [["a.png"], ["A.png"], ["a.png"], ["x/a.png"]]


def test_a_name_of_another_folder_is_not_guessed():
    """What stands before a whole path is that of all names, or they may be of other folders."""
    files = ["1.png", "2.png", "c/3.png"]
    assert tables.matched(["/set/1.png", "/set/2.png", "/set/c/3.png"], files) == [["1.png"], ["2.png"], ["c/3.png"]]
    assert tables.matched(["a/1.png", "b/2.png"], files) == [[], []]


def test_what_nobody_sees_changes_nothing(tmp_path):
    """Marks of no width in a name; Excel's first line in quotes or capitals."""
    assert tables.matched(["\u200ba.png", "b\ufeff.png"], ["a.png", "b.png"]) == [["a.png"], ["b.png"]]
    for first in ('"sep=;"', "SEP=;"):
        (tmp_path / "x.csv").write_text(f"{first}\nfilename;n\na.png;1\n")
        assert [row.cells for row in tables.rows(tmp_path / "x.csv", ("filename",))] == [
            {"filename": "a.png", "n": "1"}
        ]
