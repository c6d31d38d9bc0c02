r"""Ten minutes on a laptop: Diff-NCA learns a real field of tissue and paints more of it.

bash launch/quickstart.sh
python -m nca_gen.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

STEPS = 2000


def get_config():
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "name": "diff_nca",
                "channels": 48,
                "hidden": 192,
                "steps": 6,
                "norm": "cell",  # strictly local: the rule paints images of any size
                "init": "zero",
                "fire_rate": 0.9,
                "conv": "gathered",
                "remat": "fc0",
                "dtype": "float32",
                "image_channels": 12,  # a cell holds a block of 2x2 pixels in 3 colours
            },
            "diffusion": {
                "schedule": "cosine",
                "timesteps": 300,
                "prediction": "v",
                "mean": (0.39, 0.25, 0.13),  # of the training strips
                "std": (0.28, 0.37, 0.48),
                "block": 2,
            },
            "task": {"name": "denoise", "loss": "l2", "ema": 0.998, "ema_warmup": True},
            "optimizer": {
                "lr": 3e-3,
                "b1": 0.9,
                "b2": 0.99,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "warmup": 50,
                "decay": 1.0,
                "cosine_steps": STEPS,
                "clip": 1.0,
                "muon": 0.02,  # of the kernels: a tenth less loss than Adam at equal steps
            },
            "data": {
                "name": "tissue",
                "path": "",
                "patch": (48, 48),
                "reduce": 2,  # the field is 512x512
                "val": 32,
                "test": 96,
                "right": 192,  # the held-out strips lie in the middle, which looks like the whole
                "flips": "all",
                "strict": False,
            },
            "train": {
                "steps": STEPS,
                "batch": 16,
                "log_every": 20,
                "eval_every": STEPS // 2,
                "checkpoint_every": 500,
                "keep": 2,
                "on_divergence": "rollback",
                "max_rollbacks": 3,
                "divergence": 0.0,
            },
            "sample": {
                "sampler": "ddim",
                "steps": 50,
                "clip": "static",
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
                "n": 64,
                "train": 1024,
                "samplers": (),
            },
            "bench": {"what": ("model",), "batch": 2, "rounds": 3, "peer_python": ""},
            "mesh": {"data": -1, "space": 1, "distributed": False},
        }
    )


def smoke(config):
    """Seconds: shows that every part works, not what it is worth."""
    config.model.update(channels=26, hidden=16, steps=2)
    config.diffusion.timesteps = 8
    config.data.patch = (16, 16)
    config.train.update(steps=4, batch=4, log_every=1, eval_every=4, checkpoint_every=2)
    config.sample.update(steps=4, n=4, size=(24, 24), large=(31, 40))
    config.eval.update(n=8, train=16)
