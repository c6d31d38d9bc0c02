"""Models, a config and data so small that a test takes a moment, with parameters in which everything matters."""

from functools import cache
from math import prod

import jax
import numpy as np
import textbook
from jax.extend.random import define_prng_impl
from ml_collections import ConfigDict

from nca_gen import build
from nca_gen.data.source import Source, Splits
from nca_gen.models import diff_nca, fourier_diff_nca, geca
from nca_gen.nn import resnet

T = 12


def diff(**changes):
    """A Diff-NCA of 8 channels; not the zero map unless asked for."""
    return diff_nca.Model(**{"channels": 8, "hidden": 16, "steps": 4, "start": "torch", "timesteps": T} | changes)


def fourier(**changes):
    """A FourierDiff-NCA that looks at 4 x 4 coefficients: images from 8 x 8 on."""
    small = {"channels": 8, "hidden": 16, "steps": 4, "start": "torch", "timesteps": T, "window": 4, "fourier_steps": 5}
    return fourier_diff_nca.Model(**small | changes)


def cells(**changes):
    """A GeCA of 16 features that knows 3 classes."""
    small = {"embed": 16, "heads": 2, "mlp": 16, "hidden": 4, "steps": 3, "classes": 3, "image_channels": 3}
    return geca.Model(**small | changes)


def shallow(classes, width):
    """A ResNet-34 of one block a stage. A test that puts it in place of the deep one takes a width of its own: equal
    tasks share their programs."""
    return resnet.ResNet(resnet.basic, classes, width, (1, 1, 1, 1))


def params(model, seed=0):
    """Parameters like those of a trained model: no gain, scale or bias is where it started, which would hide mistakes.

    Drawn by numpy, because compiling the model's own start takes longer than most tests (and jnp.asarray compiles, for
    every shape, what copies an array; device_put does not).
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "v":
            return rng.uniform(-1, 1, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return {"g": 0.6, "norm_scale": 1.0}.get(path[-1].key, 0.0) + 0.2 * rng.standard_normal(leaf.shape)

    put = lambda path, leaf: jax.device_put(np.asarray(draw(path, leaf), leaf.dtype))
    like = shapes(model)
    with jax.ensure_compile_time_eval():  # also where a program that is traced asks first
        return jax.tree.map_with_path(put, like)


@cache
def shapes(model):
    """Of the model's parameters."""
    return jax.eval_shape(model.init, jax.random.key(0))


def mixed(words):
    """Every bit of a word depends on all of them: lowbias32 (Wellons 2018)."""
    words = (words ^ (words >> 16)) * np.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * np.uint32(0x846CA68B)
    return words ^ (words >> 16)


def counted(key, width, shape):
    """Random words by their number."""
    return mixed(mixed(jax.lax.iota(np.uint32, prod(shape)).reshape(shape)) + key[0])


# Keys of a kind that compiles quickly: a quarter of what jax's own take.
KEYS = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: mixed(seed.astype(np.uint32))[None],
    split=lambda key, shape: counted(key, 32, (*shape, 1)),
    random_bits=counted,
    fold_in=lambda key, data: mixed(key + mixed(data.astype(np.uint32))),
    name="counted",
    tag="c",
)


@cache
def born(model):
    """The model's own start."""
    return jax.jit(model.init)(jax.random.key(0, impl=KEYS))


def state(task, seed=0):
    """A state of ``task`` as it is before the first step, but for its average, which is already another."""
    like = jax.eval_shape(task.init, jax.random.key(0, impl="threefry2x32"))
    blank = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), (like.step, like.optimizer))
    key = jax.random.key(seed, impl="threefry2x32")
    return type(like)(blank[0], params(task.model, seed), params(task.model, seed + 1), blank[1], key)


def images(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def masks(model, key, shape):
    """The fire masks of one call, [steps, B, .., 1], straight from the coordinates, in numpy."""
    words = [word.reshape(-1, *[1] * len(shape)) for word in np.asarray(jax.random.key_data(key)).T]
    axes = [np.zeros((), np.uint32)] * (len(shape) % 2) + list(np.ogrid[tuple(map(slice, shape))])
    drawn = []
    for age in range(model.steps):
        here = textbook.threefry(*words, np.uint32(age), np.uint32(0))
        for c0, c1 in zip(axes[::2], axes[1::2], strict=True):
            here = textbook.threefry(*here, np.uint32(c0), np.uint32(c1))
        drawn.append((here[0] >> np.uint32(8)) * 2.0**-24 < np.float32(model.fire_rate))
    return np.stack(drawn)[..., None]


def config(**changes):
    """The config of a Diff-NCA that is built, trained and sampled in seconds, whole; ``changes`` by dotted path."""
    c = stated()
    c.update_from_flattened_dict(changes)
    return build.completed(c)


def stated():
    """What :func:`config` says of it."""
    c = ConfigDict()
    c.seed = 3
    c.model = {"name": "diff_nca", "channels": 8, "hidden": 16, "steps": 4, "norm": "cell", "start": "torch"}
    c.model.image_channels = 3
    c.codec = {"mean": (0.0,), "std": (1.0,), "block": 1}
    c.diffusion = {"name": "discrete", "schedule": "cosine", "timesteps": T, "prediction": "v"}
    c.task = {"name": "denoise", "loss": "l2", "ema": 0.9, "ema_warmup": True}
    c.optimizer = {"lr": 1e-3}
    c.data = {"name": "tissue", "patch": (16, 16)}
    c.train = {"steps": 4, "batch": 4}
    sample = {"sampler": "dpm_solver_pp", "steps": 4, "clip": "static", "n": 8, "batch": 4, "size": (16, 16)}
    c.sample = sample | {"large": (24, 40)}
    c.held = {"split": "test", "n": 8, "train": 12}
    scores = {"scores": {"every": 0, "metrics": ("swd", "drift", "neighbours")}}
    c.evals = scores | {"nearest": {"every": 0}, "films": {"every": 0}, "samplers": {"every": 0, "rows": ()}}
    c.mesh = {"data": 1, "space": 1}
    return c


def conditional(**changes):
    """The config of a GeCA that knows 3 grades."""
    c = stated()
    model = {"embed": 16, "heads": 2, "mlp": 16, "hidden": 4, "steps": 3, "classes": 3, "image_channels": 3}
    c.model = {"name": "geca"} | model
    c.diffusion.prediction = "eps"
    c.sample.update(sampler="ddpm", guidance=1.5, heredity="hidden", growth=(), labels=(), large=())
    c.evals.scores.metrics = ("drift",)
    tables = {"heredity": {"every": 0, "inherit": (), "guidance": ()}, "growth": {"every": 0, "steps": ()}}
    c.evals.update(tables | {"grades": {"every": 0}})
    c.update_from_flattened_dict(changes)
    return build.completed(c)


def graded():
    """Twelve images a split of 16 x 16, one colour for each of 3 grades."""

    def source(name):
        colours = np.eye(3, dtype=np.uint8)[np.random.default_rng(len(name)).integers(0, 3, 12)]
        images = np.broadcast_to(200 * colours[:, None, None] + 20, (12, 16, 16, 3))

        def row(i):
            label = colours[i].argmax(keepdims=True).astype(np.int32)
            return {"image": images[i], "label": label, "name": f"{name}{i}", "patient": f"{i}"}

        return Source(row, [(16, 16, 3)] * 12)

    return Splits({name: source(name) for name in ("train", "val", "test")}, ("grade",))


def splits(channels=3):
    """Smooth random fields, one 40 x 48 image a split."""
    rng = np.random.default_rng(0)

    def field(name):
        coarse = rng.integers(0, 256, (10, 12, channels), np.uint8)
        image = coarse.repeat(4, 0).repeat(4, 1)
        return Source(lambda _: {"image": image, "name": name, "patient": name}, [image.shape])

    return Splits({name: field(name) for name in ("train", "val", "test")})
