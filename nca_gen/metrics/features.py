"""Features of images, from the networks that others measure with: what FID and its kin compare.

``EXTRACTORS`` has a row for each: the network, how it is given an image, which file holds its weights. A network sees
8 bits a channel, what an image file of that depth held, unless a metric says otherwise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num, UInt8

from nca_gen import devices, screen
from nca_gen.errors import UserError, unknown
from nca_gen.io import cache as disk
from nca_gen.io import images as pixels
from nca_gen.io import weights as published
from nca_gen.io import write
from nca_gen.nn import clip, dinov2, inception, port, resize, resnet, vgg

SEED = 0  # of random weights
NUMBERS = 2**27  # of a batch of images, 0.5 GB in float32: of larger images fewer are taken at a time


@dataclass(frozen=True)
class Extractor:
    """A network, and what is done to an image before: the words go into every protocol."""

    network: Callable[[], nn.Module]
    layers: tuple[str, ...]
    size: int  # of the square images that the network sees, if they are brought to one
    inputs: Callable[[Array], Array]  # inside jit: float32 [B, H, W, 3] in [0, 255] to what the network sees
    resize: str
    normalisation: str
    host: Callable[[np.ndarray], np.ndarray] = np.asarray  # before that, in numpy
    files: tuple[str, ...] = ()  # names of its weights, the published one first; without any they are random
    url: str = ""
    licence: str = ""
    ignore: tuple[str, ...] = port.COUNTERS  # tensors in the file that the network has no use for


_inception = partial(
    Extractor,
    network=inception.Inception,
    layers=inception.LAYERS,
    size=inception.SIZE,
    inputs=lambda x: (resize.tf1(x, inception.SIZE) - 128) / 128,
    resize="bilinear to 299, of TensorFlow 1: no half pixel, no antialiasing",
    normalisation="(x - 128) / 128",
    files=(
        "weights-inception-2015-12-05-6726825d.pth",
        "pt_inception-2015-12-05-6726825d.pth",
        "inception-2015-12-05.safetensors",
        "inception-2015-12-05.npz",
    ),
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    licence="Apache 2.0",
)

# Of ImageNet, in 255 grey levels.
MEAN, DEVIATION = np.array([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]], np.float32)
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

_imagenet = partial(
    Extractor,
    size=224,
    inputs=lambda x: (resize.tf1(x, 224) - MEAN) / DEVIATION,
    resize="bilinear to 224, of TensorFlow 1: no half pixel, no antialiasing",
    normalisation="(x / 255 - mean) / deviation of ImageNet's channels",
)


def _endings(stem: str, *ends: str) -> tuple[str, ...]:
    return tuple(stem + end for end in ends or (".pth", ".safetensors", ".npz"))


def _torchvision(stem: str, **how: Any) -> Extractor:
    url = f"https://download.pytorch.org/models/{stem}.pth"
    return _imagenet(files=_endings(stem), url=url, licence="BSD 3-Clause", **how)


def _dinov2(name: str, network: Callable[[], nn.Module]) -> Extractor:
    return _imagenet(
        network=network,
        layers=("cls",),
        files=_endings(f"dinov2_{name}_pretrain"),
        url=f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{name}/dinov2_{name}_pretrain.pth",
        licence="Apache 2.0",
        ignore=("mask_token",),
    )


_radimagenet = partial(
    Extractor,
    network=resnet.radimagenet50,
    layers=("pool",),
    size=224,
    inputs=lambda x: x[..., ::-1] / 255 - MEAN[::-1] / 255,
    resize="none: of any size",
    normalisation="blue, green, red; x / 255 - (0.406, 0.456, 0.485), the means of ImageNet, and no division",
)

EXTRACTORS: dict[str, Extractor] = {
    "inception": _inception(),
    "inception-pytorch": _inception(
        inputs=lambda x: resize.half_pixel(x, inception.SIZE) / 127.5 - 1,
        resize="bilinear to 299, with half pixel, no antialiasing",
        normalisation="2 (x / 255) - 1",
    ),
    "inception-clean": _inception(
        host=lambda x: resize.clean(x, inception.SIZE),
        inputs=lambda x: (x - 128) / 128,
        resize="bicubic to 299, antialiased, of Pillow in float32 per channel, clipped, not rounded",
    ),
    "inception-stylegan": _inception(),  # samples at the same places, by other means
    "inception-torchmetrics": _inception(
        inputs=lambda x: (resize.smooth(x, inception.SIZE) - 128) / 128,
        resize="bilinear to 299, with half pixel, antialiased: the default of torchmetrics from 1.9 on",
    ),
    "inception-random": _inception(files=(), url="", licence=""),
    "vgg16": _torchvision("vgg16-397923af", network=vgg.VGG16, layers=("fc2",), ignore=("classifier.6.*",)),
    "resnet34": _torchvision("resnet34-b627a593", network=resnet.resnet34, layers=("pool",)),
    "resnet50": _torchvision("resnet50-0676ba61", network=resnet.resnet50, layers=("pool",)),
    "radimagenet-resnet50": _radimagenet(
        files=_endings("RadImageNet-ResNet50_notop", ".pth", ".pt", ".safetensors", ".npz"),
        url="the state dict of radimagenet_resnet50 of https://github.com/Warvito/radimagenet-models, under that name",
        licence="RadImageNet's own, https://github.com/BMEII-AI/RadImageNet",
    ),
    "radimagenet-random": _radimagenet(),
    "dinov2-vits14": _dinov2("vits14", dinov2.vit_s14),
    "dinov2-vitb14": _dinov2("vitb14", dinov2.vit_b14),
    "clip-vitl14-336": Extractor(
        network=clip.vit_l14,
        layers=("embedding",),
        size=336,
        inputs=lambda x: (resize.bicubic(x, 336) / 255 - CLIP_MEAN) / CLIP_DEVIATION,
        resize="bicubic to 336, with half pixel, no antialiasing",
        normalisation="(x / 255 - mean) / deviation of CLIP's channels",
        files=_endings("clip-vit-large-patch14-336", ".safetensors", ".bin", ".npz"),
        url="https://huggingface.co/openai/clip-vit-large-patch14-336 (pytorch_model.bin, under that name)",
        licence="MIT",
        ignore=("text_model.*", "text_projection.weight", "logit_scale", "*.position_ids"),
    ),
}


def extract(
    name: str,
    images: Any,
    *,
    weights: str | Path | None = None,
    layers: Sequence[str] | None = None,
    batch: int = 32,
    progress: Callable[[int], None] = lambda done: None,
    pixels: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, Float[np.ndarray, "N _"]]:
    """Features of ``images`` by layer (all of the extractor's, or ``layers``).

    ``images`` has ``len`` and ``shape``, and slices of it are float32 ``[n, H, W, C]`` in [-1, 1], of which ``pixels``
    makes ``[n, H, W, 3]`` in [0, 255]: None for :func:`rgb`, of 8 bits. ``weights`` is a
    file, or a folder in which to look for it (default: see :func:`nca_gen.io.weights.find`). A batch is dealt to all
    devices of this process and the next one is read meanwhile; ``progress`` hears how many images are done. Raises
    UserError for an unknown name, no weights or those of another network, and images that :func:`rgb` refuses.
    """
    n, count = len(images), jax.local_device_count()
    if not n:
        raise UserError(f"there are no images to take {name} features of")
    layers = tuple(layers or _row(name).layers)
    network = loaded(name, weights, layers)

    def batches() -> Iterator[tuple[slice, dict[str, Array]]]:
        most = min(batch, n, max(1, NUMBERS // math.prod(images.shape[1:])))
        size = -(-most // count) * count
        for start in range(0, n, size):
            x = (pixels or rgb)(images[start : start + size])
            yield slice(start, start + len(x)), network(np.concatenate([x, np.repeat(x[-1:], size - len(x), 0)]))

    outputs: dict[str, np.ndarray] = {}
    for where, out in _one_behind(batches()):
        for layer in layers:
            y = np.asarray(out[layer])[: where.stop - where.start]
            outputs.setdefault(layer, np.empty((n, y.shape[-1]), np.float32))[where] = y
        progress(where.stop)
    return outputs


def watched(what: str, name: str, images: Any, **how: Any) -> dict[str, Float[np.ndarray, "N _"]]:
    """:func:`extract` under a progress bar that says ``what`` the images are; ``how`` as there."""
    with screen.bar(f"{name}: {what}", len(images), "images") as bar:
        return extract(name, images, progress=bar.reach, **how)


def loaded(
    name: str, weights: str | Path | None = None, layers: tuple[str, ...] = ()
) -> Callable[[Num[np.ndarray, "B H W 3"]], dict[str, Float[Array, "B _"]]]:
    """The network on all devices of this process, over which its batch must divide; it returns before it is done."""
    row = _row(name)
    for layer in layers:
        if layer not in row.layers:
            raise unknown(f"layer of {name}:", layer, row.layers)
    mesh = devices.mesh(jax.local_devices(), jax.local_device_count())
    variables, dealt = _replicated(_variables(row, weights), mesh), devices.dealt(mesh)
    inputs, network = _programs(row, layers or row.layers, mesh)
    return lambda x: network(variables, inputs(jax.device_put(row.host(x), dealt)))


def cached(
    name: str, images: Any, folder: str | Path, *, weights: str | Path | None = None, **how: Any
) -> dict[str, Float[np.ndarray, "N _"]]:
    """:func:`extract`, kept in ``folder`` under a hash of the pixels and the protocol; ``how`` as there.

    A file that cannot be read is made anew. Reads the images twice the first time, once afterwards.
    """
    facts = protocol(name, weights) | {"layers": [*(how.get("layers") or _row(name).layers)]}
    key = hashlib.sha256(write.notation([facts, len(images), images.shape[1:]]).encode())
    for start in range(0, len(images), 32):
        key.update(rgb(images[start : start + 32]).tobytes())
    path = Path(folder, f"{name}-{key.hexdigest()[:16]}.npz")
    return disk.arrays(path, lambda: extract(name, images, weights=weights, **how))


def protocol(name: str, weights: str | Path | None = None) -> dict[str, Any]:
    """What stands beside a number made with ``name``: weights and their SHA-256, how images are given, layers."""
    row = _row(name)
    path = _path(row, weights)
    return {
        "extractor": name,
        "weights": path.name if path else f"random, seed {SEED}",
        "sha256": published.digest(path) if path else None,
        "resize": row.resize,
        "normalisation": row.normalisation,
        "dtype": "float32",
        "layers": [*row.layers],
    }


def rgb(images: Float[np.ndarray, "n H W C"]) -> UInt8[np.ndarray, "n H W 3"]:
    """8 bits and 3 channels from images in [-1, 1]; one channel is repeated.

    Raises UserError for any other number of channels, and for pixels that are no numbers.
    """
    if images.shape[-1] not in (1, 3):
        raise UserError(
            f"feature networks see 1 or 3 channels, and the images have {images.shape[-1]}: drop the others"
        )
    if not np.isfinite(images).all():
        raise UserError("there are NaN or infinite pixels in the images: the model that drew them has diverged")
    return np.broadcast_to(pixels.from_float(images), (*images.shape[:-1], 3))


def _row(name: str) -> Extractor:
    if name not in EXTRACTORS:
        raise unknown("extractor", name, EXTRACTORS)
    return EXTRACTORS[name]


def _path(row: Extractor, weights: str | Path | None) -> Path | None:
    if not row.files:
        return None
    if weights and Path(weights).is_file():
        return Path(weights)
    return published.find(row.files, weights, url=row.url, licence=row.licence)


def _variables(row: Extractor, weights: str | Path | None) -> dict[str, Any]:
    """Of the network, from its file or at random."""
    path, network = _path(row, weights), row.network()
    example = jax.ShapeDtypeStruct((1, row.size, row.size, 3), jnp.float32)
    state = published.read(path) if path else port.random_state(network, example, SEED)
    return port.variables(state, network, example, row.ignore)


def _replicated(tree: Any, mesh: Mesh) -> Any:
    """The arrays of ``tree`` on every device; device by device, so that those of a CPU share one copy."""

    def put(x: np.ndarray) -> Array:
        copies = [jax.device_put(x, device, may_alias=True) for device in mesh.devices.flat]
        return jax.make_array_from_single_device_arrays(x.shape, devices.replicated(mesh), copies)

    return jax.tree.map(put, tree)


@cache
def _programs(row: Extractor, layers: tuple[str, ...], mesh: Mesh) -> tuple[Callable, Callable]:
    """What is done to pixels, compiled for every size of image; and the network, compiled once."""

    def network(variables: Any, x: Array) -> dict[str, Array]:
        out = row.network().apply(variables, x)
        return {layer: out[layer] for layer in layers}

    dealt = partial(jax.shard_map, mesh=mesh, out_specs=P("data"))
    inputs = dealt(lambda x: row.inputs(x.astype(jnp.float32)), in_specs=P("data"))
    return jax.jit(inputs), jax.jit(dealt(network, in_specs=(P(), P("data"))))


def _one_behind(items: Iterator[Any]) -> Iterator[Any]:
    """Each item once the next one has been asked for: what computes in the background is not waited for at once."""
    waiting = next(items)
    for item in items:
        yield waiting
        waiting = item
    yield waiting
