"""A stage of a cascade, which is told a smaller image: what that is, what noise it has, and that it helps."""

import json
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays, build
from nca_gen.contracts import Part
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.continuous import Process
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import sample, sampling
from nca_gen.tasks import denoise
from nca_gen.tasks.learner import Learner
from nca_gen.verbs import export_sampler
from nca_gen.verbs.describe_work import examples
from nca_gen.verbs.train import train

ALPHA, SIGMA = 0.818690, 0.574236  # of the linear schedule at 0.2, as published for URCDM


@dataclass(frozen=True)
class Stage:
    """w x_t + v low, or without a smaller image w x_t, and no more."""

    conditions = MappingProxyType({"label": 2, "low": 1, "low_log_snr": 1})
    ndim: int = 2
    reads: int = 1

    @property
    def predicts(self):
        return self.reads

    def inference(self):
        return self

    def init(self, key):
        return jax.device_put({"w": np.float32(0.0), "v": np.float32(1.0)})

    def apply(self, params, x, t, cond, memory, key, place=None):
        return params["w"] * x + params["v"] * cond["low"], memory


@dataclass(frozen=True)
class Blind(Stage):
    """The same cells without it."""

    conditions = MappingProxyType({})

    def apply(self, params, x, t, cond, memory, key, place=None):
        return params["w"] * x, memory


class Surrounded(Stage):
    """Cells that are told what is around them."""

    conditions = MappingProxyType({"context": 4})


class Ear(Stage):
    """Remembers what it is told."""

    def apply(self, params, x, t, cond, memory, key, place=None):
        self.__dict__["heard"] = x, cond
        return x, memory


def task(model=Stage(), low=4, codec=Codec(), **fields):  # noqa: B008
    process = Process("cosine", "x0", clock="log_snr")
    return denoise.Task(model, Learner(lr=0.05), process, codec, low=low, loss="l2", **fields)


def batch(n, *sides, channels=1):
    image = np.tanh(tiny.images(0, n, *sides, channels))
    return jax.device_put({"image": image, "label": np.eye(2, dtype=np.float32)[np.arange(n) % 2]})


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(8,), (8, 12), (4, 8, 4)])
def test_the_smaller_image_in_numpy(sides):
    """Means of blocks, in place of each of their pixels; standardised, and in cells, as the image is."""
    given, mine = batch(2, *sides, channels=2), task(codec=Codec(mean=(0.5, -1.0), std=(2.0, 4.0)))
    image, expected = np.float64(given["image"]), np.empty(given["image"].shape)
    for at in np.ndindex(*(n // 4 for n in sides)):
        block = (slice(None), *(slice(4 * i, 4 * i + 4) for i in at))
        expected[block] = image[block].mean(tuple(range(1, len(sides) + 1)), keepdims=True)
    expected = (expected - [0.5, -1.0]) / [2.0, 4.0]
    np.testing.assert_allclose(mine.condition(given)["low"], expected, atol=1e-6)
    cells = replace(mine, codec=replace(mine.codec, block=2)).condition(given)["low"]
    np.testing.assert_allclose(arrays.unblocked(cells, 2), expected, atol=1e-6)


def test_surroundings_are_encoded_as_images_are():
    mine = task(Surrounded(), low=0, codec=Codec(mean=(1.0,), std=(2.0,), block=2))
    context = mine.condition({"image": jnp.zeros((2, 4, 4, 1)), "context": jnp.full((2, 4, 4, 1), 3.0)})["context"]
    assert context.shape == (2, 2, 2, 4)
    np.testing.assert_array_equal(context, 1)


@pytest.mark.slow
def test_reduced_is_the_way_back():
    small = tiny.images(0, 2, 3, 4, 2)
    np.testing.assert_allclose(arrays.reduced(arrays.enlarged(jnp.asarray(small), 3), 3), small, atol=1e-6)


@pytest.mark.slow
def test_in_training_the_noise_is_of_any_time_and_is_never_dropped():
    """Of 512 images, white ones: a white smaller image by a, and noise by s, of the log-SNR that is told beside."""
    n, model = 512, Ear()
    mine, given = task(model, drop=0.5), batch(n, 4, 4) | {"image": jnp.ones((n, 4, 4, 1))}

    @jax.jit
    def run(given, key):
        mine.objective({}, given, key)
        return *model.__dict__.pop("heard"), mine.process.draw(key[0], (n,))

    x, cond, times = jax.device_get(run(given, arrays.keys(1, n)))
    ratio = np.float64(cond["low_log_snr"])
    a, s = (np.sqrt(1 / (1 + np.exp(sign * ratio)))[:, None, None, None] for sign in (-1, 1))
    noise = (cond["low"] - a) / s
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)
    t = np.sqrt((np.log1p(np.exp(-ratio)) - 1e-4) / 10)  # the linear schedule, backwards
    assert abs(np.sort(t) - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)  # Kolmogorov's one in a thousand
    most = 4 / np.sqrt(n)
    assert abs(np.corrcoef(t, times)[0, 1]) < most
    assert abs(np.corrcoef(noise.ravel(), x.ravel())[0, 1]) < most
    assert 0.4 < np.mean(cond["label"].sum(1) == 0) < 0.6


def part(guidance=1.0):
    """A stage that says: the image is the smaller one, as it was told."""
    sample = {"sampler": "ddim", "steps": 1, "guidance": guidance}
    return Part({}, task(), {"w": np.float32(0.0), "v": np.float32(1.0)}), sampling.Settings(**sample)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_in_sampling_it_is_that_of_a_fifth_of_the_time_and_of_the_sample(guidance):
    """In any batch, on any device; and it is guided by labels alone, as it is told to both halves."""
    stage, settings = part(guidance)
    n, cond = 4, stage.task.condition(batch(4, 32, 32))
    draw = partial(sampling.images, stage, size=(32, 32), settings=settings)
    [whole] = draw(arrays.keys(1, n), cond=cond, batch=n)
    noise = whole - ALPHA * np.asarray(cond["low"])
    assert abs(noise.std() - SIGMA) < 4 * SIGMA / np.sqrt(2 * noise.size)
    assert abs(np.corrcoef(noise.ravel(), np.ravel(cond["low"]))[0, 1]) < 4 / np.sqrt(noise.size)
    [last] = draw(arrays.keys(1, 1, 3), cond=sampling.rows(cond, slice(3, 4)), batch=1)
    np.testing.assert_allclose(last[0], whole[3], atol=1e-6)
    told = sampling.augmented(stage.task, cond, arrays.keys(1, n))
    np.testing.assert_allclose(told["low_log_snr"], 2 * np.log(ALPHA / SIGMA), rtol=1e-4)
    np.testing.assert_allclose(told["low"], whole, atol=1e-5)


@pytest.mark.slow
def test_a_smaller_image_helps():
    """Blocks of black or white, of which a smaller image says all: two gains leave less of them than one does.

    Of x_t and of the smaller image, in independent noise of any time, least squares leave 1 - p and
    1 - (p + q - 2 p q) / (1 - p q), where p and q are the squares of the mean signal of both.
    """
    given = {"image": np.repeat(np.sign(tiny.images(0, 16, 4, 1, 1)), 4, 1).repeat(4, 2)}
    given = jax.device_put(given | {"label": np.zeros((16, 2), np.float32)})

    @partial(jax.jit, static_argnums=0)
    def losses(mine, given):
        state = mine.init(jax.random.key(0, impl="threefry2x32"))
        return jax.lax.scan(lambda s, _: mine.step(s, given), state, length=100)[1]["loss"]

    told, untold = (float(losses(mine, given)[-40:].mean()) for mine in (task(), task(Blind(), low=0)))
    t = (np.arange(1000) + 0.5) / 1000
    p, q = (np.mean(a) ** 2 for a in (np.cos(np.pi / 2 * (t + 0.008) / 1.008), np.exp(-(1e-4 + 10 * t**2) / 2)))
    assert untold == pytest.approx(1 - p, rel=0.02)
    assert told == pytest.approx(1 - (p + q - 2 * p * q) / (1 - p * q), rel=0.02)
    assert told < untold


def test_what_does_not_fit():
    with pytest.raises(UserError, match=r"^task\.low=0, and the model is told a smaller image: say how many"):
        task(low=0)
    with pytest.raises(UserError, match=r"^task\.low=2, and the model is told no smaller image: set task\.low to 0"):
        task(Blind(), low=2)
    with pytest.raises(UserError, match=r"task\.low must be 0, or at least 2; got 1"):
        task(low=1)
    with pytest.raises(UserError, match=r"task\.low=4 does not divide an image of \(4, 6\)"):
        task().check(batch(2, 4, 6))
    with pytest.raises(UserError, match="'low' has 2 channels, the model takes 1"):
        task(Stage(reads=2)).check(batch(2, 4, 4, channels=2))
    stage, settings = part()
    with pytest.raises(UserError, match="this model only resolves a smaller image, and there is none"):
        list(sampling.images(stage, arrays.keys(1, 1), (4, 4), settings, {"label": jnp.ones((1, 2))}))


def small():
    """The config of a stage of URCDM's kind, a tiny one."""
    c = tiny.stated()
    c.model = {"name": "efficient_unet", "width": 8, "multipliers": (1,), "blocks": 1, "heads": 1, "head": 8}
    c.model.update(efficient=True, low_resolution=True, attention=False, cross_attention=False)
    c.diffusion = {"name": "continuous", "prediction": "v", "clock": "log_snr"}
    c.task = {"name": "denoise", "loss": "l2", "low": 4}
    c.data = {"name": "spots", "patch": (16, 16), "size": 16, "patients": 10}
    c.train = {"steps": 2, "batch": 4, "log_every": 1}
    c.sample.update(steps=2, large=(), n=4)
    c.held = {"n": 4, "train": 8}
    c.evals = {"scores": {"every": 2, "metrics": ("drift",)}}
    return build.completed(c)


def test_it_draws_nothing_alone(tmp_path):
    """One line of --mode=generate and of --mode=export; training does not refuse, but for a picture of another size."""
    config = small()
    stage = Part(config, build.task(config), {})
    alone = sample.Pipeline({"model": stage})
    for verb in (lambda: alone.write(tmp_path), lambda: export_sampler.serialized(alone, (16, 16))):
        with pytest.raises(UserError, match=r"only resolves a smaller image, .* by itself it draws nothing") as error:
            verb()
        assert "\n" not in str(error.value)
    sampling.check(config, stage.task)
    config.sample.large = (32, 32)
    with pytest.raises(UserError, match=r"config\.sample\.large is of no use"):
        sampling.check(config, stage.task)


def test_describe_gives_it_no_field_of_its_own():
    shapes = {name: x.shape for name, x in examples(task(), 2, (8, 8)).items()}
    assert shapes == {"image": (2, 8, 8, 1), "label": (2, 2)}


@pytest.mark.slow
def test_a_stage_of_urcdm_is_trained_and_evaluated(tmp_path):
    train(small(), tmp_path)
    folder = tmp_path / "eval" / "00000002"
    assert "drift" in json.loads((folder / "scores.json").read_text())["scores"]
    assert images.read(folder / "samples.png").std() > 1
