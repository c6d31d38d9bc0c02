r"""The KL autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752): 256 x 256 pixels as 32 x 32 x 4.

python -m nca_gen.main --config=configs/vae_kl.py:laptop --config.data.path=DIR --workdir=runs/vae_kl
python -m nca_gen.main --mode=encode --workdir=runs/vae_kl

The second line writes runs/vae_kl/latents, all that configs/geca.py needs. Published weights need no training:
python -m nca_gen.main --config=configs/vae_kl.py:sd --config.data.path=DIR --config.encode.weights=FILE \
    --workdir=runs/sd --mode=encode
"""

from ml_collections import ConfigDict
from shared import recipes
from shared.evals import often

ORDER = (("fundus", "folder"), ("laptop",), ("sd",), ("smoke",))  # of forms, however they are written


def get_config():
    return ConfigDict(
        {
            "model": {
                "name": "vae_kl",
                "width": 64,
                "multipliers": (1, 2, 4),  # of the width, a level each; every level but the last halves the image
                "patch": 2,  # pixels a side that enter as channels
            },
            "task": {"name": "autoencode", "start": 50_000},
            "optimizer": {"lr": 2e-4, "b2": 0.99, "warmup": 200, "clip": 1.0},
            "data": {
                "name": "folder",
                "path": "",
                "resize": (256, 256),
                "patch": (256, 256),
                "flips": "horizontal",
            },
            "train": {"steps": 100_000, "batch": 8, "log_every": 20, "checkpoint_every": 500},
            "generate": {"name": "decode"},
            "held": {"split": "val", "n": 64},
            "evals": {"reconstruction": {"every": 5000}},
            "encode": {},
        }
    )


def fundus(config):
    """Photographs of the back of the eye, each as a whole in 256 x 256, as is; the default."""
    config.data.update(resize=(256, 256), patch=(256, 256), flips="horizontal")


def folder(config):
    """Your own images at their own size, of which 256 x 256 are seen at a time; --config.data.path=DIR."""
    config.data = {"name": "folder", "path": "", "patch": (256, 256)}
    config.encode.flips = "none"


def sd(config):
    """The architecture of Stable Diffusion's, 83,653,863 parameters: for its published weights, or a GPU."""
    config.model = {"name": "vae_kl"}
    config.encode.batch = 4


def laptop(config):
    """For 4 cores; photographs of the eye come back at 32 dB after 300 steps, without their finest vessels."""
    config.model.update(width=48, multipliers=(1, 2), layers=1, groups=8, patch=4)
    config.task.update(kl=1e-3, perceptual="random", perceptual_weight=0.1, ema=0.995)
    config.optimizer.update(lr=1e-3, muon=0.02, warmup=50, cosine_steps=1000)
    config.train.update(steps=1000, log_every=10, checkpoint_every=100)
    often(config, 500)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth."""
    config.model.update(width=8, multipliers=(1, 2), layers=1, groups=4, patch=2)
    config.task.update(perceptual="random", adversarial=0.5, start=2, critic=8)
    config.data = {"name": "tissue", "patch": (32, 32)}
    config.held.n = 8
    recipes.smoke(config)
    config.encode.update(batch=8, shard=32)
