"""Two more of one's own: an autoencoder of volumes, and denoising in the latents of one that is trained already.

``Model`` is the autoencoder; ``Task`` and ``Pipeline`` use it as the part "autoencoder" of a chain.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from lab.volumes import conv

from nca_gen import arrays
from nca_gen.contracts import Parts
from nca_gen.pipelines import files, sampling
from nca_gen.tasks import denoise


@dataclass(frozen=True)
class Model:
    """A :class:`nca_gen.contracts.Autoencoder`: two voxels a side become one place."""

    latent_channels: int = 2
    image_channels: int = 1
    factor: int = 2

    def init(self, key: jax.Array) -> dict:
        """Random kernels."""
        down, up = jax.random.split(key)
        outputs = self.factor**3 * self.image_channels
        return {
            "down": 0.3 * jax.random.normal(down, (2, 2, 2, self.image_channels, 2 * self.latent_channels)),
            "up": 0.3 * jax.random.normal(up, (1, 1, 1, self.latent_channels, outputs)),
        }

    def encode(self, params, image):
        """Mean and log-variance of the latents."""
        mean, logvar = jnp.split(conv(image, params["down"], self.factor), 2, -1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, params, z):
        """Volumes of latents: the channels of a place are its voxels."""
        return arrays.unblocked(conv(z, params["up"]), self.factor)


@dataclass(frozen=True)
class Task:
    """Denoising (a task of nca_gen) of what the part "autoencoder" makes of the images."""

    model: object
    learner: object
    process: object
    codec: object
    ema: float = 0.9

    @property
    def latent(self) -> denoise.Task:
        """What is learned of latents."""
        return denoise.Task(self.model, self.learner, self.process, self.codec, loss="l2", ema=self.ema)

    def init(self, key, batch=None):
        """The state before the first step."""
        return self.latent.init(key)

    def step(self, state, batch, parts: Parts):
        """One step; the autoencoder stays as it is."""
        autoencoder = parts["autoencoder"]
        mean, _ = autoencoder.task.model.encode(autoencoder.params, batch["image"])
        return self.latent.step(state, {"image": mean})

    def eval_params(self, state):
        """The averaged parameters."""
        return self.latent.eval_params(state)

    def condition(self, batch):
        """Nothing is told."""
        return


@dataclass(frozen=True)
class Pipeline:
    """Samples of latents by the part "model", decoded by the part "autoencoder"."""

    parts: Parts
    kind: str = "volumes"

    def title(self) -> list[str]:
        """What two folders may differ in."""
        return sampling.title(self.parts["model"].config)

    def draw(self, key, size, cond=None) -> Iterator[np.ndarray]:
        """A volume of ``size`` voxels for each key."""
        model, autoencoder = self.parts["model"], self.parts["autoencoder"]
        network, settings = autoencoder.task.model, sampling.Settings.of(model.config.sample)
        places = tuple(side // network.factor for side in size)
        for latents in sampling.images(model, key, places, settings):
            yield from np.asarray(network.decode(autoencoder.params, jnp.asarray(latents)))

    def write(self, folder: Path) -> list[str]:
        """``config.sample.n`` volumes as files, and a grid of them."""
        config = self.parts["model"].config
        for i, volume in enumerate(self.draw(arrays.keys(config.seed, config.sample.n), tuple(config.sample.size))):
            files.write(folder / f"{i:05d}", volume)
        return files.beside(folder, config.sample.n, 1, self.kind)
