"""URCDM's tables: where patches lie, by hand; sets whose distances are known; the layout; a second start."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nca_gen import main
from nca_gen.io import images, sets, slides, write
from nca_gen.metrics import autocovariance, features
from nca_gen.sections import Tables
from nca_gen.verbs import tables, tables_page
from nca_gen.verbs import tables_patches as cut

PINK = np.array([200, 120, 160], np.uint8)


@pytest.fixture(autouse=True)
def simple(monkeypatch, tmp_path):
    """Means and deviations of colours instead of networks, an empty cache; returns how many images each call saw."""
    seen = []

    def extract(name, some, *, layers, weights=None, batch=32, progress=None):
        found = []
        for i in range(0, len(some), batch):
            x = some[i : i + batch].astype(np.float64)
            found.append(np.concatenate([x.mean((1, 2)), x.std((1, 2))], 1))
        seen.append(len(some))
        return dict.fromkeys(layers, np.concatenate(found).astype(np.float32))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "extract", extract)
    monkeypatch.setattr(features, "protocol", lambda name, weights=None: {"extractor": name})
    return seen


def slide(path, pixels):
    path.parent.mkdir(exist_ok=True, parents=True)
    with tifffile.TiffWriter(path) as tiff:
        for k in (1, 2):
            photometric = "rgb" if pixels.shape[-1] == 3 else "minisblack"
            tiff.write(np.squeeze(images.reduce(pixels, k)), tile=(256, 256), photometric=photometric)


def opened(path):
    """Slides however small they are."""
    return slides.of([slides.open_slide(one) for one in sorted(path.iterdir())], [])


def tissue(seed, height=192, width=256):
    """Pink, with stains in 8 x 8 pixels; between 20 and 120, so that 100 may be added."""
    rng = np.random.default_rng(seed)
    spots = rng.integers(0, 60, (height // 8, width // 8, 1)).repeat(8, 0).repeat(8, 1)
    return np.uint8(np.array([60, 20, 40]) + spots + rng.integers(0, 2, (height, width, 3)))


def folder(path, *wholes):
    for i, pixels in enumerate(wholes):
        slide(path / f"{i}.tif", pixels)
    return path


FLAGS = ("--tables.patch=16", "--tables.factor=4", "--tables.n=8", "--tables.crops=6", "--tables.k=2")


def run(workdir, real, *flags, **generated):
    """tables.json of the command."""
    named = ",".join(f"{name}={path}" for name, path in generated.items())
    words = [f"--tables.real={real}", f"--tables.generated={named}", *FLAGS, *flags]
    assert main.run(["--mode=tables", f"--workdir={workdir}", *words]) == 0
    return json.loads((workdir / "tables.json").read_text())


# Places.


def test_squares_lie_side_by_side_in_what_there_is():
    assert cut.scales(Tables()) == [39.0625, 6.25, 1.0]
    assert cut.starts(10, 3.0, 0.0).tolist() == [0, 3, 6]
    assert cut.starts(10, 3.0, 0.99).tolist() == [1, 4, 7]
    assert cut.starts(9, 3.0, 0.99).tolist() == [0, 3, 6]
    assert cut.starts(4, 10.0, 0.7).tolist() == [-3]
    assert len(cut.starts(41344, 1024.0, 0.5)) == 40
    assert [len(cut.starts(41344, 1024 * scale, 0.5)) for scale in cut.scales(Tables())] == [1, 6, 40]


def test_places_are_those_with_tissue_each_once(tmp_path):
    """5 of 12 squares of 32 are stained, one of them by a third; glass is white."""
    pixels = np.full((96, 128, 3), 255, np.uint8)
    stained = [(0, 0), (0, 96), (32, 32), (64, 0)]
    for top, left in stained:
        pixels[top : top + 32, left : left + 32] = PINK
    pixels[64:75, 96:128] = PINK  # 11 rows of 32
    slide(tmp_path / "s" / "0.tif", pixels)
    slide(tmp_path / "s" / "1.tif", np.full((96, 128, 3), 255, np.uint8))
    some = opened(tmp_path / "s")
    every = cut.places(some, 32.0, 100, 0.3, 0)
    assert [tuple(corner) for corner in every.corner] == [*stained, (64, 96)]
    assert (every.owner.tolist(), every.possible, every.all) == ([0] * 5, 5, 24)
    assert cut.places(some, 32.0, 100, 0.4, 0).possible == 4
    assert cut.places(some, 32.0, 100, 0.0, 0).possible == 24
    three = [cut.places(some, 32.0, 3, 0.3, seed).corner for seed in (0, 0, *range(1, 9))]
    assert all(len({tuple(c) for c in some} & {*stained, (64, 96)}) == 3 for some in three)
    assert (three[0] == three[1]).all()
    assert len({some.tobytes() for some in three}) > 3
    patches = images.from_float(cut.patches(some, every, 32.0, 32)[:])
    assert (patches[:4] == PINK).all()
    assert (patches[4] == pixels[64:96, 96:128]).all()


@pytest.mark.parametrize(
    ("colour", "glass"),
    [
        (np.uint8([200, 120, 160]), [242, 243, 242]),
        (np.uint16([50000, 30000, 40000]), [242 * 257, 243 * 257, 242 * 257]),
        (np.uint8([90]), [242]),
    ],
)
def test_a_slide_smaller_than_a_patch_lies_in_the_middle_of_glass(tmp_path, colour, glass):
    """40 x 64 pixels in a square of 64 that becomes 16: rows 3 to 12 of it. All that lies in the slide is stained."""
    slide(tmp_path / "s" / "0.tif", np.broadcast_to(colour, (40, 64, len(colour))))
    some = opened(tmp_path / "s")
    at = cut.places(some, 64.0, 9, 1.0, 0)
    assert at.corner.tolist() == [[-12, 0]]
    patch = cut.patches(some, at, 64.0, 16).read(np.arange(1))[0]
    assert patch.dtype == colour.dtype
    assert (patch[3:13] == colour).all()
    assert (patch[:3] == glass).all()
    assert (patch[13:] == glass).all()


def test_a_square_is_the_area_of_the_slide_that_it_covers(tmp_path):
    """Of steps of 8 pixels, reduced by 8, every step is a pixel: what rings at their edges cancels out of flat ones."""
    steps = np.uint8(np.arange(20, 220, 25)).repeat(8)[:, None, None] * np.uint8([1, 1, 1])
    slide(tmp_path / "s" / "0.tif", np.ascontiguousarray(np.broadcast_to(steps, (64, 64, 3))))
    some = opened(tmp_path / "s")
    small = cut.square(some, 0, 0.0, 0.0, 64.0, 8)
    assert np.abs(small[:, :, 0].astype(int) - np.arange(20, 220, 25)[:, None]).max() <= 4
    assert (cut.square(some, 0, 8.0, 16.0, 16.0, 16) == steps[8:24]).all()


# Halves.


def test_no_patient_is_in_both_halves_and_they_are_of_one_size():
    for seed in range(5):
        people = [*"aaabbcddee"]
        first = tables.half(people, seed)
        assert first.sum() == 5
        assert not {p for p, one in zip(people, first, strict=True) if one} & {
            p for p, one in zip(people, first, strict=True) if not one
        }
    assert tables.half(["a", "a"], 0).all()
    assert len({tables.half([*"abcdefgh"], seed).tobytes() for seed in range(9)}) > 3


@pytest.mark.slow
def test_the_other_half_of_the_real_slides_is_the_floor(tmp_path, capsys):
    """By patient, as a name of TCGA or labels.csv says; of one patient there is no other half, and why is said."""
    real = tmp_path / "real"
    for name in ("TCGA-AA-0001-1", "TCGA-AA-0001-2", "TCGA-AA-0002-1", "TCGA-AA-0002-2"):
        slide(real / f"{name}.tif", tissue(0))
    facts = run(tmp_path / "w", real)
    sides = [{name[:12] for name in some} for some in facts["real"]["slides"].values()]
    assert sorted(map(sorted, sides)) == [["TCGA-AA-0001"], ["TCGA-AA-0002"]]
    [row] = facts["rows"]
    assert (row["name"], row["files"], facts["real"]["files"]) == ("real (other half)", 2, 2)
    assert row["scores"]["pfid"]["pfid"] == pytest.approx(0, abs=1e-6)  # the same pixels
    (real / "labels.csv").write_text("filename,patient_id\n" + "".join(f"{p.name},7\n" for p in real.glob("*.tif")))
    capsys.readouterr()
    facts = run(tmp_path / "w", real, Copy=real)
    assert [row["name"] for row in facts["rows"]] == ["real (other half)", "Copy"]
    out = capsys.readouterr().out
    assert "note: real (other half): n.a.: all 4 real slides are of one patient" in out
    assert facts["real"]["files"] == 4
    assert tables_page.three(facts)[0].rows[0] == ["real (other half)", *["n.a."] * 5]


# Sets whose distances are known.


@pytest.mark.slow
def test_equal_sets_are_at_0_and_cover_each_other_and_a_brighter_one_is_where_it_was_put(tmp_path):
    """100 of 128 in each of three means, with the same covariance: 3 (100 / 128)^2, whatever the protocol."""
    real = [tissue(seed) for seed in range(4)]
    folder(tmp_path / "real", *real)
    folder(tmp_path / "same", *real)
    folder(tmp_path / "bright", *(pixels + np.uint8(100) for pixels in real))
    facts = run(
        *(tmp_path / "w", tmp_path / "real", "--tables.halves=false"),
        **{name: tmp_path / name for name in ("same", "bright")},
    )
    same, bright = facts["rows"]
    plan, far = Tables(**facts["settings"]), 3 * (100 / 128) ** 2
    assert tables_page.first(same, plan) == [pytest.approx(0, abs=1e-6)] * 3 + [1, 1]
    assert tables_page.third(same, plan) == [1] * 6
    assert tables_page.first(bright, plan) == [pytest.approx(far, rel=2e-3)] * 3 + [0, 0]
    assert tables_page.by_scale(same, plan) == [pytest.approx(0, abs=1e-6)] * 6
    assert tables_page.by_scale(bright, plan)[1:3] == [pytest.approx(far, rel=2e-3)] * 2  # beside mag. 0 is glass
    # 192 x 256: 1 x 1 squares of 256 at the coarsest, 3 x 4 of 64, 12 x 16 of 16, of which 8 are drawn.
    assert tables_page.counts(same, plan) == [4, 8, 8]
    assert tables_page.of_real(facts["rows"], plan) == [4, 8, 8]
    assert any(
        note.startswith("fewer than 8 generated patches, all that there are: mag. 0 4") for note in same["notes"]
    )
    assert {row["kind"] for row in facts["rows"]} == {"slides"}


@pytest.mark.slow
def test_structure_is_that_of_the_masks_at_each_magnification(tmp_path):
    """Stripes of 4 pixels beside stripes of 16, each half of all: what the metric says of the same patches."""
    stripes = lambda width: np.where((np.arange(256) // width % 2)[:, None, None], PINK, np.uint8(235))
    for name, width in {"real": 4, "same": 4, "wide": 16}.items():
        slide(tmp_path / name / "0.tif", np.ascontiguousarray(np.broadcast_to(stripes(width), (256, 256, 3))))
    flags = ("--tables.halves=false", "--tables.magnifications=2", "--tables.tissue=0", "--tables.n=256")
    named = {name: tmp_path / name for name in ("same", "wide")}
    same, wide = run(tmp_path / "w", tmp_path / "real", *flags, **named)["rows"]
    fine = [row["scores"]["autocovariance_1"]["autocovariance"] for row in (same, wide)]
    assert fine[0] == 0
    some = {
        name: cut.patches(opened(tmp_path / name), cut.places(opened(tmp_path / name), 16.0, 256, 0, 0), 16.0, 16)
        for name in ("real", "wide")
    }
    assert fine[1] == pytest.approx(autocovariance.score(some["wide"], some["real"], None, 0)["autocovariance"])
    assert fine[1] > 0.3
    assert "<th>mag. 1 autocovariance ↓</th>" in (tmp_path / "w" / "tables.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True])
def test_what_a_slide_cost_is_read_beside_its_folder(tmp_path, monkeypatch, single):
    """Where --mode=generate left it; of a row that something else drew there is nothing."""
    made = folder(tmp_path / "a.b", tissue(0))
    took = {"size": (192, 256), "seconds": 3.4, "cpu_seconds": 5.6, "memory_mb": 1234.4, "processes": 1}
    write.facts(made.with_name("a.b.json"), took | {"parameters": 47216, "flop": 5e9})
    real, other = folder(tmp_path / "real", tissue(1)), folder(tmp_path / "o", tissue(2))
    write.facts(other.with_name("o.json"), {"sample": 3})
    monkeypatch.chdir(made)
    ours = "0.tif" if single else "."
    facts = run(tmp_path / "w", real, "--tables.halves=false", Ours=ours, Other=other)
    assert [*facts["costs"]] == ["Ours"]
    table = tables_page.more(facts)[-1]
    assert table.rows == [["Ours", "192 x 256", "47,216", f"{5e3 / 192 / 256:.3g}", "3", "6", "1,234"]]
    assert "MFLOP a pixel" in (tmp_path / "w" / "tables.html").read_text()
    [one, two] = csv.DictReader(io.StringIO((tmp_path / "w" / "tables.csv").read_text()))
    assert (one["parameters"], two["parameters"]) == ("47216", "n.a.")


@pytest.mark.slow
def test_images_are_patches_of_the_finest_magnification(tmp_path):
    real = folder(tmp_path / "real", *(tissue(seed) for seed in range(4)))
    some = sets.open(real, wanted="slides")
    at = cut.places(some, 16.0, 12, 0.1, 0)
    (tmp_path / "gan").mkdir()
    for i, patch in enumerate(images.from_float(cut.patches(some, at, 16.0, 16)[:])):
        images.write(tmp_path / "gan" / f"{i}.png", patch)
    facts = run(tmp_path / "w", real, "--tables.halves=false", "--tables.n=12", GAN=tmp_path / "gan")
    [row] = facts["rows"]
    plan = Tables(**facts["settings"])
    assert tables_page.third(row, plan) == [None] * 4 + [1, 1]  # they are the real ones
    assert tables_page.first(row, plan) == [pytest.approx(0, abs=1e-6), None, None, 1, 1]
    assert any("n.a., it is of slides, and these are images" in note for note in row["notes"])
    assert "IP and IR of table 1 are those of mag. 2 alone" in row["notes"]


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path, simple, monkeypatch):
    """Stopped in the middle, the rest is measured; then nothing, and another row alone where one is added."""
    real = folder(tmp_path / "real", *(tissue(seed) for seed in range(3)))
    ours = folder(tmp_path / "ours", *(tissue(seed) for seed in range(3, 6)))
    theirs = folder(tmp_path / "theirs", *(tissue(seed) for seed in range(6, 9)))
    extract = features.extract

    def stops(*some, **how):
        if len(simple) == 4:
            raise KeyboardInterrupt
        return extract(*some, **how)

    monkeypatch.setattr(features, "extract", stops)
    words = [f"--tables.real={real}", f"--tables.generated=ours={ours}", "--tables.halves=false", *FLAGS]
    assert main.run(["--mode=tables", f"--workdir={tmp_path / 'w'}", *words]) == 130
    assert len(json.loads((tmp_path / "w" / "measured.json").read_text())) == 2
    monkeypatch.setattr(features, "extract", extract)
    first = run(tmp_path / "w", real, "--tables.halves=false", ours=ours)
    assert len(simple) == 4 + 2 + 3 * 2 + 2 * 2  # of anyres two sets, of each magnification two, of FID two coarser
    assert run(tmp_path / "fresh", real, "--tables.halves=false", ours=ours) == first
    done = len(simple)
    assert main.run(["--mode=tables", f"--workdir={tmp_path / 'w'}"]) == 0  # what it was begun with
    assert json.loads((tmp_path / "w" / "tables.json").read_text()) == first
    assert len(simple) == done
    both = run(tmp_path / "w", real, "--tables.halves=false", ours=ours, theirs=theirs)
    assert both["rows"][0] == first["rows"][0]
    assert len(simple) - done == 8  # those of the real slides are known


@pytest.mark.slow
def test_all_rows_have_crops_of_one_range(tmp_path):
    """Patch FID is not compared between sets of which one has no large crops."""
    real = folder(tmp_path / "real", tissue(0), tissue(1))
    large = folder(tmp_path / "large", tissue(0), tissue(1))
    small = folder(tmp_path / "small", tissue(2, 96))
    alone = run(tmp_path / "w", real, "--tables.halves=false", large=large)
    both = run(tmp_path / "w", real, "--tables.halves=false", large=large, small=small)
    assert "crops of up to 192, " in alone["protocol"]["pFID"]
    assert "crops of up to 96, " in both["protocol"]["pFID"]
    assert both["rows"][0]["scores"]["pfid"] == {"pfid": pytest.approx(0, abs=1e-6)}


# The layout.


def published():
    """Kidney in tables 1 and 3 of the paper, as a run would have found it."""
    plan = Tables(real="real", generated=("StyleGAN3=a", "Outpainting=b", "URCDM=c"))
    full, part = {"real": 10_000, "generated": 10_000}, {"real": 800, "generated": 800}
    mags = [((0.87, 0.42), part), ((0.60, 0.10), full), ((0.62, 0.03), full)]

    def row(name, kind, scores, counts):
        return {"name": name, "kind": kind, "files": 7, "scores": scores, "counts": counts, "notes": []}

    def covered(ip, ir):
        return {"precision_recall_precision": ip, "precision_recall_recall": ir}

    ours = {f"precision_recall_{i}": covered(*values) for i, (values, _) in enumerate(mags)}
    gan = {"fid": {"fid": 38.62}, "precision_recall_2": covered(0.74, 0.08)}
    rows = [
        row("StyleGAN3", "images", gan, {"fid": full, "precision_recall_2": full}),
        row("Outpainting", "slides", {"pfid": {"pfid": 150.15}}, {}),
        row("=URCDM", "slides", {"pfid": {"pfid": 39.52}} | ours, {k: n for k, (_, n) in zip(ours, mags, strict=True)}),
    ]
    real = {"files": 9, "slides": {"reference": ["a.svs"], "other half": []}, "notes": ["of one scanner"]}
    networks = {"inception": {"weights": "x.pth"}}
    known = {"rows": rows, "real": real, "networks": networks, "seed": 3, "settings": plan._asdict(), "pictures": {}}
    return known | {"protocol": tables_page.protocol(plan, 40000)}


GOLDEN = """\
Table 1
System       FID-10k  pFID-50k  pFID-50k (anyres)    IP    IR
StyleGAN3      38.62      n.a.               n.a.  0.74  0.08
Outpainting     n.a.    150.15               n.a.  n.a.  n.a.
=URCDM          n.a.     39.52               n.a.  0.70  0.18
Table 3
System       mag. 0 IP  mag. 0 IR  mag. 1 IP  mag. 1 IR  mag. 2 IP  mag. 2 IR
StyleGAN3         n.a.       n.a.       n.a.       n.a.       0.74       0.08
Outpainting       n.a.       n.a.       n.a.       n.a.       n.a.       n.a.
=URCDM            0.87       0.42       0.60       0.10       0.62       0.03
Patches
System       Files  mag. 0  mag. 1  mag. 2
real             9     800  10,000  10,000
StyleGAN3        7    n.a.    n.a.  10,000
Outpainting      7    n.a.    n.a.    n.a.
=URCDM           7     800  10,000  10,000
inception: weights x.pth
(seed 3)
note: real: of one scanner
"""


def test_the_tables_are_those_of_the_paper(tmp_path):
    """The mean of table 3 is what table 1 has: .70 and .18."""
    facts = published()
    assert "\n".join(tables_page.lines(facts)) + "\n" == GOLDEN
    rows = [*csv.DictReader(io.StringIO(tables_page.csv_of(facts)))]
    assert [row["system"] for row in rows] == ["StyleGAN3", "Outpainting", "'=URCDM"]
    assert (rows[2]["IP"], rows[2]["mag. 1 IR"], rows[2]["mag. 0 patches"]) == ("0.696667", "0.1", "800")
    html = tables_page.html(facts, tmp_path)
    assert "<th>FID-10k ↓</th><th>pFID-50k ↓</th><th>pFID-50k (anyres) ↓</th><th>IP ↑</th><th>IR ↑</th>" in html
    assert "6400 (mag. 1), 1024 (mag. 2) pixels of the full size" in html
    assert "of one scanner" in html


def test_numbers_of_other_networks_and_other_counts_bear_no_published_name():
    random = Tables(fid_by="inception-random", ip_by="inception-random", n=500)
    named = tables_page.heads(random, [])
    assert [*named.values()] == [
        *("frechet-500@inception-random", "patch_frechet-50k@inception-random"),
        *("patch_frechet-50k@inception-random (anyres)", "IP@inception-random", "IR@inception-random"),
    ]
    fewer = [{"counts": {"fid": {"real": 10_000, "generated": 9_000}}}]
    assert tables_page.heads(Tables(), fewer)["fid"] == "FID"


# The command line.


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("", "--tables.real=DIR is missing: name a folder of slides"),
        ("--tables.real=nowhere", "--tables.real: no file or folder 'nowhere'"),
        ("--tables.real={d}/images", "--tables.real: {d}/images holds images, and patches are cut out of slides"),
        ("{real}", "there is nothing to score (there is one real slide): name folders by --tables.generated=NAME=DIR"),
        ("{real} --tables.generated=a", "'a' is no folder with its name: write NAME=DIR, several with commas"),
        ("{real} --tables.generated=a=,b=x", "'a=' is no folder with its name: write NAME=DIR"),
        ("{real} --tables.resolutions=128", "--tables.resolutions is for volumes"),
        ("{real} --tables.generated=a=x,a=y", "--tables.generated: 'a' is the name of more than one row"),
        ("{real} --tables.generated=real=x", "--tables.generated: 'real' is the name of more than one row"),
        ("{real} --tables.generated=a=nowhere", "--tables.generated: a: no file or folder 'nowhere'"),
        ("{real} --tables.generated=a={d}/empty", "--tables.generated: a: no image, volume or slide in"),
        ("{real} --tables.generated=a={d}/volumes", "--tables.generated: a: {d}/volumes holds volumes"),
        (
            "{real} --tables.fid_by=incepton",
            "config.tables.fid_by 'incepton'; did you mean inception?",
        ),
        ("--tables.factor=1", "config.tables.factor must be more than 1; got 1"),
        ("--tables.patch=8", "config.tables.patch must be at least 16; got 8"),
        ("--tables.rael=x", "unknown field 'config.tables.rael'; did you mean config.tables.real?"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path, monkeypatch, capsys, flags, line):
    monkeypatch.chdir(tmp_path)
    slide(tmp_path / "real" / "0.tif", tissue(0))
    for name in ("images", "volumes", "empty"):
        (tmp_path / name).mkdir()
    images.write(tmp_path / "images" / "0.png", tissue(0, 16, 16))
    np.save(tmp_path / "volumes" / "0.npy", np.zeros((4, 4, 4, 1), np.uint8))
    words = flags.replace("{real}", "--tables.real=real").replace("{d}", str(tmp_path)).split()
    assert main.run(["--mode=tables", "--workdir=w", *words]) == 2
    [said] = [part for part in capsys.readouterr().err.splitlines() if part.startswith("error: ")]
    assert line.replace("{d}", str(tmp_path)) in said
    assert not Path("w", "measured.json").exists()


def test_a_run_is_not_written_over(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"readers": {"pairs": 4}}')
    assert main.run(["--mode=tables", f"--workdir={tmp_path}"]) == 2
    assert "is what a run is kept in; choose another --workdir for tables" in capsys.readouterr().err


def test_missing_weights_are_said_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setenv("NCA_GEN_WEIGHTS", str(tmp_path))
    assert main.run(["--mode=tables", f"--workdir={tmp_path / 'w'}", "--tables.real=nowhere"]) == 2
    assert "no weights-inception-2015-12-05-6726825d.pth" in capsys.readouterr().err
