r"""Table 2 and figure 4 of Kalkhof et al. 2024 (arXiv 2401.06291): the automata and their rivals, judged alike.

python -m nca_gen.main --config=configs/table2.py:faces,laptop --mode=chain --config.data.path=DIR --workdir=runs/table
python -m nca_gen.main --config=configs/table2.py:celeba,fourier,unet_m --mode=chain --config.data.path=DIR \
    --config.budget.of=600min --workdir=runs/table2

Every model is given the same budget (--config.budget.of: steps, minutes or FLOP), tries three learning rates around its
published one for a fifth of it, and trains from each of two seeds (``three_seeds``: three) at the best of them; then
``table`` draws from all runs and writes table/study.html. Models are forms, by default all; each run goes on where it
was stopped. ``ablation``: the rows of table 1. The paper's numbers stand in configs/fourier_diff_nca.py and
configs/ddpm_unet.py.
"""

import ddpm_unet
import diff_nca as local
import fourier_diff_nca
import vnca as doubling
from shared import data, rivals
from shared.evals import often

from nca_gen.config import Stage
from nca_gen.errors import UserError

METRICS = ("fid", "kid", "precision_recall", "swd", "neighbours")
TASKS = ("96x96", "78x64", "hole", "x2")  # sections 4.6 to 4.8: what none is trained for
RATES = (1 / 3, 1.0, 3.0)
SEEDS = 2
PAGES = {"unet": ddpm_unet, "diff_nca": local, "fourier_diff_nca": fourier_diff_nca, "vnca": doubling}  # by their model
SMALL = ("fourier", "diff_nca", "unet_s", "vnca")  # of which there is a size for laptops
ABLATION = ("fourier", "fourier_c48_h512", "fourier_c96_h256", "fourier_s30", "fourier_s10")


def get_config():
    """The paper's best trade-off, FourierDiff-NCA with 96 channels."""
    return _rival(fourier_diff_nca)


def _rival(page, *forms):
    """A page's own config; all rivals are judged by the table alone, and see the same images."""
    config = page.get_config()
    for form in forms:
        vars(page)[form](config)
    config.data = fourier_diff_nca.get_config().data
    config.budget = {"rates": RATES}
    config.study = {"n": 2048, "train": 2048, "metrics": METRICS, "stand_ins": True, "halves": 8, "tasks": TASKS}
    often(config, 0)
    return config


MODELS = {
    "fourier": (fourier_diff_nca,),
    "fourier_c128_h640": (fourier_diff_nca, "c128_h640"),
    "fourier_c48_h512": (fourier_diff_nca, "c48_h512"),
    "fourier_c96_h256": (fourier_diff_nca, "c96_h256"),
    "fourier_s30": (fourier_diff_nca, "s30"),
    "fourier_s10": (fourier_diff_nca, "s10"),
    "diff_nca": (local,),
    "unet_s": (ddpm_unet, "s"),
    "unet_m": (ddpm_unet, "m"),
    "unet_b": (ddpm_unet, "b"),
    "unet_l": (ddpm_unet, "l"),
    "vnca": (doubling,),
}
IMAGES = ("celeba", "bcss", "folder", "faces")
ORDER = (MODELS, IMAGES, ("laptop",), ("smoke",))  # of forms, however they are written


def _become(config, name):
    """Makes ``config`` that of the model ``name``."""
    other = _rival(*MODELS[name])
    for section in other:
        config[section] = other[section]


def fourier(config):
    """FourierDiff-NCA, 96 channels and 512 hidden, 20 steps."""
    _become(config, "fourier")


def fourier_c128_h640(config):
    """The paper's largest."""
    _become(config, "fourier_c128_h640")


def fourier_c48_h512(config):
    """Half as many channels."""
    _become(config, "fourier_c48_h512")


def fourier_c96_h256(config):
    """Half as wide within."""
    _become(config, "fourier_c96_h256")


def fourier_s30(config):
    """Thirty steps in image space."""
    _become(config, "fourier_s30")


def fourier_s10(config):
    """Ten steps in image space."""
    _become(config, "fourier_s10")


def diff_nca(config):
    """Diff-NCA, which hears no more than its neighbourhood."""
    _become(config, "diff_nca")


def unet_s(config):
    """The smallest of the U-Nets."""
    _become(config, "unet_s")


def unet_m(config):
    """The medium U-Net."""
    _become(config, "unet_m")


def unet_b(config):
    """The big U-Net."""
    _become(config, "unet_b")


def unet_l(config):
    """The large U-Net."""
    _become(config, "unet_l")


def vnca(config):
    """VNCA, an autoencoder whose decoder is an automaton; it fills no holes."""
    _become(config, "vnca")


def ablation(config):
    """The rows of table 1, where no model is named."""


def three_seeds(config):
    """Three trainings of each model in place of two."""


def celeba(config):
    """Faces, placed by hand; whole images of 178x218, resized as in the paper; --config.data.path=DIR."""
    data.celeba(config)


def bcss(config):
    """Sections of breast cancer, placed by hand and reduced by 4, as in the paper; --config.data.path=DIR."""
    data.bcss(config)


def folder(config):
    """Your own images: PNG, JPEG or TIFF, of at least 64 x 64; --config.data.path=DIR."""
    data.folder(config)


def faces(config):
    """A folder of your own images, each as a whole in 64 x 64; --config.data.path=DIR."""
    doubling.faces(config)


def laptop(config):
    """The small form of each model's own page, for ten minutes of training each; judged by random features."""
    images = config.data.copy_and_resolve_references()  # which a page may change in place
    PAGES[config.model.name].laptop(config)
    config.data = images
    config.budget.of = "10min"
    config.optimizer.cosine_steps = -1
    if config.model.name == "vnca":
        config.model.update(widths=(16, 32, 48, 64, 64), doublings=5)  # of 64 x 64 pixels
    else:
        config.sample.update(steps=50, sampler="ddim")
    config.study.update(n=256, train=1024)
    often(config, 0)


def smoke(config):
    """Seconds: shows that every part works, not what it is worth."""
    PAGES[config.model.name].smoke(config)
    config.budget.update(of="2steps", share=0.5)
    config.optimizer.warmup = 0
    config.study.update(n=8, train=16, metrics=("drift",), halves=2, tasks=("24x24", "hole"))
    often(config, 0)


def chain(forms):
    """Of each model a training from every seed, the first with its search for a rate; and the table of them all."""
    named = [form for form in forms if form in MODELS]
    small = {"laptop", "smoke"} & {*forms}
    chosen = named or (ABLATION if "ablation" in forms else SMALL if small else tuple(MODELS))
    if "laptop" in forms and (large := [name for name in chosen if name not in SMALL]):
        raise UserError(f"{large[0]} has no size for laptops; those that have one are {', '.join(SMALL)}")
    seeds = 3 if "three_seeds" in forms else SEEDS
    stages = [stage for name in chosen for stage in _trainings(name, forms, seeds)]
    return rivals.judged(stages, rivals.formed(get_config(), forms, globals(), MODELS))


def _trainings(name, forms, seeds):
    """A stage for each seed; all but the first take steps and rate from it."""
    for seed in range(seeds):
        config = rivals.formed(_rival(*MODELS[name]), forms, globals(), MODELS)
        config.seed = seed
        config.budget.like = f"../{name}_s0" if seed else ""
        yield Stage(f"{name}_s{seed}", config, ("budget", "train"))
