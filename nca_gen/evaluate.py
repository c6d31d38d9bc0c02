"""--mode=evaluate, and the evaluation inside training: samples, pictures, scores, report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from nca_gen import arrays, build, judge
from nca_gen.data import pipeline
from nca_gen.errors import UserError
from nca_gen.generate import draw, how, restore
from nca_gen.io import images, sets
from nca_gen.metrics import neighbours
from nca_gen.pipelines import diff_nca
from nca_gen.runtime import report
from nca_gen.runtime.log import replace, say

FRAMES = 24  # pictures of a growing image
SHOWN = 8  # images in a film or a row of neighbours
PAIRS = 3  # of rows in a page of neighbours
DEFAULT = {"images": ("swd", "drift"), "volumes": ("total_variation",), "slides": ("pfid",)}  # of sets without a config


def evaluate(config: Any, task: Any, params: dict, splits: dict, workdir: str | Path, step: int) -> dict[str, float]:
    """Scores ``config.eval.n`` samples against held-out patches and rewrites the report; returns the scores.

    Everything is drawn from ``config.seed``, so two evaluations of one checkpoint are equal. Of several hosts the
    first does it alone.
    """
    params = jax.device_get(params)
    if jax.process_index():
        return {}
    n, size, seed, split = config.eval.n, tuple(config.data.patch), config.seed, config.eval.split
    start = time.perf_counter()
    generated = draw(task, params, config, n, size, seed)
    seconds = time.perf_counter() - start
    real = pipeline.patches(splits[split], patch=size, n=n, seed=seed)
    train = pipeline.patches(splits["train"], patch=size, n=config.eval.train, seed=seed)
    clipped = np.clip(generated, -1.0, 1.0)
    facts = judge.judge(config.eval.metrics, clipped, real, train, seed)

    folder = Path(workdir, "eval", f"{step:08d}")
    folder.mkdir(parents=True, exist_ok=True)
    images.write(folder / "real.png", images.grid(real[: config.sample.n]))
    images.write(folder / "samples.png", images.grid(generated[: config.sample.n]))
    images.write(folder / "neighbours.png", nearest(clipped, train))
    if config.sample.large:
        large = draw(task, params, config, 1, tuple(config.sample.large), seed)
        images.write(folder / "large.png", images.picture(large[0]))
    nca_film(folder, task, params, real[:SHOWN], seed)
    diffusion_film(folder, task, params, config, size)
    facts |= {
        "step": step,
        "split": split,
        "sampler": f"{config.sample.sampler}, {config.sample.steps} steps, clip {config.sample.clip}",
        "seconds": seconds,
        "images_per_second": n / seconds,
    }
    replace(folder / "scores.json", json.dumps(facts, indent=2))
    report.write(workdir)
    say("  ".join(f"{name} {facts['scores'][name]:.4g}" for name in facts["protocol"] if name in facts["scores"]))
    return facts["scores"]


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


def nca_film(folder: Path, task: Any, params: dict, real: Float[np.ndarray, "n *S C"], seed: int) -> None:
    """What the cells take held-out patches for, step by step of one call, from half-way noise."""
    t = jnp.full(1, task.diffusion.timesteps // 2)
    key, x0 = arrays.keys(seed, len(real)), task.diffusion.encode(jnp.asarray(real))
    x = task.diffusion.noised(x0, arrays.cell_normal(key, -1, arrays.coords(x0.shape[1:-1]), x0.shape[-1]), t)
    minds = np.asarray(diff_nca.growth(task.model, task.diffusion, params, x, t, key))
    noisy = np.asarray(task.diffusion.decode(x))
    some = np.linspace(0, len(minds) - 1, SHOWN).round().astype(int)
    rows = [np.concatenate([noisy[i : i + 1], minds[some, i], real[i : i + 1]]) for i in range(min(3, len(real)))]
    images.write(folder / "nca_strip.png", images.grid(np.concatenate(rows), SHOWN + 2))
    images.animation(folder / "nca.webp", [images.grid(m, 4) for m in minds], fps=4)


def diffusion_film(folder: Path, task: Any, params: dict, config: Any, size: tuple[int, ...]) -> None:
    """Samples on their way from noise: in the strip x_t above, and below the image that the model has in mind."""
    key = arrays.keys(config.seed, SHOWN)
    carries = list(diff_nca.trajectory(task.model, task.diffusion, params, key, size, frames=FRAMES, **how(config)))
    decoded = lambda x: np.asarray(task.diffusion.decode(x))  # noqa: E731
    xs, x0s = (np.stack([decoded(getattr(c, name)) for c in carries]) for name in ("x", "x0"))
    some = np.linspace(0, len(xs) - 1, SHOWN + 2).round().astype(int)
    images.write(folder / "diffusion_strip.png", images.grid(np.concatenate([xs[some, 0], x0s[some, 0]]), len(some)))
    images.animation(folder / "diffusion.webp", [images.grid(x, 4) for x in xs], fps=8)


def pairs(specs: Sequence[str], timesteps: int) -> list[tuple[str, int]]:
    """Samplers and their numbers of steps, of ``name:steps``. Raises UserError for what ``timesteps`` do not allow."""
    found = []
    for spec in specs:
        name, _, steps = spec.partition(":")
        diff_nca.choose(diff_nca.SAMPLERS, "config.eval.samplers", name)
        if not steps.isdecimal() or not 1 <= int(steps) <= timesteps:
            raise UserError(f"config.eval.samplers has {spec!r}; give 1 to {timesteps} steps, like {name}:{timesteps}")
        found.append((name, int(steps)))
    return found


def sweep(config: Any, task: Any, params: dict, splits: dict, workdir: str | Path, step: int) -> dict[str, Any]:
    """Scores and seconds of ``config.eval.n`` samples by each of ``config.eval.samplers``; returns what it writes.

    ``samplers.json`` and a strip of samples each, into the folder of the evaluation at ``step``. All start from the
    same noise. Samplers take their steps in stretches of the greatest common divisor of all, so that each is compiled
    once and not while it is timed.
    """
    todo = pairs(config.eval.samplers, task.diffusion.timesteps)
    stretch = math.gcd(*(steps for _, steps in todo))
    n, size, seed, split = config.eval.n, tuple(config.data.patch), config.seed, config.eval.split
    real = pipeline.patches(splits[split], patch=size, n=n, seed=seed)
    train = pipeline.patches(splits["train"], patch=size, n=config.eval.train, seed=seed)
    folder = Path(workdir, "eval", f"{step:08d}")
    folder.mkdir(parents=True, exist_ok=True)
    rows, facts = [], {}
    for sampler, steps in todo:
        drawn = partial(draw, task, params, config, n, size, seed, sampler=sampler)
        drawn(steps=stretch)
        start = time.perf_counter()
        generated = drawn(steps=steps, frames=steps // stretch)
        seconds = time.perf_counter() - start
        facts = judge.judge(config.eval.metrics, np.clip(generated, -1.0, 1.0), real, train, seed)
        picture = f"sampler_{sampler}_{steps}.png"
        images.write(folder / picture, images.grid(generated[:SHOWN], SHOWN))
        row = {"sampler": sampler, "steps": steps, "seconds": seconds, "images_per_second": n / seconds}
        rows.append(row | {"picture": picture, "scores": facts["scores"]})
    kept = {k: facts[k] for k in ("protocol", "counts", "seed")}
    facts = {"rows": rows, "step": step, "split": split, "clip": config.sample.clip} | kept
    replace(folder / "samplers.json", json.dumps(facts, indent=2))
    report.write(workdir)
    return facts


def ladder(facts: dict[str, Any]) -> list[str]:
    """The lines of a table of what :func:`sweep` found."""
    names = [name for name in facts["protocol"] if name in facts["rows"][0]["scores"]]
    head = (
        f"{'sampler':<16}{'steps':>6}" + "".join(f"{name:>14}" for name in names) + f"{'seconds':>10}{'images/s':>10}"
    )
    rows = [
        f"{row['sampler']:<16}{row['steps']:>6}"
        + "".join(f"{row['scores'][name]:>14.4g}" for name in names)
        + f"{row['seconds']:>10.2f}{row['images_per_second']:>10.3g}"
        for row in facts["rows"]
    ]
    return [head, *rows]


def main(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Scores the newest good checkpoint of ``workdir``, and a table of samplers where ``config.eval.samplers`` asks.

    Raises UserError where there is no checkpoint.
    """
    task, params, step = restore(config, workdir)
    wanted = pairs(config.eval.get("samplers", ()), task.diffusion.timesteps)
    splits = build.splits(config)
    evaluate(config, task, params, splits, workdir, step)
    found = sweep(config, task, params, splits, workdir, step) if wanted else None
    facts = told(json.loads(Path(workdir, "eval", f"{step:08d}", "scores.json").read_text()), workdir)
    for line in ladder(found) if found else ():
        say(line)
    return facts | ({"samplers": found["rows"]} if found else {})


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
