"""What samples are held against: real images, at the same places and under the same conditions, drawn from the seed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nca_gen import arrays
from nca_gen.contracts import Condition, Conditional, Pipeline
from nca_gen.data import pipeline as batches
from nca_gen.data.source import Source, Splits
from nca_gen.metrics.classes import Classes
from nca_gen.pipelines import files

METRICS = ("swd", "drift", "neighbours")  # of images, where a config says nothing


class Samples(NamedTuple):
    """What a pipeline drew, in [-1, 1] and a little beyond, and how long it took."""

    images: Float[np.ndarray, "n *T C"]
    seconds: float

    @property
    def facts(self) -> dict[str, float]:
        """For JSON."""
        return {"seconds": self.seconds, "images_per_second": len(self.images) / self.seconds}


@dataclass(frozen=True, eq=False)
class Held:
    """``config.held.n`` real patches of ``config.held.split`` and ``config.held.train`` training patches.

    Drawn by ``config.seed`` without replacement (:func:`nca_gen.data.pipeline.examples`), the same for every evaluator
    and in every process; where there are fewer, all of them, which is said in the ``notes``. They are made when an
    evaluator first asks for them, and then stay. ``splits`` hold what the model learns from: images, or latents, whose
    ``pixels`` are the images.
    """

    config: Any
    task: Any
    splits: Splits
    memory: dict[int, tuple[Pipeline, Samples]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many samples; and how many real patches, if there are so many."""
        return self.config.held.n

    @property
    def split(self) -> str:
        """The name of the split that was not trained on."""
        return self.config.held.split

    @property
    def seed(self) -> int:
        """What everything is drawn from."""
        return self.config.seed

    @property
    def patch(self) -> tuple[int, ...]:
        """Sides of a patch, in the units of what the model learns from."""
        return tuple(self.config.data.patch)

    @property
    def metrics(self) -> Sequence[str]:
        """The metrics of ``config.evals.scores``, for evaluators that are not told others."""
        return self.config.get("evals", {}).get("scores", {}).get("metrics", METRICS)

    @property
    def source(self) -> Source:
        """The split that was not trained on."""
        return self.splits[self.split]

    @property
    def kind(self) -> str:
        """What the patches are: "images" or "volumes"."""
        return batches.KINDS[len(self.patch)]

    @cached_property
    def learned(self) -> dict[str, np.ndarray]:
        """The fields of the real patches, in the units of what the model learns from."""
        return batches.examples(self.source, patch=self.patch, n=self.n, seed=self.seed)

    @property
    def patches(self) -> Float[np.ndarray, "m *S C"]:
        """The real patches, in the same units."""
        return self.learned["image"]

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """Sides of a patch in pixels."""
        return self.splits.decode(self.patches[:1]).shape[1:-1]

    @cached_property
    def pixels(self) -> dict[str, np.ndarray]:
        """The fields of the real patches as images, at the same places."""
        if self.splits.pixels is self.splits:
            return self.learned
        n = len(self.patches)
        return batches.examples(self.splits.pixels[self.split], patch=self.sides, n=n, seed=self.seed)

    @property
    def real(self) -> Float[np.ndarray, "m *T C"]:
        """The real patches as images in [-1, 1)."""
        return self.pixels["image"]

    @cached_property
    def trained(self) -> dict[str, np.ndarray]:
        """Patches of training images, and their labels."""
        source, n = self.splits.pixels["train"], self.config.held.train
        fields = batches.examples(source, patch=self.sides, n=n, seed=self.seed)
        return {name: fields[name] for name in ("image", "label") if name in fields}

    @property
    def train(self) -> Float[np.ndarray, "m *T C"]:
        """Patches of training images."""
        return self.trained["image"]

    @property
    def classes(self) -> Classes | None:
        """Of the samples, the real and the training patches; None where the model is not told of any."""
        samples, patches = self.cond, self.conditions
        if samples is None or patches is None or "label" not in patches:
            return None
        told, real = (np.asarray(tree["label"]) > 0 for tree in (samples, patches))
        members = {"generated": told, "real": real}
        if "label" in self.trained:
            members["train"] = np.asarray(arrays.multi_hot(jnp.asarray(self.trained["label"]), told.shape[1])) > 0
        known = tuple(self.splits.labels)
        return Classes(known if len(known) == told.shape[1] else tuple(map(str, range(told.shape[1]))), members)

    def notes(self, roles: Sequence[str] = ("real", "train")) -> dict[str, list[str]]:
        """What stands beside scores of sets, of ``roles``, that are smaller than was asked for."""
        notes: dict[str, list[str]] = {}
        for role in roles:
            split, field, some = (self.split, "n", self.patches) if role == "real" else ("train", "train", self.train)
            if len(some) < self.config.held[field]:
                asked = f"config.held.{field}={self.config.held[field]}"
                notes[role] = [f"only {len(some)} patches of {split} are used, all that there are, and not {asked}"]
        return notes

    @cached_property
    def conditions(self) -> Condition:
        """Those of the real patches; None of a task whose model is never told any."""
        if not isinstance(self.task, Conditional):
            return None
        labels = {"label": self.pixels["label"]} if "label" in self.pixels else {}
        return self.task.condition(jax.tree.map(jnp.asarray, self.learned | labels))

    @cached_property
    def cond(self) -> Condition:
        """The conditions of the samples: sample i has that of real patch i, over again if there are fewer."""
        return self.conditions if len(self.patches) == self.n else self.rows(self.n)

    def rows(self, k: int) -> Condition:
        """The first ``k`` conditions of real patches, over again where there are fewer."""
        return jax.tree.map(lambda leaf: jnp.take(leaf, jnp.arange(k) % len(self.patches), 0), self.conditions)

    def samples(self, pipeline: Pipeline) -> Samples:
        """``n`` samples of the size of a patch; the same pipeline draws once for all evaluators.

        Every process draws its share of them, so all of them must ask.
        """
        if id(pipeline) not in self.memory:
            start, what = time.perf_counter(), f"sampling {self.n} of {self.patch}"
            images = files.drawn(pipeline, self.seed, self.n, self.patch, self.cond, what)
            # The pipeline is kept with what it drew: the identity of one that is gone may be given to another.
            self.memory[id(pipeline)] = pipeline, Samples(images, time.perf_counter() - start)
        return self.memory[id(pipeline)][1]
