"""The Inception network of 2015-12-05, of whose features FID, KID and the Inception score are made.

Szegedy et al. 2015 (arXiv 1512.00567), as TensorFlow's graph of that date computes it: average pools do not count the
border, the last block pools with a maximum, and there are 1008 classes. Tensors have the names of torchvision's
``inception_v3``, under which converted weights are published: 566 of them, 23,850,960 parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float

from nca_gen.nn import modules

LAYERS = ("64", "192", "768", "2048", "logits_unbiased", "logits")  # means over space, by width; class logits
SIZE, CLASSES, EPSILON = 299, 1008, 1e-3


class Leaves(modules.Module):
    """Tensors of one shape by their names: parameters, and running statistics."""

    shape: tuple[int, ...]
    params: tuple[str, ...]
    stats: tuple[str, ...] = ()

    @nn.compact
    def __call__(self) -> tuple[Array, ...]:
        params = [self.param(name, nn.initializers.zeros, self.shape) for name in self.params]
        return (*params, *(self.variable("batch_stats", name, jnp.zeros, self.shape).value for name in self.stats))


class Weights(nn.Module):
    """A convolution without bias, and the batch normalisation behind it as a factor and a shift of its outputs."""

    shape: tuple[int, int, int, int]

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "kh kw I O"], Float[Array, " O"], Float[Array, " O"]]:
        (kernel,) = Leaves(self.shape, ("kernel",), name="conv")()
        scale, bias, mean, var = Leaves(self.shape[-1:], ("scale", "bias"), ("mean", "var"), name="bn")()
        rate = scale * jax.lax.rsqrt(var + EPSILON)
        return kernel, rate, bias - mean * rate


def unit(
    x: Float[Array, "B H W I"],
    name: str,
    features: int,
    kernel: tuple[int, int] = (1, 1),
    stride: int = 1,
    pad: bool = True,
) -> Float[Array, "B h w O"]:
    """Convolution, normalisation, ReLU, with the tensors ``name`` of the module that calls this."""
    kernel, rate, shift = Weights((*kernel, x.shape[-1], features), name=name)()
    # XLA for CPU convolves half as fast where the image has no border: given one, it is cut off afterwards.
    padding = "SAME" if stride == 1 else "VALID"
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=Precision.HIGHEST
    )
    if stride == 1 and not pad:
        y = y[:, 1:-1, 1:-1]
    return nn.relu(y * rate + shift)


def heads(x: Float[Array, "B H W I"], **features: int) -> list[Float[Array, "B H W _"]]:
    """All 1x1 convolutions of one input, each normalised, as one matrix product; ReLU is yet to come.

    Among them that of the branch which first takes the average: the order makes no difference, and of fewer channels
    the average is taken faster.
    """
    weights = [Weights((1, 1, x.shape[-1], n), name=f"branch{name}")() for name, n in features.items()]
    kernel, rate, shift = (jnp.concatenate(parts, -1) for parts in zip(*weights, strict=True))
    y = jnp.matmul(x, kernel[0, 0], precision=Precision.HIGHEST) * rate + shift
    return jnp.split(y, np.cumsum([*features.values()])[:-1], -1)


def window(x: Array, op: Callable[[Array, Array], Array], stride: int = 1, border: float | None = None) -> Array:
    """``op`` over 3 x 3 pixels, around every pixel where there is a ``border``."""
    if border is not None:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border)
    h, w = x.shape[1] - 2, x.shape[2] - 2
    x = op(op(x[:, 0:h:stride], x[:, 1 : h + 1 : stride]), x[:, 2 : h + 2 : stride])
    return op(op(x[:, :, 0:w:stride], x[:, :, 1 : w + 1 : stride]), x[:, :, 2 : w + 2 : stride])


def average(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Of the 3 x 3 pixels around every pixel, as far as they lie in the image."""
    h, w = (np.convolve(np.ones(n, np.float32), np.ones(3), "same") for n in x.shape[1:3])
    return window(x, jnp.add, border=0.0) / np.outer(h, w)[..., None].astype(np.float32)


class BlockA(nn.Module):
    """35 x 35 pixels."""

    pool: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        one, five, three, pool = heads(x, **{"1x1": 64, "5x5_1": 48, "3x3dbl_1": 64, "_pool": self.pool})
        five = unit(nn.relu(five), "branch5x5_2", 64, (5, 5))
        three = unit(nn.relu(three), "branch3x3dbl_2", 96, (3, 3))
        three = unit(three, "branch3x3dbl_3", 96, (3, 3))
        return jnp.concatenate([nn.relu(one), five, three, nn.relu(average(pool))], -1)


class BlockB(nn.Module):
    """To half the size, 17 x 17."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        three = unit(x, "branch3x3", 384, (3, 3), 2)
        double = unit(unit(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, (3, 3))
        double = unit(double, "branch3x3dbl_3", 96, (3, 3), 2)
        return jnp.concatenate([three, double, window(x, jnp.maximum, 2)], -1)


class BlockC(nn.Module):
    """17 x 17 pixels, rows and columns apart."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        c = self.width
        one, seven, double, pool = heads(x, **{"1x1": 192, "7x7_1": c, "7x7dbl_1": c, "_pool": 192})
        seven = unit(nn.relu(seven), "branch7x7_2", c, (1, 7))
        seven = unit(seven, "branch7x7_3", 192, (7, 1))
        double = unit(nn.relu(double), "branch7x7dbl_2", c, (7, 1))
        double = unit(double, "branch7x7dbl_3", c, (1, 7))
        double = unit(double, "branch7x7dbl_4", c, (7, 1))
        double = unit(double, "branch7x7dbl_5", 192, (1, 7))
        return jnp.concatenate([nn.relu(one), seven, double, nn.relu(average(pool))], -1)


class BlockD(nn.Module):
    """To half the size, 8 x 8."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        three, seven = map(nn.relu, heads(x, **{"3x3_1": 192, "7x7x3_1": 192}))
        three = unit(three, "branch3x3_2", 320, (3, 3), 2)
        seven = unit(seven, "branch7x7x3_2", 192, (1, 7))
        seven = unit(seven, "branch7x7x3_3", 192, (7, 1))
        seven = unit(seven, "branch7x7x3_4", 192, (3, 3), 2)
        return jnp.concatenate([three, seven, window(x, jnp.maximum, 2)], -1)


class BlockE(nn.Module):
    """8 x 8 pixels; the last one of two pools with a maximum."""

    maximum: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        features = {"1x1": 320, "3x3_1": 384, "3x3dbl_1": 448}
        if self.maximum:
            one, three, double = heads(x, **features)
            pool = unit(window(x, jnp.maximum, border=-jnp.inf), "branch_pool", 192)
        else:
            one, three, double, pool = heads(x, **features, _pool=192)
            pool = nn.relu(average(pool))
        three, double = nn.relu(three), unit(nn.relu(double), "branch3x3dbl_2", 384, (3, 3))
        three = [unit(three, f"branch3x3_2{way}", 384, k) for way, k in (("a", (1, 3)), ("b", (3, 1)))]
        double = [unit(double, f"branch3x3dbl_3{way}", 384, k) for way, k in (("a", (1, 3)), ("b", (3, 1)))]
        return jnp.concatenate([nn.relu(one), *three, *double, pool], -1)


class Dense(modules.Module):
    """Kernel and bias of an affine map."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Float[Array, "I O"], Float[Array, " O"]]:
        zeros = nn.initializers.zeros
        return self.param("kernel", zeros, (inputs, self.features)), self.param("bias", zeros, (self.features,))


class Inception(nn.Module):
    """Images ``[B, 299, 299, 3]`` in [-1, 1] to ``LAYERS``. ``logits_unbiased`` lack the bias of the last layer."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Float[Array, "B _"]]:
        out = {}
        x = unit(x, "Conv2d_1a_3x3", 32, (3, 3), 2)
        x = unit(x, "Conv2d_2a_3x3", 32, (3, 3), pad=False)
        x = unit(x, "Conv2d_2b_3x3", 64, (3, 3))
        x = window(x, jnp.maximum, 2)
        out["64"] = x.mean((1, 2))
        x = unit(x, "Conv2d_3b_1x1", 80)
        x = unit(x, "Conv2d_4a_3x3", 192, (3, 3), pad=False)
        x = window(x, jnp.maximum, 2)
        out["192"] = x.mean((1, 2))
        for name, pool in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = BlockA(pool, name=f"Mixed_{name}")(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = BlockC(width, name=f"Mixed_{name}")(x)
        out["768"] = x.mean((1, 2))
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(False, name="Mixed_7b")(x)
        x = BlockE(True, name="Mixed_7c")(x)
        x = out["2048"] = x.mean((1, 2))
        kernel, bias = Dense(CLASSES, name="fc")(x.shape[-1])
        out["logits_unbiased"] = jnp.matmul(x, kernel, precision=Precision.HIGHEST)
        return out | {"logits": out["logits_unbiased"] + bias}
