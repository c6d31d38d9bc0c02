"""--mode=bench with workers whose times are known."""

import json
import sys

import pytest

from nca_gen import main
from nca_gen.errors import UserError
from nca_gen.verbs import bench

WORKER = """
import json, sys, time
name, seconds, log = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
for line, s in zip(sys.stdin, seconds):
    open(log, "a").write(name)
    print(json.dumps({"seconds": s, "cpu_seconds": 3 * s, "memory_mb": 10 * s, "images": 4}), flush=True)
"""


def worker(name, seconds, log):
    return [sys.executable, "-c", WORKER, name, json.dumps(seconds), str(log)]


def test_the_median_after_the_warm_up_in_turns(tmp_path):
    log = tmp_path / "order"  # of the second processes: the first are asked once, for the memory of compiling
    cases = {"a": worker("a", [99, 1, 5, 2], log), "b": worker("b", [50, 4, 4, 8], log)}
    a, b = bench.measure(cases, 3)
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


def test_a_worker_that_ends_early_is_named(tmp_path):
    with pytest.raises(UserError, match="worker of 'a' ended early"):
        bench.measure({"a": worker("a", [1], tmp_path / "order")}, 2)


def test_an_interpreter_without_torch(tmp_path):
    config = main.load("configs/diff_nca.py:smoke")
    config.bench.peer_python = str(tmp_path / "python")
    with pytest.raises(UserError, match="has no torch"):
        bench.peers(config)


def test_sampling_beside_pytorch_and_with_a_halo(monkeypatch):
    """Rates, ratios and hours by hand, from workers whose seconds are made up: half as long as their names."""

    def measure(cases, rounds):
        work = {"gflop": 3.0, "pixels": 50.0, "cell_updates": 70}
        found = {name: {"name": name, "seconds": len(name) / 2, "cpu_seconds": 1.0, "memory_mb": 1.0} for name in cases}
        return [row | ({} if "PyTorch" in name else work) for name, row in found.items()]

    config = main.load("configs/diff_nca.py:smoke")  # a halo of 4, and a large picture of 32 x 40
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "peers", lambda config, kind: {"eager PyTorch": [config.model.norm, kind]})
    lines = []
    found = bench.sampling(config, lines.append)
    mine, theirs = found["sampling"]["patches"]
    assert (mine["pixels_per_second"], theirs["pixels_per_second"]) == (25, pytest.approx(50 / 6.5))
    assert theirs["cell_updates_per_second"] == pytest.approx(70 / 6.5)
    assert mine["fraction_of_matrix_rate"] == pytest.approx(7 / 2)  # of a product that takes 7 s
    assert found["times_pytorch"] == {k: {"eager PyTorch": pytest.approx(6.5 / 2)} for k in ("patches", "large")}
    assert found["halo"]["computed"] == pytest.approx(40 * 48 / (32 * 40) - 1)
    assert found["halo"]["measured"] == pytest.approx(9 / 12 - 1)
    assert found["halo"]["large_tiles"] == pytest.approx(2056**2 / 2048**2 - 1)
    pixels = 41344**2 * 2056**2 / 2048**2
    assert found["slide"]["hours"] == pytest.approx(pixels / 25 / 3600)
    assert found["slide"]["exaflop"] == pytest.approx(pixels * 3 / 50 / 1e9)
    assert any("ours by eager PyTorch: 3.25 x" in line for line in lines)


@pytest.mark.slow
def test_a_training_step_and_a_call_are_measured():
    """The work of a row is that of the model: three times forward for a training step."""
    config = main.load("configs/diff_nca.py:smoke")
    config.model.conv = "shifted"  # "split" also multiplies what lies at the border
    found = {
        k: rows[-1] for k, rows in bench._in_turn({k: bench.ours(config, k) for k in ("train", "call")}, 1).items()
    }
    for row in found.values():
        assert row["seconds"] > 0
        assert 100 < row["memory_mb"] < 3000
    assert found["train"]["gflop"] == pytest.approx(3 * found["call"]["gflop"])
    # 16x16 cells, 4 steps, batch 2; perceive 9 c c, fc0 2 c h, fc1 h c for c = 8, h = 16, embedding and gates beside
    assert found["call"]["gflop"] == pytest.approx(2 * 2 * 4 * 16**2 * (9 * 64 + 2 * 128 + 128) / 1e9, rel=0.05)


def test_both_dtypes_beside_the_peer(monkeypatch):
    """Ratios by hand, from workers whose seconds are those of their kind and dtype."""
    seconds = {"float32": 6.0, "bfloat16": 3.0, "PyTorch": 12.0}

    def measure(cases, rounds):
        of = lambda name: next(s for word, s in seconds.items() if word in name)  # noqa: E731
        return [{"name": n, "seconds": of(n), "cpu_seconds": 1.0, "memory_mb": 10 * of(n)} for n in cases]

    config = main.load("configs/geca.py:smoke")
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "peers", lambda config, kind: {"eager PyTorch": [kind]})
    found = bench.peer(config, lambda _: None)
    names = [f"{what}, {dtype}" for what in ("training step", "call") for dtype in bench.DTYPES]
    assert found["ratio"] == {
        name: dict.fromkeys(("seconds", "memory_mb"), 0.5 if "float32" in name else 0.25) for name in names
    }
    monkeypatch.setattr(bench, "peers", lambda config, kind: {})
    lines = []
    assert bench.peer(config, lines.append)["ratio"] == {}
    assert lines[-1] == bench.NO_PEER


def test_what_the_peer_of_geca_is_told(monkeypatch):
    config = main.load("configs/geca.py")
    monkeypatch.setattr(bench, "peer_python", lambda config, module: "python")
    (command,) = bench.peers(config, "call").values()
    assert command[1].endswith("torch_geca.py")
    case = json.loads(command[2])
    assert (case["kind"], case["size"], case["batch"]) == ("call", 32, 2)
    assert (case["model"]["embed"], case["model"]["classes"], case["model"]["steps"]) == (768, 5, 12)
