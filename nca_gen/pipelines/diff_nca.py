"""Pictures from a trained Diff-NCA or FourierDiff-NCA, of any size, from noise."""

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
from nca_gen.diffusion import guidance, samplers
from nca_gen.diffusion.process import Diffusion
from nca_gen.errors import unknown

SAMPLERS = {"ddpm": samplers.ddpm, "ddim": samplers.ddim, "dpm_solver_pp": samplers.dpm_solver_pp}
STRIP = 2048  # cells a core: what a step makes of them are a few MB
CLIPS = {"none": None, "static": guidance.static_range, "dynamic": guidance.dynamic_range}


def how(config: Any) -> dict[str, Any]:
    """The settings of the sampler that ``config.sample`` asks for, as :func:`trajectory` takes them."""
    return {field: config.sample[field] for field in ("sampler", "steps", "clip")}


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
    return replace(model, strip=STRIP * (os.cpu_count() or 1)) if jax.default_backend() == "cpu" else model


@cache
def _segment(model: Any, diffusion: Diffusion, sampler: str, clip: str) -> Any:
    """One compiled stretch of sampling; cached, so that every batch and every evaluation shares it."""
    model = painting(model)
    step, bound = choose(SAMPLERS, "config.sample.sampler", sampler), choose(CLIPS, "config.sample.clip", clip)

    @jax.jit
    def run(params: dict, carry: samplers.Carry, times: Int[Array, " n"], key: Key[Array, " B"]) -> samplers.Carry:
        denoise = lambda x, t, memory, k: model.apply(params, x, t, None, memory, k)  # noqa: E731
        if bound:
            denoise = guidance.constrained(denoise, diffusion, bound)
        return samplers.sample(step, diffusion, denoise, carry, times, key)

    return run


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
    frames: int = 1,
    lay: NamedSharding | None = None,
) -> Iterator[samplers.Carry]:
    """The carry after each of ``frames`` stretches of sampling; ``diffusion.decode`` of the last ``.x`` is the picture.

    A side of ``size`` pixels that a block does not divide is grown up to the next one. ``lay``: how the images lie on
    the devices, see :func:`spread`; default as ``key`` does.

    Equal for every value of ``frames``, to the rounding of float32: randomness is keyed by the diffusion index. One
    image a key.
    """
    run = _segment(model, diffusion, sampler, clip)
    times = diffusion.respaced(steps)
    cells = tuple(-(-side // diffusion.block) for side in size)
    laid = lambda carry: jax.device_put(carry, jax.tree.map(partial(_over, lay), carry)) if lay else carry  # noqa: E731
    carry = laid(samplers.begin(samplers.initial_noise(key, cells, model.image_channels)))
    stops = np.unique(np.linspace(0, steps, frames + 1).round().astype(int))
    for start, stop in pairwise(stops):
        carry = laid(run(params, carry, times[start : stop + 1], key))  # or XLA's layout would be compiled for anew
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
    **how: Any,
) -> Iterator[Float[np.ndarray, "b *S C"]]:
    """Pictures ``first .. first + n - 1`` in batches. Picture i depends on ``seed`` and i, not on how it is batched.

    Nor on how it is :func:`spread`. With ``devices`` of several hosts, all must call this, and each gets all pictures.
    """
    rows = -(-size[0] // diffusion.block)
    for start in range(first, first + n, batch):
        key = arrays.keys(seed, min(batch, first + n - start), start)
        key, here, lay = spread(key, params, rows, space, devices)
        drawn = sample(model, diffusion, here, key, size, lay=lay, **how)
        yield np.asarray(jax.device_put(drawn, NamedSharding(lay.mesh, PartitionSpec())))


@partial(jax.jit, static_argnums=(0, 1))
def growth(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    x: Float[Array, "B *S C"],
    t: Int[Array, " b"],
    key: Key[Array, " B"],
) -> Float[Array, "n B *T K"]:
    """The clean image that the cells have in mind after each step of one call at x_t, from before the first on."""
    rule = model.rule(params, t, key, arrays.coords(x.shape[1:-1]), x.shape[1:-1])

    def step(cells: Cells, _: None) -> tuple[Cells, Array]:
        cells = rule(cells)
        return cells, cells.out

    born = model.begin(params, x, t)
    _, outs = jax.lax.scan(step, born, length=model.steps)
    return jax.vmap(lambda out: diffusion.decode(diffusion.x0(out, x, t)))(jnp.concatenate([born.out[None], outs]))
