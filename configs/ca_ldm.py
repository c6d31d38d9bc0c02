r"""CA-LDM (Huang et al. 2024, MICCAI): volumes of 512 x 512 x 512, by a latent of the whole and the slices of it.

python -m nca_gen.main --config=configs/ca_ldm.py:laptop,phantom --mode=chain --workdir=runs/phantom
python -m nca_gen.main --config=configs/ca_ldm.py --mode=chain --config.data.path=DIR --workdir=runs/ca_ldm
python -m nca_gen.main --workdir=runs/ca_ldm/multislice --mode=generate
python -m nca_gen.main --config=configs/ca_ldm.py:laptop,phantom,layers --mode=chain --workdir=runs/layers
python -m nca_gen.main --workdir=runs/layers/multislice --mode=expand --config.expand.times=2
python -m nca_gen.main --config=configs/ca_ldm.py:medical_diffusion,laptop,phantom --mode=chain --workdir=runs/rival
python -m nca_gen.main --config=configs/ca_ldm.py:nhae --config.data.path=DIR --workdir=runs/ca_ldm/nhae

DIR holds volumes. Of a chain that was told label maps (layers, vessels) --mode=expand draws volumes under those of its
training split, which are then their maps too, for configs/segment.py. The rivals of the paper, LDM3D, Medical Diffusion
and LVD, are forms of the chain: ldm3d, medical_diffusion, lvd. Five stages, of which each reads what those before have
left; parameters that they train:

vae2d       the autoencoder of slices, with a codebook               83,696,301
nhae        the latent of a volume, and those of its slices of it     7,149,096
diff3d      draws latents of volumes                                721,420,548
refiner     draws latents of slices, told what the volume says      275,490,436
multislice  the decoder sees five slices, by adaptors                70,352,812

Latents of volumes can be drawn by an automaton: --config.diff3d.model.name=diff_nca (or geca) and its own fields, such
as --config.diff3d.model.channels=48; of the published sizes also --config.diff3d.model.remat=step. It is told no label
maps.

A volume takes 3.47 PFLOP (20 steps of the latent of the whole, 9 of those of slices, each slice decoded once), and 34
by `:published` (200 and 200 steps of DDIM, each slice decoded in the middle of a window of its own). What the default
gives up: of five slices that are decoded together the outer ones see neighbours on one side alone, and windows show as
steps along D (on a small chain 1.8 times that between other neighbours). --config.generate.keep=3 keeps the middle
three (1.1 to 1.2 times), 1 the middle one (none): 1.7 and 4.9 times the decoding, 5.00 and 12.7 PFLOP in all.
"""

from typing import NamedTuple

from ml_collections import ConfigDict
from shared import recipes
from shared.evals import of_samples, often

from nca_gen.config import Stage
from nca_gen.errors import UserError

STAGES = {"vq_vae": "vae2d", "nhae": "nhae", "multislice": "multislice", "vq_vae_3d": "vae3d"}  # the others diffuse
RIVALS = {"ldm3d": "vae2d", "medical_diffusion": "vae3d", "lvd": "vae2d"}  # which autoencoder each one diffuses
CHAIN = ("vae2d", "nhae", "diff3d", "refiner", "multislice")
PARTS = CHAIN[1:-1]  # that draw volumes, beside the decoder
PLACES = (*CHAIN, "vae3d")  # forms that choose a stage
ORDER = (  # of forms, however they are written: a size makes a stage anew, which the others then change
    *(RIVALS, PLACES, ("laptop", "hippocampus"), ("brief",), ("octa500", "phantom"), ("published", "ancestral")),
    *(("smoke",), ("layers", "vessels")),
)


class Scale(NamedTuple):
    """How large it all is: sides of volumes, crops for training, and what differs in the networks."""

    size: tuple[int, int, int]
    crop: int
    planar: dict
    volume: dict
    diff3d: dict
    refiner: dict
    solid: dict  # the autoencoder of volumes of Medical Diffusion
    solid_crop: int
    products: str = ""  # their type when volumes are drawn; the networks' own

    @property
    def latent(self):
        """Sides of the latent of a volume."""
        factor = 2 ** (len(self.planar.get("multipliers", (1, 2, 4, 4))) - 1)
        return tuple(side // factor for side in self.size)


PEER = {  # of --mode=bench: both U-Nets in plain PyTorch
    "script": "tests/peers/torch_ca_ldm.py",
    "fields": (
        *("ndim", "width", "multipliers", "blocks", "attention", "heads", "groups"),
        *("image_channels", "context_channels"),
    ),
    "targets": {"seconds": 0.8, "memory_mb": 0.6},
}
_LARGE = {"dtype": "bfloat16", "remat": "block"}
UNET = {"heads": 8, "scale": True, "resizing_blocks": True, "learned_variance": False}
PUBLISHED = Scale(
    (512, 512, 512),
    256,
    _LARGE,
    {},
    {"width": 128, "multipliers": (1, 2, 4, 8), "attention": (4, 8)} | _LARGE,
    {"width": 192, "multipliers": (1, 2, 4, 4), "attention": (2, 4, 8)} | _LARGE,
    _LARGE,
    128,
    "bfloat16",
)
_LIGHT = {"blocks": 1, "heads": 2, "groups": 8}
LAPTOP = Scale(
    (64, 64, 64),
    64,
    {"width": 8, "multipliers": (1, 2, 4), "blocks": 1, "groups": 4, "attention": False, "entries": 512},
    {"volume_width": 8, "volume_multipliers": (2,)},
    {"width": 24, "multipliers": (1, 2), "attention": (2,)} | _LIGHT,
    {"width": 32, "multipliers": (1, 2), "attention": (2,)} | _LIGHT,
    {"width": 8, "multipliers": (2, 4), "groups": 8, "latent_channels": 4, "entries": 512},
    32,
)
HIPPOCAMPUS = LAPTOP._replace(size=(32, 48, 32), crop=48)
SMOKE = Scale(
    (16, 16, 16),
    16,
    {"width": 8, "multipliers": (1, 1, 2), "blocks": 1, "groups": 4, "attention": False, "entries": 32},
    {"volume_width": 8, "volume_multipliers": (1,)},
    {"width": 16, "multipliers": (1, 1), "attention": ()} | _LIGHT,
    {"width": 16, "multipliers": (1, 1), "attention": ()} | _LIGHT,
    {"width": 4, "multipliers": (1, 2), "groups": 4, "latent_channels": 4, "entries": 32},
    16,
)
SEEN = {"name": "autoencode", "perceptual": "lpips", "perceptual_weight": 0.1, "adversarial": 0.6, "critic_layers": 2}
ADAMW = {"b2": 0.95, "weight_decay": 0.05, "clip": 1.0}


def get_config():
    """The last stage: the decoder of several slices."""
    config = ConfigDict()
    _placed(config, "multislice")
    return config


def _stage(config):
    """The stage of ``config``."""
    return STAGES.get(config.model.name) or ("diff3d" if config.model.get("ndim", 2) == 3 else "refiner")


def _rival(config):
    """The rival of whose chain it is a stage, of a first stage one of those that have it; "" where it is of none."""
    if config.model.get("slicewise"):
        return "lvd"
    before = config.data.get("path", "").removeprefix("../")
    own = _stage(config) if "encode" in config else ""
    return next((name for name, first in RIVALS.items() if first in (before, own)), "")


def _placed(config, stage, scale=PUBLISHED, rival=""):
    """Makes ``config`` that of ``stage``; ``rival``: of RIVALS the one whose chain it is, if any."""
    sections = (_diffuses if stage in ("diff3d", "refiner") else _sees)(stage, scale)
    first = RIVALS.get(rival, "")
    if first == stage == "vae2d":
        sections["encode"] = {"patch": scale.size, "flips": "none", "batch": 1, "shard": 8}
    if rival and stage == "diff3d":
        sides = (scale.size[0], *scale.latent[1:]) if first == "vae2d" else scale.latent
        sections["data"] |= {"path": f"../{first}", "patch": sides}
        sections["sample"]["size"] = sides
        if first == "vae3d":
            sections["model"]["image_channels"] = scale.solid.get("latent_channels", 8)
        if rival == "lvd":
            sections["model"] |= scale.refiner | {"slicewise": True}
            del sections["bench"]  # its peer mixes no slices
    for section in [*config]:
        del config[section]
    config.update(sections | {"held": {"n": 16, "train": 32}})


def ldm3d(config):
    """The rival: one diffusion of the latents of all slices, without what a volume says of them; two stages."""
    _rivals(config, "ldm3d")


def medical_diffusion(config):
    """The rival with an autoencoder of volumes and one diffusion of its latents; two stages."""
    _rivals(config, "medical_diffusion")


def lvd(config):
    """The rival that draws a volume as a video: a diffusion of slices, mixed along the stack behind every block.

    The paper says no more than that it is latent video diffusion (Blattmann et al. 2023), made to fit 24 GB. Our guess:
    the refiner's U-Net without what it is told; all slices at once, where theirs draws some frames after others; all
    layers learn together, where theirs begins with a diffusion of single frames; a decoder of single slices.
    """
    _rivals(config, "lvd")


def _rivals(config, rival):
    """Makes ``config`` that of a stage of the ``rival``: the same one where it has it, else its last."""
    stage = _stage(config)
    _placed(config, stage if stage == RIVALS[rival] else "diff3d", rival=rival)


def _chosen(config, stage):
    """Makes ``config`` that of ``stage``, in the chain of a rival where it is of one."""
    rival = _rival(config)
    if rival and stage not in (RIVALS[rival], "diff3d"):
        raise UserError(f"{stage} is no stage of {rival}, which has {RIVALS[rival]} and diff3d")
    _placed(config, stage, rival=rival)


def octa500(config):
    """OCTA-500 as it lies; --config.data.path=DIR."""
    _with(config, name="octa500", path="")


def phantom(config):
    """Retinas that never were, drawn by code: for a trial of everything without a file."""
    _with(config, name="retina_phantom", size=tuple(config.data.get("resize", ())), n=40)


def _with(config, **data):
    """Puts other ``data`` into a stage that sees volumes."""
    if config.data.name != "latents":
        kept = {"patch", "slices", "flips"} | (set() if "size" in data else {"resize"})
        config.data = {field: config.data[field] for field in kept & {*config.data}} | data


def layers(config):
    """Volumes that follow a map of their layers, 7 classes; of ``octa500`` or ``phantom``."""
    _guided(config, "layers", 7)


def vessels(config):
    """Volumes that follow a map of arteries, veins, capillaries and FAZ, 5 classes; of the same."""
    _guided(config, "vessels", 5)


def _guided(config, labels, classes):
    """Both diffusions are told shares of the classes of a label map, which a tenth of the time they go without."""
    if config.data.name == "latents":
        config.model.map_classes = classes
        config.task.drop = 0.1
        config.sample.guidance = 2.0
        config.evals.guided = {"every": config.evals.scores.every}
    elif config.data.name != "volumes":  # whose maps lie in a folder, --config.STAGE.data.label_maps=DIR
        config.data.labels = labels
    if "encode" in config:
        config.encode.classes = classes


def _diffuses(stage, scale):
    """The sections of the two that diffuse latents."""
    deep = stage == "diff3d"
    network, sides = ({"ndim": 3} | scale.diff3d, scale.latent) if deep else (scale.refiner, scale.latent[1:])
    return {
        "model": {"name": "unet", "image_channels": 4, "context_channels": 0 if deep else 4} | UNET | network,
        "diffusion": {"schedule": "sqrt_linear", "timesteps": 1000},
        "task": {"name": "denoise", "loss": "l1", "ema": 0.9999, "drop": 0.0},
        "optimizer": {"lr": 1.8e-5 if deep else 2.88e-4, "warmup": 10_000},
        "data": {"name": "latents", "path": "../nhae" if deep else "../nhae/slices", "patch": sides, "flips": "none"},
        "train": {"steps": 200_000, "batch": 1 if deep else 16},
        "sample": {"sampler": "dpm_solver_pp", "steps": 20 if deep else 9, "size": sides, "dtype": scale.products}
        | {"batch": 1 if deep else 16},
        "generate": {"name": "sample"},
        "evals": of_samples(every=10_000),
        "bench": {"what": ("peer",), "batch": 1, "dtypes": ("float32",), "apart": True, "peer": PEER},
    }


def _sees(stage, scale):
    """The sections of the autoencoders."""
    name, more, lr, sides, flips = {
        "vae2d": ("vq_vae", {}, 3e-4, scale.size[1:], "horizontal"),
        "nhae": ("nhae", scale.volume, 1.2e-3, (scale.crop,) * 3, "depth+horizontal"),
        "multislice": ("multislice", {}, 3e-4, (5, scale.crop, scale.crop), "horizontal"),
        "vae3d": ("vq_vae_3d", {}, 3e-4, (scale.solid_crop,) * 3, "depth+horizontal"),
    }[stage]
    patch = tuple(min(side, whole) for side, whole in zip(sides, scale.size[-len(sides) :], strict=True))
    data = {"name": "volumes", "path": "", "resize": scale.size} | ({"slices": True} if stage == "vae2d" else {})
    sections = {
        "model": {"name": name} | (scale.solid if stage == "vae3d" else scale.planar | more),
        "task": dict(SEEN),
        "optimizer": {"lr": lr} | ADAMW,
        "data": data | {"patch": patch, "flips": flips},
        "train": {"steps": 200_000, "batch": 1, "init": "../vae2d" if stage in ("nhae", "multislice") else ""},
        "evals": {"reconstruction": {"every": 10_000, "metrics": ("psnr", "l1", "latent_mean", "latent_std")}},
    }
    of_volumes = {"encode": {"patch": scale.size, "flips": "none", "batch": 1, "shard": 512}}
    if stage == "multislice":
        sections["sample"] = {"n": 2, "batch": 1, "size": scale.size, "dtype": scale.products}
        sections |= {"generate": {"name": "ca_ldm"}, "parts": {name: f"../{name}" for name in PARTS}}
    return sections | (of_volumes if stage in ("nhae", "vae3d") else {})


def vae2d(config):
    """The autoencoder of slices."""
    _chosen(config, "vae2d")


def nhae(config):
    """The latent of a volume, which sees it coarsely, and the latents of its slices of that."""
    _chosen(config, "nhae")


def vae3d(config):
    """The autoencoder of whole volumes of Medical Diffusion."""
    _chosen(config, "vae3d")


def diff3d(config):
    """Draws latents of volumes."""
    _chosen(config, "diff3d")


def refiner(config):
    """Draws latents of slices, each told what the latent of the volume says of it."""
    _chosen(config, "refiner")


def multislice(config):
    """The decoder of several slices, which mixes them by adaptors."""
    _chosen(config, "multislice")


def published(config):
    """The sampler of the paper: 200 steps of DDIM; of a window of slices the middle one stays."""
    if "diffusion" in config:
        config.sample.update(sampler="ddim", steps=200)
    elif "generate" in config:
        config.generate.keep = 1


def ancestral(config):
    """The sampler of the paper's code: 1000 ancestral steps, x0 cut off at 1."""
    if "diffusion" in config:
        config.sample.update(sampler="ddpm", steps=1000, clip="static")
    elif "generate" in config:
        config.generate.keep = 1


def laptop(config):
    """Volumes of 64 x 64 x 64, all five stages in minutes of two cores."""
    _quick(config, LAPTOP)


def brief(config):
    """Half of the steps of ``laptop`` or ``hippocampus``."""
    steps = config.train.steps // 2
    config.train.steps = config.optimizer.cosine_steps = steps


def hippocampus(config):
    """The same for small volumes, such as Task04 of the Medical Segmentation Decathlon: about 35 x 50 x 36 voxels."""
    _quick(config, HIPPOCAMPUS)
    if config.data.name == "volumes":
        config.data.percentiles = (0, 99.5)


def _quick(config, scale):
    """Networks and steps for two cores."""
    stage = _stage(config)
    _placed(config, stage, scale, _rival(config))
    _without_files(config)
    steps = {"vae2d": 600, "nhae": 200, "diff3d": 400, "refiner": 600, "multislice": 150, "vae3d": 400}[stage]
    batch = {"vae2d": 8, "nhae": 2, "diff3d": 2, "refiner": 8, "multislice": 2, "vae3d": 4}[stage]
    recipes.muon(config, steps=steps, lr=2e-3)
    config.task.update(ema=0.99, ema_warmup=True)
    config.train.update(steps=steps, batch=batch, log_every=20, checkpoint_every=200)
    config.held = {"n": 8, "train": 16}
    often(config, 0)


def smoke(config):
    """Seconds: shows that every part works, not what it is worth."""
    _placed(config, _stage(config), SMOKE, _rival(config))
    _without_files(config)
    if "diffusion" in config:
        config.sample.update(steps=4, n=2)
        config.evals.scores = {"every": 0, "metrics": ("drift",)}
        del config.evals.nearest
    config.held = {"n": 2, "train": 4}
    recipes.smoke(config)
    _with(config, name="retina_phantom", size=SMOKE.size, n=12)


def _without_files(config):
    """An autoencoder learns without published weights; codes that nothing uses are drawn anew."""
    if config.task.name == "autoencode":
        config.task.update(perceptual="random", critic=16, adversarial=0.1, start=50)
        if _stage(config) != "multislice":
            config.task.revive = 50


def chain(forms):
    """The five stages in the same forms; for a rival its two. A form that chooses a stage chooses nothing here."""
    stages, rivals = [], [(first, "diff3d") for form, first in RIVALS.items() if form in forms]
    forms = [form for form in forms if form not in PLACES]
    for stage in rivals[0] if rivals else CHAIN:
        config = get_config()
        _placed(config, stage)
        for form in forms:
            globals()[form](config)
        stages.append(Stage(stage, config, ("train", "encode") if "encode" in config else ("train",)))
    return stages
