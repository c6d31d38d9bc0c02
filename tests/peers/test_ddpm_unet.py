"""The U-Net of Diff-NCA's rivals against diffusers' UNet2DModel, with its own random weights."""

import jax
import numpy as np
import pytest

from nca_gen.models import unet

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
pytest.importorskip("diffusers", reason="the peer is diffusers' UNet2DModel")
from peers import torch_ddpm_unet  # noqa: E402


@pytest.mark.parametrize("size", ["s", "m"])
def test_every_number_of_the_prediction(size):
    fields = {"s": ((1, 2), 1, ()), "m": ((1, 2, 4), 2, (4,))}[size]
    names = ("multipliers", "blocks", "attention")
    torch.manual_seed(0)
    net = torch_ddpm_unet.unet(width=32, head=8, image_channels=3, **dict(zip(names, fields, strict=True))).eval()
    x, t = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32), np.int32([3, 900])
    with torch.no_grad():
        theirs = np.moveaxis(net(torch.from_numpy(x), torch.from_numpy(t)).sample.numpy(), 1, -1)
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    model, params = unet.architecture(state), unet.published(state)
    mine = jax.jit(lambda p, x, t: model.apply(p, x, t, None, (), None)[0])(params, np.moveaxis(x, 1, -1), t)
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).mean())
