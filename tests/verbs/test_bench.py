"""--mode=bench with workers whose times are known."""

import json
import sys
from pathlib import Path

import pytest
import tiny

from nca_gen import build
from nca_gen.errors import UserError
from nca_gen.sections import Bench
from nca_gen.verbs import bench_parts as parts
from nca_gen.verbs import bench_tables, bench_worker
from nca_gen.verbs.bench import bench
from nca_gen.verbs.bench_harness import Worker, in_turns, measure

WORKER = """
import json, sys, time
name, seconds, log = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
for line, s in zip(sys.stdin, seconds):
    open(log, "a").write(name)
    print(json.dumps({"seconds": s, "cpu_seconds": 3 * s, "memory_mb": 10 * s, "images": 4}), flush=True)
"""
PEER = {"script": __file__, "fields": ("channels", "hidden")}  # any file
PLAN = Bench(batch=2, peer=PEER)


def worker(name, seconds, log):
    return Worker([sys.executable, "-c", WORKER, name, json.dumps(seconds), str(log)])


def config(**changes):
    c = tiny.config(**{"model.norm": "group", "sample.large": (32, 40), "data.patch": (16, 16)} | changes)
    return build.completed(c)


def test_the_median_after_the_warm_up_in_turns(tmp_path):
    log = tmp_path / "order"  # of the second processes: the first are asked once, for the memory of compiling
    cases = {"a": worker("a", [99, 1, 5, 2], log), "b": worker("b", [50, 4, 4, 8], log)}
    a, b = measure(cases, 3)
    assert log.read_text() == "ab" + "abababab"
    both = {"images": 4}
    assert a == both | {
        "name": "a",
        "seconds": 2,
        "cpu_seconds": 6,
        "memory_mb": 20,
        "first_mb": 990,
        "images_per_second": 2,
    }
    assert b == both | {
        "name": "b",
        "seconds": 4,
        "cpu_seconds": 12,
        "memory_mb": 80,
        "first_mb": 500,
        "images_per_second": 1,
    }


@pytest.mark.slow
def test_apart_each_turn_starts_one_worker_anew(tmp_path):
    """Where memory holds only one: the first process of each, then in every turn a warm-up and what counts."""
    log = tmp_path / "order"
    cases = {"a": worker("a", [99, 2], log), "b": worker("b", [50, 4], log)}
    a, b = measure(cases, 2, apart=True)
    assert log.read_text() == "ab" + "aabb" * 2
    assert (a["seconds"], a["first_mb"], b["seconds"], b["first_mb"]) == (2, 990, 4, 500)


def test_a_worker_that_ends_early_is_named(tmp_path):
    with pytest.raises(UserError, match="worker of 'a' ended early"):
        measure({"a": worker("a", [1], tmp_path / "order")}, 2)


def test_an_interpreter_without_torch(tmp_path):
    plan = PLAN._replace(peer_python=str(tmp_path / "python"))
    with pytest.raises(UserError, match="has no torch"):
        parts.peers(config(), plan)


def test_sampling_beside_pytorch_and_with_a_halo(monkeypatch, capsys):
    """Rates, ratios and hours by hand, from workers whose seconds are made up: half as long as their names."""
    asked = []

    def measured(cases, rounds, apart=False):
        asked.append([json.loads(case.command[-1]) if isinstance(case, Worker) else case for case in cases.values()])
        work = {"gflop": 3.0, "pixels": 50.0, "cell_updates": 70}
        found = {name: {"name": name, "seconds": len(name) / 2, "cpu_seconds": 1.0, "memory_mb": 1.0} for name in cases}
        return [row | ({} if "PyTorch" in name else work) for name, row in found.items()]

    monkeypatch.setattr(parts, "measure", measured)
    monkeypatch.setattr(parts, "peers", lambda config, plan, kind: {"eager PyTorch": (config.model.norm, plan.batch)})
    found = parts.sampling(config(), PLAN)  # a halo of 4, and a large picture of 32 x 40
    first, second = found["sampling"]["patches"]
    assert (first["pixels_per_second"], second["pixels_per_second"]) == (25, pytest.approx(50 / 6.5))
    assert second["cell_updates_per_second"] == pytest.approx(70 / 6.5)
    assert first["fraction_of_matrix_rate"] == pytest.approx(7 / 2)  # of a product that takes 7 s
    assert found["times_pytorch"] == {k: {"eager PyTorch": pytest.approx(6.5 / 2)} for k in ("patches", "large")}
    assert found["halo"]["computed"] == pytest.approx(40 * 48 / (32 * 40) - 1)
    assert found["halo"]["measured"] == pytest.approx(9 / 12 - 1)
    assert found["halo"]["large_tiles"] == pytest.approx(2056**2 / 2048**2 - 1)
    pixels = 41344**2 * 2056**2 / 2048**2
    assert found["slide"]["hours"] == pytest.approx(pixels / 25 / 3600)
    assert found["slide"]["exaflop"] == pytest.approx(pixels * 3 / 50 / 1e9)
    assert "ours by eager PyTorch: 3.25 x" in capsys.readouterr().out
    (_, patch, peer), (_, large, one), (_, bare, tile) = asked
    assert (peer, one) == (("group", 2), ("cell", 1))  # a norm of the whole image would be of no tile
    assert [case["config"]["data"]["patch"] for case in (patch, large, bare, tile)] == [
        *([16, 16], [32, 40], [32, 40], [40, 48])
    ]
    assert [case["batch"] for case in (patch, large, bare, tile)] == [2, 1, 1, 1]


def test_a_model_that_is_no_local_rule_has_no_halo(monkeypatch):
    """A transformer, in continuous time, of three axes: nothing is asked of it that it has not."""
    seen = []

    def measured(cases, rounds, apart=False):
        seen.extend(cases)
        work = {"gflop": 3.0, "pixels": 50.0, "cell_updates": 70}
        return [{"name": n, "seconds": 1.0, "cpu_seconds": 1.0, "memory_mb": 1.0} | work for n in cases]

    monkeypatch.setattr(parts, "measure", measured)
    monkeypatch.setattr(parts, "peers", lambda config, plan, kind: {})
    c = tiny.config()
    c.model = {"name": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4, "classes": 3, "image_channels": 3}
    found = parts.sampling(build.completed(c), PLAN)
    assert list(found["sampling"]) == ["patches"]
    assert "halo" not in found
    assert seen == ["matrix product", "ours"]


@pytest.mark.slow
def test_a_training_step_and_a_call_are_measured():
    """The work of a row is that of the model: three times forward for a training step."""
    c = config(**{"model.conv": "shifted"})  # "split" also multiplies what lies at the border
    [_, call] = in_turns({"call": parts.ours(c, PLAN, "call")}, 1)["call"]
    [train] = bench_worker.answers("train", c, 2, ["\n"])
    assert call["memory_mb"] < 3000  # of a process of its own; a step in this one has the peak of all tests before it
    assert train["memory_mb"] == pytest.approx(bench_worker.peak_mb(), rel=0.1)
    for row in (call, train):
        assert row["seconds"] > 0
        assert row["memory_mb"] > 100
    assert train["gflop"] == pytest.approx(3 * call["gflop"])
    # 16x16 cells, 4 steps, batch 2; perceive 9 c c, fc0 2 c h, fc1 h c for c = 8, h = 16, embedding and gates beside
    assert call["gflop"] == pytest.approx(2 * 2 * 4 * 16**2 * (9 * 64 + 2 * 128 + 128) / 1e9, rel=0.05)


def test_both_dtypes_beside_the_peer(monkeypatch, capsys):
    """Ratios by hand, from workers whose seconds are those of their kind and dtype."""
    seconds = {"float32": 6.0, "bfloat16": 3.0, "PyTorch": 12.0}

    def measured(cases, rounds, apart=False):
        def of(name):
            return next(s for word, s in seconds.items() if word in name)

        return [{"name": n, "seconds": of(n), "cpu_seconds": 1.0, "memory_mb": 10 * of(n)} for n in cases]

    monkeypatch.setattr(parts, "measure", measured)
    monkeypatch.setattr(parts, "peers", lambda config, plan, kind: {"eager PyTorch": [kind]})
    found = parts.peer(config(), PLAN)
    names = [f"{what}, {dtype}" for what in ("training step", "call") for dtype in parts.DTYPES]
    assert found["ratio"] == {
        name: dict.fromkeys(("seconds", "memory_mb"), 0.5 if "float32" in name else 0.25) for name in names
    }
    own = {"seconds": 0.8, "memory_mb": 0.6}
    single = parts.peer(config(), PLAN._replace(dtypes=("bfloat16",), peer=PEER | {"targets": own}))
    assert (list(single["ratio"]), single["targets"]) == (names[1::2], own)
    assert "0.25 x its seconds (target 0.8)" in capsys.readouterr().out
    monkeypatch.setattr(parts, "peers", lambda config, plan, kind: {})
    assert parts.peer(config(), PLAN)["ratio"] == {}
    assert capsys.readouterr().out.splitlines()[-1] == parts.NO_PEER


def test_what_the_peer_is_told(monkeypatch):
    """The fields and the forms that the page names; a script that is not there is one clear line."""
    monkeypatch.setattr(parts, "peer_python", lambda plan, module: "python")
    forms = {", slow": {"maps": True}, ", fast": {"maps": False}}
    found = parts.peers(config(), PLAN._replace(peer=PEER | {"forms": forms}), "call")
    assert list(found) == ["eager PyTorch, slow", "eager PyTorch, fast"]
    python, script, case = found["eager PyTorch, slow"].command
    assert (python, script) == ("python", __file__)
    model = {"channels": 8, "hidden": 16, "maps": True}
    assert json.loads(case) == {"kind": "call", "size": 16, "batch": 2, "model": model}
    assert list(parts.peers(config(), PLAN)) == ["eager PyTorch"]
    assert parts.peers(config(**{"data.patch": (16, 24)}), PLAN) == {}
    assert parts.peers(config(), PLAN._replace(peer={})) == {}
    with pytest.raises(UserError, match=r"gone\.py, which is not there"):
        parts.peers(config(), PLAN._replace(peer=PEER | {"script": "gone.py"}))


@pytest.mark.parametrize("page", ["diff_nca", "geca"])
def test_the_peers_of_the_pages(page, monkeypatch):
    """They are there, and told of fields that the model has."""
    from nca_gen import config as configs

    monkeypatch.setattr(parts, "peer_python", lambda plan, module: "python")
    c = configs.load(f"configs/{page}.py")
    found = parts.peers(c, Bench(**build.fields(c, "bench")), "call")
    assert len(found) == {"diff_nca": 2, "geca": 1}[page]
    for peer in found.values():
        assert Path(peer.command[1]).name == f"torch_{page}.py"
        assert json.loads(peer.command[2])["model"]["steps"] == c.model.steps


def test_rivals_share_what_makes_them_comparable(monkeypatch):
    seen = {}

    def measured(cases, rounds, apart=False):
        seen.update({name: json.loads(case.command[-1]) for name, case in cases.items()})
        return [{"name": n, "seconds": 1.0, "cpu_seconds": 1.0, "memory_mb": 1.0} for n in cases]

    monkeypatch.setattr(parts, "measure", measured)
    c = build.completed(tiny.conditional(**{"model.steps": 6}))
    plan = PLAN._replace(rivals={"unet": {"name": "unet", "width": 8}, c.model.name: {"name": c.model.name}})
    parts.rivals(c, plan)
    own = c.model.name
    assert list(seen) == [
        *(f"{own}, {more}" for more in ("float32", "bfloat16", "3 cell steps", "2 cell steps")),
        *(f"{own}, two batches in one call", "unet"),
    ]
    assert [seen[f"{own}, {n} cell steps"]["config"]["model"]["steps"] for n in (3, 2)] == [3, 2]
    assert seen[f"{own}, two batches in one call"]["batch"] == 4
    shared = {field: c.model[field] for field in parts.SHARED}
    assert seen["unet"]["config"]["model"] == shared | {"name": "unet", "width": 8}


def test_another_checkout_in_turns(tmp_path, monkeypatch, capsys):
    """The same work by this program and by another, or by a script that is a worker; ours by theirs."""
    (tmp_path / "nca_gen").mkdir()
    (tmp_path / "old.py").touch()
    ran = []

    def measured(cases, rounds, apart=False):
        ran.append(cases)
        time = {"seconds": 1.0, "first_mb": 20.0}
        return [{"name": n, "cpu_seconds": 1.0 + i, "memory_mb": 10.0 + i} | time for i, n in enumerate(cases)]

    monkeypatch.setattr(parts, "measure", measured)
    plan = PLAN._replace(against=str(tmp_path))
    found = parts.against(config(), plan)["against"]
    assert found["ratio"]["evaluation"] == {
        "seconds": 1.0,
        "cpu_seconds": 0.5,
        "memory_mb": pytest.approx(10 / 11),
        "first_mb": 1.0,
    }
    assert (
        f"sampling call, by {tmp_path}: 1.000 x its seconds, 0.500 x its cpu_seconds, 0.909 x its memory_mb"
        in capsys.readouterr().out
    )
    kinds = []
    for here, there in (cases.values() for cases in ran):
        assert here.command == there.command
        assert (here.folder, there.folder) == (None, str(tmp_path))
        kinds.append(json.loads(here.command[-1])["kind"])
    assert kinds == ["train", "call", "evaluate"]
    script = parts.theirs(config(), PLAN._replace(against=str(tmp_path / "old.py")), "call")
    assert script.command[1] == str(tmp_path / "old.py")
    with pytest.raises(UserError, match="give a checkout, or a script"):
        parts.theirs(config(), PLAN._replace(against="/nowhere"), "call")


def test_rows_are_one_table(capsys):
    rows = [
        {"name": "a", "seconds": 0.5, "cpu_seconds": 1.0, "memory_mb": 400.0, "gflop": 100.0, "images_per_second": 4.0},
        {"name": "peer", "seconds": 1.0, "cpu_seconds": 2.0, "memory_mb": 4000.0},
    ]
    bench_tables.show(rows, "calls, 16x16")
    assert capsys.readouterr().out.splitlines() == [
        "calls, 16x16",
        "        s  CPU s     MB  GFLOP/s  images/s",
        "a     0.5      1    400      200         4",
        "peer    1      2  4,000",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bench.what": ("modle",)}, "did you mean model"),
        ({"bench.round": 3}, r"did you mean config\.bench\.rounds"),
    ],
)
def test_what_a_user_can_mend(changes, message):
    with pytest.raises(UserError, match=message):
        bench(config(bench={}, **changes))
