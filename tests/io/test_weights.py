"""Weights from files. Those of torch are written here byte by byte, so that no torch is needed; its own in peers."""

import json
import pickle
import re
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.io import weights

ORDERED = b"ccollections\nOrderedDict\n)R"
KINDS = {"Float": np.float32, "Half": np.float16, "Double": np.float64, "Long": np.int64, "Bool": np.bool_}


def text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def number(n):
    return b"J" + struct.pack("<i", n)


def several(*items):
    return b"(" + b"".join(items) + b"t"


def numbers(*ns):
    return several(*map(number, ns))


def storage(key, count, kind="Float", *more):
    return several(
        text("storage"), f"ctorch\n{kind}Storage\n".encode(), text(key), text("cuda:0"), number(count), *more
    )


def tensor(where, shape, strides, offset=0, name="_rebuild_tensor_v2"):
    rest = (b"\x89", ORDERED) if name.endswith("v2") else ()
    args = several(where + b"Q", number(offset), numbers(*shape), numbers(*strides), *rest)
    return f"ctorch._utils\n{name}\n".encode() + args + b"R"


def mapping(**items):
    return ORDERED + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def program(body):
    return b"\x80\x02" + body + b"."


def new_file(path, body, **data):
    """As torch writes it since 1.6: a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", program(body))
        archive.writestr("net/byteorder", "little")
        for key, values in data.items():
            archive.writestr(f"net/data/{key.removeprefix('k')}", values.tobytes())
    return path


def old_file(path, body, **data):
    """As torch wrote it before: magic number, version, sizes, tensors, keys, then every storage with its count."""
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    tail = pickle.dumps([key.removeprefix("k") for key in data], 2)
    tail += b"".join(struct.pack("<q", values.size) + values.tobytes() for values in data.values())
    path.write_bytes(head + program(body) + tail)
    return path


A, B = np.arange(12, dtype=np.float32), np.array([5, -7, 9], np.int64)
FILES = pytest.mark.parametrize("write", [new_file, old_file])


@FILES
def test_tensors_of_a_torch_file(write, tmp_path):
    """Whole, transposed, from the middle and without axes; two tensors share a storage."""
    a = storage("0", 12)
    body = mapping(
        whole=tensor(a, (3, 4), (4, 1)),
        turned=tensor(a, (4, 2), (1, 4), 4),
        scalar=tensor(storage("1", 3, "Long"), (), (), 1),
        empty=tensor(a, (0, 4), (4, 1)),
        wrapped=b"ctorch._utils\n_rebuild_parameter\n" + several(tensor(a, (2,), (5,)), b"\x88", ORDERED) + b"R",
    )
    found = weights.read(write(tmp_path / "net.pth", body + b"}" + text("_metadata") + ORDERED + b"sb", k0=A, k1=B))
    expected = {
        "whole": A.reshape(3, 4),
        "turned": A[4:].reshape(2, 4).T,
        "scalar": np.array(-7),
        "empty": np.zeros((0, 4), np.float32),
        "wrapped": A[[0, 5]],
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, strict=name != "scalar")
        assert found[name].flags.c_contiguous


@FILES
@pytest.mark.parametrize("kind", KINDS)
def test_precisions(write, kind, tmp_path):
    values = np.array([0, 1, 2.5, -3], KINDS[kind])
    path = write(tmp_path / "net.pt", mapping(x=tensor(storage("0", 4, kind), (4,), (1,))), k0=values)
    np.testing.assert_array_equal(weights.read(path)["x"], values, strict=True)


@FILES
def test_bfloat16_is_the_upper_half_of_float32(write, tmp_path):
    values = np.array([1.0, -2.5, 3e30], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    path = write(tmp_path / "net.pth", mapping(x=tensor(storage("0", 3, "BFloat16"), (3,), (1,))), k0=halves)
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(weights.read(path)["x"], expected, strict=True)


@FILES
@pytest.mark.parametrize("name", ["uint32", "float8_e4m3fn", "float8_e5m2"])
def test_tensors_of_a_storage_without_a_type(write, name, tmp_path):
    """As torch writes what it has no storages for: bytes, and the type beside."""
    values = np.arange(8).astype(np.uint32 if name == "uint32" else getattr(ml_dtypes, name))
    where = several(text("storage"), b"ctorch.storage\nUntypedStorage\n", text("0"), text("cpu"), number(values.nbytes))
    kind = f"ctorch\n{name}\n".encode()
    args = several(where + b"Q", number(2), numbers(2, 3), numbers(3, 1), b"\x89", ORDERED, kind)
    body = mapping(x=b"ctorch._utils\n_rebuild_tensor_v3\n" + args + b"R")
    found = weights.read(write(tmp_path / "net.pt", body, k0=values.view(np.uint8)))["x"]
    np.testing.assert_array_equal(found, values[2:].reshape(2, 3).astype(found.dtype))
    assert found.dtype == (np.uint32 if name == "uint32" else np.float32)


def safetensors(path, **tensors):
    """(type, numbers) by name, written byte by byte."""
    header, data = {}, b""
    for name, (kind, array) in tensors.items():
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
    return path


def test_every_type_of_safetensors(tmp_path):
    eight = {
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    }
    kinds = {"U16": np.uint16, "U32": np.uint32, "U64": np.uint64, "I8": np.int8, "C64": np.complex64} | eight
    values = {kind: (kind, np.arange(6).reshape(2, 3).astype(dtype)) for kind, dtype in kinds.items()}
    found = weights.read(safetensors(tmp_path / "x.safetensors", **values))
    for kind, array in found.items():
        np.testing.assert_array_equal(array, np.arange(6).reshape(2, 3))
        assert array.dtype == (np.float32 if kind in eight else kinds[kind])
    odd = safetensors(tmp_path / "x.safetensors", w=("F4", np.zeros(4, np.uint8)), v=("F32", np.zeros(2, np.float32)))
    header = odd.read_bytes().replace(b'"shape": [4]', b'"shape": [8]')
    odd.write_bytes(header)
    with pytest.raises(UserError, match="w is of type F4, which is not read here"):
        weights.read(odd)


def test_types_of_npz(tmp_path):
    """bfloat16 has no name there; big-endian numbers are those of this machine; nothing sound is called damaged."""
    half = np.array([1.0, -2.5, 3e30], ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", half=half, big=np.arange(3, dtype=">f8"))
    found = weights.read(tmp_path / "x.npz")
    np.testing.assert_array_equal(found["half"], half.astype(np.float32), strict=True)
    np.testing.assert_array_equal(found["big"], np.arange(3.0), strict=True)
    for array, words in (
        (np.array([{}]), "w holds Python objects"),
        (half.astype(ml_dtypes.float8_e5m2), "w is of a type that numpy has no name for"),
        (half.astype(ml_dtypes.float8_e4m3fn), "w is of a type that numpy has no name for"),
    ):
        np.savez(tmp_path / "x.npz", w=array)
        with pytest.raises(UserError, match=words):
            weights.read(tmp_path / "x.npz")


def test_how_parameters_were_written_before_version_0_4(tmp_path):
    """Views of a storage; parameters called with their tensor, or made empty and filled by their state."""
    plain = tensor(
        storage("0", 12, "Float", several(text("view"), number(2), number(6))), (2,), (3,), 1, "_rebuild_tensor"
    )
    parameter = b"ctorch.nn.parameter\nParameter\n"
    called = parameter + several(plain) + b"R" + several(b"\x88", b"\x89", b"N") + b"b"
    filled = parameter + b")\x81" + several(plain, b"\x88", b"N", b"\x88", b"\x89") + b"b"
    found = weights.read(old_file(tmp_path / "net.pth", mapping(a=plain, b=called, c=filled), k0=A))
    assert [found[name].tolist() for name in "abc"] == [[3.0, 6.0]] * 3


def test_the_state_dict_in_a_checkpoint(tmp_path):
    state = mapping(x=tensor(storage("0", 12), (12,), (1,)))
    path = new_file(tmp_path / "run.ckpt", mapping(epoch=number(3), state_dict=state), k0=A)
    np.testing.assert_array_equal(weights.read(path)["x"], A)
    with pytest.raises(UserError, match=r"no state dict: epoch is a int; save net\.state_dict\(\)"):
        weights.read(new_file(tmp_path / "run.ckpt", mapping(epoch=number(3))))


@FILES
@pytest.mark.parametrize("name", ["os\nsystem", "builtins\neval", "numpy\nload", "torch\nload", "collections\ndeque"])
def test_a_file_that_asks_to_run_something_is_refused(write, name, tmp_path):
    touch = f"c{name}\n".encode() + several(text(f"touch {tmp_path}/gotcha")) + b"R"
    with pytest.raises(UserError, match=rf"refused .*net\.pth: it asks to run {name.replace(chr(10), '.')}"):
        weights.read(write(tmp_path / "net.pth", mapping(x=touch)))
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


@FILES
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((13,), (1,), 0), ((12,), (1,), 1), ((2,), (-1,), 5), ((2, 2), (1, 11), 1), ((1,), (1,), -1)],
)
def test_a_tensor_cannot_reach_beyond_its_numbers(write, shape, strides, offset, tmp_path):
    path = write(tmp_path / "net.pth", mapping(x=tensor(storage("0", 12), shape, strides, offset)), k0=A)
    with pytest.raises(UserError, match="damaged"):
        weights.read(path)


def safetensors_file(path, dtype="F32", **tensors):
    """As its format says: length of the header, header, numbers."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, x in tensors.items():
        header[name] = {"dtype": dtype, "shape": x.shape, "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


@pytest.mark.parametrize(("name", "dtype"), [("F32", "f4"), ("F16", "f2"), ("F64", "f8"), ("I64", "i8"), ("BOOL", "?")])
def test_safetensors(name, dtype, tmp_path):
    tensors = {"x": A.reshape(3, 4).astype(dtype), "scalar": np.array(1, dtype), "y": np.array([0, 5], dtype)}
    found = weights.read(safetensors_file(tmp_path / "net.safetensors", name, **tensors))
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_bfloat16_in_safetensors(tmp_path):
    halves = np.array([1.5, -2.0], np.float32).view(np.uint16)[1::2]
    path = safetensors_file(tmp_path / "net.safetensors", "BF16", x=halves)
    np.testing.assert_array_equal(weights.read(path)["x"], np.float32([1.5, -2.0]), strict=True)


def test_npz(tmp_path):
    tensors = {"fc.weight": A.reshape(3, 4), "n": B, "scalar": np.array(2.5)}
    np.savez(tmp_path / "net.npz", **tensors)
    found = weights.read(tmp_path / "net.npz")
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_objects_in_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "net.npz", x=np.array([{}], object))
    with pytest.raises(UserError, match=r"refused .*x holds Python objects"):
        weights.read(tmp_path / "net.npz")


@pytest.mark.parametrize("kind", ["new", "old", "safetensors", "npz"])
def test_a_file_cut_short(kind, tmp_path):
    path, body = tmp_path / f"net.{kind}", mapping(x=tensor(storage("0", 12), (12,), (1,)))
    if kind in ("new", "old"):
        (new_file if kind == "new" else old_file)(path, body, k0=A)
    else:
        safetensors_file(path, x=A) if kind == "safetensors" else np.savez(path, x=A)
    data = path.read_bytes()
    for size in range(24, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="damaged"):
            weights.read(path)


def test_what_is_no_weights(tmp_path):
    page = tmp_path / "net.pth"
    page.write_text("<!DOCTYPE html><html>404")
    with pytest.raises(UserError, match="no weights in a format known here"):
        weights.read(page)
    with pytest.raises(UserError, match=r"cannot read weights .*nothing\.pth: no such file"):
        weights.read(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match=r"TorchScript program that is frozen.*save the state_dict\(\)"):
        weights.read(new_file(page, module("Net", training=b"\x89")))


def module(kind, **holds):
    """A module of a TorchScript program: an object of a class of its own, with a dict of what it holds."""
    return f"c__torch__.net\n{kind}\n".encode() + b")\x81}(" + b"".join(text(k) + v for k, v in holds.items()) + b"ub"


def test_a_torchscript_program_is_read_and_not_run(tmp_path):
    """Tensors by the names of a state dict; lists, numbers and flags of a program are no weights."""
    sizes = b"ctorch.jit._pickle\nbuild_intlist\n" + several(b"](" + number(1) + number(2) + b"e") + b"R"
    tagged = b"ctorch.jit._pickle\nrestore_type_tag\n" + several(b"](" + text("a") + b"e", text("List[str]")) + b"R"
    conv = module("Conv", weight=tensor(storage("0", 12), (3, 4), (4, 1)), bias=b"N", training=b"\x89", sizes=sizes)
    body = module(
        "Net",
        scale=tensor(storage("1", 3, "Long"), (3,), (1,)),
        names=tagged,
        k=number(7),
        blocks=module("S", conv=conv),
    )
    found = weights.read(new_file(tmp_path / "net.pt", body, k0=A, k1=B))
    assert {name: value.tolist() for name, value in found.items()} == {
        "scale": B.tolist(),
        "blocks.conv.weight": A.reshape(3, 4).tolist(),
    }


@FILES
def test_the_one_dict_of_tensors_in_a_checkpoint(write, tmp_path):
    """By whatever name; of several none is the one that is meant."""
    one = mapping(x=tensor(storage("0", 12), (12,), (1,)))
    path = write(tmp_path / "run.pt", mapping(epoch=number(3), net=one, optimizer=mapping(lr=number(1))), k0=A)
    np.testing.assert_array_equal(weights.read(path)["x"], A)
    for nest in (mapping(model=mapping(state_dict=one)), mapping(state_dict=mapping(model=one))):
        np.testing.assert_array_equal(weights.read(write(tmp_path / "run.pt", nest, k0=A))["x"], A)
    beside = mapping(model=one, step=tensor(storage("0", 12), (12,), (1,)))  # a counter
    assert [*weights.read(write(tmp_path / "run.pt", beside, k0=A))] == ["x"]
    with pytest.raises(UserError, match=r"run.pt holds net, ema: save the one that is wanted alone"):
        weights.read(write(tmp_path / "run.pt", mapping(net=one, ema=one), k0=A))


def test_digest_is_checked_against_the_name(tmp_path):
    """SHA-256 of "abc" from FIPS 180-2, appendix B.1."""
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for name in ("abc", "net-ba7816bf.pth", "net-2015-12-05-ba7816bf.pth", "net-00000000.npz"):
        (tmp_path / name).write_bytes(b"abc")
        assert weights.digest(tmp_path / name) == known
    (tmp_path / "net-ba7816be.pth").write_bytes(b"abc")
    with pytest.raises(UserError, match="damaged: its SHA-256 begins with ba7816bf"):
        weights.digest(tmp_path / "net-ba7816be.pth")


def test_where_weights_are_looked_for(tmp_path, monkeypatch):

    def find(folder=None):
        return weights.find(["a.pth", "b.npz"], folder, url="https://x.org/a.pth", licence="MIT")

    given, named, home = (tmp_path / name for name in ("given", "named", "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.delenv("NCA_GEN_WEIGHTS", raising=False)
    for folder in (given, named, home / "nca_gen" / "weights"):
        folder.mkdir(parents=True)
    says = f"no a.pth (or b.npz) in {home}/nca_gen/weights: download https://x.org/a.pth (licence: MIT) into it"
    with pytest.raises(UserError, match=re.escape(says)):
        find()
    (home / "nca_gen" / "weights" / "b.npz").touch()
    assert find() == home / "nca_gen" / "weights" / "b.npz"
    monkeypatch.setenv("NCA_GEN_WEIGHTS", str(named))
    with pytest.raises(UserError, match=str(named)):
        find()
    (named / "b.npz").touch()
    (named / "a.pth").touch()
    assert find() == named / "a.pth"
    with pytest.raises(UserError, match=str(given)):
        find(given)


def test_nothing_is_read_beyond_the_pickles_own_numbers(tmp_path):
    """A key is a name inside of the archive, whatever it looks like."""
    path = new_file(tmp_path / "net.pth", mapping(x=tensor(storage("../../secret", 3), (3,), (1,))))
    (tmp_path / "secret").write_bytes(A.tobytes())
    with pytest.raises(UserError, match="damaged"):
        weights.read(path)


def test_what_is_written_is_read(tmp_path):
    """Every type as it was (bfloat16 as float32), transposed and empty arrays, scalars; nothing half written stays."""
    rng = np.random.default_rng(0)
    state = {"a.b": rng.standard_normal((3, 4)).astype(np.float32).T, "half": np.float16([[1.5]]), "c": np.int64(7)}
    state |= {"none": np.zeros((0, 3), np.uint8), "yes": np.array([True]), "d": np.float64([1e-300])}
    state = {name: np.asarray(x) for name, x in state.items()}
    weights.write(tmp_path / "x.safetensors", state)
    found = weights.read(tmp_path / "x.safetensors")
    assert found.keys() == state.keys()
    for name, x in state.items():
        np.testing.assert_array_equal(found[name], x)
        assert found[name].dtype == x.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(UserError, match="cannot write"):
        weights.write(tmp_path / "no" / "x.safetensors", state)


def test_arrays_are_written_by_their_numbers_not_by_their_memory(tmp_path):
    """Transposed, strided, reversed, big-endian, of one element: safetensors 0.8.0 would save the first three wrong."""
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    state = {"t": x.T, "strided": x[::2, 1::3], "back": x[::-1], "f": np.asfortranarray(x), "big": x.astype(">f4")}
    weights.write(tmp_path / "x.safetensors", state | {"one": np.array(2.5)})
    found = weights.read(tmp_path / "x.safetensors")
    for name, value in state.items():
        assert found[name].tolist() == value.tolist()
    assert (found["one"].shape, float(found["one"])) == ((), 2.5)
