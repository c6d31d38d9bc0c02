r"""The automata of nca_gen/zoo/, so small that their weights lie there: launch/zoo.sh trains and exports them.

python -m nca_gen.main --config=configs/zoo.py --workdir=runs/zoo/tissue
python -m nca_gen.main --config=configs/zoo.py:spots --workdir=runs/zoo/spots

The first is a Diff-NCA of the field of tissue that ships in scikit-image, of any size; ``spots`` a GeCA of the eyes
that nca_gen/data/spots.py draws, of five grades.
"""

from ml_collections import ConfigDict
from shared import recipes
from shared.evals import of_samples

STEPS = 2000


def get_config():
    config = ConfigDict(
        {
            "model": {
                "name": "diff_nca",
                "channels": 40,
                "hidden": 96,
                "steps": 6,
                "norm": "cell",  # strictly local: the rule paints images of any size
                "conv": "gathered",
                "remat": "fc0",
                "image_channels": 12,  # a cell holds a block of 2x2 pixels in 3 colours
            },
            "codec": {"mean": (0.39, 0.25, 0.13), "std": (0.28, 0.37, 0.48), "block": 2},
            "diffusion": {"prediction": "v"},
            "task": {"name": "denoise", "loss": "l2", "ema": 0.999, "ema_warmup": True},
            "data": {
                "name": "tissue",
                "patch": (48, 48),
                "reduce": 2,  # the field is 512x512
                "val": 32,
                "right": 192,  # the held-out strips lie in the middle, which looks like the whole
            },
            "train": {"steps": STEPS, "batch": 16, "checkpoint_every": 500, "keep": 2},
            "sample": {
                "sampler": "dpm_solver_pp",
                "steps": 10,
                "clip": "static",
                "size": (64, 64),
                "large": (256, 256),
            },
            "held": {"n": 64, "train": 1024},
            "evals": of_samples(every=STEPS),
        }
    )
    recipes.muon(config, steps=STEPS, lr=3e-3)
    return config


def spots(config):
    """Cells that paint as many spots on an eye as its grade says; one window is the whole eye."""
    config.model = {
        "name": "geca",
        "embed": 40,
        "heads": 4,
        "mlp": 96,
        "hidden": 16,
        "steps": 8,
        "classes": 5,
        "learned_variance": False,
        "image_channels": 12,
    }
    config.codec = {"mean": (-0.25, -0.55, -0.78), "std": (0.65, 0.4, 0.2), "block": 2}
    config.diffusion.schedule = "linear"
    config.data = {"name": "spots", "patients": 250, "patch": (32, 32), "flips": "horizontal"}
    config.sample = {"steps": 100, "clip": "static", "n": 20, "size": (32, 32)}
    config.held = {"n": 48, "train": 400}
    config.evals.grades = {"every": STEPS}


def smoke(config):
    """Seconds: shows that every part works, not what it is worth."""
    if config.model.name == "geca":
        recipes.tiny(config)
        config.model.image_channels = 12
    else:
        config.model.update(channels=26, hidden=16, steps=2)
        config.diffusion.timesteps = 8
        config.data.patch = (16, 16)
        config.sample.update(steps=4, n=4, size=(24, 24), large=(31, 40))
        config.held = {"n": 8, "train": 16}
    recipes.smoke(config)
