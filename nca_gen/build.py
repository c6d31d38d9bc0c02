"""Names in a config become objects: ``name`` picks a module of a room, the other fields are its arguments."""

from importlib import import_module
from pkgutil import iter_modules

from nca_gen.errors import accepted, unknown


def named(room, entry, name):
    """``nca_gen.<room>.<name>``, a module that has ``entry``. Raises UserError with the nearest where there is none."""
    names = [m.name for m in iter_modules(import_module(f"nca_gen.{room}").__path__)]
    if name in names and hasattr(module := import_module(f"nca_gen.{room}.{name}"), entry):
        return module
    raise unknown(f"name in {room}", name, [n for n in names if hasattr(import_module(f"nca_gen.{room}.{n}"), entry)])


def fields(config, section, make, beside=()):
    """The arguments that a section of ``config`` has for ``make``: all of its fields but those that lie ``beside``."""
    return accepted(make, f"config.{section}", {k: v for k, v in config[section].items() if k not in ("name", *beside)})


def model(config):
    make = named("models", "Model", config.model.name).Model
    times = {"timesteps": config.diffusion.timesteps} if "diffusion" in config else {}
    return make(**fields(config, "model", make), **times)


def diffusion(config):
    make = named("diffusion", "Diffusion", "process").Diffusion
    return make(**fields(config, "diffusion", make))


def task(config):
    module = named("tasks", "Task", config.task.name)
    parts = [make(config) for make in (model, diffusion) if make.__name__ in config]
    return module.Task(*parts, fields(config, "optimizer", module.optimizer), **fields(config, "task", module.Task))


def splits(config):
    make = named("data", "splits", config.data.name).splits
    return make(**fields(config, "data", make, beside=("patch", "flips")))


def decoder(config):
    """What makes images of what a model of latents generates; None where it generates images."""
    module = named("data", "splits", config.data.name)
    return module.decoder(config.data.path) if hasattr(module, "decoder") else None


def pixels(config, learned=None):
    """Splits of real images (``learned``, if these are), and what makes images of what a model generates."""
    if (decode := decoder(config)) is None:
        return learned or splits(config), lambda x: x
    source = named("data", "splits", config.data.name).source
    return splits(type(config)({"data": source(config.data.path)})), decode


def metric(name):
    return named("metrics", "score", name)
