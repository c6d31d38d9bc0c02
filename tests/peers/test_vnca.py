"""VNCA against PyTorch, of the same weights: moments, cells, likelihood, and the gradient of the bound."""

import doubling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.tasks.autoencode import divergence

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
peer = pytest.importorskip("peers.torch_vnca")

MODEL = doubling.SMALL
PARAMS = doubling.params()


def first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def last(y):
    return np.moveaxis(y.detach().numpy(), 1, -1)


def layers(net):
    """The peer's layers by our names."""
    pairs = {f"residual.layer{i}.{side}": getattr(one, side) for i, one in enumerate(net.residual) for side in ENDS}
    rule = {f"rule.{name}": layer for name, layer in ({"perceive": net.perceive, "last": net.last} | pairs).items()}
    return rule | {f"encoder.conv{i}": conv for i, conv in enumerate(net.convs)} | {"encoder.linear": net.linear}


ENDS = ("first", "second")


def torchs(name, kernel):
    """[*taps, in, out] -> [out, in, *taps]; the places of what is flattened come after its channels."""
    kernel = np.asarray(kernel)
    if name == "encoder.linear":
        width = MODEL.widths[-1]
        return kernel.reshape(-1, width, kernel.shape[-1]).transpose(2, 1, 0).reshape(kernel.shape[-1], -1)
    kernel = kernel[None, None] if kernel.ndim == 2 else kernel
    return kernel.transpose(3, 2, 0, 1)


def of(tree, name):
    for key in name.split("."):
        tree = tree[key]
    return tree


@pytest.fixture
def net():
    fields = {
        name: vars(MODEL)[name] for name in ("latent", "hidden", "residuals", "widths", "seed", "doublings", "steps")
    }
    net = peer.VNCA(**fields)
    with torch.no_grad():
        for name, layer in layers(net).items():
            mine = of(PARAMS, name)
            layer.weight.copy_(torch.tensor(np.ascontiguousarray(torchs(name, mine["kernel"]))))
            layer.bias.copy_(torch.tensor(np.asarray(mine["bias"])))
    return net


def test_the_network_and_the_gradient_of_the_bound(net):
    image, z0 = doubling.image(), doubling.noise()

    def bound(params):
        mean, logvar = MODEL.encode(params, image)
        cells = MODEL.outputs(params, mean + jnp.exp(logvar / 2) * z0)
        likelihood = MODEL.log_likelihood(cells, image)
        return (likelihood - divergence(mean, logvar)).mean(), (mean, logvar, cells, likelihood)

    (value, found), grads = jax.jit(jax.value_and_grad(bound, has_aux=True))(PARAMS)
    mean, logvar = net.encode(first(image))
    z = mean + (logvar / 2).exp() * torch.tensor(np.asarray(z0[:, 0, 0]))
    cells = net(z)
    likelihood = peer.log_likelihood(cells, first(image))
    kl = (mean.square() + logvar.exp() - 1 - logvar).sum(1) / 2
    theirs = (likelihood - kl).mean()
    theirs.backward()
    expected = mean.detach().numpy(), logvar.detach().numpy(), last(cells), likelihood.detach().numpy()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.reshape(a, b.shape), b, rtol=1e-4, atol=1e-4 * np.abs(b).max())
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    for name, layer in layers(net).items():
        mine = of(grads, name)
        for a, b in ((torchs(name, mine["kernel"]), layer.weight.grad), (mine["bias"], layer.bias.grad)):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-3, atol=1e-3 * np.abs(b.numpy()).max())
