r"""Ten minutes on a laptop: one Diff-NCA learns a real field of tissue and paints more of it.

Its cells hear 12 pixels; launch/quickstart.sh trains a layout first (configs/nca_cascade.py:quickstart).

python -m nca_gen.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict
from shared import recipes
from shared.evals import of_samples
from shared.recipes import distil  # noqa: F401  a form of this page

STEPS = 2000
ORDER = (("distil",), ("smoke",))  # of forms, however they are written


def get_config():
    config = ConfigDict(
        {
            "model": {
                "name": "diff_nca",
                "channels": 48,
                "hidden": 192,
                "steps": 6,
                "norm": "cell",  # strictly local: the rule paints images of any size
                "conv": "gathered",
                "remat": "fc0",
                "image_channels": 12,  # a cell holds a block of 2x2 pixels in 3 colours
            },
            # Standardised by mean and deviation of the training strips.
            "codec": {"mean": (0.39, 0.25, 0.13), "std": (0.28, 0.37, 0.48), "block": 2},
            "diffusion": {"prediction": "v"},
            "task": {"name": "denoise", "loss": "l2", "ema": 0.998, "ema_warmup": True},
            "optimizer": {},
            "data": {
                "name": "tissue",
                "patch": (48, 48),
                "reduce": 2,  # the field is 512x512
                "val": 32,
                "test": 96,
                "right": 192,  # the held-out strips lie in the middle, which looks like the whole
            },
            "train": {
                "steps": STEPS,
                "batch": 16,
                "log_every": 20,
                "checkpoint_every": 500,
                "keep": 2,
                "on_divergence": "rollback",
            },
            "sample": {"sampler": "ddim", "steps": 50, "clip": "static", "size": (64, 64), "large": (256, 256)},
            "held": {"n": 64, "train": 1024},
            "evals": of_samples(every=STEPS // 2),
        }
    )
    recipes.muon(config, steps=STEPS, lr=3e-3)
    return config


def smoke(config):
    """Seconds: shows that every part works, not what it is worth."""
    config.model.update(channels=26, hidden=16, steps=2)
    config.diffusion.timesteps = 8
    config.data.patch = (16, 16)
    config.sample.update(steps=4, n=4, size=(24, 24), large=(31, 40))
    config.held = {"n": 8, "train": 16}
    recipes.smoke(config)
