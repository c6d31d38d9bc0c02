"""The denoising task against sums by hand: loss, times, steps, conditions."""

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays
from nca_gen.diffusion import variance
from nca_gen.diffusion.codec import Codec
from nca_gen.diffusion.continuous import Process as Continuous
from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.process import noised
from nca_gen.errors import UserError
from nca_gen.models import diff_nca, resolving_nca
from nca_gen.tasks import denoise
from nca_gen.tasks.learner import Learner


@dataclass(frozen=True)
class Linear:
    """The smallest denoiser: w x_t + b, per channel."""

    reads: int = 3
    ndim: int = 2
    conditions = MappingProxyType({})

    @property
    def predicts(self):
        return self.reads

    def inference(self):
        return self

    def init(self, key):
        return {"w": jnp.full(self.reads, 0.5, jnp.float32), "b": jnp.zeros(self.reads)}

    def apply(self, params, x, t, cond, memory, key, place=None):
        return params["w"] * x + params["b"], memory


def task(prediction="eps", learner=None, **fields):
    process = Process("cosine", tiny.T, prediction)
    return denoise.Task(Linear(), learner or Learner(lr=1e-2), process, Codec(), **fields)


def batch(n=4, size=8, channels=3):
    return jax.device_put({"image": np.tanh(tiny.images(0, n, size, size, channels))})


@partial(jax.jit, static_argnums=0)
def looked_at(mine, params, batch, key):
    shape = batch["image"].shape
    noise = arrays.cell_normal(key, -1, arrays.coords(shape[1:-1]), shape[-1])
    return mine.objective(params, batch, key), mine.process.draw(key[0], (len(key),)), noise


def objective(mine, batch, params=None):
    """The loss, and what it is of: the times of images whose keys are those of seed 1, and their noise in float64."""
    loss, t, noise = looked_at(mine, params or mine.model.init(None), batch, keys(1, len(batch["image"])))
    return float(loss), np.asarray(t), np.float64(noise)


def levels(process, t, ndim=4):
    """(a, s) of the indices ``t``, in float64, to be multiplied with images."""
    return [np.sqrt(v[t]).reshape(-1, *[1] * (ndim - 1)) for v in (process.abar, 1 - process.abar)]


def root():
    return jax.random.key(0, impl="threefry2x32")


keys = cache(arrays.keys)


@pytest.mark.slow
@pytest.mark.parametrize(("prediction", "loss"), [("eps", "l1_l2"), ("v", "l2"), ("x0", "l1")])
def test_loss_by_hand(prediction, loss):
    """x_t = a x0 + s eps with the noise of step -1 and the times of the keys; in float64."""
    mine, x0 = task(prediction, loss=loss), np.float64(batch()["image"])
    got, t, eps = objective(mine, batch())
    a, s = levels(mine.process, t)
    target = {"eps": eps, "x0": x0, "v": a * eps - s * x0}[prediction]
    d = 0.5 * (a * x0 + s * eps) - target
    expected = {"l2": np.mean(d**2), "l1": np.mean(np.abs(d))}
    expected["l1_l2"] = expected["l1"] + expected["l2"]
    assert got == pytest.approx(expected[loss], rel=1e-5)


@pytest.mark.slow
def test_an_automaton_that_knows_nothing_has_a_loss_of_1_80():
    """E eps^2 + E|eps| = 1 + sqrt(2 / pi); and exactly the sums over the noise that it was given."""
    model = tiny.diff(start="zero", steps=1)
    params = jax.tree.map(lambda x: x, tiny.params(model))
    params["image"]["fc1"] |= {"g": jnp.zeros(8), "bias": jnp.zeros(8)}
    mine = denoise.Task(model, Learner(lr=1e-3), Process("cosine", tiny.T), Codec())
    loss, _, eps = objective(mine, batch(8, 32), params)
    assert loss == pytest.approx(np.mean(eps**2) + np.mean(np.abs(eps)), rel=1e-6)
    assert abs(loss - 1.7979) < 4 * 2 / np.sqrt(eps.size)  # one pixel deviates by 2


@pytest.fixture(scope="module")
def course():
    """A task of five steps: the states before and after each."""
    mine = task(learner=Learner(lr=0.05, b1=0.8, b2=0.95, decay=0.9, weight_decay=0.1), ema=0.7)
    step, states = jax.jit(mine.step), [mine.init(root(), batch())]
    metrics = []
    for _ in range(5):
        state, m = step(states[-1], batch())
        states.append(state)
        metrics.append(m)
    return mine, states, metrics


@pytest.mark.slow
def test_a_step_is_adamw(course):
    """Kingma & Ba 2015 with the decoupled decay of Loshchilov & Hutter 2019, in numpy on the same gradients."""
    mine, states, metrics = course

    @jax.jit
    def by_hand(params, n):
        here = jax.random.fold_in(root(), n)
        key = jax.vmap(lambda i: jax.random.fold_in(here, i))(jnp.arange(4))
        return jax.value_and_grad(mine.objective)(params, batch(), key)

    m = v = {"w": np.zeros(3), "b": np.zeros(3)}
    for n, (before, after) in enumerate(pairwise(states)):
        loss, g = by_hand(before.params, n)
        rate = 0.05 * 0.9**n
        m = {k: 0.8 * m[k] + 0.2 * np.float64(g[k]) for k in g}
        v = {k: 0.95 * v[k] + 0.05 * np.float64(g[k]) ** 2 for k in g}
        for k, p in jax.device_get(before.params).items():
            step = m[k] / (1 - 0.8 ** (n + 1)) / (np.sqrt(v[k] / (1 - 0.95 ** (n + 1))) + 1e-8)
            np.testing.assert_allclose(after.params[k], p - rate * (step + 0.1 * p), rtol=1e-4, atol=1e-6)
        norm = np.sqrt(sum((np.float64(x) ** 2).sum() for x in g.values()))
        assert metrics[n] == pytest.approx({"loss": float(loss), "grad_norm": norm, "lr": rate}, rel=1e-5)


@pytest.mark.slow
def test_the_average_in_closed_form(course):
    """After n steps 0.7^n p_0 + 0.3 sum 0.7^(n - k) p_k: the parameters that sample."""
    mine, states, _ = course
    for k in ("w", "b"):
        p = np.stack([s.params[k] for s in states]).astype(np.float64)
        weights = 0.3 * 0.7 ** np.arange(5, -1, -1)
        weights[0] = 0.7**5
        np.testing.assert_allclose(mine.eval_params(states[-1])[k], weights @ p, rtol=1e-5)


@pytest.mark.slow
def test_the_average_warms_up():
    """A tenth of the start is left after one step."""
    mine = task(ema=0.99, ema_warmup=True)
    start = mine.init(root(), batch())
    after, _ = jax.jit(mine.step)(start, batch())
    expected = np.float32(0.1) * start.params["w"] + np.float32(0.9) * after.params["w"]
    np.testing.assert_allclose(after.ema["w"], expected, rtol=1e-6)


@pytest.mark.slow
def test_every_step_draws_anew_and_the_key_stays(course):
    _, states, metrics = course
    assert [int(s.step) for s in states] == [0, 1, 2, 3, 4, 5]
    assert len({float(m["loss"]) for m in metrics}) == 5
    for s in states:
        np.testing.assert_array_equal(jax.random.key_data(s.key), jax.random.key_data(root()))


def test_the_start():
    mine = task()
    state = mine.init(root(), batch())
    assert int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    leaves = jax.tree.leaves((state.params, state.ema))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)  # a donated state holds no buffer twice
    assert all(not np.any(x) for x in jax.tree.leaves(state.optimizer))


@pytest.mark.slow
def test_the_best_linear_denoiser_is_found():
    """Black images: x_t = s eps, so the best w is E[s] / E[s^2] for l2. Times are spread, so few steps suffice."""
    mine = task(learner=Learner(lr=0.05, decay=0.98), loss="l2", ema=0.5)
    black = jax.device_put({"image": np.zeros((12, 16, 16, 3), np.float32)})
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: mine.step(s, black), s, length=150))
    state, metrics = run(mine.init(root(), black))
    s = np.sqrt(1 - mine.process.abar)
    np.testing.assert_allclose(state.ema["w"], s.mean() / (s**2).mean(), rtol=0.01)
    least = 1 - s.mean() ** 2 / (s**2).mean()
    loss = np.asarray(metrics["loss"])
    assert float(loss[-20:].mean()) == pytest.approx(least, rel=0.1)
    assert float(loss[0]) > 2 * least


EASY = {"remat": "none", "fire_rate": 1.0}  # to compile


@pytest.mark.slow
@pytest.mark.parametrize("model", [tiny.diff(**EASY), tiny.fourier(steps=2, fourier_steps=2, **EASY)])
def test_an_automaton_learns(model):
    """Grey images: the noise can be read off, and the loss falls well below that of an automaton that knows nothing."""
    mine = denoise.Task(model, Learner(lr=3e-3, clip=1.0), Process("cosine", tiny.T), Codec())
    grey = {"image": np.full((4, 8, 8, 3), 0.2, np.float32)}
    state = tiny.state(mine)
    step, losses = jax.jit(mine.step), []
    for _ in range(60):
        state, metrics = step(state, grey)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-20:]) < 0.5 * 1.7979


@pytest.mark.slow
@pytest.mark.parametrize(("learns", "age"), [("target", 1), ("target", 0), ("end", 0)])
def test_what_young_cells_say_is_learned_too(learns, age):
    """By the frames of the growth of a call: at one age, or at one for each image; of the noise, or of their own end.

    That learns nothing of them: the gradient is the one with what it says held fast.
    """
    model = tiny.diff(steps=5, **EASY)
    process, x0, key = Process("cosine", tiny.T), batch(8)["image"], keys(1, 8)
    plain = denoise.Task(model, Learner(lr=1e-3), process, Codec())
    mine = replace(plain, young=0.25, young_age=age, young_learns=learns)
    ages = mine.ages(key)
    assert {*ages.tolist()} <= {1, 2, 3, 4} if not age else {*ages.tolist()} == {1}
    params, t = tiny.params(model), process.draw(key[0], (8,))
    eps = arrays.cell_normal(key, -1, arrays.coords((8, 8)), 3)

    def by_hand(params, end):
        frames = model.growth(params, noised(process, x0, eps, t), process.told(t), None, key)
        young = frames[ages, np.arange(8)] - (eps if learns == "target" else end)
        old = frames[-1] - eps
        both = [jnp.mean(d**2) + jnp.mean(jnp.abs(d)) for d in (old, young)]
        return both[0] + 0.25 * both[1], frames[-1]

    @jax.jit
    def compared(params):
        end = by_hand(params, eps)[1]
        found = jax.value_and_grad(mine.objective)(params, {"image": x0}, key)
        return found, jax.grad(by_hand, has_aux=True)(params, end)[0], by_hand(params, end)[0]

    (loss, slope), expected, value = compared(params)
    assert float(loss) == pytest.approx(float(value), rel=1e-5)
    scale = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5 * scale, rtol=1e-4), slope, expected)


def test_young_cells_are_those_of_automata():
    with pytest.raises(UserError, match=r"task\.young is for automata"):
        task(young=0.5)
    with pytest.raises(UserError, match=r"task\.young_age=4: the cells take 4 steps"):
        denoise.Task(tiny.diff(), Learner(lr=1e-3), Process("cosine", tiny.T), Codec(), young=0.5, young_age=4)


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 2])
def test_the_loss_is_of_standardised_blocks(block):
    """Standardising by (0.4, 2) is learning images standardised beforehand; blocks are but another order of pixels."""
    codec = Codec(mean=(0.4,), std=(2.0,), block=block)
    model, learner, process = Linear(3 * block**2), Learner(lr=1e-2), Process("cosine", tiny.T, "v")
    mine, plain = (denoise.Task(model, learner, process, code, loss="l2") for code in (codec, Codec()))
    params = mine.model.init(None)

    @jax.jit
    def losses(given, key):
        before = {"image": arrays.blocked((given["image"] - 0.4) / 2, block)}
        return mine.objective(params, given, key), plain.objective(params, before, key)

    found, expected = losses(batch(), keys(1, 4))
    assert float(found) == pytest.approx(float(expected))


@pytest.mark.slow
@pytest.mark.parametrize(("low", "block"), [(0, 1), (4, 2)])
def test_beyond_the_halo_no_cell_learns_from_a_border(low, block):
    """With a margin of the halo or more it does not matter what cells see beyond the sides; without it does."""
    kind = resolving_nca if low else diff_nca
    model = kind.Model(channels=40, hidden=16, steps=3, norm="cell", start="torch", image_channels=3 * block**2)
    fields = {"process": Process("cosine", tiny.T), "codec": Codec(block=block), "low": low}
    params, key = tiny.params(model), keys(1, 4)

    @jax.jit
    def losses(given):
        return [
            denoise.Task(model.bordered(border), Learner(), margin=margin, **fields).objective(params, given, key)
            for margin in (0, 4)
            for border in ("reflect", "wrap")
        ]

    without, beyond = np.reshape(losses(batch()), (2, 2))
    assert beyond[0] == pytest.approx(beyond[1], rel=1e-6)
    assert abs(without[0] - without[1]) > 1e-4 * without[0]


def test_a_margin_by_hand():
    """Pictures go on as their mirror images, in noise of their own; the loss is of what lies inside."""
    mine, size = task("v", loss="l2", margin=2), (12, 12)
    given = batch() | {"map": batch()["image"][..., :1], "label": jnp.eye(4)}
    x0 = np.pad(given["image"], [(0, 0), (2, 2), (2, 2), (0, 0)], "symmetric")
    larger = mine.continued(given)
    np.testing.assert_array_equal(larger["image"], x0)
    np.testing.assert_array_equal(larger["map"], x0[..., :1])
    np.testing.assert_array_equal(larger["label"], jnp.eye(4))
    eps = np.float64(arrays.cell_normal(keys(1, 4), -1, arrays.coords(size), 3))
    loss, t, _ = objective(mine, given)
    a, s = levels(mine.process, t)
    d = (0.5 * (a * x0 + s * eps) - (a * eps - s * x0))[:, 2:-2, 2:-2]
    assert loss == pytest.approx(np.mean(d**2), rel=1e-5)


def test_channels_must_fit():
    with pytest.raises(UserError, match=r"config\.model\.image_channels=1"):
        task().init(root(), batch(channels=1))


def test_unknown_loss():
    with pytest.raises(UserError, match="did you mean l1_l2"):
        task(loss="l1l2")


@dataclass(frozen=True)
class Told:
    """A denoiser that knows classes: w x_t + b of its class, and with ``learned`` a variance."""

    learned: bool = False
    reads: int = 3
    ndim: int = 2
    conditions = MappingProxyType({"label": 3})

    @property
    def predicts(self):
        return (1 + self.learned) * self.reads

    def inference(self):
        return self

    def init(self, key):
        return jax.device_put({"w": np.float32(0.5), "b": np.float32([1, 2, 3]), "v": np.float32(-0.4)})

    def apply(self, params, x, t, cond, memory, key, place=None):
        said = params["w"] * x + (cond["label"] @ params["b"])[:, None, None, None]
        return jnp.concatenate([said, params["v"] + 0 * x], -1) if self.learned else said, memory


def told(learned=False, loss="l2", **fields):
    return denoise.Task(
        Told(learned=learned), Learner(lr=1e-2), Process("cosine", tiny.T), Codec(), loss=loss, **fields
    )


GRADES = jax.device_put(np.array([[2], [0], [1], [2]], np.int32))


@pytest.mark.slow
def test_grades_reach_the_model():
    """Nothing dropped: w x + b of the grade, by hand; 0/1 columns say the same."""
    mine, x0 = told(drop=0.0), np.float64(batch()["image"])
    loss, t, eps = objective(mine, batch() | {"label": GRADES})
    a, s = levels(mine.process, t)
    d = 0.5 * (a * x0 + s * eps) + np.array([3, 1, 2, 3])[:, None, None, None] - eps
    assert loss == pytest.approx(np.mean(d**2), rel=1e-5)
    columns = np.eye(3, dtype=np.float32)[np.ravel(GRADES)]
    loss, *_ = objective(mine, batch() | {"label": columns})
    assert loss == pytest.approx(np.mean(d**2), rel=1e-5)


@pytest.mark.parametrize("kind", ["row", "entry"])
def test_what_is_dropped(kind):
    """A tenth of the images, or of the entries, each for itself: binomial, and another every step."""
    mine, n = told(label_drop=kind), 6000
    drop = jax.jit(lambda key: mine.dropped(mine.condition({"label": jnp.ones((n, 3))}), key)["label"])
    cond = np.stack([drop(keys(seed, n)) for seed in (0, 1)])
    assert set(np.unique(cond)) == {0, 1}
    whole = (cond == cond[..., :1]).all()
    assert whole == (kind == "row")
    drawn = cond[..., 0] if whole else cond
    assert abs(np.mean(drawn == 0) - 0.1) < 4 * np.sqrt(0.09 / drawn.size)
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 4 / np.sqrt(drawn[0].size)
    if not whole:  # with three labels at once there are fewer images without any
        assert np.mean(cond.sum(-1) == 0) < 0.01


@pytest.mark.slow
def test_the_bound_is_added():
    """Half the channels are the variance; the loss is the error of the others and the bound, in bits."""
    weights = (1.0, 0.25)
    plain, *learned = told(drop=0.0), *(told(learned=True, drop=0.0, vb=weight) for weight in weights)
    columns = jax.device_put(np.eye(3, dtype=np.float32)[np.ravel(GRADES)])

    @jax.jit
    def bits(params, given, key):
        x0, t = given["image"], plain.process.draw(key[0], (4,))
        x = noised(plain.process, x0, arrays.cell_normal(key, -1, arrays.coords((8, 8)), 3), t)
        said, _ = plain.model.apply(params, x, t, {"label": columns}, (), key)
        return variance.bits(plain.process, x0, x, said, jnp.full(x.shape, -0.4), t)

    @jax.jit
    def slopes(params, given, key):
        return [jax.value_and_grad(one.objective)(params, given, key) for one in (plain, *learned)]

    given = plain.model.init(None), batch() | {"label": GRADES}, keys(1, 4)
    bound = float(bits(*given))
    assert bound > 0
    (error, grads), *both = slopes(*given)
    for weight, (loss, slope) in zip(weights, both, strict=True):
        assert float(loss) - float(error) == pytest.approx(weight * bound, rel=1e-3)
        # What is said of the image learns from its error alone.
        np.testing.assert_allclose(slope["b"], grads["b"], rtol=1e-5)
        assert float(slope["v"]) != 0


def test_labels_must_fit():
    with pytest.raises(UserError, match=r"no labels; set --config\.model\.classes=0"):
        told().init(root(), batch())
    with pytest.raises(UserError, match=r"config\.model\.classes=2"):
        told().init(root(), batch() | {"label": np.ones((4, 2), np.float32)})
    with pytest.raises(UserError, match="did you mean entry"):
        told(label_drop="entri")


@pytest.mark.parametrize("channels", [3, 4])
def test_latents_are_images_of_other_channels(channels):
    mine = denoise.Task(Told(reads=4), Learner(lr=1e-2), Process("cosine", tiny.T), Codec())
    given = batch(channels=channels) | {"label": GRADES}
    if channels == 4:
        assert int(mine.init(root(), given).step) == 0
    else:
        with pytest.raises(UserError, match=r"config\.model\.image_channels=3"):
            mine.init(root(), given)


@dataclass(frozen=True)
class Beside:
    """A denoiser that is told of a picture and of its noise: x_t + w (picture + level), in any number of dimensions."""

    ndim: int = 2
    reads: int = 1
    conditions = MappingProxyType({"image": 1, "level": 1})

    @property
    def predicts(self):
        return self.reads

    def inference(self):
        return self

    def init(self, key):
        return jax.device_put({"w": np.float32(0.5)})

    def apply(self, params, x, t, cond, memory, key, place=None):
        level = cond["level"].reshape(-1, *[1] * (x.ndim - 1))
        return x + params["w"] * (cond["image"] + level) + 0 * t.reshape(level.shape), memory


def beside(shape, process, channels=1, **fields):
    """The task, and a batch whose context is 3 and whose level is 0.25 everywhere."""
    rng = np.random.default_rng(0)
    given = {"image": np.tanh(rng.standard_normal((4, *shape, channels))), "context": np.full((4, *shape, 1), 3.0)}
    given = {name: jax.device_put(np.float32(v)) for name, v in (given | {"level": np.full(4, 0.25)}).items()}
    return denoise.Task(Beside(len(shape)), Learner(), process, Codec(), loss="l2", **fields), given


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(12,), (4, 6), (4, 2, 3)])
@pytest.mark.parametrize("process", [Process("cosine", tiny.T, "v"), Continuous("straight", "velocity")])
def test_any_condition_on_any_grid_in_any_time(shape, process):
    """By hand, in one, two and three dimensions, in discrete time and on the straight path."""
    mine, given = beside(shape, process, drop=0.0)
    x0, state = np.float64(given["image"]), mine.init(root(), given)
    loss, t, eps = objective(mine, given, state.params)
    if isinstance(process, Continuous):
        s = np.float64(t).reshape(-1, *[1] * (x0.ndim - 1))
        a = 1 - s
    else:
        a, s = levels(process, t, x0.ndim)
    learnt = eps - x0 if isinstance(process, Continuous) else a * eps - s * x0
    d = a * x0 + s * eps + 0.5 * 3.25 - learnt
    assert loss == pytest.approx(np.mean(d**2), rel=1e-5)


@pytest.mark.slow
def test_the_weight_of_a_time_is_in_the_loss():
    """Of each image for itself."""
    process = Continuous("cosine", "v", gamma=2.0)
    mine, given = beside((4, 6), process, drop=0.0)
    plain = replace(mine, process=replace(process, gamma=0.0))

    @jax.jit
    def losses(params, key):  # of one image, the others being learned by heart; and of all
        def alone(i):
            return replace(plain, process=Lone(plain.process, i)).objective(params, given, key)

        weight = process.weight(process.draw(key[0], (4,)))
        return weight, jax.vmap(alone)(jnp.arange(4)), mine.objective(params, given, key)

    weight, each, got = losses({"w": 0.5}, keys(1, 4))
    assert float(got) == pytest.approx(float(np.dot(weight, each)), rel=1e-4)


@dataclass(frozen=True)
class Lone:
    """A process in whose loss there is but one image."""

    process: Continuous
    image: int

    def __getattr__(self, name):
        return getattr(self.process, name)

    def weight(self, t):
        return jnp.where(jnp.arange(len(t)) == self.image, 1.0, 0.0)


@pytest.mark.slow
def test_pictures_and_levels_are_dropped_together():
    """A row has all that it is told, or nothing."""
    mine, n = beside((2, 2), Process())[0], 600

    @jax.jit
    def drop(key):
        return mine.dropped(mine.condition({"context": jnp.ones((n, 2, 2, 1)), "level": jnp.ones(n)}), key)

    cond = jax.device_get(drop(keys(0, n)))
    np.testing.assert_array_equal(cond["image"].min((1, 2, 3)), cond["image"].max((1, 2, 3)))
    np.testing.assert_array_equal(cond["image"][:, 0, 0, 0], cond["level"])
    assert abs(np.mean(cond["level"] == 0) - 0.1) < 4 * np.sqrt(0.09 / n)


def test_a_picture_is_encoded_as_images_are():
    mine, given = beside((4, 4), Process())
    mine = replace(mine, codec=Codec(mean=(1.0,), std=(2.0,), block=2))
    cond = jax.jit(mine.condition)(given)
    assert cond["image"].shape == (4, 2, 2, 4)
    np.testing.assert_array_equal(cond["image"], 1)


def test_what_does_not_fit():
    """One clear line for another number of axes, a condition that is missing, one of other channels."""
    mine, given = beside((4, 6), Process())
    with pytest.raises(UserError, match="the images have 3 axes, this model takes 2"):
        mine.init(root(), given | {"image": np.zeros((4, 2, 4, 6, 1), np.float32)})
    with pytest.raises(UserError, match="no 'context', which is a condition of the model"):
        mine.init(root(), {"image": given["image"], "level": given["level"]})
    with pytest.raises(UserError, match="'context' has 2 channels, the model takes 1"):
        mine.init(root(), given | {"context": np.zeros((4, 4, 6, 2), np.float32)})
    with pytest.raises(UserError, match="a learned variance needs a discrete process"):
        denoise.Task(Told(learned=True), Learner(), Continuous(), Codec())


def test_a_task_is_a_static_argument():
    """Equal tasks are equal and hash alike, so compiled code is shared."""
    assert task() == task()
    assert hash(task()) == hash(task())
    assert task() != task(ema=0.5)
