"""A denoiser of volumes in continuous time, told of a volume.

python -m nca_gen.main --config=balls.py --workdir=runs/balls
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "model": {"name": "lab.volumes"},
            "diffusion": {"name": "continuous"},
            "task": {"name": "denoise", "loss": "l2"},
            "optimizer": {"lr": 1e-2},
            "data": {"name": "lab.volumes", "patch": (8, 8, 8)},
            "train": {"steps": 6, "batch": 4, "log_every": 1, "checkpoint_every": 2},
            "sample": {"sampler": "ddim", "steps": 2, "n": 2, "batch": 4},
            "held": {"n": 4, "train": 4},
            "evals": {"scores": {"every": 6, "metrics": ("total_variation",)}},
        }
    )
