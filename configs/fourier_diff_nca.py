r"""FourierDiff-NCA (Kalkhof et al. 2024, arXiv 2401.06291): the automaton that talks in Fourier space first.

python -m nca_gen.main --config=configs/fourier_diff_nca.py --workdir=runs/fourier_diff_nca
python -m nca_gen.main --config=configs/fourier_diff_nca.py:celeba,c128_h640 --config.data.path=DIR --workdir=runs/c128

It trains on the field of tissue that ships in scikit-image; ``:celeba`` takes the paper's data, ``:folder`` yours.
The paper's numbers on CelebA after 200,000 steps, FID and KID of 2048 images of 64x64:

form         parameters   FID     KID
(c96_h512)   1,101,216    43.86   .022
c128_h640    1,849,632    42.69   .016
c48_h512       525,792    60.96   .031
c96_h256       737,184    77.22   .046
s30          1,101,216    47.98
s10          1,101,216    61.47

Ours has 2 * hidden parameters less: the paper counts a normalisation that it never uses.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "name": "fourier_diff_nca",
                "channels": 96,
                "hidden": 512,
                "steps": 20,
                "window": 16,
                "fourier_steps": 32,
                "norm": "group",
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
                "large": (96, 96),
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


def celeba(config):
    """Faces, placed by hand; whole images of 178x218, resized as in the paper; --config.data.path=DIR."""
    shape = {"size": (64, 64), "patch": (64, 64), "flips": "horizontal"}
    config.data = {"name": "celeba", "path": "", "cache": "", "strict": False, "memory_gb": 2.5, **shape}


def retinamnist(config):
    """Fundus images, placed by hand; the 64 x 64 edition, a window of 16 needs at least 32; --config.data.path=DIR."""
    shape = {"size": 64, "patch": (64, 64), "flips": "horizontal"}
    config.data = {"name": "retinamnist", "path": "", "cache": "", "strict": False, "memory_gb": 2.0, **shape}


def folder(config):
    """Your own images: PNG, JPEG or TIFF, with an optional labels.csv; --config.data.path=DIR."""
    shape = {"reduce": 1, "resize": None, "patch": (64, 64), "flips": "horizontal"}
    config.data = {"name": "folder", "path": "", "split_seed": 0, "strict": False, "memory_gb": 2.0, **shape}


def c96_h512(config):
    config.model.update(channels=96, hidden=512)


def c128_h640(config):
    config.model.update(channels=128, hidden=640)


def c96_h256(config):
    config.model.update(channels=96, hidden=256)


def c48_h512(config):
    config.model.update(channels=48, hidden=512)


def s10(config):
    """Ten steps in image space."""
    config.model.steps = 10


def s30(config):
    """Thirty steps in image space."""
    config.model.steps = 30


def laptop(config):
    """Half an hour on 4 cores, for data of your own (``folder,laptop``): fewer, larger cells, an 8x8 window."""
    config.model.update(channels=48, hidden=192, steps=8, window=8, fourier_steps=16, image_channels=12)
    config.model.update(remat="fc0")
    config.diffusion.update(prediction="v", block=2, std=(0.5,))
    config.task.update(loss="l2", ema=0.998, ema_warmup=True)
    config.optimizer.update(lr=3e-3, muon=0.02, warmup=50, decay=1.0, cosine_steps=2000, clip=1.0)
    config.train.update(steps=2000, batch=16, log_every=20, eval_every=1000, checkpoint_every=250)
    config.sample.update(sampler="ddpm", steps=100, clip="static")
    config.eval.update(n=64, train=2048)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth."""
    config.model.update(channels=8, hidden=16, steps=4, window=8, fourier_steps=4)
    config.diffusion.timesteps = 8
    config.data.patch = (16, 16)
    config.train.update(steps=4, batch=4, log_every=1, eval_every=4, checkpoint_every=2)
    config.sample.update(steps=4, n=4, size=(24, 24), large=(32, 40))
    config.eval.update(n=8, train=16)
