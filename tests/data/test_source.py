from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nca_gen.data import source
from nca_gen.errors import UserError

RNG = np.random.default_rng(0)


def test_tenths_are_held_out_by_group():
    groups = [f"p{i // 3}" for i in range(120)]  # 40 patients, 3 images each
    where = source.assign(groups)
    assert {s: where.count(s) for s in source.SPLITS} == {"train": 96, "val": 12, "test": 12}
    for g in set(groups):
        assert len({s for s, h in zip(where, groups, strict=True) if h == g}) == 1


def test_assignment_follows_names_not_order_and_changes_with_the_salt():
    groups = [f"p{i}" for i in range(50)]
    where = dict(zip(groups, source.assign(groups), strict=True))
    assert dict(zip(groups[::-1], source.assign(groups[::-1]), strict=True)) == where
    assert dict(zip(groups, source.assign(groups, salt=1), strict=True)) != where
    # pinned: a hash that moved would silently mix old test patients into training
    assert sorted(g for g in groups if where[g] == "test") == ["p0", "p12", "p29", "p48", "p6"]


def test_given_splits_stay_and_only_missing_ones_are_made():
    groups = [f"p{i}" for i in range(20)]
    given = ["test"] * 5 + ["train"] * 15
    where = source.assign(groups, given)
    assert [w == "test" for w in where] == [g == "test" for g in given]
    assert where.count("val") == 2
    complete = ["test", "val", *["train"] * 18]
    assert source.assign(groups, complete) == complete


def test_too_few_groups_to_hold_out():
    assert sorted(source.assign(["a", "b", "c"])) == ["test", "train", "val"]
    with pytest.raises(UserError, match="too few"):
        source.assign(["a", "b", "a"])
    with pytest.raises(UserError, match="too few"):
        source.assign([], few=True)


def test_few_groups_where_that_is_no_error():
    """Of two one is held out, of one none; what is given stays."""
    two = source.assign(["a", "b", "a"], few=True)
    assert sorted(two) in (["test", "train", "train"], ["test", "test", "train"])
    assert two[0] == two[2]
    assert source.assign(["a", "a"], few=True) == ["train", "train"]
    assert source.assign(["a", "b"], ["val", "train"], few=True) == ["val", "train"]
    assert sorted(source.assign(["a", "b", "c"], ["val", "train", "train"], few=True)) == ["test", "train", "val"]


def numbered(*shape):
    """An example whose every place has a number of its own."""
    return np.arange(np.prod(shape), dtype=np.int32).reshape(*shape, 1)


@pytest.mark.parametrize(
    ("shape", "held"), [((10, 32), (10, 16)), ((100, 40), (50, 40)), ((300, 300), (75, 300)), ((4, 6, 200), (4, 6, 64))]
)
def test_strips_hold_every_place_once(shape, held):
    """A quarter, or as much of the half as makes 64 places; windows of a source see what its examples hold."""
    image = numbered(*shape)
    fields = {"image": image, "label_map": -image}
    whole = source.Source(lambda i: dict(fields, name="a"), [image.shape], fields=("label_map",))
    windowed = dataclasses.replace(whole, window=lambda i, field, box, k: source.clipped(fields[field], box))
    for some in (whole, dataclasses.replace(windowed, about=lambda i: {"name": "a"})):
        rest, end = source.strips(some)
        assert end.shapes == [(*held, 1)]
        parts = []
        for part in (rest, end):
            read = part.read(0, [(0, n) for n in part.shapes[0][:-1]])
            np.testing.assert_array_equal(read["label_map"], -read["image"])
            parts.append(read["image"])
        axis = int(np.argmax(shape))
        np.testing.assert_array_equal(np.concatenate(parts, axis), image)
        assert part.read(0, [(1, 3)] * len(shape))["image"].shape == (*[2] * len(shape), 1)


def test_what_is_held_out_is_val_and_test_alike():
    def one(name):
        return source.Source(lambda i: {"image": numbered(8, 8), "name": name}, [(8, 8, 1)])

    a, b, c = map(one, "abc")
    assert source.completed({"train": a, "val": b, "test": c}) == {"train": a, "val": b, "test": c}
    assert source.completed({"train": a, "test": c}) == {"train": a, "val": c, "test": c}
    of_one = source.completed({"train": a})
    assert of_one["val"] is of_one["test"]
    assert {split: some.shapes for split, some in of_one.items()} == {split: [(4, 8, 1)] for split in source.SPLITS}


def test_remember_loads_once_within_its_budget():
    loads = []

    def load(key):
        loads.append(key)
        return {"image": np.zeros(2**20, np.uint8), "name": key, "patient": key}

    get = source.remember(load, 2.5 / 1024)  # room for two of these
    for _ in range(2):
        assert [get(k)["name"] for k in "abc"] == ["a", "b", "c"]
    assert "".join(loads) == "abcc"
    with pytest.raises(ValueError, match="read-only"):
        get("a")["image"][0] = 1


def test_complain_names_files_once_or_stops(capsys):
    lost = [(f"{i}.png", "truncated") for i in range(25)]
    source.complain(lost, strict=False)
    err = capsys.readouterr().err
    assert "(25)" in err
    assert "0.png: truncated" in err
    assert "and 5 more" in err
    with pytest.raises(UserError, match=r"25.*0\.png: truncated"):
        source.complain(lost, strict=True)
    source.complain([], strict=True)


def test_source_is_a_sequence():
    s = source.Source(lambda i: {"image": np.zeros((1, 1, 1)), "name": str(i), "patient": ""}, [(1, 1, 1)] * 3)
    assert [e["name"] for e in s] == ["0", "1", "2"]
    assert s[-1]["name"] == "2"
    with pytest.raises(IndexError):
        s[3]


def ramp(*sides, channels=1):
    """Each place is its own number."""
    return np.arange(np.prod(sides) * channels, dtype=np.float32).reshape(*sides, channels)


def test_a_patch_and_what_is_registered_to_it_come_from_one_place():
    """Volumes: image, label map, and the context around, whose middle is the patch reduced."""
    image = ramp(12, 10, 16)
    example = {"image": image, "label_map": (image % 7).astype(np.int32), "name": "a", "patient": "p"}
    s = source.Source(lambda i: example, [image.shape], fields=("label_map",), context_factor=2)
    assert (s.ndim, s.grids) == (3, ("image", "label_map", "context"))
    assert s.head(0) == {"name": "a", "patient": "p"}
    box = [(4, 8), (3, 7), (6, 10)]
    patch = s.read(0, box)
    np.testing.assert_array_equal(patch["image"], image[4:8, 3:7, 6:10])
    np.testing.assert_array_equal(patch["label_map"], patch["image"] % 7)
    around = image[2:10, 1:9, 4:12]
    np.testing.assert_array_equal(patch["context"], around.reshape(4, 2, 4, 2, 4, 2, 1).mean((1, 3, 5)))
    assert (patch["name"], patch["context"].shape) == ("a", patch["image"].shape)


def test_beyond_the_edge_the_nearest_place_is_repeated():
    image = ramp(4, 6)
    s = source.Source(lambda i: {"image": image, "name": "", "patient": ""}, [image.shape], context_factor=3)
    padded = np.pad(image, ((2, 4), (2, 2), (0, 0)), "edge")
    corner = s.read(0, [(0, 2), (0, 2)])["context"]
    np.testing.assert_array_equal(corner, padded[:6, :6].reshape(2, 3, 2, 3, 1).mean((1, 3)))
    np.testing.assert_array_equal(
        s.read(0, [(2, 4), (4, 6)])["context"], padded[2:8, 4:10].reshape(2, 3, 2, 3, 1).mean((1, 3))
    )


def test_large_examples_are_read_by_their_window_alone():
    """Neither a patch nor its context loads the example; what is known beside comes without pixels."""
    image, calls = ramp(8, 8), []

    def window(i, field, box, k):
        calls.append((field, [*box], k))
        return source.images.reduce(source.clipped(image, box), k)

    def load(i):
        raise AssertionError("decoded whole")

    large = source.Source(load, [image.shape], False, context_factor=2, window=window, about=lambda i: {"name": "x"})
    plain = source.Source(lambda i: {"image": image, "name": "x"}, [image.shape], context_factor=2)
    box = [(5, 7), (0, 2)]
    for name, value in plain.read(0, box).items():
        np.testing.assert_array_equal(large.read(0, box)[name], value)
    assert calls[:2] == [("image", box, 1), ("image", [(4, 8), (-1, 3)], 2)]


@pytest.mark.slow
def test_the_context_of_a_piece_is_the_piece_of_the_context_of_its_square():
    """Of volumes too; drawn evenly by a generator, and the middle one without. No more is read than is needed."""
    image, areas = RNG.random((40, 44, 60, 1), np.float32), []

    def window(i, field, box, k):
        areas.append(np.prod([b - a for a, b in box]))
        return source.images.reduce(source.clipped(image, box), k)

    whole = source.Source(lambda i: {"image": image}, [image.shape], context_factor=4)
    pieces = dataclasses.replace(whole, square=8, window=window, about=lambda i: {})
    patch, rng, seen = [(16, 20), (18, 24), (20, 26)], np.random.default_rng(0), set()
    context = {  # by the offset of the patch in its square
        (d, e, f): whole.read(0, [(16 - d, 24 - d), (18 - e, 26 - e), (20 - f, 28 - f)])["context"][
            d : d + 4, e : e + 6, f : f + 6
        ]
        for d in range(5)
        for e in range(3)
        for f in range(3)
    }
    for _ in range(300):
        read = pieces.read(0, patch, rng)
        np.testing.assert_array_equal(read["image"], image[16:20, 18:24, 20:26])
        [offset] = [d for d, some in context.items() if np.array_equal(some, read["context"])]
        seen.add(offset)
    assert seen == {*context}
    assert max(areas) == 4 * 6 * 6 * 4**3
    np.testing.assert_array_equal(pieces.read(0, patch)["context"], context[2, 1, 1])
    with pytest.raises(UserError, match=r"config.data.square=5 is smaller than config.data.patch=\(4, 6, 6\)"):
        dataclasses.replace(whole, square=5).read(0, patch)


def test_far_beyond_the_edge_there_is_the_nearest_place():
    image = ramp(4, 6)
    np.testing.assert_array_equal(source.clipped(image, [(-9, -7), (8, 11)])[..., 0], np.full((2, 3), 5))
    np.testing.assert_array_equal(source.clipped(image, [(7, 9), (-2, 1)])[..., 0], np.full((2, 3), 18))


def test_splits_know_labels_decoder_and_pixels():
    pictures = source.Splits({"train": source.of([]), "val": source.of([]), "test": source.of([])}, ("grade",))
    assert (list(pictures), len(pictures), pictures.labels) == (["train", "val", "test"], 3, ("grade",))
    assert pictures.pixels is pictures
    x = np.ones((2, 3))
    assert pictures.decode(x) is x
    opened = []
    hidden = source.Splits(dict(pictures), (), lambda z: z * 2, lambda: opened.append(1) or pictures)
    assert hidden.decode(x).sum() == 12
    assert hidden.pixels is hidden.pixels is pictures
    assert opened == [1]


def volumes(window=False, **beside):
    """Two volumes of other depths, a number of its own in every place; read whole or by part."""
    whole = [np.arange(n * 3 * 4, dtype=np.float32).reshape(n, 3, 4, 1) + 100 * n for n in (2, 5)]
    maps = [x.astype(np.int32) for x in whole]

    def load(i):
        return {"name": f"v{i}", "patient": f"p{i}", "image": whole[i], "label_map": maps[i], "mpp": (3.0, 2.0, 1.0)}

    def part(i, field, box, k):
        assert k == 1
        return source.clipped((whole if field == "image" else maps)[i], box)

    shapes = [x.shape for x in whole]
    return source.Source(load, shapes, fields=("label_map",), window=part if window else None, digest=lambda: "x")


@pytest.mark.parametrize("window", [False, True])
def test_slices_of_volumes(window):
    """Each along D, in order, with its fields, its pixels' size and a name of its own; the patient is the volume's."""
    flat, deep = source.slices(volumes(window)), volumes()
    assert flat.shapes == [(3, 4, 1)] * 7
    assert [flat.head(j)["name"] for j in (0, 1, 2, 6)] == ["v0@0", "v0@1", "v1@0", "v1@4"]
    for j, (i, d) in enumerate([(0, 0), (0, 1), *((1, d) for d in range(5))]):
        found = flat.read(j, [(1, 3), (0, 2)])
        np.testing.assert_array_equal(found["image"], deep[i]["image"][d, 1:3, :2])
        np.testing.assert_array_equal(found["label_map"], found["image"])
        assert (found["patient"], found["mpp"]) == (f"p{i}", (2.0, 1.0))
    assert flat.digest() not in ("", "x")


def test_slices_of_what_has_none():
    splits = source.Splits(dict.fromkeys(source.SPLITS, volumes()))
    assert {split: len(found) for split, found in source.sliced(splits).items()} == dict.fromkeys(source.SPLITS, 7)
    with pytest.raises(UserError, match=r"config\.data\.slices is for volumes"):
        source.slices(source.slices(volumes()))
    with pytest.raises(UserError, match="have no context"):
        source.slices(dataclasses.replace(volumes(), context_factor=2))
