r"""Automata of volumes beside a U-Net of twice their size: Diff-NCA and GeCA in three dimensions, under one budget.

python -m nca_gen.main --config=configs/volumes.py:hippocampus --mode=chain --config.data.path=DIR --workdir=runs/mri
python -m nca_gen.main --config=configs/volumes.py:phantom --mode=chain --workdir=runs/oct

DIR holds small volumes, such as MRI of the hippocampus; ``:phantom`` needs no file. Cells are blocks of 2 x 2 x 2
voxels, and hear the six with which they share a face (--config.STAGE.model.neighbourhood=moore: all 26). Every model
has the same budget (--config.budget.of: steps, minutes or FLOP) and learns at one rate to its end, so that a shorter
training is the beginning of a longer one; ``table`` draws from all and scores them. Parameters, and products of a call
on 32 x 48 x 32 voxels:

diff_nca   85,992   4.85 GFLOP
geca       91,872   2.76
unet      176,760   1.04
"""

import ddpm_unet
import diff_nca as gated
import geca as attentive
from shared import data, recipes, rivals
from shared.evals import often

from nca_gen.config import Stage

METRICS = ("fid_25d@radimagenet-random", "total_variation", "drift")
FACES = {"neighbourhood": "von_neumann"}
MODELS = {  # the page of each, and its size
    "diff_nca": (gated, {"channels": 64, "hidden": 192, "steps": 6, "conv": "gathered"} | FACES),
    "geca": (attentive, {"embed": 64, "heads": 4, "mlp": 128, "hidden": 24, "steps": 6} | FACES),
    "unet": (ddpm_unet, {"width": 16, "multipliers": (1, 1), "groups": 8}),
}
ORDER = (MODELS, ("hippocampus", "phantom"), ("smoke",))  # of forms, however they are written
SMALL = {  # in the smoke form
    "diff_nca": {"channels": 18, "hidden": 16, "steps": 2},
    "geca": {"embed": 16, "heads": 2, "mlp": 16, "hidden": 4, "steps": 2},
    "unet": {"width": 8},
}


def get_config():
    """Diff-NCA."""
    return _rival("diff_nca")


def _rival(name):
    """A model on volumes of the hippocampus, learned as its rivals are."""
    page, size = MODELS[name]
    config = page.get_config()
    page.laptop(config)
    page.hippocampus(config)
    config.model.update(size)
    config.diffusion = {"prediction": "v"}
    config.task = {"name": "denoise", "loss": "l2", "ema_warmup": True}
    recipes.muon(config, steps=0, lr=2e-3)
    del config.optimizer.cosine_steps, config.sample.large  # as they are anyway
    config.train.update(steps=2000, batch=2, log_every=10, checkpoint_every=50, keep=100)
    config.sample.update(sampler="dpm_solver_pp", steps=10, grid="karras", clip="static", n=8, batch=8)
    config.budget = {"of": "10min"}
    config.held = {"n": 20, "train": 40}
    config.study = {"n": 20, "train": 40, "metrics": METRICS}
    often(config, 0)  # the table asks
    return config


def _become(config, name):
    """Makes ``config`` that of the model ``name``, on the same volumes."""
    volumes, other = (config.data, config.codec, config.sample.size), _rival(name)
    for section in [*config]:
        del config[section]
    config.update(other)
    config.data, config.codec, config.sample.size = volumes


def diff_nca(config):
    """Diff-NCA, whose cells perceive their neighbours by a kernel."""
    _become(config, "diff_nca")


def geca(config):
    """GeCA, whose cells attend to their neighbours."""
    _become(config, "geca")


def unet(config):
    """The U-Net, of twice as many parameters, which sees all of a volume."""
    _become(config, "unet")


def hippocampus(config):
    """Whole small volumes, such as Task04 of the Medical Segmentation Decathlon (MRI); --config.data.path=DIR."""
    data.hippocampus(config)


def phantom(config):
    """Retinas that never were, drawn by code: volumes for a trial without a file."""
    data.phantom(config)


def smoke(config):
    """Seconds: shows that every part works, not what it is worth. On the phantom."""
    phantom(config)
    sides = config.data.patch = (16, 16, 16)
    config.model.update(SMALL[config.model.name])
    config.diffusion.timesteps = 8
    config.sample.update(steps=2, n=4, batch=4, size=sides)
    config.held = {"n": 4, "train": 4}
    config.optimizer.warmup = 0
    recipes.smoke(config)
    often(config, 0)
    config.budget.of = "2steps"
    config.study.update(n=4, train=4, metrics=("total_variation", "drift"))


def chain(forms):
    """A training of each model, or of those among ``forms``, and the table of them all."""
    chosen = [form for form in forms if form in MODELS] or [*MODELS]
    stages = []
    for name in chosen:
        config = rivals.formed(_rival(name), forms, globals(), MODELS)
        stages.append(Stage(name, config, ("budget", "train")))
    return rivals.judged(stages, rivals.formed(get_config(), forms, globals(), MODELS))
