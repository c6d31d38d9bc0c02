r"""FourierDiff-NCA (Kalkhof et al. 2024, arXiv 2401.06291): the automaton that talks in Fourier space first.

python -m nca_gen.main --config=configs/fourier_diff_nca.py --workdir=runs/fourier_diff_nca
python -m nca_gen.main --config=configs/fourier_diff_nca.py:celeba,c128_h640 --config.data.path=DIR --workdir=runs/c128

It trains on the field of tissue that ships in scikit-image; ``:celeba`` takes the paper's data, ``:folder`` yours.
The paper's numbers on CelebA after 200,000 steps, FID and KID of 2048 images of 64x64:

form         parameters   FID     KID
(c96_h512)   1,101,216    43.86   .022
c128_h640    1,849,632    42.69   .016
c48_h512       525,792    60.96   .031
c96_h256       737,184    77.22   .046
s30          1,101,216    47.98
s10          1,101,216    61.47

Ours has 2 * hidden parameters less: the paper counts a normalisation that it never uses.
"""

import diff_nca
from shared import data, recipes
from shared.data import IMAGES, celeba  # noqa: F401  a form of this page
from shared.recipes import distil  # noqa: F401  a form of this page

SIZES = ("c96_h512", "c128_h640", "c96_h256", "c48_h512", "s10", "s30")
ORDER = (IMAGES, ("laptop",), SIZES, ("distil",), ("smoke",))  # of forms, however they are written


def get_config():
    config = diff_nca.get_config()
    config.model = {"name": "fourier_diff_nca"}
    config.sample.large = (96, 96)
    del config.bench["peer"]
    return config


def retinamnist(config):
    """Fundus images, placed by hand; the 64 x 64 edition, a window of 16 needs at least 32; --config.data.path=DIR."""
    config.data = {"name": "retinamnist", "path": "", "size": 64, "patch": (64, 64), "flips": "horizontal"}


def folder(config):
    """Your own images: PNG, JPEG or TIFF, with an optional labels.csv; --config.data.path=DIR."""
    data.folder(config)
    config.data.flips = "horizontal"


def c96_h512(config):
    """The largest but one of the paper, the default."""
    config.model.update(channels=96, hidden=512)


def c128_h640(config):
    """The paper's largest."""
    config.model.update(channels=128, hidden=640)


def c96_h256(config):
    """Half as wide within."""
    config.model.update(channels=96, hidden=256)


def c48_h512(config):
    """Half as many channels."""
    config.model.update(channels=48, hidden=512)


def s10(config):
    """Ten steps in image space."""
    config.model.steps = 10


def s30(config):
    """Thirty steps in image space."""
    config.model.steps = 30


def laptop(config):
    """Half an hour on 4 cores, for data of your own (``folder,laptop``): fewer, larger cells, an 8x8 window."""
    diff_nca.laptop(config)
    config.model = {"name": "fourier_diff_nca", "image_channels": 12, "remat": "fc0"}
    config.model.update(channels=48, hidden=192, steps=8, window=8, fourier_steps=16)
    config.codec.std = (0.5,)
    recipes.muon(config, steps=2000, lr=3e-3)
    config.train.update(steps=2000, checkpoint_every=250)
    recipes.often(config, 1000)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth."""
    diff_nca.smoke(config)
    config.model.update(window=8, fourier_steps=4)
