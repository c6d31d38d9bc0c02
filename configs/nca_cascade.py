r"""A cascade of automata: one paints the layout of a field, two more resolve it, and every seam is exact.

python -m nca_gen.main --config=configs/nca_cascade.py:laptop --mode=chain --workdir=runs/cascade
python -m nca_gen.main --workdir=runs/cascade/stage3 --mode=generate --config.sample.size=4096,4096
python -m nca_gen.main --config=configs/nca_cascade.py:quickstart --mode=chain --workdir=runs/quickstart
python -m nca_gen.main --config=configs/nca_cascade.py:slides --mode=chain --config.data.path=DIR --workdir=runs/slides

A cell of the first hears as far as a gland is wide, in few large pixels; a cell of the others hears little, and reads
the picture before (noise in it, its level told). The field that ships is seen at 64, 256 and 512 pixels a side; slides
(``:slides``, in DIR) at three magnifications, each 4 times the one before. Pictures of any size are made in tiles,
equal to those made whole; what is killed goes on to the same picture. Parameters of the three networks:

form        stage 1    stage 2  stage 3   together
              329,416  332,716  332,716    994,848
:fourier    1,098,144  332,716  332,716  1,763,576
:laptop        25,976   52,924   52,924    131,824
:quickstart    25,976   45,428              71,404
"""

from typing import NamedTuple

from ml_collections import ConfigDict
from shared import recipes
from shared.evals import of_samples, often

from nca_gen.config import Stage
from nca_gen.errors import UserError


class Scale(NamedTuple):
    """What each of the stages sees: how much its pixels are reduced, and the sides of its patches.

    ``lows``: how many times smaller the picture before is; ``sizes``: of the pictures that are drawn.
    """

    reduce: tuple[int, ...]
    patches: tuple[int, ...]
    lows: tuple[int, ...]
    sizes: tuple[int, ...]


FIELD = Scale((8, 2, 1), (24, 48, 64), (0, 4, 2), (64, 256, 512))
SLIDES = Scale((16, 4, 1), (64, 64, 64), (0, 4, 4), (64, 256, 1024))
REGION = 1536  # of slides at full size, so that patches of the first network shift by half
QUICK = Scale((8, 2), (22, 64), (0, 4), (128, 512))
LAPTOP = (600, 900, 300)  # steps of training
MINUTES = (600, 1500)  # of the quickstart
PLACES = ("stage1", "stage2", "stage3")  # forms that choose a network
ORDER = (("slides",), PLACES, ("laptop", "quickstart"), ("fourier",), ("smoke",))  # of forms, however they are written


def get_config():
    """The last stage: the largest picture."""
    config = ConfigDict(
        {
            "codec": {"mean": (0.39, 0.25, 0.13), "std": (0.28, 0.37, 0.48)},
            "diffusion": {"prediction": "v"},
            "task": {"name": "denoise", "loss": "l2"},
            "optimizer": recipes.PAPER,
            "train": {"steps": 200_000, "batch": 16},
            "sample": {"sampler": "ddim", "clip": "static"},
            "generate": {"name": "nca_cascade"},
            "evals": of_samples(every=10_000, structure={}),
            "held": {},
            "parts": {},
        }
    )
    _placed(config, 3)
    return config


def _stage(config):
    """Its number."""
    return len(config.parts) + 1


def _placed(config, stage, scale=FIELD):
    """Makes ``config`` that of a stage, with those before it as its parts."""
    before = [f"stage{n}" for n in range(1, stage)]
    config.parts = {name: f"../{name}" for name in before}
    low, patch, size = (numbers[stage - 1] for numbers in (scale.lows, scale.patches, scale.sizes))
    steps = {"steps": 12, "name": "resolving_nca"} if low else {"name": "diff_nca"}
    config.model = {"norm": "cell"} | steps
    config.task.low = low
    config.data = {
        "patch": (patch, patch),
        "reduce": scale.reduce[stage - 1],
        "flips": "dihedral",
    } | _of(scale, stage)
    config.sample.update(steps=(50, 25, 25)[stage - 1], size=(size, size))
    config.held = {}
    config.evals.structure = {"every": 0, "reduce": 2 if stage == 3 else 1}
    if stage == 1:  # of the field no strip that is held out is as wide as a patch
        config.evals.structure.update(size=(64, 64), piece=(24, 24))
        config.held = {"split": "train"} if scale is FIELD else {}


def _of(scale, stage):
    """The data that go with a scale. The held-out strips of the field lie in its middle, which looks like the whole."""
    if scale is SLIDES:
        return {"name": "slides", "path": "", "region": min(512, REGION // scale.reduce[stage - 1])}
    return {"name": "tissue", "val": 32, "test": 96, "right": 192}


def stage1(config):
    """The layout."""
    _placed(config, 1, _scale(config))


def stage2(config):
    """Four times as large."""
    _placed(config, 2, _scale(config))


def stage3(config):
    """The last, twice as large, or of slides four times."""
    _placed(config, 3, _scale(config))


def _scale(config):
    """What the stages of ``config`` see."""
    return FIELD if config.data.name == "tissue" else SLIDES


def slides(config):
    """Your own slides, tiled TIFF or OME-Zarr of 1536 pixels a side or more, where there is tissue;
    --config.data.path=DIR.
    """
    _placed(config, _stage(config), SLIDES)
    config.codec = {"std": (0.5,)}


def fourier(config):
    """The layout by FourierDiff-NCA, which hears all of it, at the size that it learned."""
    if _stage(config) == 1:
        config.model.update(name="fourier_diff_nca", window=min(config.data.patch) // 4)


def laptop(config):
    """Small networks that learn in minutes on two cores; cells of the later ones hold 2 x 2 pixels."""
    first, steps = _stage(config) == 1, LAPTOP[_stage(config) - 1]
    config.model.update(channels=32, hidden=96, steps=8, conv="gathered", remat="fc0")
    if not first:
        config.model.update(channels=48, hidden=128, steps=4, image_channels=12)
        config.codec.block = 2
    config.task.update(ema=0.995, ema_warmup=True)
    recipes.muon(config, steps=steps, lr=3e-3)
    config.train.update(steps=steps, batch=8 if first else 4, log_every=20, checkpoint_every=200)
    config.sample.update(steps=(50, 20, 12)[_stage(config) - 1])
    config.held.update(n=64, train=1024)
    often(config, 0)  # --mode=evaluate asks


def quickstart(config):
    """Two small networks, of the field at 64 and 256 pixels a side, in minutes on two cores; a page of what they draw.

    A rival draws beside them, the automaton of the zoo, which saw the field at 256 and was trained for longer.
    """
    if config.data.name == "slides":
        raise UserError("quickstart learns the field that ships: leave out slides, or take slides,laptop")
    stage = min(_stage(config), 2)
    _placed(config, stage, QUICK)
    config.data.update(val=8, test=128)  # wide enough for pieces with large structure; the rival has not seen them
    config.model.update(channels=32, hidden=96, steps=12, conv="gathered", remat="fc0")
    config.task.update(ema=0.995, ema_warmup=True)
    recipes.muon(config, steps=MINUTES[stage - 1], lr=3e-3)
    config.train.update(steps=MINUTES[stage - 1], batch=4, log_every=50, checkpoint_every=300)
    config.data.flips = "none"  # glands lie along one another here; of all views outlines are ragged
    config.evals = {}
    if stage == 1:  # as wide as the strips are; in a picture hardly a cell hears a border, so none is to learn from one
        config.data.patch, config.train.batch = (48, QUICK.patches[0]), 2
        config.task.margin = config.model.steps
        config.sample.update(sampler="dpm_solver_pp", steps=25, grid="log_snr")
    else:
        config.model.update(channels=48, steps=5, image_channels=12)
        config.codec.block = 2
        config.sample.update(sampler="dpm_solver_pp", steps=12, growth_guidance=0.5)
        metrics = ("two_point", "autocovariance", "power_spectrum", "swd:patches=32768", "drift")
        pieces = {"size": (512, 512), "piece": (), "n": 1, "half_turn": True}  # whole strips: there are three
        config.evals.structure = {"every": MINUTES[1], "metrics": metrics, "rivals": ("zoo:tissue",)} | pieces


def smoke(config):
    """Seconds: shows that every part works, not what it is worth. On the field that ships."""
    hears_all = config.model.name == "fourier_diff_nca"
    asked = {name: of for name, of in config.evals.get("structure", {}).items() if name in ("rivals", "half_turn")}
    _placed(config, _stage(config))
    config.diffusion.timesteps = 8
    config.data.patch = (16, 16)
    config.model.update(channels=8, hidden=16, steps=2)
    if hears_all:
        fourier(config)
    if config.task.get("margin"):  # as far as a cell hears
        config.task.margin = config.model.steps
    if _stage(config) > 1:
        config.model.update(channels=40, image_channels=12)
        config.codec.block = 2
    config.sample.update(steps=4, n=4, size=(32, 32))
    config.held.update(n=8, train=16)
    config.evals.structure = {"every": 0, "size": (32, 32), "piece": (16, 16), "n": 1, "real": 4} | asked
    recipes.smoke(config)
    if _stage(config) < 3:  # --mode=evaluate asks the others
        often(config, 0)


def chain(forms):
    """The stages in their order, each in the same forms; one that chooses a stage chooses nothing here."""
    stages, forms = [], [form for form in forms if form not in PLACES]
    for number in (1, 2) if "quickstart" in forms else (1, 2, 3):
        config = get_config()
        _placed(config, number)
        for form in forms:
            globals()[form](config)
        stages.append(Stage(f"stage{number}", config))
    return stages
