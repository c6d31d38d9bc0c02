"""The yardstick of bench computes what we compute: output, loss and gradients, from the same weights and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays
from nca_gen.models.geca import Model

torch = pytest.importorskip("torch")
from peers import torch_geca as peer  # noqa: E402  (it imports torch)

FIELDS = {"hidden": 5, "embed": 16, "heads": 2, "mlp": 24, "steps": 3, "classes": 3}
MODEL = Model(**FIELDS, image_channels=2)
PARAMS = tiny.params(MODEL)
KEY, T = arrays.keys(0, 2), np.array([3, 800])
LABELS = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
X0, EPS = (tiny.images(seed, 2, 6, 5, 2) for seed in range(2))


def layers(net, tree):
    """Pairs of the peer's layers and our parameters."""
    time, label, block, last = tree["condition"]["time"], tree["condition"]["label"], tree["block"], tree["last"]
    yield from [(net.time.layers[0], time["fc0"]), (net.time.layers[2], time["fc1"])]
    yield from [(net.label[0], label["fc0"]), (net.label[1], label["fc1"])]
    yield from [(net.embedding, tree["embedding"]), (net.condition[1], block["condition"])]
    yield from [(net.norm0, block["norm0"]), (net.norm1, block["norm1"])]
    yield from [(net.attention.qkv, block["qkv"]), (net.attention.proj, block["proj"])]
    yield from [(net.mlp[0], block["fc0"]), (net.mlp[2], block["fc1"])]
    yield from [(net.last_condition[1], last["condition"]), (net.last, last["linear"])]


def theirs(layer):
    """Our leaves of a layer as the peer has them."""
    return {"weight" if k in ("kernel", "scale") else "bias": np.array(v).T for k, v in layer.items()}


def first(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1))


def test_output_loss_and_gradients():
    net = peer.GeCA(2, **FIELDS)
    assert sum(p.numel() for p in net.parameters()) == sum(x.size for x in jax.tree.leaves(PARAMS))
    with torch.no_grad():
        for layer, mine in layers(net, PARAMS):
            for name, value in theirs(mine).items():
                getattr(layer, name).copy_(torch.tensor(value))
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[T][:, None, None, None].astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def objective(params):
        x = jnp.asarray(abar**0.5 * X0 + (1 - abar) ** 0.5 * EPS)
        noise, fraction = jnp.split(
            MODEL.apply(params, x, jnp.asarray(T), {"label": jnp.asarray(LABELS)}, (), KEY)[0], 2, -1
        )
        return jnp.mean(jnp.square(noise - EPS)) + jnp.mean(jnp.square(fraction))

    loss, grads = objective(PARAMS)
    fire = torch.tensor(tiny.masks(MODEL, KEY, (6, 5))[..., 0])
    born = first(MODEL.newborn(jnp.asarray(X0), KEY).out)
    said = peer.objective(net, first(X0), torch.tensor(T), first(EPS), torch.tensor(LABELS), born, fire)
    assert float(loss) == pytest.approx(said.item(), rel=1e-4)
    said.backward()
    for layer, mine in layers(net, grads):
        for name, value in theirs(mine).items():
            other = getattr(layer, name).grad.numpy()
            np.testing.assert_allclose(value, other, rtol=2e-3, atol=2e-4 * np.abs(other).max())


def test_as_many_parameters_as_published():
    assert sum(p.numel() for p in peer.GeCA().parameters()) == 13_312_584
