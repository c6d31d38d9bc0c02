"""Bars, tables and numbers by hand, with a clock that is set."""

import io

import numpy as np
import pytest

from nca_gen import screen


class Terminal(io.StringIO):
    """A terminal as wide as rich takes one to be."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(screen.time, "perf_counter", lambda: now[0])
    return now


def terminal(monkeypatch):
    """What is written to a terminal from here on; not a fixture, after which pytest sets its own again."""
    shown = Terminal()
    monkeypatch.setattr(screen.sys, "stdout", shown)
    monkeypatch.setenv("TERM", "xterm")
    return shown


def test_counts_and_times():
    numbers = (0, 7.25, 999, 999.6, 93_214, 1.07e9, -2500, 4e15)
    assert [screen.count(n) for n in numbers] == ["0", "7.25", "999", "1 k", "93.2 k", "1.07 G", "-2.5 k", "4e+03 T"]
    assert [screen.duration(s) for s in (1.25, 93, 150, 3600, 9000, 90000)] == [
        *("1.2 s", "93 s", "2.5 min", "60 min", "2.5 hours", "25 hours")
    ]
    assert screen.eta(7200, 2) == "1:00:00"
    assert screen.eta(1, 0) == "?"
    numbers = (330440, 1.0, 0.123456, 1.6e-3, np.float32(2.5), np.int64(3), float("nan"), None, True)
    assert [screen.number(n) for n in numbers] == [
        *("330,440", "1", "0.1235", "0.0016", "2.5", "3", "not finite", "n/a", "n/a")
    ]


def test_a_line_a_minute_where_there_is_no_terminal(clock, capsys):
    """After 59 seconds nothing was said; then what is done, how fast, and the time that is left."""
    for i in screen.track(range(100), "drawing", unit="images"):
        clock[0] += 59 if not i else 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "drawing  2/100  0.0328 images/s  ETA 0:49:49"
    assert len(lines) == 4  # 257 seconds


def test_who_is_quiet_says_nothing(clock, capsys):
    with screen.bar("x", 10, quiet=True) as one, screen.bar("y", 10, every=float("inf")) as other:
        for shown in (one, other, screen.SILENT):
            clock[0] += 1e4
            shown.advance()
    assert capsys.readouterr().out == ""


def test_a_bar_on_a_terminal_and_its_stretches(clock, monkeypatch):
    """What was done before a stretch counts for the bar and not for the speed."""
    seen = terminal(monkeypatch)
    with screen.bar("[level]", 1000, "pixels") as shown:
        shown.begin("[tiff]", 2000, done=1000)
        clock[0] += 2
        shown.advance(500)
    assert "[tiff]  1.5 k/2 k  250 pixels/s  ETA 0:00:02" in seen.getvalue()
    with screen.bar("other", 2) as shown:
        shown.reach(1, "a text of one's own")
    assert "a text of one's own" in seen.getvalue()


def test_a_table_is_read_in_columns(monkeypatch):
    columns, rows = ("name", "n", "score"), [("a", 12345, 0.123456), ("longer", None, "1 (2 %)")]
    assert screen.aligned(columns, rows) == [
        "name         n    score",
        "a       12,345   0.1235",
        "longer          1 (2 %)",
    ]
    assert screen.aligned([], rows) == ["a       12,345   0.1235", "longer          1 (2 %)"]
    assert screen.aligned([], []) == []
    assert screen.markdown(columns, rows) == [
        "| name   | n      | score   |",
        "| ------ | ------ | ------- |",
        "| a      | 12,345 | 0.1235  |",
        "| longer |        | 1 (2 %) |",
    ]
    seen = terminal(monkeypatch)
    screen.table(columns, [("[a]", 1, 2)], title="Scores")
    drawn = seen.getvalue()
    assert all(word in drawn for word in ("Scores", "name", "[a]", "│"))
    plain = io.StringIO()
    monkeypatch.setattr(screen.sys, "stdout", plain)
    screen.table(columns, rows, title="Scores")
    assert plain.getvalue().splitlines() == ["Scores", *screen.aligned(columns, rows)]
