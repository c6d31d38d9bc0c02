"""Pictures from a trained Diff-NCA or FourierDiff-NCA, of any size, from noise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from nca_gen import arrays
from nca_gen.ca.seed import Cells
from nca_gen.diffusion import guidance, samplers
from nca_gen.diffusion.process import Diffusion
from nca_gen.errors import unknown

SAMPLERS = {"ddpm": samplers.ddpm, "ddim": samplers.ddim, "dpm_solver_pp": samplers.dpm_solver_pp}
CLIPS = {"none": None, "static": guidance.static_range, "dynamic": guidance.dynamic_range}


def how(config: Any) -> dict[str, Any]:
    """The settings of the sampler that ``config.sample`` asks for, as :func:`trajectory` takes them."""
    return {field: config.sample[field] for field in ("sampler", "steps", "clip")}


def choose(table: dict, field: str, name: str) -> Any:
    """``table[name]``. Raises UserError with the nearest name."""
    if name not in table:
        raise unknown(f"value of {field}", name, table)
    return table[name]


@cache
def _segment(model: Any, diffusion: Diffusion, sampler: str, clip: str) -> Any:
    """One compiled stretch of sampling; cached, so that every batch and every evaluation shares it."""
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
) -> Iterator[samplers.Carry]:
    """The carry after each of ``frames`` stretches of sampling; ``diffusion.decode`` of the last ``.x`` is the picture.

    A side of ``size`` pixels that a block does not divide is grown up to the next one.

    Equal for every value of ``frames``, to the rounding of float32: randomness is keyed by the diffusion index. One
    image a key.
    """
    run = _segment(model, diffusion, sampler, clip)
    times = diffusion.respaced(steps)
    cells = tuple(-(-side // diffusion.block) for side in size)
    carry = samplers.begin(samplers.initial_noise(key, cells, model.image_channels))
    stops = np.unique(np.linspace(0, steps, frames + 1).round().astype(int))
    for start, stop in pairwise(stops):
        carry = run(params, carry, times[start : stop + 1], key)
        yield carry


def sample(
    model: Any, diffusion: Diffusion, params: dict, key: Key[Array, " B"], size: tuple[int, ...], **how: Any
) -> Float[Array, "B *S C"]:
    """The pictures of ``size`` at the end of a :func:`trajectory`."""
    *_, last = trajectory(model, diffusion, params, key, size, **how)
    return diffusion.decode(last.x)[(slice(None), *map(slice, size))]


def spread(key: Key[Array, " B"], params: dict) -> tuple[Key[Array, " B"], dict]:
    """``key`` laid over the local devices and ``params`` on each of them; all on the first if they do not divide it."""
    n = jax.local_device_count() if len(key) % jax.local_device_count() == 0 else 1
    mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:n])
    put = lambda tree, *axes: jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))  # noqa: E731
    return put(key, "data"), put(params)


def images(
    model: Any,
    diffusion: Diffusion,
    params: dict,
    seed: int,
    n: int,
    size: tuple[int, ...],
    batch: int = 64,
    first: int = 0,
    **how: Any,
) -> Iterator[Float[np.ndarray, "b *S C"]]:
    """Pictures ``first .. first + n - 1`` in batches. Picture i depends on ``seed`` and i, not on how it is batched."""
    for start in range(first, first + n, batch):
        key, here = spread(arrays.keys(seed, min(batch, first + n - start), start), params)
        yield np.asarray(sample(model, diffusion, here, key, size, **how))


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
