"""BCSS (Amgad et al. 2019): regions of H&E-stained breast cancer, 0.25 um per pixel, reduced by 4 as in Diff-NCA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from nca_gen.data import records
from nca_gen.data.source import Splits, assign
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.ranges import Count, Gigabytes, Natural

TEST = ("OL", "LL", "E2", "EW", "GM", "S3")  # institutions held out by the data set's authors


def splits(
    path: str = "",
    reduce: Count = 4,
    context_factor: Count = 1,
    square: Natural = 0,
    cache: str = "",
    strict: bool = False,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """Splits by institution: "test" is six, "val" a tenth of the other patients, by a hash of their names; uint8 RGB.

    Images are stored reduced by ``reduce`` (area mean); crops are for the pipeline. ``cache``, ``strict``,
    ``memory_gb``, ``context_factor`` and ``square``: see :func:`nca_gen.data.records.stored`.
    """
    return records.stored(Bcss, reduce, path, cache, strict, memory_gb, context_factor=context_factor, square=square)


class Bcss(records.Builder):
    """BCSS from manually placed files."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "put images/TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png ... there"

    def _info(self) -> tfds.core.DatasetInfo:
        return records.info(self, (None, None, 3), homepage="https://github.com/PathologyDataScience/BCSS")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        files = sorted((root / "images").glob("TCGA-*.png"))
        if not files:
            raise UserError(f"no BCSS in {root}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        fixed = ["test" if file.name.split("-")[1] in TEST else "train" for file in files]
        if "test" not in fixed:
            raise UserError(f"no image of the test institutions {', '.join(TEST)} in {root / 'images'}")
        where = assign([patient(file) for file in files], fixed)
        return {
            split: self._generate_examples([f for f, s in zip(files, where, strict=True) if s == split], split)
            for split in ("train", "val", "test")
        }

    def _generate_examples(self, files: list[Path], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        def image(file: Path) -> images.Image:
            return images.reduce(images.read(file), self.variant)

        items = [(file.name, patient(file), lambda file=file: image(file)) for file in files]
        yield from self.examples(split, items)


def patient(file: Path) -> str:
    """TCGA names begin with project, institution and patient: TCGA-A1-A0SK."""
    return file.name[:12]
