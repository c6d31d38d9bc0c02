"""What a run writes about itself, and what must stay when it is resumed: config.json, environment.json, the lock."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from nca_gen import config as configs
from nca_gen.data.source import Source
from nca_gen.errors import UserError
from nca_gen.io import write
from nca_gen.runtime.log import say
from nca_gen.runtime.run import config_file

# What may change when a run is resumed: how long, how often, on what, from where; not what is learned, nor from what.
FREE = ("train", "sample", "generate", "held", "evals", "expand", "encode", "study", "bench", "export", "mesh")
FREE += ("budget",)
PLACES = ("data.path", "data.label_maps", "data.cache", "data.memory_gb", "data.strict", "optimizer.cosine_steps")
PACKAGES = ("nca_gen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "ml-collections")


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Holds ``workdir`` against a second run; the operating system lets go of it, however this one ends.

    Raises UserError while another run holds it.
    """
    import fcntl

    if jax.process_index():
        yield
        return
    with write.refusals(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            raise UserError(f"another run is training in {workdir}; stop it, or choose another --workdir") from e
        except OSError:
            pass  # a file system without locks
        yield


def flat(config: Any) -> dict[str, Any]:
    """Dotted path -> value, as JSON has it, of a config or of the dict of one."""
    items = json.loads(write.notation(config if isinstance(config, dict) else config.to_dict()))

    def walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from walk(f"{path}.{name}" if path else name, inner)
        elif value != {}:
            yield path, value

    return dict(walk("", items))


def agree(then: Any, now: Any) -> bool:
    """Whether two notes say the same. A field that came later is not in both, and where it is empty it says nothing."""
    if isinstance(then, dict) and isinstance(now, dict):
        both = then.keys() & now.keys()
        return all(agree(then[k], now[k]) for k in both) and not any((then | now)[k] for k in then.keys() ^ now.keys())
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(agree, then, now))
    return then == now


def free(name: str) -> bool:
    """Whether the field ``name`` may change when a run is resumed."""
    return name.split(".")[0] in FREE or name in PLACES


def fixed(config: Any) -> dict[str, Any]:
    """The fields that must stay when a run is resumed, by their dotted paths."""
    return {name: value for name, value in flat(config).items() if not free(name)}


def config_hash(config: Any) -> str:
    """Names what must stay when a run is resumed: equal for configs that may resume each other's run."""
    return hashlib.sha256(write.notation(fixed(config), sort_keys=True).encode()).hexdigest()[:16]


def check_config(workdir: Path, config: Any) -> bool:
    """Whether ``config.json`` is there; raises UserError when it is of another run, and says what else has changed.

    Without the file nothing is known: :func:`config_hash` of the checkpoint decides.
    """
    path = config_file(workdir)
    if not path.is_file():
        return False
    try:
        stored = json.loads(path.read_text())
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); delete it to resume with the config given") from e
    # It lacks the fields that there are only since, which had their defaults; of modules not found here it is as it is.
    with contextlib.suppress(UserError):
        stored = configs.saved(path)
    then, now = flat(stored), flat(config)
    changed = {}
    for name in sorted(then.keys() | now.keys(), key=lambda name: (name != "model.name", name)):
        old, new = (write.notation(c[name]) if name in c else "absent" for c in (then, now))
        if old != new and not free(name):
            raise UserError(f"{workdir} was begun with config.{name}={old}, not {new}; choose another --workdir")
        if old != new:
            changed[name] = f"{old} before, {new} from here on"
    for name, words in changed.items():
        say(f"config.{name}: {words}")
    return True


def check_data(workdir: Path, splits: Mapping[str, Source], begun: bool) -> None:
    """Raises UserError where a run that was ``begun`` would go on with other images than it began with.

    ``data.json`` says which these were: how many a split, and what names their content, wherever they lie. Where there
    is no such file, or nothing names the content, those of now are taken for those.
    """
    path = workdir / "data.json"
    now = {split: {"examples": len(source), "digest": source.digest()} for split, source in splits.items()}
    try:
        then = json.loads(path.read_text()) if begun and path.is_file() else {}
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); delete it to go on with the images of now") from e
    for split in sorted(then.keys() & now.keys()):
        old, new = then[split], now[split]
        new["digest"] = new["digest"] or old["digest"]
        if old["examples"] != new["examples"] or (old["digest"] and old["digest"] != new["digest"]):
            counts = f"{old['examples']} then, {new['examples']} now"
            raise UserError(
                f"{workdir} was begun with other images or labels of {split} ({counts}): point --config.data.path at "
                "those, or choose another --workdir"
            )
    if jax.process_index() == 0:
        write.facts(path, now)


def save_config(workdir: Path, config: Any) -> None:
    """Writes ``config.json``."""
    if jax.process_index() == 0:
        write.facts(config_file(workdir), config.to_dict())


def save_environment(workdir: Path, parameters: int) -> None:
    """Writes ``environment.json``: the command, versions, devices and commit now, and when each (re)start was.

    ``parameters`` is how many numbers are trained.
    """
    if jax.process_index():
        return
    path = workdir / "environment.json"
    try:
        starts = json.loads(path.read_text())["starts"]
    except (OSError, ValueError, KeyError):
        starts = []
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    # The command as it was typed: argv[0] is a path where python was given -m.
    spec = vars(sys.modules["__main__"]).get("__spec__")
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    environment = {
        "command": shlex.join(["python", *program, *sys.argv[1:]]),
        "argv": sys.argv,
        "parameters": parameters,
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "commit": commit(Path(__file__).parent),
        "starts": [*starts, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")],
    }
    write.facts(path, environment)


def commit(folder: Path) -> str | None:
    """The git commit of the checkout around ``folder``, with "-dirty" behind it if files differ; None without one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
