"""The report: everything planted in a workdir is found in the page, and nothing that should not be."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nca_gen import contracts, screen
from nca_gen.contracts import Figure, Table
from nca_gen.errors import UserError
from nca_gen.report import embed, files, report, words

PICTURES = ("real", "samples", "large", "neighbours", "nca_strip", "diffusion_strip")
COMMAND = "python -m nca_gen.main --config=configs/x.py --workdir=/home/someone/runs/a --config.data.name='a <b'"


class Page(HTMLParser):
    """Text, pictures, addresses and tags of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.words, self.images, self.links, self.tags, self.open = [], [], [], [], []
        self.feed(html)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster", "xlink:href")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("meta", "link", "img", "path", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:  # void elements of SVG are written <path/>
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data if self.open[-1:] == ["span"] else f" {data} ")


def plant(folder: Path, stem: str, seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{stem}.png")
    return (folder / f"{stem}.png").read_bytes()


def animate(folder: Path, stem: str, seed: int) -> bytes:
    frames = np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 3), np.uint8)
    first, *rest = map(Image.fromarray, frames)
    first.save(folder / f"{stem}.webp", save_all=True, append_images=rest, duration=80, lossless=True)
    return (folder / f"{stem}.webp").read_bytes()


def dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def scores(step: int, **values: float) -> dict:
    return {
        "step": step,
        "scores": values,
        "protocol": {"swd": "Patches; lower is better.", "kid": "Higher is better!", "near": "Near 1 is better"},
        "counts": {"real": 61, "generated": 67},
        "split": "test",
        "seed": 11,
        "sampler": "ddpm",
        "seconds": 93.0,
        "images_per_second": 7.25,
    }


def show(folder: Path, name: str, page: contracts.Page) -> None:
    dump(folder / f"{name}.json", files.written(page))


def log(path: Path, rows: list[dict], tail: str = "") -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    model = {"name": "diff_nca", "channels": 96, "note": "<script>alert(1)</script>"}
    data = {"name": "tissue", "patch": [64, 48], "path": "/home/someone/secret folder/slides"}
    train = {"steps": 1000, "batch": 16}
    evals = {"scores": {"every": 200}, "films": {"every": 400}, "nearest": {"every": 0}}
    dump(tmp_path / "config.json", {"seed": 0, "model": model, "data": data, "train": train, "evals": evals})
    environment = {
        "command": COMMAND,
        "argv": ["/home/someone/nca_gen/main.py"],
        "parameters": 330_440,
        "versions": {"jax": "0.10.2"},
        "python": "/home/someone/venv/bin/python",
        "devices": ["cpu <0>"],
    }
    dump(tmp_path / "environment.json", environment)
    row = {"time": 1e9, "lr": 1e-3, "images_per_second": 32.0}
    rows = [{"step": s, "loss": 2 - s / 1000, **row} for s in range(50, 1001, 50)]
    log(tmp_path / "metrics.jsonl", rows, tail='{"step": 1050, "loss": 77')
    return tmp_path


def read(workdir: Path) -> tuple[str, Page]:
    path = report.write(workdir)
    assert path == workdir / "report.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []  # every element is closed, in order
    assert "script" not in page.tags
    assert [link for link in page.links if not link.startswith("data:")] == []
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert sorted(p.name for p in workdir.glob(".*")) == []  # the draft is gone
    return html, page


def embedded(page: Page) -> list[bytes]:
    return [base64.b64decode(image["src"].partition("base64,")[2], validate=True) for image in page.images]


def test_pictures_are_embedded_byte_by_byte(workdir):
    """Of every page the newest, of those with scores the first picture over training too; captions bold in part."""
    folder = workdir / "eval" / "00001000"
    planted = [plant(folder, stem, seed) for seed, stem in enumerate(PICTURES)]
    planted += [animate(folder, stem, seed) for seed, stem in enumerate(("nca", "diffusion"), 10)]
    earlier = plant(workdir / "eval" / "00000200", "samples", 20)
    plant(workdir / "eval" / "00000200", "large", 21)  # the newest only
    pair = [Figure("samples.png", "**Generated** at step 1,000"), Figure("real.png", "Real")]
    large = Figure("large.png", "One large", "wide")
    show(folder, "scores", contracts.Page("Samples", {"swd": 1.0}, [*pair, large]))
    show(folder, "nearest", contracts.Page("Nearest training images", figures=[Figure("neighbours.png", "", "strip")]))
    films = [Figure(f"{stem}.webp", "<b>", "film", f"{stem}_strip.png") for stem in ("nca", "diffusion")]
    show(folder, "films", contracts.Page("How an image grows", figures=films, intro="(64 x 48)"))
    html, page = read(workdir)
    assert sorted(embedded(page)) == sorted([*planted, earlier])
    kinds = {image["src"].split(";")[0] for image in page.images}
    assert kinds == {"data:image/png", "data:image/webp"}
    for word in (
        "Generated at step 1,000",
        "Samples over training",
        "Step 200",
        "(64 x 48)",
        "How an image grows",
        "Nearest training images",
    ):
        assert word in page.text
    assert "<b>Generated</b> at" in html
    assert html.count("&lt;b&gt;") == 2
    order = [html.index(f"<h2>{title}") for title in ("Samples<", "Samples over", "How an image", "Nearest")]
    assert order == sorted(order)  # what has scores comes first


def test_small_pictures_grow_by_whole_factors_and_large_ones_do_not(workdir):
    folder = workdir / "eval" / "00001000"
    plant(folder, "samples", 0, (130, 65))
    plant(folder, "real", 1, (600, 20))
    show(folder, "scores", contracts.Page("", figures=[Figure("samples.png", ""), Figure("real.png", "")]))
    _, page = read(workdir)
    small, large = page.images
    assert (small["width"], small["height"], small["class"]) == ("520", "260", "big")
    assert (large["width"], large["height"], large.get("class")) == ("600", "20", None)


def test_scores_their_protocol_direction_and_course(workdir):
    plant(workdir / "eval" / "00001000", "samples", 0)
    first = scores(200, swd=91.234, swd_64=50.5, kid=0.001234, near=1.5)
    dump(workdir / "eval" / "00000200" / "scores.json", first)
    dump(
        workdir / "eval" / "00001000" / "scores.json",
        scores(1000, swd=12.3456, swd_64=7.5, kid=float("nan"), near=0.98),
    )
    html, page = read(workdir)
    for word in (
        *("swd ↓ 91.23 12.35", "64 50.5 7.5", "kid ↑ 0.001234 not finite", "near → 1 1.5 0.98"),
        *("step 200 step 1,000", "61 real images, 67 generated images, test split, sampler ddpm, seed 11"),
        *("Patches; lower is better.", "7.25 images per second (93 s)"),
        "Scores at step 1,000: swd 12.35, kid not finite, near 0.98.",
    ):
        assert word in page.text
    assert [f'aria-label="{name}"' in html for name in ("swd", "near", "kid")] == [
        True,
        True,
        False,
    ]  # one point is none


def test_a_table_and_its_pictures(workdir):
    """A row and a strip for each; a strip that is missing, or that is no picture of this folder, leaves its row."""
    folder = workdir / "eval" / "00001000"
    dump(folder / "scores.json", scores(1000, swd=1.0))
    strips = [plant(folder, stem, seed) for seed, stem in enumerate(("sampler_ddpm_300", "sampler_ddim_20"))]
    plant(workdir, "elsewhere", 9)
    names = ("sampler_ddpm_300.png", "sampler_ddim_20.png", "../../elsewhere.png", "missing.png")
    rows = [["ddpm", 300, 11.5, 0.5, 81.5], ["ddim", 20, 12.5, 0.25, 5.25], ["a <b", 7, float("nan"), None, 2.5]]
    table = Table("", ["Sampler", "Steps", "swd", "kid", "Seconds"], rows)
    figures, intro = [Figure(name, f"**{name}**", "strip") for name in names], "67 samples by each"
    facts = {"protocol": scores(1000)["protocol"]}
    show(folder, "samplers", contracts.Page("Fewer steps", figures=figures, tables=[table], facts=facts, intro=intro))
    _, page = read(workdir)
    table = page.text.split("Fewer steps")[1]
    for line in ("67 samples by each", "Steps swd ↓ kid ↑ Seconds", "ddpm 300 11.5 0.5 81.5", "ddim 20 12.5 0.25 5.25"):
        assert line in table
    assert "a <b 7 not finite n/a 2.5" in table
    assert sorted(embedded(page)) == sorted(strips)


@pytest.mark.parametrize(
    "junk",
    [
        {"page": 3},
        {"page": {"figures": 3, "tables": [1, {}], "curves": {"a": 3}}},
        {"page": {"figures": [{}, {"file": 3}, {"file": "../config.json"}], "tables": [{"columns": 3}]}},
        {"page": {"tables": [{"columns": ["a"], "rows": [1, [2], "x"]}], "curves": {"a": [[1, 2], [3], [4, "x"]]}}},
    ],
)
def test_pages_that_are_something_else(workdir, junk):
    dump(workdir / "eval" / "00001000" / "scores.json", junk)
    read(workdir)


@pytest.mark.parametrize("junk", [[1], {"rows": 3}, {"rows": [1, {}]}, {"rows": [{"scores": [], "picture": 0}]}])
def test_samplers_that_are_something_else(workdir, junk):
    dump(workdir / "eval" / "00001000" / "samplers.json", junk)
    read(workdir)


def test_what_samples_are_worth_comes_first(workdir):
    """Before the scores: in the head, among the figures, and as a section with its interval and its table."""
    dump(workdir / "eval" / "00001000" / "scores.json", scores(1000, swd=1.0))
    table = Table("", ["augmentation", "mAP"], [["geca", "71.00 ± 0.50"]])
    values = {"map": 0.71, "map_gain": 0.03, "map_gain_low": 0.01, "map_gain_high": 0.05}
    protocol = {"map": "Of a classifier. Higher is better."}
    show(
        workdir,
        "downstream",
        contracts.Page("What the samples are worth", values, tables=[table], facts={"protocol": protocol}),
    )
    html, page = read(workdir)
    assert "Its samples, put to use: map 0.71. Scores at step 1,000: swd 1" in page.text
    for word in (
        "0.71 ↑ map 1,000 steps",
        "gain 0.03 (0.01 to 0.05)",
        "geca 71.00 ± 0.50",
        "Of a classifier. Higher is better.",
    ):
        assert word in page.text
    assert html.index("<h2>What the samples are worth") < html.index("<h2>Scores")
    dump(workdir / "downstream.json", [1])
    assert "put to use" not in read(workdir)[1].text


def test_numbers_of_pages_are_drawn_over_training(workdir):
    """Nearness to the training images, of three evaluations; one value is no curve."""
    for step, near in ((200, 1.1), (600, 0.9), (1000, 0.4)):
        facts = {"course": {"Distance": near, "once": 1.0} if step == 200 else {"Distance": near}}
        picture = [Figure("neighbours.png", "", "strip")]
        show(workdir / "eval" / f"{step:08d}", "nearest", contracts.Page("Nearest", figures=picture, facts=facts))
    html, page = read(workdir)
    drawn = html.split("<h2>Nearest")[1].split("</section>")[0]
    assert drawn.count("<circle") == 3
    assert 'aria-label="Distance"' in drawn
    assert "Distance 0.4" in page.text
    assert "once" not in page.text


def test_files_are_named_beside_their_counts(workdir):
    facts = scores(1000, swd=1.0) | {"files": {"real": "JPEG quality 75, 4:2:0"}}
    dump(workdir / "eval" / "00001000" / "scores.json", facts)
    assert "61 real images (JPEG quality 75, 4:2:0), 67 generated images, test split" in read(workdir)[1].text


def test_summary_curves_and_speed(workdir):
    html, page = read(workdir)
    for said in (
        "diff_nca with 330,440 parameters, trained on tissue in patches of 64 \N{MULTIPLICATION SIGN} 48 pixels",
        "for 1,000 steps of 16 images (8.3 min of computing).",  # 500 s at 32 images a second
        "samples and scores come every 200 steps and at the end",
    ):
        assert said in page.text
    assert "32 images per second (median)" in page.text
    for name in ("Loss", "Learning rate", "Images per second"):
        assert f'aria-label="{name}' in html
    assert "77" not in page.text  # the line that was cut off


def test_where_the_time_went(workdir):
    seconds = {"steps": 1800, "lost": 90, "data": 90, "checkpoints": 20, "away": 7200, "compiling": 0}
    steps = {"computed": 1050, "lost": 50, "repeated": 50}
    dump(workdir / "goodput.json", {"seconds": seconds, "steps": steps})
    said = read(workdir)[1].text
    assert "90.0 % of 33 min went into steps that count; steps: 1,050 computed, 50 lost, 50 repeated." in said
    assert "Steps 90.0 % 30 min Steps that were lost 4.5 % 90 s Waiting for data 4.5 % 90 s" in said
    assert "Between two starts 2 hours" in said
    assert "compiler" not in said


def test_strings_are_escaped_and_paths_stay_at_home(workdir):
    dump(
        workdir / "eval" / "00001000" / "scores.json",
        scores(1000, **{"<img src=x>": 1.0}) | {"split": "<i>{split}</i>"},
    )
    html, page = read(workdir)
    assert "<script>alert(1)</script>" in page.text  # as text
    assert "<img src=x>" in page.text
    assert "<i>{split}</i>" in page.text
    assert page.images == []
    assert COMMAND in page.text
    assert "/home/someone" not in page.text.replace(COMMAND, "")
    assert "secret" not in html
    assert "…/slides" in page.text


def test_values_that_are_not_finite(workdir):
    rows = [
        {"step": s, "loss": v} for s, v in enumerate([1.0, float("nan"), None, float("inf"), 0.5, 1e300, True, "0"], 1)
    ]
    log(workdir / "metrics.jsonl", [*rows, {"step": float("nan"), "loss": 1.0}])
    html, page = read(workdir)
    assert "The loss was not finite in 4 logged steps." in page.text
    assert "4 not finite" in page.text
    assert "NaN" not in html


def test_what_is_logged_again_replaces_what_was(workdir):
    first = [{"step": s, "loss": 100.0} for s in range(10, 60, 10)]
    again = [{"step": s, "loss": 0.25} for s in range(10, 60, 10)]
    log(workdir / "metrics.jsonl", first + again)
    assert files.read_log(workdir / "metrics.jsonl") == {"loss": dict.fromkeys(range(10, 60, 10), 0.25)}


def test_a_killed_run_has_a_report(workdir):
    """Nothing, half of a file, a picture cut off, an evaluation without scores: a page without them."""
    folder = workdir / "eval" / "00000200"
    whole, cut = plant(folder, "real", 0), plant(folder, "samples", 1)
    (folder / "samples.png").write_bytes(cut[: len(cut) // 2])
    (folder / "scores.json").write_text('{"step": 200, "scores": {"swd": 1')
    plant(workdir / "eval" / "tmp-400", "samples", 2)
    for name in ("config.json", "environment.json"):
        (workdir / name).write_text((workdir / name).read_text()[:40])
    _, page = read(workdir)
    assert embedded(page) == [whole]
    assert "Scores" not in page.text
    assert "A model trained for 1,000 steps" in page.text


@pytest.mark.parametrize("junk", ["", "[]", "3", "null", '{"model": [], "data": "x", "train": {"steps": "many"}}'])
def test_files_that_hold_something_else(tmp_path, junk):
    for name in ("config.json", "environment.json", "metrics.jsonl"):
        (tmp_path / name).write_text(junk)
    (tmp_path / "eval" / "00000001").mkdir(parents=True)
    (tmp_path / "eval" / "00000001" / "scores.json").write_text('{"scores": {"a": "b"}, "protocol": 3, "counts": [1]}')
    _, page = read(tmp_path)
    assert "a not finite" in page.text


def test_an_empty_workdir(tmp_path):
    _, page = read(tmp_path)
    assert "0 steps" in page.text
    assert "pre" not in page.tags  # no command, no config


@pytest.mark.slow
def test_a_long_run_gives_a_small_page(workdir):
    log(workdir / "metrics.jsonl", [{"step": s, "loss": 1 + s % 7, "lr": 1e-3} for s in range(5_000)])
    few = len(read(workdir)[0])
    log(workdir / "metrics.jsonl", [{"step": s, "loss": 1 + s % 7, "lr": 1e-3} for s in range(50_000)])
    many = len(read(workdir)[0])
    assert many < 60_000
    assert many < 1.1 * few


def test_a_picture_too_large_is_named(workdir, monkeypatch):
    monkeypatch.setattr(embed, "LARGEST", 5000)
    plant(workdir / "eval" / "00001000", "large", 0, (100, 100))
    small = plant(workdir / "eval" / "00001000", "samples", 1)
    _, page = read(workdir)
    assert embedded(page) == [small]
    assert "Too large to be shown here: eval/00001000/large.png." in page.text


def test_a_failed_write_leaves_the_old_report(workdir, monkeypatch):
    read(workdir)
    before = (workdir / "report.html").read_bytes()
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("no space")))
    (workdir / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no space"):
        report.write(workdir)
    assert (workdir / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/my data/x y", "…/x y"),
        ("file:///home/x/y", "…/y"),
        (r"C:\Users\me\d", "…/d"),
        ("--path=/home/me/x, and c/d or (/opt/z/w)", "--path=…/x, and c/d or (…/w)"),
        ("images/s on 2026/11/21, ~/a/b, /data, a/b/c", "images/s on 2026/11/21, ~/a/b, /data, a/b/c"),
        ({"a": ["/x/y/z", 3]}, {"a": ["…/z", 3]}),
    ],
)
def test_private_paths(value, shown):
    assert words.private(value) == shown


def test_numbers_and_durations():
    numbers = [330440, 1.0, 0.123456, 1.6e-3, 12345.678, -2.5, 5e-12, float("-inf"), None, "x", True]
    assert [words.number(n) for n in numbers] == [
        *("330,440", "1", "0.1235", "0.0016", "12,346", "-2.5", "5e-12", "not finite", "n/a", "n/a", "n/a")
    ]
    assert [screen.duration(s) for s in (1.25, 93, 150, 3600, 9000, 90000, 400000)] == [
        *("1.2 s", "93 s", "2.5 min", "60 min", "2.5 hours", "25 hours", "4.6 days")
    ]


def test_evaluations_of_before_there_were_pages(tmp_path):
    """Settings and their scores, the samples of each, what was known beside, a curve: all of it is there."""
    folder = tmp_path / "eval" / "00000010"
    folder.mkdir(parents=True)
    planted = [plant(folder, name, seed) for seed, name in enumerate(("heredity_out_1.5", "growth", "nca_strip"))]
    planted.append(animate(folder, "nca", 4))
    row = {"heredity": "out", "guidance": 1.5, "picture": "heredity_out_1.5.png", "scores": {"kid": 0.0442}}
    protocol = {"protocol": {"kid": "Lower is better."}, "counts": {"generated": 20}}
    dump(folder / "heredity.json", protocol | {"rows": [row | {"seconds": 7.5}]})
    dump(folder / "growth.json", {"growth": [2, 12, 32], "own": 12})
    dump(folder / "scores.json", protocol | {"scores": {"kid": 0.01}, "hidden_rms": [0.5, 1.5, 3.25]})
    html, page = read(tmp_path)
    for said in ("Heredity Guidance Seconds kid ↓ out 1.5 7.5 0.0442", "Growth 2, 12, 32", "Own 12", "Hidden rms 3.25"):
        assert said in page.text
    assert "Growth at step 10." in page.text
    assert "20 generated images" in page.text
    assert sorted(embedded(page)) == sorted(planted)
    assert html.count('class="film"') == 1


def test_pages_of_other_verbs(tmp_path):
    """Tables, pictures, curves, notes and protocols of any pages, escaped, under one title."""
    picture = plant(tmp_path, "a", 0)
    facts = {"protocol": {"kid": "Lower is better."}, "notes": {"kid": ["few <images>"]}}
    table = Table("By fold", ["Run", "kid"], [["a & b", 0.25]], "an intro")
    curve = {"Seconds": [(0.0, 1.0), (1.0, 4.0)]}
    pages = [contracts.Page("One", figures=[Figure("a.png", "of **a**")], tables=[table], facts=facts, curves=curve)]
    html = report.render("Side by side", pages, tmp_path, over="nca_gen · study", intro="What was **done**.")
    page = Page(html)
    assert page.open == []
    assert embedded(page) == [picture]
    for said in ("nca_gen · study", "Side by side", "What was done .", "By fold", "an intro", "Run kid ↓ a & b 0.25"):
        assert said in page.text
    for said in ("of a", "few <images>", "kid Lower is better.", "Seconds 4"):
        assert said in page.text
    assert 'aria-label="Seconds"' in html


def test_points_of_a_page_survive_its_json():
    """What is none is left out, as of curves."""
    page = contracts.Page("One", points={"a": [(1.0, 2.0, "b")]})
    shown = json.loads(json.dumps(files.written(page)))
    assert files.parsed("one", shown).points == {"a": [(1.0, 2.0, "b")]}
    shown["page"]["points"] = {"a": [3, [1, 2], [1, "x", "c"], [4, 5, "d"]], "b": 6}
    assert files.parsed("one", shown).points == {"a": [(4.0, 5.0, "d")], "b": []}
