"""Large pictures against real pieces: what is cut, what is scored, and that both are seen at one magnification."""

import dataclasses
from types import MappingProxyType, SimpleNamespace

import numpy as np
import painting
import pytest
import tiny

from nca_gen import arrays
from nca_gen.data import pipeline as batches
from nca_gen.data import source
from nca_gen.data.source import Splits
from nca_gen.errors import UserError
from nca_gen.evaluators import structure
from nca_gen.evaluators.held import Held
from nca_gen.io import images
from nca_gen.metrics import drift, swd, two_point
from nca_gen.pipelines import sampling
from nca_gen.runtime import run


class Painter:
    """Draws ramps, each of its key's place."""

    kind = "images"

    def __init__(self, parts=MappingProxyType({})):
        self.parts = parts

    def title(self):
        return []

    def write(self, folder):
        return []

    def draw(self, key, size, cond=None):
        assert cond is None
        for i in range(len(key)):
            yield np.linspace(-1, 1.1, np.prod(size) * 3, dtype=np.float32).reshape(*size, 3) * (1 if i else -1)


def asked(folder, parts=MappingProxyType({}), **section):
    data = Held(tiny.config(), SimpleNamespace(), tiny.splits())
    sizes = {"metrics": ("drift", "two_point"), "size": (16, 24), "piece": (8, 8), "n": 2, "real": 5}
    return structure.evaluate(Painter(parts), data, folder, **sizes | section)


def real(split, patch, n=5):
    return batches.examples(tiny.splits()[split], patch=patch, n=n, seed=3)["image"]


def drawn(size):
    return np.clip(np.stack([*Painter().draw((0, 1), size)]), -1, 1)


def test_pieces_lie_side_by_side():
    pieces = structure.cut(np.arange(2.0 * 5 * 7).reshape(2, 5, 7, 1), (2, 3))
    assert pieces.shape == (8, 2, 3, 1)
    np.testing.assert_array_equal(pieces[5, ..., 0], [[38, 39, 40], [45, 46, 47]])


def test_scores_are_those_of_the_metrics(tmp_path):
    page = asked(tmp_path)
    pieces, held, train = structure.cut(drawn((16, 24)), (8, 8)), real("test", (8, 8)), real("train", (8, 8))
    expected, yardstick = (
        drift.score(some, held, None, 3) | two_point.score(some, held, None, 3) for some in (pieces, train)
    )
    assert page.scores == pytest.approx(expected, abs=1e-6)
    assert page.facts["training"] == pytest.approx(yardstick, abs=1e-6)
    table, learned = page.tables
    assert [row[0] for row in table.rows] == ["Generated", "Training images"]
    assert table.rows[0][1:] == pytest.approx([expected[name] for name in table.columns[1:]], abs=1e-6)
    ours, theirs = (
        drift.score(some, train, None, 3) | two_point.score(some, train, None, 3) for some in (pieces, held)
    )
    assert page.facts["against_training"] == {
        "Generated": pytest.approx(ours, abs=1e-6),
        "Held-out images": pytest.approx(theirs, abs=1e-6),
    }
    assert learned.rows[0][1:] == pytest.approx([ours[name] for name in learned.columns[1:]], abs=1e-6)
    assert page.facts["counts"] == {"generated": 12, "real": 5}
    assert images.read(tmp_path / "structure.png").shape == (16, 24, 3)
    assert {figure.file for figure in page.figures} == {file.name for file in tmp_path.iterdir()}


def test_what_was_learned_is_asked_once(tmp_path):
    """Where the pieces that pictures are held against are of the training split, there is one table."""
    data = Held(tiny.config(**{"held.split": "train"}), SimpleNamespace(), tiny.splits())
    sizes = {"metrics": ("drift",), "size": (16, 24), "piece": (8, 8), "n": 2, "real": 5}
    page = structure.evaluate(Painter(), data, tmp_path, **sizes)
    assert [table.title for table in page.tables] == ["Structure"]
    assert page.scores["drift"] == pytest.approx(
        drift.score(structure.cut(drawn((16, 24)), (8, 8)), real("train", (8, 8)), None, 3)["drift"]
    )


def fields(train, held, square=0):
    """Held-out and training images of noise, of the sizes that are given."""
    rng = np.random.default_rng(1)
    one = lambda size: {"image": rng.integers(0, 256, (*size, 3), np.uint8), "name": str(size), "patient": ""}
    sizes = {"train": train, "val": held, "test": held}
    splits = {name: source.of([one(size) for size in some]) for name, some in sizes.items()}
    splits = {name: dataclasses.replace(some, square=square) for name, some in splits.items()}
    return Held(tiny.config(), SimpleNamespace(), Splits(splits))


def test_images_that_are_seen_whole(tmp_path):
    """Pieces are as large as the images of each split, every one of which is there once, and a piece of larger ones."""
    data = fields([(16, 12), (16, 12)], [(16, 8)])
    asked = {"metrics": ("drift",), "size": (32, 24), "piece": (), "n": 2, "real": 9, "reduce": 2}
    page = structure.evaluate(Painter(), data, tmp_path, **asked)

    def whole(split):
        return np.stack([images.reduce(images.to_float(one["image"]), 2) for one in data.splits[split]])

    def pieces(*piece):
        return structure.cut(np.stack([images.reduce(one, 2) for one in drawn((64, 48))]), piece)

    assert page.scores["drift"] == pytest.approx(drift.score(pieces(8, 4), whole("test"), None, 3)["drift"])
    assert page.facts["counts"] == {"generated": 48, "real": 1}
    assert page.facts["against_training"] == {
        "Generated": pytest.approx(drift.score(pieces(8, 6), whole("train"), None, 3))
    }
    shown = [images.read(tmp_path / f"{name}.png").shape for name in ("pieces", "real_pieces")]
    assert shown[0][1] == shown[1][1] > 4 * 4  # as wide, of four columns each, one of which is real
    near, learned = page.tables
    assert [row[0] for row in near.rows] == ["Generated", "Training images"]
    assert [row[0] for row in learned.rows] == ["Generated"]
    assert "training images, held against the same" in near.intro
    assert learned.intro.startswith("The same pictures held against training images. Pieces are as large as")
    other = structure.evaluate(Painter(), fields([(16, 8)], [(16, 12)]), tmp_path, **asked)
    assert [[row[0] for row in table.rows] for table in other.tables] == [
        ["Generated"],
        ["Generated", "Held-out images"],
    ]
    assert other.facts["training"] == {}
    assert "raining" not in other.tables[0].intro
    assert "not trained on" in other.tables[1].intro


def test_no_piece_is_larger_than_what_it_is_cut_from(tmp_path):
    """A picture, an image, the square of an image of which patches are."""
    asked = {"metrics": ("drift",), "size": (32, 24), "piece": (), "n": 2, "real": 9}
    score = lambda data, **other: structure.evaluate(Painter(), data, tmp_path, **asked | other)
    data = fields([(16, 12)], [(16, 8)])
    with pytest.raises(UserError, match=r"piece=\(16, 8\) is larger than size=\(32, 5\)"):
        score(data, size=(32, 5))
    with pytest.raises(UserError, match="smaller"):
        score(data, piece=(16, 12))
    with pytest.raises(UserError, match="reduce=9 leaves nothing"):
        score(data, reduce=9)
    squares = score(fields([(24, 24)], [(24, 16)], square=8))
    assert squares.facts["counts"] == {"generated": 24, "real": 9}


@pytest.mark.slow
def test_half_a_turn(tmp_path):
    """Pieces drawn, of training and held out are all seen turned too, by both tables."""
    page = asked(tmp_path, metrics=("swd",), size=(16, 16), piece=(16, 16), half_turn=True)
    both = lambda some: np.concatenate([some, np.rot90(some, 2, (1, 2))])
    pieces, held, train = (both(some) for some in (drawn((16, 16)), real("test", (16, 16)), real("train", (16, 16))))
    assert page.scores["swd"] == pytest.approx(swd.score(pieces, held, None, 3)["swd"], rel=1e-5)
    assert page.facts["training"]["swd"] == pytest.approx(swd.score(train, held, None, 3)["swd"], rel=1e-5)
    against = {name: scores["swd"] for name, scores in page.facts["against_training"].items()}
    assert against == pytest.approx(
        {
            name: swd.score(some, train, None, 3)["swd"]
            for name, some in {"Generated": pieces, "Held-out images": held}.items()
        },
        rel=1e-5,
    )
    assert page.facts["half_turn"]
    assert all("turned by a half" in table.intro for table in page.tables)
    assert page.facts["counts"] == {"generated": 4, "real": 10}


@pytest.mark.slow
def test_no_side_is_preferred(tmp_path):
    """A ramp to the right is no ramp to the left; by half a turn they are the same, and one downwards is another."""

    def score(half_turn, turns):
        class Ramp(Painter):
            def draw(self, key, size, cond=None):
                for _ in key:
                    yield np.rot90(
                        np.broadcast_to(np.linspace(-1, 1, 16, dtype=np.float32)[:, None], (16, 16, 3)), turns
                    )

        data = Held(tiny.config(), SimpleNamespace(), tiny.splits())
        sizes = {"metrics": ("swd",), "size": (16, 16), "piece": (16, 16), "n": 2, "real": 5}
        return structure.evaluate(Ramp(), data, tmp_path, **sizes, half_turn=half_turn).scores["swd"]

    right, left, down = (score(True, turns) for turns in (0, 2, 1))
    assert right == pytest.approx(left, rel=1e-5)
    assert right != pytest.approx(down, rel=0.01)
    assert score(False, 0) != pytest.approx(score(False, 2), rel=0.01)


def test_two_magnifications_meet_at_one(tmp_path):
    """Pictures of twice the size and pieces of twice the size, both reduced by two."""
    page = asked(tmp_path, reduce=2)
    half = lambda some: np.stack([images.reduce(image, 2) for image in some])
    pieces = structure.cut(half(drawn((32, 48))), (8, 8))
    assert page.scores["drift"] == pytest.approx(drift.score(pieces, half(real("test", (16, 16))), None, 3)["drift"])
    assert "at 32 \N{MULTIPLICATION SIGN} 48, reduced by 2" in page.figures[0].caption


@pytest.mark.slow
def test_a_rival_draws_as_many_pictures_of_its_own(tmp_path):
    """Each by its own sampler, from the same seeds, and held against the same pieces."""
    rival = painting.part(tiny.diff(norm="cell", steps=2), sampler="ddim", steps=2, batch=2)
    rival.config.generate = {"name": "sample"}
    page = asked(tmp_path, {"runs/rival": rival}, rivals=("runs/rival",))
    settings = painting.settings(sampler="ddim", steps=2)
    [own] = sampling.images(rival, arrays.keys(3, 2), (16, 24), settings, batch=2)
    pieces = structure.cut(np.clip(own, -1, 1), (8, 8))
    expected = drift.score(pieces, real("test", (8, 8)), None, 3)["drift"]
    assert page.facts["rivals"]["runs/rival"]["drift"] == pytest.approx(expected, rel=1e-4)
    assert [row[0] for row in page.tables[0].rows] == ["Generated", "runs/rival", "Training images"]
    assert [row[0] for row in page.tables[1].rows] == ["Generated", "runs/rival", "Held-out images"]
    assert page.scores == asked(tmp_path).scores
    written = images.read(tmp_path / "rival0.png").astype(int)
    assert np.abs(written - (np.clip(own[0], -1, 1) + 1) * 128).max() <= 1
    assert "**runs/rival**, from noise" in page.figures[1].caption


def test_a_piece_larger_than_a_picture(tmp_path):
    with pytest.raises(UserError, match=r"piece=\(8, 32\) is larger than size=\(16, 24\)"):
        asked(tmp_path, piece=(8, 32))


@pytest.mark.parametrize("known", [{}, {"other": None}])
def test_a_rival_that_is_none(known, tmp_path):
    """What is no path, and none of the parts, is told in one line."""
    near = run.Beside(dict.fromkeys(known, ""))
    with pytest.raises(
        UserError, match=r"rivals: nobody is none of config\.parts, and no path of a run, such as \./nob"
    ):
        asked(tmp_path, near, rivals=("nobody",))
