"""How these pages learn, in full and on a laptop."""

from shared.evals import often

PAPER = {"lr": 1.6e-3, "b2": 0.99, "decay": 0.9999}  # of Kalkhof et al. 2024; decay is of the rate, every step


def muon(config, steps, lr):
    """Kernels learn under Muon: a tenth less loss than Adam at equal steps; the rate falls to 0 at ``steps``."""
    config.optimizer = {"lr": lr, "b2": 0.99, "muon": 0.02, "warmup": 50, "cosine_steps": steps, "clip": 1.0}


def distilled(config, teacher, calls=4):
    """A student of ``teacher``, with whose weights it begins, and which samples in ``calls``."""
    config.parts = {"teacher": teacher}
    config.train.init = "teacher"
    config.task.update(name="distil", clip=config.sample.get("clip", "none"))
    config.sample.update(sampler="consistency", steps=calls, grid="karras")


def smoke(config):
    """Four steps, and all that is asked of them."""
    config.train.update(steps=4, batch=4, log_every=1, checkpoint_every=2, effort="little")
    often(config, 4)


def tiny(config):
    """The smallest cells, transformer or U-Net of labels that runs; a few noise levels and samples."""
    small = {
        "geca": {"embed": 16, "heads": 2, "mlp": 16, "hidden": 4, "steps": 3},
        "dit": {"width": 16, "depth": 1, "heads": 2},
        "unet": {"width": 32, "head": 16, "multipliers": (1, 1), "blocks": 1, "attention": (2,)},
    }
    config.model.update(small[config.model.name], dtype="float32")
    config.diffusion.timesteps = 8
    config.sample.update(steps=4, n=10, batch=8)
    config.held.update(n=8, train=16)
