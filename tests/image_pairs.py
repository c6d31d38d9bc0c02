"""Pairs of images, the same everywhere and always, and what a peer says of them."""

from __future__ import annotations

import numpy as np


def images(seed, n, height, width, channels):
    """Blocks of colour and noise in 8 bits, elementwise from RandomState."""
    r = np.random.RandomState(seed)
    coarse = r.randint(0, 256, (n, -(-height // 16), -(-width // 16), channels)).repeat(16, 1).repeat(16, 2)
    return np.clip(coarse[:, :height, :width] + r.randint(-40, 41, (n, height, width, channels)), 0, 255)


def pairs(n, height, width, channels):
    """Pairs that are near, half and half, and unlike each other."""
    a, b = images(0, n, height, width, channels), images(1, n, height, width, channels)
    b[0] = np.clip(a[0] + np.random.RandomState(2).randint(-30, 31, a[0].shape), 0, 255)
    b[1] = a[1] // 2 + b[1] // 2
    return a.astype(np.float32), b.astype(np.float32)


MS_SSIM = {  # of torchmetrics 1.9.0 in float64, by shape
    (3, 176, 176, 3): (0.9782714750470219, 0.569915080467666, 0.08267952343502431),
    (2, 181, 250, 1): (0.9772025520895172, 0.6161531750201454),
    (2, 90, 64, 3): (0.9646931205938272, 0.6360188184604278),
}
