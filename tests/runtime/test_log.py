import json
import math
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy
from tensorboardX.proto.event_pb2 import Event, SessionLog

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
        with curve.pause("evaluation"):
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
