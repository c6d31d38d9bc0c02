"""The runs of latent_balls.py, the autoencoder alone and the last stage of the chain, killed at step 4."""

import latent_balls
from lab.halt import halted


def get_config():
    return halted(latent_balls.get_config(), "autoencoder.halted")


def chain(forms):
    """The stages, of which the last is killed."""
    *stages, last = latent_balls.chain(forms)
    return [*stages, last._replace(config=halted(last.config, "chain.halted"))]
