"""--mode=readers: a blind study of pairs. People say which of two pictures is real; Table 2 of Cechnicka et al. 2024.

Pictures are made alike (:mod:`nca_gen.verbs.readers_pictures`), served with nothing that tells the truth
(:mod:`nca_gen.verbs.readers_server`), and every answer is on disk before it is acknowledged
(:mod:`nca_gen.verbs.readers_answers`). A reader has a link of their own, and goes on where they were.

In the workdir: ``study.sqlite``, which knows the truth and the answers; ``tiles.sqlite``, the pictures; and, written
when serving ends (Ctrl-C, SIGTERM) or with --readers.serve=false, ``readers.html``, ``readers.json`` and
``answers.csv``. The latter also lists the links of readers.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import statistics
from argparse import Namespace
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nca_gen import build, screen
from nca_gen.contracts import Page, Table
from nca_gen.errors import UserError
from nca_gen.io import walk, write
from nca_gen.metrics import forced_choice
from nca_gen.metrics.forced_choice import Tally
from nca_gen.report import report
from nca_gen.sections import Readers
from nca_gen.verbs import readers_answers as record
from nca_gen.verbs import readers_pictures as pictures
from nca_gen.verbs import readers_server, web

CONFIG, FACTS = "config.json", "study.json"
FIXED = ("real", "synthetic", "pairs", "fit", "size", "quality")  # in which a study stays what it was
COLUMNS = ("Reader", "Pairs", "TP", "FP", "p", "|p - 0.5|", "95 % of p", "P", "First chosen", "Seconds a pair")
FORMULA = ("=", "+", "-", "@")  # with which a spreadsheet takes a cell for one


def main(config: Any, args: Namespace) -> None:
    """--mode=readers."""
    readers(config, args.workdir)


def readers(config: Any, workdir: str | Path) -> None:
    """Prepares the study of ``config.readers`` in ``workdir``, or opens the one that is there, and serves it until it
    is interrupted; then writes the report.

    Raises UserError for folders without pictures, pictures that cannot be shown alike, a workdir of something else, and
    fields that are not those with which the study was begun.
    """
    plan, folder = Readers(**build.fields(config, "readers")), Path(workdir)
    if plan.serve:
        web.libraries("readers")
        study = prepare(plan, folder)
        readers_server.serve(study, plan.host, plan.port, lambda address: welcome(address, folder))
    print("\n".join(summarise(folder)), flush=True)
    if not plan.serve:
        print("\n".join(links(folder, plan)), flush=True)


def welcome(address: str, folder: Path) -> None:
    """Says where readers go, and how the study ends."""
    print(f"readers begin at {address} (Ctrl-C ends; the same command goes on where it was)", flush=True)
    print(f"the answers so far: --mode=readers --workdir={folder} --readers.serve=false", flush=True)


def links(folder: Path, plan: Readers) -> list[str]:
    """Where each reader goes on, for one who has lost it. They stand on the screen alone: a report is passed on."""
    known = record.tokens(folder)
    rows = [
        [f"{i} {name or '(no name)'}", readers_server.address(plan.host, plan.port, token)]
        for i, (name, token) in enumerate(known, 1)
    ]
    return (
        ["links of readers (as served at --readers.host and --readers.port):", *screen.aligned([], rows)]
        if known
        else []
    )


# Before: pictures.


def prepare(plan: Readers, folder: Path) -> readers_server.Study:
    """The study of ``plan`` in ``folder``, where whatever is not there yet is made."""
    before = json.loads((folder / CONFIG).read_text()) if (folder / CONFIG).is_file() else {}
    if before and before.keys() != {"readers"}:
        raise UserError(f"{folder} is what a run is kept in; choose another --workdir for a study")
    settings = json.loads(write.notation({field: plan._asdict()[field] for field in FIXED}))
    for field, value in settings.items() if before else ():
        if (old := before["readers"][field]) != value:
            raise UserError(
                f"the study in {folder} was begun with --readers.{field}={old}, and not {value}: leave the field "
                "out, or choose another --workdir"
            )
    if not (folder / FACTS).is_file():
        write.facts(folder / FACTS, make(plan, folder, settings))
    facts = json.loads((folder / FACTS).read_text())
    height, width = facts["size"]
    return readers_server.Study(folder, facts["pairs"], (height, width), facts["kind"])


def make(plan: Readers, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Reads and stores all pictures; returns what the server and the report must know of them."""
    if not (plan.real and plan.synthetic):
        raise UserError("name the pictures: --readers.real=DIR --readers.synthetic=DIR")
    real, synthetic = (
        pictures.originals(path, f"--readers.{field}")
        for field, path in (("real", plan.real), ("synthetic", plan.synthetic))
    )
    size, fewest = pictures.frame(real, synthetic, plan.fit, plan.size), min(len(real), len(synthetic))
    if plan.pairs > fewest:
        raise UserError(
            f"--readers.pairs={plan.pairs}: a reader sees a picture once, and there are {len(real)} real and "
            f"{len(synthetic)} synthetic ones"
        )
    files, how = catalogue(real, synthetic), pictures.Plan(plan.fit, size, plan.quality)
    doubts = pictures.doubts(real, synthetic, how)
    print("".join(f"note: {sentence}\n" for sentence in doubts), end="", flush=True)
    write.facts(folder / CONFIG, {"readers": settings})
    with refusals(folder):
        numbers = record.begin(folder, [*files])
        pictures.prepare(folder, [(number, files[picture]) for number, picture in numbers], how)
        length = pictures.equalise(folder)
    return {
        "pairs": plan.pairs or fewest,
        "size": size,
        "length": length,
        "kind": "image/jpeg" if plan.quality else "image/png",
        "encoder": f"JPEG of quality {plan.quality}, 4:4:4" if plan.quality else "PNG, lossless",
        "fit": {"": "as they are", "crop": "cut out of the middle", "resize": "reduced"}[plan.fit],
        "pictures": {"real": len(real), "synthetic": len(synthetic)},
        "doubts": doubts,
    }


def catalogue(
    real: Sequence[pictures.Original], synthetic: Sequence[pictures.Original]
) -> dict[record.Picture, pictures.Original]:
    """All files by what the record knows of them. Raises UserError for one that is in both sets."""
    files = {
        record.Picture(kind, str(one.path), walk.content(one.path).hex()): one
        for kind, some in ((True, real), (False, synthetic))
        for one in some
    }
    contents = {picture.digest for picture in files if picture.real}
    if twice := next((picture for picture in files if not picture.real and picture.digest in contents), None):
        raise UserError(f"{twice.name} is in both folders: a picture is real or synthetic")
    return files


@contextmanager
def refusals(folder: Path) -> Generator[None, None, None]:
    """Turns what SQLite refuses in ``folder`` into a UserError."""
    try:
        yield
    except sqlite3.Error as e:
        raise UserError(f"cannot write the study in {folder}: {e}; free space, or choose another --workdir") from e


# After: answers.


def summarise(folder: Path) -> list[str]:
    """Writes what the answers in ``folder`` say, as a page, as JSON and as CSV. Returns the table as lines."""
    if not (folder / FACTS).is_file():
        raise UserError(f"there is no study in {folder}; begin one with --readers.real=DIR --readers.synthetic=DIR")
    answers, people = record.answers(folder), record.people(folder)
    if not answers:
        return [f"no answers yet; readers: {len(people)}"]
    of = {number: [a for a in answers if a.reader == number] for number, _, _ in people}
    names = {number: f"{number} {name or '(no name)'}" for number, name, _ in people}
    each = {names[number]: numbers(those) for number, those in of.items() if those}
    apart = forced_choice.apart([Tally(known["tp"], known["fp"]) for known in each.values()])
    total, facts = numbers(answers) | {"apart": apart}, json.loads((folder / FACTS).read_text())
    rows = [[name, *cells(known)] for name, known in [*each.items(), ("Total", total)]]
    write.facts(folder / "readers.json", {"readers": each, "total": total, "study": facts})
    write.text(folder / "answers.csv", table(answers))
    unfinished = [f"{names[i]} ({len(of[i])} of {n})" for i, _, n in people if len(of[i]) < n]
    write.text(folder / "readers.html", page(rows, facts, len(each), unfinished))
    return [*screen.aligned(COLUMNS, rows), f"the page is {folder / 'readers.html'}, answers are in answers.csv"]


def numbers(answers: Sequence[record.Answer]) -> dict[str, Any]:
    """What is known of some answers."""
    right = sum(answer.right for answer in answers)
    counts = Tally(right, len(answers) - right)
    return {
        "n": counts.n,
        "tp": counts.tp,
        "fp": counts.fp,
        "p": counts.p,
        "apart": abs(counts.p - 0.5),
        "interval": forced_choice.interval(counts),
        "chance": forced_choice.chance(counts),
        "first": sum(answer.choice == 1 for answer in answers) / counts.n,
        "seconds": statistics.median(answer.milliseconds for answer in answers) / 1000,
    }


def cells(of: Mapping[str, Any]) -> list[Any]:
    """What :func:`numbers` says, as a row of the table."""
    chance = f"{of['chance']:.3f}" if of["chance"] >= 0.001 else "< 0.001"
    between = " to ".join(f"{end:.3f}" for end in of["interval"])
    shares = [f"{of['p']:.4f}", f"{of['apart']:.4f}", between, chance, f"{of['first']:.2f}"]
    return [of["n"], of["tp"], of["fp"], *shares, f"{of['seconds']:.1f}"]


def table(answers: Sequence[record.Answer]) -> str:
    """All answers as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*record.Answer._fields, "right"])
    for answer in answers:
        safe = answer._replace(name=f"'{answer.name}" if answer.name.startswith(FORMULA) else answer.name)
        writer.writerow([*safe, int(answer.right)])
    return text.getvalue()


def page(rows: Sequence[Sequence[Any]], facts: dict[str, Any], readers: int, unfinished: Sequence[str]) -> str:
    """One file that can be passed on: the table, what its columns mean, how pictures were shown."""
    height, width = facts["size"]
    terms = {
        "TP, FP": "pairs of which the real, or the synthetic, picture was taken for real",
        "p": "FP / (TP + FP); 0.5 is a guess, less sees through, more prefers the synthetic pictures",
        "|p - 0.5|": "of the total: the mean of the readers, weighted by their pairs; readers of opposite taste do not "
        "cancel",
        "95 % of p": "Wilson's interval; of the total as if all answers were one reader's",
        "P": "the exact two-sided binomial probability that guesses are as far from 0.5",
        "First chosen": "the share of pairs of which picture 1 was chosen; the real one is there in half of them",
        "Seconds a pair": "the median, from when both pictures are seen to the choice",
    }
    shown = {
        "Pictures": f"{facts['pictures']['real']} real, {facts['pictures']['synthetic']} synthetic; {facts['fit']}, "
        f"{height} x {width} pixels, 8 bits of RGB",
        "Served as": f"tiles of a pyramid made of the full size, {facts['encoder']}, each of {facts['length']} bytes",
        "Order": "of each reader's own; those pictures come that were shown least before; by chance of the operating "
        "system, without a seed",
    }
    notes = {"What may tell them apart": facts["doubts"]} if facts["doubts"] else {}
    notes |= {"Not finished": unfinished} if unfinished else {}
    pages = [
        Page("Answers", tables=[Table("", COLUMNS, rows)], facts={"notes": notes, "protocol": terms}),
        Page("How it was shown", facts={"protocol": shown}),
    ]
    n = rows[-1][1]
    intro = f"{readers} reader{'s' * (readers != 1)}, {n} pairs of a real and a synthetic picture: which one is real?"
    return report.render("Can readers tell which picture is real?", pages, over="nca_gen \u00b7 readers", intro=intro)
