"""OCTA-500 (Li et al. 2024): OCT and OCTA volumes of the macula, with layers, vessels and a disease, as they lie.

``OCTA_6mm/{OCT,OCTA}/10001/{1..400}.bmp`` (a B-scan each, 640 high and 400 wide), ``OCTA_6mm/Text labels.xlsx``,
``OCTA_6mm/Projection Maps/OCTA(FULL)/10001.bmp``, ``Label/GT_Layers/10001.mat``, ``Label/GT_{Artery,...}/10001.bmp``;
the same of ``OCTA_3mm``. Written from what others say of these files; it has been run on files that tests make, never
on the volumes. So all that is relied on is checked: B-scans that are missing, sizes, keys, the order of the surfaces.

Training on two thirds and testing on a third "category-individually", 203 and 97 volumes of 6 mm, is all that is
published of CA-LDM's split (2024), and no numbers of eyes. Here two thirds of each disease, rounded up, are for
training, which is 203 of diseases of 91, 43, 11, 14, 35, 10 and 96 eyes; which eyes they are, a hash of their numbers
says. It is a split of the same kind, and not theirs.
"""

from __future__ import annotations

import hashlib
import io
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Interval, Len
from jaxtyping import Float32, UInt8

from nca_gen import screen
from nca_gen.data import layers, scans
from nca_gen.data.source import SPLITS, Box, Example, Source, Splits, clipped, complain, digest, fits, remember
from nca_gen.data.volumes import Scale, View
from nca_gen.errors import UserError
from nca_gen.io import images, tables, volumes, walk
from nca_gen.ranges import Count, Gigabytes, OneOf

FIELDS = {"6mm": 6000.0, "3mm": 3000.0}  # micrometres along D and W, by the name of a set
DEPTH = 2000.0  # and along H
MODALITIES = {"oct": "OCT", "octa": "OCTA"}
PROJECTIONS = ("", *(f"{kind}({span})" for kind in ("OCT", "OCTA") for span in ("FULL", "ILM_OPL", "OPL_BM")))
MAPS = "Projection Maps"
MASKS = ("GT_Capillary", "GT_Artery", "GT_Vein", "GT_FAZ")  # in the order of their classes, 1 to 4
SHEET = "Text labels.xlsx"
PUT = "put OCTA_6mm and Label there as they are unpacked (ieee-dataport.org/open-access/octa-500)"
LATEST = 16  # eyes of which surfaces and maps are kept


class Eyes(NamedTuple):
    """Where the files of a set are: ``scans`` of each eye in a folder of its number, below ``home``; and ``label``.

    ``labels`` and ``projection``: what is read beside the B-scans.
    """

    home: Path
    scans: Path
    label: Path
    labels: str
    projection: str

    def beside(self, name: str) -> list[Path]:
        """The files of an eye that are read beside its B-scans, a projection last."""
        folders = {"layers": ("GT_Layers",), "vessels": MASKS, "none": ()}[self.labels]
        files = [self.label / folder / f"{name}{'.mat' if self.labels == 'layers' else '.bmp'}" for folder in folders]
        return files + [self.home / MAPS / self.projection / f"{name}.bmp"] * bool(self.projection)


def splits(
    path: str = "",
    subset: Annotated[str, OneOf(FIELDS)] = "6mm",
    modality: Annotated[str, OneOf(MODALITIES)] = "oct",
    reduce: Annotated[tuple[Count, ...], Len(3, 3)] = (1, 1, 1),
    resize: Annotated[tuple[Count, ...], Len(3, 3)] | None = (512, 512, 512),
    labels: layers.Labels = "none",
    projection: Annotated[str, OneOf(PROJECTIONS)] = "",
    val: Annotated[float, Interval(ge=0, le=0.5)] = 0.0,
    split_seed: int = 0,
    strict: bool = False,
    memory_gb: Gigabytes = 2.0,
) -> Splits:
    """Volumes uint8 ``[D, H, W, 1]``: D counts the B-scans, H goes into the depth; by default 512 a side, as published.

    ``path`` holds ``OCTA_6mm`` and ``Label``, or is ``OCTA_6mm``. ``reduce``: blocks of so many voxels along D, H and W
    become one (area mean); ``resize``: (depth, height, width) to which a volume is then brought (bicubic), None for
    none. ``labels``: what the field ``label_map`` holds, int32 ``[D, H, W, 1]``, nearest where volumes are resized:
    "layers" 0 to 6 of the six annotated surfaces, "vessels" 0 to 4 of capillaries, arteries, veins and FAZ, later ones
    over earlier ones, the same in every row (:mod:`nca_gen.data.layers`). ``projection``: an en-face map, such as
    "OCTA(FULL)", that becomes the field ``projection``, float32 in [-1, 1), the same in every row; "" for none.

    "val" is a share ``val`` of the training eyes of each disease; of 0 it is "test", and nothing may be chosen on "val"
    that is reported on "test". ``split_seed`` draws which eyes are which.

    Of every eye the names of all B-scans, the first of them and the labels are looked at here: one of which some are
    missing, or of another size than most, is named and skipped (``strict``: UserError). Volumes stay in memory if all
    fit into ``memory_gb``; else of each patch the B-scans that it touches are decoded.
    Raises UserError for a missing folder, and where no eye can be used.
    """
    scale = Scale(tuple(reduce), tuple(resize) if resize else None)
    eyes = _eyes(path, subset, modality, labels, projection)
    names = sorted((p.name for p in eyes.scans.iterdir() if p.is_dir() and p.name.isdigit()), key=int)
    if not names:
        raise UserError(f"no eye in {eyes.scans}, which has a folder of B-scans for each, such as 10001: {PUT}")
    disease, notes = _diseases(eyes, names)
    known, lost = _probed(eyes, names)
    complain(lost, strict)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    where = split({name: disease.get(name, "") for name in {*names, *disease}}, val, split_seed)
    shapes = {name: (*scale.sides(shape), 1) for name, shape in known.items()}
    if any(0 in shape for shape in shapes.values()):
        raise UserError(f"config.data.reduce={tuple(reduce)} leaves nothing of {words(next(iter(known.values())))}")
    fields = (*(["label_map"] if labels != "none" else []), *(["projection"] if projection else []))
    resident = fits(shapes.values(), 1 + 4 * len(fields), memory_gb)
    stored = cache(lambda name: volumes.stored(eyes.scans / name))  # names of files, and the first of them
    annotated = lru_cache(LATEST)(lambda name: surfaces(eyes.label, name))
    mapped = lru_cache(LATEST)(lambda name: vessels(eyes.label, name))

    def about(name: str) -> Example:
        d, h, w = known[name]
        micrometres = (FIELDS[subset] / d, DEPTH / h, FIELDS[subset] / w)
        return {"name": name, "patient": name, "mpp": scale.microns((d, h, w), micrometres)}

    def part(name: str, field: str, box: tuple[slice, ...]) -> np.ndarray:
        if field == "image":
            return scans.part(stored(name), scale, box)
        if field == "projection":
            return _projected(eyes, name, scale, shapes[name])[box]
        sides = zip(known[name], scale.reduce, shapes[name], box, strict=False)
        d, h, w = (scans.middles(n, k, size, some) for n, k, size, some in sides)
        if labels == "layers":
            return layers.layer_map(annotated(name)[:, d][:, :, w], h)
        return layers.en_face(mapped(name)[d][:, w], len(h))

    def load(name: str) -> Example:
        whole = tuple(slice(0, side) for side in shapes[name][:3])
        return about(name) | {field: part(name, field, whole) for field in ("image", *fields)}

    def window(name: str, field: str, box: Box, k: int) -> np.ndarray:
        return images.reduce(clipped(View(shapes[name], lambda inside: part(name, field, inside)), box), k)

    def content(mine: Sequence[str]) -> str:
        files = [file for name in mine for file in (eyes.scans / name, *eyes.beside(name))]
        return hashlib.sha256(b"".join(map(walk.content, files))).hexdigest()

    def source(word: str) -> Source:
        mine = [name for name in known if where[name] == word]
        if not mine:
            raise UserError(f"no eye that can be read for the split {word!r} in {eyes.scans}: {len(known)} are too few")
        return Source(
            lambda i: get(mine[i]),
            [shapes[name] for name in mine],
            resident,
            [(name, why) for name, why in lost if where[name] == word],
            fields,
            window=None if resident else lambda i, field, box, k: window(mine[i], field, box, k),
            about=lambda i: about(mine[i]),
            digest=lambda: content(mine),
        )

    get = remember(load, memory_gb)
    there = {word: source(word) for word in SPLITS if word != "val" or val}
    return Splits({"train": there["train"], "val": there.get("val", there["test"]), "test": there["test"]}, notes=notes)


def split(disease: Mapping[str, str], val: int | float = 0.0, salt: int = 0) -> dict[str, str]:
    """The split of every eye: two thirds of each disease, rounded up, are "train", but for a share ``val`` of these.

    Eyes are ranked by a hash of ``salt`` and their number, so that the same sheet always gives the same split.
    """
    groups = defaultdict(list)
    for name, words in disease.items():
        groups[words].append(name)
    where = {}
    for some in groups.values():
        ranked = sorted(some, key=lambda name: digest(f"{salt}/{name}"))
        train = -(-2 * len(ranked) // 3)
        held = math.floor(val * train + 0.5)
        words = ["val"] * held + ["train"] * (train - held) + ["test"] * (len(ranked) - train)
        where |= zip(ranked, words, strict=True)
    return where


def surfaces(label: Path, name: str) -> Float32[np.ndarray, "6 D W"]:
    """The annotated surfaces of an eye, in rows as they are stored: ``GT_Layers/NAME.mat``, key ``Layer``.

    A row h belongs to what lies below a surface s where h >= s. Whether the file counts rows from 0 or from 1 is said
    nowhere; they are taken as from 0. Raises Unreadable.
    """
    from scipy.io import loadmat

    path = label / "GT_Layers" / f"{name}.mat"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise images.Unreadable(path, (error.strerror or str(error)).lower()) from None
    try:
        stored = loadmat(io.BytesIO(data))
    except Exception as error:  # on damaged bytes scipy raises what it likes
        raise images.Unreadable(path, f"no MATLAB file that is whole ({str(error).lower()})") from None
    if "Layer" not in stored:
        there = ", ".join(key for key in stored if not key.startswith("__"))
        raise images.Unreadable(path, f"it has no Layer, but {there or 'nothing'}")
    rows = np.asarray(stored["Layer"])
    if rows.ndim != 3 or len(rows) != len(layers.SURFACES) or rows.dtype.kind not in "uif":
        raise images.Unreadable(path, f"Layer is {rows.dtype} of {rows.shape}, and should be 6 surfaces, D x W each")
    rows = rows.astype(np.float32)
    if not np.isfinite(rows).all() or (np.diff(np.median(rows, (1, 2))) < 0).any():
        raise images.Unreadable(path, "its surfaces are no numbers, or not in their order from the front to the back")
    return rows


def vessels(label: Path, name: str) -> UInt8[np.ndarray, "D W"]:
    """The class of each A-scan (:mod:`nca_gen.data.layers`): what is not 0 in ``GT_{Capillary,Artery,Vein,FAZ}``.

    Capillaries are annotated as the whole net of vessels; so the later of these has precedence. Raises Unreadable.
    """
    planes = [images.classes(label / folder / f"{name}.bmp") for folder in MASKS]
    out = np.zeros(planes[0].shape[:2], np.uint8)
    for k, (folder, plane) in enumerate(zip(MASKS, planes, strict=True), 1):
        if plane.shape != (*out.shape, 1):
            here = label / folder / f"{name}.bmp"
            raise images.Unreadable(here, f"a mask of {plane.shape}, and {MASKS[0]} has {planes[0].shape}")
        out[plane[..., 0] > 0] = k
    return out


def _eyes(path: str, subset: str, modality: str, labels: str, projection: str) -> Eyes:
    """Where the files are. Raises UserError for a folder that is not there."""
    root, folder = Path(path).expanduser(), f"OCTA_{subset}"
    empty = "" if path else " (config.data.path is empty)"
    home = root / folder if (root / folder).is_dir() else root
    here = home / MODALITIES[modality]
    if not path or not here.is_dir():
        raise UserError(f"no {folder}/{MODALITIES[modality]} in {path!r}{empty}: {PUT}")
    places = [place / label for place in (root, home, home.parent) for label in ("Label", "Label/Label")]
    eyes = Eyes(home, here, next((p for p in places if any(p.glob("GT_*"))), places[0]), labels, projection)
    for file in eyes.beside("10001"):
        if not file.parent.is_dir():
            raise UserError(f"no folder {file.parent}: {PUT}, or set config.data.labels to 'none' and projection to ''")
    return eyes


def _diseases(eyes: Eyes, names: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The disease of every eye of the sheet, and what has to be said where it lacks some of ``names``, or is missing.

    The sheet may also have been saved as .csv.
    """
    sheets = [p for p in sorted(eyes.home.iterdir()) if p.stem.replace(" ", "").casefold() == "textlabels"]
    path = next((p for p in sheets[::-1] if p.suffix in (".xlsx", ".csv")), None)
    if path is None:
        return {}, (f"there is no {SHEET} in {eyes.home}: two thirds of all eyes are for training",)
    rows = tables.sheet(path) if path.suffix == ".xlsx" else [row.cells for row in tables.rows(path, ("ID", "Disease"))]
    if missing := [column for column in ("ID", "Disease") if column not in (rows[0] if rows else ())]:
        raise UserError(f"{path} has no column {missing[0]!r}; it needs ID and Disease")
    disease = {row["ID"].strip(): row["Disease"].strip().upper() for row in rows if row["ID"].strip()}
    without = [name for name in names if name not in disease]
    said = (
        f"eyes that {path.name} does not have are split as if of one disease ({len(without)}): {', '.join(without[:1])}"
    )
    return disease, (said,) if without else ()


def _probed(eyes: Eyes, names: Sequence[str]) -> tuple[dict[str, tuple[int, ...]], list[tuple[str, str]]]:
    """The stored shape of each eye that can be used, and (name, reason) of the others. UserError for none."""
    shapes, lost = {}, []
    for name in screen.track(names, "looking at eyes"):
        try:
            shapes[name] = _looked(eyes, name)
        except images.Unreadable as error:
            at = Path(error.path)
            where = "" if at == eyes.scans / name else f"{at.parent.name}/{at.name}: "
            lost.append((name, where + error.reason))
    if not shapes:
        raise UserError(f"no eye in {eyes.scans} can be used; {lost[0][0]}: {lost[0][1]}")
    usual = Counter(shapes.values()).most_common(1)[0][0]
    lost += [(n, f"it has {words(shape)}, most have {words(usual)}") for n, shape in shapes.items() if shape != usual]
    return {name: shape for name, shape in shapes.items() if shape == usual}, lost


def words(shape: Sequence[int]) -> str:
    """D, H and W for people."""
    return f"{shape[0]} B-scans of {shape[1]} x {shape[2]}"


def _looked(eyes: Eyes, name: str) -> tuple[int, ...]:
    """D, H and W of an eye. Raises Unreadable for a B-scan that is missing, and for labels of another size."""
    folder = eyes.scans / name
    stored = volumes.stored(folder)
    paths = stored.paths if isinstance(stored, volumes.Scans) else ()
    numbers = {path.stem for path in paths}
    if missing := [i for i in range(1, len(paths) + 1) if str(i) not in numbers]:
        raise images.Unreadable(folder, f"B-scan {missing[0]} is missing: there are {len(paths)}")
    first = images.read(paths[0])
    if first.shape[-1] != 1 or first.dtype != np.uint8:
        raise images.Unreadable(folder, f"a B-scan has {first.shape[-1]} channels of {first.dtype}, not one of uint8")
    planes = {}
    if eyes.labels != "none":
        annotated = surfaces(eyes.label, name)[0] if eyes.labels == "layers" else vessels(eyes.label, name)
        planes["annotation"] = annotated.shape
    if eyes.projection:
        planes["projection"] = images.read(eyes.beside(name)[-1]).shape[:2]
    for what, plane in planes.items():
        if plane != (len(paths), first.shape[1]):
            sides = f"{plane[0]} x {plane[1]}, not {len(paths)} x {first.shape[1]}"
            raise images.Unreadable(folder, f"its {what} has {sides} (B-scans x width)")
    return len(paths), *first.shape[:2]


def _projected(eyes: Eyes, name: str, scale: Scale, shape: Sequence[int]) -> Float32[np.ndarray, "D H W 1"]:
    """The projection of an eye on the grid of the example, the same in every row."""
    plane = images.reduce(images.read(eyes.beside(name)[-1])[..., :1], scale.reduce[::2])
    plane = images.to_float(images.resize(plane, (shape[0], shape[2])) if scale.resize else plane)
    return np.broadcast_to(plane[:, None], shape)
