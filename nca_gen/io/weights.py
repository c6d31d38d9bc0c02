"""Weights of published networks from local files: torch state dicts, safetensors, npz. Nothing in a file is executed.

A torch file is a pickle, and a pickle is a program. The reader here knows the few names that a state dict is built of
and refuses any other, so that the worst that a file can do is to be refused.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from nca_gen.errors import UserError
from nca_gen.io import cache
from nca_gen.io import write as files

LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # how torch began its files until 1.6
ENDINGS = "pth, pt, bin, safetensors or npz"
DTYPES = {  # by torch's names
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": ml_dtypes.bfloat16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
UNTYPED = {  # of tensors whose storage torch gives no type
    **{f"uint{bits}": np.dtype(f"u{bits // 8}") for bits in (16, 32, 64)},
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}
SAFE = {  # by the names of safetensors
    **{f"{kind.upper()}{8 * n}": f"<{kind}{n}" for kind in "fiu" for n in (1, 2, 4, 8) if (kind, n) != ("f", 1)},
    "C64": "<c8",
    "BF16": ml_dtypes.bfloat16,
    "BOOL": "?",
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
State = dict[str, np.ndarray]


def find(names: Sequence[str], folder: str | Path | None = None, *, url: str, licence: str) -> Path:
    """The first file of ``names`` in ``folder``, else $NCA_GEN_WEIGHTS, else ~/.cache/nca_gen/weights.

    Raises UserError where there is none: which file, from where, under which licence, and where to put it.
    """
    root = Path(folder or os.environ.get("NCA_GEN_WEIGHTS") or cache.folder("weights")).expanduser()
    for name in names:
        if (root / name).is_file():
            return root / name
    others = f" (or {', '.join(names[1:])})" if names[1:] else ""
    raise UserError(
        f"no {names[0]}{others} in {root}: download {url} (licence: {licence}) into it, or set NCA_GEN_WEIGHTS to the "
        "folder that has it"
    )


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hex.

    Published torch files carry its first digits in their name (``vgg16-397923af.pth``): raises UserError where they
    differ, so that a download cut short is known.
    """
    with _opened(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    promised = re.search(r"-([0-9a-f]{8,64})\.(pth|pt)$", Path(path).name)
    if promised and not sha256.startswith(promised[1]):
        raise UserError(
            f"{path} is damaged: its SHA-256 begins with {sha256[:8]}, not as its name says; download it anew"
        )
    return sha256


def read(path: str | Path) -> State:
    """The tensors of a file by name, on the host, in their own precision (bfloat16 and float8 as float32).

    Knows torch's formats (the zip of today, the pickles before 1.6, TorchScript), safetensors and npz, by content. Of a
    checkpoint that holds more, what its ``state_dict`` holds, or the one dict of tensors in it; of a TorchScript
    program what its modules hold, and none of its code. Raises UserError for a file that is none of them or is damaged,
    for a pickle that asks for anything but tensors, and for a tensor of a type that has no numbers here, by its name.
    """
    with _opened(path) as file:
        start = file.read(16)
        file.seek(0)
        try:
            if start[:4] == b"PK\3\4":
                return _zipped(file, path)
            if start.startswith(LEGACY):
                return _legacy(file, path)
            if start[8:9] == b"{":
                return _safetensors(path)
        except UserError:
            raise
        except Exception as error:  # on damaged bytes pickle, zip and numpy each raise what they like
            reason = str(error) or type(error).__name__
            raise UserError(f"{path} is damaged ({reason}); download it anew") from None
    raise UserError(f"{path} holds no weights in a format known here: {ENDINGS}")


def write(path: str | Path, state: State, about: Mapping[str, str] | None = None) -> None:
    """``state`` as safetensors, whole or not at all, with ``about`` in its head. UserError where that cannot be."""
    from safetensors.numpy import save

    # As it is handed over: the library takes the memory of a transposed or strided array for its numbers in order.
    arrays = {name: np.array(state[name], order="C") for name in sorted(state)}
    files.data(path, save(arrays, dict(about) if about else None))


def about(path: str | Path) -> dict[str, str]:
    """What stands in the head of a file of safetensors; nothing where :func:`read` would complain."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _opened(path: str | Path) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {(error.strerror or str(error)).lower()}") from None


def _safetensors(path: str | Path) -> State:
    """The library's own reader of numpy arrays knows no bfloat16, and its names come in no order."""
    from safetensors import deserialize, safe_open

    entries = dict(deserialize(Path(path).read_bytes()))
    with safe_open(path, "np") as file:
        names = file.offset_keys()

    def tensor(name: str, dtype: str, shape: list[int], data: bytes | bytearray) -> np.ndarray:
        if dtype not in SAFE:
            raise UserError(f"{path}: {name} is of type {dtype}, which is not read here; save it as F32")
        return _plain(np.frombuffer(data, SAFE[dtype]).reshape(shape))

    return {name: tensor(name, **entries[name]) for name in names}


def _zipped(file: Any, path: str | Path) -> State:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickled = next((name for name in names if name == "data.pkl" or name.endswith("/data.pkl")), None)
        if pickled is None:
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: _plain(_member(arrays, name, path)) for name in arrays}
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise UserError(f"{path} was written on a big-endian machine; save it as safetensors")

        def storage(dtype: np.dtype, key: str, _device: str, count: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{root}data/{key}"), dtype, count)

        return _state(_Restricted(io.BytesIO(archive.read(pickled)), path, storage).load(), path)


def _member(arrays: Any, name: str, path: str | Path) -> np.ndarray:
    """An array of an npz; two bytes of no type are bfloat16, of which numpy does not write the name."""
    try:
        array = arrays[name]
    except ValueError as error:
        if "pickle" in str(error):
            raise UserError(f"refused {path}: {name} holds Python objects, and weights are numbers") from None
        if "descr" not in str(error):
            raise
        array = np.empty(0, "V1")  # a type of which numpy wrote no name that it knows
    if array.dtype.kind == "V" and array.dtype != np.dtype("V2"):
        raise UserError(f"{path}: {name} is of a type that numpy has no name for; save it as float32")
    return array.view(ml_dtypes.bfloat16) if array.dtype.kind == "V" else array


def _legacy(file: Any, path: str | Path) -> State:
    """Five pickles (magic number, version, sizes of integers, tensors, keys), then the numbers of the storages."""
    storages: dict[str, np.ndarray] = {}

    def storage(dtype: np.dtype, key: str, _device: str, count: int, view: Any = None) -> np.ndarray:
        whole = storages.setdefault(key, np.zeros(count, dtype))  # filled below
        return whole if view is None else whole[view[1] : view[1] + view[2]]

    _, _, _, loaded, keys = (_Restricted(file, path, storage).load() for _ in range(5))
    for key in keys:
        count, whole = int.from_bytes(file.read(8), "little"), storages[key]
        if count != len(whole) or file.readinto(whole.view(np.uint8)) != whole.nbytes:
            raise ValueError("it ends early")
    return _state(loaded, path)


def _state(loaded: Any, path: str | Path) -> State:
    if isinstance(loaded, _Module):
        tensors = dict(loaded.tensors())
        if not tensors:
            raise UserError(
                f"{path} is a TorchScript program that is frozen: its weights have no names; save the state_dict() of "
                "the network that it was made of"
            )
    else:
        tensors = _dict(loaded, path) if isinstance(loaded, Mapping) else {"it": loaded}
    arrays = {name: tensor.data if isinstance(tensor, _Parameter) else tensor for name, tensor in tensors.items()}
    for name, tensor in arrays.items():
        if not isinstance(tensor, np.ndarray):
            raise UserError(
                f"{path} is no state dict: {name} is a {type(tensor).__name__}; save net.state_dict() alone"
            )
    return {str(name): _plain(tensor) for name, tensor in arrays.items()}


def _dict(loaded: Mapping, path: str | Path) -> Mapping:
    """The dict of tensors that a checkpoint is, or that lies in it. Raises UserError where there are several."""
    if isinstance(loaded.get("state_dict"), Mapping):
        return _dict(loaded["state_dict"], path)
    dicts = {name: some.get("state_dict", some) for name, some in loaded.items() if isinstance(some, Mapping)}
    inner = {name: some for name, some in dicts.items() if {*map(type, some.values())} & {np.ndarray, _Parameter}}
    if len(inner) > 1:
        raise UserError(f"{path} holds {', '.join(map(str, inner))}: save the one that is wanted alone")
    return next(iter(inner.values()), loaded)


def _plain(tensor: np.ndarray) -> np.ndarray:
    """In the order of bytes of this machine; floats that numpy does not know as float32."""
    foreign = tensor.dtype.isbuiltin == 2
    return np.asarray(tensor, np.float32 if foreign else tensor.dtype.newbyteorder("="), order="C")


class _Module:
    """A module of a TorchScript program: what it holds by name, and nothing that it does."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.holds = state

    def tensors(self, start: str = "") -> Iterator[tuple[str, np.ndarray]]:
        """The tensors by the names that they have in a state dict."""
        for name, value in self.holds.items():
            if isinstance(value, _Module):
                yield from value.tensors(f"{start}{name}.")
            elif isinstance(value, np.ndarray):
                yield start + name, value


class _Parameter:
    """A parameter as torch pickled it before 0.4: made of its tensor, or of nothing, with the tensor in its state."""

    data: Any

    def __new__(cls, data: Any = None, *_: Any) -> _Parameter:
        self = super().__new__(cls)
        self.data = data
        return self

    def __setstate__(self, state: tuple) -> None:
        self.data = self.data if self.data is not None else state[0]


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """A view of a storage; ``offset`` and ``strides`` count numbers. ValueError where it would reach beyond."""
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= len(storage)):
        raise ValueError("a tensor reaches beyond its numbers")
    steps = [s * storage.itemsize for s in strides]
    return np.ndarray(shape, storage.dtype, storage.view(np.uint8), offset * storage.itemsize, steps)


def _untyped(
    storage: np.ndarray, offset: int, shape: tuple, strides: tuple, _grad: bool, _hooks: Any, dtype: Any, *_: Any
) -> np.ndarray:
    """The same of a storage of bytes, whose numbers are of ``dtype``: one of ``NAMES``, and no word for another."""
    if not isinstance(dtype, np.dtype):
        raise ValueError(f"its numbers are of the type {dtype!r}")
    return _tensor(storage.view(dtype), offset, shape, strides)


NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _untyped,
    ("torch.storage", "UntypedStorage"): np.dtype("u1"),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.nn.parameter", "Parameter"): _Parameter,
}
NAMES |= {("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")}
NAMES[("torch.jit._pickle", "restore_type_tag")] = lambda value, _: value
NAMES |= {("torch", f"{name}Storage"): np.dtype(dtype) for name, dtype in DTYPES.items()}
NAMES |= {("torch", name): np.dtype(dtype) for name, dtype in UNTYPED.items()}


class _Restricted(pickle.Unpickler):
    """Knows ``NAMES``, and modules of a program, and no other; ``storage`` gives the numbers of a tensor."""

    def __init__(self, file: Any, path: str | Path, storage: Callable[..., np.ndarray]):
        super().__init__(file, encoding="utf-8")
        self.path, self.storage = path, storage

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Module
        if (module, name) not in NAMES:
            raise UserError(
                f"refused {self.path}: it asks to run {module}.{name}, and weights need no code; save net.state_dict() "
                "alone, or as safetensors"
            )
        return NAMES[module, name]

    def persistent_load(self, address: Any) -> np.ndarray:
        kind, *where = address
        if kind != "storage":
            raise ValueError(f"an unknown {kind!r} in it")
        return self.storage(*where)
