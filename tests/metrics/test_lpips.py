"""LPIPS against the lpips package's digits and its invariants, and diversity against a loop; more in tests/peers."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.metrics import lpips
from nca_gen.metrics.notes import collecting

# lpips 0.1.4 with the weights below, of two pairs of images of 8 bits.
DIGITS = {"alex": (0.9420037, 0.8919008), "vgg": (0.7554157, 0.7646739), "squeeze": (0.8324686, 0.8374789)}
PIXELS = np.random.RandomState(5).randint(0, 256, (2, 2, 40, 37, 3), np.uint8)
SET = images.to_float(np.random.RandomState(6).randint(0, 256, (6, 40, 37, 3), np.uint8))
apart = jax.jit(lpips.between, static_argnums=0)  # of two pairs of one size: compiled once for a network


def state(net="alex"):
    return seeded.with_heads(lpips.NETS[net].trunk())


@cache
def ruler(net="alex"):
    return lpips.ruler(net, state(net))


def pair(x):
    return x / np.float32(127.5) - 1


@pytest.fixture
def folder(tmp_path):
    """Weights of AlexNet as two files."""
    heads = {k: v for k, v in state().items() if k.startswith("lin")}
    trunk = {k: v for k, v in state().items() if k not in heads}
    np.savez(tmp_path / "alexnet-owt-7be5be79.npz", **trunk, **{"classifier.1.bias": np.zeros(4096)})
    np.savez(tmp_path / "alex.npz", **heads)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("net", ["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)])
def test_distances_have_the_digits_of_lpips(net):
    np.testing.assert_allclose(apart(net, ruler(net), *map(pair, PIXELS)), DIGITS[net], rtol=1e-5)


@pytest.mark.slow
def test_a_distance_is_symmetric_and_zero_between_equals():
    a, b = map(pair, PIXELS)
    np.testing.assert_allclose(apart("alex", ruler(), a, b), apart("alex", ruler(), b, a), rtol=1e-6)
    np.testing.assert_array_equal(apart("alex", ruler(), a, a), 0)


@pytest.mark.slow
def test_the_gradient_is_a_number_where_nothing_is_seen():
    """Biases that let nothing through any ReLU: no direction has a length."""
    blind = {k: v - 1e3 * k.endswith("bias") for k, v in state().items()}

    @jax.jit
    @jax.grad
    def slope(a, b, ruler):
        return lpips.between("alex", ruler, a, b).sum()

    np.testing.assert_array_equal(slope(*map(pair, PIXELS), lpips.ruler("alex", blind)), 0)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [2, 32])
def test_diversity_is_of_consecutive_pairs(pairs, monkeypatch):
    """However many are looked at together: here 2, 2, 1, or all 5."""
    monkeypatch.setattr(lpips, "PAIRS", pairs)
    x = (images.from_float(SET)[np.random.default_rng(3).permutation(6)] / np.float32(127.5)) - 1
    pairs_of_two = [np.asarray(apart("alex", ruler(), x[i : i + 2], x[i + 1 : i + 3])) for i in (0, 2, 3)]
    expected = np.concatenate([*pairs_of_two[:2], pairs_of_two[2][1:]])
    np.testing.assert_allclose(lpips.statistics(SET, 3, ruler()), expected, rtol=1e-5)


@pytest.mark.slow
def test_equal_images_are_not_diverse():
    np.testing.assert_array_equal(lpips.statistics(np.repeat(SET[:1], 6, 0), 0, ruler()), 0)


@pytest.mark.slow
def test_one_channel_is_repeated():
    grey = SET[..., :1]
    np.testing.assert_array_equal(
        lpips.statistics(grey, 0, ruler()), lpips.statistics(np.repeat(grey, 3, -1), 0, ruler())
    )


@pytest.mark.slow
def test_score(folder):
    """Mean, population deviation, interval; the weights are not the published ones, and that is said."""
    with collecting() as notes:
        scores = lpips.score(SET, None, None, 3, weights=folder)
    expected = lpips.statistics(SET, 3, ruler())
    assert list(scores) == ["lpips", "lpips_std", "lpips_low", "lpips_high"]
    assert scores["lpips"] == pytest.approx(expected.mean(), rel=1e-6)
    assert scores["lpips_std"] == pytest.approx(expected.std(), rel=1e-5)
    assert expected.min() <= scores["lpips_low"] < scores["lpips"] < scores["lpips_high"] <= expected.max()
    assert notes == ["lpips: the SHA-256 of alex.npz is not that of the published alex.pth of version 0.1"]
    assert list(lpips.protocol("alex", folder)["weights"]) == ["alexnet-owt-7be5be79.npz", "alex.npz"]


@pytest.mark.parametrize(
    ("net", "of", "message"),
    [
        ("alex", SET[:1], "at least 2 images but got 1"),
        ("alex", SET[:0], "at least 2 images but got 0"),
        ("alex", SET[:, :30], r"31 pixels a side, not 30 x 37 .*vgg from 16"),
        ("alex", SET[..., :2], "1 or 3 channels"),
        ("alex", np.full_like(SET, np.nan), "NaN"),
    ],
)
def test_what_cannot_be_scored(net, of, message):
    with pytest.raises(UserError, match=message):
        lpips.statistics(of, 0, ruler(net), net)


@pytest.mark.slow
@pytest.mark.parametrize("net", lpips.NETS)
def test_the_smallest_image(net):
    """A pixel less, and a network has nothing left to look at."""
    least, make = lpips.NETS[net].smallest, lpips.NETS[net].trunk
    sizes = []
    for side in (least - 1, least):
        try:
            shapes = jax.eval_shape(
                lambda x: make().init_with_output(jax.random.key(0), x)[0],
                jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
            )
            sizes.append(min(y.size for y in jax.tree.leaves(shapes)))
        except Exception:
            sizes.append(0)
    assert sizes[0] == 0 < sizes[1]


def test_weights_that_are_not_there(folder):
    (folder / "alex.npz").unlink()
    with pytest.raises(UserError, match=r"no alex.pth .*lpips/weights/v0.1/alex.pth \(licence: BSD 2-Clause\)"):
        lpips.load("alex", folder)
    with pytest.raises(UserError, match="no vgg16-397923af"):
        lpips.load("vgg", folder)
    with pytest.raises(UserError, match="did you mean alex"):
        lpips.load("alexnet", folder)


def test_weights_of_another_network():
    weights = state()
    with pytest.raises(UserError, match=r"lack features\.0\.weight"):
        lpips.ruler("alex", {k: v for k, v in weights.items() if k != "features.0.weight"})
    with pytest.raises(UserError, match="lack lin1 with the 192 factors of relu2"):
        lpips.ruler("alex", weights | {"lin1.model.1.weight": weights["lin0.model.1.weight"]})
