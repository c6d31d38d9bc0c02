"""LPIPS against the lpips package: its own factors, and seeded convolutions in place of a download."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from nca_gen.io import weights
from nca_gen.metrics import lpips
from nca_gen.metrics.notes import collecting

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
pytest.importorskip("peers.vision", reason="the peers need torchvision")
package = pytest.importorskip("lpips")


def heads(net):
    """The published factors, from the file that comes with the package."""
    return Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning", "ignore:Arguments other than:UserWarning")
@pytest.mark.parametrize("net", lpips.NETS)
def test_distances_of_every_layer(net):
    theirs = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = seeded.with_heads(lpips.NETS[net].trunk()) | weights.read(heads(net))
    trunk = {k: torch.tensor(state["features." + k.split(".", 1)[1]]) for k in theirs.net.state_dict()}
    theirs.net.load_state_dict(trunk)
    a, b = (x.astype(np.float32) / 127.5 - 1 for x in np.random.RandomState(0).randint(0, 256, (2, 3, 67, 50, 3)))
    with torch.no_grad():
        total, layers = theirs(*(torch.tensor(np.moveaxis(x, -1, 1)) for x in (a, b)), retPerLayer=True)
    ruler = lpips.ruler(net, state)
    between = jax.jit(lpips.between, static_argnums=0)
    np.testing.assert_allclose(between(net, ruler, jnp.asarray(a), jnp.asarray(b)), total.ravel(), rtol=1e-5)
    for i, layer in enumerate(layers):  # the others' factors are taken away
        alone = ruler._replace(heads=[h * (i == j) for j, h in enumerate(ruler.heads)])
        np.testing.assert_allclose(between(net, alone, jnp.asarray(a), jnp.asarray(b)), layer.ravel(), rtol=1e-5)


@pytest.mark.parametrize("net", lpips.NETS)
def test_the_published_factors_are_known(net, tmp_path):
    """By their hash: no note is made."""
    trunk = lpips.NETS[net].trunk()
    np.savez(tmp_path / f"{lpips.NETS[net].file}.npz", **seeded.state(trunk, 64))
    (tmp_path / f"{net}.pth").write_bytes(heads(net).read_bytes())
    x = np.zeros((2, 40, 40, 3), np.float32)
    with collecting() as notes:
        assert lpips.score(x, None, None, 0, net=net, weights=tmp_path)["lpips"] == 0
    assert notes == []
