r"""URCDM (Cechnicka et al. 2024, MICCAI): slides of any size by nine diffusion models, and the rivals of its paper.

python -m nca_gen.main --config=configs/urcdm.py --mode=chain --config.data.path=DIR --workdir=runs/urcdm
python -m nca_gen.main --workdir=runs/urcdm/mag2_stage3 --mode=generate --config.sample.size=41344,41344
python -m nca_gen.main --config=configs/urcdm.py:mag1,stage2 --config.data.path=DIR --workdir=runs/urcdm/mag1_stage2

DIR holds slides. Three magnifications, each 6.25 times the one before; at each, three networks draw a square of 1024
pixels at 64, 256 and 1024. The first line trains all nine, the last one of them, on a machine of its own. Parameters,
and pFID of 50,000 patches against the paper's three sets (kidney, glioma, breast):

networks  mag 0        mag 1 and 2    URCDM                  outpainting
stage 1   410,245,796  410,301,860
stage 2   299,518,454  299,546,486
stage 3   689,358,094  689,386,126    39.52, 52.38, 67.66    150.15, 192.89, 166.24

Any of the nine can be an automaton: --config.STAGE.model.name=resolving_nca, of a first stage also
--config.STAGE.model.low_resolution=False, of the published sizes also --config.STAGE.model.remat=step. A cell reads a
context at its own place of the grid, and as a context is wider than its patch, what lies there is something else: it is
of use with zoom, as the first two stages of ``:laptop`` have it. The third is better told none
(--config.STAGE.model.context_channels=0). Slides have two axes, and so have the cells.
"""

from typing import NamedTuple

from ml_collections import ConfigDict
from shared import recipes
from shared.evals import of_samples, often

from nca_gen.config import Stage

GLASS = (242, 243, 242)  # what lies beyond a slide


class Scale(NamedTuple):
    """How large a cascade is: ``factor`` between magnifications; of each stage the side of its picture and network."""

    factor: int | float
    sides: tuple[int, int, int]
    crop: int  # that the last stage learns from
    networks: tuple[dict, dict, dict]


def _networks(first, width, multipliers, second, third):
    """The fields of the three networks: a plain one, and two that resolve the picture of the one before."""
    later = {"width": width, "multipliers": multipliers, "efficient": True, "low_resolution": True}
    return first, later | second, later | third


F, T = False, True
PUBLISHED = Scale(
    6.25,
    (64, 256, 1024),
    256,
    _networks(
        {"width": 256, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (F, T, T, T)},
        128,
        (1, 2, 4, 8),
        {"blocks": 2, "attention": (F, F, F, T), "cross_attention": (F, F, T, T)},
        {"blocks": (2, 4, 6, 8), "attention": F, "cross_attention": (F, F, F, T)},
    ),
)
LAPTOP = Scale(
    4,
    (32, 64, 128),
    64,
    _networks(
        {"width": 32, "multipliers": (1, 2, 3), "blocks": 1, "attention": (F, F, T), "cross_attention": F, "head": 16},
        24,
        (1, 2, 3),
        {"blocks": 1, "attention": F, "cross_attention": F, "head": 16},
        {"blocks": 1, "attention": F, "cross_attention": F, "head": 16},
    ),
)
SMOKE = Scale(
    2,
    (8, 16, 32),
    16,
    _networks(
        {"width": 8, "multipliers": (1,), "blocks": 1, "attention": T, "cross_attention": F, "head": 8},
        8,
        (1,),
        {"blocks": 1, "attention": F, "cross_attention": F, "head": 8},
        {"blocks": 1, "attention": F, "cross_attention": F, "head": 8},
    ),
)
PEER = {  # imagen-pytorch's, of --mode=bench
    "script": "tests/peers/torch_efficient_unet.py",
    "fields": (
        *("width", "multipliers", "blocks", "attention", "cross_attention", "efficient", "heads", "head"),
        *("context_channels", "low_resolution", "image_channels"),
    ),
    "targets": {"seconds": 0.8, "memory_mb": 0.6},
}
SCHEDULES = ("cosine", "cosine", "linear")
PREDICTIONS = ("eps", "v", "v")

RIVALS = ("outpainting", "lrdm")
PLACES = ("mag0", "mag1", "mag2", "stage1", "stage2", "stage3")  # forms that choose a network
ORDER = (RIVALS, PLACES, ("laptop",), ("published",), ("smoke",))  # of forms, however they are written


def get_config():
    """The last network: the finest magnification, the largest picture."""
    config = ConfigDict(
        {
            "model": {"name": "efficient_unet"},
            "diffusion": {"name": "continuous", "clock": "log_snr", "gamma": 5.0},
            "task": {"name": "denoise", "loss": "l2", "ema": 0.9999, "drop": 0.0},
            "optimizer": {"b2": 0.99, "clip": 1.0},
            "data": {"name": "slides", "path": "", "pad": GLASS, "flips": "dihedral"},
            "train": {"steps": 200_000, "batch": 8},
            "sample": {"sampler": "dpm_solver_pp", "clip": "dynamic"},
            "generate": {"name": "urcdm"},
            "evals": of_samples(every=10_000),
            "bench": {"what": ("peer",), "batch": 1, "dtypes": ("float32",), "apart": True, "peer": PEER},
            "parts": {},
        }
    )
    _placed(config, 2, 3)
    return config


def _place(config):
    """Magnification and stage of the network."""
    magnification, stage = config.generate.place.removeprefix("mag").split("_stage")
    return int(magnification), int(stage)


def _alone(config):
    """Whether the cascade has one magnification, as those of the rivals have."""
    return _place(config)[0] == 2 and "mag1_stage1" not in config.parts


def _placed(config, magnification, stage, scale=PUBLISHED, alone=False):
    """Makes ``config`` that of the network at ``stage`` of ``magnification``, with those before it as its parts."""
    side, last = scale.sides[stage - 1], scale.sides[-1]
    surrounded = magnification > 0 and not alone
    before = [(2, s) for s in (1, 2, 3)] if alone else [(m, s) for m in (0, 1, 2) for s in (1, 2, 3)]
    names = [f"mag{m}_stage{s}" for m, s in before if (m, s) < (magnification, stage)]
    config.parts = {name: f"../{name}" for name in names}
    config.generate.place = f"mag{magnification}_stage{stage}"
    large = {"dtype": "bfloat16", "remat": "block"} if scale is PUBLISHED else {}
    network = {"context_channels": 3 * surrounded} | scale.networks[stage - 1] | large
    config.model = {"name": "efficient_unet"} | network
    config.diffusion.update(schedule=SCHEDULES[stage - 1], prediction=PREDICTIONS[stage - 1])
    config.task.low = side // scale.sides[stage - 2] if stage > 1 else 0
    patch = scale.crop if stage == 3 else side
    config.data = config.data.to_dict() | {  # anew: a factor may be whole or not
        "patch": (patch, patch),
        "square": side if stage == 3 else 0,
        "region": side * 3 // 2,  # so that squares shift by half
        "reduce": scale.factor ** (2 - magnification) * (last // side),
        "context_factor": scale.factor if surrounded else 1,
        "tissue": (0.05, 0.25, 0.5)[magnification],
    }
    config.sample.update(steps=(50, 25, 25)[stage - 1], size=(patch, patch))


def mag0(config):
    """The overview: no context."""
    _placed(config, 0, _place(config)[1])


def mag1(config):
    """Halfway."""
    _placed(config, 1, _place(config)[1])


def mag2(config):
    """The finest, which rivals have alone."""
    _placed(config, 2, _place(config)[1], alone=_alone(config))


def stage1(config):
    """The smallest picture, from nothing but its context."""
    _placed(config, _place(config)[0], 1, alone=_alone(config))


def stage2(config):
    """Four times as large."""
    _placed(config, _place(config)[0], 2, alone=_alone(config))


def stage3(config):
    """Sixteen times as large."""
    _placed(config, _place(config)[0], 3, alone=_alone(config))


def outpainting(config):
    """The rival of slides: the finest magnification alone goes from patch to patch; no picture of the whole."""
    _placed(config, 2, _place(config)[1], alone=True)


def lrdm(config):
    """The rival of patches: the same three networks as ``outpainting``, which draw patches one by one."""
    outpainting(config)
    config.generate.name = "cascade"


def published(config):
    """The sampler of the paper's code: 1024, 256 and 256 ancestral steps."""
    config.sample.update(sampler="ddpm", steps=(1024, 256, 256)[_place(config)[1] - 1])


def laptop(config):
    """Small networks, a factor of 4: all of a system in an hour of two cores; a rival's three take as many steps."""
    (magnification, stage), alone = _place(config), _alone(config)
    _placed(config, magnification, stage, LAPTOP, alone)
    if magnification == 0:
        config.data.region = config.data.region * 3 // 2  # of slides that are not much larger
    if config.model.context_channels and stage < 3:  # a piece of a square is not the middle of its context
        config.model.zoom = config.data.context_factor
    config.diffusion.prediction = "v"  # from a context at the highest noise too, where eps says nothing of x0
    steps = 2000 if alone else (500, 500, 1000)[magnification]
    recipes.muon(config, steps=steps, lr=2e-3)
    config.task.update(ema=0.995, ema_warmup=True)
    config.train.update(steps=steps, batch=8, log_every=20, checkpoint_every=200)
    config.held = {"n": 32, "train": 128}
    often(config, 0)  # --mode=evaluate asks


def smoke(config):
    """Seconds: shows that every part works, not what it is worth. On the field of tissue that ships."""
    _placed(config, *_place(config), SMOKE, _alone(config))
    fields = ("patch", "square", "reduce", "context_factor", "flips")
    config.data = {"name": "tissue"} | {field: config.data[field] for field in fields}
    config.sample.update(steps=4, n=4, batch=8)
    config.held = {"n": 4, "train": 8}
    config.evals.scores = {"every": 0, "metrics": ("drift", "neighbours")}  # others know nothing of 8 pixels
    recipes.smoke(config)
    if _place(config) != (2, 3):  # --mode=evaluate asks the others
        often(config, 0)


def chain(forms):
    """The networks in their order, each in the same forms; three of them for a rival.

    Forms that choose a network choose nothing here.
    """
    alone = {*RIVALS} & {*forms}
    stages, forms = [], [form for form in forms if form not in PLACES]
    for m, s in [(m, s) for m in ((2,) if alone else (0, 1, 2)) for s in (1, 2, 3)]:
        config = get_config()
        _placed(config, m, s)
        for form in forms:
            globals()[form](config)
        stages.append(Stage(config.generate.place, config))
    return stages
