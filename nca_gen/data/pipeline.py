"""Batches of random crops; batch ``k`` is a function of (source, seed, k) and of nothing else.

An epoch visits image ``i`` once for every patch that fits into its area, so a large image is not under-sampled
and every pixel is drawn about equally often; where a crop is cut and whether it is flipped is drawn anew each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from nca_gen.data.source import Example
from nca_gen.errors import UserError, unknown
from nca_gen.io import images

FLIPS = {"all": (0.5, 0.5), "horizontal": (0.0, 0.5), "none": (0.0, 0.0)}  # probabilities: upside down, left to right
_EPOCH = 4096  # grain's shuffle takes up to half a millisecond per draw from a much shorter range


def batches(
    source: Sequence[Example],
    *,
    patch: tuple[int, int],
    batch: int,
    seed: int,
    step: int = 0,
    process: int = 0,
    processes: int = 1,
    flips: str | bool = "all",
) -> Iterator[dict[str, np.ndarray]]:
    """Endless ``{"image": float32 [batch / processes, *patch, C] in [-1, 1), "label": [.., L] if the source has it}``.

    ``step`` batches are passed over at no cost: resuming needs no other state. Process ``p`` has the
    ``p``-th share of the rows of the whole batch, so that the number of processes changes nothing.
    ``flips``: "all" (up-down and left-right, each with probability 1/2), "horizontal", "none"; True is all, False none.
    Raises UserError for an image smaller than the patch, and where ``processes`` do not divide ``batch``.
    """
    import grain

    if batch % processes:
        raise UserError(f"config.train.batch={batch} cannot be dealt evenly to {processes} processes")
    flips = {True: "all", False: "none"}.get(flips, flips)
    if flips not in FLIPS:
        raise unknown("value of config.data.flips", str(flips), FLIPS)
    up_down, left_right = FLIPS[flips]
    owner = _owners(source, patch)

    def crop(slot: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        example = source[owner[slot % len(owner)]]
        v, u, vertical, horizontal = rng.random(4)
        image = _cut(_drawn(example, rng), patch, v, u)
        image = image[:: -1 if vertical < up_down else 1, :: -1 if horizontal < left_right else 1]
        return {"image": image} | ({"label": example["label"]} if "label" in example else {})

    def stack(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        out = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        return out | {"image": images.to_float(out["image"])}

    slots = len(owner) * -(-_EPOCH // len(owner))
    draws = grain.MapDataset.range(slots).seed(seed).shuffle().repeat().random_map(crop)
    mine = draws.batch(batch // processes, batch_fn=stack)[process::processes][step:]
    threads = 0 if getattr(source, "resident", True) else 8
    return iter(mine.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)))


def patches(source: Sequence[Example], *, patch: tuple[int, int], n: int, seed: int) -> Float[np.ndarray, "n h w C"]:
    """The images of :func:`examples`."""
    return examples(source, patch=patch, n=n, seed=seed)["image"]


def examples(source: Sequence[Example], *, patch: tuple[int, int], n: int, seed: int) -> dict[str, np.ndarray]:
    """A fixed set of ``n`` random crops in [-1, 1), never flipped, for evaluation; and their labels, if any.

    No image is visited twice before each has been visited once for every patch that fits into it.
    """
    rng = np.random.default_rng(seed)
    owner = _owners(source, patch)
    visits = np.concatenate([rng.permutation(owner) for _ in range(-(-n // len(owner)))])[:n]
    found = [source[i] for i in visits]
    cuts = [_cut(row["image"], patch, v, u) for row, (v, u) in zip(found, rng.random((n, 2)), strict=True)]
    labels = {"label": np.stack([row["label"] for row in found])} if "label" in found[0] else {}
    return {"image": images.to_float(np.stack(cuts))} | labels


def _owners(source: Sequence[Example], patch: tuple[int, int]) -> np.ndarray:
    """The image index of every slot of an epoch. Raises UserError for images smaller than ``patch``."""
    shapes = getattr(source, "shapes", None) or [example["image"].shape for example in source]
    sizes = np.array([shape[:2] for shape in shapes])
    small = np.flatnonzero((sizes < patch).any(1))
    if len(small):
        name, size = source[small[0]]["name"], tuple(sizes[small[0]].tolist())
        raise UserError(f"{len(small)} images are smaller than config.data.patch={tuple(patch)}: {name} has {size}")
    return np.repeat(np.arange(len(sizes)), np.rint(sizes.prod(1) / np.prod(patch)).astype(int))


def _drawn(example: Example, rng: np.random.Generator) -> images.Image:
    """The image, or where only its distribution is known (``moments``) a sample of one of its variants."""
    if "moments" not in example:
        return example["image"]
    mean, logvar = example["moments"][rng.integers(len(example["moments"]))]
    return mean + np.exp(logvar / 2) * rng.standard_normal(mean.shape, np.float32)


def _cut(image: images.Image, patch: tuple[int, int], v: float, u: float) -> Any:
    """The patch whose corner lies at the fractions ``v``, ``u`` in [0, 1) of the way down and to the right."""
    y, x = int(v * (image.shape[0] - patch[0] + 1)), int(u * (image.shape[1] - patch[1] + 1))
    return image[y : y + patch[0], x : x + patch[1]]
