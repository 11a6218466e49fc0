"""Residual networks: He et al., "Deep residual learning", CVPR 2016.

Not quite as in the paper, but as in torchvision, from which everyone's weights come: in
a bottleneck the 3x3 convolution strides (the paper strides the first 1x1), and every
padding is symmetric. That last point is a trap: ``"SAME"`` in Flax and TensorFlow pads
an even input by (0, 1) where torchvision pads by (1, 1), which shifts every stage by
a pixel and costs accuracy with imported weights, without an error.

The network returns all four stage maps beside the pooled vector, since systems read
different levels of it: GLoRIA attends to stage 3, IMITATE samples channels of all four.
There is no classifier; linear probes live with the systems.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.normalization import BatchNorm
from medjax.nn.pooling import max_pool
from medjax.train.mesh import Statistics

KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""torchvision's ``kaiming_normal_(mode="fan_out")``."""


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """What distinguishes one residual network from another."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Blocks per stage."""
    bottleneck: bool = True
    """1x1-3x3-1x1 blocks with four times the width at their end; else 3x3-3x3."""
    width: int = 64
    """Channels of the stem; stage i works on ``width * 2**i``."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """7x7 convolution and max-pool, together stride 4; or one 3x3, stride 2."""
    frozen_statistics: bool = False
    """Normalise with the imported statistics also in training."""
    statistics: Statistics = "global"
    """See `BatchNorm.statistics`."""
    remat: bool = False
    """Recompute each stage in the backward pass instead of keeping its activations."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters and statistics stay float32."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the four stage maps."""
        expansion = 4 if self.bottleneck else 1
        return tuple(self.width * 2**i * expansion for i in range(4))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the input per position of the four stage maps."""
        first = 4 if self.stem == "imagenet" else 2
        return tuple(first * 2**i for i in range(4))


RESNETS: dict[str, ResNetConfig] = {
    "resnet18": ResNetConfig(blocks=(2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNetConfig(blocks=(3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNetConfig(blocks=(3, 4, 6, 3)),
    # For 64-pixel images on a laptop: stage maps of 16, 8, 4 and 2 positions a side.
    "resnet_tiny": ResNetConfig(blocks=(1, 1, 1, 1), bottleneck=False, width=16),
}


class ResNetFeatures(NamedTuple):
    """What a residual network says about images."""

    maps: tuple[Float[Array, "b h w c"], ...]
    """After each of the four stages, finest first."""
    pooled: Float[Array, "b d"]
    """Mean of the last map over positions, float32."""
    stem: Float[Array, "b h w c"] | None = None
    """Before pooling and the first stage: half the size of the image."""


class Block(nn.Module):
    """A residual block, basic or bottleneck."""

    config: ResNetConfig
    width: int
    stride: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h2 w2 c2"]:
        c = self.config
        if c.bottleneck:
            layers = [(self.width, 1, 1), (self.width, 3, self.stride)]
            layers += [(self.width * 4, 1, 1)]
        else:
            layers = [(self.width, 3, self.stride), (self.width, 3, 1)]
        y = x
        for i, (features, size, stride) in enumerate(layers, start=1):
            y = convolution(c, features, size, stride, name=f"conv{i}")(y)
            y = batch_norm(c, name=f"bn{i}")(y, train=train)
            y = nn.relu(y) if i < len(layers) else y
        if x.shape != y.shape:
            x = convolution(c, y.shape[-1], 1, self.stride, name="downsample_conv")(x)
            x = batch_norm(c, name="downsample_bn")(x, train=train)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Blocks at one resolution; the first may stride."""

    config: ResNetConfig
    index: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h2 w2 c2"]:
        width = self.config.width * 2**self.index
        for i in range(self.config.blocks[self.index]):
            stride = 2 if i == 0 and self.index > 0 else 1
            x = Block(self.config, width, stride, name=f"block{i}")(x, train)
        return x


class ResNet(nn.Module):
    """Images to four stage maps and a pooled vector."""

    config: ResNetConfig

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False
    ) -> ResNetFeatures:
        """Runs the network.

        Args:
          images: Three channels, normalised as the weights expect them; any size.
          train: Whether batch norms use and update the statistics of this batch; then
            ``batch_stats`` must be mutable.

        Returns:
          The stage maps (in ``dtype``) and the pooled vector (float32).

        Raises:
          ValueError: Images without three channels.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"images: expected [b, h, w, 3], got shape {images.shape}; "
                "repeat a grey image over three channels"
            )
        c = self.config
        size = 7 if c.stem == "imagenet" else 3
        x = convolution(c, c.width, size, 2, name="conv1")(images.astype(c.dtype))
        x = nn.relu(batch_norm(c, name="bn1")(x, train=train))
        stem = x
        if c.stem == "imagenet":
            x = max_pool(x)
        stage = nn.remat(Stage, static_argnums=(2,)) if c.remat else Stage
        maps: list[jax.Array] = []
        for i in range(4):
            x = stage(c, i, name=f"layer{i + 1}")(x, train)
            maps.append(x)
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return ResNetFeatures(tuple(maps), pooled, stem)


def convolution(
    config: ResNetConfig, features: int, size: int, stride: int, *, name: str
) -> nn.Conv:
    """A convolution without bias, padded as torchvision pads."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=jnp.dtype(config.dtype),
        kernel_init=KERNEL_INIT,
        conv_general_dilated=matrix_product if size == 1 else None,
        name=name,
    )


def matrix_product(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "1 1 c d"],
    strides: Sequence[int],
    *_: object,
    **__: object,
) -> Float[Array, "b h2 w2 d"]:
    """A 1x1 convolution without padding, as the matrix product that it is.

    XLA's CPU compiler does worse by the convolution: with it, the gradient of a
    ResNet-50 takes half as long again (experiments/README.md). On accelerators the two
    have not been compared. Takes what Flax gives
    :func:`jax.lax.conv_general_dilated`.
    """
    rows, columns = strides
    return jnp.einsum("bhwc,cd->bhwd", x[:, ::rows, ::columns], kernel[0, 0])


def batch_norm(config: ResNetConfig, *, name: str) -> BatchNorm:
    """The batch norm that a configuration asks for."""
    return BatchNorm(
        frozen=config.frozen_statistics,
        statistics=config.statistics,
        dtype=config.dtype,
        name=name,
    )
