"""--mode=evaluate, and the evaluation inside training: samples, pictures, scores, report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nca_gen import arrays, build
from nca_gen.data import pipeline
from nca_gen.generate import draw, how, restore
from nca_gen.io import images
from nca_gen.metrics import neighbours
from nca_gen.pipelines import diff_nca
from nca_gen.runtime import report
from nca_gen.runtime.log import replace, say

FRAMES = 24  # pictures of a growing image
SHOWN = 8  # images in a film or a row of neighbours


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
    metrics = {name: build.metric(name) for name in config.eval.metrics}
    scores = {k: v for m in metrics.values() for k, v in m.score(clipped, real, train, seed).items()}

    folder = Path(workdir, "eval", f"{step:08d}")
    folder.mkdir(parents=True, exist_ok=True)
    images.write(folder / "real.png", images.grid(real[: config.sample.n]))
    images.write(folder / "samples.png", images.grid(generated[: config.sample.n]))
    near = train[neighbours.nearest(clipped[:SHOWN], train)[1]]
    images.write(folder / "neighbours.png", images.grid(np.concatenate([generated[:SHOWN], near]), SHOWN))
    if config.sample.large:
        large = draw(task, params, config, 1, tuple(config.sample.large), seed)
        images.write(folder / "large.png", images.picture(large[0]))
    nca_film(folder, task, params, real[:SHOWN], seed)
    diffusion_film(folder, task, params, config, size)
    facts = {
        "step": step,
        "scores": scores,
        "protocol": {name: m.PROTOCOL for name, m in metrics.items()},
        "counts": {"real": n, "generated": n, "train": len(train)},
        "split": split,
        "seed": seed,
        "sampler": f"{config.sample.sampler}, {config.sample.steps} steps, clip {config.sample.clip}",
        "seconds": seconds,
        "images_per_second": n / seconds,
    }
    replace(folder / "scores.json", json.dumps(facts, indent=2))
    report.write(workdir)
    say("  ".join(f"{name} {scores[name]:.4g}" for name in metrics if name in scores))
    return scores


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


def main(config: Any, workdir: str | Path) -> dict[str, float]:
    """Scores the newest good checkpoint of ``workdir``. Raises UserError where there is none."""
    task, params, step = restore(config, workdir)
    scores = evaluate(config, task, params, build.splits(config), workdir, step)
    for name, value in scores.items():
        say(f"{name:<24} {value:.5g}")
    say(f"the report is {Path(workdir, 'report.html')}")
    return scores
