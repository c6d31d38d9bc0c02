"""A task, data and config so small that a whole run takes a second; `python toy.py JSON WORKDIR` trains them.

The task has all that makes resuming hard: an optimizer with momentum, a moving average, randomness from its key, and
(on demand) ballast that makes a checkpoint slow to write.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from nca_gen import arrays
from nca_gen.data import source
from nca_gen.errors import UserError
from nca_gen.runtime import checkpoint
from nca_gen.verbs.train import train


class State(NamedTuple):
    step: jax.Array
    params: dict
    ema: dict
    optimizer: Any
    key: jax.Array
    ballast: jax.Array


@dataclass(frozen=True)
class Task:
    """A convolution that removes noise."""

    ballast: int = 1  # floats
    width: int = 3  # of the kernel
    noise: float = 1.0
    nan_at: int = -1  # that step's loss is NaN, as long as the key is the first ..
    always: bool = False  # .. or whatever the key
    spike_at: int = 1_000_000  # from that step on the loss is 100 times higher, as long as the key is the first

    optimizer = optax.adam(1e-2)

    def init(self, key, batch):
        channels = batch["image"].shape[-1]
        kernel = 0.1 * jax.random.normal(key, (self.width, 3, channels, channels))
        params = {"kernel": kernel, "bias": jnp.zeros(channels)}
        words = jnp.arange(self.ballast, dtype=jnp.uint32) * jnp.uint32(2654435769)  # which no file compresses
        ballast = words.astype(jnp.float32)
        return State(jnp.int32(0), params, jax.tree.map(jnp.copy, params), self.optimizer.init(params), key, ballast)

    model = None

    def step(self, state, batch, parts=None):
        x = batch["image"]
        here = jax.random.fold_in(state.key, state.step)
        keys = jax.vmap(lambda i: jax.random.fold_in(here, i))(jnp.arange(x.shape[0]))
        noisy = x + self.noise * arrays.cell_normal(keys, 0, arrays.coords(x.shape[1:3]), x.shape[3])

        def objective(p):
            y = jax.lax.conv_general_dilated(
                noisy, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jnp.mean(jnp.square(y + p["bias"] - x))

        loss, grads = jax.value_and_grad(objective)(state.params)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, state.ema, params)
        first = jnp.all(jax.random.key_data(state.key) == jax.random.key_data(root()))
        loss = jnp.where((state.step + 1 == self.nan_at) & (first | self.always), jnp.nan, loss)
        loss = jnp.where((state.step + 1 >= self.spike_at) & first, 100 * loss, loss)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return State(state.step + 1, params, ema, optimizer, state.key, state.ballast * 1.001 + 0.1), metrics

    def eval_params(self, state):
        return state.ema


def root():
    return jax.random.key(config().seed, impl="threefry2x32")


def splits():
    """Six images of noise, their means apart, so that each batch's loss tells which images it holds."""
    rng = np.random.default_rng(0)
    images = [rng.integers(30 * i, 30 * i + 60, (20, 24, 1)).astype(np.uint8) for i in range(6)]
    examples = [{"image": x, "name": f"{i}", "patient": f"{i}"} for i, x in enumerate(images)]
    return source.Splits({"train": source.of(examples)})


def config(**changes):
    """The config of a run of 8 steps; ``changes`` by dotted path."""
    c = ConfigDict()
    c.seed = 7
    c.model = {"name": "toy", "width": 3}
    c.optimizer = {"lr": 1e-2}
    c.data = {"name": "toy", "patch": (8, 8), "flips": True}
    c.train = {
        **{"steps": 8, "batch": 4, "log_every": 2, "checkpoint_every": 4, "keep": 3},
        **{"on_divergence": "stop", "max_rollbacks": 2, "divergence": 0.0},
    }
    c.held = {"split": "train", "n": 1, "train": 1}
    c.evals = {"scores": {"every": 0}}
    c.parts = {}
    c.mesh = {"data": -1, "space": 1, "distributed": False}
    c.update_from_flattened_dict(changes)
    return c


def no_evaluation(*_):
    return {}


def run(workdir, task=None, evaluate=no_evaluation, **changes):
    """Trains the toy; returns the final state."""
    return train(config(**changes), workdir, task=task or Task(), splits=splits(), evaluate=evaluate)


def plain(state):
    """The leaves of ``state`` as numpy, by path; keys as their words."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(k): np.asarray(words(x)) for k, x in flat}


def words(x):
    """Keys as numbers, numbers as they are."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def digest(state):
    """Equal for states that are equal bit for bit."""
    parts = [f"{k} {v.dtype} {v.shape} ".encode() + v.tobytes() for k, v in plain(state).items()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def curve(workdir):
    """The lines of ``metrics.jsonl`` without what a clock has written."""
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in ("time", "images_per_second", "memory_mb")} for x in lines]


def send(number):
    """An evaluation that sends this process a signal, once a checkpoint that is being written is there."""

    def evaluate(config, task, params, splits, workdir, step, *_):
        while step > config.train.checkpoint_every and not checkpoint.steps(workdir):
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    return evaluate


def child(workdir, environment=None, **options):
    """Trains the toy in a process of its own, see :func:`main`; returns the finished process, with its output."""
    command = [sys.executable, __file__, json.dumps(options), str(workdir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | (environment or {}))


def saving(workdir):
    """Whether a checkpoint is being written."""
    return any(Path(workdir).glob("checkpoints/*-tmp"))


def kill_while_saving(workdir, delay):
    """Kills this process while a checkpoint is being written, ``delay`` seconds after that has begun."""

    def watch():
        while True:
            while not saving(workdir):
                time.sleep(0.001)
            time.sleep(delay)
            if saving(workdir):
                os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(options, workdir):
    """``options``: {"signal", "delay", "task": {...}, "config": {...}}, all optional."""
    if "delay" in options:
        kill_while_saving(workdir, options["delay"])
    evaluate = send(options["signal"]) if "signal" in options else no_evaluation
    try:
        state = run(workdir, Task(**options.get("task", {})), evaluate, **options.get("config", {}))
    except UserError as e:
        sys.exit(f"error: {e}")
    print("digest", digest(state))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
