"""The yardstick: Diff-NCA (arXiv 2401.06291) and its training step in plain eager PyTorch. Imports nothing of nca_gen.

`python torch_diff_nca.py '{"channels": 96, ...}'` times training steps, or calls of the network; see :func:`main`.
"""

import contextlib
import copy
import json
import math
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm


def features(scalars):
    """K scalars [B, K, 1, 1] -> K*K features: scalar k gives value_k [cos(k w_0), .., sin(k w_0), ..]."""
    K = scalars.shape[1]
    w = 10000.0 ** (-2 * torch.arange(K // 2, dtype=scalars.dtype) / K)
    angle = torch.arange(K, dtype=scalars.dtype)[:, None] * w
    table = torch.cat([angle.cos(), angle.sin()], 1)
    return (scalars[:, :, None] * table[None, :, :, None, None]).flatten(1, 2)


def pointwise(inputs, outputs):
    return weight_norm(nn.Conv2d(inputs, outputs, 1))


def mlp(inputs, width, outputs):
    return nn.Sequential(pointwise(inputs, width), nn.SiLU(), pointwise(width, outputs))


class CellNorm(nn.Module):
    """Over the channels of each cell, without parameters."""

    def forward(self, y):
        return F.layer_norm(y.movedim(1, -1), y.shape[1:2]).movedim(-1, 1)


class DiffNCA(nn.Module):
    """Predicts the noise in x_t. Image and fire masks are channels-first.

    t and s are constant over space. ``maps=True`` still computes their embedding and gates in every cell, as the
    paper's Listing 2 reads (and as FourierDiff-NCA must); ``maps=False`` once an image. ``norm``: "group" is the
    paper's, "cell" that of its released code.
    """

    def __init__(self, channels=96, hidden=512, steps=20, timesteps=300, fire_rate=0.9, maps=True, norm="group"):
        super().__init__()
        self.channels, self.steps, self.timesteps = channels, steps, timesteps
        self.fire_rate, self.maps = fire_rate, maps
        e = 2
        self.embedding = mlp(e * e, 256, e)
        self.gate0 = mlp(e, hidden // 4, 2 * channels + e)
        self.gate1 = mlp(e, hidden // 4, hidden)
        self.perceive = weight_norm(nn.Conv2d(channels + e, channels, 3, padding=1, padding_mode="reflect"))
        self.fc0 = pointwise(2 * channels + e, hidden)
        self.norm = nn.GroupNorm(1, hidden) if norm == "group" else CellNorm()
        self.fc1 = pointwise(hidden, channels)
        self.fc1.parametrizations.weight.original0.data.zero_()
        self.fc1.bias.data.zero_()

    def step(self, state, t, s, fire):
        size = state.shape[2:] if self.maps else (1, 1)
        scalars = torch.stack([t, s.expand_as(t)], 1)[:, :, None, None].expand(-1, -1, *size)
        e = self.embedding(features(scalars))
        z = torch.cat([state, e.expand(-1, -1, *state.shape[2:])], 1)
        y = torch.cat([z, self.perceive(z)], 1) * self.gate0(e)
        y = F.leaky_relu(self.norm(self.fc0(y)), 0.01) * self.gate1(e)
        d = self.fc1(y) * fire
        return torch.cat([state[:, :3], state[:, 3:] + d[:, 3:]], 1)

    def forward(self, x, t, fire=None):
        """x [B, 3, H, W], t [B] -> [B, 3, H, W]. ``fire`` [steps, B, 1, H, W]; drawn where not given."""
        state = torch.cat([x, x.new_zeros(x.shape[0], self.channels - 3, *x.shape[2:])], 1)
        t = t.to(x.dtype) / self.timesteps
        with parametrize.cached():  # the weights' norms once a call, not once a step
            for k in range(self.steps):
                mask = (torch.rand_like(x[:, :1]) < self.fire_rate).to(x.dtype) if fire is None else fire[k]
                state = self.step(state, t, x.new_tensor(k / self.steps), mask)
        return state[:, 3:6]


def cosine_abar(T, s=0.008, clip=0.999):
    f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + s) / (1 + s) * math.pi / 2) ** 2
    return torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=clip), 0)


def objective(model, x0, t, eps, fire=None):
    """L2 + L1 of the predicted noise."""
    abar = cosine_abar(model.timesteps)[t][:, None, None, None]
    noisy = abar.sqrt().to(x0.dtype) * x0 + (1 - abar).sqrt().to(x0.dtype) * eps
    d = model(noisy, t, fire) - eps
    return d.square().mean() + d.abs().mean()


class Trainer:
    """Adam and an exponential moving average of the parameters; ``objective(model, x0)`` is the loss.

    ``clip`` bounds the global norm of the gradient; 0 is off.
    """

    def __init__(self, model, objective, lr=1.6e-3, decay=0.9999, ema=0.99, clip=0.0):
        self.model, self.average, self.ema = model, copy.deepcopy(model).requires_grad_(False), ema
        self.objective, self.clip = objective, clip
        self.adam = torch.optim.Adam(model.parameters(), lr, betas=(0.9, 0.99), eps=1e-8)
        self.rate = torch.optim.lr_scheduler.ExponentialLR(self.adam, decay)

    def step(self, x0):
        loss = self.objective(self.model, x0)
        self.adam.zero_grad()
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.adam.step()
        self.rate.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - self.ema)
        return loss.item()


def peak_mb():
    """The largest resident set of this process so far, in 10^6 bytes."""
    with contextlib.suppress(OSError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def timed(run):
    """Does ``run()`` for every line of standard input; says its seconds and the peak memory so far as JSON."""
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        run()
        times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(times | {"memory_mb": peak_mb()}), flush=True)


def main(case):
    """Times training steps, or calls, see :func:`timed`.

    ``case``: kind ("train", or "call" for a forward pass alone, as in sampling), size (of a square image), batch,
    model (a dict: what :class:`DiffNCA` takes).
    """
    torch.manual_seed(0)
    net = DiffNCA(**case["model"])
    x0 = torch.rand(case["batch"], 3, case["size"], case["size"]) * 2 - 1
    if case["kind"] == "train":

        def t():
            return torch.randint(net.timesteps, x0.shape[:1])

        trainer = Trainer(net, lambda net, x0: objective(net, x0, t(), torch.randn_like(x0)))
        timed(lambda: trainer.step(x0))
    with torch.no_grad():
        timed(lambda: net(x0, torch.zeros(case["batch"], dtype=torch.long)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
