"""What readers are served: one page that is the same for all, tiles of the two pictures of a pair, and their answers.

Nothing here knows which picture is real: that stands in a column which only :func:`readers_answers.answers` and the
drawing of trials read. An address names a reader, a pair, a place and a tile, and no file. All tiles are of one length,
come from one store by one path, and have the same headers, which say nothing of their content or age.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nca_gen import report
from nca_gen.errors import UserError
from nca_gen.verbs import readers_answers as record
from nca_gen.verbs import readers_pictures as pictures

PAGE = Path(report.__path__[0], "templates")
PARTS = {"html": ("reader.html",), "css": ("../style.css", "reader.css"), "js": ("reader.js",)}
KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TOKEN = "<string(length=22):token>"  # of 16 random bytes
TILE = f"/r/{TOKEN}/<int(max=99999):number>/<int(min=1, max=2):place>/<int(max=30):level>"
TILE += "/<int(max=99999):row>/<int(max=99999):column>"
LONGEST = 24 * 60 * 60 * 1000  # milliseconds of an answer
THREADS = 8
EVERYWHERE = ("0.0.0.0", "::")  # hosts that are no address


class Study(NamedTuple):
    """What the server has to know: where the study lies, how many ``pairs`` a reader sees, height and width of every
    picture, and the media type of a tile."""

    folder: Path
    pairs: int
    size: tuple[int, int]
    kind: str


def app(study: Study) -> Any:
    """The WSGI application."""
    flask, _ = libraries()
    application = flask.Flask("readers", static_folder=None)
    application.config["MAX_CONTENT_LENGTH"] = 4096
    texts = {suffix: b"".join((PAGE / name).read_bytes() for name in names) for suffix, names in PARTS.items()}

    def page_state(progress: record.Progress | None) -> Any:
        """How far a reader is, and what the page must know to show a pair."""
        if not progress:
            return flask.Response("not of this study", 404, content_type="text/plain")
        return flask.jsonify(progress._asdict() | {"size": study.size, "tile": pictures.TILE})

    def body(*fields: str) -> list[Any]:
        """The fields of a JSON object, and nothing else: a form of another site cannot send one."""
        value = flask.request.get_json()
        if not isinstance(value, dict) or value.keys() != {*fields}:
            flask.abort(400)
        return [value[field] for field in fields]

    @application.get("/", defaults={"suffix": "html"})
    @application.get(f"/r/{TOKEN}", defaults={"suffix": "html"})
    @application.get("/reader.<any(css, js):suffix>")
    def page(suffix: str, token: str = "") -> Any:
        return flask.Response(texts[suffix], content_type=KINDS[suffix])

    @application.post("/readers")
    def enrol() -> Any:
        [name] = body("name")
        if not isinstance(name, str):
            flask.abort(400)
        return flask.jsonify({"token": record.enrol(study.folder, name, study.pairs)})

    @application.get(f"/r/{TOKEN}/state")
    def state(token: str) -> Any:
        return page_state(record.progress(study.folder, token))

    @application.post(f"/r/{TOKEN}/answers")
    def answer(token: str) -> Any:
        values = body("pair", "choice", "milliseconds")
        if any(type(value) is not int for value in values):  # a bool is one too
            flask.abort(400)
        pair, choice, milliseconds = values
        if choice not in (1, 2) or not 0 <= milliseconds <= LONGEST or not 1 <= pair <= 99999:
            flask.abort(400)
        return page_state(record.answer(study.folder, token, pair, choice, milliseconds))

    @application.get(TILE)
    def tile(token: str, number: int, place: int, level: int, row: int, column: int) -> Any:
        picture = record.picture(study.folder, token, number, place)
        data = picture and pictures.tile(study.folder, picture, level, row, column)
        if not data:
            flask.abort(404)
        return flask.Response(data, content_type=study.kind)

    @application.errorhandler(sqlite3.Error)
    def refused(error: sqlite3.Error) -> Any:
        print(f"an answer or a picture was refused by SQLite: {error}", file=sys.stderr)
        return flask.Response("try again", 503, content_type="text/plain")

    @application.after_request
    def alike(response: Any) -> Any:
        response.headers.update(HEADERS)
        return response

    return application


def libraries() -> tuple[Any, Any]:
    """Flask and waitress, which not every installation has. Raises UserError where one is missing."""
    try:
        import flask
        import waitress
    except ImportError as e:
        raise UserError(
            f"--mode=readers needs the library {e.name}: pip install 'nca_gen[readers]', or pip install flask waitress"
        ) from e
    return flask, waitress


def serve(study: Study, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serves until it is interrupted, by Ctrl-C or SIGTERM; ``say`` hears the address once it answers.

    Raises UserError for a port that is taken.
    """
    _, waitress = libraries()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as e:  # the port is taken, or the host is none
        raise UserError(
            f"cannot serve at {host}:{port} ({e.strerror or e}); choose another --readers.port or --readers.host"
        ) from e
    server = waitress.create_server(app(study), sockets=[listener], threads=THREADS, ident=None)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that readers wait a moment is no news
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # before anybody can know that it is there
    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            say(address(host, listener.getsockname()[1]))
            server.run()  # returns when it is interrupted
    finally:
        signal.signal(signal.SIGTERM, former)
        server.close()


def address(host: str, port: int, token: str = "") -> str:
    """Where a reader goes, who has a ``token`` already or not."""
    name = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/{f'r/{token}' if token else ''}"
