"""The yardstick: diffusers' UNet2DModel and its training step on PyTorch. Imports nothing of nca_gen.

`python torch_ddpm_unet.py '{"model": {...}, ...}'` times training steps, or calls of the network; see :func:`main`.
"""

import json
import sys

import torch


def unet(width, multipliers, blocks, attention, head, image_channels):
    """diffusers' network by the fields of `nca_gen.models.unet.Model`."""
    from diffusers import UNet2DModel

    attends = [2**level in attention for level in range(len(multipliers))]
    return UNet2DModel(
        in_channels=image_channels,
        out_channels=image_channels,
        block_out_channels=tuple(width * m for m in multipliers),
        layers_per_block=blocks,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        attention_head_dim=head,
    )


def main(case):
    """Times training steps (L2 + L1 of the noise, Adam, EMA), or calls; see ``timed`` in torch_diff_nca.

    ``case``: kind ("train", or "call" for a forward pass alone, as in sampling), size (of a square image), batch, model
    (a dict: what :func:`unet` takes, and whether it is ``compiled`` by torch.compile).
    """
    from torch_diff_nca import Trainer, cosine_abar, timed

    torch.manual_seed(0)
    fields, n, levels = dict(case["model"]), case["batch"], 300
    compiled, abar = fields.pop("compiled"), cosine_abar(levels)
    net = unet(**fields)
    x0 = torch.rand(n, fields["image_channels"], case["size"], case["size"]) * 2 - 1
    call = torch.compile(net) if compiled else net

    def objective(_, x0):
        eps, t = torch.randn_like(x0), torch.randint(levels, x0.shape[:1])
        a = abar[t][:, None, None, None]
        d = call(a.sqrt().to(x0.dtype) * x0 + (1 - a).sqrt().to(x0.dtype) * eps, t).sample - eps
        return d.square().mean() + d.abs().mean()

    if case["kind"] == "train":
        trainer = Trainer(net, objective, lr=3e-5, decay=1.0)
        timed(lambda: trainer.step(x0))
    net.eval()
    with torch.no_grad():
        timed(lambda: call(x0, torch.zeros(n, dtype=torch.long)).sample)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
