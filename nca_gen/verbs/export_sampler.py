"""How an export generates without this package: one program of StableHLO, from a seed and classes to pixels.

Of the bytes of ``sampler.stablehlo``, ``jax.export.deserialize(bytearray(them)).call(np.uint32(seed), classes)`` gives
one image for each of the ``classes``, int32 ``[n]``: uint8 ``[n, *T, C]``, those that --mode=generate draws from this
seed on one device. A class of -1, and of a model that knows none any number, is the null condition. The weights are in
the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8, UInt32

from nca_gen import build
from nca_gen.contracts import Autoencoder, Condition, Part, Pipeline
from nca_gen.errors import UserError
from nca_gen.pipelines import decode, sampling

PLATFORMS = ("cpu", "cuda", "tpu")


def serialized(pipeline: Pipeline, size: Sequence[int]) -> bytes:
    """The program that draws images of ``size``, in the units of the data that the model learned, of any number."""
    (n,) = jax.export.symbolic_shape("n")
    arguments = jax.ShapeDtypeStruct((), np.uint32), jax.ShapeDtypeStruct((n,), np.int32)
    program = jax.export.export(jax.jit(sampler(pipeline, tuple(size))), platforms=PLATFORMS)
    with unplaced():
        return bytes(program(*arguments).serialize())


@contextmanager
def unplaced() -> Iterator[None]:
    """Programs that are lowered here do not say in which files of this machine their lines stand."""
    fields = {"jax_include_full_tracebacks_in_locations": True, "jax_traceback_in_locations_limit": 0}
    former = {field: jax.config.values[field] for field in fields}
    for field, value in fields.items():
        jax.config.update(field, value)
    try:
        yield
    finally:
        for field, value in former.items():
            jax.config.update(field, value)


def sampler(
    pipeline: Pipeline, size: tuple[int, ...]
) -> Callable[[UInt32[Array, ""], Int[Array, " n"]], UInt8[Array, "n *T C"]]:
    """(seed, classes) -> images: pure, and compiled the same everywhere. Latents are decoded by what decoded them.

    Raises UserError for a part that does not generate, and for latents whose autoencoder is not at hand.
    """
    part = pipeline.parts["model"]
    draw = latent_draws(part, size) if isinstance(part.task.model, Autoencoder) else denoised(part, size)

    def images(seed: UInt32[Array, ""], classes: Int[Array, " n"]) -> UInt8[Array, "n *T C"]:
        root = jax.random.key(seed, impl="threefry2x32")
        key = jax.vmap(partial(jax.random.fold_in, root))(jnp.arange(classes.shape[0], dtype=np.uint32))
        return pixels(draw(key, classes))

    return images


def whole(params: PyTree) -> PyTree:
    """Weights that are stored in half the room, as they are used: they stay small in the program."""
    half = lambda x: jax.lax.optimization_barrier(x).astype(np.float32)
    return jax.tree.map(lambda x: half(x) if x.dtype == np.float16 else x, params)


def pixels(x: Float[Array, "*S"]) -> UInt8[Array, "*S"]:
    """Of images in [-1, 1], as :func:`nca_gen.io.images.from_float` has them."""
    return jnp.clip(jnp.rint((x + 1.0) * 128.0), 0, 255).astype(np.uint8)


def latent_draws(part: Part, size: tuple[int, ...]) -> Callable[..., Float[Array, "n *T C"]]:
    """The images of random latents of an autoencoder."""
    model = part.task.model
    places = tuple(-(-side // model.factor) for side in size)
    inside = (slice(None), *map(slice, size))
    return lambda key, classes: decode.decoded(model, whole(part.params), key, places)[inside]


def denoised(part: Part, size: tuple[int, ...]) -> Callable[..., Float[Array, "n *T C"]]:
    """What a denoiser makes of noise, by ``config.sample``. Raises UserError for a ``size`` that it does not
    take, and for one that draws nothing alone."""
    config, torus = part.config, part.config.get("generate", {}).get("torus", False)
    part = sampling.denoiser(part, torus)
    sampling.alone(part.task.model)
    if len(size) != part.task.model.ndim:
        raise UserError(f"config.export.size={size}: this model takes {part.task.model.ndim} sides")
    if torus:
        sampling.seamless(size, part.task.codec.block)
    task, settings, decoding = part.task, sampling.Settings.of(config.sample), build.known_of_data(config, "decoding")
    stages, times = settings.stages(task.model), settings.times(task.process)
    known = (task.process, task.codec, settings.sampler, settings.clip, settings.guidance, settings.heredity)
    turns = np.linspace(0, settings.steps, len(stages) + 1).round().astype(int)

    def draw(key: Key[Array, " n"], classes: Int[Array, " n"]) -> Float[Array, "n *T C"]:
        count = task.model.conditions.get("label", 0)
        cond: Condition = {"label": jax.nn.one_hot(classes, count)} if count else None
        begun = task.process, task.codec.cells(size), settings.heredity, settings.guided(cond), times[0]
        carry = sampling.begin(stages[0], *begun, key)
        for stage, (start, stop) in zip(stages, pairwise(turns), strict=True):
            # What is a constant here is an argument where the package draws; folded in, it would round otherwise.
            inputs = jax.lax.optimization_barrier((whole(part.params), carry, jnp.asarray(times[start : stop + 1])))
            carry = sampling.stretch(stage, *known, settings.young(stage))(*inputs, key, cond)
        x = task.codec.decode(jax.lax.optimization_barrier(carry.x))[(slice(None), *map(slice, size))]
        return decoding[0](decoding[1], x) if decoding else x

    return draw
