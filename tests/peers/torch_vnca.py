"""The yardstick: VNCA with doublings (arXiv 2201.12360) in plain PyTorch. Imports nothing of nca_gen."""

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.first, self.second = nn.Conv2d(hidden, hidden, 1), nn.Conv2d(hidden, hidden, 1)

    def forward(self, h):
        return h + self.second(F.elu(self.first(h)))


class VNCA(nn.Module):
    """``forward`` grows the cells [B, latent, side, side] of z [B, latent]; ``encode`` has the moments of z."""

    def __init__(self, latent, hidden, residuals, widths, seed, doublings, steps, channels=3):
        super().__init__()
        self.seed, self.doublings, self.steps = seed, doublings, steps
        ends = zip([channels, *widths[:-1]], widths, strict=True)
        convs = [nn.Conv2d(a, b, 5, stride=1 if i == 0 else 2, padding=2) for i, (a, b) in enumerate(ends)]
        places = (seed * 2**doublings // 2 ** (len(widths) - 1)) ** 2
        self.convs, self.linear = nn.ModuleList(convs), nn.Linear(places * widths[-1], 2 * latent)
        self.perceive = nn.Conv2d(latent, hidden, 3, padding=1)
        self.residual = nn.ModuleList([Residual(hidden) for _ in range(residuals)])
        self.last = nn.Conv2d(hidden, latent, 1)

    def encode(self, image):
        h = image
        for conv in self.convs:
            h = F.elu(conv(h))
        return self.linear(h.flatten(1)).chunk(2, 1)

    def older(self, state):
        h = self.perceive(state)
        for layer in self.residual:
            h = layer(h)
        return state + self.last(h)

    def forward(self, z):
        state = z[:, :, None, None].expand(-1, -1, self.seed, self.seed)
        for level in range(self.doublings + 1):
            state = F.interpolate(state, scale_factor=2, mode="nearest") if level else state
            for _ in range(self.steps):
                state = self.older(state)
        return state


def colours(state):
    """Means, logarithms of scales and coefficients of one discretised logistic a channel: of ten channels, the first of
    which says how probable the only component is."""
    _, means, scales, slopes = state[:, :10].split((1, 3, 3, 3), 1)
    return means, scales.clamp(-7, 7), slopes.tanh()


def log_likelihood(state, image):
    """Nats per image of values k / 128 - 1, straight from the definition in float64."""
    means, scales, slopes = (x.double() for x in colours(state))
    red, green, _ = (image.double()).unbind(1)
    shift = torch.stack([0 * red, slopes[:, 0] * red, slopes[:, 1] * red + slopes[:, 2] * green], 1)
    centred = image.double() - means - shift
    inf = torch.full_like(centred, torch.inf)
    upper = torch.where(image >= 127 / 128, inf, (centred + 1 / 256) / scales.exp())
    lower = torch.where(image <= -1, -inf, (centred - 1 / 256) / scales.exp())
    side = torch.where(centred > 0, -1.0, 1.0)  # both functions are near 0, where they differ, and not near 1
    return (side * ((side * upper).sigmoid() - (side * lower).sigmoid())).log().sum((1, 2, 3))
