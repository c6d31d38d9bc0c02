"""The yardstick of --mode=bench computes what we compute: same weights, same noise, same fire masks, same numbers."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays
from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.process import noised
from nca_gen.tasks.denoise import LOSSES

torch = pytest.importorskip("torch", reason="the peer needs PyTorch, the package does not")
from peers import torch_diff_nca  # noqa: E402

SIZE, B = (12, 17), 2


def ours():
    return tiny.diff(norm="group", channels=9, conv="split", remat="seen")


def copied(params, maps):
    """The peer, in float64, with our parameters."""
    model = torch_diff_nca.DiffNCA(9, 16, 4, tiny.T, maps=maps).double()
    for name, layer in params["image"].items():
        if isinstance(layer, dict):
            path, _, number = name.partition("_")
            theirs = getattr(model, path)[{"0": 0, "1": 2}[number]] if number else getattr(model, path)
            weight = theirs.parametrizations.weight
            weight.original0.data[:] = torch.tensor(np.asarray(layer["g"]))[:, None, None, None]
            weight.original1.data[:] = torch.tensor(outputs_first(layer["v"]))
            theirs.bias.data[:] = torch.tensor(np.asarray(layer["bias"]))
    model.norm.weight.data[:] = torch.tensor(np.asarray(params["image"]["norm_scale"]))
    model.norm.bias.data[:] = torch.tensor(np.asarray(params["image"]["norm_shift"]))
    return model


def outputs_first(kernel):
    """[*taps, I, O] -> [O, I, 3, 3] or [O, I, 1, 1]."""
    kernel = np.asarray(kernel, np.float64)
    return np.moveaxis(kernel.reshape(*(kernel.shape[:-2] or (1, 1)), *kernel.shape[-2:]), (-1, -2), (0, 1))


def gradient(model, params):
    """The peer's gradient in our shape."""

    def of(path, leaf):
        _, name, *part = (p.key for p in path)
        if not part:
            return {"norm_scale": model.norm.weight, "norm_shift": model.norm.bias}[name].grad.numpy()
        path, _, number = name.partition("_")
        layer = getattr(model, path)[{"0": 0, "1": 2}[number]] if number else getattr(model, path)
        weight = layer.parametrizations.weight
        theirs = {"g": weight.original0, "v": weight.original1, "bias": layer.bias}[part[0]].grad.numpy()
        if part[0] == "v":
            theirs = np.moveaxis(theirs, (0, 1), (-1, -2))
        return theirs.reshape(leaf.shape)

    return jax.tree.map_with_path(of, params)


@cache
def answers():
    """Ours: parameters, what the peer is given, and prediction, loss and gradient."""
    model, process = ours(), Process("cosine", tiny.T)
    params, key, t = tiny.params(model), arrays.keys(5, B), jnp.array([2, 9])
    x0, eps = (jnp.asarray(tiny.images(seed, B, *SIZE, 3)) for seed in (0, 1))

    def objective(params):
        prediction, _ = model.apply(params, noised(process, x0, eps, t), t, None, (), key)
        return LOSSES["l1_l2"](prediction - eps, jnp.ones((1, 1, 1, 1))), prediction

    (loss, prediction), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    given = [torch.tensor(np.moveaxis(np.asarray(a, np.float64), -1, 1)) for a in (x0, eps)]
    fire = torch.tensor(np.moveaxis(tiny.masks(model, key, SIZE), -1, 2).astype(np.float64))
    return params, (given[0], torch.tensor(np.asarray(t)), given[1], fire), np.asarray(prediction), float(loss), grads


@pytest.mark.parametrize("maps", [False, True])
def test_peer_and_ours_agree(maps):
    params, (x0, t, eps, fire), prediction, loss, grads = answers()
    peer = copied(params, maps)
    assert sum(p.numel() for p in peer.parameters()) == sum(p.size for p in jax.tree.leaves(params))
    abar = torch_diff_nca.cosine_abar(tiny.T)[t][:, None, None, None]
    theirs = peer(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, t, fire).detach().numpy()
    np.testing.assert_allclose(prediction, np.moveaxis(theirs, 1, -1), atol=2e-5 * np.abs(theirs).max())
    objective = torch_diff_nca.objective(peer, x0, t, eps, fire)
    assert loss == pytest.approx(objective.item(), rel=1e-5)
    objective.backward()
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))

    def close(a, b):
        return np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)

    jax.tree.map(close, grads, gradient(peer, params))


def test_the_peer_fires_nine_cells_of_ten():
    """Left to itself the peer fires nine cells of ten, each cell with all of its channels."""
    torch.manual_seed(0)
    peer = torch_diff_nca.DiffNCA(9, 16, 1)
    peer.fc1.bias.data[:] = 1.0  # fc1 is zero at the start: a step adds its bias where a cell fires
    out = peer(torch.zeros(4, 3, 40, 40), torch.zeros(4)).detach().numpy()
    assert set(np.unique(out)) == {0.0, 1.0}
    assert (out == out[:, :1]).all()
    assert out[:, 0].mean() == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 6400))
