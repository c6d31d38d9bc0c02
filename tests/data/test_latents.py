"""Latents as data: standardised, drawn anew each time, and what is said of a folder that is not whole."""

import json
from itertools import islice

import numpy as np
import pytest

from nca_gen.data import latents, pipeline
from nca_gen.errors import UserError
from nca_gen.verbs import check

SCALE = {"mean": [1.0, -2.0], "std": [0.5, 4.0]}
MEAN, STD = (np.float32(SCALE[name]) for name in ("mean", "std"))


@pytest.fixture
def folder(tmp_path):
    """Five latents of 3 x 4 x 2 in two variants each, in shards of three; the others have none or two."""
    rng = np.random.default_rng(0)
    shards = {"train": [3, 2], "val": [2], "test": [2]}
    facts = {"version": 1, "scale": SCALE, "shape": [3, 4, 2], "variants": 2, "shards": {}, "counts": {}}
    facts["config"] = {"data": {"name": "folder", "patch": [24, 32]}, "model": {"name": "vae_kl"}}
    for split, sizes in shards.items():
        facts["shards"][split] = [f"{split}-{i}.npz" for i in range(len(sizes))]
        facts["counts"][split] = sum(sizes)
        for name, n in zip(facts["shards"][split], sizes, strict=True):
            moments = rng.standard_normal((n, 2, 2, 3, 4, 2)).astype(np.float32)
            text = np.array([f"{name}:{i}" for i in range(n)])
            labels = np.arange(n, dtype=np.int32)[:, None]
            np.savez(tmp_path / name, arr_0=moments, name=text, patient=text, label=labels)
    (tmp_path / "index.json").write_text(json.dumps(facts))
    return tmp_path


def edit(folder, **changes):
    facts = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({k: v for k, v in (facts | changes).items() if v is not None}))


@pytest.mark.parametrize("memory_gb", [2.0, 0])
def test_rows_come_standardised_from_memory_or_disk(folder, memory_gb):
    train = latents.splits(folder, memory_gb=memory_gb)["train"]
    assert train.resident == bool(memory_gb)
    assert train.shapes == [(3, 4, 2)] * 5
    for i, example in enumerate(train):
        shard = np.load(folder / f"train-{i // 3}.npz")
        mean, logvar = np.moveaxis(shard["arr_0"][i % 3], 1, 0)
        np.testing.assert_allclose(example["moments"][:, 0], (mean - MEAN) / STD, rtol=1e-5, atol=1e-6)
        # The deviation is scaled as the mean is.
        np.testing.assert_allclose(np.exp(example["moments"][:, 1] / 2), np.exp(logvar / 2) / STD, rtol=1e-5)
        assert example["name"] == example["patient"] == f"train-{i // 3}.npz:{i % 3}"
        assert example["label"] == i % 3


def test_latents_may_go_beyond_the_range_of_pixels(folder):
    found = check.inspect(latents.splits(folder))
    train = found["splits"]["train"]
    assert train["depth"] == ["latent"]
    assert max(map(abs, train["range"])) > 1
    assert not any("not within" in problem for problem in found["problems"])


def test_a_workdir_is_as_good_as_its_folder(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    folder.rename(run / "latents")
    assert len(latents.splits(run)["test"]) == 2
    assert latents.source(run) == {"name": "folder", "patch": (24, 32)}


def take(source, n, **options):
    options = {"patch": (3, 4), "batch": 5, "seed": 3, "flips": "none"} | options
    return np.stack([batch["image"] for batch in islice(pipeline.batches(source, **options), n)])


def test_draws_are_a_function_of_seed_and_step(folder):
    """From memory, from disk, and from any step on; another seed draws otherwise, and so does the next epoch."""
    train, mapped = (latents.splits(folder, memory_gb=gb)["train"] for gb in (2.0, 0))
    whole = take(train, 6)
    np.testing.assert_array_equal(take(mapped, 6), whole)
    np.testing.assert_array_equal(take(train, 2, step=4), whole[4:])
    assert not np.isin(take(train, 6, seed=4), whole).any()
    assert len(np.unique(whole)) == whole.size


@pytest.mark.slow
def test_draws_have_the_distribution_of_their_latent(folder):
    """Of one latent: half of them of each variant, with its mean and deviation."""
    train = latents.splits(folder)["train"]
    only = train[4]["moments"]
    source = [train[4]]
    x = take(source, 8, batch=500).reshape(-1, 3, 4, 2)
    mean, var = only[:, 0].astype(float), np.exp(only[:, 1].astype(float))
    expected = mean.mean(0)
    spread = var.mean(0) + mean.var(0)
    np.testing.assert_allclose(x.mean(0), expected, atol=5 * np.sqrt(spread.max() / len(x)))
    np.testing.assert_allclose(x.var(0), spread, rtol=0.1)


def test_a_patch_is_cut_from_the_draw(folder):
    """Smaller than the latent, at any place of it: of a latent without noise, a window of a variant's mean."""
    example = latents.splits(folder)["train"][0]
    example["moments"][:, 1] = -60
    for window in take([example], 4, patch=(2, 3)).reshape(-1, 2, 3, 2):
        whole = example["moments"][:, 0]
        places = [whole[v, y : y + 2, x : x + 3] for v in (0, 1) for y in (0, 1) for x in (0, 1)]
        assert any(np.allclose(window, place, atol=1e-6) for place in places)


def test_evaluation_sees_the_means(folder):
    test = latents.splits(folder)["test"]
    some = pipeline.patches(test, patch=(3, 4), n=4, seed=0)
    means = {example["image"].tobytes() for example in test}
    assert {x.tobytes() for x in some} == means


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: damage(f / "train-1.npz"), r"train-1\.npz is damaged .*delete it, and run --mode=encode again"),
        (lambda f: (f / "val-0.npz").write_bytes(b""), r"val-0\.npz is damaged"),
        (lambda f: (f / "val-0.npz").write_bytes((f / "val-0.npz").read_bytes()[:-100]), r"val-0\.npz is damaged"),
        (lambda f: (f / "test-0.npz").unlink(), r"test-0\.npz is damaged \(no such file"),
        (lambda f: (f / "val-0.npz").replace(f / "train-0.npz"), "holds 4 of 5 rows of train"),
        (lambda f: edit(f, scale=None), "is not finished"),
        (lambda f: edit(f, version=9), "has format 9"),
        (lambda f: (f / "index.json").write_text("{"), r"index\.json is damaged"),
        (lambda f: (f / "index.json").unlink(), "no latents in .*--mode=encode --workdir=RUN"),
    ],
)
def test_what_is_said_of_a_folder_that_is_not_whole(harm, message, folder):
    harm(folder)
    with pytest.raises(UserError, match=message):
        latents.splits(folder)


def test_without_a_path():
    with pytest.raises(UserError, match="no latents in ''"):
        latents.splits("")


def test_what_is_known_without_pixels_and_by_content(folder, tmp_path):
    """Names and labels of all; what names the rows is that of the shards, wherever they lie."""
    train = latents.splits(folder)["train"]
    assert [train.head(i)["label"].tolist() for i in range(5)] == [[0], [1], [2], [0], [1]]
    assert not {"image", "moments"} & train.head(0).keys()
    before = {split: source.digest() for split, source in latents.splits(folder).items()}
    moved = folder.rename(folder.parent / "moved")
    assert {split: source.digest() for split, source in latents.splits(moved).items()} == before
    rows = dict(np.load(moved / "val-0.npz"))
    rows["arr_0"][1, 0, 0, 2, 3, 1] += 1
    np.savez(moved / "val-0.npz", **rows)
    after = {split: source.digest() for split, source in latents.splits(moved).items()}
    assert [split for split in before if after[split] != before[split]] == ["val"]


def test_images_that_have_moved_are_asked_for(folder):
    edit(folder, config={"data": {"name": "folder", "path": "/nowhere", "patch": [24, 32]}, "model": {}})
    with pytest.raises(
        UserError, match=r"no folder '/nowhere'.* run --mode=encode again with their --config\.data\.path"
    ):
        _ = latents.splits(folder).pixels
