"""What readers are served: one page that is the same for all, tiles of the two pictures of a pair, and their answers.

Nothing here knows which picture is real: that stands in a column which only :func:`readers_answers.answers` and the
drawing of trials read. An address names a reader, a pair, a place and a tile, and no file. All tiles are of one length,
come from one store by one path, and have the same headers, which say nothing of their content or age.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nca_gen.verbs import readers_answers as record
from nca_gen.verbs import readers_pictures as pictures
from nca_gen.verbs import web

PARTS = {
    "html": ("reader.html",),
    "css": ("../style.css", "viewer.css", "reader.css"),
    "js": ("viewer.js", "reader.js"),
}
TOKEN = "<string(length=22):token>"  # of 16 random bytes
TILE = f"/r/{TOKEN}/<int(max=99999):number>/<int(min=1, max=2):place>/<int(max=30):level>"
TILE += "/<int(max=99999):row>/<int(max=99999):column>"
LONGEST = 24 * 60 * 60 * 1000  # milliseconds of an answer


class Study(NamedTuple):
    """What the server has to know: where the study lies, how many ``pairs`` a reader sees, height and width of every
    picture, and the media type of a tile."""

    folder: Path
    pairs: int
    size: tuple[int, int]
    kind: str


def app(study: Study) -> Any:
    """The WSGI application."""
    flask, _ = web.libraries("readers")
    application, texts = web.application("readers"), web.texts(PARTS)

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
        return flask.Response(texts[suffix], content_type=web.KINDS[suffix])

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

    return application


def serve(study: Study, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serves ``study`` until it is interrupted, see :func:`nca_gen.verbs.web.serve`."""
    web.serve(app(study), host, port, "readers", say)


def address(host: str, port: int, token: str) -> str:
    """Where the reader of ``token`` goes on."""
    return web.address(host, port, f"r/{token}")
