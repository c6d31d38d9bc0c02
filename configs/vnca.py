r"""VNCA (Palm et al. 2022, arXiv 2201.12360), with doublings: an autoencoder whose decoder is an automaton.

python -m nca_gen.main --config=configs/vnca.py --config.data.path=DIR --workdir=runs/vnca
python -m nca_gen.main --config=configs/vnca.py:faces,laptop --config.data.path=DIR --workdir=runs/vnca

9,732,416 parameters on CelebA at 64x64, FID 299.99 and KID .338 in Kalkhof et al. 2024 (arXiv 2401.06291, table 2).
Pictures are drawn from z, the standard normal, by one growth: --mode=generate --workdir=runs/vnca. Held-out images have
a bound on their likelihood, and are damaged while they are cells: --mode=evaluate.
"""

from ml_collections import ConfigDict
from shared import recipes
from shared.data import celeba
from shared.evals import often

ORDER = (("celeba", "faces"), ("laptop",), ("beta100", "regrow"), ("smoke",))  # of forms, however they are written
ASKED = ("scores", "nearest", "reconstruction", "likelihood", "damage")


def get_config():
    config = ConfigDict(
        {
            "model": {"name": "vnca"},
            "task": {"name": "elbo"},
            "optimizer": {"clip": 10.0},
            "train": {"steps": 100_000, "batch": 32},
            "generate": {"name": "decode"},
            "evals": {name: {"every": 10_000} for name in ASKED},
        }
    )
    celeba(config)
    return config


def beta100(config):
    """The KL weighs a hundred times as much: smoother samples, worse reconstructions (paper, figures 7, 8)."""
    config.task.beta = 100.0


def regrow(config):
    """Half of the likelihood is of pictures that were damaged, and grew on for 32 steps."""
    config.task.regrow = 32


def faces(config):
    """A folder of your own images, each as a whole in 64 x 64; --config.data.path=DIR."""
    config.data = {"name": "folder", "path": "", "resize": (64, 64), "patch": (64, 64), "flips": "horizontal"}


def laptop(config):
    """Nine minutes of CPU time, images of 32 x 32: blurred faces, 5.65 bits per value. Narrow cells, half the steps."""
    config.model.update(latent=32, hidden=32, residuals=2, widths=(16, 32, 48, 64), doublings=4, steps=4)
    config.data["size" if config.data.name == "celeba" else "resize"] = (32, 32)
    config.data.patch = (32, 32)
    config.task.ema = 0.98
    recipes.muon(config, steps=1200, lr=1e-3)
    config.optimizer.muon = 0.01
    config.train.update(steps=1200, batch=16, log_every=10, checkpoint_every=100)
    config.held = {"n": 64, "train": 1024}
    often(config, 600)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth."""
    config.model.update(latent=12, hidden=8, residuals=1, widths=(4, 8, 8), doublings=3, steps=2)
    config.data = {"name": "tissue", "patch": (16, 16)}
    config.sample = {"n": 4}
    config.held = {"n": 8, "train": 16}
    config.evals.damage.steps = 4
    recipes.smoke(config)
