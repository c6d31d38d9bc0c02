"""--mode=encode: what is written is what the autoencoder says, once, whatever happens in between."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from nca_gen import build
from nca_gen.contracts import Part
from nca_gen.data import latents, pipeline, source
from nca_gen.data.source import Source, Splits
from nca_gen.errors import UserError
from nca_gen.io import images, weights
from nca_gen.models import nhae, vae_kl
from nca_gen.nn import port
from nca_gen.runtime import checkpoint
from nca_gen.verbs import encode

MODEL = vae_kl.Model(width=4, multipliers=(1,), layers=1, groups=2, attention=False, patch=4)
LABELS = {"train": 5, "val": 3, "test": 4}


def splits():
    """Fields of 12 x 17: two pieces of 8 x 8 each, and a rest."""

    def source(split, n):
        rng = np.random.default_rng(n)
        fields = rng.integers(0, 256, (n, 12, 17, 3), np.uint8)

        def load(i):
            beside = {"name": f"{split}{i}", "patient": f"p{i // 2}", "label": np.int32([i]), "mpp": (0.5, 0.25)}
            return {"image": fields[i]} | beside

        return Source(load, [f.shape for f in fields])

    return Splits({split: source(split, n) for split, n in LABELS.items()})


@pytest.fixture(autouse=True)
def data(monkeypatch):
    monkeypatch.setattr(build, "splits", lambda config: splits())


@pytest.fixture(scope="module")
def params():
    state = port.random_state(MODEL.network, MODEL.network.example(), 0)
    return port.variables(state, MODEL.network, MODEL.network.example())["params"]


@pytest.fixture
def config(params, tmp_path):
    weights.write(tmp_path / "w.safetensors", MODEL.state(params))
    c = ConfigDict({"seed": 3, "mesh": {"data": 1, "space": 1}})
    c.model = {"name": "vae_kl"} | dataclasses.asdict(MODEL)
    c.task = {"name": "autoencode"}
    c.optimizer = {"lr": 1e-3}
    c.data = {"name": "folder", "path": "", "patch": (8, 8), "flips": "none"}
    c.encode = {"weights": str(tmp_path / "w.safetensors"), "flips": "horizontal", "batch": 4, "shard": 4}
    return c


@pytest.mark.slow
def test_moments_of_every_piece(config, params, tmp_path):
    root = encode.encode(config, tmp_path)
    facts = latents.index(root)
    assert facts["counts"] == {"train": 10, "val": 6, "test": 8}
    assert [len(facts["shards"][split]) for split in LABELS] == [3, 2, 2]
    assert facts["shape"] == [2, 2, 4]
    scale = {name: np.float32(values) for name, values in facts["scale"].items()}
    found, pixels = latents.splits(root), splits()
    head = found["train"].head(0)
    assert (head["dtype"], tuple(head["mpp"])) == ("uint8", (0.5, 0.25))  # for files of what is decoded
    look = jax.jit(MODEL.encode)
    for split in ("train", "test"):
        for i, example in enumerate(found[split]):
            whole, corner = pixels[split][i // 2], 8 * (i % 2)
            assert example["name"] == f"{split}{i // 2}@0,{corner}"
            assert example["patient"] == whole["patient"]
            np.testing.assert_array_equal(example["label"], whole["label"])
            piece = images.to_float(whole["image"][:8, corner : corner + 8])
            for variant, x in enumerate((piece, piece[:, ::-1])):
                mean, logvar = (np.asarray(m[0]) for m in look(params, jnp.asarray(x[None])))
                moments = example["moments"][variant]
                np.testing.assert_allclose(moments[0] * scale["std"] + scale["mean"], mean, atol=1e-4)
                np.testing.assert_allclose(moments[1] + 2 * np.log(scale["std"]), logvar, atol=1e-4)
            np.testing.assert_array_equal(example["image"], example["moments"][0, 0])


def files(root):
    return {p.name: p.read_bytes() for p in root.iterdir()}


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(config, tmp_path, monkeypatch):
    """After it every file is as if nothing had happened; nothing is encoded twice."""
    whole = files(encode.encode(config, tmp_path / "whole"))
    calls, savez = [], np.savez

    def dies(file, **columns):
        calls.append(file.name)
        if len(calls) == 3:
            file.write(b"half of")
            raise KeyboardInterrupt
        savez(file, **columns)

    monkeypatch.setattr(np, "savez", dies)
    with pytest.raises(KeyboardInterrupt):
        encode.encode(config, tmp_path / "cut")
    with pytest.raises(UserError, match="is not finished"):
        latents.splits(tmp_path / "cut")
    kept = {p.name for p in (tmp_path / "cut" / "latents").glob("*.npz")}
    assert len(kept) == 2
    calls.clear()
    monkeypatch.setattr(np, "savez", lambda file, **columns: (calls.append(file.name), savez(file, **columns)))
    again = files(encode.encode(config, tmp_path / "cut"))
    assert not kept & {name.split("/")[-1].split(".", 2)[-1] for name in calls}
    assert again.keys() == whole.keys()
    for name in whole:
        assert again[name] == whole[name], name
    calls.clear()
    encode.encode(config, tmp_path / "cut")
    assert not calls


@pytest.mark.slow
def test_processes_share_the_shards(config, tmp_path, monkeypatch):
    whole = files(encode.encode(config, tmp_path / "one"))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(encode.hosts, "anywhere", lambda flag: flag)
    monkeypatch.setattr(encode.hosts, "meet", lambda: None)
    seen = []
    for process in (1, 0):  # the first one looks last, when all is there
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        (tmp_path / "two" / "latents").mkdir(parents=True, exist_ok=True)
        encode.encode(config, tmp_path / "two") if process else None
        seen.append({p.name for p in (tmp_path / "two" / "latents").glob("*.npz")})
    assert len(seen[0]) == 3  # of 7
    encode.encode(config, tmp_path / "two")
    two = files(tmp_path / "two" / "latents")
    for name in seen[0]:
        assert two[name] == whole[name]


@pytest.mark.slow
def test_other_latents_are_left_alone(config, params, tmp_path):
    root = encode.encode(config, tmp_path)
    weights.write(tmp_path / "w.safetensors", MODEL.state(jax.tree.map(lambda x: 2 * x, params)))
    with pytest.raises(UserError, match=r"latents of another origin: .*weights.* delete it"):
        encode.encode(config, tmp_path)
    config.encode.weights = ""
    before = files(root)
    task = build.task(config)
    with checkpoint.manager(tmp_path) as saved:
        key = jax.random.key(0, impl="threefry2x32")
        state = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(task.init, key)._replace(key=np.int32(0))
        )
        checkpoint.save(saved, 7, state._replace(key=key), rollbacks=0, config="")
    with pytest.raises(UserError, match=r'another origin: .*, not {"step": 7}'):
        encode.encode(config, tmp_path)
    assert files(root) == before
    root.rename(tmp_path / "away")
    assert latents.index(encode.encode(config, tmp_path))["origin"] == {"step": 7}


@pytest.mark.slow
def test_the_folder_is_all_that_is_needed(config, params, tmp_path):
    """Moved elsewhere, with the rest gone, it still decodes: what the autoencoder itself says, in [-1, 1]."""
    root = encode.encode(config, tmp_path / "run").rename(tmp_path / "elsewhere")
    (tmp_path / "w.safetensors").unlink()
    some = np.stack([example["image"] for example in latents.splits(root)["train"]])
    scale = {name: np.float32(values) for name, values in latents.index(root)["scale"].items()}
    theirs = jax.jit(MODEL.decode)(params, jnp.asarray(some * scale["std"] + scale["mean"]))
    mine = latents.decoder(root)(some)
    np.testing.assert_allclose(mine, np.clip(theirs, -1, 1), atol=1e-4)
    assert mine.shape == (10, 8, 8, 3)
    assert latents.source(root) == config.data.to_dict()


@pytest.mark.slow
def test_an_autoencoder_of_ones_own_of_volumes(tmp_path, monkeypatch):
    """Its parameters go with the latents under their own names; mirrored variants on the axes that are asked for."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "outside")
    from lab import latent, volumes

    model = latent.Model()
    params = jax.tree.map(np.asarray, model.init(jax.random.key(1)))
    monkeypatch.setattr(build, "splits", lambda config: volumes.splits(n=3))
    monkeypatch.setattr(encode.run, "part", lambda config, workdir: Part(config, build.task(config), params, 5))
    c = ConfigDict({"seed": 0, "mesh": {"data": 1, "space": 1}, "optimizer": {}, "task": {"name": "autoencode"}})
    c.model = {"name": "lab.latent"}
    c.data = {"name": "lab.volumes", "patch": (8, 8, 8), "flips": "none"}
    c.encode = {"flips": "depth+horizontal", "batch": 4, "shard": 2}
    root = encode.encode(c, tmp_path)
    facts, shard = latents.index(root), latents.shard(root / "test-00000-of-00002.npz")
    assert (facts["shape"], facts["variants"], facts["origin"]) == ([4, 4, 4, 2], 4, {"step": 5})
    volume = images.to_float(volumes.splits(n=3)["test"][1]["image"])[None]
    for i, mirrored in enumerate((volume, volume[:, :, :, ::-1], volume[:, ::-1], volume[:, ::-1, :, ::-1])):
        np.testing.assert_allclose(shard["arr_0"][1, i], np.stack(model.encode(params, mirrored))[:, 0], atol=1e-5)
    scale = {name: np.float32(values) for name, values in facts["scale"].items()}
    z = np.random.default_rng(0).standard_normal((2, 4, 4, 4, 2), np.float32)
    whole = np.clip(model.decode(params, z * scale["std"] + scale["mean"]), -1, 1)
    np.testing.assert_allclose(latents.decoder(root)(z), whole, atol=1e-5)
    c.encode.weights = "file"
    with pytest.raises(UserError, match=r"lab\.latent is none"):
        encode.encode(c, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encode.flips": "sideways"}, r"config\.encode\.flips"),
        ({"data.patch": (16, 16)}, r"train0 of 12 x 17 is smaller than config\.data\.patch"),
        ({"data.patch": (6, 8)}, "not multiples of 4"),
        ({"encode.weights": "/nowhere"}, "cannot read weights"),
        ({"encode.weights": ""}, "there is no checkpoint"),
    ],
)
def test_what_a_user_can_mend(changes, message, config, tmp_path):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        encode.encode(config, tmp_path / "none")
    assert not list(tmp_path.glob("none/latents/*.npz"))


def test_another_kind_of_run(tmp_path):
    with pytest.raises(UserError, match="is for autoencoders"):
        encode.encode(ConfigDict({"seed": 0}), tmp_path)


def test_images_that_have_moved_are_the_same(tmp_path):
    """It is noted where they are now; what was written before there were names of images and other fields is known."""

    def facts(path, image="x", **data):
        sections = {"model": {"name": "vae_kl"}, "data": {"name": "folder", "path": path, "patch": (8, 8)} | data}
        rest = {"origin": {"step": 1}, "flips": "none", "counts": {}, "shards": {"train": []}}
        return {"version": latents.VERSION, "config": sections, "images": {"train": image}} | rest

    index = tmp_path / latents.INDEX
    assert not encode.claim(tmp_path, facts("/here"))
    done = json.loads(index.read_text()) | {"scale": {"mean": [0.5]}}
    index.write_text(json.dumps(done))
    assert encode.claim(tmp_path, facts("/there", reduce=1))
    assert json.loads(index.read_text())["config"]["data"]["path"] == "/there"
    assert json.loads(index.read_text())["scale"] == {"mean": [0.5]}
    for others, told in ((facts("/there", "y"), "of other images or labels"), (facts("/there", reduce=2), "config")):
        with pytest.raises(UserError, match=told):
            encode.claim(tmp_path, others)
    before = {name: value for name, value in done.items() if name != "images"}
    index.write_text(json.dumps(before))
    assert encode.claim(tmp_path, facts("/here"))
    assert json.loads(index.read_text())["images"] == {"train": "x"}


@pytest.fixture(scope="module")
def paired():
    """An autoencoder of volumes, small, and parameters of it."""
    small = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "entries": 6, "attention": False}
    model = nhae.Model(**small, volume_width=8, volume_multipliers=(1,), reduce=1)
    return model, tiny.params(model)


@pytest.mark.slow
def test_slices_with_what_their_volume_says(paired, monkeypatch, tmp_path):
    """Two sets: latents of volumes, and of their slices with a context, in the order in which slices are images."""
    model, params = paired
    rng = np.random.default_rng(1)
    whole = {split: rng.integers(0, 256, (n, 6, 8, 4, 1), np.uint8) for split, n in LABELS.items()}
    maps = {split: rng.integers(0, 3, x.shape, np.int32) for split, x in whole.items()}

    def one(split, i):
        beside = {"name": f"{split}{i}", "patient": f"p{i}", "mpp": (3.0, 2.0, 1.0)}
        return {"image": whole[split][i], "label_map": maps[split][i]} | beside

    def of(split, n):
        return Source(lambda i: one(split, i), [whole[split][0].shape] * n, fields=("label_map",))

    volumes = Splits({split: of(split, n) for split, n in LABELS.items()})
    monkeypatch.setattr(build, "splits", lambda c: source.sliced(volumes) if c.data.get("slices") else volumes)
    monkeypatch.setattr(encode.run, "part", lambda config, workdir: Part(config, build.task(config), params, 5))
    c = ConfigDict({"seed": 0, "mesh": {"data": 1, "space": 1}, "optimizer": {}, "task": {"name": "autoencode"}})
    c.model = {"name": "nhae"} | dataclasses.asdict(model)
    c.data = {"name": "volumes", "patch": (4, 4, 4), "flips": "none"}
    c.encode = {"flips": "none", "batch": 1, "shard": 13, "patch": (6, 8, 4), "classes": 3}
    encode.encode(c, tmp_path)
    deep, flat = (latents.splits(tmp_path / name) for name in ("latents", "slices"))
    assert (deep["train"].shapes, flat["train"].shapes) == ([(3, 4, 2, 4)] * 5, [(4, 2, 4)] * 30)
    assert len(latents.index(tmp_path / "slices")["shards"]["train"]) == 3  # two volumes of six slices in each
    scale = latents.index(tmp_path / "slices")["scale"]
    mean, std = np.float32(scale["mean"]), np.float32(scale["std"])
    own, said = jax.jit(model.pairs)(params, images.to_float(whole["train"]))
    for i, j in ((0, 0), (1, 5), (4, 2)):
        row = flat["train"].read(6 * i + j, [(0, 4), (0, 2)], rng)
        np.testing.assert_allclose(row["image"], (own[i, j] - mean) / std, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(row["context"], (said[i, j] - mean) / std, rtol=1e-3, atol=1e-4)
        share = np.eye(3)[maps["train"][i, j, ..., 0]].reshape(4, 2, 2, 2, 3).mean((1, 3))
        np.testing.assert_allclose(row["label_map"] / 255, share, atol=1 / 255)
        assert (row["name"], row["patient"], row["mpp"]) == (f"train{i}@{j}", f"p{i}", [2.0, 1.0])
        pixels = flat.pixels["train"].read(6 * i + j, [(0, 8), (0, 4)])
        np.testing.assert_array_equal(pixels["image"], whole["train"][i, j])
    z = (own[4] - mean) / std
    decoded = flat.decode(np.asarray(z))
    alone = jax.jit(model.slices.decode)(params["slices"], own[4])
    np.testing.assert_allclose(decoded, np.clip(alone, -1, 1), rtol=1e-3, atol=1e-4)
    batch = next(pipeline.batches(flat["train"], patch=(4, 2), batch=2, seed=0, flips="none"))
    assert {name: x.shape for name, x in batch.items()} == {
        "image": (2, 4, 2, 4),
        "context": (2, 4, 2, 4),
        "label_map": (2, 4, 2, 3),
    }
    volume = deep["val"].read(1, [(0, 3), (0, 4), (0, 2)])["label_map"]
    share = np.eye(3)[maps["val"][1, ..., 0]].reshape(3, 2, 4, 2, 2, 2, 3).mean((1, 3, 5))
    np.testing.assert_allclose(volume / 255, share, atol=1 / 255)
    c.encode.classes = 2
    with pytest.raises(
        UserError, match=r"the label map of train0 has classes from 0 to 2, and config\.encode\.classes=2"
    ):
        encode.encode(c, tmp_path / "b")
