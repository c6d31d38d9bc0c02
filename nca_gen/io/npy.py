"""Arrays in ``.npy`` files and ``.npz`` archives, mapped into memory: the disk is read where the array is."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Shaped

from nca_gen.io.images import Unreadable

SUFFIXES = (".npy", ".npz")
_LOCAL = 30  # bytes of a zip member's own header, without its name and extra field


def mapped(path: str | Path) -> Shaped[np.ndarray, "..."]:
    """The array in a ``.npy`` file or, of an ``.npz``, its ``arr_0`` (as ADM writes it) or its only array; read-only.

    A deflated member is unpacked into a temporary file, which is gone with the array. Raises :class:`Unreadable` for a
    damaged file, an archive in which the choice is not clear, and arrays of Python objects.
    """
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return _array(file)
            with zipfile.ZipFile(file) as archive:
                member = archive.getinfo(_choice(archive.namelist()))
                if member.compress_type == zipfile.ZIP_STORED:
                    file.seek(member.header_offset)
                    header = file.read(_LOCAL)
                    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
                    return _array(file)
                with archive.open(member) as packed, tempfile.TemporaryFile() as plain:
                    shutil.copyfileobj(packed, plain, 2**20)
                    plain.seek(0)
                    return _array(plain)
    except OSError as error:
        raise Unreadable(path, (error.strerror or str(error)).lower()) from None
    except Exception as error:  # zip, zlib, numpy and mmap each raise what they like on damaged bytes
        raise Unreadable(path, str(error).lower() or type(error).__name__) from None


def save(path: str | Path, shape: Sequence[int], dtype: Any, parts: Iterable[Shaped[np.ndarray, "n ..."]]) -> None:
    """Writes an array of ``shape`` to an ``.npy`` file, of ``parts`` along its first axis."""
    kind = np.dtype(dtype).newbyteorder("=")
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"shape": tuple(shape), "fortran_order": False, "descr": np.lib.format.dtype_to_descr(kind)}
        )
        for part in parts:
            file.write(np.ascontiguousarray(part, kind).data)


def _choice(names: list[str]) -> str:
    arrays = [name for name in names if name.endswith(".npy")]
    if "arr_0.npy" in arrays:
        return "arr_0.npy"
    if len(arrays) != 1:
        inside = ", ".join(name.removesuffix(".npy") for name in arrays) or "none"
        raise ValueError(f"no array arr_0 in it, and not one array alone (it holds: {inside})")
    return arrays[0]


def _array(file: BinaryIO) -> np.ndarray:
    """Maps the array whose header begins where ``file`` stands."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, not numbers")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
