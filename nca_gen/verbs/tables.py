"""--mode=tables: tables 1 and 3 of URCDM (Cechnicka et al. 2024, MICCAI) for a folder of real slides and any rivals.

A row a folder of generated slides or images: FID, patch FID, IP and IR, all against the same real slides. What these
are is in :mod:`nca_gen.verbs.tables_measures`, where patches lie in :mod:`nca_gen.verbs.tables_patches`; what a row has
cost, where that is known, in :mod:`nca_gen.verbs.tables_costs`. Of a folder of real volumes it is table 1 of CA-LDM:
:mod:`nca_gen.verbs.tables_volumes`.

In the workdir: ``tables.html``, ``tables.json`` and ``tables.csv``; and ``measured.json``, from which a second start
takes what is done.
"""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from nca_gen import build
from nca_gen.data import table
from nca_gen.data.slides import patient
from nca_gen.errors import UserError
from nca_gen.evaluators import pictures
from nca_gen.io import cache, images, sets, space, write
from nca_gen.io.slides import Slides
from nca_gen.metrics import features
from nca_gen.report import files
from nca_gen.runtime.log import say
from nca_gen.sections import Tables
from nca_gen.verbs import tables_measures as measures
from nca_gen.verbs import tables_page as page
from nca_gen.verbs import tables_patches as cut
from nca_gen.verbs import tables_volumes as of_volumes
from nca_gen.verbs.tables_costs import cost
from nca_gen.verbs.tables_measures import Measured, Set
from nca_gen.verbs.tables_rows import CONFIG, FLOOR, MEASURED, half, systems

SHOWN, THUMB = 6, 160  # patches of each magnification in the picture of a row, and their side


class Real(NamedTuple):
    """The real slides: those that rows are held against, the others, and in a sentence why there are none.

    ``names``: of the slides of both, as they lie in the folder.
    """

    reference: Slides
    other: Slides | None
    why: str
    names: tuple[list[str], list[str]]


def main(config: Any, args: Namespace) -> None:
    """--mode=tables."""
    tables(config, args.workdir)


def tables(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Scores what ``config.tables`` names, prints the tables and writes them into ``workdir``. Returns tables.json.

    Raises UserError for a folder that cannot be scored, before anything is; for weights that are missing, and for a
    workdir of something else.
    """
    plan, seed, folder = Tables(**build.fields(config, "tables")), int(config.seed), Path(workdir)
    if (before := files.read_object(folder / CONFIG)) and not before.keys() <= {"tables", "seed"}:
        raise UserError(f"{folder} is what a run is kept in; choose another --workdir for tables")
    if plan.real and of_volumes.are(plan.real):
        return of_volumes.tables(plan, seed, folder)
    if plan.resolutions:
        raise UserError("--tables.resolutions is for volumes: slides are compared at several magnifications anyway")
    networks = {r.extractor: features.protocol(r.extractor) for r in measures.requests(plan).values()}
    real = halved(opened("--tables.real", plan.real), plan, seed)
    rows, made = {FLOOR: real.other} if real.other else {}, systems(plan.generated)
    rows |= {name: opened(f"--tables.generated: {name}", path) for name, path in made.items()}
    if not rows:
        raise UserError(f"there is nothing to score ({real.why}): name folders by --tables.generated=NAME=DIR,NAME=DIR")
    write.facts(folder / CONFIG, {"seed": seed, "tables": plan._asdict()})
    shown = {name: picture(folder, some, plan, seed) for name, some in {"real": real.reference, **rows}.items()}
    most = measures.largest([real.reference, *rows.values()])
    found = measured(folder, plan, real.reference, rows, most, seed)
    costs = {name: cost(path) for name, path in made.items()}
    blank = {"kind": "slides", "files": 0, "scores": {}, "counts": {}, "missing": {}}
    floor = [{"name": FLOOR, **blank, "notes": [f"n.a.: {real.why}"]}] if plan.halves and not real.other else []
    facts = {
        "rows": floor + [row(name, some, found[name], real.reference, plan) for name, some in rows.items()],
        "costs": {name: known for name, known in costs.items() if known},
        "real": {
            "files": len(real.reference),
            "slides": dict(zip(("reference", "other half"), real.names, strict=True)),
            "notes": real.reference.notes,
        },
        "protocol": page.protocol(plan, most),
        "networks": networks,
        "settings": plan._asdict(),
        "seed": seed,
        "pictures": {name: file for name, file in shown.items() if file},
    }
    facts = json.loads(write.notation(facts))
    write.facts(folder / "tables.json", facts)
    write.text(folder / "tables.csv", page.csv_of(facts))
    write.text(folder / "tables.html", page.html(facts, folder))
    for line in page.lines(facts):
        say(line)
    say(f"the page is {folder / 'tables.html'}, the numbers are in tables.csv and tables.json")
    return facts


# Folders.


def opened(field: str, path: str) -> Any:
    """The set at ``path``: of slides where that may be. Raises UserError, which names the ``field``, for any other."""
    if not path:
        raise UserError(f"{field}=DIR is missing: name a folder of slides")
    try:
        some = sets.open(path, wanted="slides")
    except UserError as e:
        raise UserError(f"{field}: {e}") from e
    if sets.kind(some) == "volumes":
        raise UserError(f"{field}: {path} holds volumes, and the tables are of slides and images")
    if field == "--tables.real" and not isinstance(some, Slides):
        raise UserError(
            f"{field}: {path} holds images, and patches are cut out of slides: tiled TIFF, SVS, OME-Zarr or another "
            "format of slides"
        )
    return some


def halved(real: Slides, plan: Tables, seed: int) -> Real:
    """The real slides in two halves, as far as their patients allow it and ``plan`` asks for it."""
    root = Path(plan.real).expanduser()
    root = root if root.is_dir() and root not in map(Path, real.names) else root.parent
    names = [str(Path(path).relative_to(root)) for path in real.names]
    if not plan.halves:
        return Real(real, None, "all real slides are in one set", (names, []))
    known = table.read(table.Files(root, names, []), patient=patient).patient
    people = [known.get(name) or patient(name) for name in names]
    first = half(people, seed)
    if first.all():
        why = f"all {len(names)} real slides are of one patient" if len(names) > 1 else "there is one real slide"
        return Real(real, None, why, (names, []))
    (one, ours), (other, theirs) = (part(real, names, chosen) for chosen in (first, ~first))
    return Real(one, replace(other, notes=()), "", (ours, theirs))  # what is said of the folder is said once


def part(real: Slides, names: Sequence[str], chosen: Bool[np.ndarray, " n"]) -> tuple[Slides, list[str]]:
    """Some of the slides, and their names."""
    digest = hashlib.sha256(real.digest.encode() + chosen.tobytes()).hexdigest()
    some = tuple(slide for slide, taken in zip(real.slides, chosen, strict=True) if taken)
    return replace(real, slides=some, digest=digest), [n for n, taken in zip(names, chosen, strict=True) if taken]


# Numbers.


def measured(
    folder: Path, plan: Tables, real: Slides, rows: Mapping[str, Set], most: int, seed: int
) -> dict[str, dict[str, Measured]]:
    """All measures of all rows, by the names of both; what ``folder`` has of them already is taken from there."""
    kept, found = files.read_object(folder / MEASURED), {name: {} for name in rows}
    for measure in measures.measures(plan, real, most, seed):
        for name, some in rows.items():
            key = cache.key(*measure.facts, some.digest)
            if key not in kept:
                kept[key] = measure.of(some, name)._asdict()
                write.facts(folder / MEASURED, kept)
            found[name][measure.name] = Measured(**kept[key])
    return found


def row(name: str, some: Set, found: Mapping[str, Measured], real: Slides, plan: Tables) -> dict[str, Any]:
    """What is known of a row, for JSON."""
    where = space.between({"real": sets.mpp(real), name: sets.mpp(some)})
    return {
        "name": name,
        "kind": sets.kind(some),
        "files": len(some),
        "scores": {measure: one.scores for measure, one in found.items() if one.scores},
        "counts": {measure: one.counts for measure, one in found.items() if one.counts},
        "missing": {measure: one.why for measure, one in found.items() if one.why},
        "notes": [*some.notes, *where, *page.caveats(found, plan, some)],
    }


def picture(folder: Path, some: Set, plan: Tables, seed: int) -> str:
    """Writes what patches of a set look like, a line a magnification, and returns the name of the file; "" for none."""
    key = cache.key(some.digest, plan.patch, plan.factor, plan.magnifications, plan.n, plan.tissue, seed)
    if (folder / f"patches-{key}.png").is_file():
        return f"patches-{key}.png"
    cells = []
    for scale in cut.scales(plan) if isinstance(some, Slides) else (1.0,):
        patches = measures.viewed(plan, some, seed, scale)
        index = np.unique(np.linspace(0, len(patches) - 1, SHOWN).round().astype(int)) if len(patches) else []
        pixels = [images.resize(images.picture(patches[i]), (THUMB, THUMB)) for i in index]
        blank = np.full((THUMB, THUMB, some.channels if isinstance(some, Slides) else some.shape[-1]), 255, np.uint8)
        cells += [*pixels, *[blank] * (SHOWN - len(pixels))]
    pictures.grid(folder / f"patches-{key}.png", np.stack(cells), SHOWN)
    return f"patches-{key}.png"
