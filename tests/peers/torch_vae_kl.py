"""The KL autoencoder in plain PyTorch, with diffusers' module names; and the critic of patches."""

import torch.nn.functional as F
from torch import nn


class Resnet(nn.Module):
    def __init__(self, a, b, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, a, 1e-6), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, b, 1e-6), nn.Conv2d(b, b, 3, padding=1)
        if a != b:
            self.conv_shortcut = nn.Conv2d(a, b, 1)

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, c, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(c, c) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):
        rows = self.group_norm(x).flatten(2).mT
        y = F.scaled_dot_product_attention(self.to_q(rows), self.to_k(rows), self.to_v(rows))
        return x + self.to_out[0](y).mT.reshape(x.shape)


class Middle(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(c, c, groups), Resnet(c, c, groups)])
        self.attentions = nn.ModuleList([Attention(c, groups)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Resampler(nn.Module):
    def __init__(self, c, down):
        super().__init__()
        self.conv, self.down = nn.Conv2d(c, c, 3, stride=2 if down else 1, padding=0 if down else 1), down

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    def __init__(self, a, b, layers, groups, last, down):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(a if i == 0 else b, b, groups) for i in range(layers)])
        if not last:
            setattr(self, "downsamplers" if down else "upsamplers", nn.ModuleList([Resampler(b, down)]))

    def forward(self, x):
        for part in self.children():
            for module in part:
                x = module(x)
        return x


class Half(nn.Module):
    """Encoder or decoder."""

    def __init__(self, inputs, outputs, widths, layers, groups, down):
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, widths[0], 3, padding=1)
        pairs = zip([widths[0], *widths[:-1]], widths, strict=True)
        last = len(widths) - 1
        levels = nn.ModuleList([Level(a, b, layers, groups, i == last, down) for i, (a, b) in enumerate(pairs)])
        self.add_module("down_blocks" if down else "up_blocks", levels)
        self.mid_block = Middle(widths[-1] if down else widths[0], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)
        self.down = down

    def forward(self, x):
        x = self.conv_in(x)
        x = x if self.down else self.mid_block(x)
        for level in self.down_blocks if self.down else self.up_blocks:
            x = level(x)
        x = self.mid_block(x) if self.down else x
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    def __init__(self, width=128, multipliers=(1, 2, 4, 4), layers=2, latent=4, groups=32):
        super().__init__()
        widths = [width * m for m in multipliers]
        self.encoder = Half(3, 2 * latent, widths, layers, groups, down=True)
        self.decoder = Half(latent, 3, widths[::-1], layers + 1, groups, down=False)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1), nn.Conv2d(latent, latent, 1)

    def encode(self, x):
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


class PatchDiscriminator(nn.Module):
    def __init__(self, width=64, layers=3, channels=3):
        super().__init__()
        parts, a = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)], width
        for i in range(1, layers + 1):
            b = width * min(2**i, 8)
            stride = 2 if i < layers else 1
            parts += [nn.Conv2d(a, b, 4, stride, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
            a = b
        self.main = nn.Sequential(*parts, nn.Conv2d(a, 1, 4, 1, 1))

    def forward(self, x):
        return self.main(x)
