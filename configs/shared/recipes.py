"""How these pages learn, in full and on a laptop."""

from shared.evals import often

RATES = ("lr", "muon")
PAPER = {"lr": 1.6e-3, "b2": 0.99, "decay": 0.9999}  # of Kalkhof et al. 2024; decay is of the rate, every step


def muon(config, steps, lr):
    """Kernels learn under Muon: a tenth less loss than Adam at equal steps; the rate falls to 0 at ``steps``."""
    config.optimizer = {"lr": lr, "b2": 0.99, "muon": 0.02, "warmup": 50, "cosine_steps": steps, "clip": 1.0}


def distil(config):
    """Four calls in place of many: a student, which begins as a copy of --config.parts.teacher=RUN, a run of this page.

    A quarter of the steps, at a quarter of the rates.
    """
    steps, optimizer = config.train.steps // 4, {"lr": 1e-4, **config.optimizer}
    config.parts = {"teacher": ""}
    config.task.update(name="distil", clip=config.get("sample", {}).get("clip", "none"), ema_warmup=True)
    config.optimizer.update({name: rate / 4 for name, rate in optimizer.items() if name in RATES})
    if "cosine_steps" in config.optimizer:
        config.optimizer.cosine_steps = steps
    config.train.update(steps=steps, init="teacher")
    config.sample.update(sampler="dpm_solver_pp", steps=4, grid="karras")
    often(config, steps)


def smoke(config):
    """Four steps, and at their end all that the page asks in training."""
    config.train.update(steps=4, batch=4, log_every=1, effort="little")
    if config.task.name == "distil":
        config.task.calls = 4


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
