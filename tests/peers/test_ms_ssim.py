"""Multi-scale SSIM against torchmetrics, on the images whose digits are frozen in image_pairs.py."""

import numpy as np
import pytest
from image_pairs import MS_SSIM, pairs

from nca_gen.metrics import ms_ssim

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
pytest.importorskip("peers.vision", reason="the peers need torchvision")
peer = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is the peer")

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", MS_SSIM)
def test_torchmetrics(shape):
    a, b = pairs(*shape)
    n = ms_ssim.scales(*shape[1:3])
    betas = tuple(float(w * sum(ms_ssim.WEIGHTS) / sum(ms_ssim.WEIGHTS[:n])) for w in ms_ssim.WEIGHTS[:n])

    def there(x):
        return torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2)

    found = peer.multiscale_structural_similarity_index_measure(
        there(a), there(b), data_range=255.0, betas=betas, reduction="none", normalize="relu"
    )
    np.testing.assert_allclose(found, MS_SSIM[shape], rtol=1e-7)
    np.testing.assert_allclose(ms_ssim.similarity(a, b), found, rtol=1e-7)  # the peer keeps its weights in float32
