"""What stands in texts is what the code and the measurements say."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(p for p in ROOT.rglob("*.md") if not {".venv", "runs"} & set(p.relative_to(ROOT).parts))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["results.py", "fields.py"])
def test_what_is_rendered_is_what_it_is_rendered_from(script, monkeypatch, capsys):
    """RESULTS.md, the tables of the README, the quotes of nca_gen/README.md; all fields in configs/README.md."""
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / ".github" / script), run_name="__main__")
    assert not done.value.code, "".join(capsys.readouterr())


def test_a_choice_of_types_has_one_order():
    """typing keeps the first of `int | float` and `float | int` that a process reads, and the page shows that one."""
    plain = r"(?:int|float|str|bool|bytes)"
    choice = re.compile(rf"\b{plain}(?: \| {plain})+\b")
    found = {text for path in (ROOT / "nca_gen").rglob("*.py") for text in choice.findall(path.read_text())}
    assert "int | float" in found
    assert len({frozenset(text.split(" | ")) for text in found}) == len(found)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_a_version_is_the_same_everywhere():
    from nca_gen import __version__

    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text()
