"""The search of a grid: it finds what is known to be best, and a run uses what was found by its name."""

import json

import numpy as np
import pytest
import tiny

from nca_gen import build
from nca_gen.contracts import Part
from nca_gen.errors import UserError
from nca_gen.evaluators import grid
from nca_gen.evaluators.held import Held
from nca_gen.io import write
from nca_gen.report import files
from nca_gen.runtime import run


@pytest.mark.parametrize(
    ("start", "best", "off"),
    [
        (np.array([299, 298, 297, 0, -1]), np.array([299, 200, 90, 20, -1]), 4),
        (np.array([1.0, 0.9, 0.1, 0.0]), np.array([1.0, 0.55, 0.35, 0.0]), 0.05),
    ],
    ids=["discrete", "continuous"],
)
def test_what_is_best_is_found(start, best, off):
    """The least of a sum of squares, nearly; both ends stay, times fall, and every trial told is better."""
    far = lambda times: float(np.sum((times - best) ** 2))
    times, course = grid.searched(far, start)
    assert np.abs(times - best).max() <= off
    assert (times[0], times[-1], times.dtype) == (start[0], start[-1], start.dtype)
    assert (np.diff(times) < 0).all()
    assert (np.diff([y for _, y in course]) < 0).all()
    assert course[-1][1] == far(times)


def config(**changes):
    return tiny.config(**{"sample.sampler": "ddim", "held.n": 2, "held.train": 2} | changes)


@pytest.mark.slow
def test_a_search_is_no_worse_than_its_start_and_is_used_by_name(tmp_path):
    """On a page of a run: scores of what is known and of what was found, whose times its config has from then on."""
    c = config()
    part = Part(run.frozen(c), build.task(c), tiny.params(build.task(c).model), 4)
    data = Held(part.config, part.task, tiny.splits())
    page = grid.evaluate(
        build.pipeline(c, {"model": part}), data, tmp_path, calls=(2, 3), n=2, reference=6, metrics=("drift",)
    )
    (_, pair), (name, found) = page.facts["grids"].items()
    assert name == "searched_3"
    assert all(course[-1][1] <= course[0][1] for course in page.curves.values())
    assert [row["grid"] for row in page.facts["rows"]] == ["uniform", "karras", pair, "uniform", "karras", found]
    place = run.evaluation(tmp_path, 4)
    place.mkdir(parents=True)
    write.facts(place / "grid.json", files.written(page))
    used = run.searched(config(**{"sample.grid": name}), tmp_path).sample
    assert (used.grid, used.steps) == (found, 3)


def test_the_newest_page_counts_and_a_name_that_there_is_not_is_said(tmp_path):
    for step, times in ((4, "11+5"), (12, "11+3"), (20, None)):
        place = run.evaluation(tmp_path, step)
        place.mkdir(parents=True)
        (place / "grid.json").write_text(json.dumps({"grids": {"searched_2": times}} if times else {"title": "Other"}))
    assert run.searched(config(**{"sample.grid": "searched_2"}), tmp_path).sample.grid == "11+3"
    assert run.searched(config(**{"sample.grid": "karras"}), tmp_path).sample.grid == "karras"
    with pytest.raises(UserError, match=r"no such grid; search it by .*calls=5"):
        run.searched(config(**{"sample.grid": "searched_5"}), tmp_path)


def test_nothing_is_searched_unasked(tmp_path):
    c = config()
    part = Part(run.frozen(c), build.task(c), None)
    assert not files.contains(
        grid.evaluate(build.pipeline(c, {"model": part}), Held(c, part.task, tiny.splits()), tmp_path)
    )
