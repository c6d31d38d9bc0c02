"""What becomes of a volume: a transposed convolution written out, and borders that say nothing of their own."""

import jax
import numpy as np
import pytest
import tiny

from nca_gen.nn import port, volumes


def drawn(network, shape, seed=0):
    like = jax.ShapeDtypeStruct(shape, np.float32)
    return port.variables(port.random_state(network, like, seed), network, like)


def transposed(x, kernel, bias, strides=(2, 1, 1)):
    """torch's: every voxel adds its kernel [out, in] at ``strides`` times its place; 3 of all that came of it are cut
    off around.

    ``x`` [d, h, w, C] has its border repeated already: once, and twice before axes of stride 1.
    """
    y = np.zeros((*(n * (side - 1) + 4 for side, n in zip(x.shape, strides, strict=False)), kernel.shape[-2]))
    for at in np.ndindex(x.shape[:3]):
        here = tuple(slice(n * i, n * i + 4) for i, n in zip(at, strides, strict=True))
        y[here] += np.einsum("zyxoi,i->zyxo", kernel, x[at])
    return y[3:-3, 3:-3, 3:-3] + bias


@pytest.mark.slow
def test_twice_as_many_slices_voxel_by_voxel():
    """Where the block behind says nothing: 3 slices of 2 x 4 become 6."""
    network = volumes.Uniaxial(1, 1, 3, np.float32)
    z = tiny.images(0, 1, 3, 2, 4, 3)
    p = drawn(network, z.shape)["params"]
    p["conv_blocks.0.res"]["conv2.conv"] = jax.tree.map(np.zeros_like, p["conv_blocks.0.res"]["conv2.conv"])
    mean, deviation = (of(z[0], (0, 1, 2)) for of in (np.mean, np.std))  # three groups of three channels
    y = (z[0] - mean) / np.sqrt(deviation**2 + 1e-6) * p["final_block.0"]["scale"] + p["final_block.0"]["bias"]
    y = np.pad(y / (1 + np.exp(-y)), ((1, 1), (2, 1), (2, 1), (0, 0)), mode="edge")
    expected = transposed(y, **p["conv_blocks.0.up.convt"])
    assert expected.shape == (6, 2, 4, 3)
    np.testing.assert_allclose(jax.jit(network.apply)({"params": p}, z)[0], expected, atol=1e-5)


@pytest.mark.parametrize("strides", [(2, 2, 2), (1, 2, 1)])
def test_several_voxels_of_one(strides):
    """To another number of channels."""
    network = volumes.Doubling(3, strides, np.float32)
    x = np.pad(tiny.images(0, 1, 3, 2, 4, 2), ((0, 0), *volumes.around(strides), (0, 0)), mode="edge")
    p = drawn(network, x.shape)
    expected = transposed(x[0], **p["params"], strides=strides)
    assert expected.shape == (*np.multiply((3, 2, 4), strides), 3)
    np.testing.assert_allclose(jax.jit(network.apply)(p, x)[0], expected, atol=1e-5)


@pytest.mark.slow
def test_equal_voxels_stay_equal_up_to_the_border():
    """But for the end of the encoder, which pads with zeros, and slices, which are made two by two.

    Of a half, whose products are exact: norms of equal voxels make much of what is rounded.
    """
    encoder, equal = volumes.Encoder((4, 4, 8), 1, 4, 2, np.float32), np.full((1, 16, 16, 16, 1), 0.5, np.float32)
    z = np.asarray(jax.jit(encoder.apply)(drawn(encoder, equal.shape), equal))[0]
    assert z.shape == (4, 4, 4, 4)
    assert np.ptp(z[1:-1, 1:-1, 1:-1], (0, 1, 2)).max() < 1e-5
    assert np.abs(z[0, 1, 1] - z[1, 1, 1]).max() > 1e-2

    finer, equal = volumes.Uniaxial(1, 1, 2, np.float32), np.full((1, 4, 3, 5, 4), 0.5, np.float32)
    y = np.asarray(jax.jit(finer.apply)(drawn(finer, equal.shape), equal))[0]
    assert np.ptp(y, (1, 2)).max() < 1e-5
    assert np.abs(y[3] - y[4]).max() > 1e-2
