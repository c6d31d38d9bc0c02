"""How an export grows in a browser without a server: one page with the rule, its weights and a program in JavaScript.

The page has the numbers of the package: its noise and the cells that fire are the same hash, and each call of sampling
is what process, prediction, sampler and grid make of it, worked out here. It draws ``--mode=generate``'s first picture
of any seed, and fills holes as :func:`nca_gen.pipelines.inpaint.fill` does. It loads nothing and sends nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from markupsafe import Markup

from nca_gen import build, screen
from nca_gen.contracts import Part, Pipeline, Portable, Process, unchanged
from nca_gen.diffusion import samplers
from nca_gen.diffusion.process import log_ratio
from nca_gen.errors import UserError, chosen
from nca_gen.evaluators.scores import sampler
from nca_gen.io import write
from nca_gen.pipelines import sampling
from nca_gen.report import report, words
from nca_gen.runtime import run
from nca_gen.verbs import export_card, web

LIMIT = 1_500_000  # bytes of a page
SCRIPTS = ("rule.js", "rule_cpu.js", "rule_webgl2.js", "grow.js")


def page(pipeline: Pipeline, size: Sequence[int], name: str, stated: str = "") -> str:
    """The page ``name`` of the denoiser of ``pipeline``, which grows pictures of ``size`` pixels, or larger ones.

    ``stated``: the licence of the weights, "" for that of the data.
    Raises UserError for a model that is not :class:`nca_gen.contracts.Portable`, for what it cannot show, and for one
    that takes more than ``LIMIT``.
    """
    part = pipeline.parts["model"]
    rule = ruled(pipeline, size)
    origin, patch = build.known_of_data(part.config, "origin"), " x ".join(map(str, part.config.data.patch))
    licence = export_card.licence(origin, stated)
    command = (
        "python -m nca_gen.main --mode=generate --workdir=FOLDER --out=DIR --config.seed=SEED --config.sample.n=1 "
        f"--config.sample.size={','.join(map(str, rule['size']))}"
    )
    shown = {
        "name": name,
        "calls": len(rule["calls"]),
        "parameters": screen.number(sum(x.size for x in jax.tree.leaves(part.params))),
        "command": words.command(command),
        "facts": {
            "Sampling": sampler(part.config.sample),
            "Trained": f"{part.step} steps, in patches of {patch} pixels",
            "Data": origin.title if origin else part.config.data.name,
            "Licence of the weights": licence.get("license_name", licence.get("license", "not stated")),
        },
        "rule": Markup(write.notation(rule).replace("<", "\\u003c")),
        "script": Markup("".join((web.PAGE / script).read_text() for script in SCRIPTS)),
        "own": Markup((web.PAGE / "grow.css").read_text()),
    }
    text = report.template("grow.html").render(**shown)
    if (room := len(text.encode())) > LIMIT:
        raise UserError(
            f"the page of --export.html would take {room / 1e6:.1f} MB, and a page has at most {LIMIT / 1e6} MB: set "
            "--export.dtype=float16, or leave it out"
        )
    return text


def ruled(pipeline: Pipeline, size: Sequence[int]) -> dict[str, Any]:
    """What ``rule.js`` computes with: facts of the cells, their parameters, the calls, and how cells are pixels."""
    config = pipeline.parts["model"].config
    part = sampling.denoiser(pipeline.parts["model"], config.get("generate", {}).get("torus", False))
    model, codec = part.task.model, part.task.codec
    if not isinstance(model, Portable):
        raise UserError(
            "a page grows pictures by cells that perceive their neighbours and have two gated products, and this model "
            "has others: leave out --export.html"
        )
    facts = model.portable()
    colours = codec.colours(model.reads, model.ndim)
    if part.decode is not unchanged or colours not in (1, 3):
        raise UserError(
            "a page shows images, grey or RGB, and this model learned something else: leave out --export.html"
        )
    plain = lambda numbers: [float(np.float32(number)) for number in numbers]
    return {
        "seed": int(config.seed),
        "size": [side * codec.block for side in codec.cells(size)],
        "block": codec.block,
        "mean": plain(codec.mean),
        "std": plain(codec.std),
        "clip": config.sample.clip,
        "rule": facts,
        "calls": [*calls(part)],
        "weights": weights(part),
    }


def weights(part: Part) -> dict[str, Any]:
    """The parameters under their names in a file of weights: shapes, and the bytes of all in base64."""
    arrays = {name: np.asarray(leaf) for name, leaf in run.named(jax.device_get(part.params)).items()}
    [dtype] = {str(array.dtype) for array in arrays.values()}
    data = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays.values())
    shapes = {name: array.shape for name, array in arrays.items()}
    return {"arrays": shapes, "dtype": dtype, "base64": base64.b64encode(data).decode()}


def calls(part: Part) -> Iterator[dict[str, Any]]:
    """Of every call what it is told, and what is made of its answer.

    ``tag`` names its randomness, ``a`` and ``s`` are the levels of x, ``share`` is how much of the span is left.
    x0 is ``x0`` . (prediction, x), and after the call x is ``update`` . (x, x0, x0 of the call before, noise). Cells
    take ``steps`` steps, and with growth guidance the prediction goes ``away`` from what they say at the age ``young``.
    """
    process, settings = part.task.process, sampling.Settings.of(part.config.sample)
    step = chosen(samplers.SAMPLERS, "config.sample.sampler", settings.sampler)
    times = jnp.asarray(settings.times(process))
    t, u = times[:-1], times[1:]
    a, s = process.levels(t)
    ratio = jax.vmap(lambda t: log_ratio(*process.levels(t)))(times)
    gap = jnp.append(0.0, jnp.diff(ratio)[:-1])  # of the call before
    told, tags = np.asarray(process.told(t)), np.asarray(process.tag(t))
    update = np.asarray(jax.vmap(partial(coefficients, step, process))(t, u, gap))
    x0 = np.asarray(jax.vmap(partial(process.predict.x0, *jnp.eye(2)))(a, s))
    stages = settings.stages(part.task.model)
    turns = np.linspace(0, settings.steps, len(stages) + 1).round().astype(int)
    for stage, (start, stop) in zip(stages, pairwise(turns), strict=True):
        growth = settings.young(stage)
        for i in range(start, stop):
            within = growth is not None and growth.levels[0] <= s[i] <= growth.levels[1]
            yield {
                "tag": int(tags[i]),
                "told": short(told[i]),
                "share": short(told[i] / process.span),
                "a": short(a[i]),
                "s": short(s[i]),
                "x0": [*map(short, x0[i])],
                "update": [*map(short, update[i])],
                "steps": stage.steps,
                "young": growth.age if growth and within else 0,
                "away": growth.scale if growth and within else 0,
            }


def coefficients(step: samplers.Step, process: Process, t: Array, u: Array, gap: Array) -> Float[Array, "4"]:
    """Of a step of sampling, which is linear: its values at a base of (x, x0, x0 of the call before, noise)."""
    x, x0, before, noise = jnp.eye(4)[:, None]
    return step(process, samplers.Carry(x, (), before, gap), x0, t, u, noise, None)[0]


def short(number: Any) -> float:
    """A float32 in as few digits as say it."""
    return float(np.format_float_scientific(np.float32(number), unique=True))
