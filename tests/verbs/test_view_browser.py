"""The plane in a real browser: what is looked at is grown, and the address leads back to it."""

import io
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

import browser
import numpy as np
import PIL.Image
import pytest

RULE = Path(__file__).parents[1] / "old_exports" / "diff_nca"


@pytest.fixture
def tabs(tmp_path):
    with browser.opened(tmp_path) as tab:
        yield tab


@contextmanager
def served(port):
    """The command, with a rule of two steps, until the end of the block."""
    command = [sys.executable, "-m", "nca_gen.main", "--mode=view", f"--workdir={RULE}", f"--view.port={port}"]
    command += ["--config.seed=5", "--config.generate.name=window", "--config.generate.mpp=0.5"]
    command += ["--config.generate.tile=256"]  # as the page has them: few calls
    process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.DEVNULL)
    try:
        yield browser.answered(process, f"http://127.0.0.1:{port}/", 3 * browser.PATIENCE)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


GROWN = """view.picture && document.querySelector('#waits').hidden && [...view.seen(view.level(view.scale))].every(
  (at) => view.picture.tiles.get([view.level(view.scale), ...at].join("/")).naturalWidth)"""
PIXELS = """(() => { const c = document.querySelector('#canvas');
  const d = c.getContext('2d').getImageData(Math.round(c.width / 2) + {x}, Math.round(c.height / 2) + {y}, 16, 16).data;
  return Array.from(d); })()"""


def pixels(tab, y=0, x=0):
    """16 x 16 of them, at (y, x) from the middle of the view."""
    return np.array(tab.value(PIXELS.replace("{x}", str(x)).replace("{y}", str(y)))).reshape(16, 16, 4)


def tile(address, seed, row, column):
    with urllib.request.urlopen(f"{address}{seed}/0/{row}/{column}", timeout=60) as answer:
        return np.asarray(PIL.Image.open(io.BytesIO(answer.read())))


def at(tab, seed, y, x, zoom=1):
    tab.wait(f"location.pathname == '/{seed}' && location.hash == '#y={y}&x={x}&zoom={zoom}'")


@pytest.mark.slow
@pytest.mark.skipif(not browser.PROGRAM, reason="no browser: install chromium, and the page is tested in it")
def test_somebody_walks_over_a_plane(tabs):
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    tab, zero = tabs(), 2**31 // 256
    tab.size(800, 500)
    with served(port) as address:
        tab.go(address)
        tab.wait(GROWN)
        at(tab, 5, 0, 0)
        shot(tab, "plane")
        # A pixel of the page is a pixel of the plane, of four tiles that meet in the middle.
        np.testing.assert_array_equal(pixels(tab)[..., :3], tile(address, 5, zero, zero)[:16, :16])
        np.testing.assert_array_equal(pixels(tab, -16, -16)[..., :3], tile(address, 5, zero - 1, zero - 1)[-16:, -16:])
        assert tab.value("document.querySelector('#length').textContent") == "50 \u00b5m"
        assert tab.value("document.querySelector('#bar').offsetWidth") in (100, 104)
        # By a key, by the mouse, by a form.
        tab.key("ArrowRight")
        at(tab, 5, 0, 60)
        for kind, x in (("mousePressed", 500), ("mouseMoved", 400), ("mouseReleased", 400)):
            tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=300, button="left", buttons=1, clickCount=1)
        at(tab, 5, 0, 160)
        tab.value("document.querySelector('[data-zoom=\"out\"]').click()")
        at(tab, 5, 0, 160, 0.6667)
        tab.value("document.querySelector('#y').value = -2147482000")
        tab.value("document.querySelector('#x').value = 2147482000")
        tab.value("document.querySelector('#place').requestSubmit()")
        at(tab, 5, -2147482000, 2147482000, 0.6667)
        tab.wait(GROWN)
        assert (pixels(tab)[..., 3] == 255).all()
        shot(tab, "far")
        # The address leads to the same pixels, in another browser's window too, and that of another seed to others.
        tab.key("0")
        at(tab, 5, -2147482000, 2147482000)
        tab.wait(GROWN)
        here, link = pixels(tab), tab.value("location.href")
        phone = tabs()
        phone.size(390, 844, phone=True)
        phone.go(link)
        phone.wait(GROWN)
        phone.value("view.put(1 / devicePixelRatio, view.x, view.y)")
        phone.wait(GROWN)
        shot(phone, "phone")
        np.testing.assert_array_equal(pixels(phone), here)
        tab.front()
        tab.value("document.querySelector('#seed').value = 6")
        tab.value("document.querySelector('#place').requestSubmit()")
        at(tab, 6, -2147482000, 2147482000)
        tab.wait(GROWN)
        assert np.abs(pixels(tab).astype(int) - here).max() > 10
        # What has gone out of sight is not waited for.
        for _ in range(12):
            tab.key("ArrowDown")
        tab.wait(GROWN)
        assert tab.value("view.picture.tiles.size") <= 600
        loaded = tab.value("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert loaded
        assert all(name.startswith(address) for name in loaded)


def shot(tab, name):
    """A screenshot, for the eye: NCA_GEN_SHOTS=DIR keeps it."""
    if folder := os.environ.get("NCA_GEN_SHOTS"):
        tab.picture(f"{folder}/{name}.png")
