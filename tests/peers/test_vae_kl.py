"""The KL autoencoder and the critic against PyTorch, through files with diffusers' names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from nca_gen.io import weights
from nca_gen.models import vae_kl
from nca_gen.nn import port
from nca_gen.nn.patch_discriminator import PatchDiscriminator

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
peer = pytest.importorskip("peers.torch_vae_kl")

SMALL = {"width": 16, "multipliers": (1, 2, 2), "layers": 1, "groups": 8}


def first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def last(y):
    return np.moveaxis(y.detach().numpy(), 1, -1)


def loaded(net, state):
    net.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, assign=True)
    return net


def former(state):
    """The names of diffusers before 0.18, with 1 x 1 convolutions."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    found = {}
    for name, x in state.items():
        mine = next((n for n in names if f".{n}." in name), None)
        found[name.replace(mine, names[mine]) if mine else name] = x[..., None, None] if mine and x.ndim == 2 else x
    return found


def compared(tmp_path, size, tolerance, **fields):
    """Encoder and decoder of both, on what a file holds."""
    model = vae_kl.Model(**fields)
    with torch.device("meta"):
        net = peer.AutoencoderKL(**fields)
    state = port.random_state(model.network, model.network.example(), 0)
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == {k: v.shape for k, v in state.items()}
    weights.write(tmp_path / "sd.safetensors", former(state))
    params, net = model.load(tmp_path / "sd.safetensors"), loaded(net, state)
    x = np.clip(seeded.images(size, 2), -1, 1)
    z = np.random.RandomState(1).standard_normal((2, size // model.factor, size // model.factor, 4)).astype(np.float32)
    with torch.no_grad():
        theirs = *net.encode(first(x)), net.decode(first(z))
    mine = *jax.jit(model.encode)(params, x), jax.jit(model.decode)(params, z)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, last(b), rtol=tolerance, atol=tolerance * np.abs(last(b)).mean())


def test_small(tmp_path):
    compared(tmp_path, 24, 1e-4, **SMALL)


@pytest.mark.slow
def test_published_size(tmp_path):
    compared(tmp_path, 32, 1e-3)


def test_critic():
    """Logits and, through the batch's own moments, the gradient of the image."""
    network, x = PatchDiscriminator(8), seeded.images(40, 3)
    state = port.random_state(network, x[:1], 0)
    net = peer.PatchDiscriminator(8)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name in state:
                value.copy_(torch.tensor(state[name]))
    given = first(x).requires_grad_()
    logits = net(given)
    logits.square().sum().backward()
    params = port.variables(state, network, x[:1])
    value, grad = jax.jit(jax.value_and_grad(lambda x: jnp.square(network.apply(params, x)).sum()))(x)
    np.testing.assert_allclose(value, logits.detach().square().sum(), rtol=1e-4)
    np.testing.assert_allclose(grad, last(given.grad), atol=1e-4 * np.abs(grad).max())
