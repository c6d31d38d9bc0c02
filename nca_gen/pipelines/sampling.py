"""Pictures from a trained denoiser, of any size where it allows that, from noise: the engine of all other pipelines.

Automata, transformers and U-Nets alike; what automata can do beside is asked of the model itself: ``strip``, ``steps``,
``newborn``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from nca_gen import arrays
from nca_gen.ca.seed import Cells
from nca_gen.diffusion import guidance, heredity, samplers, variance
from nca_gen.diffusion.discrete import Diffusion
from nca_gen.errors import UserError, unknown

SAMPLERS = {"ddpm": samplers.ddpm, "ddim": samplers.ddim, "dpm_solver_pp": samplers.dpm_solver_pp}
STRIP = 2048  # cells a core: what a step makes of them are a few MB
KEPT = heredity.KEPT
CLIPS = {"none": None, "static": guidance.static_range, "dynamic": guidance.dynamic_range}


SETTINGS = ("sampler", "steps", "clip")  # that every config has
MORE = ("guidance", "heredity", "growth")  # of conditional models and of those with a memory


def how(config: Any) -> dict[str, Any]:
    """The settings of the sampler that ``config.sample`` asks for, as :func:`trajectory` takes them."""
    more = {field: config.sample[field] for field in MORE if field in config.sample}
    return {field: config.sample[field] for field in SETTINGS} | more


def title(config: Any) -> list[str]:
    """The size of a picture from noise, for the name of its folder."""
    return ["x".join(map(str, config.sample.size))]


def choose(table: dict, field: str, name: str) -> Any:
    """``table[name]``. Raises UserError with the nearest name."""
    if name not in table:
        raise unknown(f"value of {field}", name, table)
    return table[name]


def painting(model: Any) -> Any:
    """``model`` where no gradient is taken: on a CPU in strips that fit its caches, see :mod:`nca_gen.ca.strips`."""
    in_strips = hasattr(model, "strip") and jax.default_backend() == "cpu"
    return replace(model, strip=STRIP * (os.cpu_count() or 1)) if in_strips else model


def conditions(model: Any, labels: Sequence[int], n: int, first: int = 0) -> Float[np.ndarray, "n K"] | None:
    """The conditions of pictures ``first .. first + n - 1``: each one class, ``labels`` in turn, or () for all classes.

    None for a model that takes no condition. Raises UserError for a class that it does not know.
    """
    classes = getattr(model, "classes", 0)
    if wrong := [k for k in labels if not 0 <= k < classes]:
        known = f"0 to {classes - 1}" if classes else "none"
        raise UserError(f"config.sample.labels has {wrong[0]}; the classes of this model are {known}")
    turn = (np.arange(first, first + n) % (len(labels) or max(classes, 1))).tolist()
    return np.eye(classes, dtype=np.float32)[[labels[i] for i in turn] if labels else turn] if classes else None


@cache
def _segment(model: Any, diffusion: Diffusion, sampler: str, clip: str, scale: float, inherits: str) -> Any:
    """One compiled stretch of sampling; cached, so that every batch and every evaluation shares it."""
    model = painting(model)
    step, bound = choose(SAMPLERS, "config.sample.sampler", sampler), choose(CLIPS, "config.sample.clip", clip)

    @jax.jit
    def run(
        params: dict,
        carry: samplers.Carry,
        times: Int[Array, " n"],
        key: Key[Array, " B"],
        cond: Float[Array, "B K"] | None,
    ) -> samplers.Carry:
        said = partial(model.apply, params)
        denoise = guidance.classifier_free(said, cond, 1.0 if cond is None else scale)
        denoise = heredity.inherited(denoise, heredity.KEPT[inherits])
        if bound:
            denoise = guidance.constrained(denoise, diffusion, bound)
        return samplers.sample(step, diffusion, denoise, carry, times, key)

    return run


@partial(jax.jit, static_argnums=(0, 1, 2))
def _born(model: Any, inherits: str, guided: bool, x: Float[Array, "B *S C"], key: Key[Array, " B"]) -> Any:
    """What the first step finds in its memory: its own newborn, for what the next ones find of the step before."""
    if not hasattr(model, "newborn"):
        return ()
    if guided:
        x, key = guidance.rows(x, x), guidance.both(key)
    return heredity.heirs(model.newborn(x, key), heredity.KEPT[inherits])


def trajectory(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    key: Key[Array, " B"],
    size: tuple[int, ...],
    *,
    sampler: str = "ddpm",
    steps: int = 300,
    clip: str = "none",
    cond: Float[Array | np.ndarray, "B K"] | None = None,
    guidance: float = 1.0,
    heredity: str = "none",
    growth: Sequence[int] = (),
    dtype: str = "",
    frames: int = 1,
    lay: NamedSharding | None = None,
) -> Iterator[samplers.Carry]:
    """The carry after each of ``frames`` stretches of sampling; ``diffusion.decode`` of the last ``.x`` is the picture.

    A side of ``size`` pixels that a block does not divide is grown up to the next one. ``lay``: how the images lie on
    the devices, see :func:`spread`; default as ``key`` does.

    ``cond``: a condition an image; None, and for each row of zeros, is none at all. ``guidance``: how far to go from
    there towards it (:func:`nca_gen.diffusion.guidance.classifier_free`). ``heredity``: which part of a model's memory
    a step finds as the step before left it (:mod:`nca_gen.diffusion.heredity`). ``growth``: steps of an automaton a
    call, over equal stretches of sampling, from noise on; default its own. ``dtype``: of the products; default the
    model's own. UserError for what this model cannot do.

    Equal for every value of ``frames``, to the rounding of float32: randomness is keyed by the diffusion index. One
    image a key.
    """
    choose(KEPT, "config.sample.heredity", heredity)
    if heredity != "none" and not hasattr(model, "newborn"):
        raise UserError(f"config.sample.heredity={heredity}: this model hands nothing on; set it to none")
    if growth and not hasattr(model, "steps"):
        raise UserError("config.sample.growth is for automata, which grow in steps; leave it empty: ()")
    times = diffusion.respaced(steps)
    cells = tuple(-(-side // diffusion.block) for side in size)
    model = replace(model, dtype=dtype) if dtype else model
    grown = [replace(model, steps=n) for n in growth] or [model]
    runs = [_segment(one, diffusion, sampler, clip, float(guidance), heredity) for one in grown]
    laid = lambda carry: jax.device_put(carry, jax.tree.map(partial(_over, lay), carry)) if lay else carry  # noqa: E731
    x = samplers.initial_noise(key, cells, model.image_channels)
    if cond is not None:
        cond = jnp.asarray(cond)
        cond = jax.device_put(cond, NamedSharding(lay.mesh, PartitionSpec(*lay.spec[:1]))) if lay else cond
    guided = cond is not None and guidance != 1
    carry = laid(samplers.begin(x, _born(model, heredity, guided, x, arrays.fold(key, int(times[0])))))
    stops, turns = (np.linspace(0, steps, n + 1).round().astype(int) for n in (frames, len(runs)))
    for start, stop in pairwise(np.union1d(stops, turns)):
        run = runs[np.searchsorted(turns, start, "right") - 1]
        carry = laid(run(params, carry, times[start : stop + 1], key, cond))  # or XLA's layout would be compiled anew
        if stop in stops:
            yield carry


def _over(lay: NamedSharding, x: Array) -> NamedSharding:
    """How ``x`` of a carry lies where images lie like ``lay``: like them, or if it is a number, everywhere."""
    return lay if x.ndim else NamedSharding(lay.mesh, PartitionSpec())


def sample(
    model: Any, diffusion: Diffusion, params: dict, key: Key[Array, " B"], size: tuple[int, ...], **how: Any
) -> Float[Array, "B *S C"]:
    """The pictures of ``size`` at the end of a :func:`trajectory`."""
    *_, last = trajectory(model, diffusion, params, key, size, **how)
    return diffusion.decode(last.x)[(slice(None), *map(slice, size))]


def divisor(n: int, most: int) -> int:
    """The largest divisor of ``n`` that is at most ``most``."""
    return max(d for d in range(1, most + 1) if n % d == 0)


def spread(
    key: Key[Array, " B"], params: dict, rows: int = 1, space: int = 1, devices: Sequence[jax.Device] | None = None
) -> tuple[Key[Array, " B"], dict, NamedSharding]:
    """``key`` and ``params`` laid over ``devices`` (default: those of this host), and how images are to lie on them.

    The ``rows`` of cells of an image are cut over ``space`` devices, and the batch is dealt over all that leaves; each
    over fewer where it does not divide, so that a prime number of rows stays on one. Where a host would be left out,
    each of them does all on its own devices.
    """
    devices = devices or jax.local_devices()
    cuts = divisor(rows, min(space, len(devices)))
    deals = divisor(len(key), len(devices) // cuts)
    used = devices[: deals * cuts]
    if {d.process_index for d in used} != {d.process_index for d in devices}:
        return spread(key, params, rows, space)
    mesh = Mesh(np.reshape(used, (deals, cuts)), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    lay = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731
    words = jax.device_put(jax.random.key_data(key), lay("data"))  # keys themselves do not go to other hosts
    key = jax.random.wrap_key_data(words, impl=jax.random.key_impl(key))
    return key, jax.device_put(params, lay()), lay("data", "space")


def images(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    seed: int,
    n: int,
    size: tuple[int, ...],
    batch: int = 64,
    first: int = 0,
    *,
    space: int = 1,
    devices: Sequence[jax.Device] | None = None,
    cond: Float[np.ndarray, "n K"] | None = None,
    **how: Any,
) -> Iterator[Float[np.ndarray, "b *S C"]]:
    """Pictures ``first .. first + n - 1`` in batches. Picture i depends on ``seed`` and i, not on how it is batched.

    And on row i - ``first`` of ``cond``. They are in the units of the data: latents where the model learned latents.
    Nor on how it is :func:`spread`. With ``devices`` of several hosts, all must call this, and each gets all pictures.
    """
    rows = -(-size[0] // diffusion.block)
    for start in range(first, first + n, batch):
        key = arrays.keys(seed, min(batch, first + n - start), start)
        key, here, lay = spread(key, params, rows, space, devices)
        mine = None if cond is None else cond[start - first :][: len(key)]
        drawn = sample(model, diffusion, here, key, size, lay=lay, cond=mine, **how)
        yield np.asarray(jax.device_put(drawn, NamedSharding(lay.mesh, PartitionSpec())))


def hidden_rms(carries: Sequence[samplers.Carry]) -> list[float]:
    """RMS of the hidden state that is handed on, over the time of denoising; empty where it is not.

    Training starts every call from newborn cells, sampling by heredity chains hundreds: it may run away.
    """
    handed = [h for c in carries if (h := getattr(c.memory, "hidden", None)) is not None]
    return [float(jnp.sqrt(jnp.mean(jnp.square(h)))) for h in handed]


def grows(model: Any) -> bool:
    """Whether ``model`` is an automaton, of which :func:`growth` can be seen."""
    return hasattr(model, "rule")


@partial(jax.jit, static_argnums=(0, 1))
def growth(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    x: Float[Array, "B *S C"],
    t: Int[Array, " b"],
    key: Key[Array, " B"],
    cond: Float[Array, "B K"] | None = None,
) -> Float[Array, "n B *T K"]:
    """The clean image that the cells have in mind after each step of one call at x_t, from before the first on."""
    at, extent = arrays.coords(x.shape[1:-1]), x.shape[1:-1]
    if hasattr(model, "newborn"):
        born, rule = model.begin(x, (), key), model.rule(params, t, key, at, extent, cond)
    else:
        born, rule = model.begin(params, x, t), model.rule(params, t, key, at, extent)

    def step(cells: Cells, _: None) -> tuple[Cells, Array]:
        cells = rule(cells)
        return cells, cells.out

    _, outs = jax.lax.scan(step, born, length=model.steps)
    words = variance.parted(jnp.concatenate([born.out[None], outs]), x.shape[-1])[0]
    return jax.vmap(lambda out: diffusion.decode(diffusion.x0(out, x, t)))(words)
