"""URCDM's networks against imagen-pytorch's U-Net, with the same random weights: every number of the prediction."""

import cascade
import numpy as np
import pytest

from nca_gen.models import efficient_unet
from nca_gen.nn import port

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
imagen = pytest.importorskip("peers.imagen", reason="the peer is imagen-pytorch 1.18.5", exc_type=ImportError)


def first(x):
    """As the peer has it; numbers, one an image, as they are."""
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim > 1 else x))


def peer(model):
    """The U-Net of imagen-pytorch, which has a text part besides."""
    return imagen.Unet(
        dim=model.width,
        dim_mults=model.multipliers,
        num_resnet_blocks=model.blocks,
        layer_attns=model.attention,
        layer_cross_attns=model.cross_attention,
        attn_heads=model.heads,
        attn_dim_head=model.head,
        ff_mult=2.0,
        memory_efficient=model.efficient,
        init_conv_to_final_conv_residual=model.efficient,
        cond_images_channels=model.context_channels,
        lowres_cond=model.low_resolution,
        cond_on_text=False,
    ).eval()


def compared(model, side):
    """Both on the same images, after every tensor but those of text went from the peer's names to ours."""
    state = port.random_state(model.network, model.example(), 0)
    x, log_snr, cond = cascade.inputs(model, side)
    theirs = answer(model, state, x, log_snr, cond)
    params = efficient_unet.published(state)
    del state  # of a network of 3 GB
    mine = cascade.call(model, params, x, log_snr, cond)
    np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-4 * np.abs(theirs).mean())


def answer(model, state, x, log_snr, cond):
    """The peer's prediction."""
    with torch.device("meta"):  # nothing is drawn
        net = peer(model)
    text = {name: torch.zeros(tensor.shape) for name, tensor in net.state_dict().items() if name not in state}
    assert all(name.startswith(("attn_pool.", "null_text_")) for name in text)
    net.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in state.items()} | text, assign=True)
    names = {"context": "cond_images", "low": "lowres_cond_img", "low_log_snr": "lowres_noise_times"}
    told = {names[field]: first(value) for field, value in cond.items()}
    with torch.no_grad():
        return np.moveaxis(net(first(x), first(log_snr), **told).numpy(), 1, -1)


@pytest.mark.parametrize("kind", cascade.TINY)
def test_tiny(kind):
    compared(efficient_unet.Model(**cascade.TINY[kind]), 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", cascade.KINDS)
def test_published_width(kind):
    """Up to 690 million parameters: takes 8 GB."""
    compared(efficient_unet.Model(**cascade.KINDS[kind], context_channels=cascade.CONTEXT), 32)
