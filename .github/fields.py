"""Renders configs/README.md: every section of a config, every field with its type, default and range.

python .github/fields.py           writes it
python .github/fields.py --check   exits with 1 where it is not what the code says
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nca_gen import build, ranges  # noqa: E402  (of this checkout)
from nca_gen.judge import FIXED  # noqa: E402
from nca_gen.metrics.features import EXTRACTORS  # noqa: E402

PAGE = ROOT / "configs" / "README.md"
HEAD = """# Pages and their fields

A page is a Python file whose `get_config()` returns an `ml_collections.ConfigDict`; it states what differs from the
defaults below, which are the published values. Functions of a page with the argument `config` are its forms, written
after a colon, several with commas: `--config=configs/geca.py:dit,laptop`. `:smoke` is the form of seconds. Forms come
in the order of the page's `ORDER`, where it has one, and else as they are written. Any field is set on the command line
by its path, `--config.model.hidden=256`; another `name` of a section brings the fields of what it names. A name with a
dot is a module of yours, found on PYTHONPATH or in the current folder. Pages share what they have in common by
importing it from `configs/shared/`.

Words of a tuple are parted by commas, `--config.study.runs=runs/a,runs/b`; where one has a comma in it, they are
written as in Python, `--config.study.runs="('runs/a,b',)"`.

A value outside of its range is refused in one line before anything else is done. Numbers without an upper bound are
finite and fit in 32 bits; an empty range is any such number, or any text.

Two fields go with every data set: `patch`, the sides of what is cut out of an image (height, width) or a volume (depth,
height, width) for training, and `flips`, the axes that are mirrored at random ("all", "none", or some of "horizontal",
"vertical", "depth", joined by "+"; "dihedral" is all 8 views of a square patch). Several data sets have `path`, the
folder of the files; `strict`, which makes a file that cannot be read an error and not a warning; `memory_gb`, how much
may stay in memory; `cache`, where what was read once is stored; `split_seed`, any whole number, which draws the
patients of the splits; and `context_factor`, above 1 for a second field "context" of a batch: the surroundings of the
patch, so many times as wide, or where `square` says so those of a square of that side, of which the patch is a piece,
cut at the same place.

Every evaluator has `every`: it is asked in training every so many steps, and where this is 0, by `--mode=evaluate`
alone.

What a run was made with stands whole in its `config.json`. This page is written by `.github/fields.py`.
"""


def words(section: str, name: str) -> str:
    """The docstrings of what a section configures, as Markdown; of a name, first what its module is."""
    makes = build.makes(section, name) if name == "" else [build.entry(section, name)]  # the others are told once
    docs = [inspect.getdoc(make) or "" for make in makes]
    if name:
        docs = [(inspect.getmodule(build.entry(section, name)).__doc__ or "").split("\n\n")[0], *docs]
    return markdown("\n\n".join(docs))


def markdown(text: str) -> str:
    """A docstring as Markdown."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return text.replace("``", "`").replace("`nca_gen.", "`")


def rows(section: str, name: str = "") -> Iterator[str]:
    """A line of the table for each field of ``section``."""
    for field, (default, kind) in build.known(section, name).items():
        shown = "(to be stated)" if default is ranges.EMPTY else f"`{default!r}`"
        type_ = ranges.name(kind).replace("|", "\\|")
        yield f"| `{field}` | {type_} | {shown} | {ranges.span(kind)} |\n"


def table(title: str, section: str, name: str = "") -> str:
    """One section with one name: what it configures, what its fields mean, and their types, defaults and ranges."""
    body = "".join(rows(section, name))
    head = "| field | type | default | range |\n|---|---|---|---|\n" if body else ""
    return f"\n{title}\n\n{words(section, name)}\n\n{head}{body}"


def modules(section: str) -> list[str]:
    """The names that a section of the package can have."""
    room, member = build.NAMED[section]
    found = (m.name for m in iter_modules(import_module(f"nca_gen.{room}").__path__))
    return [
        name
        for name in found
        if getattr(vars(import_module(f"nca_gen.{room}.{name}")).get(member), "__module__", "").endswith(f".{name}")
    ]


def rendered() -> str:
    """The whole page."""
    text = HEAD
    for section in build.SECTIONS:
        if section == "seed":
            text += f"\n## config.seed\n\nWhat all randomness of a run begins with: `0`; {ranges.span(ranges.Seed)}.\n"
        elif section == "parts":
            text += (
                "\n## config.parts\n\nTrained parts that a task or a pipeline needs beside its own network, by name: "
                "a workdir, an exported\nfolder, or a file of published weights. They are frozen.\n"
            )
        elif section in build.NAMED:
            text += f"\n## config.{section}\n"
            for name in modules(section):
                text += table(f"### name = `{name}`", section, name)
        else:
            text += table(f"## config.{section}", section)
    return text + metrics()


def metrics() -> str:
    """The names that ``--metrics`` and ``metrics`` of an evaluator can have, and what each says of itself."""
    text = (
        "\n## Metrics\n\nOf `--metrics` and of `metrics` of an evaluator: `NAME[@EXTRACTOR][:OPTION=VALUE]...`. How "
        "each is measured stands beside\nits number. Extractors: "
        + ", ".join(f"`{name}`" for name in EXTRACTORS)
        + ".\n\n| name | features | of | better | range | needs at least | options | source |\n"
        + "|---|---|---|---|---|---|---|---|\n"
    )
    for name in (m.name for m in iter_modules(import_module("nca_gen.metrics").__path__)):
        module = import_module(f"nca_gen.metrics.{name}")
        if (about := vars(module).get("ABOUT")) is None:
            continue
        way = re.search(r"(lower|higher|near [01]) is better", about.protocol, re.IGNORECASE)
        fewest = ", ".join(f"{n} {role}" for role, n in about.least.items())
        given = (field for field in inspect.signature(module.score).parameters if field not in FIXED)
        cells = [f"`{name}`", f"`{about.extracts or about.features}`" if about.extracts or about.features else ""]
        cells += [", ".join(about.kinds), way[1].lower(), about.range, fewest, ", ".join(f"`{f}`" for f in given)]
        text += f"| {' | '.join([*cells, about.reference])} |\n"
    return text


def main(check: bool) -> int:
    """Writes the page, or with ``check`` compares it with what is there."""
    text = rendered()
    stale = not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text
    if stale:
        print(f"configs/README.md {'is not what the code says: python .github/fields.py' if check else 'is written'}")
    if stale and not check:
        PAGE.write_text(text, encoding="utf-8")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
