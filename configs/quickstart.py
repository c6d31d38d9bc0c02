r"""Ten minutes on a laptop: Diff-NCA learns a real field of tissue and paints more of it.

bash launch/quickstart.sh
python -m nca_gen.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "name": "diff_nca",
                "channels": 32,
                "hidden": 128,
                "steps": 10,
                "norm": "cell",  # strictly local: the rule paints images of any size
                "conv": "gathered",
                "remat": "fc0",
            },
            "diffusion": {"schedule": "cosine", "timesteps": 300, "prediction": "v"},
            "task": {"name": "denoise", "loss": "l2", "ema": 0.999, "ema_warmup": True},
            "optimizer": {"lr": 3e-3, "b1": 0.9, "b2": 0.99, "warmup": 50, "cosine_steps": 2000, "clip": 1.0},
            "data": {"name": "tissue", "patch": (32, 32), "reduce": 2, "flips": True},
            "train": {
                "steps": 2000,
                "batch": 16,
                "log_every": 25,
                "eval_every": 1000,
                "checkpoint_every": 250,
                "keep": 2,
                "on_divergence": "rollback",
                "max_rollbacks": 3,
            },
            "sample": {
                "sampler": "dpm_solver_pp",
                "steps": 20,
                "clip": "static",
                "n": 16,
                "batch": 64,
                "size": (64, 64),
                "large": (192, 256),
            },
            "eval": {"metrics": ("swd", "drift", "neighbours"), "split": "test", "n": 64, "train": 1024},
            "mesh": {"data": -1, "space": 1},
        }
    )
