"""Pictures of classes, by cells that inherit: against a loop by hand that asks each half for itself."""

from dataclasses import replace
from functools import partial

import blur
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals
import tiny
from painting import params, part, settings

from nca_gen import arrays
from nca_gen.diffusion import discrete, guidance, heredity, samplers
from nca_gen.diffusion.process import x0_of
from nca_gen.errors import UserError
from nca_gen.models.geca import Genes
from nca_gen.pipelines import sampling

MODEL, GECA = blur.Family(), tiny.cells()
PROCESS = discrete.Process("linear", tiny.T)
COND = {"label": jnp.eye(3)[np.array([2, 0, 1, 1])]}


def way(cond=COND, n=4, model=MODEL, frames=1, weights=None, **how):
    given = settings(**{"steps": 3, "clip": "none"} | how)
    whole = part(model, PROCESS, weights=weights)
    return list(sampling.trajectory(whole, arrays.keys(1, n), (8, 6), given, cond, frames=frames))


@partial(jax.jit, static_argnums=0)
def call(model, x, t, cond, memory, key):
    """A call of the model, on one half."""
    return model.apply(params(model), x, jnp.full(4, t), cond, memory, key)


@jax.jit
def keys(t):
    """Those of a step, for each half."""
    k = arrays.fold(arrays.keys(1, 4), t)
    return k, arrays.fold(k, guidance.NULL)


@jax.jit
def joined(given, null, x, k, t, u, scale):
    """The ancestral step of what both halves have said."""
    eps = null[..., :3] + scale * (given[..., :3] - null[..., :3])
    x0, z = x0_of(PROCESS, eps, x, jnp.full(4, t)), arrays.cell_normal(k, -1, arrays.coords((8, 6)), 3)
    return samplers.ddpm(PROCESS, samplers.begin(x), x0, t, u, z, given[..., 3:])


def by_hand(model, scale, kept, growth=(3, 3, 3)):
    """Steps 11 -> 6 -> 0 -> -1 with a memory for each half; the memories of the last step too."""
    x = samplers.initial_noise(arrays.keys(1, 4), (8, 6), 3)
    memories = [Genes(None, None)] * 2
    for t, u, steps in zip([11, 6, 0], [6, 0, -1], growth, strict=True):
        said, t, u = [], np.int32(t), np.int32(u)
        for half, (cond, key) in enumerate(zip((COND, jax.tree.map(jnp.zeros_like, COND)), keys(t), strict=True)):
            out, genes = call(replace(model, steps=steps), x, t, cond, memories[half], key)
            memories[half] = Genes(*(g if f in kept else None for f, g in zip(genes._fields, genes, strict=True)))
            said.append(out)
        x = joined(*said, x, keys(t)[0], t, u, scale)
    return x, memories


@pytest.mark.parametrize(
    ("model", "name", "kept", "scale"),
    [
        (GECA, "hidden", ("hidden",), 1.5),
        (MODEL, "none", (), 1.5),
        (MODEL, "out", ("out",), 2.0),
        (MODEL, "both", ("out", "hidden"), 1.5),
    ],
)
@pytest.mark.slow
def test_each_half_inherits_its_own(model, name, kept, scale):
    [end] = way(model=model, heredity=name, guidance=scale)
    x, memories = by_hand(model, scale, kept)
    np.testing.assert_allclose(end.x, x, atol=2e-4)
    assert isinstance(end.memory, Genes)
    for field, got in zip(Genes._fields, end.memory, strict=True):
        assert (got is not None) == (field in kept)
        if got is not None:
            for half, rows in zip(memories, (got[::2], got[1::2]), strict=True):
                np.testing.assert_allclose(rows, getattr(half, field), atol=2e-4)


@pytest.mark.slow
def test_without_guidance_there_is_one_half():
    [end] = way(heredity="both", guidance=1.0)
    assert end.memory.hidden.shape == (4, 8, 6, 4)
    [free] = way(cond=None, heredity="both", guidance=1.5)
    assert free.memory.hidden.shape == (4, 8, 6, 4)
    assert np.abs(end.x - free.x).max() > 1e-3


@pytest.mark.slow
def test_the_first_step_is_every_ones_own():
    """With nothing to inherit yet, one step is the same whatever will be kept; with more steps it matters."""
    ways = {name: [c.x for c in way(heredity=name, guidance=1.5, frames=3)] for name in heredity.KEPT}
    for first, *_ in ways.values():
        np.testing.assert_allclose(first, ways["none"][0], atol=1e-5)
    for name in ("hidden", "out", "both"):
        assert np.abs(ways[name][-1] - ways["none"][-1]).max() > 1e-4


@pytest.mark.slow
def test_a_picture_does_not_depend_on_its_batch():
    """Nor on the devices: 4 are dealt over 4, 2 over 2, and rows of cells over the rest; each keeps its class."""
    how = {"steps": 3, "clip": "none", "guidance": 1.5, "heredity": "hidden"}
    draw = partial(sampling.images, part(MODEL, PROCESS), size=(8, 6), settings=settings(**how))
    [whole] = draw(arrays.keys(1, 4), batch=4, cond=COND)
    np.testing.assert_allclose(whole, way(**how)[-1].x, atol=1e-4)
    pair, one = draw(arrays.keys(1, 3, 1), batch=2, cond=sampling.rows(COND, slice(1, 4)), space=2)
    np.testing.assert_allclose(pair, whole[1:3], atol=1e-4)
    np.testing.assert_allclose(one, whole[3:], atol=1e-4)


@pytest.mark.slow
def test_cells_may_grow_for_more_and_fewer_steps():
    [end] = way(heredity="hidden", guidance=1.5, growth=(2, 5, 3))
    np.testing.assert_allclose(end.x, by_hand(MODEL, 1.5, ("hidden",), (2, 5, 3))[0], atol=2e-4)
    [same], [own] = (way(heredity="hidden", guidance=1.5, growth=g) for g in ((3,), ()))
    np.testing.assert_array_equal(same.x, own.x)


@pytest.mark.slow
def test_pictures_in_another_dtype_than_the_model_has():
    [asked], [built], [own] = way(dtype="bfloat16"), way(model=replace(MODEL, dtype="bfloat16")), way()
    np.testing.assert_array_equal(asked.x, built.x)
    assert np.abs(asked.x - own.x).max() > 1e-4
    with pytest.raises(UserError, match=r"config\.model\.dtype .bfloat17.; did you mean bfloat16"):
        way(model=GECA, dtype="bfloat17")


@pytest.mark.slow
def test_how_large_the_hidden_state_becomes():
    """One number a picture on the way: the root of the mean of its squares, of both halves."""
    carries = way(heredity="hidden", guidance=1.5, frames=3)
    rms = sampling.hidden_rms(carries)
    expected = [np.sqrt(np.mean(np.float64(c.memory.hidden) ** 2)) for c in carries]
    np.testing.assert_allclose(rms, expected, rtol=1e-5)
    assert len(set(rms)) == 3
    forgotten = Genes(carries[0].memory.hidden, None)
    assert sampling.hidden_rms([c._replace(memory=forgotten) for c in carries]) == []
    assert sampling.hidden_rms([c._replace(memory=()) for c in carries]) == []


@pytest.mark.slow
def test_growth_ends_where_a_call_ends():
    x, t, key = jnp.asarray(tiny.images(0, 4, 8, 6, 3)), jnp.full(4, 4), arrays.keys(0, 4)

    @jax.jit
    def implied(p, x):
        said, born = MODEL.apply(p, x, t, COND, (), key)[0], MODEL.newborn(x, key).out
        return [x0_of(PROCESS, out[..., :3], x, t) for out in (born, said)]

    film, (first, last) = (
        sampling.growth(part(MODEL, PROCESS).task, params(MODEL), x, t, key, COND),
        implied(params(MODEL), x),
    )
    assert film.shape == (MODEL.steps + 1, 4, 8, 6, 3)
    np.testing.assert_allclose(film[-1], last, atol=1e-4)
    np.testing.assert_allclose(film[0], first, atol=1e-5)


def test_classes_take_turns():
    turn = lambda labels, n, first=0: sampling.conditions(MODEL, labels, n, first)["label"].argmax(1).tolist()
    assert turn((), 5) == [0, 1, 2, 0, 1]
    assert turn((), 3, 4) == [1, 2, 0]
    assert turn((2, 0), 5) == [2, 0, 2, 0, 2]
    assert sampling.conditions(tiny.diff(), (), 5) is None


@pytest.mark.parametrize(
    ("model", "how", "said"),
    [
        (MODEL, {"heredity": "hiden"}, "config.sample.heredity 'hiden'; did you mean hidden"),
        (tiny.diff(), {"heredity": "hidden"}, "hands nothing on; set it to none"),
        (rivals.small_unet(), {"growth": (3,)}, "leave it empty"),
    ],
)
def test_what_a_model_cannot_do(model, how, said):
    with pytest.raises(UserError, match=said):
        way(cond=None, model=model, weights={}, **how)


@pytest.mark.parametrize(("model", "said"), [(MODEL, "0 to 2"), (tiny.diff(), "none")])
def test_a_class_that_is_unknown(model, said):
    with pytest.raises(UserError, match=f"has 3; the classes of this model are {said}"):
        sampling.conditions(model, (1, 3) if said != "none" else (3,), 4)
