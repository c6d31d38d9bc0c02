"""What metrics on features have in common: notes, and what they do with sets that cannot be scored."""

from __future__ import annotations

import re
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest
from feature_sets import features

from nca_gen import build, metrics
from nca_gen.errors import UserError
from nca_gen.metrics import (
    authpct,
    cmmd,
    copying,
    density_coverage,
    fid,
    fld,
    inception_score,
    kid,
    notes,
    precision_recall,
    vendi,
)

MODULES = [authpct, cmmd, copying, density_coverage, fid, fld, inception_score, kid, precision_recall, vendi]
ALL = [
    module.name
    for module in iter_modules(metrics.__path__)
    if "ABOUT" in vars(import_module(f"nca_gen.metrics.{module.name}"))
]


def name(module):
    return module.__name__.rsplit(".", 1)[1]


def test_notes_go_to_the_nearest_collector_once():
    with notes.collecting() as outer:
        notes.note("a")
        with notes.collecting() as inner:
            notes.note("b")
            notes.note("b")
        notes.note("c")
    assert (outer, inner) == (["a", "c"], ["b"])


def test_a_note_that_nobody_collects_is_a_warning():
    with pytest.raises(RuntimeError, match="stop"), notes.collecting():
        raise RuntimeError("stop")
    with pytest.warns(UserWarning, match="beside the number"):
        notes.note("beside the number")


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_module_says_what_it_measures_and_reads(module):
    assert any(f"{word} is better" in module.ABOUT.protocol for word in ("Lower", "Higher", "Near 0"))
    assert ":" in module.ABOUT.features
    assert {"real", "train"} >= module.ABOUT.reads


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_scores_bear_the_name_and_read_what_they_say(module):
    """The headline under the metric's name, finite numbers, and None for what is not read."""
    sets = {"real": features(1, 60, 8), "train": features(2, 60, 8)}
    known = {k: v if k in module.ABOUT.reads else None for k, v in sets.items()}
    with notes.collecting():
        scores = module.score(features(0, 60, 8), known["real"], known["train"], 0)
    assert name(module) in scores
    assert all(key.startswith(name(module)) and np.isfinite(value) for key, value in scores.items())


@pytest.mark.parametrize("damaged", ["generated", "real", "train"])
@pytest.mark.parametrize("module", MODULES, ids=name)
def test_features_that_are_not_finite_are_an_error(module, damaged):
    sets = {"generated": features(0, 40, 8), "real": features(1, 40, 8), "train": features(2, 40, 8)}
    sets[damaged][[3, 7], 5] = np.nan, np.inf
    if damaged == "generated" or damaged in module.ABOUT.reads:
        with pytest.raises(UserError, match=rf"{name(module)}: the features of 2 of 40 {damaged} images are NaN"):
            module.score(*sets.values(), 0)


@pytest.mark.parametrize("empty", ["generated", "real", "train"])
@pytest.mark.parametrize("module", MODULES, ids=name)
def test_an_empty_set_is_an_error(module, empty):
    sets = {"generated": features(0, 40, 8), "real": features(1, 40, 8), "train": features(2, 40, 8)}
    sets[empty] = sets[empty][:0]
    if empty == "generated" or empty in module.ABOUT.reads:
        with pytest.raises(UserError, match=rf"{name(module)} needs at least \d+ {empty} images? but got 0"):
            module.score(*sets.values(), 0)


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_fewer_images_than_a_metric_needs(module):
    """As many as it says are enough; one less of any of its sets is an error."""
    least = module.ABOUT.least
    roles = [role for role in ("generated", "real", "train") if role == "generated" or role in module.ABOUT.reads]
    enough = {role: features(i, least.get(role, 1), 8) for i, role in enumerate(roles)}

    def score(**sets):
        return module.score(sets["generated"], sets.get("real"), sets.get("train"), 0)

    with notes.collecting():
        assert np.isfinite(score(**enough)[name(module)])
        for role in roles:
            with pytest.raises(UserError, match=f"at least {least.get(role, 1)} "):
                score(**enough | {role: enough[role][1:]})


@pytest.mark.parametrize("metric", ALL)
def test_every_metric_says_whose_it_is_its_range_and_direction(metric):
    about = build.metric(metric).ABOUT
    assert re.search(r"(lower|higher|near 1|near 0) is better", about.protocol, re.IGNORECASE)
    assert "source" not in about.reference.lower()
    assert about.reference
    assert about.range
    assert set(about.least) <= {"generated"} | about.reads
    assert about.terms.startswith(about.protocol)
