"""Pages for a browser: Flask behind waitress, on this machine alone unless another host is named, until interrupted.

A page is a file of :mod:`nca_gen.report`'s templates with a style and a script of its own; it loads nothing from
elsewhere, and needs no network but this server.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nca_gen import report
from nca_gen.errors import UserError

PAGE = Path(report.__path__[0], "templates")
KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
THREADS = 8
EVERYWHERE = ("0.0.0.0", "::")  # hosts that are no address


def libraries(mode: str) -> tuple[Any, Any]:
    """Flask and waitress, which not every installation has. Raises UserError where ``mode`` misses one."""
    try:
        import flask
        import waitress
    except ImportError as e:
        raise UserError(
            f"--mode={mode} needs the library {e.name}: pip install 'nca_gen[{mode}]', or pip install flask waitress"
        ) from e
    return flask, waitress


def application(mode: str) -> Any:
    """A Flask application without a page, whose answers have ``HEADERS`` and no other."""
    flask, _ = libraries(mode)
    made = flask.Flask(mode, static_folder=None)
    made.config["MAX_CONTENT_LENGTH"] = 4096

    @made.after_request
    def alike(response: Any) -> Any:
        response.headers.update(HEADERS)
        return response

    return made


def texts(parts: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """The files of a page by what they are, "html", "css" or "js": each of several templates, one after the other."""
    return {suffix: b"".join((PAGE / name).read_bytes() for name in names) for suffix, names in parts.items()}


def serve(made: Any, host: str, port: int, mode: str, say: Callable[[str], None], lookahead: int = 0) -> None:
    """Serves until it is interrupted, by Ctrl-C or SIGTERM; ``say`` hears the address once it answers.

    ``lookahead`` above 0 lets a page ask whether anybody still waits for it. Raises UserError for a port that is taken.
    """
    _, waitress = libraries(mode)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as e:  # the port is taken, or the host is none
        raise UserError(
            f"cannot serve at {host}:{port} ({e.strerror or e}); choose another --{mode}.port or --{mode}.host"
        ) from e
    how = {"threads": THREADS, "ident": None, "channel_request_lookahead": lookahead}
    server = waitress.create_server(made, sockets=[listener], **how)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that somebody waits a moment is no news
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # before anybody can know that it is there
    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            say(address(host, listener.getsockname()[1]))
            server.run()  # returns when it is interrupted
    finally:
        signal.signal(signal.SIGTERM, former)
        server.close()


def address(host: str, port: int, path: str = "") -> str:
    """Where a browser finds ``path``."""
    name = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/{path}"
