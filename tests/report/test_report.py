"""The report: everything planted in a workdir is found in the page, and nothing that should not be."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nca_gen.report import markup, report

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


def log(path: Path, rows: list[dict], tail: str = "") -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    model = {"name": "diff_nca", "channels": 96, "note": "<script>alert(1)</script>"}
    data = {"name": "tissue", "patch": [64, 48], "path": "/home/someone/secret folder/slides"}
    train = {"steps": 1000, "batch": 16, "eval_every": 200}
    dump(tmp_path / "config.json", {"seed": 0, "model": model, "data": data, "train": train})
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
    folder = workdir / "eval" / "00001000"
    planted = [plant(folder, stem, seed) for seed, stem in enumerate(PICTURES)]
    planted += [animate(folder, stem, seed) for seed, stem in enumerate(("nca", "diffusion"), 10)]
    earlier = plant(workdir / "eval" / "00000200", "samples", 20)
    plant(workdir / "eval" / "00000200", "large", 21)  # the newest only
    _, page = read(workdir)
    assert sorted(embedded(page)) == sorted([*planted, earlier])
    kinds = {image["src"].split(";")[0] for image in page.images}
    assert kinds == {"data:image/png", "data:image/webp"}
    for word in (
        "Generated at step 1,000",
        "Step 200",
        "(64 \N{MULTIPLICATION SIGN} 48)",
        "How an image grows",
        "Nearest training images",
    ):
        assert word in page.text


def test_small_pictures_grow_by_whole_factors_and_large_ones_do_not(workdir):
    plant(workdir / "eval" / "00001000", "samples", 0, (130, 65))
    plant(workdir / "eval" / "00001000", "real", 1, (600, 20))
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


def test_samplers_and_steps(workdir):
    """A row and a strip for each; a strip that is missing, or that is no picture of this folder, leaves its row."""
    folder = workdir / "eval" / "00001000"
    dump(folder / "scores.json", scores(1000, swd=1.0))
    strips = [plant(folder, stem, seed) for seed, stem in enumerate(("sampler_ddpm_300", "sampler_ddim_20"))]
    plant(workdir, "elsewhere", 9)
    rows = [
        {"sampler": "ddpm", "steps": 300, "seconds": 81.5, "picture": "sampler_ddpm_300.png"},
        {"sampler": "ddim", "steps": 20, "seconds": 5.25, "picture": "sampler_ddim_20.png"},
        {"sampler": "a <b", "steps": 7, "seconds": 2.5, "picture": "../../elsewhere.png"},
    ]
    values = [{"swd": 11.5, "swd_48": 3.25, "kid": 0.5}, {"swd": 12.5, "kid": 0.25}, {"swd": float("nan")}]
    found = scores(1000) | {"rows": [row | {"scores": v} for row, v in zip(rows, values, strict=True)]}
    dump(folder / "samplers.json", found)
    _, page = read(workdir)
    table = page.text.split("Fewer steps")[1]
    for line in ("67 samples by each", "Steps swd ↓ kid ↑ Seconds", "ddpm 300 11.5 0.5 81.5", "ddim 20 12.5 0.25 5.25"):
        assert line in table
    assert "a <b 7 not finite n/a 2.5" in table
    assert "swd_48" not in table
    assert sorted(embedded(page)) == sorted(strips)


@pytest.mark.parametrize("junk", [[1], {"rows": 3}, {"rows": [1, {}]}, {"rows": [{"scores": [], "picture": 0}]}])
def test_samplers_that_are_something_else(workdir, junk):
    dump(workdir / "eval" / "00001000" / "samplers.json", junk)
    read(workdir)


def test_summary_curves_and_speed(workdir):
    html, page = read(workdir)
    for words in (
        "diff_nca with 330,440 parameters, trained on tissue in patches of 64 \N{MULTIPLICATION SIGN} 48 pixels",
        "for 1,000 steps of 16 images (8.3 min of computing).",  # 500 s at 32 images a second
        "samples and scores come every 200 steps and at the end",
    ):
        assert words in page.text
    assert "32 images per second (median)" in page.text
    for name in ("Loss", "Learning rate", "Images per second"):
        assert f'aria-label="{name}' in html
    assert "77" not in page.text  # the line that was cut off


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
    assert report.read_log(workdir / "metrics.jsonl") == {"loss": dict.fromkeys(range(10, 60, 10), 0.25)}


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
    assert "a n/a" in page.text


def test_an_empty_workdir(tmp_path):
    _, page = read(tmp_path)
    assert "0 steps" in page.text


@pytest.mark.slow
def test_a_long_run_gives_a_small_page(workdir):
    log(workdir / "metrics.jsonl", [{"step": s, "loss": 1 + s % 7, "lr": 1e-3} for s in range(5_000)])
    few = len(read(workdir)[0])
    log(workdir / "metrics.jsonl", [{"step": s, "loss": 1 + s % 7, "lr": 1e-3} for s in range(50_000)])
    many = len(read(workdir)[0])
    assert many < 60_000
    assert many < 1.1 * few


def test_a_picture_too_large_is_named(workdir, monkeypatch):
    for module in (markup, report):
        monkeypatch.setattr(module, "LARGEST", 5000)
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
    with pytest.raises(OSError, match="no space"):
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
    assert markup.private(value) == shown


def test_numbers_and_durations():
    numbers = [330440, 1.0, 0.123456, 1.6e-3, 12345.678, -2.5, 5e-12, float("-inf"), None, "x", True]
    assert [markup.number(n) for n in numbers] == [
        *("330,440", "1", "0.1235", "0.0016", "12,346", "-2.5", "5e-12", "not finite", "n/a", "n/a", "n/a")
    ]
    assert [markup.duration(s) for s in (1.25, 93, 150, 3600, 9000, 90000, 400000)] == [
        *("1.2 s", "93 s", "2.5 min", "60 min", "2.5 hours", "25 hours", "4.6 days")
    ]


def test_heredity_growth_and_pictures(tmp_path):
    """Two settings a row with their samples; the strip of growth; what a task shows; a curve of the hidden state."""
    folder = tmp_path / "eval" / "00000010"
    folder.mkdir(parents=True)
    for name in ("heredity_out_1.5", "growth", "grades", "before"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    row = {"heredity": "out", "guidance": 1.5, "picture": "heredity_out_1.5.png", "scores": {"kid": 0.0442}}
    protocol = {"protocol": {"kid": "Lower is better."}, "counts": {"generated": 20}}
    (folder / "heredity.json").write_text(json.dumps(protocol | {"rows": [row | {"seconds": 7.5}]}))
    (folder / "growth.json").write_text(json.dumps({"growth": [2, 12, 32], "own": 12}))
    facts = {"scores": {"kid": 0.01}, "pictures": ["before"], "hidden_rms": [0.5, 1.5, 3.25]}
    (folder / "scores.json").write_text(json.dumps(protocol | facts))
    html = report.write(tmp_path).read_text()
    for said in ("Heredity", "0.0442", "the prediction inherited, guidance 1.5", "2, 12, 32 steps", "learned with\n12"):
        assert said.replace("\n", " ") in html
    assert "Every class" in html
    assert "Before at step 10" in html
    assert "Inherited hidden state" in html
    assert "3.25" in html
