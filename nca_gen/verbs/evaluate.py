"""--mode=evaluate, and the evaluation inside training: samples, pictures, scores, report."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from nca_gen import arrays, build, judge
from nca_gen.data import pipeline
from nca_gen.errors import UserError
from nca_gen.io import images, sets
from nca_gen.metrics import neighbours
from nca_gen.metrics.notes import collecting
from nca_gen.pipelines import sampling
from nca_gen.report import report
from nca_gen.runtime.log import replace, say
from nca_gen.verbs.generate import draw, how, restore

FRAMES = 24  # pictures of a growing image
SHOWN = 8  # images in a film or a row of neighbours
PAIRS = 3  # of rows in a page of neighbours
ROWS = 4  # of noises in a strip of growth
SPEC = re.compile(r"\w+:(?P<steps>\d+)(:(?P<growth>[1-9]\d*(-[1-9]\d*)*))?(:(?P<dtype>float32|bfloat16))?")
STRETCH = 25  # denoising steps, at the most, that are compiled as one where time is taken
DEFAULT = {"images": ("swd", "drift"), "volumes": ("total_variation",), "slides": ("pfid",)}  # of sets without a config


class Compared(NamedTuple):
    """What samples are held against: images, and in the units of the model's data the held-out ``patches``."""

    real: Float[np.ndarray, "n h w C"]
    train: Float[np.ndarray, "m h w C"]
    patches: Float[np.ndarray, "n *S C"]
    cond: Float[np.ndarray, "n K"] | None  # of the real images: sample i has the labels of real image i
    decode: Callable[[np.ndarray], np.ndarray]  # from these units to images


def compared(config: Any, task: Any, splits: dict) -> Compared:
    """``config.eval.n`` held-out and ``config.eval.train`` training images, drawn from ``config.seed``."""
    n, size, seed, split = config.eval.n, tuple(config.data.patch), config.seed, config.eval.split
    pixels, decode = build.pixels(config, splits)
    patches = pipeline.patches(splits[split], patch=size, n=n, seed=seed)
    sides = decode(patches[:1]).shape[1:-1]
    real = pipeline.examples(pixels[split], patch=sides, n=n, seed=seed)
    train = pipeline.patches(pixels["train"], patch=sides, n=config.eval.train, seed=seed)
    classes = getattr(task.model, "classes", 0)
    cond = np.asarray(arrays.multi_hot(real["label"], classes)) if classes else None
    return Compared(real["image"], train, patches, cond, decode)


def evaluate(config: Any, task: Any, params: dict, splits: dict, workdir: str | Path, step: int) -> dict[str, float]:
    """Scores ``params`` and rewrites the report; returns the scores.

    As the task's module says (``score``), else by ``config.eval.n`` samples against held-out patches. Everything is
    drawn from ``config.seed``, so two evaluations of one checkpoint are equal. Of several hosts the first does it all.
    """
    params = jax.device_get(params)
    if jax.process_index():
        return {}
    folder = Path(workdir, "eval", f"{step:08d}")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    module = build.named("tasks", "Task", config.task.name)
    if score := getattr(module, "score", None):
        with collecting() as said:
            scores, pictures = score(config, task, params, splits)
        for name, picture in pictures.items():
            images.write(folder / f"{name}.png", picture)
        facts = {"scores": scores, "pictures": list(pictures), "seed": config.seed}
        counts = {"real": config.eval.get("n") or len(splits[config.eval.split])}
        facts |= {"protocol": getattr(module, "PROTOCOL", {}), "networks": {}, "counts": counts}
        facts["notes"] = {config.task.name: said} if said else {}
        facts["seconds"] = time.perf_counter() - start
    else:
        facts = sampled(config, task, params, compared(config, task, splits), folder)
    facts |= {"step": step, "split": config.eval.split}
    replace(folder / "scores.json", json.dumps(facts, indent=2))
    report.write(workdir)
    names = facts["protocol"] or facts["scores"]
    say("  ".join(f"{name} {facts['scores'][name]:.4g}" for name in names if name in facts["scores"]))
    return facts["scores"]


def sampled(config: Any, task: Any, params: dict, held: Compared, folder: Path) -> dict[str, Any]:
    """Samples and their scores, with the pictures in ``folder``; what is known about them, for scores.json."""
    n, size, seed, shown = config.eval.n, tuple(config.data.patch), config.seed, config.sample.n
    first = lambda k: None if held.cond is None else held.cond[:k]  # noqa: E731
    start = time.perf_counter()
    generated = held.decode(draw(task, params, config, n, size, seed, cond=held.cond))
    seconds = time.perf_counter() - start
    clipped = np.clip(generated, -1.0, 1.0)
    facts = judge.judge(config.eval.metrics, clipped, held.real, held.train, seed)

    images.write(folder / "real.png", images.grid(held.real[:shown]))
    images.write(folder / "samples.png", images.grid(generated[:shown]))
    images.write(folder / "neighbours.png", nearest(clipped, held.train))
    if config.sample.large:
        large = draw(task, params, config, 1, tuple(config.sample.large), seed, cond=first(1))
        images.write(folder / "large.png", images.picture(held.decode(large)[0]))
    if held.cond is not None:
        images.write(folder / "grades.png", grades(config, task, params, held))
    if sampling.grows(task.model):
        nca_film(folder, task, params, held, seed)
    restless = diffusion_film(folder, task, params, config, size, held)
    more = [f"{field} {config.sample[field]}" for field in sampling.MORE if config.sample.get(field)]
    settings = [f"{config.sample.steps} steps", f"clip {config.sample.clip}", *more]
    return (
        facts
        | {"sampler": ", ".join([config.sample.sampler, *settings])}
        | {"seconds": seconds, "images_per_second": n / seconds}
        | ({"hidden_rms": restless} if restless else {})
    )


def grades(config: Any, task: Any, params: dict, held: Compared) -> UInt8[np.ndarray, "h w K"]:
    """A row of samples a class; a column has one noise, under every class in turn."""
    classes, size = held.cond.shape[1], tuple(config.data.patch)
    columns = min(SHOWN, max(1, config.sample.n // classes))
    rows = [
        draw(task, params, config, columns, size, config.seed, cond=sampling.conditions(task.model, (k,), columns))
        for k in range(classes)
    ]
    return images.grid(held.decode(np.concatenate(rows)), columns)


def nearest(generated: sets.Images, train: sets.Images) -> UInt8[np.ndarray, "h w K"]:
    """A page of the samples that are nearest to training images, the most suspicious first, and below each that image.

    Pairs of rows, ``SHOWN`` samples to a row.
    """
    distance, index = neighbours.nearest(generated, train)
    order = np.argsort(distance, kind="stable")[: PAIRS * SHOWN]
    rows = [order[i : i + SHOWN] for i in range(0, len(order), SHOWN)]
    whole = [some for some in rows if len(some) == SHOWN] or rows
    return images.grid(
        np.concatenate([x for some in whole for x in (generated[some], train[index[some]])]), len(whole[0])
    )


def nca_film(folder: Path, task: Any, params: dict, held: Compared, seed: int) -> None:
    """What the cells take held-out patches for, step by step of one call, from half-way noise."""
    some = held.patches[:SHOWN]
    t = jnp.full(1, task.diffusion.timesteps // 2)
    key, x0 = arrays.keys(seed, len(some)), task.diffusion.encode(jnp.asarray(some))
    x = task.diffusion.noised(x0, arrays.cell_normal(key, -1, arrays.coords(x0.shape[1:-1]), x0.shape[-1]), t)
    told = None if held.cond is None else jnp.asarray(held.cond[: len(some)])
    films = np.asarray(sampling.growth(task.model, task.diffusion, params, x, t, key, told))
    decoded = held.decode(films.reshape(-1, *films.shape[2:]))
    minds = decoded.reshape(*films.shape[:2], *decoded.shape[1:])
    noisy, real = held.decode(np.asarray(task.diffusion.decode(x))), held.decode(some)
    some = np.linspace(0, len(minds) - 1, SHOWN).round().astype(int)
    rows = [np.concatenate([noisy[i : i + 1], minds[some, i], real[i : i + 1]]) for i in range(min(3, len(real)))]
    images.write(folder / "nca_strip.png", images.grid(np.concatenate(rows), SHOWN + 2))
    images.animation(folder / "nca.webp", [images.grid(m, 4) for m in minds], fps=4)


def diffusion_film(
    folder: Path, task: Any, params: dict, config: Any, size: tuple[int, ...], held: Compared
) -> list[float]:
    """Samples on their way from noise: in the strip x_t above, and below the image that the model has in mind.

    Returns the RMS of the hidden state that they hand on, on the way.
    """
    key = arrays.keys(config.seed, SHOWN)
    told = None if held.cond is None else np.resize(held.cond, (SHOWN, held.cond.shape[1]))
    way = sampling.trajectory(task.model, task.diffusion, params, key, size, frames=FRAMES, cond=told, **how(config))
    carries = list(way)
    decoded = lambda x: held.decode(np.asarray(task.diffusion.decode(x)))  # noqa: E731
    xs, x0s = (np.stack([decoded(getattr(c, name)) for c in carries]) for name in ("x", "x0"))
    some = np.linspace(0, len(xs) - 1, SHOWN + 2).round().astype(int)
    images.write(folder / "diffusion_strip.png", images.grid(np.concatenate([xs[some, 0], x0s[some, 0]]), len(some)))
    images.animation(folder / "diffusion.webp", [images.grid(x, 4) for x in xs], fps=8)
    return sampling.hidden_rms(carries)


def settings(specs: Sequence[str], timesteps: int) -> list[dict[str, Any]]:
    """Samplers, their numbers of steps, and perhaps the growth of automata and a dtype, of ``name:steps:M-M:dtype``.

    Raises UserError for what ``timesteps`` do not allow.
    """
    found = []
    for spec in specs:
        name = spec.partition(":")[0]
        sampling.choose(sampling.SAMPLERS, "config.eval.samplers", name)
        asked = SPEC.fullmatch(spec)
        if not asked or not 1 <= int(asked["steps"]) <= timesteps:
            raise UserError(
                f"config.eval.samplers has {spec!r}; give 1 to {timesteps} steps, like {name}:{timesteps}, and perhaps "
                f"steps of the cells, from noise on, and the dtype of products, like {name}:{timesteps}:4-8:bfloat16"
            )
        row = {"sampler": name, "steps": int(asked["steps"])}
        row |= {"growth": tuple(map(int, asked["growth"].split("-")))} if asked["growth"] else {}
        found.append(row | ({"dtype": asked["dtype"]} if asked["dtype"] else {}))
    return found


def tables(config: Any, timesteps: int) -> dict[str, list[dict[str, Any]]]:
    """What ``config.eval`` asks to be compared: rows of settings of the sampler, by the name of their table.

    "samplers": each of ``samplers``. "heredity": each of ``heredity`` at each of ``guidance``; one alone is compared
    with the other as it is in ``config.sample``. Raises UserError for what there is not.
    """
    inherits, scales = (tuple(config.eval.get(field, ())) for field in ("heredity", "guidance"))
    for name in inherits:
        sampling.choose(sampling.KEPT, "config.eval.heredity", name)
    whole = config.sample.get("heredity", "none"), config.sample.get("guidance", 1.0)
    both = [(h, g) for g in scales or whole[1:] for h in inherits or whole[:1]] if inherits or scales else []
    found = {
        "samplers": settings(config.eval.get("samplers", ()), timesteps),
        "heredity": [{"heredity": h, "guidance": float(g)} for h, g in both],
    }
    return {name: rows for name, rows in found.items() if rows}


def sweep(
    config: Any, task: Any, params: dict, splits: dict, workdir: str | Path, step: int, name: str = "samplers"
) -> dict[str, Any]:
    """Scores and seconds of ``config.eval.n`` samples by each row of a table of :func:`tables`; returns what it writes.

    ``name``.json and a strip of samples each, into the folder of the evaluation at ``step``. All start from the
    same noise. Samplers take their steps in stretches of a common divisor, so that each is compiled once and not while
    it is timed.
    """
    todo = tables(config, task.diffusion.timesteps)[name]
    counts = [row.get("steps", config.sample.steps) for row in todo]
    stages = [len(row.get("growth", "1")) for row in todo]
    stretch = sampling.divisor(math.gcd(*(n // m for n, m in zip(counts, stages, strict=True))) or 1, STRETCH)
    n, size, seed, split = config.eval.n, tuple(config.data.patch), config.seed, config.eval.split
    held = compared(config, task, splits)
    folder = Path(workdir, "eval", f"{step:08d}")
    folder.mkdir(parents=True, exist_ok=True)
    rows, facts = [], {}
    for row, steps, m in zip(todo, counts, stages, strict=True):
        drawn = partial(draw, task, params, config, n, size, seed, cond=held.cond, **row)
        drawn(steps=stretch * m, frames=m)
        start = time.perf_counter()
        generated = held.decode(drawn(steps=steps, frames=steps // stretch))
        seconds = time.perf_counter() - start
        facts = judge.judge(config.eval.metrics, np.clip(generated, -1.0, 1.0), held.real, held.train, seed)
        words = ("-".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in row.values())
        picture = f"{'_'.join((next(iter(row)), *words))}.png"
        images.write(folder / picture, images.grid(generated[:SHOWN], SHOWN))
        more = {"seconds": seconds, "images_per_second": n / seconds, "picture": picture, "scores": facts["scores"]}
        rows.append(row | more)
    kept = {k: facts[k] for k in ("protocol", "counts", "seed")}
    facts = {"rows": rows, "step": step, "split": split, "clip": config.sample.clip} | kept
    replace(folder / f"{name}.json", json.dumps(facts, indent=2))
    report.write(workdir)
    return facts


def ladder(facts: dict[str, Any]) -> list[str]:
    """The lines of a table of what :func:`sweep` found."""
    names = [name for name in facts["protocol"] if name in facts["rows"][0]["scores"]]
    first, second, *_ = facts["rows"][0]
    wide = {name: max(14, len(name) + 2) for name in names}
    scores = "".join(f"{name:>{wide[name]}}" for name in names)
    head = f"{first:<28}{second:>10}{scores}{'seconds':>10}{'images/s':>10}"
    rows = [
        f"{report.variant(row):<28}{row[second]:>10}"
        + "".join(f"{row['scores'][name]:>{wide[name]}.4g}" for name in names)
        + f"{row['seconds']:>10.2f}{row['images_per_second']:>10.3g}"
        for row in facts["rows"]
    ]
    return [head, *rows]


def overgrowth(config: Any, task: Any, params: dict, workdir: str | Path, step: int) -> Path:
    """A strip of samples by ``config.eval.growth`` steps of the cells a call, a column each: every row has one noise.

    growth.png, with growth.json beside it, in the folder of the evaluation at ``step``.
    """
    size, decode = tuple(config.data.patch), build.decoder(config) or (lambda x: x)
    cond = sampling.conditions(task.model, (), ROWS)
    grown = [draw(task, params, config, ROWS, size, config.seed, cond=cond, growth=(m,)) for m in config.eval.growth]
    folder = Path(workdir, "eval", f"{step:08d}")
    picture = np.stack([decode(x) for x in grown], 1)
    images.write(folder / "growth.png", images.grid(picture.reshape(-1, *picture.shape[2:]), len(grown)))
    replace(folder / "growth.json", json.dumps({"growth": list(config.eval.growth), "own": task.model.steps}))
    report.write(workdir)
    return folder / "growth.png"


def main(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Scores the newest good checkpoint of ``workdir``, and makes what else ``config.eval`` asks for.

    ``samplers``, ``heredity`` and ``guidance``: :func:`tables`. ``growth``: :func:`overgrowth`. Raises UserError where
    there is no checkpoint.
    """
    task, params, step = restore(config, workdir)
    wanted = tables(config, task.diffusion.timesteps) if hasattr(task, "diffusion") else {}
    splits = build.splits(config)
    evaluate(config, task, params, splits, workdir, step)
    found = {name: sweep(config, task, params, splits, workdir, step, name) for name in wanted}
    grown = overgrowth(config, task, params, workdir, step) if config.eval.get("growth") else None
    facts = told(json.loads(Path(workdir, "eval", f"{step:08d}", "scores.json").read_text()), workdir)
    for table in found.values():
        for line in ladder(table):
            say(line)
    if grown:
        say(f"cells that grew for {', '.join(map(str, config.eval.growth))} steps a call: {grown}")
    return facts | {name: table["rows"] for name, table in found.items()}


def told(facts: dict[str, Any], workdir: str | Path | None) -> dict[str, Any]:
    """``facts``, as they were: after a table of them on the screen."""
    for line in judge.table(facts):
        say(line)
    if workdir:
        say(f"the report is {Path(workdir, 'report.html')}")
    return facts


def compare(
    samples: str, reference: str | None, train: str | None, specs: Sequence[str] | None, workdir: str | Path | None
) -> dict[str, Any]:
    """Scores what lies at ``samples`` against ``reference`` and ``train`` (see :func:`nca_gen.io.sets.open`).

    ``workdir``, if given, gets scores.json and a report. Raises UserError where sets of different kinds meet.
    """
    paths = {"generated": samples, "real": reference, "train": train}
    found = {role: path and sets.open(path) for role, path in paths.items()}
    kinds = {role: sets.kind(some) for role, some in found.items() if some is not None}
    if len(set(kinds.values())) > 1:
        raise UserError("these are of different kinds: " + ", ".join(f"{paths[r]} holds {k}" for r, k in kinds.items()))
    specs = specs or DEFAULT[kinds["generated"]] + (("neighbours",) if train and kinds["generated"] == "images" else ())
    facts = judge.judge(specs, **found, seed=0, kind=kinds["generated"])
    facts |= {"step": 0, "sets": {role: path for role, path in paths.items() if path}}
    if workdir:
        folder = Path(workdir, "eval", f"{0:08d}")
        folder.mkdir(parents=True, exist_ok=True)
        if kinds["generated"] == "images":
            shown = {"samples": found["generated"], "real": found["real"]}
            for name, some in shown.items():
                if some is not None:
                    images.write(folder / f"{name}.png", images.grid(some[:16]))
            if train and found["train"].shape[1:] == found["generated"].shape[1:]:
                images.write(folder / "neighbours.png", nearest(found["generated"], found["train"]))
        replace(folder / "scores.json", json.dumps(facts, indent=2))
        report.write(workdir)
    return told(facts, workdir)
