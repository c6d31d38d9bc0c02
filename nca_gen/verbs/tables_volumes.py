"""--mode=tables of volumes: table 1 of CA-LDM (Huang et al. 2024, MICCAI), and FID-2.5D, of a system and any rivals.

A row a folder of generated volumes: Intra-FID (H x W slices), Inter-FID (planes that contain D), total variation, also
relative to that of the real volumes, and FID-2.5D, all against the same real ones. Real volumes of a lower resolution
(the paper's Real-128 and Real-256) may be rows too: what is lost by them alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nca_gen import judge, screen
from nca_gen.contracts import Figure, Page, Table
from nca_gen.data import table
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.io import cache, images, sets, walk, write
from nca_gen.io import volumes as files_of
from nca_gen.io.volumes import Volumes
from nca_gen.metrics import features
from nca_gen.report import files, report
from nca_gen.runtime.log import say
from nca_gen.sections import Tables
from nca_gen.verbs.tables_page import FORMULA, NONE
from nca_gen.verbs.tables_rows import CONFIG, FLOOR, MEASURED, OWN, half, systems

SHOWN = 4  # volumes of each set in its picture
COARSE = "these are real volumes, brought to {} voxels a side and back (bicubic)"
COLUMNS = {  # of a score, by metric and part: what the paper calls it, with weights that are not random
    ("slice_fid", "_intra"): "Intra-FID",
    ("slice_fid", "_inter"): "Inter-FID",
    ("total_variation", ""): "TV",
    ("total_variation", "_relative"): "TV / real",
    ("fid_25d", ""): "FID-2.5D",
}


def are(path: str) -> bool:
    """Whether a folder, or a file, holds volumes, by the names of the first files."""
    root = Path(path).expanduser()
    names = [root.name] if root.is_file() else walk.below(root, files_of.SUFFIXES) if root.is_dir() else []
    return any(name.lower().endswith(files_of.SUFFIXES) for name in names[:1])


def tables(plan: Tables, seed: int, folder: Path) -> dict[str, Any]:
    """Scores what ``plan`` names, prints the table and writes ``tables.html``, ``tables.json`` and ``tables.csv`` into
    ``folder``; what ``measured.json`` has of it already is taken from there. Returns tables.json.

    Raises UserError for a folder that cannot be scored, before anything is, and for weights that are missing.
    """
    asked = requests(plan)
    networks = {r.extractor: features.protocol(r.extractor) for r in asked.values() if r.extractor}
    reference, other, why = halved(opened("--tables.real", plan.real), plan, seed)
    rows = {FLOOR: other} if other else {}
    rows |= {f"real-{side}": coarse(other or reference, side) for side in plan.resolutions}
    named = systems(plan.generated, {*OWN, *rows})
    rows |= {name: opened(f"--tables.generated: {name}", path) for name, path in named.items()}
    if not rows:
        raise UserError(f"there is nothing to score ({why}): name folders by --tables.generated=NAME=DIR,NAME=DIR")
    folder.mkdir(parents=True, exist_ok=True)
    write.facts(folder / CONFIG, {"seed": seed, "tables": plan._asdict()})
    shown = {name: picture(folder, name, some) for name, some in {"real": reference, **rows}.items()}
    found = measured(folder, asked, reference, rows, seed)
    facts = {
        "rows": [{"name": name, "volumes": len(rows[name]), **one} for name, one in found.items()],
        "real": {"volumes": len(reference), "names": reference.names, "notes": reference.notes, "floor": why},
        "heads": heads(asked),
        "protocol": {asked[name].label: asked[name].about.terms for name in asked},
        "networks": networks,
        "settings": plan._asdict(),
        "seed": seed,
        "pictures": shown,
    }
    facts = json.loads(write.notation(facts))
    write.facts(folder / "tables.json", facts)
    write.text(folder / "tables.csv", csv_of(facts))
    write.text(folder / "tables.html", html(facts, folder))
    for line in lines(facts):
        say(line)
    say(f"the page is {folder / 'tables.html'}, the numbers are in tables.csv and tables.json")
    return facts


def requests(plan: Tables) -> dict[str, judge.Request]:
    """The metrics of the table, as the judge knows them. Raises UserError for an unknown extractor."""
    specs = {"slice_fid": f"slice_fid@{plan.fid_by}", "total_variation": "total_variation"}
    if plan.volume_by:
        specs["fid_25d"] = f"fid_25d@{plan.volume_by}:mm={plan.mm}"
    return {name: judge.request(spec) for name, spec in specs.items()}


def heads(asked: Mapping[str, judge.Request]) -> dict[str, str]:
    """What columns are called, by the names of their scores: as published, where the network is the published one."""
    found = {}
    for (name, part), title in COLUMNS.items():
        if name in asked:
            label = asked[name].label
            found[label + part] = title if label == name else f"{label}{part.replace('_', ' ')}"
    return found


def opened(field: str, path: str) -> Volumes:
    """The volumes at ``path``. Raises UserError, which names the ``field``, for anything else."""
    try:
        some = sets.open(path)
    except UserError as e:
        raise UserError(f"{field}: {e}") from e
    if not isinstance(some, Volumes):
        raise UserError(f"{field}: {path} holds {sets.kind(some)}, and the real ones are volumes: nothing is compared")
    return some


def halved(real: Volumes, plan: Tables, seed: int) -> tuple[Volumes, Volumes | None, str]:
    """The real volumes in two halves by patient, as far as these allow it and ``plan`` asks for it; and why not."""
    if not plan.halves:
        return real, None, "all real volumes are in one set"
    root = Path(plan.real).expanduser()
    names = [*real.names]
    known = table.read(table.Files(root if root.is_dir() else root.parent, names, [])).patient
    first = half([known.get(name, name) for name in names], seed)
    if first.all():
        return real, None, "all real volumes are of one patient" if len(names) > 1 else "there is one real volume"
    one, other = (real.some(np.flatnonzero(chosen).tolist()) for chosen in (first, ~first))
    return one, other, ""


def coarse(some: Volumes, side: int) -> Volumes:
    """The volumes brought to ``side`` voxels a side and back. Raises UserError where that changes none of them."""
    if all(n <= side for shape in some.shapes for n in shape[:3]):
        raise UserError(f"--tables.resolutions: no real volume has more than {side} voxels a side; take fewer")
    about = {"digest": f"{some.digest} at {side}", "notes": (*some.notes, COARSE.format(side))}
    return replace(some, read=lambda i: images.coarse(some[i], side), **about)


def measured(
    folder: Path, asked: Mapping[str, judge.Request], real: Volumes, rows: Mapping[str, Volumes], seed: int
) -> dict[str, dict[str, Any]]:
    """Scores and notes of all rows; what ``folder`` has of them already is taken from there."""
    kept, found = files.read_object(folder / MEASURED), {name: {"scores": {}, "notes": {}} for name in rows}
    for request in asked.values():
        network = features.protocol(request.extractor) if request.extractor else None
        for name, some in rows.items():
            options = {k: v for k, v in request.options.items() if k not in ("extractor", "layer")}
            words = "".join(f":{option}={value}" for option, value in options.items())
            spec = f"{request.name}@{request.extractor}{words}" if request.extractor else request.name
            key = cache.key(spec, network, seed, real.digest, some.digest)
            if key not in kept:
                facts = judge.judge([spec], some, real, None, seed, "volumes")
                kept[key] = {"scores": facts["scores"], "notes": facts["notes"]}
                write.facts(folder / MEASURED, kept)
            found[name]["scores"] |= kept[key]["scores"]
            found[name]["notes"] |= kept[key]["notes"]
    return found


def picture(folder: Path, name: str, some: Volumes) -> str:
    """Writes the middle planes of a few volumes of a set and returns the name of the file."""
    file = f"planes-{cache.key(some.digest)}.png"
    if not (folder / file).is_file():
        planes = [files_of.planes(some[i]) for i in range(min(SHOWN, len(some)))]
        height, width = (max(plane.shape[axis] for plane in planes) for axis in (0, 1))
        white = [((0, height - p.shape[0]), (0, width - p.shape[1]), (0, 0)) for p in planes]
        cells = [np.pad(p, pad, constant_values=255) for p, pad in zip(planes, white, strict=True)]
        pictures.grid(folder / file, np.stack(cells), 2)
    return file


def shape(facts: Mapping[str, Any]) -> Table:
    """The table as it is read."""
    rows = []
    for row in facts["rows"]:
        values = [row["scores"].get(score) for score in facts["heads"]]
        rows.append([row["name"], row["volumes"], *(NONE if v is None else f"{v:.4g}" for v in values)])
    return Table("", ["System", "Volumes", *facts["heads"].values()], rows)


def remarks(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """What must be said of the sets, row by row."""
    floor = [f"{FLOOR} is {NONE}: {facts['real']['floor']}"] if facts["real"]["floor"] else []
    every: dict[str, Sequence[str]] = {"real": [*facts["real"]["notes"], *floor]}
    for row in facts["rows"]:
        notes = [note for some in row["notes"].values() for note in some]
        every[row["name"]] = [note for note in dict.fromkeys(notes) if note not in facts["real"]["notes"]]
    return {name: [*notes] for name, notes in every.items() if notes}


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The table for a screen, and below it what must be known."""
    yield from screen.aligned(shape(facts).columns, shape(facts).rows)
    for name, network in facts["networks"].items():
        yield f"{name}: " + "; ".join(f"{k} {v}" for k, v in network.items() if isinstance(v, str))
    for name, notes in remarks(facts).items():
        yield from (f"note: {name}: {note}" for note in notes)


def csv_of(facts: Mapping[str, Any]) -> str:
    """A line a row, to six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "volumes", *facts["heads"].values()])
    for row in facts["rows"]:
        values = [row["scores"].get(score) for score in facts["heads"]]
        name = f"'{row['name']}" if row["name"].startswith(FORMULA) else row["name"]
        writer.writerow([name, row["volumes"], *(NONE if v is None else f"{v:.6g}" for v in values)])
    return text.getvalue()


def html(facts: Mapping[str, Any], folder: Path) -> str:
    """One file that can be passed on: the table, what volumes look like, how all was measured."""
    drawn = [
        Figure(file, f"**{name}**: middle planes across D, H and W of a few volumes.")
        for name, file in facts["pictures"].items()
    ]
    terms = facts["protocol"] | {"real volumes": ", ".join(facts["real"]["names"]), "seed": str(facts["seed"])}
    pages = [
        Page("Fidelity", tables=[shape(facts)], figures=drawn),
        Page("What must be said of them", facts={"notes": remarks(facts)}),
        Page("How it was measured", facts={"protocol": terms, "networks": facts["networks"]}),
    ]
    n, real = len(facts["rows"]), facts["real"]["volumes"]
    intro = f"{n} set{'s' * (n != 1)} against {real} real volume{'s' * (real != 1)}."
    return report.render("Generated volumes side by side", pages, folder, over="nca_gen · tables", intro=intro)
