"""The yardstick: the U-Net of imagen-pytorch 1.18.5, of which URCDM's cascades are made, and its training step.

Imports nothing of nca_gen. `python torch_efficient_unet.py '{"model": {...}, ...}'` times training steps, or calls of
the network; see :func:`main`.
"""

import contextlib
import json
import sys

import torch

MULTIPLE = 2.0  # channels inside of a feed-forward layer, by those outside


def unet(
    width,
    multipliers,
    blocks,
    attention,
    cross_attention,
    efficient,
    heads,
    head,
    context_channels,
    low_resolution,
    image_channels=3,
):
    """imagen-pytorch's U-Net by the fields of `nca_gen.models.efficient_unet.Model`; it has a text part besides."""
    from imagen import Unet  # beside this file, where a script finds it

    def levels(value):
        return tuple(value) if isinstance(value, list | tuple) else value

    return Unet(
        dim=width,
        dim_mults=levels(multipliers),
        num_resnet_blocks=levels(blocks),
        layer_attns=levels(attention),
        layer_cross_attns=levels(cross_attention),
        attn_heads=heads,
        attn_dim_head=head,
        ff_mult=MULTIPLE,
        memory_efficient=efficient,
        init_conv_to_final_conv_residual=efficient,
        channels=image_channels,
        cond_images_channels=context_channels,
        lowres_cond=low_resolution,
        cond_on_text=False,
    )


def main(case):
    """Times training steps (the noise of a random level, Adam, EMA), or calls; see ``timed`` in torch_diff_nca.

    ``case``: kind ("train", or "call" for a forward pass alone, as in sampling), size (of a square image), batch, model
    (a dict: what :func:`unet` takes).
    """
    from torch_diff_nca import Trainer, timed

    torch.manual_seed(0)
    fields, n = case["model"], case["batch"]
    with contextlib.redirect_stdout(sys.stderr):  # it gives advice there
        net = unet(**fields)

    def picture(channels):
        return torch.rand(n, channels, case["size"], case["size"]) * 2 - 1

    x0, told = picture(net.channels), {}
    if fields["context_channels"]:
        told["cond_images"] = picture(fields["context_channels"])
    if fields["low_resolution"]:
        told |= {"lowres_cond_img": picture(net.channels), "lowres_noise_times": torch.zeros(n)}

    def objective(net, x0):
        eps, log_snr = torch.randn_like(x0), torch.rand(n) * 20 - 10
        a2 = log_snr.sigmoid()[:, None, None, None]
        return (net(a2.sqrt() * x0 + (1 - a2).sqrt() * eps, log_snr, **told) - eps).square().mean()

    if case["kind"] == "train":
        trainer = Trainer(net, objective, lr=1e-4, decay=1.0, ema=0.9999, clip=1.0)
        timed(lambda: trainer.step(x0))
    net.eval()
    with torch.no_grad():
        timed(lambda: net(x0, torch.zeros(n), **told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
