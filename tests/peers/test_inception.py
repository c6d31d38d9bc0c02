"""The Inception network and the ways to its 299 pixels: torch-fidelity, pytorch-fid, clean-fid, StyleGAN3."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.metrics import features
from nca_gen.nn import inception, port, resize

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
vision = pytest.importorskip("peers.vision", reason="the peers need torchvision")

torch.set_num_threads(1)  # two images are not worth threads that wait busily while ours compute
SIZES = [(32, 32), (299, 299), (64, 48), (401, 350)]


@cache
def state():
    """Random weights as all peers load them, strictly: 566 tensors with the counters."""
    example = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    found = {k: torch.tensor(v) for k, v in port.random_state(inception.Inception(), example, 1).items()}
    counters = {k.replace("running_var", "num_batches_tracked") for k in found if k.endswith("running_var")}
    return found | dict.fromkeys(counters, torch.tensor(0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The same in a file that torch has written."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state(), path)
    return path


@cache
def fidelity():
    pytest.importorskip("torch_fidelity")
    return vision.fidelity_inception(inception.LAYERS, state())


@cache
def pytorch_fid():
    peer = pytest.importorskip("pytorch_fid.inception")
    load, peer.load_state_dict_from_url = peer.load_state_dict_from_url, lambda *_, **__: state()
    try:
        return peer.InceptionV3([0, 1, 2, 3], resize_input=True, normalize_input=True).eval()
    finally:
        peer.load_state_dict_from_url = load


def images(height, width):
    return np.random.RandomState(height + width).randint(0, 256, (2, height, width, 3), np.uint8)


def first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def last(x):
    return np.moveaxis(x.numpy(), 1, -1)


def close(mine, theirs, tolerance=2e-5):
    """Every feature, relative to itself or to the mean of its layer where it is smaller."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).mean())


def ours(name, x, weights):
    return features.extract(name, x.astype(np.float32) / 128 - 1, weights=weights)


def test_the_state_dict_is_that_of_torch_fidelity():
    assert len(fidelity().state_dict()) == len(state()) == 566
    assert sum(p.numel() for p in fidelity().parameters()) == 23_850_960


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_torch_fidelity(size, weights):
    with torch.no_grad():
        theirs = dict(zip(inception.LAYERS, fidelity()(first(images(*size))), strict=True))
    mine = ours("inception", images(*size), weights)
    for layer in inception.LAYERS:
        close(mine[layer], theirs[layer])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_pytorch_fid(size, weights):
    with torch.no_grad():
        theirs = pytorch_fid()(first(images(*size)) / 255)
    mine = ours("inception-pytorch", images(*size), weights)
    for layer, maps in zip(("64", "192", "768", "2048"), theirs, strict=True):
        close(mine[layer], maps.mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_clean_fid(size, weights):
    """Its network is a download; behind its resizing stands pytorch-fid's, which is given no more to do."""
    peer = pytest.importorskip("cleanfid.resize")
    resized = np.stack([peer.build_resizer("clean")(x) for x in images(*size)])
    np.testing.assert_array_equal(resize.clean(images(*size), 299), resized)
    with torch.no_grad():
        theirs = pytorch_fid()(first((resized / 128).astype(np.float32)) / 2)  # its own 2x - 1 comes on top
    mine = ours("inception-clean", images(*size), weights)
    close(mine["2048"], theirs[-1][:, :, 0, 0])


@pytest.mark.parametrize("size", SIZES)
def test_resizing(size):
    """Bilinear within float32's rounding of 255; at most 1e-4 of a pixel lies between the peers' own sums."""
    x = images(*size)
    tensor, pixels = first(x).float(), jnp.asarray(x, jnp.float32)
    half = torch.nn.functional.interpolate(tensor, (299, 299), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resize.half_pixel(pixels, 299), last(half), atol=2e-3)
    peer = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    theirs = peer.interpolate_bilinear_2d_like_tensorflow1x(tensor, (299, 299), align_corners=False)
    np.testing.assert_allclose(resize.tf1(pixels, 299), last(theirs), atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_stylegan_reads_where_tensorflow_does(size):
    """Its detector's own way: a grid moved by the half pixels that torch adds."""
    x, (height, width) = images(*size), size
    theta = torch.tensor([[[1.0, 0, 1 / width - 1 / 299], [0, 1, 1 / height - 1 / 299]]]).repeat(2, 1, 1)
    grid = torch.nn.functional.affine_grid(theta, [2, 3, 299, 299], align_corners=False)
    theirs = torch.nn.functional.grid_sample(first(x).float(), grid, padding_mode="border", align_corners=False)
    np.testing.assert_allclose(resize.tf1(jnp.asarray(x, jnp.float32), 299), last(theirs), atol=0.03)
