"""The yardstick: GeCA (Elbatel et al. 2024) and its training step in plain eager PyTorch. Imports nothing of nca_gen.

Every cell gets its nine neighbours' keys and values as copies (unfold). `python torch_geca.py '{"model": {...}, ...}'`
times training steps, or calls of the network; see :func:`main`.
"""

import json
import sys

import torch
from torch import nn
from torch.nn import functional as F


def sinusoid(cells, width):
    """[cells, width]: sin(n w_j) for even j, cos(n w_j) for odd j, w_j = 10000^(-j / width)."""
    j = torch.arange(width)
    angle = torch.arange(cells)[:, None] * 10000.0 ** (-j / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos())


def adapted(x, shift, scale):
    """``x`` [B, N, D] by what the condition says."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Time(nn.Module):
    """Diffusion indices [B] to [B, width]."""

    def __init__(self, width, features=256):
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t):
        half = self.features // 2
        angle = t[:, None] * 10000.0 ** (-torch.arange(half) / half)
        return self.layers(torch.cat([angle.cos(), angle.sin()], -1))


class LocalAttention(nn.Module):
    """Of every cell to its 3 x 3 neighbours; keys and values are zero beyond the grid."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def neighbours(self, x, size):
        """[B, N, D] -> [B, heads, N, 9, d]."""
        b, n, d = x.shape
        x = F.unfold(x.transpose(1, 2).reshape(b, d, *size), 3, padding=1)
        return x.reshape(b, self.heads, d // self.heads, 9, n).permute(0, 1, 4, 3, 2)

    def forward(self, x, size):
        b, n, d = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        q = q.reshape(b, n, self.heads, 1, -1).transpose(1, 2)
        k, v = self.neighbours(k, size), self.neighbours(v, size)
        weights = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class GeCA(nn.Module):
    """The cells' state is [B, N, channels + out + hidden], row by row."""

    def __init__(self, image_channels=4, hidden=64, embed=768, heads=12, mlp=3072, steps=12, classes=11, fire_rate=0.5):
        super().__init__()
        self.channels, self.out, self.hidden = image_channels, 2 * image_channels, hidden
        self.steps, self.fire_rate = steps, fire_rate
        self.time = Time(embed)
        self.label = nn.Sequential(nn.Linear(classes, embed), nn.Linear(embed, embed))
        self.embedding = nn.Linear(image_channels + self.out + hidden, embed)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(embed, 6 * embed))
        self.norm0, self.norm1 = nn.LayerNorm(embed), nn.LayerNorm(embed)
        self.attention = LocalAttention(embed, heads)
        self.mlp = nn.Sequential(nn.Linear(embed, mlp), nn.GELU(), nn.Linear(mlp, embed))
        self.last_condition = nn.Sequential(nn.SiLU(), nn.Linear(embed, 2 * embed))
        self.last_norm = nn.LayerNorm(embed, eps=1e-6, elementwise_affine=False)
        self.last = nn.Linear(embed, self.out + hidden)
        for layer in (self.condition[1], self.last_condition[1], self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def step(self, state, c, size, code):
        shift0, scale0, gate0, shift1, scale1, gate1 = self.condition(c).chunk(6, -1)
        e = self.embedding(state) + code
        e = e + gate0[:, None] * self.attention(adapted(self.norm0(e), shift0, scale0), size)
        e = e + gate1[:, None] * self.mlp(adapted(self.norm1(e), shift1, scale1))
        return self.last(adapted(self.last_norm(e), *self.last_condition(c).chunk(2, -1)))

    def forward(self, x, t, labels, out=None, fire=None):
        """x [B, C, H, W], t [B], labels [B, classes] -> [B, 2 C, H, W] and hidden [B, C_h, H, W].

        ``out`` [B, 2 C, H, W] at the start, ``fire`` [steps, B, H, W]; drawn where not given.
        """
        b, _, h, w = x.shape
        if out is None:
            out = x.new_zeros(b, self.out, h, w)
            out[:, :, h // 2, w // 2] = torch.randn(b, self.out)

        def rows(x):
            return x.flatten(2).transpose(1, 2)

        image, grown = rows(x), torch.cat([rows(out), x.new_zeros(b, h * w, self.hidden)], -1)
        c, code = self.time(t) + self.label(labels), sinusoid(h * w, self.embedding.out_features)
        for k in range(self.steps):
            mask = torch.rand(b, h * w) < self.fire_rate if fire is None else fire[k].flatten(1)
            grown = grown + mask[..., None] * self.step(torch.cat([image, grown], -1), c, (h, w), code)
        return grown.transpose(1, 2).reshape(b, -1, h, w).split([self.out, self.hidden], 1)


def objective(model, x0, t, eps, labels, out=None, fire=None, T=1000):
    """L2 of the noise, and the square of the variance's fraction in place of its bound, which is as little work."""
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T), 0)[t][:, None, None, None]
    prediction, _ = model(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, t, labels, out, fire)
    noise, fraction = prediction.chunk(2, 1)
    return (noise - eps).square().mean() + fraction.square().mean()


def main(case):
    """Times training steps, or calls; see ``timed`` in torch_diff_nca.

    ``case``: kind ("train", or "call" for a forward pass alone, as in sampling), size (of a square image), batch, model
    (a dict: what :class:`GeCA` takes).
    """
    from torch_diff_nca import Trainer, timed  # beside this file, where a script finds it

    torch.manual_seed(0)
    net = GeCA(**case["model"])
    x0 = torch.randn(case["batch"], net.channels, case["size"], case["size"])
    labels = torch.zeros(case["batch"], net.label[0].in_features)
    if case["kind"] == "train":

        def t():
            return torch.randint(1000, x0.shape[:1])

        trainer = Trainer(net, lambda net, x0: objective(net, x0, t(), torch.randn_like(x0), labels), lr=1e-4)
        timed(lambda: trainer.step(x0))
    with torch.no_grad():
        timed(lambda: net(x0, torch.zeros(case["batch"], dtype=torch.long), labels))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
