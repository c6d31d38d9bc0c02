"""The segmenting U-Net against the same layers in PyTorch, in two and three dimensions."""

import jax
import numpy as np
import pytest

from nca_gen.models.segment_unet import Model
from nca_gen.nn import port

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
F = torch.nn.functional


def network(s, x, levels, groups):
    """Logits [B, K, *S] of x [B, C, *S], from tensors by torch's names."""
    conv, pool = {4: (F.conv2d, F.avg_pool2d), 5: (F.conv3d, F.avg_pool3d)}[x.ndim]

    def block(x, name):
        for i in range(2):
            x = conv(x, s[f"{name}.conv{i}.weight"], padding=1)
            x = F.relu(F.group_norm(x, groups, s[f"{name}.norm{i}.weight"], s[f"{name}.norm{i}.bias"]))
        return x

    skips = []
    for level in range(levels - 1):
        skips.append(x := block(x, f"down_{level}"))
        x = pool(x, 2)
    x = block(x, "middle")
    for level in reversed(range(levels - 1)):
        x = conv(x, s[f"narrow_{level}.weight"], s[f"narrow_{level}.bias"])
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = block(torch.cat([x, skips[level]], 1), f"up_{level}")
    return conv(x, s["last.weight"], s["last.bias"])


@pytest.mark.slow
@pytest.mark.parametrize(("ndim", "size"), [(2, (16, 24)), (3, (8, 12, 4))])
def test_the_network(ndim, size):
    model = Model(4, image_channels=2, width=8, levels=3, groups=4, ndim=ndim)
    x = np.random.RandomState(0).standard_normal((2, *size, 2)).astype(np.float32)
    state = port.random_state(model.network, x, 1)
    params = port.variables(state, model.network, x)["params"]
    mine = np.asarray(jax.jit(model.apply)(params, x))
    with torch.no_grad():
        given = {name: torch.tensor(tensor) for name, tensor in state.items()}
        theirs = network(given, torch.tensor(np.moveaxis(x, -1, 1)), 3, 4)
    theirs = np.moveaxis(theirs.numpy(), 1, -1)
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).mean())
