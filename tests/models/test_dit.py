"""DiT against a plain numpy twin; the counts of DiT-S/2. What it shares with the U-Net is in test_rivals.py."""

from functools import partial

import jax
import numpy as np
import pytest
import rivals
import tiny

from nca_gen import arrays
from nca_gen.contracts import Place
from nca_gen.errors import UserError
from nca_gen.models import dit


@pytest.mark.slow
def test_32m_parameters():
    """11 classes; with the table of positions, which is not trained, 32,731,424."""
    tree = tiny.shapes(dit.Model(classes=11))
    trainable = sum(x.size for x in jax.tree.leaves(tree))
    assert trainable == 32_633_120
    table = jax.eval_shape(lambda: dit.positions(*[jax.numpy.arange(16)] * 2, 384))
    assert trainable + table.size == 32_731_424
    without = tiny.shapes(dit.Model())
    labels = (11 + 1) * 384 + (384 + 1) * 384
    assert trainable - sum(x.size for x in jax.tree.leaves(without)) == labels


def test_positions_by_hand():
    """8 features of row 2, column 5: w = 1, 0.01; sines and cosines of the column, then of the row."""
    table = jax.jit(dit.positions, static_argnums=2)(np.arange(3), np.arange(6), 8)
    angle = np.array([5, 0.05, 2, 0.02])
    (s5, c5), (s2, c2) = ((np.sin(a), np.cos(a)) for a in (angle[:2], angle[2:]))
    np.testing.assert_allclose(table[2 * 6 + 5], np.concatenate([s5, c5, s2, c2]), atol=1e-6)


def test_patches_and_back():
    x = np.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    cut = dit.patches(jax.numpy.asarray(x), 2)
    np.testing.assert_array_equal(cut[1, 4], x[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(dit.image(cut, 2, 4, 6), x)


def normed(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def twin(p, x, t, cond, heads, patch):
    """Patch by patch, block by block, in float64."""
    b, h, w, _ = x.shape
    d = p["patches"]["bias"].size
    c = rivals.silu(rivals.told(p["condition"], t, cond, 256))
    corners = [(i, j) for i in range(0, h, patch) for j in range(0, w, patch)]
    y = np.stack([x[:, i : i + patch, j : j + patch].reshape(b, -1) for i, j in corners], 1)
    y = rivals.affine(y, p["patches"])
    for n, (i, j) in enumerate(corners):
        for k in range(d // 4):
            row, column = (place / patch * 10000 ** (-k / (d // 4)) for place in (i, j))
            y[:, n, k :: d // 4] += [np.sin(column), np.cos(column), np.sin(row), np.cos(row)]
    for n in range(len(p["blocks"]["fc0"]["bias"])):
        q = jax.tree.map(lambda leaf, n=n: leaf[n], p["blocks"])
        s1, g1, a1, s2, g2, a2 = np.split(rivals.affine(c, q["condition"])[:, None], 6, -1)
        y = y + a1 * rivals.attention(q["attention"], normed(y) * (1 + g1) + s1, heads)
        u = rivals.affine(normed(y) * (1 + g2) + s2, q["fc0"])
        gelu = u / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        y = y + a2 * rivals.affine(gelu, q["fc1"])
    shift, scale = np.split(rivals.affine(c, p["last_condition"])[:, None], 2, -1)
    y = rivals.affine(normed(y) * (1 + scale) + shift, p["last"])
    out = np.empty((b, h, w, y.shape[-1] // patch**2))
    for n, (i, j) in enumerate(corners):
        out[:, i : i + patch, j : j + patch] = y[:, n].reshape(b, patch, patch, -1)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("patch", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_the_numpy_twin_agrees(patch):
    model, (x, t, cond) = rivals.small_dit(patch=patch), rivals.start(4, 6)
    params = tiny.params(model)
    expected = twin(rivals.wide(params), x, t, cond, model.heads, patch)
    assert np.abs(expected).max() > 0.1
    mine = rivals.call(model, params, x, t, cond)[0]
    np.testing.assert_allclose(mine, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_places_are_told_apart():
    """Constant images have answers that depend on the patch; elsewhere in a whole they are others."""
    model, (_, t, cond) = rivals.small_dit(), rivals.start(4, 6)
    params, x = tiny.params(model), np.ones((2, 4, 6, 3), np.float32)
    here, there = (
        rivals.call(model, params, x, t, cond, (), Place(arrays.coords((4, 6), at), (10, 8)))[0]
        for at in ((0, 0), (6, 2))
    )
    assert np.abs(here[:, :2, :2] - here[:, 2:, 2:4]).max() > 1e-3
    assert np.abs(here - there).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"width": 18, "heads": 2}, "multiple of 4 and of the 2 heads"),
        ({"width": 16, "heads": 3}, "multiple of 4 and of the 3 heads"),
    ],
)
def test_wrong_fields(changes, line):
    with pytest.raises(UserError, match=line):
        rivals.small_dit(**changes)


@pytest.mark.slow
def test_patches_must_fill_the_image():
    model, (x, t, cond) = rivals.small_dit(patch=4), rivals.start(4, 6)
    params = tiny.shapes(model)
    with pytest.raises(UserError, match="images of 4x6 have no whole number of 4x4 patches"):
        jax.eval_shape(partial(rivals.call, model), params, x, t, cond)
