"""What a field can be, read off its annotation; and that no field of any page takes what no run can have."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt, Len, MaxLen, MinLen, Predicate
from hypothesis import given
from hypothesis import strategies as st

from nca_gen import build, ranges
from nca_gen import config as configs
from nca_gen.errors import UserError
from nca_gen.evaluators import structure
from nca_gen.ranges import Count, OneOf, Seed, Share, SomeOf

ROOT = Path(__file__).resolve().parents[1]
WORDS = Annotated[str, OneOf({"plain": 1, "fast": 2})]
EITHER = Literal[0] | Annotated[float, Gt(1)]


@pytest.mark.parametrize(
    ("kind", "inside", "outside", "words"),
    [
        (Count, (1, 2**31 - 1), (0, -1, 2**31, 1.0, True, "1", None), "at least 1"),
        (Share, (0, 1.0, 0.5), (-1e-9, 1.1, math.nan, math.inf, False, "0"), "at least 0 and at most 1"),
        (Seed, (0, 2**32 - 1), (-1, 2**32), "at least 0 and less than 4294967296"),
        (float, (-3e38, 0), (math.inf, -math.inf, math.nan, 1e39, 10**40, "x"), ""),
        (bool, (True, False), (0, 1, "True"), ""),
        (WORDS, ("plain",), ("plane", "", 1, None), "one of plain, fast"),
        (
            Annotated[str, SomeOf(("a", "b"))],
            ("a", "b+a"),
            ("", "c", "a+", "a,b"),
            "one, or several joined by +, of a, b",
        ),
        (EITHER, (0, 0.0, 1.5), (1, 0.5, -1, False), "0, or more than 1"),
        (Literal[28, 64], (28, 64), (0, 32, True), "one of 28, 64"),
        (tuple[Count, ...], ((), (1, 2)), ((0,), (1, -1), 1, ("1",)), "each at least 1"),
        (tuple[float, float], ((0, 1.0),), ((1.0,), (1.0, 2.0, 3.0), (math.nan, 1.0)), ""),
        (Annotated[tuple[WORDS, ...], MinLen(1)], (("fast",),), ((), ("fst",)), "of length at least 1, each one of p"),
        (Annotated[tuple[int, ...], Len(3, 3)], ((1, 2, 3),), ((1, 2),), "of length 3"),
        (Annotated[tuple[Count, ...], MaxLen(0)], ((),), ((1,),), "empty"),
        (Annotated[str, MaxLen(2)], ("ab",), ("abc",), "of length at most 2"),
        (Sequence[str], (("a",),), (("a", 1), "a"), ""),
        (tuple[int, int] | None, (None, (1, 2)), ((1,), "None"), ""),
        (Annotated[int, Predicate(lambda n: n % 2 == 0)], (2,), (3,), ""),
        (Mapping[str, Any], ({"a": 1},), ((), "a"), ""),
        (Callable, (len, None), (), ""),  # of what no config states anything is taken
    ],
)
def test_what_fits_a_kind(kind, inside, outside, words):
    assert [value for value in inside if not ranges.fits(value, kind)] == []
    assert [value for value in outside if ranges.fits(value, kind)] == []
    assert ranges.span(kind).startswith(words)
    assert bool(ranges.span(kind)) == bool(words)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("2024", tuple[str, ...], ("2024",)),
        ("2024,0.10", tuple[str, ...], ("2024", "0.10")),
        ("('a', '1')", tuple[str, ...], ("a", "1")),
        ("('a=b, c',)", tuple[str, ...], ("a=b, c",)),
        ("", tuple[str, ...], ()),
        ("()", tuple[int, ...], ()),
        ("1e2,3", tuple[int, ...], (100, 3)),
        ("1", tuple[float, ...] | None, (1.0,)),
        ("None", tuple[float, ...] | None, None),
        ("3", float | Sequence[float] | None, 3.0),
        ("True", str | bool, True),
        ("horizontal", str | bool, "horizontal"),
        ("12", str | Path, "12"),
        ("-1", Literal[-1] | int, -1),
        ("5", Any, 5),
        ("fast", WORDS, "fast"),
    ],
)
def test_what_a_command_line_says(text, kind, value):
    assert (found := ranges.read(text, kind)) == value
    assert type(found) is type(value)


@given(st.text())
def test_words_are_read_as_they_are_written(text):
    assert ranges.read(text, str) == text
    assert ranges.read(f"{text},2024", tuple[str, ...])[-1] == "2024"


@pytest.mark.parametrize(
    ("value", "kind", "line"),
    [
        (0, Count, "config.x must be at least 1; got 0"),
        (math.nan, Share, "config.x must be at least 0 and at most 1; got nan"),
        (2**32, Seed, "config.x must be at least 0 and less than 4294967296; got 4294967296"),
        (10**20, Count, "config.x must be finite, and fit in 32 bits; got 100000000000000000000"),
        (math.inf, float, "config.x must be finite, and fit in 32 bits; got inf"),
        ("x", Count, "config.x is of type int, like 3; got 'x'"),
        ((1, "x"), tuple[int, ...], "config.x is of type tuple, like 3; got (1, 'x')"),
        ("fst", WORDS, "unknown value of config.x 'fst'; did you mean fast?"),
        (("fst",), tuple[WORDS, ...], "unknown value of config.x 'fst'; did you mean fast?"),
        ((1, 2), Annotated[tuple[int, ...], Len(3, 3)], "config.x must be of length 3; got (1, 2)"),
        ((1,), structure.Sides | structure.Whole, "config.x must be of length 2, each at least 1, or empty; got (1,)"),
    ],
)
def test_the_error_says_what_it_can_be(value, kind, line):
    with pytest.raises(UserError) as e:
        ranges.check("config.x", value, kind, 3)
    assert str(e.value) == line


def test_names_of_kinds():
    kinds = [Count, Share | None, tuple[Count, ...], Sequence[WORDS], Mapping[str, Any], EITHER]
    names = ["int", "float | None", "tuple[int, ...]", "Sequence[str]", "Mapping[str, Any]", "int | float"]
    assert [*map(ranges.name, kinds)] == names


# Every field of every section.

TEXTS = ("0", "-1", "nan", "1e999", "-1e999", "1e30", "1" + 20 * "0", "", "abc", "(),", "None", "true", "0,0", "1.5")
"""Values that a number, a word, a flag or a tuple cannot be; each is right for some."""
WHATEVER = {"path", "cache", "init", "weights", "label_maps", "image", "mask", "eye", "patient", "peer_python"}
WHATEVER |= {"features_peer", "against", "runs", "expansions", "labels", "names", "what", "name"}
WHATEVER |= {"real", "synthetic", "host", "like", "rivals"}
"""Names of files, folders, columns, classes and machines: only the disk, or the network, knows which there are."""
ANY = {"config.expand.split_seed", "config.data.split_seed", "config.codec.mean"}  # any number says something
ANY |= {"config.data.window"}  # two numbers, the lower first: told where they are read
ANY |= {"config.study.metrics"}  # which the verb reads before it samples


def named():
    """Every section with every name that it can have."""
    for section in (*build.NAMED, *build.FIXED):
        if section in build.NAMED:
            room, member = build.NAMED[section]
            folder = ROOT / "nca_gen" / room
            for file in sorted(folder.glob("*.py")):
                try:
                    build.named(room, member, file.stem)
                except (UserError, ModuleNotFoundError):
                    continue
                if not {"table", "records"} & {file.stem} or section != "data":  # of helpers
                    yield section, file.stem
        else:
            yield section, ""


FIELDS = [(section, name) for section, name in named()]


def bare(kind):
    """Whether a kind takes any number, or any word."""
    for type_, bounds in ranges.choices(kind):
        if any(bare(member) for member in ranges.members(type_) if member is not ...):
            return True
        if type_ in (int, float, str) and not bounds:
            return True
    return False


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_every_field_says_what_it_can_be(section, name):
    """A number has a range, a word is of a list; the default lies within."""
    for field, (default, kind) in build.known(section, name).items():
        path = f"config.{section}.{field}"
        assert kind is not Any, path
        assert default is ranges.EMPTY or ranges.fits(default, kind), path
        assert field in WHATEVER or path in ANY or not bare(kind), path


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_no_field_takes_what_no_run_can_have(section, name):
    """A line of an error, or what the field says that it can be; numbers are finite. Nothing else, whatever is said."""
    for field, (default, kind) in build.known(section, name).items():
        path, taken = f"config.{section}.{field}", []
        for text in TEXTS:
            with contextlib.suppress(UserError):
                value = configs._value(path, text, default, kind)
                ranges.check(path, value, kind, default)
                taken.append(value)
        for value in taken:
            for one in value if isinstance(value, tuple) else (value,):
                assert not isinstance(one, float) or math.isfinite(one), (path, value)
        assert field in WHATEVER or path in ANY or len(taken) < len(TEXTS) / 2, (path, taken)
