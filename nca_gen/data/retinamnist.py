"""RetinaMNIST (Yang et al. 2023, from DeepDRiD): fundus photographs with a retinopathy grade, official split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds

from nca_gen.data import records
from nca_gen.data.source import SPLITS, Origin, Splits
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.ranges import Count, Gigabytes, Natural


def splits(
    path: str = "",
    size: Literal[28, 64, 128, 224] = 28,
    reduce: Count = 1,
    pad: Natural = 0,
    cache: str = "",
    strict: bool = False,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """1080, 120, 400 images, uint8 RGB, of ``size`` 28, 64, 128 or 224 pixels a side; label: grade 0..4, int32 ``[1]``.

    ``reduce`` takes an area mean; then ``pad`` black pixels come on every side, black as what lies around the eye:
    size 28 with pad 2 is 32 x 32, which halves five times. ``cache`` and ``memory_gb``: see
    :func:`nca_gen.data.records.stored`; ``strict`` changes nothing, there is one file. Patients are not known: each
    image is its own.
    """
    return records.stored(Retinamnist, (size, reduce, pad), path, cache, strict, memory_gb, ("grade",))


class Retinamnist(records.Builder):
    """RetinaMNIST from the manually placed npz file of MedMNIST."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put retinamnist.npz (28 px) or retinamnist_64.npz, _128, _224 there, from medmnist.com"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        size, k, pad = self.variant
        side = size // k + 2 * pad
        return records.info(self, (side, side, 3), labels=1, homepage="https://medmnist.com")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        size, *_ = self.variant
        file = Path(dl_manager.manual_dir) / f"retinamnist{'' if size == 28 else f'_{size}'}.npz"
        if not file.is_file():
            raise UserError(f"no {file}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        try:
            with open(file, "rb") as opened, np.load(opened) as arrays:
                data = {split: (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS}
        except Exception as error:  # a damaged archive raises what zipfile, zlib or numpy likes
            raise UserError(f"cannot read {file}: {error}; fetch it again") from None
        if any(pixels.shape[1:] != (size, size, 3) for pixels, _ in data.values()):
            raise UserError(f"{file} does not hold RGB images of {size} x {size} pixels")
        return {split: self._generate_examples(split, *data[split]) for split in SPLITS}

    def _generate_examples(
        self, split: str, pixels: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        _, k, pad = self.variant
        names = [f"{split}/{i}" for i in range(len(pixels))]

        def framed(x: np.ndarray) -> images.Image:
            return np.pad(images.reduce(x, k), ((pad, pad), (pad, pad), (0, 0)))

        items = [(name, name, lambda x=x: framed(x)) for name, x in zip(names, pixels, strict=True)]
        yield from self.examples(split, items, labels.astype(np.int32))


def origin(path: str = "") -> Origin:
    """MedMNIST's own page states the licence."""
    return Origin("RetinaMNIST (Yang et al. 2023, from DeepDRiD)", "cc-by-4.0", "https://medmnist.com")
