r"""The automata of nca_gen/zoo/, so small that their weights lie there: launch/zoo.sh trains and exports them.

python -m nca_gen.main --config=configs/zoo.py --workdir=runs/zoo/tissue
python -m nca_gen.main --config=configs/zoo.py:spots --workdir=runs/zoo/spots

The first is a Diff-NCA of the field of tissue that ships in scikit-image, of any size; ``spots`` a GeCA of the eyes
that nca_gen/data/spots.py draws, of five grades.
"""

import quickstart
from shared import recipes
from shared.evals import of_samples

STEPS = 2000
ORDER = (("spots",), ("smoke",))  # of forms, however they are written


def get_config():
    config = quickstart.get_config()
    config.model.update(channels=40, hidden=96)
    config.task.ema = 0.999
    del config.data.test
    config.train = {"steps": STEPS, "batch": 16, "checkpoint_every": 500, "keep": 2}
    config.sample.update(sampler="dpm_solver_pp", steps=10)
    config.evals = of_samples(every=STEPS)
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
        recipes.smoke(config)
    else:
        quickstart.smoke(config)
