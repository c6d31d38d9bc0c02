"""The page of the study of readers in a real browser: a desktop and a phone, two tabs, a server that is killed."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import browser
import numpy as np
import pytest

from nca_gen.io import images

SIZE = (520, 400)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    rows, columns = np.indices(SIZE)
    for name in ("real", "synthetic"):
        (folder / name).mkdir()
        for i in range(6):
            blobs = np.zeros(SIZE)
            for y, x, r in rng.uniform((0, 0, 6), (*SIZE, 26), (60, 3)):
                blobs = np.maximum(blobs, (rows - y) ** 2 + (columns - x) ** 2 < r * r)
            pink = np.stack([232 - 110 * blobs, 190 - 120 * blobs, 214 - 70 * blobs], -1)
            images.write(folder / name / f"{i}.png", np.uint8(pink + rng.integers(-12, 13, (*SIZE, 3))))
    return folder


@pytest.fixture
def tabs(tmp_path):
    with browser.opened(tmp_path) as tab:
        yield tab


@contextmanager
def served(study, port):
    """The command, until the end of the block, where it is killed. Yields its address."""
    command = [sys.executable, "-m", "nca_gen.main", "--mode=readers", f"--workdir={study}/study"]
    command += [f"--readers.real={study}/real", f"--readers.synthetic={study}/synthetic", f"--readers.port={port}"]
    process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.DEVNULL)
    try:
        yield browser.answered(process, f"http://127.0.0.1:{port}/")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def answers(study):
    with closing(sqlite3.connect(study / "study" / "study.sqlite")) as store:
        return store.execute("SELECT number, choice FROM answers ORDER BY number").fetchall()


READY = "!document.querySelector('#choose1').disabled && document.querySelector('#count').textContent.startsWith('{}')"
INK = """[1, 2].map((i) => { const c = document.querySelector('#view' + i);
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0; for (let k = 3; k < d.length; k += 4) n += d[k] > 0; return n / (c.width * c.height); })"""


@pytest.mark.slow
@pytest.mark.skipif(not browser.PROGRAM, reason="no browser: install chromium, and the page is tested in it")
def test_a_reader_goes_through_a_study(study, tabs):
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    tab = tabs()
    tab.size(1280, 800)
    with served(study, port) as address:
        tab.go(address)
        tab.wait("document.activeElement.id == 'name'")
        shot(tab, study, "begin")
        for letter in "Ann":
            tab.key(letter)
        tab.value("document.querySelector('#enrol button').click()")
        tab.wait(READY.format(1))
        shot(tab, study, "desktop")
        link = tab.value("location.href")
        assert all(0.3 < share < 1 for share in tab.value(INK))
        # Closer at both, by a key, then at one: each shows more, and both have all of their canvas.
        for _ in range(4):
            tab.key("+")
        tab.wait(f"{INK}.every((share) => share > 0.95)")
        tab.value("document.querySelector('[data-view=\"0\"] [data-zoom=all]').click()")
        tab.wait(f"{INK}[0] < 0.95 && {INK}[1] > 0.95")
        time.sleep(0.3)  # nobody has looked before
        tab.key("2")
        tab.key("2")  # twice: nothing happens
        tab.wait(READY.format(2))
        assert answers(study) == [(1, 2)]
        # Another tab answers, and this one hears of it when it answers too.
        other = tabs()
        other.size(390, 844, phone=True)
        other.go(link)
        other.wait(READY.format(2))
        shot(other, study, "phone")
        before = other.value(INK)
        other.touch("touchStart", (150, 250), (200, 250))
        other.touch("touchMove", (60, 250), (330, 250))
        other.touch("touchEnd")
        other.wait(f"{INK}[0] > {before[0]} * 1.02 || {INK}[0] > 0.98")
        time.sleep(0.3)
        other.value("document.querySelector('#choose1').click()")
        other.wait(READY.format(3))
        tab.value("document.querySelector('#choose2').click()")
        tab.wait("document.querySelector('#note').textContent.includes('answered before')")
        tab.front()
        tab.wait(READY.format(3))
        assert answers(study) == [(1, 2), (2, 1)]
        # What was loaded is of this address, and nothing of it names a file.
        loaded = tab.value("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert loaded
        assert all(name.startswith(address) and "real" not in name and ".png" not in name for name in loaded)
        time.sleep(0.3)
    # The server is gone while the reader answers: the page keeps the choice, and sends it.
    tab.key("1")
    tab.wait("document.querySelector('#note').textContent.includes('kept here')")
    assert answers(study) == [(1, 2), (2, 1)]
    with served(study, port):
        tab.wait(READY.format(4))
        assert answers(study) == [(1, 2), (2, 1), (3, 1)]
        for i in (4, 5, 6):
            tab.wait(READY.format(i))
            time.sleep(0.3)
            tab.key("1")
        tab.wait("!document.querySelector('#end').hidden")
        shot(tab, study, "end")
        assert answers(study) == [(1, 2), (2, 1), *((i, 1) for i in (3, 4, 5, 6))]


def shot(tab, study, name):
    """A screenshot, for the eye: NCA_GEN_SHOTS=DIR keeps it."""
    if folder := os.environ.get("NCA_GEN_SHOTS"):
        tab.picture(f"{folder}/{name}.png")
