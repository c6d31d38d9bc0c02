"""FID-2.5D and its network against the same steps in PyTorch, on small volumes and random weights."""

import numpy as np
import pytest
import seeded

from nca_gen.io.volumes import Volumes
from nca_gen.metrics import features, fid, fid_25d
from nca_gen.metrics.notes import collecting
from nca_gen.nn import port, resnet

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
F = torch.nn.functional


def network(state, x):
    """Keras's ResNet-50 without a head, as RadImageNet's is: the first convolution of a block strides, all have
    biases, epsilon is 1.001e-5. ``x`` [B, 3, H, W] to the layers."""
    s = {name: torch.tensor(tensor) for name, tensor in state.items()}

    def conv(x, name, stride=1, padding=0):
        return F.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], stride, padding)

    def norm(x, name):
        parts = [s[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=1.001e-5)

    out, x = {}, F.max_pool2d(F.relu(norm(conv(x, "conv1", 2, 3), "bn1")), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for i in range(blocks):
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = F.relu(norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
            y = F.relu(norm(conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2"))
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1") if i == 0 else x
            x = F.relu(x + y)
        out[f"layer{stage}"] = x
    return out | {"pool": x.mean((2, 3))}


@pytest.mark.slow
def test_the_network():
    state, x = seeded.state(resnet.radimagenet50(), 35), seeded.images(35)
    with torch.no_grad():
        theirs = network(state, torch.tensor(np.moveaxis(x, -1, 1)))
    mine = seeded.layers(resnet.radimagenet50(), 35)
    assert set(mine) == set(theirs)
    for layer, y in mine.items():
        other = np.moveaxis(theirs[layer].numpy(), 1, -1)
        np.testing.assert_allclose(y, other, rtol=1e-4, atol=1e-4 * np.abs(other).mean())


def planes(volume, state):
    """Features of the central slices of ``volume`` [X, Y, Z] in three planes, in the order of the script."""
    x = volume[None, None].repeat(1, 3, 1, 1, 1)[:, [2, 1, 0]]
    found = []
    for axis in (4, 2, 3):
        n = x.shape[axis]
        some = torch.cat(x.unbind(axis)[int(0.3 * n) : int(0.7 * n)])
        some = (some - some.min()) / (some.max() - some.min() + 1e-10)
        some = some - torch.tensor([0.406, 0.456, 0.485])[:, None, None]
        found.append(network(state, some)["pool"])
    return found


@pytest.mark.slow
def test_the_distance(monkeypatch, tmp_path):
    """Volumes of half a millimetre, resampled by torch's own grid_sample and padded by torch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rng = np.random.default_rng(0)
    real, fake = (rng.uniform(-1, 1, (3, 25, 29, 21, 1)).astype(np.float32) for _ in range(2))
    net = resnet.radimagenet50()
    state = port.random_state(net, np.zeros((1, 224, 224, 3), np.float32), features.SEED)
    shape = (13, 17, 12)  # D, H, W: as it is, padded, and after (21 - 1) / 2 + 1 = 11 padded by one

    def theirs(x):
        rows = [[], [], []]
        for v in x:
            v = torch.tensor(v[..., 0].transpose(2, 1, 0).copy())
            axes = [torch.linspace(-1, 1, (n + 1) // 2) for n in v.shape]
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)[None]
            v = F.grid_sample(v[None, None], grid, "bilinear", align_corners=True)[0, 0]
            pads = [(n - side, (n - side) // 2) for n, side in zip(shape[::-1], v.shape, strict=True)]
            v = F.pad(v, [p for whole, first in pads[::-1] for p in (first, whole - first)], value=-1)
            with torch.no_grad():
                for row, some in zip(rows, planes(v, state), strict=True):
                    row.append(some.numpy())
        return [fid.statistics(np.concatenate(row)) for row in rows]

    def opened(x):
        n = len(x)
        return Volumes(lambda i: x[i], (x.shape[1:],) * n, str(x.sum()), ("",) * n, (), ((500.0,) * 3,) * n)

    with collecting():
        mine = fid_25d.score(opened(fake), opened(real), None, 0, shape=shape, extractor="radimagenet-random")
        each = [fid.distance(r, g)["fid"] for r, g in zip(theirs(real), theirs(fake), strict=True)]
    assert [mine[f"fid_25d_{plane}"] for plane in ("xy", "yz", "zx")] == pytest.approx(each, rel=2e-3)
    assert mine["fid_25d"] == pytest.approx(np.mean(each), rel=2e-3)
