"""The notebooks of colabs/: each runs from top to bottom on a CPU, without a file or a token, and shows pictures."""

import json
import re
import tomllib

import nbformat
import pytest
from notebooks import LIMIT, PAGES, ROOT, code, kernel, pictures, read, run, said

SYSTEMS = ("diff_nca", "fourier_diff_nca", "geca", "urcdm", "ca_ldm")
COLAB = "colab.research.google.com/github"

pages = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


@pytest.fixture(scope="module")
def manager():
    with kernel() as manager:
        yield manager


@pytest.mark.slow
@pages
def test_runs_from_top_to_bottom(page, tmp_path, manager):
    """In two minutes, and shows as many pictures as are stored."""
    notebook, took = run(page, tmp_path, manager)
    assert 0 < took < LIMIT
    assert len(pictures(notebook)) == len(pictures(read(page)))
    assert not re.search(r"^error:|Traceback", said(notebook), re.MULTILINE)


def test_one_for_each_system_and_task():
    assert {page.stem for page in PAGES} == {"00_tour", *SYSTEMS, "own_images", "metrics", "any_size"}


@pages
def test_is_stored_as_it_was_run(page):
    """With its pictures, small, in order, and without what names a machine."""
    notebook = read(page)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    assert pictures(notebook)
    assert max(map(len, pictures(notebook))) * 3 / 4 < 300_000
    assert not re.search(r"/(home|root|tmp|usr|opt|Users)/|error:|Traceback", json.dumps(notebook.cells))


@pages
def test_begins_alike(page):
    """A badge that opens it, and one cell that installs the package where it runs on Colab."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    link = f"{project['urls']['Repository'].replace('github.com', COLAB)}/blob/main/colabs/{page.name})"
    title, setup, *_ = read(page).cells
    assert link in title.source
    assert link in (ROOT / "README.md").read_text()
    assert f"git clone --quiet --depth 1 {project['urls']['Repository']}\n" in setup.source
    assert setup.source == read(PAGES[0]).cells[1].source
