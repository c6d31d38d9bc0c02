"""--mode=view: the plane without an end that a rule grows from a seed, in a browser; what is looked at is grown then.

Tiles are squares of the plane at any place (:mod:`nca_gen.tiling.plane`), so they fit together, and are those of
config.generate.name=window to the byte. Coarser ones are means of four finer ones. The address names the seed and the
place: ``/7#y=-120&x=4096&zoom=1``.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from nca_gen import build
from nca_gen.io.deepzoom import RGB, TILE, encoded, halved, rgb
from nca_gen.pipelines import files, window
from nca_gen.runtime import run
from nca_gen.sections import View
from nca_gen.tiling import plane
from nca_gen.tiling.plane import EDGE, Cache
from nca_gen.verbs import web

PARTS = {"html": ("view.html",), "css": ("../style.css", "viewer.css", "view.css"), "js": ("viewer.js", "view.js")}
SHOWN = 2**28  # bytes of tiles that are ready to be sent
SEED = "<int(max=4294967295):seed>"


def main(config: Any, args: Namespace) -> None:
    """--mode=view."""
    view(config, args.workdir)


def view(config: Any, workdir: str | Path) -> None:
    """Serves the plane of the rule in ``workdir`` until it is interrupted.

    Raises UserError for a rule that has no plane, and for a cache in which no tile has room.
    """
    plan = View(**build.fields(config, "view"))
    web.libraries("view")
    pipeline = planes(config, run.parts(config, workdir))
    here = pipeline.seeded(config.seed)
    for one in here.all:
        plane.parts(one.job, plane.bounds((0, 0, TILE, TILE)), here.cache.most)
        _ = one.run  # compiled, or refused, before anybody waits for it
    tiles = Tiles(pipeline)
    say = lambda address: print(f"the plane of seed {config.seed} is at {address} (Ctrl-C ends)", flush=True)
    web.serve(app(tiles, config.seed, plan.levels), plan.host, plan.port, "view", say, lookahead=1)
    tiles.end()


def planes(config: Any, parts: Any) -> window.Pipeline:
    """What grows rectangles: ``config.generate``, where that is of another pipeline only how large a pixel is."""
    generate = config.get("generate", {})
    if generate.get("name") == "window":
        return build.pipeline(config, parts)
    return window.Pipeline(parts, mpp=tuple(generate.get("mpp", ())))


class LeftError(Exception):
    """Nobody waits any more for what is grown."""


class Tiles:
    """Tiles of planes as they are shown. Level 0 is the full size, level l halved l times.

    Rows and columns count from the upper left end of the plane, at (-2^31, -2^31). One tile is grown at a time.
    """

    def __init__(self, pipeline: window.Pipeline):
        """``pipeline``: whose planes."""
        self.pipeline, self.seeded, self.ended = pipeline, lru_cache(8)(pipeline.seeded), False
        self.growing, self.looking, self.kept = Lock(), Lock(), Cache(SHOWN)

    def get(self, seed: int, level: int, row: int, column: int, left: Callable[[], bool]) -> RGB:
        """A tile, grown if it is not there. Raises LeftError once nobody waits for it, as ``left`` says."""
        name = seed, level, row, column
        with self.looking:
            pixels = self.kept.get(name)
        if pixels is None:
            pixels = self.halved(seed, level, row, column, left) if level else self.grown(seed, row, column, left)
            with self.looking:
                self.kept.put(name, pixels, pixels.nbytes)
        return pixels

    def halved(self, seed: int, level: int, row: int, column: int, left: Callable[[], bool]) -> RGB:
        """The mean of four tiles of the level before."""
        lines = [
            np.concatenate([self.get(seed, level - 1, 2 * row + i, 2 * column + j, left) for j in (0, 1)], 1)
            for i in (0, 1)
        ]
        return halved(np.concatenate(lines))

    def grown(self, seed: int, row: int, column: int, left: Callable[[], bool]) -> RGB:
        """A tile of level 0, of what the plane knows or does not know yet."""
        box = plane.bounds((row * TILE - EDGE, column * TILE - EDGE, TILE, TILE))

        def tick(pixels: float = 0.0) -> None:
            if self.ended or left():
                raise LeftError

        with self.growing:
            tick()
            return rgb(self.seeded(seed).grow(box, np.uint8, tick))

    def end(self) -> None:
        """Returns when nothing is grown, now or later: what runs where the process ends would break it."""
        self.ended = True
        with self.growing:
            pass


def app(tiles: Tiles, seed: int, levels: int) -> Any:
    """The WSGI application: the plane of ``seed`` first, ``levels`` of coarser tiles."""
    flask, _ = web.libraries("view")
    application, texts = web.application("view"), web.texts(PARTS)
    mpp = files.sides(tiles.pipeline.mpp, 2)

    @application.get("/")
    def first() -> Any:
        return flask.redirect(f"/{seed}")

    @application.get(f"/{SEED}", defaults={"suffix": "html"})
    @application.get("/view.<any(css, js):suffix>")
    def page(suffix: str, seed: int = 0) -> Any:
        return flask.Response(texts[suffix], content_type=web.KINDS[suffix])

    @application.get("/plane")
    def known() -> Any:
        return flask.jsonify({"tile": TILE, "edge": EDGE, "levels": levels, "mpp": mpp})

    @application.get(f"/{SEED}/<int(max={levels}):level>/<int:row>/<int:column>")
    def tile(seed: int, level: int, row: int, column: int) -> Any:
        if max(row, column) >= 2 * EDGE // (TILE << level):
            flask.abort(404)
        gone = flask.request.environ.get("waitress.client_disconnected", lambda: False)
        try:
            return flask.Response(encoded(tiles.get(seed, level, row, column, gone), 0), content_type="image/png")
        except LeftError:
            return flask.Response("nobody waits for it", 503, content_type="text/plain")

    return application
