"""CelebA, aligned (Liu et al. 2015): the whole 178 x 218 face brought to ``size``, in the official partition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from nca_gen.data import records
from nca_gen.data.source import SPLITS, Origin, Splits
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.ranges import Count, Gigabytes


def splits(
    path: str = "",
    size: tuple[Count, Count] = (64, 64),
    reduce: Count = 1,
    cache: str = "",
    strict: bool = False,
    memory_gb: Gigabytes = 2.5,
) -> Splits:
    """The official train, val and test (202,599 images in all); uint8, brought to ``size`` (bicubic, nothing cropped).

    ``reduce`` then takes an area mean. ``cache``, ``strict`` and ``memory_gb``: see
    :func:`nca_gen.data.records.stored`. Identities are not read: each image is its own patient.
    """
    return records.stored(Celeba, (*size, reduce), path, cache, strict, memory_gb)


class Celeba(records.Builder):
    """CelebA from manually placed files."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put img_align_celeba/000001.jpg ... and list_eval_partition.txt there, from the CelebA project page"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        height, width, k = self.variant
        return records.info(
            self, (height // k, width // k, 3), homepage="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        partition = root / "list_eval_partition.txt"
        if not partition.is_file() or not (root / "img_align_celeba").is_dir():
            raise UserError(f"no CelebA in {root}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        names = {split: [] for split in SPLITS}
        for line in partition.read_text().splitlines():
            try:
                name, split = line.split()
                names[SPLITS[int(split)]].append(name)
            except (ValueError, IndexError):
                raise UserError(f"{partition} has a line {line!r}, expected a file name and 0, 1 or 2") from None
        return {split: self._generate_examples(root, split, names[split]) for split in SPLITS}

    def _generate_examples(self, root: Path, split: str, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        height, width, k = self.variant

        def image(name: str) -> images.Image:
            return images.reduce(images.resize(images.read(root / "img_align_celeba" / name), (height, width)), k)

        items = [(name, name, lambda name=name: image(name)) for name in names]
        yield from self.examples(split, items)


def origin(path: str = "") -> Origin:
    """The project page allows research and nothing that earns money."""
    link, terms = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html", "non-commercial research purposes only"
    return Origin("CelebA, aligned (Liu et al. 2015)", "other", link, terms)
