import json
import math
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy
from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event, SessionLog

from nca_gen.errors import UserError
from nca_gen.runtime import log


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir):
    """What TensorBoard reads: records of length, its checksum, an Event, its checksum; file by file as written."""
    for path in sorted(workdir.glob("events.*"), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16


def written(workdir, steps, start=0, total=100, **metrics):
    with log.Log(workdir, total, batch=8) as curve:
        curve.rewind(start)
        for step in steps:
            curve.write(step, {"loss": 1 / step, "grad_norm": float(step), **metrics})


def test_a_resumed_curve_is_not_doubled(tmp_path):
    written(tmp_path, [2, 4, 6, 8])
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('3\n{"step": 10, "lo')  # a kill in the middle of a line, and what no run has written
    written(tmp_path, [6, 8], start=4)
    assert [(x["step"], x["loss"]) for x in lines(tmp_path)] == [(2, 1 / 2), (4, 1 / 4), (6, 1 / 6), (8, 1 / 8)]


def test_tensorboard_is_told_where_a_run_went_back_to(tmp_path):
    written(tmp_path, [2, 4])
    written(tmp_path, [4], start=2)
    seen = []
    for e in events(tmp_path):
        if e.session_log.status == SessionLog.START:
            seen.append(("start", e.step))
        seen += [(v.tag, e.step, v.simple_value) for v in e.summary.value if v.tag in ("loss", "grad_norm")]
    half, quarter = np.float32(0.5), np.float32(0.25)
    first = [("start", 1), ("loss", 2, half), ("grad_norm", 2, 2.0), ("loss", 4, quarter), ("grad_norm", 4, 4.0)]
    assert seen == [*first, ("start", 3), ("loss", 4, quarter), ("grad_norm", 4, 4.0)]


def test_going_back_within_a_run_forgets_the_losses_too(tmp_path):
    with log.Log(tmp_path, 100, 8) as curve:
        curve.rewind(0)
        for step in (1, 2, 3):
            curve.write(step, {"loss": float(step)})
        curve.rewind(1)
        assert curve.losses == [1.0]
        curve.write(2, {"loss": 7.0})
        assert curve.losses == [1.0, 7.0]
    assert [x["loss"] for x in lines(tmp_path)] == [1.0, 7.0]


def test_every_line_is_on_disk_at_once_and_has_time_speed_and_memory(tmp_path):
    with log.Log(tmp_path, 100, batch=8) as curve:
        curve.rewind(10)
        curve.clock -= 4  # as if begun 4 seconds ago
        curve.write(30, {"loss": 1.0})
        (line,) = lines(tmp_path)
    assert line["images_per_second"] == pytest.approx(20 * 8 / 4, rel=0.05)
    assert 50 < line["memory_mb"] < 1e5
    assert line["time"] > 1.7e9


def test_a_pause_is_not_training_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    with log.Log(tmp_path, 100, batch=8) as curve:
        curve.rewind(0)
        now[0] += 2
        with curve.pause():
            now[0] += 60
        curve.write(10, {"loss": 1.0})
    assert lines(tmp_path)[0]["images_per_second"] == 10 * 8 / 2


def test_what_is_not_finite_is_null_because_json_has_no_nan(tmp_path):
    written(tmp_path, [1], other=math.nan)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path)[0]["other"] is None


def test_a_plain_line_with_the_time_left(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    with log.Log(tmp_path, 7210, batch=8) as curve:
        curve.rewind(0)
        now[0] += 5
        curve.write(10, {"loss": 0.25})
    assert capsys.readouterr().out == "step 10/7210  loss 0.2500  2 step/s  16 images/s  ETA 1:00:00\n"


@pytest.mark.slow
def test_a_bar_on_a_terminal():
    """Through a pseudo-terminal: the line is redrawn, and what is said stands above it."""
    pty = pytest.importorskip("pty")
    code = """
import pathlib, sys, tempfile, time
from nca_gen.runtime import log
with log.Log(pathlib.Path(tempfile.mkdtemp()), 40, 8) as curve:
    curve.rewind(20)
    curve.rate = 2.0
    curve.tick(30, 0.5)
    log.say("said")
"""
    read, write = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=write, env=toy.os.environ | {"TERM": "xterm"}) as child:
        toy.os.close(write)
        out = b""
        try:
            while block := toy.os.read(read, 4096):
                out += block
        except OSError:  # how Linux says that the other end has closed
            pass
    assert child.returncode == 0
    assert b"step 30/40  loss 0.5000" in out
    assert b"ETA 0:00:05" in out
    assert b"said\r\n" in out


def test_means_over_an_interval():
    assert log.means([{"loss": 1.0, "lr": 3.0}, {"loss": 2.0, "lr": 5.0}]) == {"loss": 1.5, "lr": 4.0}


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_divergence(name, value):
    metrics = {"loss": jax.numpy.float32(1), "grad_norm": jax.numpy.float32(2)}
    assert log.settled(metrics, 7) == {"loss": 1.0, "grad_norm": 2.0}
    with pytest.raises(log.DivergedError, match=f"{name} is {value} at step 7"):
        log.settled(metrics | {name: jax.numpy.float32(value)}, 7)


def test_a_loss_far_above_the_median_is_a_divergence_and_not_written(tmp_path):
    with log.Log(tmp_path, 100, 8, divergence=3.0) as curve:
        curve.rewind(0)
        for step, loss in enumerate([9.0, 1.0, 50.0, 1.0, 2.0, 5.9], 1):  # too few to compare with, till the last
            curve.write(step, {"loss": loss})
        with pytest.raises(log.DivergedError, match="the loss has risen to 12 at step 7"):
            curve.write(7, {"loss": 12.0})  # median of the six: 3.95
        curve.write(7, {"loss": 11.8})
    assert lines(tmp_path)[-1]["loss"] == 11.8


def test_config_comes_back(tmp_path):
    log.save_config(tmp_path, toy.config(**{"model.width": 5}))
    assert ConfigDict(json.loads((tmp_path / "config.json").read_text())).model.width == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.width": 5}, r"config\.model\.width=3, not 5"),
        ({"optimizer.lr": 0.1}, r"config\.optimizer\.lr=0\.01, not 0\.1"),
        ({"data.patch": (16, 16)}, r"config\.data\.patch=\[8, 8\], not \[16, 16\]"),
        ({"data.extra": 1}, r"config\.data\.extra=absent, not 1"),
        ({"seed": 8}, r"config\.seed=7, not 8"),
    ],
)
def test_resuming_with_another_model_or_other_data_is_refused(tmp_path, change, told):
    log.save_config(tmp_path, toy.config())
    log.check_config(tmp_path, toy.config())
    with pytest.raises(UserError, match=f"was begun with {told}; choose another --workdir"):
        log.check_config(tmp_path, toy.config(**change))
    assert log.config_hash(toy.config()) != log.config_hash(toy.config(**change))


def test_resuming_for_longer_on_other_devices_is_said(tmp_path, capsys):
    log.save_config(tmp_path, toy.config())
    changed = toy.config(**{"train.steps": 99, "eval.n": 2, "mesh.data": 2})
    log.check_config(tmp_path, changed)
    assert capsys.readouterr().out.splitlines() == [
        "config.eval.n: 1 before, 2 from here on",
        "config.mesh.data: -1 before, 2 from here on",
        "config.train.steps: 8 before, 99 from here on",
    ]
    assert log.config_hash(toy.config()) == log.config_hash(changed)


def test_environment_says_how_to_do_it_again_and_remembers_every_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--workdir=a b"])
    log.save_environment(tmp_path, 12)
    log.save_environment(tmp_path, 12)
    saved = json.loads((tmp_path / "environment.json").read_text())
    assert saved["command"].endswith(" '--workdir=a b'")
    assert saved["argv"] == ["main.py", "--workdir=a b"]
    assert (saved["parameters"], saved["processes"], len(saved["devices"])) == (12, 1, 4)
    assert saved["versions"]["jax"] == jax.__version__
    assert saved["cpus"] >= 1
    assert len(saved["starts"]) == 2


def test_the_commit_is_that_of_the_checkout(tmp_path):
    assert log.commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run(git + command, check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert log.commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert log.commit(tmp_path) == f"{head}-dirty"


def test_only_one_run_in_a_workdir_until_it_ends_however_it_ends(tmp_path):
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="another run is training in"), log.alone(tmp_path):
            pass
        other.kill()
        other.wait()
        with log.alone(tmp_path):
            pass


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "a").write_text("a file")
    told = r"cannot write .*/a: File exists; free space, or choose another --workdir"
    with pytest.raises(UserError, match=told), log.alone(tmp_path / "a"):
        pass
    with pytest.raises(UserError, match=r"cannot write .*/a/b: Not a directory"):
        log.replace(tmp_path / "a/b", "text")


def test_the_last_evaluation_that_is_complete(tmp_path):
    for step in (100, 200, 300):
        (tmp_path / f"eval/{step:08d}").mkdir(parents=True)
    for step in (100, 300):
        (tmp_path / f"eval/{step:08d}/scores.json").write_text("{}")
    assert [log.last_evaluation(tmp_path, step) for step in (50, 100, 250, 300)] == [0, 100, 100, 300]
