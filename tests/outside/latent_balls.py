"""An autoencoder of volumes; and a chain: it, and a denoiser of its latents, which uses it as a part.

python -m nca_gen.main --config=latent_balls.py --workdir=runs/autoencoder
python -m nca_gen.main --config=latent_balls.py --mode=chain --workdir=runs/chain
"""

import balls
from ml_collections import ConfigDict

from nca_gen.config import Stage


def get_config():
    """The autoencoder."""
    config = balls.get_config()
    del config["diffusion"]
    config.model = ConfigDict({"name": "lab.latent"})
    config.task = ConfigDict({"name": "autoencode"})
    config.generate = ConfigDict({"name": "decode"})
    config.evals = {"reconstruction": {"every": 6, "metrics": ("psnr", "l1")}}
    return config


def latent():
    """The denoiser of its latents."""
    config = balls.get_config()
    config.model.update(channels=2, told=False)
    config.task = ConfigDict({"name": "lab.latent"})
    config.generate = ConfigDict({"name": "lab.latent"})
    config.parts = {"autoencoder": "../autoencoder"}
    return config


def chain(forms):
    """The autoencoder, and the denoiser of its latents."""
    return [Stage("autoencoder", get_config()), Stage("denoiser", latent())]
