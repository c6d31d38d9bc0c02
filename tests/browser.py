"""A real browser for tests, driven by the DevTools protocol through two pipes: no driver and no library."""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--no-proxy-server")
FLAGS += ("--remote-debugging-pipe", "--hide-scrollbars", "--disable-sync", "--disable-default-apps", "about:blank")
PATIENCE = 60  # seconds; on a busy machine a browser takes its time
LEAVING = "Inspected target navigated or closed"


class Tab:
    """One page: what it holds is asked for by expressions of JavaScript."""

    def __init__(self, call, session):
        self.call = lambda method, **params: call(method, session, **params)

    def size(self, width, height, phone=False):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1 + phone, mobile=phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone, maxTouchPoints=2 if phone else 1)

    def front(self):
        """Shows this tab: what lies behind another draws nothing."""
        self.call("Page.bringToFront")

    def go(self, address):
        self.call("Page.navigate", url=address)

    def value(self, expression):
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def soon(self, expression):
        """Its value; None where the page was just then being left for another."""
        try:
            return self.value(expression)
        except AssertionError as e:
            if LEAVING not in str(e):
                raise
            return None

    def wait(self, expression):
        """The value of ``expression`` once it is true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.soon(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()")):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)
        return found

    def key(self, key, **more):
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def touch(self, kind, *points):
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


def answered(process, address, patience=PATIENCE):
    """``address``, once ``process`` answers there."""
    end = time.monotonic() + patience
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return address
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)


@contextmanager
def opened(folder, *flags):
    """Yields what opens a :class:`Tab`, of a browser that keeps its things in ``folder``; ``flags`` are for it too."""
    (theirs, ours), (mine, yours) = os.pipe(), os.pipe()
    script = f'exec "$@" 3<&{theirs} 4>&{yours}'
    command = ["bash", "-c", script, "browser", PROGRAM, *FLAGS[:-1], *flags, f"--user-data-dir={folder}", FLAGS[-1]]
    environment = os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, pass_fds=(theirs, yours), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    os.close(theirs)
    os.close(yours)
    number, rest = 0, b""

    def call(method, session=None, **params):
        nonlocal number, rest
        number += 1
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(ours, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in rest:
                data = os.read(mine, 65536)
                assert data, (folder / "log").read_text(errors="replace")
                rest += data
            line, _, rest = rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def tab():
        target = call("Target.createTarget", url="about:blank")["targetId"]
        return Tab(call, call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    try:
        yield tab
        call("Browser.close")
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(mine)
