"""One self-contained page about a run, made from the files in its workdir and from nothing else.

Whatever is missing is left out, so a run that was killed at any moment still has a report.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_gen.report import curves
from nca_gen.report.markup import (
    LARGEST,
    MIME,
    command,
    duration,
    figure,
    finite,
    grid,
    img,
    joined,
    number,
    page,
    plain,
    private,
    readable,
    section,
    terms,
    text,
)

QUANTITIES = {
    "loss": "Loss",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "images_per_second": "Images per second",
    "memory_mb": "Memory, MB",
}
FROM_ZERO = ("images_per_second", "memory_mb")
ARROWS = {"lower": "↓", "higher": "↑", "near 1": "→ 1", "near 0": "→ 0"}
ENDS = ("_low", "_high")  # of the names of the ends of an interval
COLUMN = 540  # pixels of half the page: what small pictures are enlarged to
LARGE = 640  # pixels of the one that is shown alone
GRADES = "A row of samples for each class. A column began as one and the same noise."
EARLIER = 6  # at most so many older evaluations show their samples

Columns = dict[str, dict[int | float, Any]]  # name -> {step: value}, by ascending step


class Evaluation(NamedTuple):
    """One folder of ``eval/``, and its ``scores.json``, {} where there is none yet."""

    step: int
    folder: Path
    result: dict[str, Any]


class Score(NamedTuple):
    """One number of ``scores.json``: a metric's own, or a part of it."""

    name: str
    metric: str
    value: Any
    arrow: str


class Run(NamedTuple):
    """All that a workdir holds, as far as it can be read; evaluations from the oldest to the newest."""

    config: dict[str, Any]
    environment: dict[str, Any]
    log: Columns
    evaluations: list[Evaluation]


def write(workdir: str | os.PathLike[str]) -> Path:
    """Writes ``report.html`` into ``workdir``, at once (a reader never sees half of it), and returns its path."""
    folder = Path(workdir)
    path, draft = folder / "report.html", folder / ".report.html.tmp"
    run = read(folder)
    about = (header, samples, pictures, growth, overgrowth, charts, neighbours, scores)
    about += (samplers, heredity, speed, environment, again)
    title = joined([text(at(run.config, *name) or "") for name in (("model", "name"), ("data", "name"))], " · ")
    footer = "<footer>Written by nca_gen from the files beside it. One file: send it on, read it offline.</footer>"
    html = page(title or "A run", [*(part(run) for part in about), footer])
    draft.write_text(html, encoding="utf-8", errors="replace")  # an argument need not be Unicode
    draft.replace(path)
    return path


# Reading: a file may be absent, half written, or nonsense, and then counts as empty.


def read(folder: Path) -> Run:
    """The files of a workdir."""
    found = [p for p in folder.glob("eval/*") if p.name.isdecimal() and p.is_dir()]
    evaluations = [Evaluation(int(p.name), p, read_object(p / "scores.json")) for p in sorted(found)]
    config, environment = (read_object(folder / f"{name}.json") for name in ("config", "environment"))
    return Run(config, environment, read_log(folder / "metrics.jsonl"), sorted(evaluations, key=lambda e: e.step))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or {}."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_log(path: Path) -> Columns:
    """The numbers of a JSON lines file; null, which stands for one that is not finite, as NaN.

    Lines that are no JSON object with a step are skipped; what a resumed run logged again replaces what was there.
    """
    rows: dict[int | float, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and finite(row.get("step")):
            rows[row["step"]] = row
    columns: Columns = {}
    for step in sorted(rows):
        for name, value in rows[step].items():
            if name not in ("step", "time") and (value is None or type(value) in (int, float)):
                columns.setdefault(name, {})[step] = math.nan if value is None else value
    return columns


def at(tree: Any, *path: str) -> Any:
    """The value at ``path`` in nested dicts, None where there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def table(tree: Any, name: str) -> dict[str, Any]:
    """The dict ``name`` of a dict, {} where there is none."""
    value = at(tree, name)
    return value if isinstance(value, dict) else {}


def series(log: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a column, the finite ones."""
    kept = [(step, value) for step, value in log.get(name, {}).items() if finite(value)]
    steps, values = np.array(kept, np.float64).reshape(-1, 2).T
    return steps, values


def find(evaluation: Evaluation, stem: str) -> Path | None:
    """The picture ``stem`` of an evaluation, in any format, or None."""
    return next((p for suffix in MIME if readable(p := evaluation.folder / f"{stem}{suffix}")), None)


def newest(run: Run, stem: str) -> tuple[Path | None, str]:
    """The newest picture ``stem``, and " at step N" where there was a training."""
    for evaluation in reversed(run.evaluations):
        if path := find(evaluation, stem):
            return path, "" if table(evaluation.result, "sets") else f" at step {number(evaluation.step)}"
    return None, ""


def score_list(result: dict[str, Any]) -> Iterator[Score]:
    """The scores of an evaluation. A metric is what has a protocol; its parts bear its name and an underscore."""
    protocols = table(result, "protocol")
    for name, value in table(result, "scores").items():
        metric = max((m for m in protocols if f"{name}_".startswith(f"{m}_")), key=len, default=name)
        better = re.search(rf"({'|'.join(ARROWS)}) is better", str(protocols.get(metric)), re.IGNORECASE)
        yield Score(name, metric, value, ARROWS[better[1].lower()] if better else "")


def headlines(result: dict[str, Any]) -> list[Score]:
    """The scores that stand for their metric."""
    return [s for s in score_list(result) if s.name == s.metric]


def scored(run: Run) -> list[Evaluation]:
    """The evaluations that came to their scores."""
    return [e for e in run.evaluations if table(e.result, "scores")]


# Sections, from top to bottom. Each is HTML, or "" where there is nothing to show.


def header(run: Run) -> str:
    """What was trained on what, how far, and how good it is: in a paragraph, and in figures."""
    if compared := table((scored(run) or [Evaluation(0, Path(), {})])[-1].result, "sets"):
        return sets(run, compared)
    model, data, patch = (at(run.config, *path) for path in (("model", "name"), ("data", "name"), ("data", "patch")))
    total, batch, every = (at(run.config, "train", name) for name in ("steps", "batch", "eval_every"))
    parameters, time = run.environment.get("parameters"), computing(run)
    done = max([0, *(step for column in run.log.values() for step in column), *(e.step for e in run.evaluations)])
    goal = f"of {number(total)} " if finite(total) and done < total else ""
    last = (scored(run) or [None])[-1]
    losses = series(run.log, "loss")[1]
    lost = len(run.log.get("loss", {})) - len(losses)
    summary = [
        f"<b>{text(model or 'A model')}</b>",
        f"with {number(parameters)} parameters," if finite(parameters) else "",
        "trained",
        f"on <b>{text(data)}</b>" if data else "",
        f"in patches of {text(size(patch))} pixels" if patch else "",
        f"for {number(done)} {goal}steps",
        f"of {number(batch)} images" if finite(batch) else "",
        f"({duration(time)} of computing)" if time else "",
    ]
    sentences = [joined(summary) + "."]
    if lost:
        sentences.append(f'<span class="bad">The loss was not finite in {number(lost)} logged steps.</span>')
    if last:
        values = ", ".join(f"{text(s.name)} {number(s.value)}" for s in headlines(last.result))
        sentences.append(f"Scores at step {number(last.step)}: {values}.")
    else:
        when = f"every {number(every)} steps and at the end" if finite(every) and every > 0 else "at the end"
        sentences.append(f"Not evaluated yet: samples and scores come {when}.")
    tiles = [(f"{goal}steps", number(done), "")]
    tiles += [("parameters", number(parameters), "")] if finite(parameters) else []
    tiles += [("loss", number(end(losses)), "")] if len(losses) else []
    tiles += [(s.name, number(s.value), s.arrow) for s in headlines(last.result)] if last else []
    cards = [f"<div><b>{v}{a and f'<small>{a}</small>'}</b><span>{text(name)}</span></div>" for name, v, a in tiles]
    return (
        f'<header><p class="over">nca_gen · training report</p>'
        f"<h1>{text(model or 'A run')}{f' on {text(data)}' if data else ''}</h1>"
        f'<p class="lead">{joined(sentences)}</p>{grid(cards, "tiles")}</header>'
    )


def sets(run: Run, compared: dict[str, Any]) -> str:
    """The header where there was no training: what was held against what."""
    generated, real, train = (text(compared.get(role, "")) for role in ("generated", "real", "train"))
    sentence = [
        f"<b>{generated}</b>",
        f"held against <b>{real}</b>" if real else "",
        f"(training images: <b>{train}</b>)" if train else "",
    ]
    tiles = [
        f"<div><b>{number(s.value)}{s.arrow and f'<small>{s.arrow}</small>'}</b><span>{text(s.name)}</span></div>"
        for s in headlines(scored(run)[-1].result)
    ]
    return (
        f'<header><p class="over">nca_gen · scores</p><h1>{text(Path(str(compared.get("generated", ""))).name)}</h1>'
        f'<p class="lead">{joined(sentence)}.</p>{grid(tiles, "tiles")}</header>'
    )


def size(patch: Any) -> str:
    """Sides of a patch."""
    return " \N{MULTIPLICATION SIGN} ".join(map(plain, patch)) if isinstance(patch, list) else plain(patch)


def end(values: np.ndarray) -> float:
    """Mean of the last twentieth."""
    return float(np.mean(values[-max(1, len(values) // 20) :]))


def computing(run: Run) -> float:
    """Seconds spent on training steps, by the logged throughput: pauses between two starts do not count."""
    steps, rate = series(run.log, "images_per_second")
    batch = at(run.config, "train", "batch")
    return float(np.sum(np.diff(steps, prepend=0)[rate > 0] / rate[rate > 0])) * batch if finite(batch) else 0.0


def samples(run: Run) -> str:
    """Generated beside real images, the large one, and the generated ones of earlier evaluations."""
    split = next((text(e.result["split"]) for e in reversed(run.evaluations) if e.result.get("split")), "")
    patch = f" ({text(size(sides))})" if (sides := at(run.config, "data", "patch")) else ""
    (latest, when), (real, _), (large, then) = (newest(run, stem) for stem in ("samples", "real", "large"))
    older = [(e.step, path) for e in run.evaluations if (path := find(e, "samples")) not in (None, latest)]
    kept = sorted({round(i) for i in np.linspace(0, len(older) - 1, min(EARLIER, len(older)))})
    past = [card(older[i][1], f"Step {number(older[i][0])}", 0) for i in kept]
    pair = [
        card(latest, f"<b>Generated</b>{when}."),
        card(real, f"<b>Real</b>{split and f', of the {split} split'}: not seen in training."),
    ]
    return joined(
        [
            section("Samples", grid(pair)),
            section("Every class", card(newest(run, "grades")[0], GRADES, 2 * COLUMN, "strip")),
            section("One large image", card(large, f"Generated{then}, larger than a training patch{patch}.", LARGE)),
            oversized(run),
            section("Samples over training", grid(past, "past"), "The same picture at earlier evaluations."),
        ],
        "\n",
    )


def pictures(run: Run) -> str:
    """What a task shows of itself in place of samples, by the names that it gives them."""
    names = next((e.result["pictures"] for e in reversed(run.evaluations) if e.result.get("pictures")), [])
    found = {str(name): newest(run, Path(str(name)).name) for name in names}
    cards = (card(path, f"{text(name.replace('_', ' ').capitalize())}{when}.") for name, (path, when) in found.items())
    return section("Pictures", grid(cards))


def oversized(run: Run) -> str:
    """Names the pictures of the newest evaluation that a page cannot carry."""
    files = sorted(run.evaluations[-1].folder.glob("*")) if run.evaluations else []
    names = [f"eval/{p.parent.name}/{p.name}" for p in files if p.suffix in MIME and p.stat().st_size > LARGEST]
    return f'<p class="soft">Too large to be shown here: {text(", ".join(names))}.</p>' if names else ""


def card(path: Path | None, caption: str, target: int = COLUMN, kind: str = "") -> str:
    """A captioned picture, enlarged to ``target`` pixels at most; nothing without one. A "strip" scrolls on a phone."""
    if path is None:
        return ""
    picture, width = img(path, target)
    return figure(f'<div class="{kind}">{picture}</div>' if kind else picture, width, caption)


def growth(run: Run) -> str:
    """The film strip and the animation of the diffusion steps, and of the steps of the automaton."""

    def film(stem: str, caption: str) -> str:
        (moving, _), (still, _) = newest(run, stem), newest(run, f"{stem}_strip")
        animation = img(moving, COLUMN // 2)[0] if moving else ""
        strip = f'<div class="strip">{img(still, 2 * COLUMN)[0]}</div>' if still else ""
        return figure(animation + strip and f'<div class="film">{animation}{strip}</div>', 2 * COLUMN, caption)

    diffusion = (
        "<b>The diffusion steps</b>, left to right: above, an image on its way out of pure noise; below, what the "
        "model takes it for already."
    )
    nca = (
        "<b>The steps of the automaton</b> within one of them: on the left a held-out patch half way in noise, on the "
        "right the patch itself, and in between what the cells take it for as word spreads from neighbour to neighbour."
    )
    return section("How an image grows", film("diffusion", diffusion) + film("nca", nca) + restlessness(run))


def restlessness(run: Run) -> str:
    """The RMS of the hidden state that cells inherit from one diffusion step to the next."""
    sizes = next((e.result["hidden_rms"] for e in reversed(run.evaluations) if e.result.get("hidden_rms")), [])
    course = {round(100 * (i + 1) / len(sizes), 1): value for i, value in enumerate(sizes)}
    drawn = chart({"hidden": course}, "hidden", "Inherited hidden state, RMS, by percent of sampling", dots=True)
    return grid([drawn], "few")


def overgrowth(run: Run) -> str:
    """Samples by few to many steps of the cells a call."""
    told = ((e.folder, read_object(e.folder / "growth.json")) for e in reversed(run.evaluations))
    folder, found = next(((f, r) for f, r in told if isinstance(r.get("growth"), list)), (Path(), {}))
    path = folder / "growth.png"
    caption = (
        f"Left to right, the cells take {text(plain(found.get('growth', [])))} steps in every call; they learned with "
        f"{number(found.get('own'))}. Every row began as one noise."
    )
    return section(
        "Too young, grown up, overgrown", card(path if readable(path) else None, caption, 2 * COLUMN, "strip")
    )


def charts(run: Run) -> str:
    """A chart for every quantity in the log, the known ones first."""
    names = [*(q for q in QUANTITIES if q in run.log), *sorted(set(run.log) - set(QUANTITIES))]
    cards = (chart(run.log, name, QUANTITIES.get(name, name.replace("_", " "))) for name in names)
    intro = "Over training steps: pale as logged, strong smoothed; the number is the mean of the last twentieth."
    return section("Curves", grid(cards), intro)


def chart(log: Columns, name: str, title: str, *, arrow: str = "", dots: bool = False) -> str:
    """A card with one curve over steps; nothing for fewer than two finite values."""
    steps, values = series(log, name)
    if len(steps) < 2:
        return ""
    last, lost = values[-1] if dots else end(values), len(log[name]) - len(steps)
    heading = [text(title), f"<span>{number(last)}</span>", arrow and f"<span>{arrow}</span>"]
    heading.append(f'<span class="bad">{number(lost)} not finite</span>' if lost else "")
    drawn = curves.draw(steps, values, title, zero=name in FROM_ZERO, dots=dots)
    return f'<div class="card"><h3>{joined(heading)}</h3>{drawn}</div>'


def neighbours(run: Run) -> str:
    """Samples and the training images nearest to them."""
    path, when = newest(run, "neighbours")
    caption = (
        f"Rows in pairs: samples{when}, and below each the training image nearest to it, pixel by pixel. "
        "The nearest of all come first."
    )
    intro = "Alike in colour is as it should be; the same arrangement would be a copy."
    return section("Nearest training images", card(path, caption, 2 * COLUMN, "strip"), intro)


def scores(run: Run) -> str:
    """The table, the course over evaluations, and how each number was measured."""
    done = scored(run)
    if not done:
        return ""
    last = done[-1]
    shown = [done[0], last] if len(done) > 1 else [last]
    rows = []
    for score in score_list(last.result):
        if score.name.endswith(ENDS):
            continue
        whole = score.name == score.metric
        values = [f"<td>{measured(e, score.name)}</td>" for e in shown]
        name = score.name if whole else score.name.removeprefix(f"{score.metric}_").replace("_", " ")
        kind, arrow = ("whole", score.arrow) if whole else ("part", "")
        rows.append(f'<tr class="{kind}"><td>{text(name)}</td><td class="arrow">{arrow}</td>{joined(values)}</tr>')
    steps = joined(f"<th>{'' if table(e.result, 'sets') else f'step {number(e.step)}'}</th>" for e in shown)
    course: Columns = {}
    for e in done:
        for score in headlines(e.result):
            course.setdefault(score.name, {})[e.step] = score.value
    cards = [chart(course, s.name, s.name, arrow=s.arrow, dots=True) for s in headlines(last.result)]
    circumstances = [f"{number(count)} {text(kind)} images" for kind, count in table(last.result, "counts").items()]
    known = {"split": "{} split", "sampler": "sampler {}", "seed": "seed {}"}
    circumstances += [known[k].format(text(last.result[k])) for k in known if k in last.result]
    said = {
        label: joined(map(text, notes), "<br>")
        for label, notes in table(last.result, "notes").items()
        if isinstance(notes, list)
    }
    remarks = joined(f'<p><span class="bad">{text(label)}</span> {note}</p>' for label, note in said.items())
    how = table(last.result, "protocol") | {
        label: "; ".join(f"{k} {v}" for k, v in facts.items() if isinstance(v, str))
        for label, facts in table(last.result, "networks").items()
        if isinstance(facts, dict)
    }
    return section(
        "Scores",
        f'<div class="card table"><table><thead><tr><th>Score</th><th>Better</th>{steps}</tr></thead>'
        f"<tbody>{joined(rows)}</tbody></table></div>{remarks}{grid(cards)}{terms(how, 'notes')}",
        joined(circumstances, ", "),
    )


def measured(evaluation: Evaluation, name: str) -> str:
    """A score, with its interval where there is one."""
    value, *ends = (at(evaluation.result, "scores", name + end) for end in ("", *ENDS))
    return number(value) + (
        f" <small>({number(ends[0])} to {number(ends[1])})</small>" if all(map(finite, ends)) else ""
    )


def samplers(run: Run) -> str:
    """What fewer denoising steps cost in scores and save in seconds: a table, and below it the same samples by each."""
    return section("Fewer steps", *variants(run, "samplers", lambda sampler, steps: f"{sampler}, {steps} steps"))


def heredity(run: Run) -> str:
    """What becomes of the scores where cells inherit nothing, or more or less, with and without guidance."""
    named = {"none": "nothing", "hidden": "the hidden state", "out": "the prediction", "both": "all of it"}
    said = lambda inherits, scale: f"{named.get(inherits, inherits)} inherited, guidance {scale}"  # noqa: E731
    return section("Heredity", *variants(run, "heredity", said))


def variant(row: dict[str, Any]) -> str:
    """The first setting of a row, and how many steps cells took and in which dtype, where that was set."""
    growth, dtype = row.get("growth"), row.get("dtype")
    cells = f", {'-'.join(map(str, growth))} cell steps" if growth else ""
    return f"{next(iter(row.values()))}{cells}{f', {dtype}' if dtype else ''}"


def variants(run: Run, name: str, said: Callable[[str, str], str]) -> tuple[str, str]:
    """A table of the newest ``name``.json, with the samples of its rows, and what to know; two settings a row."""
    done = ((e.folder, read_object(e.folder / f"{name}.json")) for e in reversed(run.evaluations))
    folder, found = next(((f, r) for f, r in done if isinstance(r.get("rows"), list)), (Path(), {"rows": []}))
    rows = [row for row in found["rows"] if isinstance(row, dict) and len(row) > 1]
    if not rows:
        return "", ""
    shown, (one, other, *_) = headlines(found | {"scores": table(rows[0], "scores")}), rows[0]
    settings = [text(setting.capitalize()) for setting in (one, other)]
    names = [*settings, *(f"{text(s.name)} {s.arrow}" for s in shown), "Seconds", "Images per second"]
    lines, strips = [], []
    for row in rows:
        values = [row.get(other), *(at(row, "scores", s.name) for s in shown)]
        values += [row.get("seconds"), row.get("images_per_second")]
        cells = joined(f"<td>{number(value)}</td>" for value in values)
        lines.append(f'<tr class="whole"><td>{text(variant(row))}</td>{cells}</tr>')
        path = folder / Path(str(row.get("picture"))).name
        caption = f"<b>{said(text(variant(row)), number(row.get(other)))}</b>"
        strips.append(card(path if path.suffix in MIME and readable(path) else None, caption, COLUMN, "strip"))
    head = joined(f"<th>{name}</th>" for name in names)
    n = at(found, "counts", "generated")
    intro = f"{number(n)} samples by each, from the same noise." if finite(n) else ""
    body = f'<div class="card table"><table><thead><tr>{head}</tr></thead><tbody>{joined(lines)}</tbody></table></div>'
    return body + grid(strips), intro


def speed(run: Run) -> str:
    """Throughput and memory."""
    rate, memory = series(run.log, "images_per_second")[1], series(run.log, "memory_mb")[1]
    last = next((e.result for e in reversed(run.evaluations) if e.result), {})
    sampling, seconds = last.get("images_per_second"), last.get("seconds")
    took = f" ({duration(seconds)})" if finite(seconds) else ""
    facts = {
        "Training": len(rate) and f"{number(np.median(rate))} images per second (median), {number(rate.max())} at best",
        "Memory": len(memory) and f"{number(memory.max())} MB at most",
        "Sampling": finite(sampling) and f"{number(sampling)} images per second{took}",
    }
    return section("Throughput and memory", terms({k: v for k, v in facts.items() if v}))


def environment(run: Run) -> str:
    """Whatever is known of the machine and the software."""
    elsewhere = ("command", "argv", "parameters")
    facts = {k.replace("_", " ").capitalize(): v for k, v in run.environment.items() if k not in elsewhere}
    return section("Environment", terms(facts))


def again(run: Run) -> str:
    """The command as it was typed, and the config in full."""
    typed = run.environment.get("command") or run.environment.get("argv") or ""
    typed = shlex.join(map(str, typed)) if isinstance(typed, list) else str(typed)
    whole = text(json.dumps(private(run.config), indent=2, ensure_ascii=False))
    config = f"<details><summary>The config in full</summary><pre>{whole}</pre></details>" if run.config else ""
    return section("Run it again", command(typed) + config)
