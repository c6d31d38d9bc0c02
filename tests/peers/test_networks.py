"""Feature networks against torchvision and torch-fidelity, and DINOv2 against a straightforward one in torch."""

import jax
import numpy as np
import pytest
import seeded

from nca_gen.metrics import features
from nca_gen.nn import alexnet, dinov2, port, resnet, squeezenet, vgg

torch = pytest.importorskip("torch", reason="the peers need PyTorch, the package does not")
vision = pytest.importorskip("peers.vision", reason="the peers need torchvision")
models = pytest.importorskip("torchvision.models")
F = torch.nn.functional

STAGES = {f"layer{i}": f"layer{i}" for i in range(1, 5)} | {"pool": "avgpool", "logits": "fc"}

# The peer's name, ours, how large an image it is shown, and the peer's modules whose outputs are our layers.
ROWS = [
    ("alexnet", alexnet.AlexNet(), 67, {f"relu{k}": f"features.{i}" for k, i in enumerate((1, 4, 7, 9, 11), 1)}),
    (
        "squeezenet1_1",
        squeezenet.SqueezeNet(),
        66,
        {f"relu{k}": f"features.{i}" for k, i in enumerate((1, 4, 7, 9, 10, 11, 12), 1)},
    ),
    (
        "vgg16",
        vgg.VGG16(head=False),
        35,
        {f"relu{k}": f"features.{i}" for k, i in (("1_2", 3), ("2_2", 8), ("3_3", 15), ("4_3", 22), ("5_3", 29))},
    ),
    ("resnet34", resnet.resnet34(), 35, STAGES),
    ("resnet50", resnet.resnet50(), 35, STAGES),
]


def first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def close(mine, theirs, tolerance=1e-4):
    """Every number of a layer, relative to itself or to the layer's mean where it is smaller."""
    np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).mean())


def peer(name, state):
    """torchvision's, with our weights; the classifier that we leave out is zero."""
    with torch.device("meta"):  # nothing is drawn
        made = getattr(models, name)(weights=None)
    given = {k: torch.tensor(v) for k, v in state.items()}
    for k, empty in made.state_dict().items():
        if k.startswith("classifier") or k.endswith("num_batches_tracked"):
            given.setdefault(k, torch.zeros(empty.shape, dtype=empty.dtype))
    made.load_state_dict(given, assign=True)
    return made.eval()


def answers(net, x, wanted):
    """Outputs of the peer's modules under our names, channels last."""
    found = {}
    for layer, module in wanted.items():

        def keep(_, __, y, layer=layer):
            return found.update({layer: y.clone()})  # ReLU works in place

        net.get_submodule(module).register_forward_hook(keep)
    with torch.no_grad():
        net(first(x))
    return {layer: np.moveaxis(found[layer].numpy(), 1, -1) for layer in wanted}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "network", "size", "wanted"), ROWS, ids=[row[0] for row in ROWS])
def test_torchvision(name, network, size, wanted):
    theirs = answers(peer(name, seeded.state(network, size)), seeded.images(size), wanted)
    mine = seeded.layers(network, size)
    assert set(mine) == set(theirs)
    for layer, y in mine.items():
        close(y, theirs[layer].reshape(y.shape))


@pytest.mark.slow
def test_torchvision_in_training():
    """The batch's own moments, and the running ones moved a tenth of the way; torch's variance there is of ddof 1."""
    network, size, n = resnet.resnet34(), 35, 6
    state, x = seeded.state(network, size), seeded.images(size, n)
    theirs = peer("resnet34", state)
    with torch.no_grad():
        logits = theirs.train()(first(x)).numpy()
    run = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable="batch_stats"))
    mine, moved = run(port.variables(state, network, x), x)
    close(mine["logits"], logits)
    stats = moved["batch_stats"]
    for name, ours, pixels in (("bn1", stats["bn1"], n * 18**2), ("layer4.2.bn2", stats["layer4.2"]["bn2"], n * 2**2)):
        bn = theirs.get_submodule(name)
        close(ours["mean"], bn.running_mean.numpy())
        kept = 0.9 * state[f"{name}.running_var"]
        close(kept + (ours["var"] - kept) * pixels / (pixels - 1), bn.running_var.numpy())


def textbook(state, x, width):
    """DINOv2 (arXiv 2304.07193) without registers, from its published tensors; x: [B, 3, H, W]."""
    s = {k: torch.tensor(v) for k, v in state.items()}

    def affine(x, name):
        return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (width,), s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)

    x = F.conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=14)
    b, _, h, w = x.shape
    places = s["pos_embed"][:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    if (h, w) != (37, 37):
        places = F.interpolate(places, scale_factor=((h + 0.1) / 37, (w + 0.1) / 37), mode="bicubic")
    x = (x + places).flatten(2).transpose(1, 2)
    x = torch.cat([(s["cls_token"] + s["pos_embed"][:, :1]).expand(b, -1, -1), x], 1)
    for i in range(12):
        qkv = affine(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        q, k, v = (t.unflatten(2, (-1, 64)).transpose(1, 2) for t in qkv.chunk(3, 2))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + affine(y, f"blocks.{i}.attn.proj") * s[f"blocks.{i}.ls1.gamma"]
        y = F.gelu(affine(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + affine(y, f"blocks.{i}.mlp.fc2") * s[f"blocks.{i}.ls2.gamma"]
    return norm(x, "norm")[:, 0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("network", "size"), [(dinov2.vit_s14(), 28), (dinov2.vit_b14(), 56)])
def test_dinov2(network, size):
    theirs = textbook(seeded.state(network, size), first(seeded.images(size)), network.width)
    close(seeded.layers(network, size)["cls"], theirs)


@pytest.mark.slow
def test_dinov2_of_a_rectangle():
    """Resampled to 1 and to 37 patches: only 37 x 37 are left as they are."""
    network, x = dinov2.vit_s14(), np.random.RandomState(0).standard_normal((1, 14, 518, 3)).astype(np.float32)
    state = seeded.state(network, 28)
    mine = jax.jit(network.apply)(port.variables(state, network, x), x)
    close(mine["cls"], textbook(state, first(x), network.width))


def extracted(name, monkeypatch, tmp_path, state):
    """What the row ``name`` makes of 8 bits, given weights that no file holds; and these 8 bits."""
    pixels = np.random.RandomState(3).randint(0, 256, (2, 50, 61, 3), np.uint8)
    monkeypatch.setattr(features.published, "read", lambda path: state)
    (tmp_path / "weights.pth").touch()
    return features.extract(name, pixels.astype(np.float32) / 128 - 1, weights=tmp_path / "weights.pth"), pixels


@pytest.mark.slow
def test_torch_fidelity_vgg16(monkeypatch, tmp_path):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_vgg16")
    state = seeded.state(vgg.VGG16(), 224)
    state = state | {"classifier.6.weight": np.zeros((1000, 4096)), "classifier.6.bias": np.zeros(1000)}
    mine, pixels = extracted("vgg16", monkeypatch, tmp_path, state)
    monkeypatch.setattr(torch, "load", lambda *_, **__: {k: torch.tensor(v) for k, v in state.items()})
    theirs = fidelity.FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path="in memory")
    close(mine["fc2"], theirs(first(pixels))[0].numpy())


def prepared(pixels):
    """As torch-fidelity gives images to every network of ImageNet."""
    tf1 = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    x = tf1.interpolate_bilinear_2d_like_tensorflow1x(first(pixels).float(), (224, 224), align_corners=False)
    transforms = pytest.importorskip("torchvision.transforms.functional")
    return transforms.normalize(x / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.slow
def test_extractors_of_imagenet(monkeypatch, tmp_path):
    network = dinov2.vit_s14()
    state = seeded.state(network, 28) | {"mask_token": np.zeros((1, network.width))}
    mine, pixels = extracted("dinov2-vits14", monkeypatch, tmp_path, state)
    close(mine["cls"], textbook(state, prepared(pixels), network.width))
    state = seeded.state(resnet.resnet34(), 35)
    mine, pixels = extracted("resnet34", monkeypatch, tmp_path, state)
    theirs = peer("resnet34", state)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        close(mine["pool"], theirs(prepared(pixels)).numpy())
