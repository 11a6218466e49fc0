"""The U-Net of nnU-Net, in two or three dimensions (Isensee et al. 2021, 10.1038/
s41592-020-01008-z; its second version, and the residual encoder of arXiv 2404.09556).

What distinguishes it from :mod:`medjax.nn.unet`: kernels and strides are per level and
axis, so that thick slices are neither convolved nor pooled before the other axes have
caught up; a strided convolution goes down, a transposed one up; and there is a head at
every level of the decoder, for deep supervision. Which kernels, strides and widths
follow from voxel size and extent: :mod:`medjax.segmentation.plans`.

With ``residual`` every level of the encoder is a row of residual blocks behind a stem
(ResNet-D: the short cut is averaged down before it is projected), and starts as the
identity, its last scales being zero.

Channels last; the rank is that of the kernels. Normalisation is in float32.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Axes = tuple[int, ...]
"""One number per spatial axis."""


@dataclasses.dataclass(frozen=True)
class NNUNetConfig:
    """Shape of the network, level by level, finest first."""

    out_channels: int
    """Classes, or regions."""
    widths: tuple[int, ...]
    """Channels of each level."""
    kernels: tuple[Axes, ...]
    """Of the convolutions of each level."""
    strides: tuple[Axes, ...]
    """With which each level is entered; the first is usually 1."""
    blocks: tuple[int, ...]
    """Convolutions of each level of the encoder; residual blocks, if they are."""
    decoder_blocks: tuple[int, ...]
    """Convolutions of each level of the decoder, which ends above the lowest."""
    residual: bool = False
    """Residual blocks in the encoder."""
    slope: float = 0.01
    """Of the leaky rectifier below zero."""

    def __post_init__(self) -> None:
        levels = len(self.widths)
        lengths = [len(self.kernels), len(self.strides), len(self.blocks)]
        if (
            levels < 2
            or lengths != [levels] * 3
            or len(self.decoder_blocks) + 1 != (levels)
        ):
            raise ValueError(
                f"network: {levels} widths, {lengths} kernels, strides and blocks, "
                f"{len(self.decoder_blocks)} decoder blocks: expected as many of each, "
                "two at least, and one less in the decoder"
            )
        ranks = {len(axes) for axes in (*self.kernels, *self.strides)}
        if len(ranks) != 1 or any(k % 2 == 0 for axes in self.kernels for k in axes):
            raise ValueError(
                f"network: kernels {self.kernels} and strides {self.strides}: expected "
                "odd kernels, and one number of axes"
            )

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernels[0])

    @property
    def divisor(self) -> Axes:
        """What every extent has to be a multiple of."""
        total = [1] * self.rank
        for stride in self.strides:
            total = [n * s for n, s in zip(total, stride, strict=True)]
        return tuple(total)


class ConvNorm(nn.Module):
    """Convolution, instance normalisation, and, but for short cuts, a rectifier.

    ``normal=False`` leaves normalisation out, for maps whose mean says something.
    """

    config: NNUNetConfig
    width: int
    kernel: Axes
    stride: Axes
    dtype: DTypeLike = jnp.float32
    active: bool = True
    bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    normal: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b *_s _c"]) -> Float[Array, "b *_t width"]:
        x = nn.Conv(
            self.width,
            self.kernel,
            strides=self.stride,
            padding=[(k // 2, k // 2) for k in self.kernel],
            use_bias=self.bias,
            kernel_init=he_normal(self.config.slope),
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.normal:
            x = nn.InstanceNorm(
                epsilon=1e-5,
                scale_init=self.scale_init,
                use_fast_variance=False,  # cancellation would cost three digits
                name="norm",
            )(x.astype(jnp.float32))
        if self.active:
            x = nn.leaky_relu(x, self.config.slope)
        return x.astype(self.dtype)


class ConvRow(nn.Module):
    """Convolutions in a row; the first one strides."""

    config: NNUNetConfig
    level: int
    count: int
    stride: Axes
    dtype: DTypeLike = jnp.float32
    normal: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b *_s _c"]) -> Float[Array, "b *_t _w"]:
        config, one = self.config, (1,) * self.config.rank
        for i in range(self.count):
            x = ConvNorm(
                config,
                config.widths[self.level],
                config.kernels[self.level],
                one if i else self.stride,
                self.dtype,
                normal=self.normal,
                name=f"conv_{i}",
            )(x)
        return x


class ResidualBlock(nn.Module):
    """Two convolutions beside a short cut."""

    config: NNUNetConfig
    width: int
    kernel: Axes
    stride: Axes
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *_s _c"]) -> Float[Array, "b *_t width"]:
        config, one, dtype = self.config, (1,) * self.config.rank, self.dtype
        kernel, width = self.kernel, self.width
        short = x
        if self.stride != one:
            short = averaged(short, self.stride)
        if x.shape[-1] != width:
            short = ConvNorm(
                config, width, one, one, dtype, active=False, bias=False, name="short"
            )(short)
        x = ConvNorm(config, width, kernel, self.stride, dtype, name="conv_0")(x)
        x = ConvNorm(
            config,
            width,
            kernel,
            one,
            dtype,
            active=False,
            scale_init=nn.initializers.zeros,
            name="conv_1",
        )(x)
        return nn.leaky_relu(x + short, config.slope)


class ResidualRow(nn.Module):
    """Residual blocks in a row; the first one strides."""

    config: NNUNetConfig
    level: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *_s _c"]) -> Float[Array, "b *_t _w"]:
        config, level = self.config, self.level
        width, kernel = config.widths[level], config.kernels[level]
        for i in range(config.blocks[level]):
            stride = (1,) * config.rank if i else config.strides[level]
            block = ResidualBlock(
                config, width, kernel, stride, self.dtype, name=f"block_{i}"
            )
            x = block(x)
        return x


class NNUNet(nn.Module):
    """The network in its parts, for systems that put something between them.

    Attributes:
        config: Its shape.
        dtype: Of the arithmetic; logits are float32.
    """

    config: NNUNetConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        levels = range(len(config.widths))
        one = (1,) * config.rank
        if config.residual:
            self.stem = ConvNorm(
                config, config.widths[0], config.kernels[0], one, dtype
            )
            self.encoder = [ResidualRow(config, i, dtype) for i in levels]
        else:
            self.encoder = [
                ConvRow(config, i, config.blocks[i], config.strides[i], dtype)
                for i in levels
            ]
        self.up = [
            nn.ConvTranspose(
                config.widths[i],
                config.strides[i + 1],
                strides=config.strides[i + 1],
                padding="VALID",
                kernel_init=he_normal(config.slope, transposed=True),
                dtype=dtype,
            )
            for i in levels[:-1]
        ]
        self.decoder = [
            ConvRow(config, i, config.decoder_blocks[i], one, dtype)
            for i in levels[:-1]
        ]
        self.heads = [
            nn.Conv(
                config.out_channels,
                one,
                kernel_init=he_normal(config.slope),
                dtype=dtype,
            )
            for _ in levels[:-1]
        ]

    def encode(self, x: Float[Array, "b *_s _c"]) -> list[Float[Array, "b ..."]]:
        """Features of every level, finest first.

        Raises:
            ValueError: If an extent is not a multiple of the strides.
        """
        space, divisor = x.shape[1:-1], self.config.divisor
        if len(space) != len(divisor) or any(
            n % d for n, d in zip(space, divisor, strict=True)
        ):
            raise ValueError(
                f"image: extent {space}, expected multiples of {divisor} (pad it)"
            )
        x = x.astype(self.dtype)
        if self.config.residual:
            x = self.stem(x)
        features = []
        for level in self.encoder:
            x = level(x)
            features.append(x)
        return features

    def decode(
        self, features: Sequence[Float[Array, "b ..."]]
    ) -> list[Float[Array, "b ..."]]:
        """Features of every level of the decoder, finest first.

        Args:
            features: Of every level of the encoder, or what stands for them.
        """
        x, found = features[-1], []
        for i in reversed(range(len(self.decoder))):
            x = jnp.concatenate([self.up[i](x), features[i]], axis=-1)
            x = self.decoder[i](x)
            found.append(x)
        return found[::-1]

    def classify(
        self, decoded: Sequence[Float[Array, "b ..."]]
    ) -> list[Float[Array, "b ..."]]:
        """Logits of every level, float32, finest first.

        Args:
            decoded: Of :meth:`decode`.
        """
        pairs = zip(self.heads, decoded, strict=True)
        return [head(x).astype(jnp.float32) for head, x in pairs]

    def levels(self, x: Float[Array, "b *_s _c"]) -> list[Float[Array, "b ..."]]:
        """Logits of every level, finest first, for deep supervision."""
        return self.classify(self.decode(self.encode(x)))

    def __call__(self, x: Float[Array, "b *s _c"]) -> Float[Array, "b *s _k"]:
        """Logits of every voxel, float32."""
        return self.levels(x)[0]


def averaged(x: Float[Array, "b *_s c"], stride: Axes) -> Float[Array, "b *_t c"]:
    """Means of blocks; every extent is a multiple of its stride."""
    split = [(n // s, s) for n, s in zip(x.shape[1:-1], stride, strict=True)]
    blocks = x.reshape(x.shape[0], *itertools.chain(*split), x.shape[-1])
    return jnp.mean(blocks, axis=tuple(range(2, 2 * len(stride) + 1, 2)))


def repeated(x: Float[Array, "b *_s c"], factors: Axes) -> Float[Array, "b *_t c"]:
    """Every voxel as a block of equal ones: the other way of :func:`averaged`."""
    for axis, factor in enumerate(factors, 1):
        x = jnp.repeat(x, factor, axis=axis)
    return x


def he_normal(slope: float, *, transposed: bool = False) -> nn.initializers.Initializer:
    """He's initialisation for a leaky rectifier, as PyTorch draws it.

    Args:
        slope: Of the rectifier below zero.
        transposed: For a transposed convolution, of which PyTorch counts the outputs.
    """
    fan_in, fan_out = (-1, -2) if transposed else (-2, -1)
    return nn.initializers.variance_scaling(
        2 / (1 + slope**2), "fan_in", "normal", in_axis=fan_in, out_axis=fan_out
    )
