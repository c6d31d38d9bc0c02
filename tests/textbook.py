"""Diff-NCA and FourierDiff-NCA in plain numpy and float64, as the paper words them: slow, and easy to check by eye.

Independent of the package: no splitting, folding or sharing of anything, every cell computes all that it is. It takes
the package's parameters and its fire masks, so that two forward passes can be compared number by number.
"""

import itertools

import numpy as np


def plain(params):
    """Parameters in numpy, of which taking a part compiles nothing."""
    return {k: plain(v) if isinstance(v, dict) else np.asarray(v) for k, v in params.items()}


def weight(layer):
    """The kernel that weight normalisation stands for: g v / |v|, one gain per output channel."""
    v = np.asarray(layer["v"], np.float64)
    return np.asarray(layer["g"], np.float64) * v / np.sqrt((v**2).sum(tuple(range(v.ndim - 1))))


def affine(x, layer):
    return x @ weight(layer) + np.asarray(layer["bias"], np.float64)


def silu(x):
    return x / (1 + np.exp(-x))


def mlp(x, params, name):
    return affine(silu(affine(x, params[f"{name}_0"])), params[f"{name}_1"])


def features(scalars):
    """K scalars -> K * K: value_k [cos(k w_0), .., sin(k w_0), ..], w_j = 10000^(-2 j / K)."""
    K = scalars.shape[-1]
    out = []
    for k in range(K):
        angles = [k * 10000 ** (-2 * j / K) for j in range((K + 1) // 2)]
        out += [scalars[..., k] * v for v in [*np.cos(angles), *np.sin(angles)][:K]]
    return np.stack(out, -1)


def perceive(z, layer, mode):
    """Convolution by a kernel of 3 per axis; ``mode`` of np.pad."""
    kernel, ndim = weight(layer), z.ndim - 2
    padded = np.pad(z, [(0, 0), *[(1, 1)] * ndim, (0, 0)], mode=mode)
    out = np.zeros((*z.shape[:-1], kernel.shape[-1]))
    for tap in itertools.product(range(3), repeat=ndim):
        region = tuple(slice(t, t + n) for t, n in zip(tap, z.shape[1:-1], strict=True))
        out += padded[(slice(None), *region)] @ kernel[tap]
    return out + np.asarray(layer["bias"], np.float64)


def norm(y, params):
    """GroupNorm(1, h) where the side has its scale, else over the channels of each cell."""
    axes = tuple(range(1, y.ndim)) if "norm_scale" in params else (-1,)
    y = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + 1e-5)
    return y * np.asarray(params["norm_scale"]) + np.asarray(params["norm_shift"]) if "norm_scale" in params else y


def update(state, scalars, params, fire, frozen, mode):
    """One step: state [B, .., C]; channels listed in ``frozen`` keep their value."""
    e = mlp(features(np.broadcast_to(scalars, (*state.shape[:-1], scalars.shape[-1]))), params, "embedding")
    z = np.concatenate([state, e], -1)
    y = np.concatenate([z, perceive(z, params["perceive"], mode)], -1) * mlp(e, params, "gate0")
    y = norm(affine(y, params["fc0"]), params)
    y = np.where(y > 0, y, 0.01 * y) * mlp(e, params, "gate1")
    d = affine(y, params["fc1"]) * fire
    d[..., frozen] = 0
    return state + d


def threefry(k0, k1, c0, c1):
    """Threefry-2x32 (Salmon et al. 2011): 20 rounds, of which every fourth adds the key."""
    turn = lambda x, n: (x << np.uint32(n)) | (x >> np.uint32(32 - n))
    ks, turns = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA)), (13, 15, 26, 6, 17, 29, 16, 24)
    with np.errstate(over="ignore"):
        x, y = c0 + k0, c1 + k1
        for i in range(20):
            x = x + y
            y = turn(y, turns[i % 8]) ^ x
            if i % 4 == 3:
                n = i // 4 + 1
                x, y = x + ks[n % 3], y + ks[(n + 1) % 3] + np.uint32(n)
    return x, y


def positions(shape):
    """From 1 to 0 along each axis."""
    return np.stack(np.meshgrid(*[np.linspace(1, 0, n) for n in shape], indexing="ij"), -1)


def conditions(where, t, s, batch):
    """[position.., t, s] of every cell; ``where`` has no channels where position is not told."""
    told = np.broadcast_to(where, (batch, *where.shape))
    time = np.broadcast_to(np.reshape(t, (-1, *[1] * where.ndim)), (*told.shape[:-1], 1))
    return np.concatenate([told, time, np.full_like(time, s)], -1)


def image_phase(state, params, t, masks, position, images):
    """``masks`` [steps, B, .., 1]; the first ``images`` channels are the noisy image."""
    shape = state.shape[1:-1]
    where = positions(shape) if position else np.zeros((*shape, 0))
    for k, fire in enumerate(masks):
        s = conditions(where, t, k / len(masks), len(state))
        state = update(state, s, params, fire, np.arange(images), "reflect")
    return state[..., images : 2 * images]


def diff_nca(params, x, t, channels, masks):
    """Prediction at x [B, .., I]; ``t`` in [0, 1), one per image or one for all."""
    params = plain(params)
    state = np.concatenate([x, np.zeros((*x.shape[:-1], channels - x.shape[-1]))], -1)
    return image_phase(state, params["image"], t, masks, False, x.shape[-1])


def fourier_diff_nca(params, x, t, channels, masks, window, steps):
    """The same, after ``steps`` steps in the corner of Fourier space.

    The automaton there has 2 * channels channels: the real parts of all, then the imaginary parts of all.
    """
    params, images, shape, space = plain(params), x.shape[-1], x.shape[1:-1], tuple(range(1, x.ndim - 1))
    state = np.concatenate([x, np.zeros((*x.shape[:-1], channels - images))], -1)
    F = np.fft.fftshift(np.fft.fftn(state, axes=space, norm="forward"), axes=space)
    corner = (slice(None), *[slice(n // 2, n // 2 + window) for n in shape])
    f = np.concatenate([F[corner].real, F[corner].imag], -1)
    frozen = np.concatenate([np.arange(images), channels + np.arange(images)])
    for k in range(steps):
        s = conditions(positions((window,) * len(shape)), t, k / window, len(x))
        f = update(f, s, reordered(params["fourier"], channels, images), 1, frozen, "constant")
    F = np.zeros_like(F)
    F[corner] = f[..., :channels] + 1j * f[..., channels:]
    heard = np.fft.ifftn(np.fft.ifftshift(F, axes=space), axes=space, norm="forward").real
    state = np.concatenate([x, heard[..., images:]], -1)
    return image_phase(state, params["image"], t, masks, True, images)


def reordered(params, channels, images):
    """The Fourier side's parameters for the order of channels used here.

    The package keeps a part's real and imaginary channels together: image, prediction, then hidden cells.
    """
    parts = np.split(np.arange(channels), [images, 2 * images])
    order = np.concatenate([np.concatenate([p, channels + p]) for p in parts])  # theirs[i] is ours[order[i]]
    ours = np.argsort(order)  # ours[j] is theirs[ours[j]]
    e = params["perceive"]["v"].shape[-2] - 2 * channels
    extra = 2 * channels + np.arange(e)  # the embedding stays behind the state
    both = np.concatenate([ours, extra, 2 * channels + e + ours])

    def outputs(layer, index):
        return {"v": layer["v"][..., index], "g": layer["g"][index], "bias": layer["bias"][index]}

    def inputs(layer, index):
        return layer | {"v": layer["v"][..., index, :]}

    return params | {
        "perceive": outputs(inputs(params["perceive"], np.concatenate([ours, extra])), ours),
        "gate0_1": outputs(params["gate0_1"], both),
        "fc0": inputs(params["fc0"], both),
        "fc1": outputs(params["fc1"], ours),
    }
