"""One self-contained page about a run, made from the files in its workdir and from nothing else.

Whatever is missing is left out, so a run that was killed at any moment still has a report. What a section shows is said
by the page of the evaluator that made it (:class:`nca_gen.contracts.Page`); this room only renders.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from nca_gen import screen
from nca_gen.contracts import Page, Table
from nca_gen.io import write as disk
from nca_gen.report import embed, views, words
from nca_gen.report.files import DOWNSTREAM, Evaluation, Run, at, computing, dictionary, finite, loose, read, series
from nca_gen.report.views import Section, end, headlines
from nca_gen.report.words import number

QUANTITIES = {
    "loss": "Loss",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "images_per_second": "Images per second",
    "memory_mb": "Memory, MB",
}
SPENT = {  # kinds of goodput.json
    "steps": "Steps",
    "lost": "Steps that were lost",
    "data": "Waiting for data",
    "checkpoints": "Checkpoints",
    "evaluation": "Evaluation",
    "compiling": "Waiting for the compiler",
    "starting": "Starting",
    "away": "Between two starts",
}
EARLIER = 6  # at most so many older evaluations show their first picture


class Tile(NamedTuple):
    """A number in the head of a page."""

    name: str
    value: str
    arrow: str = ""


class Head(NamedTuple):
    """The head of a page: ``lead`` are sentences, with ** around what is bold."""

    over: str
    heading: str
    lead: Sequence[str] = ()
    bad: str = ""
    tiles: Sequence[Tile] = ()


def write(workdir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Writes ``report.html`` into ``workdir``, at once (a reader never sees half of it), and returns its path.

    ``out``: the folder that it is written to instead, with the evaluations that lie there.
    """
    path = Path(out or workdir, "report.html")
    run = read(Path(workdir))
    if out:
        run = run._replace(evaluations=read(path.parent).evaluations)
    names = [str(name) for section in ("model", "data") if (name := at(run.config, section, "name"))]
    sections = [*downstream(run), *evaluations(run), *curves(run), spent(run), speed(run), environment(run)]
    shown = {"sections": sections, "oversized": oversized(run), "command": typed(run), "config": whole(run)}
    html = template("run.html").render(title=" · ".join(names) or "A run", head=head(run), **shown)
    disk.text(path, html)
    return path


def render(
    title: str, pages: Sequence[Page], folder: str | os.PathLike[str] = ".", over: str = "", intro: str = ""
) -> str:
    """A page of ``pages`` below a ``title``, with the pictures that they name in ``folder``.

    ``over`` stands above the title, ``intro`` below it. Of scores only tables are shown.
    """
    sections = [views.section(page, Path(folder)) for page in pages]
    head = Head(over or "nca_gen", title, [intro] if intro else [])
    return template("page.html").render(title=title, head=head, sections=sections)


@cache
def environment_of_templates() -> jinja2.Environment:
    """Templates that print nothing private, and everything escaped but markup of our own."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("nca_gen.report"),
        autoescape=jinja2.select_autoescape(("html",)),
        finalize=words.shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"caption": words.caption}
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    templates.globals.update(style=words.Markup(style))
    return templates


def template(name: str) -> jinja2.Template:
    """A file of templates/."""
    return environment_of_templates().get_template(name)


# The head.


def head(run: Run) -> Head:
    """What was trained on what, how far, and how good it is: in a paragraph, and in figures."""
    newest = run.newest()
    scored = {name: e for name, e in newest.items() if e.pages[name].scores}
    for name, e in scored.items():
        if sets := dictionary(e.pages[name].facts, "sets"):
            return comparison(sets, e.pages[name])
    model, data, patch = (at(run.config, *path) for path in (("model", "name"), ("data", "name"), ("data", "patch")))
    total, batch = (at(run.config, "train", name) for name in ("steps", "batch"))
    parameters, seconds = run.environment.get("parameters"), computing(run)
    done = max([0, *(step for column in run.log.values() for step in column), *(e.step for e in run.evaluations)])
    goal = f"of {number(total)} " if finite(total) and done < total else ""
    losses = series(run.log, "loss")[1]
    lost = len(run.log.get("loss", {})) - len(losses)
    summary = [
        f"**{model or 'A model'}**",
        f"with {number(parameters)} parameters," if finite(parameters) else "",
        "trained",
        f"on **{data}**" if data else "",
        f"in patches of {words.size(patch)} pixels" if patch else "",
        f"for {number(done)} {goal}steps",
        f"of {number(batch)} images" if finite(batch) else "",
        f"({screen.duration(seconds)} of computing)" if seconds else "",
    ]
    lead = [" ".join(filter(None, summary)) + "."]
    worth = headlines(run.downstream.pages[DOWNSTREAM]) if run.downstream else []
    if worth:
        lead.append("Its samples, put to use: " + ", ".join(f"{s.name} {number(s.value)}" for s in worth) + ".")
    for name, e in scored.items():
        values = ", ".join(f"{s.name} {number(s.value)}" for s in headlines(e.pages[name]))
        lead.append(f"Scores at step {number(e.step)}: {values}.")
    if not scored:
        often = interval(run.config)
        when = f"every {number(often)} steps and at the end" if often else "at the end"
        lead.append(f"Not evaluated yet: samples and scores come {when}.")
    tiles = [Tile(s.name, number(s.value), s.arrow) for s in worth]
    tiles += [Tile(f"{goal}steps", number(done))]
    tiles += [Tile("parameters", number(parameters))] if finite(parameters) else []
    tiles += [Tile("loss", number(end(losses)))] if len(losses) else []
    tiles += [Tile(s.name, number(s.value), s.arrow) for name, e in scored.items() for s in headlines(e.pages[name])]
    bad = f"The loss was not finite in {number(lost)} logged steps." if lost else ""
    heading = f"{model or 'A run'}{f' on {data}' if data else ''}"
    return Head("nca_gen · training report", heading, lead, bad, tiles)


def interval(config: dict[str, Any]) -> int | float:
    """The steps from one evaluation to the next; 0 where that is not known."""
    sections = [section for section in dictionary(config, "evals").values() if isinstance(section, dict)]
    often = [at(config, "train", "eval_every"), *(section.get("every") for section in sections)]  # the first of before
    return min((every for every in often if finite(every) and every > 0), default=0)


def comparison(sets: dict[str, Any], page: Page) -> Head:
    """The head where there was no training: what was held against what."""
    generated, real, train = (sets.get(role, "") for role in ("generated", "real", "train"))
    sentence = [
        f"**{generated}**",
        f"held against **{real}**" if real else "",
        f"(training images: **{train}**)" if train else "",
    ]
    tiles = [Tile(s.name, number(s.value), s.arrow) for s in headlines(page)]
    return Head("nca_gen · scores", Path(str(generated)).name, [" ".join(filter(None, sentence)) + "."], "", tiles)


# Sections, from top to bottom.


def downstream(run: Run) -> list[Section]:
    """What the samples are worth to another task: distances between sets do not tell, so it is read first."""
    if not (done := run.downstream):
        return []
    page, scores = done.pages[DOWNSTREAM], views.scores(DOWNSTREAM, [done])
    shown = views.section(page, done.folder)
    return [shown._replace(steps=[""], lines=scores.lines) if scores else shown]


def evaluations(run: Run) -> list[Section]:
    """The newest page of every evaluator; of those with scores the first picture over training; pictures of no page."""
    sections, explained = [], {}
    for name, e in run.newest().items():
        page = e.pages[name]
        scores = views.scores(name, run.evaluations)
        section = views.section(page, e.folder)
        section = section._replace(charts=[*section.charts, *views.courses(name, run.evaluations)])
        parts = [section._replace(notes={}, terms={}), past(run, page, e), scores] if scores else [section]
        for part in parts:
            fresh = {term: text for term, text in part.terms.items() if explained.get(term) != text}
            sections.append(part._replace(terms=fresh))
            explained |= fresh
    cards = [views.card(figure, e.folder) for e, figure in loose(run)]
    return [*sections, Section("Pictures", groups=views.grouped(cards))]


def past(run: Run, page: Page, newest: Evaluation) -> Section:
    """The first picture of a page, at earlier evaluations."""
    others = [e for e in run.evaluations if e.folder != newest.folder]
    cards = views.earlier(others, page.figures[0], EARLIER) if page.figures else []
    return Section(f"{page.title} over training", "The same picture at earlier evaluations.", [cards] if cards else [])


def oversized(run: Run) -> str:
    """Names the pictures of the newest evaluation that a page cannot carry."""
    files = sorted(run.evaluations[-1].folder.rglob("*")) if run.evaluations else []
    large = [p for p in files if p.suffix in embed.MIME and p.stat().st_size > embed.LARGEST]
    return ", ".join(f"eval/{p.relative_to(run.evaluations[-1].folder.parent)}" for p in large)


def curves(run: Run) -> list[Section]:
    """A chart for every quantity in the log, the known ones first."""
    names = [*(q for q in QUANTITIES if q in run.log), *sorted(set(run.log) - set(QUANTITIES))]
    charts = [views.chart(run.log, name, QUANTITIES.get(name, name.replace("_", " "))) for name in names]
    intro = "Over training steps: pale as logged, strong smoothed; the number is the mean of the last twentieth."
    return [Section("Curves", intro, charts=[*filter(None, charts)])]


def speed(run: Run) -> Section:
    """Throughput and memory."""
    rate, memory = series(run.log, "images_per_second")[1], series(run.log, "memory_mb")[1]
    facts = {}
    if len(rate):
        facts["Training"] = f"{number(np.median(rate))} images per second (median), {number(rate.max())} at best"
    if len(memory):
        facts["Memory"] = f"{number(memory.max())} MB at most"
    for name, e in run.newest().items():
        sampling, seconds = (e.pages[name].facts.get(field) for field in ("images_per_second", "seconds"))
        if finite(sampling) and "Sampling" not in facts:
            took = f" ({screen.duration(seconds)})" if finite(seconds) else ""
            facts["Sampling"] = f"{number(sampling)} images per second{took}"
    return Section("Throughput and memory", facts=facts)


def spent(run: Run) -> Section:
    """Where the time of training has gone, over all its starts."""
    seconds = {kind: s for kind, s in dictionary(run.goodput, "seconds").items() if finite(s) and s > 0}
    total = sum(s for kind, s in seconds.items() if kind != "away")
    if not total:
        return Section("Where the time went")
    names = [*(kind for kind in SPENT if kind in seconds), *sorted(seconds.keys() - SPENT.keys())]
    share = lambda kind: "" if kind == "away" else f"{100 * seconds[kind] / total:.1f} %"
    rows = [[SPENT.get(kind, kind), share(kind), screen.duration(seconds[kind])] for kind in names]
    steps = {kind: number(n) for kind, n in dictionary(run.goodput, "steps").items() if finite(n)}
    good = f"{100 * seconds.get('steps', 0) / total:.1f} % of {screen.duration(total)} went into steps that count"
    counts = "; steps: " + ", ".join(f"{n} {kind}" for kind, n in steps.items()) if steps else ""
    return Section("Where the time went", f"{good}{counts}.", tables=[Table("", ["", "Share", "Time"], rows)])


def environment(run: Run) -> Section:
    """Whatever is known of the machine and the software."""
    elsewhere = ("command", "argv", "parameters")
    facts = {k.replace("_", " ").capitalize(): v for k, v in run.environment.items() if k not in elsewhere}
    return Section("Environment", facts=views.prose(facts))


def typed(run: Run) -> words.Markup:
    """The command as it was typed."""
    command = run.environment.get("command") or run.environment.get("argv") or ""
    return words.command(shlex.join(map(str, command)) if isinstance(command, list) else str(command))


def whole(run: Run) -> str:
    """The config in full."""
    return json.dumps(words.private(run.config), indent=2, ensure_ascii=False) if run.config else ""
