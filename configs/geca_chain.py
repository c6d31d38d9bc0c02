r"""GeCA as published, from photographs to cells in one command: an autoencoder, its latents, and the cells of these.

python -m nca_gen.main --config=configs/geca_chain.py --mode=chain --workdir=runs/geca_chain --config.data.path=DIR

Each stage is an ordinary run in its folder of the workdir (``autoencoder``, ``cells``), which goes on where it was
stopped; --stage=cells begins there. Fields of a stage are overridden under its name: --config.cells.train.steps=1000.
"""

import geca
import vae_kl
from shared import recipes

from nca_gen.config import Stage

ORDER = (("laptop",), ("smoke",))  # of forms, however they are written


def get_config():
    """The last stage, on what the first has made."""
    config = geca.get_config()
    config.data.path = "../autoencoder"
    return config


def laptop(config):
    """Both stages in the size of a laptop."""
    geca.laptop(config)


def smoke(config):
    """Seconds: shows that every part works, not what it is worth."""
    recipes.tiny(config)
    config.model.classes = 0  # tissue has none
    config.data.patch = config.sample.size = (8, 8)  # of 32 x 32 pixels
    recipes.smoke(config)


def chain(forms):
    """The autoencoder of configs/vae_kl.py in the same forms, and the cells."""
    first, last = vae_kl.get_config(), get_config()
    for form in forms:
        vars(vae_kl)[form](first)
        globals()[form](last)
    return [Stage("autoencoder", first, ("train", "encode")), Stage("cells", last)]
