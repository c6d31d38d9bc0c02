"""--mode=expand under label maps, and what --mode=segment makes of it: the whole way of CA-LDM's downstream tables."""

from dataclasses import replace

import jax.numpy as jnp
import layers
import numpy as np
import pytest
from ml_collections import ConfigDict

from nca_gen import arrays, build
from nca_gen import config as configs
from nca_gen.data import mixture, retina_phantom
from nca_gen.data.layers import LAYERS
from nca_gen.data.source import Splits
from nca_gen.errors import UserError
from nca_gen.io import images, volumes
from nca_gen.pipelines import ca_ldm, files
from nca_gen.runtime import run
from nca_gen.verbs import expand as verb
from nca_gen.verbs import segment

DATA = {"name": "retina_phantom", "n": 6, "size": layers.SIZE, "labels": "layers"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Of a chain that learned layers."""
    return layers.parts(tmp_path_factory.mktemp("latents"), classes=len(LAYERS), guidance=2.0)


@pytest.fixture(autouse=True)
def trained(parts, monkeypatch):
    """Every workdir has these parts."""
    monkeypatch.setattr(run, "parts", lambda config, workdir: parts)


@pytest.fixture(scope="module")
def real():
    return retina_phantom.splits(**{field: value for field, value in DATA.items() if field != "name"})


def config(times=2, size=layers.SIZE, data=(), **generate):
    page = {
        "model": {"name": "multislice"} | layers.PLANAR,
        "task": {"name": "autoencode"},
        "data": DATA | dict(data),
        "sample": {"size": size},
        "generate": {"name": "ca_ldm", "dtype": "uint8"} | generate,
        "expand": {"times": times},
    }
    return build.completed(ConfigDict(page), "expand").lock()


def content(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def expanded(tmp_path_factory, parts, real):
    """Twice the training split, where nobody who is held out can be so much as read."""
    closed = lambda i: pytest.fail("this one is held out")
    held = {split: replace(real[split], load=closed, window=None) for split in ("val", "test")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "parts", lambda config, workdir: parts)
        patch.setattr(build, "splits", lambda config: Splits({"train": real["train"]} | held))
        return verb.expand(config(), tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_volumes_under_the_maps_of_the_training_split_alone(expanded, parts, real):
    """Volume i is what the pipeline draws of its map and its number, and bears the patient of that map."""
    found, n = mixture.generated(str(expanded)), len(real["train"])
    assert len(found) == 2 * n == 8
    patients = [real["train"].head(i)["patient"] for i in range(n)]
    assert [found.head(i)["patient"] for i in range(2 * n)] == 2 * patients
    assert not {*patients} & {real[split].head(0)["patient"] for split in ("val", "test")}
    for i, example in enumerate(found):
        np.testing.assert_array_equal(example["label_map"], real["train"][i % n]["label_map"])
    for i in (0, n + 1):
        cond = {"label_map": jnp.asarray(real["train"][i % n]["label_map"][None])}
        [drawn] = ca_ldm.Pipeline(parts).draw(arrays.keys(1, 1, i), layers.SIZE, cond)
        stored = volumes.read(expanded / "images" / found[i]["name"])
        np.testing.assert_array_equal(stored, images.from_float(np.clip(drawn, -1, 1)))
    assert (found[0]["image"] != found[n]["image"]).any()  # of one map, and another noise


@pytest.mark.slow
def test_what_was_stopped_goes_on(expanded, tmp_path, monkeypatch):
    """Whatever is missing is made, the same; and nothing that is there."""
    volume, left = files.volume, 2

    def dying(stem, *given):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return volume(stem, *given)

    monkeypatch.setattr(files, "volume", dying)
    with pytest.raises(KeyboardInterrupt):
        verb.expand(config(), tmp_path)
    left = 6
    folder = verb.expand(config(), tmp_path)
    assert (content(folder), left) == (content(expanded), 0)
    with pytest.raises(UserError, match=r"begun with other settings, .* another --config\.expand\.name"):
        verb.expand(config(times=3), tmp_path)


@pytest.mark.slow
def test_maps_have_the_names_of_volumes_of_any_format(tmp_path, real):
    found = mixture.generated(str(verb.expand(config(times=1, volume_format="zarr"), tmp_path)))
    assert [found.head(i)["name"] for i in range(4)] == [f"{i:05d}.ome.zarr" for i in range(4)]
    np.testing.assert_array_equal(found[3]["label_map"], real["train"][3]["label_map"])


@pytest.mark.slow
def test_a_segmenter_learns_from_them(expanded, tmp_path, capsys):
    """Real volumes against real ones and twice as many drawn, judged on other eyes by the figures of the paper."""
    small = {"data.n": 6, "data.size": layers.SIZE, "data.patch": (8, 8, 8), "segment.repeats": 1}
    page = configs.load("configs/segment.py:smoke")
    page.update_from_flattened_dict(
        small | {"model.levels": 1, "mesh.data": 1, "segment.expansions": (f"ldm={expanded}",)}
    )
    facts = segment.segment(build.completed(page, "segment").lock(), tmp_path / "table")
    assert [[row, about["added"]] for row, about in facts["rows"].items()] == [["real", [0]], ["ldm", [8]]]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[:2] == ["real + ldm", "4 + 8"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"labels": "none"}}, "the images have no label maps"),
        ({"volume_format": "opt"}, r"DICOM states how large a voxel is; set config\.generate\.mpp"),
        ({"mpp": (1.0, 2.0)}, r"config\.generate\.mpp=\(1\.0, 2\.0\) has 2 numbers"),
        ({"label_maps": "elsewhere"}, r"set config\.generate\.label_maps to ''"),
        ({"size": (16, 16, 12)}, r"the label maps are of 16x8x12 voxels: make config\.sample\.size that"),
    ],
)
def test_what_is_refused(changes, said, tmp_path):
    with pytest.raises(UserError, match=said):
        verb.expand(config(**changes), tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_parts_that_learned_without_maps_are_refused(tmp_path, monkeypatch):
    free = layers.parts(tmp_path / "free")
    monkeypatch.setattr(run, "parts", lambda config, workdir: free)
    with pytest.raises(UserError, match="parts that learned with label maps"):
        verb.expand(config(), tmp_path / "run")
    one = layers.parts(tmp_path / "two", classes=2)
    monkeypatch.setattr(run, "parts", lambda config, workdir: one)
    with pytest.raises(UserError, match=r"phantom_.* has classes from 0 to 6, and networks learned 2"):
        verb.expand(config(), tmp_path / "run")
