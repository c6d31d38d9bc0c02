"""Renders the measurements in .github/results/*.json into .github/RESULTS.md, plots of launch/ and the README, and the
files that nca_gen/README.md quotes.

python .github/results.py           writes all
python .github/results.py --check   exits with 1 where a file is not what its measurements say

A measurement is one JSON file: title, note, command, commit, machine, date, columns, rows (numbers or words), and
perhaps plot {of, over}: one column over each of others, by the names in the first, as launch/NAME.svg. In the README a
table stands between `<!-- results:NAME -->` and `<!-- end -->`, in nca_gen/README.md a file between
`<!-- file:PATH -->` and the same; what lies between them is written anew.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nca_gen.report import curves  # noqa: E402  (of this checkout)

FIELDS = ("title", "note", "command", "commit", "machine", "date", "columns", "rows")
BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
QUOTE = re.compile(r"(<!-- file:(\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = """# Results

Every number here was measured: by the command, at the commit, on the machine and the day that stand below it. Written
by `.github/results.py` from `.github/results/`; flags are spelt as they were at that commit.
"""
STYLE = (
    "<style>text { font: 11px system-ui, sans-serif; fill: #8a8292; } .rule { stroke: #8a829255; fill: none; }"
    " circle { fill: #8f63c9; }</style>"
)


def measurement(path: Path) -> dict[str, Any]:
    """Reads one measurement. Raises ValueError where a field is missing or a row has another number of cells."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if missing := [name for name in FIELDS if name not in found]:
        raise ValueError(f"{path} has no {missing[0]}")
    if any(len(row) != len(found["columns"]) for row in found["rows"]):
        raise ValueError(f"{path} has a row that is not as long as its columns")
    return found


def table(found: dict[str, Any]) -> str:
    """Renders the rows of a measurement as Markdown."""
    lines = [found["columns"], ["---"] * len(found["columns"]), *found["rows"]]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def section(name: str, found: dict[str, Any]) -> str:
    """Renders a measurement with all that must be known of it."""
    note = f"{found['note']}\n\n" if found["note"] else ""
    picture = f"\n![{found['title']}](../launch/{name}.svg)\n" if "plot" in found else ""
    where = f"{found['machine']}, {found['date']}, commit {found['commit']}."
    return f"\n## {found['title']}\n\n{note}{table(found)}{picture}\n{where}\n\n```bash\n{found['command']}\n```\n"


def plot(found: dict[str, Any]) -> str:
    """Draws one column of a measurement over others, side by side, in colours that serve on light and dark pages."""
    at = lambda name: [number(row[found["columns"].index(name)]) for row in found["rows"]]
    names, of = [row[0] for row in found["rows"]], found["plot"]["of"]
    panels = []
    for i, over in enumerate(found["plot"]["over"]):
        drawn = curves.scatter(list(zip(at(over), at(of), names, strict=True)), f"{of} over {over}", log=True)
        placed = drawn.replace(
            "<svg ", f'<svg x="{i * curves.WIDTH}" y="20" width="{curves.WIDTH}" height="{curves.HEIGHT}" ', 1
        )
        panels.append(f'<text x="{i * curves.WIDTH + curves.LEFT}" y="14">{of} over {over}</text>{placed}')
    width, height = len(panels) * curves.WIDTH, curves.HEIGHT + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"{STYLE}{''.join(panels)}</svg>\n"
    ).replace("><", ">\n<")


def number(cell: str | float) -> float:
    """Reads what a cell says, "99.0 ± 2.6" as 99. Raises ValueError for words."""
    return float(str(cell).partition("±")[0].replace(",", ""))


def rendered(root: Path = ROOT) -> dict[Path, str]:
    """Renders RESULTS.md, its plots, the README and that of the house, by their paths."""
    known = {path.stem: measurement(path) for path in sorted((root / ".github" / "results").glob("*.json"))}
    readme = root / "README.md"
    text = BLOCK.sub(lambda block: block[1] + table(known[block[2]]) + block[3], readme.read_text(encoding="utf-8"))
    house = root / "nca_gen" / "README.md"
    return {
        root / ".github" / "RESULTS.md": HEAD + "".join(section(name, found) for name, found in known.items()),
        **{root / "launch" / f"{name}.svg": plot(found) for name, found in known.items() if "plot" in found},
        readme: text,
        house: QUOTE.sub(
            lambda block: f"{block[1]}```python\n{(root / block[2]).read_text(encoding='utf-8')}```\n{block[3]}",
            house.read_text(encoding="utf-8"),
        ),
    }


def main(check: bool) -> int:
    """Writes what is rendered, or with ``check`` compares it with what is there."""
    stale = [
        path for path, text in rendered().items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is not what its measurements say' if check else 'is written'}")
        if not check:
            path.write_text(rendered()[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
