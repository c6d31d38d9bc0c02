"""VNCA (Palm et al. 2022, arXiv 2201.12360), the doubling variant: an autoencoder whose decoder is an automaton.

A latent z is the state of the first cells. They take steps of one rule and double, again and again, until there is a
cell a pixel; what is then in their first channels says how probable each value of that pixel is. It is no denoiser: a
picture is drawn by one growth from one z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import MinLen
from jaxtyping import Array, Float, Key

from nca_gen import arrays, ranges
from nca_gen.ca import perceive
from nca_gen.ca.rollout import Rule, rollout
from nca_gen.errors import UserError
from nca_gen.nn.likelihoods import LIKELIHOODS, Likelihood
from nca_gen.ranges import Count, Natural, OneOf

SAVED = {"step": ()}  # what the gradient keeps of each step beside the cells; the rest is computed again
TAP = 5  # of the encoder's kernels, a side


def affine(x: Float[Array, "*S I"], w: dict[str, Array], dtype: Any) -> Float[Array, "*S O"]:
    """An affine map of the last axis; the product in ``dtype``, its sum in float32."""
    product = jnp.dot(x.astype(dtype), w["kernel"].astype(dtype), preferred_element_type=jnp.float32)
    return product + w["bias"]


def change(state: Float[Array, "B *S C"], w: dict[str, Any], dtype: Any = jnp.float32) -> Float[Array, "B *S C"]:
    """What a step adds to every cell (section 3): what it sees of its neighbours, residual layers, an affine map."""
    seen = perceive.pad(state.astype(dtype), "constant")
    h = perceive.split(seen, w["perceive"]["kernel"].astype(dtype)) + w["perceive"]["bias"]
    for layer in w["residual"].values():
        h = h + affine(jax.nn.elu(affine(h, layer["first"], dtype)), layer["second"], dtype)
    return affine(h, w["last"], dtype)


def strided(x: Float[Array, "B H W I"], w: dict[str, Array], stride: int) -> Float[Array, "B h w O"]:
    """A convolution of the encoder, with zeros around the image."""
    steps, around, axes = (stride, stride), [(TAP // 2, TAP // 2)] * 2, ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w["kernel"], steps, around, dimension_numbers=axes) + w["bias"]


def drawn(key: Key[Array, ""], *shape: int) -> dict[str, Array]:
    """An affine map or a convolution as torch begins it: all uniform within 1 / sqrt(inputs)."""
    inner, outer = jax.random.split(key)
    bound = prod(shape[:-1]) ** -0.5
    uniform = partial(jax.random.uniform, minval=-bound, maxval=bound)
    return {"kernel": uniform(inner, shape), "bias": uniform(outer, shape[-1:])}


@dataclass(frozen=True)
class Model:
    """A :class:`nca_gen.contracts.Regenerator` of images in [-1, 1) whose sides are ``seed`` * 2^``doublings``.

    The defaults are those of CelebA at 64 x 64: 9,732,416 parameters. ``latent``: of z, and of the state of a cell.
    ``hidden`` and ``residuals``: width and residual layers of the rule. ``widths``: channels of the encoder's
    convolutions, each of which but the first halves the image. ``seed``: cells a side that z becomes at first; they
    take ``steps`` steps, and again as many after each doubling. ``likelihood`` of a pixel, by the first channels of its
    cell (:mod:`nca_gen.nn.likelihoods`): "logistics" for 8 bits, of ``mixtures`` components, "bernoulli" for black and
    white. ``remat``: what the gradient keeps: "none" is everything, "step" the cells of each step, "nested" those of
    about 2 sqrt(steps) steps, for one more forward pass. ``dtype``: of the products of the rule; cells and parameters
    stay float32.

    A z for each place of a grid larger than one grows into one picture, in which each z governs a square of
    :attr:`factor` pixels a side.
    """

    latent: Count = 256
    hidden: Count = 256
    residuals: Natural = 4
    widths: Annotated[tuple[Count, ...], MinLen(1)] = (32, 64, 128, 256, 512)
    seed: Count = 2
    doublings: Natural = 5
    steps: Count = 8
    likelihood: Annotated[str, OneOf(LIKELIHOODS)] = "logistics"
    mixtures: Count = 1
    image_channels: Count = 3
    remat: Annotated[str, OneOf(("none", *SAVED, "nested"))] = "step"
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"

    def __post_init__(self):
        ranges.check_fields(self, "config.model")
        if self.distribution.size > self.latent:
            raise UserError(
                f"config.model.latent={self.latent} channels of a cell cannot say {self.distribution.size} numbers of "
                "its pixel: raise it, or lower config.model.mixtures"
            )
        if self.factor % 2 ** (len(self.widths) - 1):
            raise UserError(
                f"config.model.widths are of {len(self.widths)} convolutions, which halve {self.factor} pixels more "
                "often than they can be halved: leave some out"
            )

    @property
    def factor(self) -> int:
        """Sides of an image: one z is all of it."""
        return self.seed * 2**self.doublings

    @property
    def latent_channels(self) -> int:
        """Numbers of a z."""
        return self.latent

    @property
    def distribution(self) -> Likelihood:
        """Of the values of a pixel."""
        return LIKELIHOODS[self.likelihood](self.image_channels, self.mixtures)

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Parameters before training: torch's start, but that the rule changes nothing at first."""
        c, h, *widths = self.image_channels, self.hidden, *self.widths
        ends = zip([c, *widths[:-1]], widths, strict=True)
        number = iter(jax.random.split(key, len(widths) + 2 * self.residuals + 2))
        convs = {f"conv{i}": drawn(next(number), TAP, TAP, *io) for i, io in enumerate(ends)}
        flat = widths[-1] * (self.factor // 2 ** (len(widths) - 1)) ** 2
        linear = drawn(next(number), flat, 2 * self.latent)
        layer = lambda: {"first": drawn(next(number), h, h), "second": drawn(next(number), h, h)}
        rule = {"perceive": drawn(next(number), 3, 3, self.latent, h)}
        rule["residual"] = {f"layer{i}": layer() for i in range(self.residuals)}
        rule["last"] = {"kernel": jnp.zeros((h, self.latent)), "bias": jnp.zeros(self.latent)}
        return {"encoder": convs | {"linear": linear}, "rule": rule}

    def encode(
        self, params: dict[str, Any], image: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B 1 1 L"], Float[Array, "B 1 1 L"]]:
        """Mean and log-variance of z. Raises UserError for images of another size."""
        if set(image.shape[1:-1]) != {self.factor}:
            size = " x ".join(map(str, image.shape[1:-1]))
            raise UserError(
                f"images are {size}, and this network encodes {self.factor} x {self.factor}: set config.data.patch, or "
                "config.model.doublings and seed"
            )
        h = image
        for i in range(len(self.widths)):
            h = jax.nn.elu(strided(h, params["encoder"][f"conv{i}"], 1 if i == 0 else 2))
        moments = affine(h.reshape(len(h), -1), params["encoder"]["linear"], jnp.float32)[:, None, None]
        mean, logvar = jnp.split(moments, 2, -1)
        return mean, logvar

    def step(self, params: dict[str, Any]) -> Rule:
        """The rule: cells [B, *S, L] to cells one step older."""
        return lambda state: state + change(state, params["rule"], jnp.dtype(self.dtype))

    def outputs(self, params: dict[str, Any], z: Float[Array, "B h w L"]) -> Float[Array, "B H W L"]:
        """The cells that grow out of z: ``seed`` cells a side, all z; steps, and steps again after each doubling."""
        older = rollout(self.step(params), self.steps, self.remat, SAVED)
        state = older(arrays.enlarged(z, self.seed))
        for _ in range(self.doublings):
            state = older(arrays.enlarged(state, 2))
        return state

    def log_likelihood(self, outputs: Float[Array, "B H W L"], image: Float[Array, "B H W C"]) -> Float[Array, " B"]:
        """Of images, by their cells, in nats per image."""
        return self.distribution.log_prob(outputs[..., : self.distribution.size], image).sum((1, 2))

    def mean(self, outputs: Float[Array, "B H W L"]) -> Float[Array, "B H W C"]:
        """The image that cells expect."""
        return self.distribution.mean(outputs[..., : self.distribution.size])

    def decode(self, params: dict[str, Any], z: Float[Array, "B h w L"]) -> Float[Array, "B H W C"]:
        """The image that the cells that grow out of z expect."""
        return self.mean(self.outputs(params, z))
