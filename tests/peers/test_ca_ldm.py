"""CA-LDM's networks against PyTorch, with the same random weights under the authors' names: every number."""

import jax
import numpy as np
import pytest
import stack

from nca_gen.models import ca_ldm, unet
from nca_gen.nn import port

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
peer = pytest.importorskip("peers.torch_ca_ldm")
critic = pytest.importorskip("peers.torch_vae_kl")

SHAPES = {  # of what goes in, where the levels are more than those of the small network
    "encoder2d": (1, 16, 8, 1),
    "diff3d": (1, 8, 8, 8, 4),
    "refiner": (1, 8, 16, 4),
}
PLANAR = ("width", "multipliers", "blocks", "latent_channels", "groups", "image_channels")


def first(x):
    """Channels first, as torch has them; the slices of a window in the place of a batch."""
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def twin(name, model):
    """The peer's network; nothing is drawn."""
    fields = {field: value for field, value in vars(model).items() if field in PLANAR}
    with torch.device("meta"):
        if isinstance(model, unet.Model):
            inputs = model.image_channels + model.context_channels
            shape = model.width, model.multipliers, model.blocks, model.attention, model.heads, model.groups
            return peer.UNet(inputs, model.predicts, *shape, model.ndim)
        if name == "encoder2d":
            return peer.Encoder2D(**fields)
        if name in ("decoder2d", "multislice"):
            return peer.Decoder2D(**fields, slices=getattr(model, "slices", 0))
        if name == "encoder3d":
            del fields["blocks"]
            return peer.Encoder3D(**fields)
        if name == "uniaxial":
            return peer.Uniaxial(model.latent_channels, model.levels, model.groups)
        return critic.PatchDiscriminator(model.width, model.layers, model.image_channels)


def loaded(net, state):
    """``net`` with the tensors of ``state``, of which it takes every one."""
    empty = {name: torch.zeros(x.shape, dtype=x.dtype) for name, x in net.state_dict().items() if name not in state}
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in empty)
    net.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()} | empty, assign=True)
    return net


def theirs(name, model, state, x, t=None, cond=None):
    """The peer's answer, channels last."""
    net = loaded(twin(name, model), state)
    window = x.shape[:2] if name == "multislice" else ()
    x = x if cond is None else np.concatenate([x, cond["image"]], -1)
    x = first(x.reshape(-1, *x.shape[2:]) if window else x)
    with torch.no_grad():
        y = np.moveaxis((net(x) if t is None else net(x, torch.tensor(t))).numpy(), 1, -1)
    return y.reshape(*window, *y.shape[1:]) if window else y


def close(mine, theirs, tolerance=2e-5):
    np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance * theirs.std())


@pytest.mark.parametrize("name", stack.TINY)
def test_tiny(name):
    model = ca_ldm.model(name, **stack.TINY[name])
    close(stack.answer(name), theirs(name, model, stack.state(name, **stack.TINY[name]), *stack.given(name)))


@pytest.mark.parametrize("name", stack.TINY)
def test_names_of_the_published_size(name):
    """And the size of each tensor; nothing is drawn."""
    model = ca_ldm.NETWORKS[name]
    leaves = jax.tree.leaves_with_path(jax.eval_shape(model.init, jax.random.key(0)))
    ours = {stack.spelled(path, model): size for path, size in map(sized, leaves)}
    assert ours == {name: x.numel() for name, x in twin(name, model).named_parameters()}


def sized(item):
    """The name of a parameter as :mod:`nca_gen.nn.port` has it, and its size."""
    *path, leaf = (key.key for key in item[0])
    return ".".join((*path, port.LEAVES.get(leaf, leaf))), item[1].size


@pytest.mark.slow
@pytest.mark.parametrize("name", stack.TINY)
def test_published_size(name):
    """Up to 721 million parameters: takes 9 GB."""
    model, state, x = ca_ldm.NETWORKS[name], stack.state.__wrapped__(name), stack.given(name, 0, SHAPES.get(name, ()))
    expected = theirs(name, model, state, *x)
    params = ca_ldm.published(name, state)
    del state
    close(stack.call(model, params, *x), expected, 1e-4)  # in float64 both are as far off
