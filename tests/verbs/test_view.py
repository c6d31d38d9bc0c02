"""The plane in a browser's words: tiles that fit together, addresses, and nothing that may be changed."""

import io
import socket
from contextlib import closing

import blur
import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict
from painting import part

from nca_gen import main
from nca_gen.errors import UserError
from nca_gen.pipelines import window
from nca_gen.sections import View
from nca_gen.tiling import plane
from nca_gen.verbs import view, web

BLUR, LEVELS = blur.Model(halo=1), 2
ZERO = 2**31 // 256  # row and column of the tile whose corner is (0, 0)


@pytest.fixture(scope="module")
def pipeline():
    return window.Pipeline({"model": part(BLUR, steps=2)}, tile=100, mpp=(0.5,))


@pytest.fixture(scope="module")
def client(pipeline):
    return view.app(view.Tiles(pipeline), 1, LEVELS).test_client()


def shown(client, path):
    response = client.get(path)
    assert (response.status_code, response.content_type) == (200, "image/png")
    return np.asarray(PIL.Image.open(io.BytesIO(response.data)))


@pytest.mark.slow
def test_tiles_are_rectangles_of_the_plane(client, pipeline):
    """Of the seed in the address, on both sides of the origin and at the ends."""
    for seed, row, column in ((1, ZERO - 1, ZERO), (2, ZERO, ZERO + 7), (1, 0, 2 * ZERO - 1)):
        y, x = ((n - ZERO) * 256 for n in (row, column))
        expected = pipeline.seeded(seed).grow(plane.bounds((y, x, 256, 256)), np.uint8)
        np.testing.assert_array_equal(shown(client, f"/{seed}/0/{row}/{column}"), expected)


@pytest.mark.slow
def test_coarser_tiles_are_means(client, pipeline):
    mine = shown(client, f"/1/1/{ZERO // 2}/{ZERO // 2 - 1}")
    fine = pipeline.seeded(1).grow(plane.bounds((0, -512, 512, 512)), np.uint8)
    means = fine.reshape(256, 2, 256, 2, 3).mean((1, 3))
    assert np.abs(mine - means).max() <= 0.5


@pytest.mark.slow
def test_a_tile_is_grown_once(pipeline):
    tiles = view.Tiles(pipeline)
    get = lambda left: tiles.get(3, 1, ZERO // 2, ZERO // 2, lambda: left)
    first = get(False)
    calls = tiles.seeded(3).calls
    assert get(True) is first  # it is there, whoever waits
    assert tiles.seeded(3).calls == calls
    assert tiles.kept.bytes == 5 * 256 * 256 * 3


@pytest.mark.slow
def test_nothing_is_grown_for_nobody(pipeline):
    """Who leaves is missed before the first call and after each; what was grown until then serves the next one."""
    tiles, calls = view.Tiles(pipeline), []

    def left():
        calls.append(tiles.seeded(4).calls)
        return len(calls) == 4

    with pytest.raises(view.LeftError):
        tiles.get(4, 1, 7, 7, left)
    assert calls == [0, 1, 2, 3]
    assert tiles.kept.bytes == 0
    alone = view.Tiles(window.Pipeline(pipeline.parts, tile=100))
    np.testing.assert_array_equal(tiles.get(4, 0, 14, 14, lambda: False), alone.get(4, 0, 14, 14, lambda: False))
    assert tiles.seeded(4).calls == alone.seeded(4).calls
    tiles.end()
    with pytest.raises(view.LeftError):
        tiles.get(4, 0, 90, 90, lambda: False)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 302),
        ("/1", 200),
        ("/4294967295", 200),
        ("/4294967296", 404),
        ("/-1", 404),
        ("/view.js", 200),
        ("/view.css", 200),
        ("/view.html", 404),
        ("/plane", 200),
        (f"/1/3/{ZERO // 8}/0", 404),  # a level too many
        (f"/1/0/0/{2 * ZERO}", 404),
        (f"/1/2/{2 * ZERO // 4}/0", 404),
        ("/1/0/-1/0", 404),
        ("/1/0/0", 404),
        ("/1/0/0/0/0", 404),
        ("/../pyproject.toml", 404),
    ],
)
def test_addresses(client, path, status):
    response = client.get(path)
    assert response.status_code == status
    assert {*response.headers.keys()} - {"Location"} == {"Content-Type", "Content-Length", *web.HEADERS}
    if status == 302:
        assert response.location == "/1"
    for change in (client.post, client.put, client.delete, client.patch):
        assert change(path).status_code in (404, 405)


def test_what_the_page_is_told(client):
    assert client.get("/plane").get_json() == {"tile": 256, "edge": 2**31, "levels": LEVELS, "mpp": [0.5, 0.5]}


def test_the_page_loads_nothing_from_elsewhere(client):
    for path in ("/1", "/view.js", "/view.css"):
        assert b"http" not in client.get(path).data.replace(b"http-equiv", b"")


def test_it_listens_to_this_machine_alone():
    assert View().host == "127.0.0.1"


@pytest.fixture
def parts(monkeypatch):
    """What is opened instead of a run."""
    monkeypatch.setattr(view.run, "parts", lambda config, workdir: {"model": part(BLUR, steps=2)})
    served = []
    monkeypatch.setattr(web, "serve", lambda made, *how, **more: served.append((made, how, more)))
    return served


@pytest.mark.slow
def test_the_command(parts):
    """How it is served; and how large a pixel is, from whatever else the run generates."""
    view.view(
        ConfigDict({"seed": 9, "view": {"port": 0, "levels": 1}, "generate": {"name": "sample", "mpp": (2.0,)}}), "w"
    )
    [(made, (host, port, mode, _), more)] = parts
    assert (host, port, mode, more) == ("127.0.0.1", 0, "view", {"lookahead": 1})
    known = made.test_client()
    assert known.get("/").location == "/9"
    assert known.get("/plane").get_json() == {"tile": 256, "edge": 2**31, "levels": 1, "mpp": [2.0, 2.0]}


def test_no_room_for_a_tile_is_said_first(parts):
    generate = {"name": "window", "cache_gb": 1e-5}
    with pytest.raises(UserError, match="cache_gb to more"):
        view.view(ConfigDict({"seed": 0, "generate": generate}), "w")
    assert parts == []


def test_a_port_that_is_taken_is_said(pipeline):
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot serve at 127.0.0.1:{port} .*choose another --view.port"):
            web.serve(view.app(view.Tiles(pipeline), 1, 0), "127.0.0.1", port, "view", print)


def test_there_is_no_plane_of_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.run(["--mode=view", "--workdir=nowhere"]) == 2
    assert capsys.readouterr().err == "error: there is no run in nowhere; train first, or correct --workdir\n"
