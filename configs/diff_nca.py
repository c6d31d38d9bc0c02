r"""Diff-NCA (Kalkhof et al. 2024, arXiv 2401.06291): 331,464 parameters in the paper, patches of tissue of 64x64.

python -m nca_gen.main --config=configs/diff_nca.py --workdir=runs/diff_nca
python -m nca_gen.main --config=configs/diff_nca.py:bcss --config.data.path=DIR --workdir=runs/bcss

It trains on the field of tissue that ships in scikit-image; ``:bcss`` takes the paper's data, ``:folder``, ``:slides``
and ``:volumes`` yours, ``:hippocampus`` MRI and ``:phantom`` volumes that code draws.
It paints any size: --mode=generate --workdir=runs/diff_nca --config.sample.size=512,512 --config.sample.n=1
"""

from ml_collections import ConfigDict
from shared import recipes
from shared.data import IMAGES, VOLUMES, bcss, folder, hippocampus, phantom, slides, volumes  # noqa: F401  its forms
from shared.evals import of_samples, often
from shared.recipes import distil  # noqa: F401  a form of this page

PEER = {  # eager PyTorch's, of --mode=bench
    "script": "tests/peers/torch_diff_nca.py",
    "fields": ("channels", "hidden", "steps", "norm"),
    "forms": {", gates once an image": {"maps": False}, ", gates in every cell": {"maps": True}},
}

ORDER = (IMAGES, ("laptop",), VOLUMES, ("distil",), ("smoke",))  # of forms, however they are written


def get_config():
    return ConfigDict(
        {
            "model": {"name": "diff_nca"},
            "task": {"name": "denoise"},
            "optimizer": recipes.PAPER,
            "data": {"name": "tissue", "patch": (64, 64)},
            "train": {"steps": 200_000, "batch": 16},
            "sample": {"large": (256, 256)},
            "evals": of_samples(every=10_000),
            "bench": {"peer": PEER, "features_peer": "tests/peers/inception_speed.py"},
        }
    )


def laptop(config):
    """Half an hour on 4 cores: the quickstart's recipe, for data of your own (``folder,laptop``)."""
    config.model.update(channels=48, hidden=192, steps=6, norm="cell", image_channels=12, remat="fc0")
    config.diffusion = {"prediction": "v"}
    config.codec = {"std": (0.4,), "block": 2}
    config.task.update(loss="l2", ema=0.998, ema_warmup=True)
    recipes.muon(config, steps=4000, lr=3e-3)
    config.train.update(steps=4000, log_every=20, checkpoint_every=500)
    config.sample.update(steps=100, clip="static")
    config.held = {"n": 64, "train": 2048}
    often(config, 2000)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth."""
    channels = 2 * config.model.get("image_channels", 3) + 2  # of image and prediction, and two more
    config.model.update(channels=channels, hidden=16, steps=4)
    config.diffusion = {**config.get("diffusion", {}), "timesteps": 8}
    axes = len(config.data.patch)
    config.data.patch = (16,) * axes
    config.sample.update(steps=4, n=4, size=(24,) * axes, large=(32, 40) if axes == 2 else ())
    config.held = {"n": 8, "train": 16}
    recipes.smoke(config)
