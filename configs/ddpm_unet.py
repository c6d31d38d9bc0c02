r"""The U-Net of DDPM (Ho et al. 2020), Diff-NCA's and FourierDiff-NCA's rival in four sizes (Kalkhof et al. 2024).

python -m nca_gen.main --config=configs/ddpm_unet.py --workdir=runs/unet_m
python -m nca_gen.main --config=configs/ddpm_unet.py:celeba,b --config.data.path=DIR --workdir=runs/unet_b

All else is as in configs/fourier_diff_nca.py: data, noise, loss, steps. Weights of diffusers' ``UNet2DModel`` have a
reader, :func:`nca_gen.models.unet.published`. The paper's numbers on CelebA after 200,000 steps, FID and KID of 2048
images of 64x64:

form   parameters   FID     KID
s          652,195  175.3   .142
(m)      3,940,547  128.2   .089
b       17,217,923   20.1   .005
l      111,051,779   18.2   .004
"""

import diff_nca
from fourier_diff_nca import folder, retinamnist  # noqa: F401  forms of this page, as the next
from shared import recipes
from shared.data import IMAGES, VOLUMES, bcss, celeba, hippocampus, phantom, slides, volumes  # noqa: F401
from shared.evals import often

NETWORK = {"name": "unet", "head": 8, "learned_variance": False, "image_channels": 3}
MEDIUM = {"width": 32, "multipliers": (1, 2, 4), "attention": (4,)}
PEER = {  # diffusers' UNet2DModel on PyTorch, of --mode=bench
    "script": "tests/peers/torch_ddpm_unet.py",
    "fields": ("width", "multipliers", "blocks", "attention", "head", "image_channels"),
    "forms": {"": {"compiled": False}, ", compiled": {"compiled": True}},
    "targets": {"seconds": 0.8, "memory_mb": 1.0},
}

ORDER = (IMAGES, ("laptop",), ("s", "m", "b", "l"), VOLUMES, ("smoke",))  # of forms, however they are written


def get_config():
    config = diff_nca.get_config()
    config.model = NETWORK | MEDIUM
    config.optimizer = {"lr": 3e-5, "b1": 0.5, "eps": 1e-6}
    config.train.batch = 32
    config.sample.large = (96, 96)
    config.bench = {"peer": PEER, "batch": 4, "dtypes": ("float32",)}
    return config


def s(config):
    """The smallest: two levels, which attend in the middle alone."""
    config.model.update(width=32, multipliers=(1, 2), blocks=1, attention=())


def m(config):
    """Three levels, the default."""
    config.model.update(MEDIUM, blocks=2)


def b(config):
    """Four levels, twice as wide."""
    config.model.update(width=64, multipliers=(1, 2, 2, 4), blocks=2, attention=(4,))


def l(config):  # noqa: E743  the paper's own letter
    """Six levels, four times as wide."""
    config.model.update(width=128, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, attention=(4, 8))


def laptop(config):
    """Half an hour on 4 cores, for data of your own (``folder,laptop``): the smallest, on cells of 2 x 2 pixels."""
    diff_nca.laptop(config)
    config.model = NETWORK | {"image_channels": 12}
    s(config)
    config.codec.std = (0.5,)
    recipes.muon(config, steps=2000, lr=3e-3)
    config.train.update(steps=2000, checkpoint_every=250)
    often(config, 1000)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth."""
    s(config)
    config.diffusion = {**config.get("diffusion", {}), "timesteps": 8}
    axes = len(config.data.patch)
    config.data.patch = (16,) * axes
    config.sample.update(steps=4, n=4, size=(24,) * axes, large=(32, 40) if axes == 2 else ())
    config.held = {"n": 8, "train": 16}
    recipes.smoke(config)
