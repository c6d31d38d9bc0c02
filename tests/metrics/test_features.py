"""How images reach a network and features come back, with a network so small that the answer is known."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen import sections
from nca_gen.errors import UserError
from nca_gen.io import images, weights
from nca_gen.metrics import features
from nca_gen.nn import port


class Net(nn.Module):
    """Sums of every channel, times a kernel."""

    @nn.compact
    def __call__(self, x):
        total = x.sum((1, 2))
        return {"sum": total, "fc": nn.Dense(2, use_bias=False, name="fc")(total)}


ROW = features.Extractor(
    network=Net,
    layers=("sum", "fc"),
    size=4,
    inputs=lambda x: x[:, :4, :4] - 100,
    resize="the upper left corner",
    normalisation="x - 100",
    files=("net.npz", "net.pth"),
    url="https://x.org/net.pth",
    licence="MIT",
)
KERNEL = np.array([[1.0, 2, 3], [-1, 0, 0.5]], np.float32)
PIXELS = np.random.RandomState(0).randint(0, 256, (11, 6, 5, 3), np.uint8)
IMAGES = images.to_float(PIXELS)
SUMS = (PIXELS[:, :4, :4].astype(float) - 100).sum((1, 2))


@pytest.fixture(autouse=True)
def net(monkeypatch, tmp_path):
    """The extractors "net" and "net-random", and weights in the folder named by the environment."""
    rows = {"net": ROW, "net-random": dataclasses.replace(ROW, files=())}
    monkeypatch.setattr(features, "EXTRACTORS", features.EXTRACTORS | rows)
    monkeypatch.setenv("NCA_GEN_WEIGHTS", str(tmp_path))
    np.savez(tmp_path / "net.npz", **{"fc.weight": KERNEL})
    return tmp_path / "net.npz"


class Set:
    """Not an array: images by slices, of which the sizes are remembered."""

    def __init__(self, x=IMAGES):
        self.x, self.shape, self.read = x, x.shape, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, where):
        self.read.append(len(self.x[where]))
        return self.x[where]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4, 6, 32])
def test_every_image_in_its_place_whatever_the_batch(batch):
    """A batch is rounded up to the four devices, the last one filled up, and there is never more than one at a time."""
    source, done = Set(), []
    found = features.extract("net", source, batch=batch, progress=done.append)
    np.testing.assert_array_equal(found["sum"], SUMS)
    np.testing.assert_allclose(found["fc"], SUMS @ KERNEL.T, rtol=1e-6)
    size = {1: 4, 4: 4, 6: 8, 32: 12}[batch]
    sizes = [len(IMAGES[i : i + size]) for i in range(0, 11, size)]
    assert source.read == sizes
    assert done == np.cumsum(sizes).tolist()


def test_large_images_come_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(features, "NUMBERS", 5 * IMAGES[0].size)
    source = Set()
    np.testing.assert_array_equal(features.extract("net", source)["sum"], SUMS)
    assert source.read == [8, 3]


def test_only_the_layers_asked_for():
    assert set(features.extract("net", IMAGES, layers=["fc"])) == {"fc"}
    with pytest.raises(UserError, match=r"unknown layer of net: 'sun'; did you mean sum\?"):
        features.extract("net", IMAGES, layers=["sun"])


def test_a_network_sees_the_pixels_of_the_file():
    """All 256 values, on the way to [-1, 1] and back; one channel is repeated."""
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(features.rgb(images.to_float(every)), np.repeat(every, 3, -1))
    grey = features.extract("net", IMAGES[..., :1])["sum"]
    np.testing.assert_array_equal(grey, SUMS[:, :1].repeat(3, 1))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    with pytest.raises(UserError, match=f"1 or 3 channels, and the images have {channels}"):
        features.extract("net", np.zeros((2, 6, 5, channels), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(value):
    broken = IMAGES.copy()
    broken[9, 5, 4, 0] = value
    with pytest.raises(UserError, match="NaN or infinite pixels"):
        features.extract("net", broken, batch=4)


def test_no_images_and_no_such_extractor():
    with pytest.raises(UserError, match="no images to take net features of"):
        features.extract("net", IMAGES[:0])
    with pytest.raises(UserError, match="unknown extractor 'inceptoin'; did you mean inception"):
        features.extract("inceptoin", IMAGES)


def test_weights_from_a_file_a_folder_or_nowhere(net, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    np.savez(other / "mine.npz", **{"fc.weight": 2 * KERNEL})

    def got(**how):
        return features.extract("net", IMAGES[:1], layers=["fc"], **how)["fc"]

    np.testing.assert_allclose(got(weights=other / "mine.npz"), 2 * got())
    np.testing.assert_array_equal(got(weights=str(tmp_path)), got())
    with pytest.raises(UserError, match=r"no net\.npz .*https://x\.org/net\.pth \(licence: MIT\)"):
        got(weights=other)
    np.savez(net, **{"fc.weight": KERNEL[:1]})
    with pytest.raises(UserError, match=r"fc\.weight is \(1, 3\), not \(2, 3\)"):
        got()


def test_random_weights_are_always_the_same():
    fixed = port.random_state(Net(), jnp.zeros((1, 4, 4, 3)), 0)["fc.weight"]
    np.testing.assert_allclose(features.extract("net-random", IMAGES)["fc"], SUMS @ fixed.T, rtol=1e-5)


def test_the_protocol_says_how_it_was_done(net):
    assert features.protocol("net") == {
        "extractor": "net",
        "weights": "net.npz",
        "sha256": weights.digest(net),
        "resize": "the upper left corner",
        "normalisation": "x - 100",
        "dtype": "float32",
        "layers": ["sum", "fc"],
    }
    random = features.protocol("net-random")
    assert (random["weights"], random["sha256"]) == ("random, seed 0", None)


@pytest.mark.parametrize("name", [name for name in features.EXTRACTORS if name.startswith("inception")])
def test_every_row_says_what_to_download(name, tmp_path):
    row = features.EXTRACTORS[name]
    if name == "inception-random":
        assert not row.files
        return
    with pytest.raises(UserError, match=rf"no {row.files[0]} .* download {row.url} \(licence: {row.licence}\)"):
        features.protocol(name)


@pytest.fixture
def calls(monkeypatch):
    """The names that extract is called with."""
    found, extract = [], features.extract
    monkeypatch.setattr(features, "extract", lambda name, *a, **k: found.append(name) or extract(name, *a, **k))
    return found


def test_features_are_kept(calls, tmp_path):
    """Computed once for the same pixels, weights and layers, whatever holds the images; anew for any other."""

    def got(x=IMAGES, **how):
        return features.cached(how.pop("name", "net"), x, tmp_path / "kept", **how)

    first, again = got(), got(Set())
    assert len(calls) == 1
    assert list(first) == list(again) == ["sum", "fc"]
    for layer in first:
        np.testing.assert_array_equal(first[layer], again[layer], strict=True)
    np.testing.assert_array_equal(first["sum"], SUMS)
    changed = PIXELS.copy()
    changed[10, 5, 4, 2] ^= 1  # a pixel that the network does not even see
    np.testing.assert_array_equal(got(images.to_float(changed))["sum"], SUMS)
    np.testing.assert_array_equal(got(IMAGES[::-1])["sum"], SUMS[::-1])
    assert list(got(layers=["fc"])) == ["fc"]
    got(IMAGES.reshape(11, 5, 6, 3))
    got(name="net-random")
    np.savez(tmp_path / "net.npz", **{"fc.weight": -KERNEL})
    np.testing.assert_allclose(got()["fc"], -first["fc"])
    assert len(calls) == 7
    assert len(list((tmp_path / "kept").iterdir())) == 7


def test_a_damaged_file_is_made_anew(calls, tmp_path):
    first = features.cached("net", IMAGES, tmp_path / "kept")
    (path,) = (tmp_path / "kept").iterdir()
    whole = path.read_bytes()
    at = whole.index(first["sum"].tobytes())
    for data in (b"", whole[:100], whole[:-30], whole[: at + 8] + b"\xff" + whole[at + 9 :]):
        path.write_bytes(data)
        np.testing.assert_array_equal(features.cached("net", IMAGES, tmp_path / "kept")["sum"], SUMS)
        assert path.read_bytes() == whole
    assert len(calls) == 5
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_sections_name_the_same_networks():
    """A config knows their names before any of them is loaded."""
    assert {*sections.EXTRACTORS} <= {*features.EXTRACTORS}
