"""CA-LDM's table for folders of volumes: sets whose distances are known; halves by patient; a second start."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from nca_gen import main
from nca_gen.io import images, sets, volumes
from nca_gen.metrics import features, slice_fid, total_variation

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def simple(monkeypatch, tmp_path):
    """Mean and deviation of a slice instead of a network, an empty cache; returns how many slices each call saw."""
    seen = []

    def extract(name, some, *, layers, weights=None, batch=32, progress=None, pixels=None):
        x = (pixels or features.rgb)(some[:]).astype(np.float64)
        seen.append(len(x))
        both = np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)
        return dict.fromkeys(layers, both.astype(np.float32))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "extract", extract)
    monkeypatch.setattr(features, "protocol", lambda name, weights=None: {"extractor": name, "weights": "none"})
    return seen


def folder(path, n, seed, brighter=0):
    rng = np.random.default_rng(seed)
    path.mkdir()
    for i in range(n):
        volumes.write(path / f"{i}.nii.gz", rng.integers(0, 150, (8, 9, 10, 1), np.uint8) + np.uint8(brighter))
    return path


def run(workdir, real, *flags, **generated):
    """tables.json of the command."""
    named = ",".join(f"{name}={path}" for name, path in generated.items())
    words = [f"--tables.real={real}", f"--tables.generated={named}", *flags]
    assert main.run(["--mode=tables", f"--workdir={workdir}", *words]) == 0
    return json.loads((workdir / "tables.json").read_text())


@pytest.mark.slow
def test_the_shape_of_the_table(tmp_path, capsys):
    """One command: columns as published, all rows against the same real volumes, with the metrics' own numbers."""
    real, copy, bright = (folder(tmp_path / n, 4, 0, b) for n, b in (("real", 0), ("copy", 0), ("bright", 90)))
    facts = run(tmp_path / "out", real, "--tables.halves=false", LVD=copy, LDM3D=bright)
    rows = {row["name"]: row for row in facts["rows"]}
    assert [*facts["heads"].values()] == ["Intra-FID", "Inter-FID", "TV", "TV / real", "FID-2.5D"]
    same, other = ([rows[name]["scores"][score] for score in facts["heads"]] for name in ("LVD", "LDM3D"))
    np.testing.assert_allclose(same, [0, 0, same[2], 1, 0], atol=1e-6)
    a, b = sets.open(bright), sets.open(real)
    own = slice_fid.distance(*(slice_fid.statistics(x) for x in (b, a)))
    np.testing.assert_allclose(other[:2], [own["slice_fid_intra"], own["slice_fid_inter"]], rtol=1e-6)
    assert other[0] == pytest.approx(90**2, rel=0.01)  # the means of slices are as far apart
    assert other[2] == pytest.approx(total_variation.statistics(b)[:, 0].mean())  # brighter, and no noisier
    assert other[4] == pytest.approx(0, abs=1e-3)  # which stretching does not see
    table = [*csv.reader(io.StringIO((tmp_path / "out/tables.csv").read_text()))]
    assert table[0] == ["system", "volumes", *facts["heads"].values()]
    assert [row[:2] for row in table[1:]] == [["LVD", "4"], ["LDM3D", "4"]]
    assert "Inter-FID" in capsys.readouterr().out
    page = (tmp_path / "out/tables.html").read_text()
    assert "LDM3D" in page
    assert "all real volumes are in one set" in page
    assert images.read(tmp_path / "out" / facts["pictures"]["LVD"]).shape[0] == 2 * 9 + 2


@pytest.mark.slow
def test_the_other_half_of_the_patients_is_a_row(tmp_path):
    real = folder(tmp_path / "real", 6, 0)
    (real / "labels.csv").write_text("filename,patient_id\n" + "".join(f"{i}.nii.gz,p{i // 2}\n" for i in range(6)))
    facts = run(tmp_path / "out", real, "--tables.volume_by=")
    [row] = facts["rows"]
    assert (row["name"], row["volumes"], facts["real"]["volumes"]) == ("real (other half)", 2, 4)
    patients = {int(name[0]) // 2 for name in facts["real"]["names"]}
    assert len(patients) == 2
    assert "FID-2.5D" not in facts["heads"].values()
    assert row["scores"]["total_variation_relative"] == pytest.approx(1, abs=0.1)  # noise of the same kind


@pytest.mark.slow
def test_real_volumes_of_a_lower_resolution_are_rows(tmp_path):
    """What is flat loses nothing; of a checkerboard nothing is left but its mean."""
    board = np.indices((8, 8, 8)).sum(0)[..., None] % 2
    for name, volume in (("flat", 0 * board + 50), ("board", 200 * board)):
        (tmp_path / name).mkdir()
        volumes.write(tmp_path / name / "0.nii.gz", volume.astype(np.uint8))
    words = ("--tables.halves=false", "--tables.volume_by=", "--tables.resolutions=4,2")
    rows = {}
    for name in ("flat", "board"):
        facts = run(tmp_path / f"{name}_out", tmp_path / name, *words, same=tmp_path / name)
        assert [row["name"] for row in facts["rows"]] == ["real-4", "real-2", "same"]
        rows |= {(name, row["name"]): row["scores"] for row in facts["rows"]}
        [note] = {n for some in facts["rows"][0]["notes"].values() for n in some if "brought" in n}
        assert note == "these are real volumes, brought to 4 voxels a side and back (bicubic)"
    assert {rows["flat", name]["total_variation"] for name in ("real-4", "real-2", "same")} == {0}
    assert {rows["flat", name]["slice_fid_intra"] for name in ("real-4", "real-2", "same")} == {0}
    assert rows["board", "same"]["total_variation_relative"] == pytest.approx(1)
    assert rows["board", "real-4"]["total_variation_relative"] < 0.02
    assert rows["board", "real-4"]["slice_fid_intra"] == pytest.approx(100**2, rel=0.02)  # the deviation is gone


@pytest.mark.slow
def test_a_second_start_measures_nothing_again(tmp_path, simple):
    real, other = folder(tmp_path / "real", 3, 0), folder(tmp_path / "other", 2, 1)
    facts = run(tmp_path / "out", real, a=other)
    n = len(simple)
    assert run(tmp_path / "out", real, a=other) == facts
    assert len(simple) == n
    run(tmp_path / "out", real, a=other, b=folder(tmp_path / "third", 2, 2))
    assert len(simple) == n + 6  # three planes of slices and three stacks of the new set; the real ones are kept


def test_other_networks_bear_other_names(tmp_path):
    real, other = folder(tmp_path / "real", 2, 0), folder(tmp_path / "other", 2, 1)
    random = ("--tables.fid_by=inception-random", "--tables.volume_by=radimagenet-random", "--tables.halves=false")
    facts = run(tmp_path / "out", real, *random, a=other)
    assert [*facts["heads"].values()] == [
        "slice_frechet@inception-random intra",
        "slice_frechet@inception-random inter",
        "TV",
        "TV / real",
        "frechet_25d@radimagenet-random",
    ]
    assert None not in [facts["rows"][0]["scores"].get(score) for score in facts["heads"]]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--tables.generated=a={d}/pictures", "a: {d}/pictures holds images, and the real ones are volumes"),
        ("--tables.generated=a={d}/none", "--tables.generated: a: no file or folder"),
        ("--tables.generated=a=x,a=y", "'a' is the name of more than one row"),
        ("--tables.halves=false", "there is nothing to score (all real volumes are in one set)"),
        ("--tables.resolutions=10", "no real volume has more than 10 voxels a side; take fewer"),
        ("--tables.resolutions=4 --tables.generated=real-4=x", "'real-4' is the name of more than one row"),
        ("--tables.mm=0", "config.tables.mm must be more than 0"),
    ],
)
def test_what_cannot_be_compared(tmp_path, capsys, flags, told):
    folder(tmp_path / "real", 2, 0)
    (tmp_path / "pictures").mkdir()
    images.write(tmp_path / "pictures/0.png", np.zeros((8, 8, 3), np.uint8))
    words = [f"--tables.real={tmp_path}/real", *(word.format(d=tmp_path) for word in flags.split(" "))]
    assert main.run(["--mode=tables", f"--workdir={tmp_path}/out", *words]) == 2
    assert told.format(d=tmp_path) in capsys.readouterr().err
