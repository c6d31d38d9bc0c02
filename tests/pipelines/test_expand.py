"""The rounds of an expansion: which try is kept, that it can be killed anywhere, and that copies are seen."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import painting
import pytest

from nca_gen.diffusion import discrete
from nca_gen.errors import UserError
from nca_gen.io import images
from nca_gen.pipelines import expand, sample

N, BATCH, TRIES = 11, 4, 3
NEAR = 0.5
DISTANCES = np.random.default_rng(3).random((TRIES, N))
DISTANCES[:, 2] = 0.1, 0.4, 0.3  # never passes: its second try is the furthest


def shade(picture, attempt):
    return 20 * np.asarray(picture) + 5 * attempt


def drawn(pictures, attempt):
    """Pictures of one shade each, which names picture and try."""
    flat = shade(pictures, attempt).astype(np.uint8)
    return images.to_float(np.repeat(flat, 48).reshape(-1, 4, 4, 3))


def measured(pictures):
    shades = images.from_float(pictures)[:, 0, 0, 0].astype(int)
    return DISTANCES[shades % 20 // 5, shades // 20]


def run(folder, draw=drawn, **more):
    return expand.rounds(N, folder, draw, measured, NEAR, batch=BATCH, tries=TRIES, **more)


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_the_first_try_that_is_far_enough_is_kept_and_else_the_furthest(tmp_path):
    best, near = run(tmp_path)
    for i, column in enumerate(DISTANCES.T):
        passing = np.flatnonzero(column >= NEAR)
        attempt = passing[0] if len(passing) else column.argmax()
        assert best[i] == column[attempt]
        image = images.read(tmp_path / expand.name(i))
        np.testing.assert_array_equal(image, np.full((4, 4, 3), shade(i, attempt)))
    assert near == [int((DISTANCES[: t + 1] < NEAR).all(0).sum()) for t in range(TRIES)]
    assert near[0] > near[-1] >= 1


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, ".png"), (np.float32, ".tif")])
def test_pictures_are_as_deep_as_photographs(tmp_path, dtype, suffix):
    """So that a classifier takes both, and as large in the world."""
    run(tmp_path, dtype=dtype, mpp=(0.5, 0.5))
    assert expand.name(0, dtype) == f"000000{suffix}"
    image, mpp = images.sized(tmp_path / expand.name(0, dtype))
    assert (image.dtype, mpp) == (dtype, pytest.approx((0.5, 0.5)))
    assert images.from_float(images.to_float(image))[0, 0, 0] in shade(0, np.arange(TRIES))
    assert expand.name(3, np.uint8, 5) == "000003.tif"


def test_nothing_is_drawn_twice(tmp_path):
    first = run(tmp_path)
    before = content(tmp_path)
    again = run(tmp_path, lambda *_: pytest.fail("all is there"))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert content(tmp_path) == before


@pytest.mark.parametrize("calls", range(7))
@pytest.mark.parametrize("when", ["drawing", "writing"])
def test_stopped_anywhere_it_goes_on_to_the_same(tmp_path, monkeypatch, calls, when):
    run(tmp_path / "whole")
    count, write = [0], images.write

    def stops(function):
        def counted(*arguments):
            count[0] += 1
            if count[0] > calls:
                raise KeyboardInterrupt
            return function(*arguments)

        return counted

    if when == "writing":
        monkeypatch.setattr(images, "write", stops(write))
    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path / "cut", stops(drawn) if when == "drawing" else drawn)
    monkeypatch.setattr(images, "write", write)
    assert run(tmp_path / "cut")[1] == run(tmp_path / "whole")[1]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_processes_share_the_batches_of_every_round(tmp_path):
    """Two do what one does, each picture of a round drawn by one of them."""
    alone = run(tmp_path / "one")
    together, seen, found = threading.Barrier(2), [[], []], [None, None]

    def process(p):
        def mine(pictures, attempt):
            seen[p] += [(int(i), attempt) for i in pictures]
            return drawn(pictures, attempt)

        found[p] = run(tmp_path / "two", mine, deal=(p, 2), meet=together.wait)

    threads = [threading.Thread(target=process, args=(p,)) for p in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert content(tmp_path / "two") == content(tmp_path / "one")
    for best, near in found:
        np.testing.assert_array_equal(best, alone[0])
        assert near == alone[1]
    assert not set(seen[0]) & set(seen[1])
    assert len(seen[0]) > 0 < len(seen[1])


@pytest.mark.slow
def test_killed_for_good_it_goes_on_to_the_same(tmp_path):
    """SIGKILL between two files of a batch."""
    code = """
import os, signal, sys
sys.path[:0] = [{here!r}, {tests!r}]
import test_expand as t
write, count = t.images.write, [0]
def killed(path, image, mpp):
    count[0] += 1
    if count[0] > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, image, mpp)
t.images.write = killed
t.run(t.Path({folder!r}))
"""
    here, tests = str(Path(__file__).parent), str(Path(__file__).parents[1])
    for after in (6, 13):
        fill = {"here": here, "tests": tests, "after": after, "folder": str(tmp_path / "cut")}
        out = subprocess.run([sys.executable, "-c", code.format(**fill)], capture_output=True, env=os.environ)
        assert out.returncode == -9, out.stderr
    run(tmp_path / "cut")
    run(tmp_path / "whole")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def noise(*shape, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8))


def test_a_copy_is_at_zero_and_a_mirrored_one_too():
    train, held = noise(5, 8, 8, 3), noise(4, 8, 8, 3, seed=1)
    references, threshold = expand.yardstick(train, held, 0.0)
    copies = [train[3], train[1][:, ::-1], train[0][::-1], train[4][::-1, ::-1]]
    assert expand.distances(images.to_float(np.stack(copies)), references).tolist() == [0] * 4
    assert expand.distances(images.to_float(np.stack(held)), references).min() == threshold > 0


def test_the_threshold_loses_the_share_that_it_says():
    """Of images as new as the held-out ones, a quarter are nearer than the quarter-quantile."""
    train, held = noise(30, 6, 6, 1), noise(400, 6, 6, 1, seed=1)
    references, threshold = expand.yardstick(train, held, 0.25)
    assert np.mean(expand.distances(images.to_float(np.stack(held)), references) < threshold) == 0.25


def test_large_images_are_compared_small():
    """Noise of single pixels, which a decoder adds, does not hide a copy: distances are those of area means."""
    train, held = noise(2, 128, 192, 3), noise(2, 128, 192, 3, seed=1)
    references, _ = expand.yardstick(train, held, 0.5)
    assert references.shape == (8, 64, 96, 3)
    means = images.to_float(train[0]).reshape(64, 2, 96, 2, 3).mean((1, 3))
    np.testing.assert_allclose(references[0], means, atol=1e-6)


@pytest.mark.parametrize(("quantile", "held"), [(1.5, noise(2, 8, 8, 3)), (0.5, noise(2, 8, 9, 3))])
def test_what_cannot_be_compared(quantile, held):
    with pytest.raises(UserError):
        expand.yardstick(noise(2, 8, 8, 3), held, quantile)


class Told:
    """A denoiser that says for the noise what makes the picture its condition and a little of its key's noise."""

    reads = predicts = ndim = 2
    conditions = {"label": 2}  # noqa: RUF012

    def init(self, key):
        return {"gain": jnp.float32(0.5)}

    def inference(self):
        return self

    def apply(self, params, x, told, cond, memory, key, place=None):
        return params["gain"] * cond["label"][:, None, None, :] * jnp.ones_like(x), memory


@pytest.mark.slow
def test_a_picture_is_a_function_of_seed_picture_and_try():
    """And of the label of image i mod n, whatever else is in its batch."""
    cond = {"label": np.eye(2, dtype=np.float32)[[0, 1, 1]]}
    process, how = discrete.Process("cosine", 6, "x0"), {"sampler": "ddim", "steps": 3, "clip": "none"}
    told = painting.part(Told(), process, weights={"gain": jnp.float32(0.5)}, **how)
    pipeline = sample.Pipeline({"model": told})
    draw = lambda pictures, attempt, seed=0: expand.draw(
        pipeline, cond, np.array(pictures), attempt, seed=seed, size=(3, 3), batch=4
    )
    three = draw([0, 4, 5], 1)
    assert three.shape == (3, 3, 3, 2)
    np.testing.assert_allclose(three, draw([5, 3, 0, 4], 1)[[2, 3, 0]], atol=1e-6)
    np.testing.assert_allclose(three[:, 0, 0], [[0.5, 0], [0, 0.5], [0, 0.5]], atol=1e-6)


@pytest.mark.slow
def test_keys_differ_by_picture_and_try():
    words = [jax.random.key_data(expand.keys(seed, np.arange(50), t)) for seed in (0, 1) for t in range(3)]
    assert len({tuple(word) for word in np.concatenate(words).tolist()}) == 300
    np.testing.assert_array_equal(words[1][7:9], jax.random.key_data(expand.keys(0, np.array([7, 8]), 1)))


def test_parts_are_json(tmp_path):
    run(tmp_path)
    found = [json.loads(p.read_text()) for p in sorted((tmp_path / "parts").glob("0_*.json"))]
    np.testing.assert_array_equal(np.concatenate(found), DISTANCES[0])
