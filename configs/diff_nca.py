r"""Diff-NCA (Kalkhof et al. 2024, arXiv 2401.06291): 331,464 parameters in the paper, patches of tissue of 64x64.

python -m nca_gen.main --config=configs/diff_nca.py --workdir=runs/diff_nca
python -m nca_gen.main --config=configs/diff_nca.py:bcss --config.data.path=DIR --workdir=runs/bcss

It trains on the field of tissue that ships in scikit-image; ``:bcss`` takes the paper's data, ``:folder`` yours.
It paints any size: --mode=generate --workdir=runs/diff_nca --config.sample.size=512,512 --config.sample.n=1
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "name": "diff_nca",
                "channels": 96,
                "hidden": 512,
                "steps": 20,
                "norm": "group",  # "cell" is strictly local
                "init": "zero",
                "fire_rate": 0.9,
                "conv": "split",  # the fastest on CPU, see --mode=bench
                "remat": "seen",
                "dtype": "float32",
                "image_channels": 3,
            },
            "diffusion": {
                "schedule": "cosine",
                "timesteps": 300,
                "prediction": "eps",
                "mean": (0.0,),  # standardises pixels, like std
                "std": (1.0,),
                "block": 1,  # pixels a side of a cell
            },
            "task": {"name": "denoise", "loss": "l1_l2", "ema": 0.99, "ema_warmup": False},
            "optimizer": {
                "lr": 1.6e-3,
                "b1": 0.9,
                "b2": 0.99,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "warmup": 0,
                "decay": 0.9999,  # of the learning rate, every step
                "cosine_steps": 0,
                "clip": 0.0,
                "muon": 0.0,
            },
            "data": {
                "name": "tissue",
                "path": "",
                "patch": (64, 64),
                "reduce": 1,
                "flips": "all",
                "strict": False,
            },
            "train": {
                "steps": 200_000,
                "batch": 16,
                "log_every": 50,
                "eval_every": 10_000,
                "checkpoint_every": 1000,
                "keep": 3,
                "on_divergence": "stop",
                "max_rollbacks": 3,
                "divergence": 0.0,
            },
            "sample": {
                "sampler": "ddpm",
                "steps": 300,
                "clip": "none",
                "n": 16,
                "batch": 64,
                "size": (64, 64),
                "large": (256, 256),
            },
            "generate": {
                "name": "sample",  # or "inpaint", "upscale", "gigapixel": a module of nca_gen/pipelines
                "torus": False,
                **{"image": "", "mask": "", "box": (0, 0, 0, 0), "samples": 4, "known": "noised"},  # inpaint
                "factor": 2,  # upscale
                **{"tile": 1024, "calls": 0, "dry_run": False, "format": "tiff", "memory_gb": 1.5},  # gigapixel
            },
            "eval": {
                "metrics": ("swd", "drift", "neighbours"),
                "split": "test",
                "n": 256,
                "train": 4096,
                "samplers": (),
            },
            "bench": {"what": ("model",), "batch": 2, "rounds": 3, "peer_python": ""},
            "mesh": {"data": -1, "space": 1, "distributed": False},
        }
    )


def bcss(config):
    """Sections of breast cancer, placed by hand and reduced by 4, as in the paper; --config.data.path=DIR."""
    shape = {"reduce": 4, "patch": (64, 64), "flips": "all"}
    config.data = {"name": "bcss", "path": "", "cache": "", "strict": False, "memory_gb": 2.0, **shape}


def folder(config):
    """Your own images: PNG, JPEG or TIFF, with an optional labels.csv; --config.data.path=DIR."""
    shape = {"reduce": 1, "resize": None, "patch": (64, 64), "flips": "all"}
    config.data = {"name": "folder", "path": "", "split_seed": 0, "strict": False, "memory_gb": 2.0, **shape}


def laptop(config):
    """Half an hour on 4 cores: the quickstart's recipe, for data of your own (``folder,laptop``)."""
    config.model.update(channels=48, hidden=192, steps=6, norm="cell", image_channels=12, remat="fc0")
    config.diffusion.update(prediction="v", block=2, std=(0.4,))
    config.task.update(loss="l2", ema=0.998, ema_warmup=True)
    config.optimizer.update(lr=3e-3, muon=0.02, warmup=50, decay=1.0, cosine_steps=4000, clip=1.0)
    config.train.update(steps=4000, batch=16, log_every=20, eval_every=2000, checkpoint_every=500)
    config.sample.update(sampler="ddpm", steps=100, clip="static")
    config.eval.update(n=64, train=2048)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth."""
    config.model.update(channels=8, hidden=16, steps=4)
    config.diffusion.timesteps = 8
    config.data.patch = (16, 16)
    config.train.update(steps=4, batch=4, log_every=1, eval_every=4, checkpoint_every=2)
    config.sample.update(steps=4, n=4, size=(24, 24), large=(32, 40))
    config.eval.update(n=8, train=16)
