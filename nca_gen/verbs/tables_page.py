"""How the tables of --mode=tables are shown: on the screen, as CSV, as a page, and what must be known beside them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nca_gen import judge, screen
from nca_gen.contracts import Figure, Page, Table
from nca_gen.io.slides import Slides
from nca_gen.report import report
from nca_gen.sections import Tables
from nca_gen.verbs import tables_measures as measures
from nca_gen.verbs import tables_patches as cut
from nca_gen.verbs.tables_measures import FID, IP, PFID, Measured

NONE = "n.a."
SCALES, COSTS = "Distances by magnification", "What the pictures cost"
SPENT = ("parameters", "flop", "seconds", "cpu_seconds", "memory_mb")  # of :func:`nca_gen.verbs.tables_costs.cost`
PARTS = {"precision": "IP", "recall": "IR"}
FORMULA = ("=", "+", "-", "@")  # with which a spreadsheet takes a cell for one
PUBLISHED = {"fid": "FID", "pfid": "pFID", "precision_recall": ""}  # labels of the judge, and what the paper says


def names(plan: Tables) -> dict[str, str]:
    """What measures are called: of random features and of other networks no distance bears a published name."""
    label = {name: request.label for name, request in measures.requests(plan).items()}
    known = {name: PUBLISHED.get(one, one) for name, one in label.items()}
    pfid, network = known[PFID["urcdm"]], label[IP].partition("@")[2]
    found = {FID: known[FID], PFID["urcdm"]: pfid, PFID["anyres"]: f"{pfid} (anyres)"}
    return found | {part: f"{short}@{network}" if network else short for part, short in PARTS.items()}


def heads(plan: Tables, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """:func:`names` with the number of patches, as the paper has it: FID-10k, where all ``rows`` have so many."""
    counts = {n for row in rows for n in row["counts"].get(FID, {}).values()}
    sizes = {FID: plan.n if counts <= {plan.n} else 0, **dict.fromkeys(PFID.values(), plan.crops)}
    size = {name: f"-{n // 1000}k" if n % 1000 == 0 else f"-{n}" for name, n in sizes.items() if n}
    return {name: re.sub("(?=[ @]|$)", size.get(name, ""), one, count=1) for name, one in names(plan).items()}


def values(row: Mapping[str, Any], part: str, plan: Tables) -> list[float | None]:
    """IP or IR of a row at each magnification, None where there is none."""
    every = (row["scores"].get(measures.magnification(i), {}) for i in range(plan.magnifications))
    return [one.get(f"{IP}_{part}") for one in every]


def mean(numbers: Sequence[float | None]) -> float | None:
    """The mean of the numbers that there are."""
    known = [x for x in numbers if x is not None]
    return sum(known) / len(known) if known else None


def first(row: Mapping[str, Any], plan: Tables) -> list[float | None]:
    """The numbers of a row of table 1: FID, patch FID twice, IP and IR."""
    distances = [next(iter(row["scores"].get(name, {}).values()), None) for name in (FID, *PFID.values())]
    return [*distances, *(mean(values(row, part, plan)) for part in PARTS)]


def third(row: Mapping[str, Any], plan: Tables) -> list[float | None]:
    """The numbers of a row of table 3: IP and IR of each magnification."""
    return [x for pair in zip(*(values(row, part, plan) for part in PARTS), strict=True) for x in pair]


def counts(row: Mapping[str, Any], plan: Tables) -> list[int | None]:
    """How many patches of a row there are at each magnification."""
    every = (row["counts"].get(measures.magnification(i), {}) for i in range(plan.magnifications))
    return [one.get("generated") for one in every]


def by_scale(row: Mapping[str, Any], plan: Tables) -> list[float | None]:
    """FID of a row, and its autocovariance, at each magnification."""
    every = range(plan.magnifications)
    return [
        next(iter(row["scores"].get(name(i), {}).values()), None)
        for name in (partial(measures.distant, plan), measures.structured)
        for i in every
    ]


def of_real(rows: Sequence[Mapping[str, Any]], plan: Tables) -> list[int | None]:
    """How many real patches there are at each magnification."""
    names = [measures.magnification(i) for i in range(plan.magnifications)]
    return [next((row["counts"][name]["real"] for row in rows if name in row["counts"]), None) for name in names]


def shown(numbers: Sequence[float | None], digits: Sequence[int]) -> list[str]:
    """Numbers as the paper writes them, with so many digits behind the point."""
    return [NONE if x is None else f"{x:.{n}f}" for x, n in zip(numbers, digits, strict=True)]


def three(facts: Mapping[str, Any]) -> list[Table]:
    """Table 1, table 3, and how many patches they are made of."""
    plan, rows = Tables(**facts["settings"]), facts["rows"]
    title = heads(plan, rows)
    mags = [f"mag. {i}" for i in range(plan.magnifications)]
    columns = {
        "Table 1": ["System", *(title[name] for name in (FID, *PFID.values(), *PARTS))],
        "Table 3": ["System", *(f"{mag} {title[part]}" for mag in mags for part in PARTS)],
        "Patches": ["System", "Files", *mags],
    }
    body = {
        "Table 1": [[row["name"], *shown(first(row, plan), (2, 2, 2, 2, 2))] for row in rows],
        "Table 3": [[row["name"], *shown(third(row, plan), (2,) * 2 * plan.magnifications)] for row in rows],
        "Patches": [
            [name, n, *(NONE if x is None else x for x in some)]
            for name, n, some in (
                ("real", facts["real"]["files"], of_real(rows, plan)),
                *((row["name"], row["files"], counts(row, plan)) for row in rows),
            )
        ],
    }
    return [Table(name, columns[name], body[name]) for name in columns]


def scaled(plan: Tables) -> list[str]:
    """The columns of :func:`by_scale`."""
    titles = names(plan)[FID], measures.STRUCTURE
    return [f"mag. {i} {title}" for title in titles for i in range(plan.magnifications)]


def more(facts: Mapping[str, Any]) -> list[Table]:
    """Beyond the paper's: the distances at each magnification, and the costs; those of which something is known."""
    plan, found = Tables(**facts["settings"]), []
    rows = [(row["name"], by_scale(row, plan)) for row in facts["rows"]]
    finest = plan.magnifications - 1  # of which FID stands in table 1
    if any(x is not None for _, numbers in rows for i, x in enumerate(numbers) if i != finest):
        digits = (2,) * plan.magnifications + (3,) * plan.magnifications
        body = [[name, *shown(numbers, digits)] for name, numbers in rows]
        found.append(Table(SCALES, ["System", *scaled(plan)], body))
    if costs := facts.get("costs"):
        columns = ["System", "Picture", "Parameters", "MFLOP a pixel", "Seconds", "CPU seconds", "Memory, MB"]
        found.append(Table(COSTS, columns, [[name, *spent(known)] for name, known in costs.items()]))
    return found


def spent(known: Mapping[str, Any]) -> list[str]:
    """The numbers of a row of costs, in the order of their columns."""
    pixels = math.prod(known["size"])
    counted = [f"{known['parameters']:,}", f"{known['flop'] / pixels / 1e6:.3g}"] if "flop" in known else [NONE, NONE]
    took = [f"{known[name]:,.0f}" for name in SPENT[2:]]
    return [" x ".join(map(str, known["size"])), *counted, *took]


def protocol(plan: Tables, most: int) -> dict[str, str]:
    """How everything is measured, by the name of the measure. ``most``: the side of the largest crop."""
    name, asked = names(plan), measures.requests(plan)
    spans = ", ".join(f"{plan.patch * scale:g} (mag. {i})" for i, scale in enumerate(cut.scales(plan)))
    places = (
        f"Squares of {spans} pixels of the full size a side, each reduced to {plan.patch} by an antialiased bicubic. A "
        "slide is cut into squares that do not overlap, the first of which begins where the seed says; of those of "
        f"which {plan.tissue:.0%} or more is stained (the colours of a pixel differ by 1/16 of their range) {plan.n:,} "
        "are drawn by the seed, without replacement, from all slides of a set; or all, where there are fewer. Beyond "
        f"the edge of a slide is the colour {cut.GLASS}. Of a folder of images {plan.n:,} are drawn. The rule is one "
        "for real and generated slides."
    )
    return {
        "Patches": places,
        name[FID]: f"Of patches of the finest magnification. {asked[FID].about.terms}",
        name[PFID["urcdm"]]: f"{plan.crops:,} patches of {plan.patch} pixels, of all rows from crops of up to {most}, "
        f"the shorter side of the smallest slide. {asked[PFID['urcdm']].about.terms}",
        name[PFID["anyres"]]: "The same by protocol=anyres, of patches of a quarter of the side. Lower is better.",
        name["precision"]: f"Improved precision, k = {plan.k}; in table 1 the mean of all magnifications. "
        f"{asked[IP].about.terms}",
        name["recall"]: "Improved recall, likewise. Higher is better.",
        f"{name[FID]} by magnification": "Of patches of each magnification; that of the finest stands in table 1.",
        measures.STRUCTURE: f"Of each magnification, of {measures.MASKS} patches at the most. "
        f"{judge.request(measures.STRUCTURE).about.terms}",
        COSTS: "Of pictures that --mode=generate drew without interruption, beside whose folder it left what they "
        "took: seconds by the clock, with compilation, and the most that the process (or its accelerator) held; of "
        "several processes CPU seconds and memory are those of the first. FLOP of matrix products in the calls of all "
        "networks, counted and not measured, with what tiles and patches overlap, as if no glass were skipped.",
    }


def caveats(found: Mapping[str, Measured], plan: Tables, some: Any) -> Iterator[str]:
    """What must stand beside the numbers of a row."""
    mags = {f"mag. {i}": found[measures.magnification(i)] for i in range(plan.magnifications)}
    for role in ("generated", "real"):
        few = {name: one.counts[role] for name, one in mags.items() if one.counts and one.counts[role] < plan.n}
        if few:
            numbers = ", ".join(f"{name} {n}" for name, n in few.items())
            yield f"fewer than {plan.n:,} {role} patches, all that there are: {numbers}"
    unequal = [name for name, one in mags.items() if one.scores and len({*one.counts.values()}) > 1]
    if unequal:
        yield f"real and generated patches differ in number ({', '.join(unequal)}), on which FID, IP and IR depend"
    there = [name for name, one in mags.items() if one.scores]
    if 0 < len(there) < len(mags):
        yield f"IP and IR of table 1 are those of {', '.join(there)} alone"
    called = names(plan) | {measures.magnification(i): f"mag. {i}" for i in range(plan.magnifications)}
    called |= {measures.distant(plan, i): f"{called[FID]} of mag. {i}" for i in range(plan.magnifications - 1)}
    called |= {measures.structured(i): f"{measures.STRUCTURE} of mag. {i}" for i in range(plan.magnifications)}
    said: dict[str, list[str]] = {}
    for measure, one in found.items():
        for note in [f"{NONE}, {one.why}"] if one.why else one.notes:
            said.setdefault(note, []).append(called[measure])
    yield from (f"{', '.join(names)}: {note}" for note, names in said.items())
    if not isinstance(some, Slides) and min(some.shape[1:3]) > plan.patch:
        yield (
            f"images of {some.shape[1]} x {some.shape[2]} pixels are taken as patches, and networks see them reduced; "
            "as tiled TIFF with a pyramid they are slides"
        )


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The tables for a screen, and below them what must be known."""
    for table in [*three(facts), *more(facts)]:
        yield f"{table.title}"
        yield from screen.aligned(table.columns, table.rows)
    for name, network in facts["networks"].items():
        yield f"{name}: " + "; ".join(f"{k} {v}" for k, v in network.items() if isinstance(v, str))
    yield f"(seed {facts['seed']})"
    for name, notes in remarks(facts).items():
        yield from (f"note: {name}: {note}" for note in notes)


def remarks(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """What must be said of the sets: of the real one, of all rows, of each."""
    rows = {row["name"]: row["notes"] for row in facts["rows"]}
    scored = [row["notes"] for row in facts["rows"] if row["scores"]]
    common = [note for note in scored[0] if all(note in notes for notes in scored)] if len(scored) > 1 else []
    each = {name: [note for note in notes if note not in common] for name, notes in rows.items()}
    every = {"real": facts["real"]["notes"], "all rows": common} | each
    return {name: notes for name, notes in every.items() if notes}


def csv_of(facts: Mapping[str, Any]) -> str:
    """A line a row with the numbers of all tables, to six digits, and the patches that they are of."""
    plan, text = Tables(**facts["settings"]), io.StringIO()
    one, other, patches = three(facts)
    writer = csv.writer(text, lineterminator="\n")
    heading = [*one.columns[1:], *other.columns[1:], *(f"{name} patches" for name in patches.columns[2:])]
    writer.writerow(["system", "kind", "files", *heading, *scaled(plan), *SPENT])
    for row in facts["rows"]:
        name = f"'{row['name']}" if row["name"].startswith(FORMULA) else row["name"]
        numbers = [*first(row, plan), *third(row, plan), *counts(row, plan), *by_scale(row, plan)]
        numbers += [facts.get("costs", {}).get(row["name"], {}).get(field) for field in SPENT]
        writer.writerow([name, row["kind"], row["files"], *(NONE if x is None else f"{x:.6g}" for x in numbers)])
    return text.getvalue()


def lower(table: Table) -> Table:
    """A table of :func:`more` without its title; of distances lower is better."""
    way = " ↓" if table.title == SCALES else ""
    return table._replace(title="", columns=[table.columns[0], *(f"{name}{way}" for name in table.columns[1:])])


def html(facts: Mapping[str, Any], folder: Path) -> str:
    """One file that can be passed on: the tables, what patches look like, how all was measured."""
    plan, (one, other, patches) = Tables(**facts["settings"]), three(facts)
    ways = {heading: "↑" if name in PARTS else "↓" for name, heading in heads(plan, facts["rows"]).items()}

    def arrows(table: Table) -> Table:
        way = [next((way for end, way in ways.items() if name.endswith(end)), "") for name in table.columns]
        return table._replace(title="", columns=[f"{a} {b}".rstrip() for a, b in zip(table.columns, way, strict=True)])

    figures = [
        Figure(file, f"**{name}**: patches of each magnification, the coarsest above.")
        for name, file in facts["pictures"].items()
    ]
    names = {f"real slides, {part}": ", ".join(some) for part, some in facts["real"]["slides"].items()}
    terms = facts["protocol"] | names | {"seed": str(facts["seed"])}
    pages = [
        Page("Table 1: fidelity and diversity", tables=[arrows(one)]),
        Page("Table 3: IP and IR by magnification", tables=[arrows(other)]),
        *(Page(table.title, tables=[lower(table)]) for table in more(facts)),
        Page("Patches", tables=[patches._replace(title="")], figures=figures),
        Page("What must be said of them", facts={"notes": remarks(facts)}),
        Page("How it was measured", facts={"protocol": terms, "networks": facts["networks"]}),
    ]
    n, slides = len(facts["rows"]), facts["real"]["files"]
    intro = f"{n} set{'s' * (n != 1)} against {slides} real slide{'s' * (slides != 1)}."
    return report.render("Generated slides side by side", pages, folder, over="nca_gen · tables", intro=intro)
