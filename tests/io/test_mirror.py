"""A workdir in an object store, against a server of S3 on this machine."""

import builtins
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from nca_gen import main
from nca_gen.errors import UserError
from nca_gen.io import mirror
from nca_gen.runtime import run

obstore = pytest.importorskip("obstore")
OUTSIDE = Path(__file__).parents[1] / "outside"
URL = "s3://bucket/runs/balls"


@pytest.fixture(scope="module")
def server():
    """The address of a server, which takes a second to import: who only collects the tests does without."""
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """An empty bucket, with this process on the first machine; what makes a machine the current one, by its number."""
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    for path, method in (("moto-api/reset", "POST"), ("bucket", "PUT")):
        urllib.request.urlopen(urllib.request.Request(f"{server}/{path}", method=method)).close()
    monkeypatch.setattr(mirror, "PATIENCE", 0.0)

    def machine(n):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine{n}"))

    machine(1)
    return machine


def stored(url=URL):
    """What is in the store, by its path."""
    store = mirror.opened(url)
    names = [item["path"] for page in obstore.list(store) for item in page if item["path"] != mirror.WRITER]
    return {name: bytes(obstore.get(store, name).bytes()).decode(errors="replace") for name in sorted(names)}


def written(folder, **files):
    """Files by their path, in which / is two underscores and . is one."""
    for name, text in files.items():
        path = Path(folder, name.replace("__", "/").replace("_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.slow
def test_what_is_whole_follows_and_comes_back_elsewhere(bucket):
    with mirror.place(URL, trains=True) as folder:
        written(folder, metrics_jsonl="1\n2\n", checkpoints__4__seal_json="{}", checkpoints__4__state="weights")
        (Path(folder) / "checkpoints/6.orbax-checkpoint-tmp").mkdir()
        for name in (".12.report.html", ".lock", "checkpoints/6.orbax-checkpoint-tmp/state"):
            (Path(folder) / name).write_text("half")
    whole = {"checkpoints/4/seal.json": "{}", "checkpoints/4/state": "weights", "metrics.jsonl": "1\n2\n"}
    assert stored() == whole
    bucket(2)
    with mirror.place(URL, trains=True) as other:
        assert other != folder
        assert {path: (Path(other) / path).read_text() for path in mirror.files(Path(other))} == whole
        shutil.rmtree(Path(other, "checkpoints/4"))
        written(other, metrics_jsonl="1\n2\n3\n", checkpoints__8__seal_json="{}")
    assert stored() == {"checkpoints/8/seal.json": "{}", "metrics.jsonl": "1\n2\n3\n"}
    bucket(1)  # which goes on with what the other has left
    with mirror.place(URL, trains=True) as again:
        assert again == folder
        assert sorted(mirror.files(Path(again))) == ["checkpoints/8/seal.json", "metrics.jsonl"]
        assert Path(again, "metrics.jsonl").read_text() == "1\n2\n3\n"


@pytest.mark.slow
def test_a_checkpoint_without_its_seal_was_never_sent(bucket):
    """A push that was killed; whoever trains next takes what it left away."""
    store = mirror.opened(URL)
    for path in ("config.json", "stage/checkpoints/4/state", "stage/checkpoints/2/seal.json"):
        obstore.put(store, path, b"x")
    with mirror.place(URL) as folder:
        assert sorted(mirror.files(Path(folder))) == ["config.json", "stage/checkpoints/2/seal.json"]
    assert "stage/checkpoints/4/state" in stored()
    with mirror.place(URL, trains=True):
        pass
    assert sorted(stored()) == ["config.json", "stage/checkpoints/2/seal.json"]


@pytest.mark.slow
def test_a_seal_comes_last_and_goes_first(bucket, monkeypatch):
    """A checkpoint that is removed while it is sent gets none."""
    done = []
    put, delete = obstore.put, obstore.delete
    monkeypatch.setattr(obstore, "put", lambda store, path, data: done.append(path) or put(store, path, data))
    monkeypatch.setattr(obstore, "delete", lambda store, path: done.append(f"-{path}") or delete(store, path))
    one = mirror.Mirror(URL, trains=False)
    written(one.folder, checkpoints__1__seal_json="{}", checkpoints__1__z="w", checkpoints__2__seal_json="{}", z="c")
    one.push()
    assert done.index("z") < done.index("checkpoints/1/z") < done.index("checkpoints/1/seal.json")
    (one.folder / "checkpoints/1/z").unlink()
    (one.folder / "checkpoints/1/seal.json").unlink()
    done.clear()
    one.push()
    assert done == ["-checkpoints/1/seal.json", "-checkpoints/1/z"]
    written(one.folder, checkpoints__3__seal_json="{}", checkpoints__3__z="w")
    files = mirror.files(one.folder)
    monkeypatch.setattr(mirror, "files", lambda folder: files)
    shutil.rmtree(one.folder / "checkpoints/3")
    one.push()
    assert not [path for path in stored() if path.startswith("checkpoints/3")]


@pytest.mark.slow
def test_a_network_that_is_away_is_said_once_and_all_is_sent_when_it_is_back(bucket, monkeypatch, capsys):
    away = "http://127.0.0.1:1"
    one = mirror.Mirror(URL, trains=True)
    one.fetch()
    written(one.folder, metrics_jsonl="1")
    store, one.store = one.store, mirror.opened(URL, endpoint=away)
    assert one.attempt() == one.attempt() != ""
    one.store = store
    assert one.attempt() == ""
    assert capsys.readouterr().err.splitlines() == [
        f"{URL}: it cannot be reached: no network, or another endpoint; work goes on in {one.folder}",
        f"{URL} is up to date again",
    ]
    assert stored() == {"metrics.jsonl": "1"}


def cut_off(monkeypatch):
    """Something is written, and then the network is away."""
    closed = mirror.opened(URL, endpoint="http://127.0.0.1:1")
    with mirror.place(URL) as folder:
        written(folder, metrics_jsonl="1")
        monkeypatch.setattr(mirror.Mirror, "store", property(lambda one: closed), raising=False)


def test_what_was_not_sent_is_sent_by_the_same_command(bucket, monkeypatch):
    with (
        monkeypatch.context() as network,
        pytest.raises(UserError, match=r"cannot be reached.*; what is not sent lies in .*, and the same command sends"),
    ):
        cut_off(network)
    assert stored() == {}
    with mirror.place(URL):
        pass
    assert stored() == {"metrics.jsonl": "1"}


def taken_over(bucket):
    """One begins, another takes the run over, and the first writes once more."""
    with mirror.place(URL, trains=True) as folder:
        bucket(2)
        with mirror.place(URL, trains=True) as other:
            written(other, metrics_jsonl="other")
        bucket(1)
        written(folder, metrics_jsonl="one")


def test_two_that_go_on_with_one_run(bucket):
    """The second takes it over; the first is told that nothing more is sent; nothing is lost."""
    with pytest.raises(UserError, match=r"another run writes to s3://bucket/runs/balls: nothing more is sent there"):
        taken_over(bucket)
    assert stored() == {"metrics.jsonl": "other"}
    with pytest.raises(UserError, match=r"have both gone on \(metrics\.jsonl\)"), mirror.place(URL, trains=True):
        pass


def test_errors_are_one_line_that_says_what_to_do(bucket, monkeypatch):
    def line(url=URL):
        with pytest.raises(UserError) as e, mirror.place(url):
            pass
        assert "\n" not in str(e.value)
        return str(e.value)

    assert line("s3://other/x").startswith("s3://other/x: there is no such bucket: make it, or correct --workdir")
    assert "no such place" in line("s3://")
    with socket.socket() as s:  # nobody listens
        s.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s.getsockname()[1]}")
        assert "it cannot be reached" in line()
    for said, advice in {
        "GET http://169.254.169.254/latest/api/token - 403": "no credentials",
        "in 140.403ms - Server returned non-2xx status code: 403 Forbidden: ": "the credentials are not accepted",
        "in 104.404ms, after 1 retries - HTTP error: error sending request": "it cannot be reached",
        "Received redirect without LOCATION, this normally indicates an incorrectly configured region": "AWS_REGION",
    }.items():
        with pytest.raises(UserError, match=advice), mirror.reached(URL):
            raise obstore.exceptions.GenericError(said)
    imported = builtins.__import__

    def missing(name, *rest):
        if name.startswith("obstore"):
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert line().startswith("a workdir in an object store needs the library obstore: pip install obstore, or give")


KILLED = f"""
import os, signal, time
import balls, obstore
from nca_gen.contracts import Page
from nca_gen.io import mirror

mirror.EVERY = 0.05


def evaluate(pipeline, data, folder, /):
    store = mirror.opened({URL!r})
    while not any(i["path"] == "checkpoints/2/seal.json" for page in obstore.list(store) for i in page):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)


def get_config():
    config = balls.get_config()
    config.evals = {{**config.evals, "halt": {{"name": "lab.stopped", "every": 4}}}}
    return config
"""


@pytest.mark.slow
def test_a_run_is_killed_goes_on_elsewhere_and_is_used_from_a_third_machine(bucket, tmp_path, monkeypatch):
    """With nothing in common but the store."""
    here = tmp_path / "here"
    shutil.copytree(OUTSIDE, here, ignore=shutil.ignore_patterns("__pycache__"))
    (here / "lab/stopped.py").write_text(KILLED)
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(here)])
    command = [sys.executable, "-m", "nca_gen.main", "--config=lab/stopped.py", f"--workdir={URL}"]
    killed = subprocess.run(command, cwd=here, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "checkpoints/2/seal.json" in stored()
    losses = lambda: [json.loads(line)["loss"] for line in stored()["metrics.jsonl"].splitlines()]
    before = losses()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    bucket(2)
    assert main.run(["--config=balls.py", f"--workdir={URL}"]) == 0
    assert len(losses()) == 6
    assert losses()[: len(before)] == pytest.approx(before)
    assert {name.split("/")[1] for name in stored() if name.startswith("checkpoints")} == {"2", "4", "6"}
    assert "<html" in stored()["report.html"]
    bucket(3)
    assert main.run(["--mode=generate", f"--workdir={URL}"]) == 0
    assert [name for name in stored() if name.startswith("generated/") and name.endswith("00001.nii.gz")]
    bucket(4)
    assert run.open_run(URL).step == 6  # as a part of another
