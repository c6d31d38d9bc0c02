"""The study of readers: blind, balanced, and nothing lost."""

import csv
import io
import json
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import PIL.Image
import pytest
import tifffile

from nca_gen import main
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.sections import Readers
from nca_gen.verbs import readers, readers_server, web
from nca_gen.verbs import readers_answers as record
from nca_gen.verbs import readers_pictures as pictures
from nca_gen.verbs import readers_server as server

SIZE = (300, 270)  # two by two tiles, and one of half the size


def tissue(rng, size=SIZE, channels=3):
    return rng.integers(0, 256, (*size, channels), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Real files of many kinds, and synthetic ones that a compressor makes short: whatever can give a set away."""
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for name in ("real", "synthetic"):
        (folder / name).mkdir()
    for i in range(4):
        images.write(folder / "real" / f"case{i}.png", tissue(rng))
        PIL.Image.fromarray(np.full((*SIZE, 3), 40 * i + 20, np.uint8)).save(folder / "synthetic" / f"fake{i}.png")
    images.write(folder / "real" / "grey.tif", (tissue(rng, (310, 290), 1).astype(np.uint16) << 8))
    PIL.Image.fromarray(tissue(rng)).save(folder / "real" / "scan.jpg", dpi=(300, 300), comment=b"scanner 7")
    for i in (4, 5):
        images.write(folder / "synthetic" / f"fake{i}.png", np.full((*SIZE, 1), 40 * i, np.uint8))
    return folder


@pytest.fixture(scope="module")
def prepared(folders):
    """A study of pairs of the sets; tests that change it take a copy."""
    plan = Readers(str(folders / "real"), str(folders / "synthetic"), fit="crop")
    (folders / "study").mkdir()
    return readers.prepare(plan, folders / "study")


@pytest.fixture
def study(prepared, tmp_path):
    for name in (record.FILE, pictures.FILE, readers.FACTS, readers.CONFIG):
        (tmp_path / name).write_bytes((prepared.folder / name).read_bytes())
    return prepared._replace(folder=tmp_path)


def query(folder, text, *values, file=record.FILE):
    with closing(sqlite3.connect(folder / file)) as store, store:
        return store.execute(text, values).fetchall()


def level(folder, picture, number, rows, columns):
    """What a browser puts together of a level of a picture."""
    tile = lambda r, c: PIL.Image.open(io.BytesIO(pictures.tile(folder, picture, number, r, c)))
    return np.concatenate([np.concatenate([np.asarray(tile(r, c)) for c in range(columns)], 1) for r in range(rows)])


# Pictures.


@pytest.mark.slow
def test_tiles_are_the_picture_and_coarser_ones_its_means():
    rng = np.random.default_rng(1)
    picture, tiles = tissue(rng, (1030, 513)), {}
    read = lambda top, left, height, width: picture[top : top + height, left : left + width]
    pictures.pyramid(read, (1030, 513), lambda *place: tiles.update({place[:3]: place[3]}))
    assert pictures.levels((1030, 513)) == [(1030, 513), (515, 257), (258, 129), (129, 65)]
    assert Counter(place[0] for place in tiles) == {0: 5 * 3, 1: 3 * 2, 2: 2, 3: 1}
    for number, (height, width) in enumerate(pictures.levels((1030, 513))):
        rows = [[tiles[number, r, c] for c in range(-(-width // 256))] for r in range(-(-height // 256))]
        whole = np.concatenate([np.concatenate(row, 1) for row in rows])
        assert whole.shape == (height, width, 3)
        side = 2**number
        inner = picture[: 1030 // side * side, : 513 // side * side].astype(float)
        means = inner.reshape(1030 // side, side, 513 // side, side, 3).mean((1, 3))
        assert np.abs(whole[: means.shape[0], : means.shape[1]] - means).max() <= 0.5 * number  # rounded at every level
    assert (tiles[1, 0, 1][:, 0] == (picture[:512:2, 512].astype(int) + picture[1:512:2, 512] + 1) // 2).all()


@pytest.mark.slow
def test_a_slide_is_read_tile_by_tile_and_cut_out_of_its_middle(tmp_path):
    """Its own pyramid, here a black one, is not shown: scanners and programs make theirs in ways of their own."""
    pixels = tissue(np.random.default_rng(2), (700, 620))
    with tifffile.TiffWriter(tmp_path / "slide.tif") as file:
        file.write(pixels, tile=(128, 128), photometric="rgb", compression="zlib")
        file.write(np.zeros((350, 310, 3), np.uint8), tile=(128, 128), photometric="rgb", subfiletype=1)
    one, plan = pictures.original(tmp_path / "slide.tif"), pictures.Plan("crop", (600, 512), 0)
    assert (one.size, one.codec) == ((700, 620), "TIFF, deflate")
    pictures.prepare(tmp_path, [(7, one)], plan)
    assert (level(tmp_path, 7, 0, 3, 2) == pixels[50:650, 54:566]).all()
    means = pixels[50:650, 54:566].reshape(300, 2, 256, 2, 3).mean((1, 3))
    assert np.abs(level(tmp_path, 7, 1, 2, 1) - means).max() <= 0.5


@pytest.mark.slow
def test_resized_pictures_show_all_that_fits_and_no_seams(tmp_path):
    """Tiles, each resized by itself, are the whole picture resized at once and cut."""
    plan = pictures.Plan("resize", (300, 300), 0)
    assert pictures.box((600, 900), plan) == (0, 150, 600, 600)
    rows, columns = np.indices((600, 900)) / 9
    waves = 128 + 100 * np.sin(rows + np.cos(columns))[..., None] * [1, 0.8, 0.6]
    images.write(tmp_path / "a.png", np.uint8(waves))
    pictures.prepare(tmp_path, [(1, pictures.original(tmp_path / "a.png"))], plan)
    whole = images.resize(np.uint8(waves), (300, 450))[:, 75:375]
    assert np.abs(level(tmp_path, 1, 0, 2, 2).astype(int) - whole).max() <= 1


@pytest.mark.slow
def test_what_was_prepared_before_a_stop_is_not_made_again(folders, tmp_path, monkeypatch):
    plan = Readers(str(folders / "real"), str(folders / "synthetic"), fit="crop", quality=80)
    encoded, calls = pictures.encoded, []

    def stops(pixels, quality):
        calls.append(len(pixels))
        if len(calls) == 13:
            raise KeyboardInterrupt
        return encoded(pixels, quality)

    monkeypatch.setattr(pictures, "encoded", stops)
    with pytest.raises(KeyboardInterrupt):
        readers.prepare(plan, tmp_path)
    assert query(tmp_path, "SELECT count(*) FROM finished", file=pictures.FILE) == [(2,)]
    assert query(tmp_path, "SELECT count(*) FROM tiles", file=pictures.FILE) == [(10,)]
    readers.prepare(plan, tmp_path)
    assert len(calls) == 13 + 10 * 5
    assert query(tmp_path, "SELECT count(*) FROM tiles", file=pictures.FILE) == [(12 * 5,)]
    monkeypatch.setattr(pictures, "encoded", None)
    assert readers.prepare(plan, tmp_path).kind == "image/jpeg"


def test_what_may_tell_the_sets_apart_is_said():
    """Of files, before the server has anything to do with it."""
    one = pictures.Original(Path("a"), (600, 600), "PNG", (0.25, 0.25))
    said = lambda other, fit="resize": pictures.doubts([one], [other], pictures.Plan(fit, (300, 300), 0))
    assert said(one) == said(one._replace(mpp=())) == []
    [codecs] = said(one._replace(codec="JPEG quality 75, 4:2:0"))
    assert "PNG, of the synthetic ones JPEG quality 75, 4:2:0" in codecs
    [cells] = said(one._replace(mpp=(0.5, 0.5)))
    assert "0.5 µm wide in real pictures and 1 µm in synthetic ones" in cells
    [cells, sharp] = said(one._replace(size=(300, 300)))
    assert "0.5 µm wide in real pictures and 0.25 µm" in cells
    assert "reduced 2 times, synthetic ones 1 times" in sharp
    assert said(one._replace(size=(300, 300)), "crop") == []
    [grey] = said(one._replace(grey=True))
    assert grey.startswith("0 of 1 real pictures and 1 of 1 synthetic ones are grey, the others in colour")


def test_a_picture_is_grey_where_it_has_no_colours(tmp_path):
    """In one channel or in three, as a slide too; what JPEG makes of grey is no colour."""
    rng = np.random.default_rng(3)
    grey = tissue(rng, (64, 64), 1)
    images.write(tmp_path / "one.png", grey)
    images.write(tmp_path / "three.png", grey.repeat(3, -1))
    PIL.Image.fromarray(grey.repeat(3, -1)).save(tmp_path / "three.jpg", quality=60)
    images.write(tmp_path / "deep.tif", grey.astype(np.uint16) << 8)
    tifffile.imwrite(tmp_path / "slide.tif", grey.repeat(3, -1), tile=(64, 64), photometric="rgb")
    coloured = grey.repeat(3, -1)
    coloured[30, 30] = 90, 90, 120
    images.write(tmp_path / "spot.png", coloured)
    tifffile.imwrite(tmp_path / "stained.tif", coloured, tile=(64, 64), photometric="rgb")
    found = {one.path.name for one in pictures.originals(str(tmp_path), "--readers.real") if one.grey}
    assert found == {"one.png", "three.png", "three.jpg", "deep.tif", "slide.tif"}


# Blindness.


def look(study, token):
    """All that a reader can be sent before the first answer: (address, status, headers, bytes)."""
    client = server.app(study).test_client()
    places = [(0, r, c) for r in range(2) for c in range(2)] + [(1, 0, 0)]
    paths = ["/", "/reader.js", "/reader.css", f"/r/{token}", f"/r/{token}/state"]
    tiles = [f"/r/{token}/{pair}/{place}/{lv}/{r}/{c}" for pair in (1, 2) for place in (1, 2) for lv, r, c in places]
    for path in [*paths, *tiles]:
        response = client.get(path)
        yield path, response.status_code, [*response.headers], response.data


@pytest.mark.slow
def test_nothing_that_is_sent_depends_on_the_truth(study):
    """With every real picture declared synthetic and the other way round, all bytes are the same."""
    token = record.enrol(study.folder, "", 4)
    before = [*look(study, token)]
    query(study.folder, "UPDATE pictures SET real = 1 - real")
    assert [*look(study, token)] == before
    assert all(status == 200 for _, status, _, _ in before)


@pytest.mark.slow
def test_tiles_are_alike_but_for_their_pixels(study):
    """One length, one set of headers, one form of PNG without a word in it; what flat pictures lack is filled up."""
    token = record.enrol(study.folder, "", 4)
    tiles = [row for row in look(study, token) if row[0].count("/") == 7]
    assert len(tiles) == 20
    assert len({repr(headers) for _, _, headers, _ in tiles}) == 1
    assert {name for name, _ in tiles[0][2]} == {"Content-Type", "Content-Length", *web.HEADERS}
    [length] = {len(data) for *_, data in tiles}
    assert {n for (n,) in query(study.folder, "SELECT length(data) FROM tiles", file=pictures.FILE)} == {length}
    heads, ends = {}, []
    for path, _, _, data in tiles:
        kinds, at = [], 8
        while kinds[-1:] != [b"IEND"]:
            (n,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
            kinds, at = [*kinds, kind], at + 12 + n
        assert {*kinds} == {b"IHDR", b"IDAT", b"IEND"}
        assert not data[at:].strip(b"\0")
        heads.setdefault(path.split("/", 5)[5], set()).add(data[8:33])
        ends.append(at)
    assert all(len(head) == 1 for head in heads.values())
    assert max(ends) > 20 * min(ends)  # as they are, the lengths would tell
    named = b" ".join(data for *_, data in look(study, token))
    assert not re.search(rb"case\d|fake\d|scanner|synthetic/|\.png", named)


@pytest.mark.slow
def test_tiles_of_real_and_synthetic_pictures_take_the_same_way(study, monkeypatch):
    """So that time tells nothing: the same questions to the same files for every tile, nothing encoded on the way.

    Each tile lies in as many pages, one after the other, though some were filled up after they had been stored.
    """
    token, asked = record.enrol(study.folder, "", 4), []
    client, connect = server.app(study).test_client(), sqlite3.connect
    real = {i for (i,) in query(study.folder, "SELECT id FROM pictures WHERE real")}
    first = {n: a in real for n, a in query(study.folder, "SELECT number, first FROM trials")}

    def listened(path, **how):
        store = connect(path, **how)
        store.set_trace_callback(lambda text: asked.append((Path(path).name, re.sub(r"\d+|'.*?'", "?", text))))
        return store

    monkeypatch.setattr(sqlite3, "connect", listened)
    monkeypatch.setattr(pictures, "encoded", None)
    ways = {True: [], False: []}
    for pair in (1, 2):
        for place in (1, 2):
            for tile in ("0/0/0", "0/1/1", "1/0/0"):
                asked.clear()
                assert client.get(f"/r/{token}/{pair}/{place}/{tile}").status_code == 200
                way = [(name, re.sub("first|second", "place", text)) for name, text in asked]
                ways[first[pair] == (place == 1)].append(way)
    assert len(ways[True]) == len(ways[False]) == 6
    assert len({repr(way) for way in ways[True] + ways[False]}) == 1
    monkeypatch.undo()
    try:
        pages = query(
            study.folder,
            "SELECT path, pageno FROM dbstat WHERE name = 'tiles' AND pagetype = 'overflow' ORDER BY path",
            file=pictures.FILE,
        )
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat, which tells where tiles lie")
    chains = {}
    for path, page in pages:
        chains.setdefault(path.partition("+")[0], []).append(page)
    assert len(chains) == 12 * 5
    assert len({len(chain) for chain in chains.values()}) == 1
    assert all(chain == [*range(chain[0], chain[0] + len(chain))] for chain in chains.values())


def test_pairs_of_a_reader_are_balanced_and_their_own(study):
    """Real first as often as second, nothing twice; over readers every picture equally often, in other orders."""
    orders = []
    for _ in range(3):
        record.enrol(study.folder, "", 4)
    real = {i for (i,) in query(study.folder, "SELECT id FROM pictures WHERE real")}
    shown = Counter()
    for reader in (1, 2, 3):
        pairs = query(study.folder, "SELECT first, second FROM trials WHERE reader = ? ORDER BY number", reader)
        assert [len({*pair} & real) for pair in pairs] == [1] * 4
        assert sum(first in real for first, _ in pairs) == 2
        assert len({i for pair in pairs for i in pair}) == 8
        shown.update(i for pair in pairs for i in pair)
        orders.append(pairs)
    assert {*shown.values()} == {2}
    assert len(shown) == 12
    assert len({repr(order) for order in orders}) == 3
    halves = [sum(record._halves(5)) for _ in range(60)]
    assert {*halves} == {2, 3}


def test_no_order_is_that_of_a_seed_or_of_the_files(folders, tmp_path):
    """Numbers of pictures are by chance: tiles lie in their order, and their addresses in a file would tell."""
    orders = []
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        known = [record.Picture(real, f"{real}{n}", f"{real}{n}") for real in (True, False) for n in range(9)]
        orders.append([picture.real for _, picture in record.begin(tmp_path / str(i), known)])
    assert len({tuple(order) for order in orders}) > 1


# Answers.


def test_the_first_answer_stands_whatever_comes_after_it(study):
    token = record.enrol(study.folder, "", 2)
    assert record.answer(study.folder, token, 2, 1, 10) is None  # not its turn
    assert record.answer(study.folder, token, 1, 2, 1234) == (2, 1, True)
    assert record.answer(study.folder, token, 1, 2, 9999) == (2, 1, True)  # sent again
    assert record.answer(study.folder, token, 1, 1, 9999) == (2, 1, False)  # another tab
    assert record.answer(study.folder, token, 2, 1, 10) == (2, 2, True)
    assert record.answer(study.folder, token, 3, 1, 10) is None
    assert record.answer(study.folder, "x" * 22, 1, 1, 10) is None
    assert query(study.folder, "SELECT number, choice, milliseconds FROM answers") == [(1, 2, 1234), (2, 1, 10)]


def test_many_tabs_at_once_leave_one_answer(study):
    token = record.enrol(study.folder, "", 2)
    send = lambda i: (1 + i % 2, record.answer(study.folder, token, 1, 1 + i % 2, i))
    with ThreadPoolExecutor(8) as pool:
        said = [*pool.map(send, range(16))]
    [(choice,)] = query(study.folder, "SELECT choice FROM answers")
    assert all(progress == (2, 1, mine == choice) for mine, progress in said)


def test_a_process_that_dies_within_an_answer_leaves_all_that_was_before(study):
    token = record.enrol(study.folder, "", 2)
    record.answer(study.folder, token, 1, 2, 10)
    dies = "import os, sys, pathlib; from nca_gen.verbs import readers_answers as record\n"
    dies += "with record.transaction(pathlib.Path(sys.argv[1])) as study:\n"
    dies += "    study.execute('INSERT INTO answers VALUES (1, 2, 1, 10, 0)'); os._exit(9)"
    done = subprocess.run([sys.executable, "-c", dies, str(study.folder)], check=False, env=os.environ)
    assert done.returncode == 9
    assert record.progress(study.folder, token) == (2, 1, True)
    assert record.answer(study.folder, token, 2, 2, 10) == (2, 2, True)
    assert query(study.folder, "PRAGMA integrity_check") == [("ok",)]


# The server.


def test_what_is_no_answer_is_refused_and_what_comes_later_is_not_shown(study):
    token = record.enrol(study.folder, "", 4)
    client, path = server.app(study).test_client(), f"/r/{token}/answers"
    good = {"pair": 1, "choice": 1, "milliseconds": 900}
    bad = [{}, [], 1, good | {"choice": 3}, good | {"choice": True}, good | {"choice": "1"}, good | {"more": 1}]
    bad += [good | {"milliseconds": n} for n in (-1, 1.5, 1e99, 2**70)] + [good | {"pair": 2**70}, good | {"pair": 0}]
    assert [client.post(path, json=body).status_code for body in bad] == [400] * len(bad)
    assert client.post(path, data=good).status_code == 415  # a form, which another site could send
    assert client.post(path, json=good | {"pair": 2}).status_code == 404
    assert client.post(path, data=b"{" + b" " * 9999, content_type="application/json").status_code == 413
    assert client.post("/readers", json={"name": 7}).status_code == 400
    tiles = [f"/r/{token}/{pair}/1/0/0/0" for pair in (1, 2, 3, 4, 0, 5)]
    assert [client.get(tile).status_code for tile in tiles] == [200, 200, 404, 404, 404, 404]
    assert client.get(f"/r/{token}/1/3/0/0/0").status_code == 404
    assert client.get(f"/r/{token}/1/1/9/0/0").status_code == 404
    assert query(study.folder, "SELECT * FROM answers") == []
    other = record.enrol(study.folder, "", 4)
    assert client.post(path, json=good).get_json() == {
        **{"pairs": 4, "done": 1, "stands": True},
        **{"size": [*SIZE], "tile": 256},
    }
    assert client.get(f"/r/{other}/state").get_json()["done"] == 0


def test_a_store_that_cannot_be_written_loses_no_answer(study, capsys):
    """The page hears that it must try again, and the answer is taken then."""
    token = record.enrol(study.folder, "", 2)
    client, body = server.app(study).test_client(), {"pair": 1, "choice": 1, "milliseconds": 1}
    (study.folder / record.FILE).rename(study.folder / "away")
    assert client.post(f"/r/{token}/answers", json=body).status_code == 503
    assert "unable to open" in capsys.readouterr().err
    (study.folder / "away").rename(study.folder / record.FILE)
    assert client.post(f"/r/{token}/answers", json=body).get_json()["done"] == 1


@contextmanager
def served(study):
    """The host and port of a server in this process."""
    _, waitress = web.libraries("readers")
    one = waitress.create_server(server.app(study), host="127.0.0.1", port=0, ident=None)
    thread = Thread(target=one.run)
    thread.start()
    try:
        yield "127.0.0.1", one.effective_port
    finally:
        one.trigger.pull_trigger(one.close)  # on its own thread
        thread.join()


def test_no_address_leads_to_a_file(study):
    """As they stand on the wire: a client would tidy them up."""
    up = "/".join([".."] * 12)
    paths = [f"/{up}/etc/passwd", "/..%2f..%2f..%2fetc/passwd", f"/static/{up}/etc/passwd", "/study.sqlite"]
    paths += [f"/r/{up}/study.sqlite", f"/r/{'.' * 22}/1/1/0/0/..", "//etc/passwd", "/reader.py", "/reader.html"]
    paths += [f"file://{study.folder}/study.sqlite", f"{study.folder}/study.sqlite", "/%00", "/r/%2e%2e/state"]
    paths += [f"/r/{'x' * 22}/1/1/0/0/{2**80}", f"/r/{'x' * 22}/state", f"/r/{'x' * 22}/1/1/0/0/-1"]
    with served(study) as place:
        for path in paths:
            with socket.create_connection(place, timeout=20) as wire:
                wire.sendall(f"GET {path} HTTP/1.0\r\nHost: study\r\n\r\n".encode())
                answer = b"".join(iter(lambda: wire.recv(65536), b""))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert re.match(rb"HTTP/1.0 (400|404) ", head), (path, head)
            assert b"root:" not in body
            assert b"SQLite" not in body
            assert b"Server:" not in head


# The report.


def test_the_report_of_known_answers(study, capsys):
    """Two readers: one of four pairs wrong, all two wrong; a name that is a formula and markup stays words."""
    real = {i for (i,) in query(study.folder, "SELECT id FROM pictures WHERE real")}
    for name, wrong, pairs in (("=1+1 <b>Ann</b>\n", (3,), 4), ("", (1, 2), 2)):
        token = record.enrol(study.folder, name, 4)
        reader = query(study.folder, "SELECT max(id) FROM readers")[0][0]
        places = query(study.folder, "SELECT number, first FROM trials WHERE reader = ? ORDER BY number", reader)
        for number, first in places[:pairs]:
            truth = 1 if first in real else 2
            record.answer(study.folder, token, number, 3 - truth if number in wrong else truth, 1000 * number)
    record.enrol(study.folder, "never began", 4)
    assert main.run(["--mode=readers", f"--workdir={study.folder}", "--readers.serve=false"]) == 0
    out = capsys.readouterr().out
    facts = json.loads((study.folder / "readers.json").read_text())
    one, two = facts["readers"].values()
    assert (one["tp"], one["fp"], one["p"], one["seconds"]) == (3, 1, 0.25, 2.5)
    assert one["chance"] == pytest.approx(2 * 5 / 16)
    assert (two["tp"], two["fp"], two["apart"]) == (0, 2, 0.5)
    assert (facts["total"]["n"], facts["total"]["apart"]) == (6, pytest.approx((1 + 1) / 6))
    assert re.search(r"Total +6 +3 +3 +0.5000 +0.3333 ", out)
    rows = [*csv.DictReader(io.StringIO((study.folder / "answers.csv").read_text()))]
    assert [row["right"] for row in rows] == ["1", "1", "0", "1", "0", "0"]
    assert rows[0]["name"] == "'=1+1 <b>Ann</b>"
    assert all("/real/" in row["real"] and "/synthetic/" in row["synthetic"] for row in rows)
    assert {row["real_at"] == row["choice"] for row in rows if row["right"] == "1"} == {True}
    html = (study.folder / "readers.html").read_text()
    assert "&lt;b&gt;Ann&lt;/b&gt;" in html
    assert "never began (0 of 4)" in html
    assert "2 (no name) (2 of 4)" in html
    assert "blocks of JPEG" in html  # one real file is one


def test_no_answers_are_no_report(study, capsys):
    record.enrol(study.folder, "", 4)
    assert main.run(["--mode=readers", f"--workdir={study.folder}", "--readers.serve=false"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no answers yet; readers: 1\n")


def test_links_are_listed_again_on_the_screen_alone(study, capsys):
    """A reader who has lost theirs goes on where they were; the report, which is passed on, opens no study."""
    tokens = [record.enrol(study.folder, name, 2) for name in ("Ann", "")]
    record.answer(study.folder, tokens[0], 1, 1, 900)
    flags = ["--readers.serve=false", "--readers.host=study.lab", "--readers.port=80"]
    assert main.run(["--mode=readers", f"--workdir={study.folder}", *flags]) == 0
    *_, one, two = capsys.readouterr().out.splitlines()
    assert one.split() == ["1", "Ann", f"http://study.lab:80/r/{tokens[0]}"]
    assert two.split() == ["2", "(no", "name)", f"http://study.lab:80/r/{tokens[1]}"]
    written = b"".join((study.folder / name).read_bytes() for name in ("readers.html", "readers.json", "answers.csv"))
    assert not any(token.encode() in written for token in tokens)
    assert record.progress(study.folder, tokens[0]) == (2, 1, True)


@pytest.mark.slow
def test_a_server_that_is_asked_to_end_writes_its_report(study):
    """By a scheduler: the answers so far are a page, and the process ends well."""
    record.answer(study.folder, record.enrol(study.folder, "Ann", 2), 1, 1, 900)
    command = [sys.executable, "-m", "nca_gen.main", "--mode=readers", f"--workdir={study.folder}", "--readers.port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout.readline().startswith("readers begin at http://127.0.0.1:")
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "the page is" in out
    assert json.loads((study.folder / "readers.json").read_text())["total"]["n"] == 1


def test_a_server_may_be_ended_as_soon_as_it_is_said(study):
    handler, heard = signal.getsignal(signal.SIGTERM), []

    def say(address):
        heard.append(address)
        signal.raise_signal(signal.SIGTERM)

    readers_server.serve(study, "127.0.0.1", 0, say)
    assert heard
    assert signal.getsignal(signal.SIGTERM) == handler


# The command line.


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("", "name the pictures: --readers.real=DIR --readers.synthetic=DIR"),
        ("--readers.real=nowhere --readers.synthetic=.", "--readers.real: there is no folder 'nowhere'"),
        ("--readers.real=. --readers.synthetic={d}/real", "--readers.real: there is no picture and no slide in ."),
        ("--readers.real={d}/real --readers.synthetic={d}/synthetic", "say --readers.fit=crop"),
        ("{both} --readers.size=400,100", "--readers.size=400,100 is more than the smallest picture has, 300 x 270"),
        ("{both} --readers.pairs=7", "--readers.pairs=7: a reader sees a picture once, and there are 6 real and 6"),
        ("--readers.real={d}/real --readers.synthetic={d}/real --readers.fit=crop", "is in both folders"),
        ("--readers.quality=101", "config.readers.quality must be at least 0 and at most 100; got 101"),
        ("--readers.fit=squeeze", "unknown value of config.readers.fit 'squeeze'"),
        ("--readers.read=x", "unknown field 'config.readers.read'"),
        ("--readers.serve=false", "there is no study in w; begin one with --readers.real=DIR --readers.synthetic=DIR"),
    ],
)
def test_one_line_says_what_is_wrong(folders, tmp_path, monkeypatch, capsys, flags, line):
    monkeypatch.chdir(tmp_path)
    both = f"--readers.real={folders}/real --readers.synthetic={folders}/synthetic --readers.fit=crop"
    words = flags.replace("{both}", both).replace("{d}", str(folders)).split()
    assert main.run(["--mode=readers", "--workdir=w", *words]) == 2
    [said] = [part for part in capsys.readouterr().err.splitlines() if part.startswith("error: ")]
    assert line in said


def test_a_study_stays_what_it_was(study, folders, monkeypatch):
    """It is opened without a word about its pictures, which may be gone; nothing of it can be another."""
    asked = []
    monkeypatch.setattr(server, "serve", lambda *of: asked.append(of))
    run = lambda *flags: main.run(["--mode=readers", f"--workdir={study.folder}", *flags])
    monkeypatch.setattr(pictures, "originals", None)
    assert run("--readers.port=9000") == 0
    assert asked[0][:3] == (study, "127.0.0.1", 9000)
    other = Readers(str(folders / "real"), str(folders / "synthetic"), fit="crop", quality=90)
    with pytest.raises(UserError, match=r"was begun with --readers.quality=0, and not 90: leave the field out"):
        readers.prepare(other, study.folder)
    (study.folder / "config.json").write_text('{"task": {"name": "denoise"}}')
    with pytest.raises(UserError, match="is what a run is kept in"):
        readers.prepare(Readers(), study.folder)


def test_a_study_of_other_pictures_is_not_mixed_in(study):
    with pytest.raises(UserError, match="holds a study of other pictures"):
        record.begin(study.folder, [record.Picture(True, "a", "b")])


def test_without_the_library_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "waitress", None)
    assert main.run(["--mode=readers", f"--workdir={tmp_path}"]) == 2
    assert "needs the library waitress: pip install 'nca_gen[readers]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(study):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot serve at 127.0.0.1:{port} .*choose another --readers.port"):
            server.serve(study, "127.0.0.1", port, print)
