"""The yardstick of bench computes what we compute: output, loss and gradients, from the same weights and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays
from nca_gen.ca.fire import fires
from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.process import noised
from nca_gen.tasks.denoise import LOSSES

torch = pytest.importorskip("torch")
from peers import torch_diff_nca as peer  # noqa: E402  (it imports torch)

MODEL = tiny.diff(norm="group")
PARAMS = tiny.params(MODEL)
KEY, T = arrays.keys(0, 2), np.array([3, 9])
RNG = np.random.default_rng(0)
X0, EPS = (RNG.standard_normal((2, 10, 12, 3)).astype(np.float32) for _ in range(2))


def modules(net):
    """The peer's layers by our names."""
    pairs = {"embedding": net.embedding, "gate0": net.gate0, "gate1": net.gate1}
    ends = {f"{name}_{i}": pair[2 * i] for name, pair in pairs.items() for i in range(2)}
    return {"perceive": net.perceive, "fc0": net.fc0, "fc1": net.fc1} | ends


def theirs(v):
    """[*taps, in, out] -> [out, in, taps]."""
    v = np.asarray(v).reshape(*((1, 1) if v.ndim == 2 else v.shape[:2]), *v.shape[-2:])
    return v.transpose(3, 2, 0, 1)


@pytest.fixture(params=[False, True], ids=["gates once", "gates everywhere"])
def net(request):
    net = peer.DiffNCA(MODEL.channels, MODEL.hidden, MODEL.steps, MODEL.timesteps, maps=request.param)
    mine = PARAMS["image"]
    with torch.no_grad():
        for name, layer in modules(net).items():
            weight = layer.parametrizations.weight
            weight.original0.copy_(torch.tensor(np.asarray(mine[name]["g"])[:, None, None, None]))
            weight.original1.copy_(torch.tensor(theirs(mine[name]["v"])))
            layer.bias.copy_(torch.tensor(np.asarray(mine[name]["bias"])))
        net.norm.weight.copy_(torch.tensor(np.asarray(mine["norm_scale"])))
        net.norm.bias.copy_(torch.tensor(np.asarray(mine["norm_shift"])))
    return net


def test_calls_of_the_local_rule(net):
    """With the norm of each cell, in strips of a few columns, as bench times it."""
    local = tiny.diff(norm="cell", strip=50)
    net.norm = peer.CellNorm()
    mine = {name: layer for name, layer in PARAMS["image"].items() if not name.startswith("norm")}
    x = jnp.asarray(X0)
    prediction = jax.jit(lambda p: local.apply(p, x, jnp.asarray(T), None, (), KEY)[0])({"image": mine})
    with torch.no_grad():
        out = net(first(X0), torch.tensor(T), first(masks()))
    np.testing.assert_allclose(prediction, np.moveaxis(out.numpy(), 1, -1), rtol=1e-4, atol=1e-4)


def masks():
    fire = fires(KEY, MODEL.steps, arrays.coords(X0.shape[1:-1]), MODEL.fire_rate)
    return np.stack([np.asarray(fire(jnp.array(age))) for age in range(MODEL.steps)]).astype(np.float32)


def first(x):
    return torch.tensor(np.moveaxis(x, -1, -3))


def test_output_loss_and_gradients(net):
    process = Process("cosine", MODEL.timesteps)

    def objective(params):
        x = noised(process, jnp.asarray(X0), jnp.asarray(EPS), jnp.asarray(T))
        prediction = MODEL.apply(params, x, jnp.asarray(T), None, (), KEY)[0]
        return LOSSES["l1_l2"](prediction - EPS, jnp.ones((1, 1, 1, 1))), prediction

    (loss, prediction), grads = jax.value_and_grad(objective, has_aux=True)(PARAMS)
    t, fire = torch.tensor(T), first(masks())
    abar = torch.tensor(process.abar[T], dtype=torch.float32)[:, None, None, None]
    out = net(abar.sqrt() * first(X0) + (1 - abar).sqrt() * first(EPS), t, fire)
    np.testing.assert_allclose(prediction, np.moveaxis(out.detach().numpy(), 1, -1), rtol=1e-4, atol=1e-4)

    peer_loss = peer.objective(net, first(X0), t, first(EPS), fire)
    assert float(loss) == pytest.approx(peer_loss.item(), rel=1e-5)
    peer_loss.backward()

    def close(a, b):
        return np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * np.abs(b).max())

    for name, layer in modules(net).items():
        weight, mine = layer.parametrizations.weight, grads["image"][name]
        close(theirs(mine["v"]), weight.original1.grad.numpy())
        close(mine["g"], weight.original0.grad.numpy().ravel())
        close(mine["bias"], layer.bias.grad.numpy())
    close(grads["image"]["norm_scale"], net.norm.weight.grad.numpy())
    close(grads["image"]["norm_shift"], net.norm.bias.grad.numpy())
