"""A run of 20 steps of a small local automaton, for one, two and four processes."""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "model": {"name": "diff_nca", "channels": 8, "hidden": 16, "steps": 4, "norm": "cell"},
            "diffusion": {"timesteps": 8},
            "task": {"name": "denoise"},
            "optimizer": {"lr": 1e-3},
            "data": {"name": "tissue", "patch": (16, 16)},
            "train": {"steps": 20, "batch": 4, "log_every": 1, "checkpoint_every": 4},
            "sample": {"steps": 4, "n": 4, "batch": 4, "size": (16, 16)},
            "held": {"n": 4, "train": 4},
            "evals": {"scores": {"every": 20, "metrics": ("swd",)}},
            "mesh": {"patience": 300},
        }
    )
