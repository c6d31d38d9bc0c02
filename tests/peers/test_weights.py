"""Files as torch and safetensors write them."""

from collections import OrderedDict

import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.io import weights

torch = pytest.importorskip("torch", reason="the peer needs PyTorch, the package does not")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def tensors():
    """All precisions, views of one storage, a parameter, and a network's own state dict with its metadata."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, (3, 2)), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 2).half())
    found = net.state_dict()
    assert isinstance(found, OrderedDict)
    base = torch.randn(6, 4)
    found |= {f"x{i}": (5 * torch.randn(3, 2)).to(dtype) for i, dtype in enumerate(DTYPES)}
    found |= {"turned": base.T, "part": base[2:4, 1:], "parameter": torch.nn.Parameter(torch.ones(2, 3))}
    return found


def same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach()
        value = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        np.testing.assert_array_equal(found[name], value, strict=True)


@pytest.mark.parametrize("new", [True, False])
def test_torch(new, tmp_path):
    torch.save(tensors(), tmp_path / "net.pth", _use_new_zipfile_serialization=new)
    same(weights.read(tmp_path / "net.pth"), tensors())


@pytest.mark.parametrize("new", [True, False])
def test_a_whole_network_is_refused(new, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=r"refused .*torch\.nn\.modules\.linear\.Linear"):
        weights.read(tmp_path / "net.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # that torch.jit will go
@pytest.mark.parametrize("made", [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(1, 2, 4, 4))])
def test_torchscript(made, tmp_path):
    """The program's own state dict, and a frozen one has none."""
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU()))
    torch.jit.save(made(net.eval()), tmp_path / "net.pt")
    same(dict(sorted(weights.read(tmp_path / "net.pt").items())), dict(sorted(net.state_dict().items())))
    torch.jit.save(torch.jit.freeze(torch.jit.script(net)), tmp_path / "frozen.pt")
    with pytest.raises(UserError, match="TorchScript program that is frozen"):
        weights.read(tmp_path / "frozen.pt")


def test_safetensors(tmp_path):
    peer = pytest.importorskip("safetensors.torch")
    expected = dict(sorted((k, v.detach().contiguous().clone()) for k, v in tensors().items()))
    peer.save_file(expected, tmp_path / "net.safetensors")
    found = weights.read(tmp_path / "net.safetensors")
    same(dict(sorted(found.items())), expected)


def test_safetensors_reads_what_we_write(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float16([1, 2]), "n": np.asarray(np.int64(3))}
    weights.write(tmp_path / "x.safetensors", state)
    found = safetensors.load_file(tmp_path / "x.safetensors")
    assert found.keys() == state.keys()
    for name, x in state.items():
        np.testing.assert_array_equal(found[name], x)
