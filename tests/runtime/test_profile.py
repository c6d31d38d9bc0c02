"""Training with a trace, and with compiled programs that move with the workdir."""

import gzip
import json

import jax
import pytest
import toy

from nca_gen import sections
from nca_gen.errors import UserError
from nca_gen.runtime import ahead


def test_which_steps():
    assert [sections.span(asked) for asked in ("", "10:15", "3:3")] == [None, (10, 15), (3, 3)]
    for asked in ("10", "0:4", "5:3", "a:b", "-1:2"):
        with pytest.raises(UserError, match="no steps: write FIRST:LAST, such as 10:15"):
            sections.span(asked)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A run of 4 steps that traces two of them and keeps what it compiles; what jax's cache was before."""
    workdir = tmp_path_factory.mktemp("traced")
    former = jax.config.jax_compilation_cache_dir
    toy.run(workdir, **{"train.steps": 4, "train.profile": "2:3", "train.cache": "workdir"})
    return workdir, former


@pytest.mark.slow
def test_a_trace_opens_in_perfetto_and_names_our_steps(traced):
    """Its form is Chrome's: a list of events, of which those with a duration have a name and a time."""
    [path] = traced[0].glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = [event for event in events if event.get("name") == "train" and event["ph"] == "X"]
    assert [str(event["args"]["step_num"]) for event in steps] == ["2", "3"]
    assert all(event["dur"] > 0 for event in steps)
    assert any("jit_step" in str(event) or "PjitFunction(step)" in str(event) for event in events)
    [xprof] = traced[0].glob("profile/plugins/profile/*/*.xplane.pb")
    assert b"train" in xprof.read_bytes()
    spent = json.loads((traced[0] / "goodput.json").read_text())
    assert spent["steps"] == {"computed": 4, "lost": 0, "repeated": 0}


@pytest.mark.slow
def test_compiled_programs_move_with_the_workdir(traced, tmp_path):
    """The step is not compiled anew, and jax's own cache is what it was."""
    workdir, former = traced
    assert jax.config.jax_compilation_cache_dir == former
    moved = workdir.rename(tmp_path / "moved")
    programs = lambda: {path.name for path in (moved / "compiled").glob("jit_step-*")}
    before, hits = programs(), []
    assert len(before) == 1
    jax.clear_caches()
    jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
    toy.run(moved, **{"train.steps": 6, "train.cache": "workdir"})
    jax.monitoring.clear_event_listeners()
    assert programs() == before
    assert "/jax/compilation_cache/cache_hits" in hits


def test_without_a_folder_nothing_changes():
    former = jax.config.jax_compilation_cache_dir
    with ahead.cache(None):
        assert jax.config.jax_compilation_cache_dir == former
