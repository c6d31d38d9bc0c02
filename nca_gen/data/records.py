"""tfds data sets built once from files that the user brought, stored as ArrayRecord, read back without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from nca_gen import screen
from nca_gen.data.source import SPLITS, Example, Source, Splits, complain, digest, fits, known, remember
from nca_gen.errors import UserError
from nca_gen.io import cache as caches
from nca_gen.io import images, walk, write

FILES = "files.txt"  # beside the records: what names the files that they were built of
Item = tuple[str, str, Callable[[], images.Image]]  # name, patient, how to get the image


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A tfds builder that comes in variants: ``variant`` says how large its images are stored."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded, so there are no checksums to look for

    def __init__(self, variant: Any, **kwargs: Any):
        """``kwargs`` are those of tfds."""
        self.variant = variant
        super().__init__(**kwargs)

    def examples(
        self, split: str, items: Sequence[Item], labels: np.ndarray | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, example) of every item that can be read; name and reason of the others go into the metadata, as does
        what names the content of all."""
        import PIL.Image

        unreadable, key = self.info.metadata["unreadable"][split], hashlib.sha256()
        for i, (name, patient, load) in enumerate(screen.track(items, f"reading {split}")):
            try:
                image = load()
                if image.dtype != np.uint8 or image.shape[-1] != 3:
                    raise images.Unreadable(name, f"not 8-bit RGB, but {image.shape[-1]} channels of {image.dtype}")
            except images.Unreadable as error:
                unreadable.append([name, error.reason])
                continue
            label = {} if labels is None else {"label": labels[i]}
            key.update(f"{name} {image.shape} {label}".encode() + image.tobytes())
            yield name, {"image": PIL.Image.fromarray(image), "name": name, "patient": patient} | label
        if len(unreadable) == len(items):
            raise UserError(f"no image for the split {split!r} can be read: {unreadable[:3]}")
        self.info.metadata["digest"][split] = key.hexdigest()


def info(builder: Any, shape: tuple[int | None, ...], labels: int = 0, **about: Any) -> tfds.core.DatasetInfo:
    """What a builder's ``_info`` returns: an image of ``shape``, its name, its patient and ``labels`` integers."""
    features = {
        "image": tfds.features.Image(shape=shape),
        "name": tfds.features.Text(),
        "patient": tfds.features.Text(),
    }
    if labels:
        features["label"] = tfds.features.Tensor(shape=(labels,), dtype=np.int32)
    features = tfds.features.FeaturesDict(features)
    metadata = tfds.core.MetadataDict(unreadable={split: [] for split in SPLITS}, digest={})
    return tfds.core.DatasetInfo(builder=builder, features=features, metadata=metadata, **about)


def stored(
    builder: type[Builder],
    variant: Any,
    path: str,
    cache: str,
    strict: bool,
    memory_gb: int | float,
    labels: Sequence[str] = (),
    context_factor: int = 1,
    square: int = 0,
) -> Splits:
    """The splits of ``builder`` over the files in ``path``, built by the first call and reused by the later ones.

    ``labels`` are the names of the label columns; ``context_factor`` and ``square``: see
    :meth:`nca_gen.data.source.Source.read`.
    They are kept below ``cache`` (default ``~/.cache/nca_gen``) in a folder named by a hash of ``path`` and
    ``variant``. Let one process build before several start. It is said where the files have changed since.
    """
    root = Path(path).expanduser().resolve()
    home = Path(cache or caches.folder()).expanduser()
    home = home / digest(f"{root} {variant}")
    data = builder(variant, data_dir=home, file_format="array_record")
    built = Path(data.data_dir).exists()
    if not path or not (built or (root.is_dir() and any(root.iterdir()))):
        raise UserError(f"no files in {path!r} (config.data.path): {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    if not built:
        _build(data, root)
    _compare(home / FILES, root)
    unreadable = {split: [tuple(item) for item in data.info.metadata["unreadable"][split]] for split in SPLITS}
    complain([item for split in SPLITS for item in unreadable[split]], strict)

    records = {s: data.as_data_source(s, decoders={"image": tfds.decode.SkipDecoding()}) for s in SPLITS}
    shapes = {split: _shapes(data.info.features["image"].shape, records[split]) for split in SPLITS}
    resident = fits((shape for split in SPLITS for shape in shapes[split]), 1, memory_gb)

    def about(key: tuple[str, int]) -> Example:
        record = records[key[0]][key[1]]
        return known(record) | {field: record[field].decode() for field in ("name", "patient")}

    def load(key: tuple[str, int]) -> Example:
        text = about(key)
        return text | {"image": images.decode(records[key[0]][key[1]]["image"], text["name"])}

    get, keys = remember(load, memory_gb), data.info.metadata.get("digest", {})

    def source(split: str) -> Source:
        return Source(
            lambda i: get((split, i)),
            shapes[split],
            resident,
            unreadable[split],
            context_factor=context_factor,
            square=square,
            about=(lambda i: about((split, i))) if labels else None,
            digest=lambda: keys.get(split, ""),
        )

    return Splits({split: source(split) for split in SPLITS}, tuple(labels))


def _compare(note: Path, root: Path) -> None:
    """Says where the files below ``root``, if there are still some, are no longer those that ``note`` names.

    Without a note, as what was built before has none, they are taken for those, and noted.
    """
    here = walk.glance(root) if root.is_dir() else ""
    if here and not note.is_file():
        with contextlib.suppress(UserError):  # in a place that others may only read
            write.text(note, here)
    elif here and note.read_text() != here:
        print(
            f"note: {root} has changed since {note.parent} was built of it; delete that to build anew", file=sys.stderr
        )


def _build(data: Builder, root: Path) -> None:
    print(f"building {data.data_dir} from {root}, once", file=sys.stderr)
    tfds.disable_progress_bar()  # ours knows how long it takes
    download = tfds.download.DownloadConfig(manual_dir=root, try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tfds talks of a download; there is none
            data.download_and_prepare(download_config=download, file_format="array_record")
    except OSError as error:
        raise UserError(f"cannot build {data.data_dir}: {error}; choose another --config.data.cache") from None


def _shapes(shape: tuple[int | None, ...], records: Sequence[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The shape of every record; where ``shape`` leaves the size open it is read from the head of the PNG."""
    if None not in shape:
        return [shape] * len(records)
    return [(*struct.unpack(">II", record["image"][16:24])[::-1], shape[-1]) for record in records]
