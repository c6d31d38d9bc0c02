"""ResNet-34 and -50 (He et al. 2015, arXiv 1512.03385), with torchvision's names.

As torchvision has them, the bottleneck's stride is in its 3 x 3 convolution; Keras's ResNet-50, which RadImageNet's is
(Mei et al. 2022, Radiology: Artificial Intelligence 4), has it in the first one, and biases.

They are feature networks and, trained, classifiers: ``apply(variables, x, train=True, mutable="batch_stats")``
normalises by the batch and moves the running statistics a tenth of the way (by the variance of ddof 0; torch takes ddof
1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float

from nca_gen.nn import modules

STAGES = (3, 4, 6, 3)  # blocks, of all
KERAS = 1.001e-5  # epsilon of its normalisations

Conv = partial(
    modules.Conv,
    use_bias=False,
    precision=Precision.HIGHEST,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
)
Norm = partial(modules.BatchNorm, momentum=0.9, use_fast_variance=False)


class Block(nn.Module):
    """A shortcut around convolutions of ``taps`` and ``widths``, the one that strides at ``strided``.

    ``bias``: whether convolutions have one. ``epsilon``: of the normalisations.
    """

    taps: tuple[int, ...]
    widths: tuple[int, ...]
    strided: int
    stride: int
    bias: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B H W _"], train: bool) -> Float[Array, "B h w _"]:
        norm = partial(Norm, use_running_average=not train, epsilon=self.epsilon)
        conv = partial(Conv, use_bias=self.bias)
        y, last = x, len(self.taps) - 1
        for i, (taps, width) in enumerate(zip(self.taps, self.widths, strict=True)):
            stride = self.stride if i == self.strided else 1
            y = conv(width, (taps, taps), stride, padding=taps // 2, name=f"conv{i + 1}")(y)
            y = norm(name=f"bn{i + 1}")(y)
            y = nn.relu(y) if i < last else y
        if x.shape != y.shape:
            x = conv(self.widths[-1], (1, 1), self.stride, name="downsample.0")(x)
            x = norm(name="downsample.1")(x)
        return nn.relu(x + y)


def basic(width: int, stride: int, name: str) -> Block:
    """Two convolutions of 3 x 3."""
    return Block((3, 3), (width, width), 0, stride, name=name)


def bottleneck(width: int, stride: int, name: str) -> Block:
    """Of 3 x 3 at a quarter of the width, between two of 1 x 1."""
    return Block((1, 3, 1), (width, width, 4 * width), 1, stride, name=name)


def keras(width: int, stride: int, name: str) -> Block:
    """The same as Keras has it: the first convolution strides, and all have biases."""
    return Block((1, 3, 1), (width, width, 4 * width), 0, stride, True, KERAS, name=name)


class ResNet(nn.Module):
    """Images ``[B, H, W, C]``, normalised, to ``layer1 .. layer4`` (H/4 .. H/32), ``pool`` ``[B, D]``, ``logits``.

    ``pool`` is the mean of ``layer4`` over space, with 512 features of :func:`resnet34` and 2048 of :func:`resnet50`.
    Without ``classes`` there are no logits. ``width`` is of the first convolution; all others grow with it. ``stages``
    are the numbers of blocks; ``bias`` and ``epsilon`` are of the first convolution, as a block has its own.
    """

    block: Callable[[int, int, str], Block]
    classes: int = 1000
    width: int = 64
    stages: tuple[int, ...] = STAGES
    bias: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> dict[str, Float[Array, "B ..."]]:
        out = {}
        x = Conv(self.width, (7, 7), 2, padding=3, use_bias=self.bias, name="conv1")(x)
        x = nn.relu(Norm(use_running_average=not train, epsilon=self.epsilon, name="bn1")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage, blocks in enumerate(self.stages):
            for i in range(blocks):
                stride = 2 if stage and not i else 1
                x = self.block(self.width << stage, stride, f"layer{stage + 1}.{i}")(x, train)
            out[f"layer{stage + 1}"] = x
        out["pool"] = x = x.mean((1, 2))
        if self.classes:
            spread = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            out["logits"] = modules.Dense(self.classes, precision=Precision.HIGHEST, kernel_init=spread, name="fc")(x)
        return out


def resnet34(classes: int = 1000, width: int = 64) -> ResNet:
    """21,797,672 parameters with its 1000 classes of ImageNet, and its ``width`` of 64."""
    return ResNet(basic, classes, width)


def resnet50(classes: int = 1000) -> ResNet:
    """25,557,032 parameters with its 1000 classes of ImageNet."""
    return ResNet(bottleneck, classes)


def radimagenet50() -> ResNet:
    """23,534,592 parameters, without a head: as the weights of RadImageNet are published."""
    return ResNet(keras, 0, bias=True, epsilon=KERAS)
