"""CA-LDM's networks in plain PyTorch, with the module names of the authors' weights; written from the paper's facts.

`python torch_ca_ldm.py '{"model": {...}, ...}'` times training steps, or calls, of a U-Net; see :func:`main`.
"""

import json
import sys
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class Level(nn.Module):
    """A bag of modules by name."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


class Resnet(nn.Module):
    """``slices``: the batch is so many neighbours, which an adaptor mixes."""

    def __init__(self, a, b, groups, slices):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, a, 1e-6), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, b, 1e-6), nn.Conv2d(b, b, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(a, b, 1) if a != b else nn.Identity()
        self.slices = slices
        if slices:
            self.norm3d, self.conv3d = nn.GroupNorm(groups, b, 1e-6), nn.Conv3d(b, b, 3, padding=1)
            self.mix_factor_3d = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        x = self.nin_shortcut(x) + y
        if not self.slices:
            return x
        return mixed(x, lambda v: self.conv3d(F.silu(self.norm3d(v))), self.mix_factor_3d, self.slices)


def mixed(x, part, factor, slices):
    """Slices are depth: [N k, C, h, w] as [N, C, k, h, w]."""
    volume = x.unflatten(0, (-1, slices)).transpose(1, 2)
    y = part(volume).transpose(1, 2).flatten(0, 1)
    a = factor.sigmoid()
    return a * y + (1 - a) * x


class Attention(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, c, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (part(y).flatten(2) for part in (self.q, self.k, self.v))
        weights = torch.softmax(q.mT @ k / q.shape[1] ** 0.5, -1)
        return x + self.proj_out((v @ weights.mT).reshape(x.shape))


def middle(c, groups, slices):
    return Level(
        block_1=Resnet(c, c, groups, slices), attn_1=Attention(c, groups), block_2=Resnet(c, c, groups, slices)
    )


class Encoder2D(nn.Module):
    def __init__(self, width, multipliers, blocks, latent_channels, groups, image_channels=1):
        super().__init__()
        widths = [width * m for m in multipliers]
        self.conv_in = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        self.down, a = nn.ModuleList(), widths[0]
        for i, b in enumerate(widths):
            level = Level(block=nn.ModuleList([Resnet(a if j == 0 else b, b, groups, 0) for j in range(blocks)]))
            if i < len(widths) - 1:
                level.downsample = Level(conv=nn.Conv2d(b, b, 3, stride=2))
            self.down.append(level)
            a = b
        self.mid = middle(a, groups, 0)
        self.norm_out, self.conv_out = nn.GroupNorm(groups, a, 1e-6), nn.Conv2d(a, latent_channels, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                x = block(x)
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        for part in self.mid.children():
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder2D(nn.Module):
    """``slices``: 0, each alone; else those of a window."""

    def __init__(self, width, multipliers, blocks, latent_channels, groups, image_channels=1, slices=0):
        super().__init__()
        widths = [width * m for m in multipliers]
        a = widths[-1]
        self.conv_in = nn.Conv2d(latent_channels, a, 3, padding=1)
        self.mid = middle(a, groups, slices)
        levels = []
        for i in reversed(range(len(widths))):
            b = widths[i]
            level = Level(
                block=nn.ModuleList([Resnet(a if j == 0 else b, b, groups, slices) for j in range(blocks + 1)])
            )
            if i:
                level.upsample = Level(conv=nn.Conv2d(b, b, 3, padding=1))
            levels.insert(0, level)
            a = b
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = nn.GroupNorm(groups, a, 1e-6), nn.Conv2d(a, image_channels, 3, padding=1)
        self.slices = slices
        if slices:
            self.conv_in_3d, self.conv_out_3d = (nn.Conv3d(n, n, 3, padding=1) for n in (widths[-1], image_channels))
            self.mix_factor_3d_in, self.mix_factor_3d_out = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def forward(self, z):
        x = self.conv_in(z)
        if self.slices:
            x = mixed(x, self.conv_in_3d, self.mix_factor_3d_in, self.slices)
        for part in self.mid.children():
            x = part(x)
        for level in reversed(self.up):
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        x = self.conv_out(F.silu(self.norm_out(x)))
        return mixed(x, self.conv_out_3d, self.mix_factor_3d_out, self.slices) if self.slices else x


class Replicated(nn.Module):
    """A convolution of volumes whose borders are repeated."""

    def __init__(self, a, b, taps, stride=1):
        super().__init__()
        self.conv = nn.Conv3d(a, b, taps, stride)

    def forward(self, x):
        return self.conv(F.pad(x, (1,) * 6, mode="replicate"))


class Doubled(nn.Module):
    """Twice as many slices."""

    def __init__(self, c):
        super().__init__()
        self.convt = nn.ConvTranspose3d(c, c, 4, (2, 1, 1), padding=3)

    def forward(self, x):
        return self.convt(F.pad(x, (2, 1, 2, 1, 1, 1), mode="replicate"))


class Residual3D(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, c, 1e-6), Replicated(c, c, 3)
        self.norm2, self.conv2 = nn.GroupNorm(groups, c, 1e-6), Replicated(c, c, 3)

    def forward(self, x):
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Encoder3D(nn.Module):
    def __init__(self, width, multipliers, latent_channels, groups, image_channels=1):
        super().__init__()
        widths = [width * m for m in (1, *multipliers)]
        self.conv_first = Replicated(image_channels, width, 3)
        self.conv_blocks = nn.ModuleList(
            Level(down=Replicated(a, b, 4, 2), res=Residual3D(b, groups)) for a, b in pairwise(widths)
        )
        end = nn.Conv3d(widths[-1], latent_channels, 3, padding=1)
        self.final_block = nn.Sequential(nn.GroupNorm(groups, widths[-1], 1e-6), nn.SiLU(), end)

    def forward(self, volume):
        x = self.conv_first(F.interpolate(volume, scale_factor=0.5, mode="nearest"))
        for level in self.conv_blocks:
            x = level.res(level.down(x))
        return self.final_block(x)


class Uniaxial(nn.Module):
    def __init__(self, latent_channels=4, levels=3, groups=4):
        super().__init__()
        self.final_block = nn.Sequential(nn.GroupNorm(groups, latent_channels, 1e-6), nn.SiLU())
        self.conv_blocks = nn.ModuleList(
            Level(up=Doubled(latent_channels), res=Residual3D(latent_channels, groups)) for _ in range(levels)
        )

    def forward(self, z):
        x = self.final_block(z)  # first, whatever it is called
        for level in self.conv_blocks:
            x = level.res(level.up(x))
        return x


CONV = {2: nn.Conv2d, 3: nn.Conv3d}
POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}


class Block(nn.Module):
    """Of a diffusion U-Net. ``resize``: "down" or "up", both ways through it."""

    def __init__(self, a, b, features, groups, ndim, resize=""):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, a), nn.SiLU(), CONV[ndim](a, b, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(features, 2 * b))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, b), nn.SiLU(), nn.Dropout(0.0), CONV[ndim](b, b, 3, padding=1)
        )
        self.skip_connection = CONV[ndim](a, b, 1) if a != b else nn.Identity()
        self.ndim, self.resize = ndim, resize

    def resized(self, x):
        if self.resize == "down":
            return POOL[self.ndim](x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resize == "up" else x

    def forward(self, x, e):
        y = self.in_layers[2](self.resized(self.in_layers[1](self.in_layers[0](x))))
        scale, shift = self.emb_layers(e).reshape(len(x), -1, *[1] * self.ndim).chunk(2, 1)
        y = self.out_layers[0](y) * (1 + scale) + shift
        return self.skip_connection(self.resized(x)) + self.out_layers[1:](y)


class Heads(nn.Module):
    """Attention whose channels go by heads, and within each by query, key and value."""

    def __init__(self, c, heads, groups):
        super().__init__()
        self.norm, self.qkv, self.proj_out = nn.GroupNorm(groups, c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)
        self.heads = heads

    def forward(self, x, e):
        y = self.norm(x.flatten(2))
        q, k, v = self.qkv(y).unflatten(1, (self.heads, 3, -1)).unbind(2)  # each [B, heads, c, N]
        weights = torch.softmax(q.mT @ k * q.shape[2] ** -0.5, -1)
        return x + self.proj_out((v @ weights.mT).flatten(1, 2)).reshape(x.shape)


class UNet(nn.Module):
    def __init__(self, inputs, outputs, width, multipliers, blocks, attention, heads, groups, ndim):
        super().__init__()
        features, top = 4 * width, len(multipliers) - 1
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, features), nn.SiLU(), nn.Linear(features, features))
        self.input_blocks = nn.ModuleList([nn.ModuleList([CONV[ndim](inputs, width, 3, padding=1)])])
        self.output_blocks = nn.ModuleList()
        a, skips = width, [width]

        def row(a, b, level):
            parts = [Block(a, b, features, groups, ndim)]
            return nn.ModuleList(parts + [Heads(b, heads, groups)] * (2**level in attention))

        for level, m in enumerate(multipliers):
            for _ in range(blocks):
                self.input_blocks.append(row(a, width * m, level))
                a = width * m
                skips.append(a)
            if level < top:
                self.input_blocks.append(nn.ModuleList([Block(a, a, features, groups, ndim, "down")]))
                skips.append(a)
        self.middle_block = nn.ModuleList(
            [Block(a, a, features, groups, ndim), Heads(a, heads, groups), Block(a, a, features, groups, ndim)]
        )
        for level, m in reversed([*enumerate(multipliers)]):
            for i in range(blocks + 1):
                parts = row(a + skips.pop(), width * m, level)
                a = width * m
                if level and i == blocks:
                    parts.append(Block(a, a, features, groups, ndim, "up"))
                self.output_blocks.append(parts)
        self.out = nn.Sequential(nn.GroupNorm(groups, a), nn.SiLU(), CONV[ndim](a, outputs, 3, padding=1))

    def forward(self, x, t):
        half = self.width // 2
        angle = t[:, None].float() * 10000.0 ** (-torch.arange(half) / half)
        e = self.time_embed(torch.cat([angle.cos(), angle.sin()], 1))
        skips = []
        for row in self.input_blocks:
            for part in row:
                x = part(x) if isinstance(part, tuple(CONV.values())) else part(x, e)
            skips.append(x)
        for part in self.middle_block:
            x = part(x, e)
        for row in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for part in row:
                x = part(x, e)
        return self.out(x)


def main(case):
    """Times training steps (L1 of the noise at a random level, Adam, EMA), or calls; see ``timed`` in torch_diff_nca.

    ``case``: kind ("train", or "call" for a forward pass alone, as in sampling), size (of a square or a cube of
    latents), batch, model (a dict: what :class:`UNet` takes, where inputs are image_channels and context_channels).
    """
    from torch_diff_nca import Trainer, timed  # beside this file, where a script finds it

    torch.manual_seed(0)
    fields, n = dict(case["model"]), case["batch"]
    outputs, told = fields.pop("image_channels"), fields.pop("context_channels")
    net, sides = UNet(outputs + told, outputs, **fields), [case["size"]] * fields["ndim"]
    x0, context = (torch.randn(n, channels, *sides) for channels in (outputs, told))
    kept = torch.linspace(1e-4**0.5, 2e-2**0.5, 1000).square().neg().add(1).cumprod(0)

    def objective(net, x0):
        eps, t = torch.randn_like(x0), torch.randint(1000, (n,))
        a2 = kept[t].reshape(n, *[1] * (x0.ndim - 1))
        noisy = a2.sqrt() * x0 + (1 - a2).sqrt() * eps
        return (net(torch.cat([noisy, context], 1), t) - eps).abs().mean()

    if case["kind"] == "train":
        trainer = Trainer(net, objective, lr=1.8e-5, decay=1.0, ema=0.9999)
        timed(lambda: trainer.step(x0))
    with torch.no_grad():
        timed(lambda: net(torch.cat([x0, context], 1), torch.zeros(n)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
