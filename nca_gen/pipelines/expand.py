"""A training set several times over, by a generator: every label as often as in the photographs, and none a copy.

Picture i bears the labels of training image i mod n; its try t is a function of (seed, i, t) alone. Tries go in rounds:
all pictures are drawn once, those that are too near to a training image once more, and so on. A round is cut into
batches, which are dealt to processes and written whole or not at all; what a batch holds depends on the rounds before
and on nothing else. So however often a run is killed and on however many processes it goes on, the result is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Key, Shaped

from nca_gen import screen
from nca_gen.contracts import Pipeline
from nca_gen.errors import UserError
from nca_gen.io import images, write
from nca_gen.metrics import neighbours
from nca_gen.pipelines import files

COMPARED = 64  # pixels a side at which images are compared, or a little more
PROTOCOL = (
    f"Distance: root mean square over pixels in [-1, 1] and channels, of area means of {COMPARED} to {2 * COMPARED - 1}"
    " pixels a side (smaller images as they are), to the nearest training image, mirrored or not. Threshold: the "
    "{quantile:g}-quantile of the same distance of held-out real images, which are no copies. What is nearer is drawn "
    "again, up to {tries} tries in all; of a picture that never passes, the try furthest from training images is kept."
)


class Yardstick(NamedTuple):
    """What pictures are compared with, and how near is too near."""

    references: Float[np.ndarray, "R h w C"]
    threshold: float


def shrunk(image: Shaped[np.ndarray, "H W C"]) -> Float[np.ndarray, "h w C"]:
    """An image in [-1, 1] as it is compared: area means of ``COMPARED`` pixels a side, or up to twice that."""
    return images.reduce(images.to_float(image), max(1, min(image.shape[:2]) // COMPARED))


def yardstick(
    train: Sequence[Shaped[np.ndarray, "..."]], new: Sequence[Shaped[np.ndarray, "..."]], quantile: int | float
) -> Yardstick:
    """From training and ``new`` (held-out) images ``[H, W, C]`` of one shape. A mirrored copy is a copy.

    A generator of new images loses the share ``quantile`` of its pictures. Raises UserError for images of several
    shapes, and for a quantile outside 0..1.
    """
    if not 0 <= quantile <= 1:
        raise UserError(f"config.expand.quantile={quantile} is no share: give 0 to 1")
    shapes = {image.shape for image in (*train, *new)}
    if len(shapes) > 1:
        raise UserError(f"expanding needs whole images of one shape; these have {len(shapes)}, such as {min(shapes)}")
    references, others = (np.stack([shrunk(image) for image in some]) for some in (train, new))
    for axis in (1, 2):
        references = np.concatenate([references, np.flip(references, axis)])
    return Yardstick(references, float(np.quantile(neighbours.nearest(others, references)[0], quantile)))


def distances(pictures: Float[np.ndarray, "n H W C"], references: Float[np.ndarray, "R h w C"]) -> Float64[Any, " n"]:
    """Of every picture to the nearest reference. Raises UserError where they differ in shape."""
    small = np.stack([shrunk(picture) for picture in pictures])
    if small.shape[1:] != references.shape[1:]:
        raise UserError(
            f"pictures of {pictures.shape[1:]} do not have the shape of the training images, whose small forms are "
            f"{references.shape[1:]}, not {small.shape[1:]}; set config.sample.size to that of the training images"
        )
    return neighbours.nearest(small, references)[0]


def keys(seed: int, pictures: Int[np.ndarray, " n"], attempt: int) -> Key[Array, " n"]:
    """One key a picture: a function of (seed, picture, attempt)."""
    root = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), attempt)
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.asarray(pictures))


def draw(
    pipeline: Pipeline,
    cond: dict[str, np.ndarray],
    pictures: Int[np.ndarray, " b"],
    attempt: int,
    *,
    seed: int,
    size: tuple[int, ...],
    batch: int,
) -> Float[np.ndarray, "b *T C"]:
    """Try ``attempt`` of ``pictures``, at most ``batch`` at a time.

    Picture i is drawn under row i mod n of ``cond``, which has n. A smaller number than ``batch`` is filled up to a
    power of two, so that few shapes are compiled.
    """
    some = np.resize(pictures, min(batch, 1 << (len(pictures) - 1).bit_length()))
    repeated = jax.tree.map(lambda field: jnp.asarray(field[some % len(field)]), cond)
    return np.stack(list(pipeline.draw(keys(seed, some, attempt), size, repeated)))[: len(pictures)]


def rounds(
    n: int,
    folder: Path,
    drawn: Callable[[Int[np.ndarray, " b"], int], Float[np.ndarray, "b H W C"]],
    measured: Callable[[Float[np.ndarray, "b H W C"]], Float64[np.ndarray, " b"]],
    threshold: float,
    *,
    batch: int,
    tries: int,
    dtype: Any = np.uint8,
    mpp: Sequence[int | float] = (),
    deal: tuple[int, int] = (0, 1),
    meet: Callable[[], Any] = lambda: None,
    bar: screen.Bar = screen.SILENT,
) -> tuple[Float64[np.ndarray, " n"], list[int]]:
    """Draws, measures and writes ``n`` pictures into ``folder``: their distances, and how many each round met near.

    ``drawn(pictures, attempt)`` are images in [-1, 1], ``measured(images)`` their distances; below ``threshold`` is too
    near. Files hold values of ``dtype``, and state ``mpp``, the micrometres of a pixel. Process ``deal[0]`` of
    ``deal[1]`` does its share of each round's batches; all ``meet`` at the end of a round. What is there already is not
    drawn again. ``bar`` shows each round, of what this process still has to draw in it.
    """
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    best, todo, near = np.full(n, -np.inf), np.arange(n), []
    while len(todo) and len(near) < tries:
        attempt = len(near)
        cuts = [todo[start : start + batch] for start in range(0, len(todo), batch)]
        parts = [(folder / "parts" / f"{attempt}_{b:05d}.json", some) for b, some in enumerate(cuts)]
        share = [(path, some) for path, some in parts[deal[0] :: deal[1]] if not path.is_file()]
        bar.begin(f"round {attempt + 1}", sum(len(some) for _, some in share))
        for path, some in share:
            stored = images.from_float(drawn(some, attempt), dtype)
            distance = measured(images.to_float(stored))
            for i, image, d in zip(some, stored, distance, strict=True):
                if d > best[i]:  # the furthest try stays
                    files.image(folder / name(i, dtype, image.shape[-1]), image, mpp)
            write.facts(path, distance.tolist())
            bar.advance(len(some))
        meet()
        distance = np.concatenate([json.loads(path.read_text()) for path, _ in parts])
        best[todo] = np.maximum(best[todo], distance)
        todo = todo[distance < threshold]
        near.append(len(todo))
    return best, near


def name(picture: int | np.integer, dtype: Any = np.uint8, channels: int = 3) -> str:
    """The file of a picture of ``channels`` of ``dtype``."""
    return f"{picture:06d}{files.suffix(dtype, channels)}"
