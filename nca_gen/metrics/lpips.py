"""LPIPS (Zhang et al. 2018, arXiv 1801.03924): how far apart two images look; and the diversity of a set by it.

Version 0.1, of the networks ``alex``, ``vgg`` and ``squeeze``: torchvision's weights for the convolutions, and the
factors of their features, which the authors fitted to human judgement, from the lpips package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from nca_gen.errors import UserError, unknown
from nca_gen.io import weights as published
from nca_gen.metrics.about import About
from nca_gen.metrics.bootstrap import interval
from nca_gen.metrics.features import rgb
from nca_gen.metrics.notes import note
from nca_gen.nn import alexnet, port, squeezenet, vgg

ENDINGS = (".pth", ".safetensors", ".npz")
PAIRS, AREA = 32, 2**21  # looked at together: at most so many, and so many pixels (but one pair at least)
SHIFT, SCALE = np.array([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]], np.float32)


class Net(NamedTuple):
    """A network that looks, and where its weights are published."""

    trunk: Callable[[], nn.Module]
    smallest: int  # side of an image, in pixels
    file: str  # torchvision's
    sha256: str  # of the lpips package's, whose name is the same in version 0.0


NETS = {
    "alex": Net(alexnet.AlexNet, 31, "alexnet-owt-7be5be79", "df73285e35b22355"),
    "vgg": Net(partial(vgg.VGG16, head=False), 16, "vgg16-397923af", "a78928a0af1e5f0f"),
    "squeeze": Net(squeezenet.SqueezeNet, 17, "squeezenet1_1-b8a52dc0", "4a5350f23600cb79"),
}


class Ruler(NamedTuple):
    """The weights of a network: of its convolutions, and a factor for every feature of every layer."""

    trunk: dict[str, Any]
    heads: list[Float[Any, " _"]]


def load(net: str = "alex", weights: str | Path | None = None) -> Ruler:
    """The published weights of ``net`` from the folder ``weights`` (default: :func:`nca_gen.io.weights.find`).

    Raises UserError for an unknown ``net``, a missing file, and weights of another network.
    """
    trunk, heads = (published.read(path) for path in _paths(net, weights))
    return ruler(net, trunk | heads)


def ruler(net: str, state: dict[str, np.ndarray]) -> Ruler:
    """From the tensors of both files together. Raises UserError where they are of another network."""
    module, example = NETS[net].trunk(), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    trunk = port.variables(state, module, example, (*port.COUNTERS, "classifier.*", "lin*"))
    layers = jax.eval_shape(module.apply, trunk, example)
    heads = []
    for i, (name, y) in enumerate(layers.items()):
        head = state.get(f"lin{i}.model.1.weight")
        if head is None or head.shape != (1, y.shape[-1], 1, 1):
            raise UserError(f"the LPIPS weights of {net} lack lin{i} with the {y.shape[-1]} factors of {name}")
        heads.append(np.asarray(head, np.float32).reshape(-1))
    return Ruler(trunk, heads)


def protocol(net: str = "alex", weights: str | Path | None = None) -> dict[str, Any]:
    """What stands beside a number: the network, its two files and their SHA-256."""
    return {"net": net, "version": "0.1", "weights": {p.name: published.digest(p) for p in _paths(net, weights)}}


def _paths(net: str, weights: str | Path | None) -> list[Path]:
    if net not in NETS:
        raise unknown("network of lpips", net, NETS)
    models, package = "download.pytorch.org/models", "github.com/richzhang/PerceptualSimilarity/raw/master/lpips"
    published_as = (
        (NETS[net].file, f"https://{models}", "BSD 3-Clause"),
        (net, f"https://{package}/weights/v0.1", "BSD 2-Clause"),
    )
    return [
        published.find([stem + end for end in ENDINGS], weights, url=f"{url}/{stem}.pth", licence=licence)
        for stem, url, licence in published_as
    ]


ABOUT = About(
    reads=frozenset(),
    network=protocol,
    reference="Zhang et al. 2018, CVPR, arXiv 1801.03924",
    range="from 0, about 1 at the most",
    least={"generated": 2},
    protocol=(
        "Diversity: LPIPS (version 0.1, AlexNet unless the option net says otherwise) between consecutive images in an "
        "order shuffled by the seed, N - 1 pairs, images at their own size; the mean, the population standard "
        "deviation, and a 95 % interval of the mean, bootstrapped over pairs. Higher is better, as far as real images "
        "go: noise is diverse too."
    ),
)


def between(net: str, ruler: Ruler, a: Float[Array, "B H W 3"], b: Float[Array, "B H W 3"]) -> Float[Array, " B"]:
    """LPIPS of pairs of images in [-1, 1] (8 bits: ``u / 127.5 - 1``), to be called inside jit; differentiable."""
    return _apart(ruler, _looks(net, ruler, a), _looks(net, ruler, b))


def _looks(net: str, ruler: Ruler, x: Array) -> list[Array]:
    """Features of every layer, each pixel's of length 1, or 0 where no ReLU lets anything through."""
    layers = NETS[net].trunk().apply(ruler.trunk, (x - SHIFT) / SCALE).values()
    # The authors add 1e-10 to the root. Under it, the gradient at 0 is a number.
    return [y / jnp.sqrt(jnp.sum(y * y, -1, keepdims=True) + 1e-20) for y in layers]


def _apart(ruler: Ruler, a: list[Array], b: list[Array]) -> Array:
    parts = zip(ruler.heads, a, b, strict=True)
    return sum(jnp.mean(jnp.sum((x - y) ** 2 * head, -1), (1, 2)) for head, x, y in parts)


@partial(jax.jit, static_argnums=0)
def _consecutive(net: str, ruler: Ruler, x: Array) -> Array:
    """From every image to the next one; each is looked at once."""
    layers = _looks(net, ruler, x / 127.5 - 1)
    return _apart(ruler, [y[:-1] for y in layers], [y[1:] for y in layers])


def statistics(images: Any, seed: int, ruler: Ruler, net: str = "alex") -> Float32[np.ndarray, " P"]:
    """LPIPS of the N - 1 consecutive pairs of ``images``, shuffled by ``seed``.

    ``images`` has ``len`` and ``shape``, and ``images[indices]`` is float32 ``[n, H, W, C]`` in [-1, 1], of which the
    network sees 8 bits. Few of them are in memory at a time. Raises UserError for fewer than 2, and for images that are
    too small or that :func:`nca_gen.metrics.features.rgb` refuses.
    """
    n, height, width = images.shape[:3]
    if n < 2:
        raise UserError(f"lpips needs at least 2 images but got {n}: give more, or leave it out")
    if min(height, width) < (least := NETS[net].smallest):
        others = ", ".join(f"{name} from {row.smallest}" for name, row in NETS.items())
        raise UserError(f"lpips by {net} needs images of {least} pixels a side, not {height} x {width} ({others})")
    order = np.random.default_rng(seed).permutation(n)
    size = min(n - 1, max(1, min(PAIRS, AREA // (height * width))))
    ruler, values = jax.device_put(ruler), []
    for start in range(0, n - 1, size):
        some = rgb(images[order[start : start + size + 1]])
        padded = np.concatenate([some, np.repeat(some[-1:], size + 1 - len(some), 0)])
        values.append(np.asarray(_consecutive(net, ruler, padded.astype(np.float32)))[: len(some) - 1])
    return np.concatenate(values)


def score(
    generated: Any, real: object, train: object, seed: int, *, net: str = "alex", weights: str | Path | None = None
) -> dict[str, float]:
    """Diversity of ``generated`` (see ``ABOUT``); reads neither ``real`` nor ``train``.

    ``weights`` as in :func:`load`. Notes factors that are not the published ones.
    """
    del real, train
    *_, (heads, sha256) = protocol(net, weights)["weights"].items()
    if not sha256.startswith(NETS[net].sha256):
        note(f"lpips: the SHA-256 of {heads} is not that of the published {net}.pth of version 0.1")
    apart = statistics(generated, seed, load(net, weights), net)
    low, high = interval(apart, seed)
    mean, std = np.mean(apart, dtype=np.float64), np.std(apart, dtype=np.float64)
    return {"lpips": float(mean), "lpips_std": float(std), "lpips_low": low, "lpips_high": high}
