r"""GeCA (Elbatel et al. 2024, MICCAI): gene-heredity cells that paint retinas of every grade, and its two rivals.

python -m nca_gen.main --config=configs/geca.py --config.data.path=runs/vae_kl --workdir=runs/geca
python -m nca_gen.main --config=configs/geca.py:pixels,laptop --config.data.path=DIR --workdir=runs/geca_pixels
python -m nca_gen.main --mode=evaluate --workdir=runs/geca --config.evals.heredity.inherit=none,hidden,out,both \
    --config.evals.heredity.guidance=1.0,1.5 --config.evals.growth.steps=2,4,8,12,16,24,32

The first line trains on the latents that configs/vae_kl.py and --mode=encode have made (both at once:
configs/geca_chain.py), the second on RetinaMNIST as it is; any form goes with any other, those of volumes
too (``:volumes``, ``:hippocampus``, ``:phantom``). The paper's numbers on 1080 fundus photographs, KID and LPIPS of
256 x 256 pixels:

form      parameters   KID x1000   LPIPS
(GeCA-S)  13,307,976        7.42     .39   heredity none 19.37, out 44.22, both 12.84
xs         2,253,416
dit       32,630,816       12.45     .31
ldm       17,372,552       11.64     .37   our reading of an unpublished configuration
"""

from ml_collections import ConfigDict
from shared import data, recipes
from shared.evals import of_samples, often
from shared.recipes import distil  # noqa: F401  a form of this page

PEER = {  # eager PyTorch's, of --mode=bench
    "script": "tests/peers/torch_geca.py",
    "fields": ("image_channels", "hidden", "embed", "heads", "mlp", "steps", "fire_rate", "classes"),
}

OURS = (("dit", "ldm"), ("pixels", "oct"), ("laptop",), ("xs",))
ORDER = (*OURS, data.VOLUMES, ("distil",), ("smoke",))  # of forms, however they are written


def get_config():
    return ConfigDict(
        {
            "model": {"name": "geca", "classes": 5, "dtype": "bfloat16", "image_channels": 4},
            "codec": {"block": 1},  # latents come standardised
            "diffusion": {"schedule": "linear", "timesteps": 1000},
            "task": {"name": "denoise", "loss": "l2", "ema": 0.9999, "ema_warmup": True},
            "optimizer": {},
            "data": {
                "name": "latents",
                "path": "",
                "patch": (32, 32),  # latents, of 8 x 8 pixels each
                "flips": "none",  # mirrored images have latents of their own
            },
            "train": {"steps": 112_000, "batch": 128},
            "sample": {"steps": 250, "guidance": 1.5, "heredity": "hidden", "n": 40, "size": (32, 32)},
            "held": {"train": 1080},
            "evals": of_samples(every=8000, grades={"every": 8000}, heredity={}, growth={}),
            "expand": {},
            "study": {},
            "bench": {"what": ("peer", "rivals"), "peer": PEER, "rivals": {n: {"name": n} for n in ("dit", "unet")}},
        }
    )


def pixels(config):
    """RetinaMNIST without an autoencoder, 28 pixels framed to 32, 2 x 2 of them a cell; --config.data.path=DIR."""
    config.data = {"name": "retinamnist", "path": "", "pad": 2, "patch": (32, 32), "flips": "horizontal"}
    config.codec = {"mean": (-0.39, -0.63, -0.76), "std": (0.62, 0.41, 0.29), "block": 2}  # of the training images
    config.model.image_channels = 12


def volumes(config):
    """Your own volumes of one channel: NIfTI, numpy, or a folder of B-scans each; --config.data.path=DIR."""
    _without_grades(config, data.volumes)


def hippocampus(config):
    """Whole small volumes, such as Task04 of the Medical Segmentation Decathlon (MRI); --config.data.path=DIR."""
    _without_grades(config, data.hippocampus)


def phantom(config):
    """Retinas that never were, drawn by code: volumes for a trial without a file."""
    _without_grades(config, data.phantom)


def _without_grades(config, form):
    """Volumes by ``form``; of cells in no class, which say no variance."""
    form(config)
    config.model.update(classes=0, learned_variance=False)
    config.sample.guidance = 1.0
    if "grades" in config.evals:
        del config.evals.grades


def oct(config):
    """Eleven findings at once, of latents of OCT-ML."""
    config.model.classes = 11


def xs(config):
    """GeCA-XS; rivals stay as they are."""
    if config.model.name == "geca":
        config.model.update(embed=384, heads=6, mlp=64, hidden=32)


def dit(config):
    """DiT-S/2 in place of the cells; all else equal."""
    _rival(config, "dit")


def ldm(config):
    """The U-Net of latent diffusion in place of the cells; all else equal."""
    _rival(config, "unet")


def _rival(config, name):
    config.model = {"name": name} | {field: config.model[field] for field in ("classes", "dtype", "image_channels")}
    config.sample.heredity = "none"  # it has no cells that could inherit


def laptop(config):
    """A small one of each model, cells of 2 x 2: of GeCA 0.6 steps a second on one core."""
    small = {
        "geca": {"embed": 192, "heads": 6, "mlp": 384, "hidden": 32, "steps": 8},
        "dit": {"width": 192, "depth": 8, "heads": 6},
        "unet": {"width": 32, "head": 16},
    }
    config.model.update(small[config.model.name], dtype="float32")
    config.model.image_channels = 4 * config.model.image_channels // config.codec.block**2
    config.codec.block = 2
    config.diffusion.prediction = "v"  # whose first pictures have the right colours
    config.task.ema = 0.998
    recipes.muon(config, steps=4000, lr=1e-3)
    config.train.update(steps=4000, batch=16, log_every=20, checkpoint_every=250)
    config.sample.update(steps=50, n=20)
    config.held.n = 64
    often(config, 2000)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth. Without latents, on tissue."""
    recipes.tiny(config)
    if len(config.data.patch) == 3:
        config.data.patch = config.sample.size = (16, 16, 16)
    if config.data.name == "latents":
        config.data = {"name": "tissue", "patch": (16, 16)}
        config.model.update(classes=0, image_channels=12)
        config.codec = {"std": (0.5,), "block": 2}
        config.sample.size = (16, 16)
    recipes.smoke(config)
