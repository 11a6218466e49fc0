"""U-Nets: one encoder-decoder, three published flavours of it.

Ronneberger et al. 2015 with the blocks of the codebases whose results we compare with.
What differs between them is data, not code: the norm, the slope of the activation, how
to pool, how to come up again, and what to do when an odd size comes back one short.

* :func:`fastmri`: ``facebookresearch/fastMRI`` (3x3 convolutions without bias,
  instance norm without weights, LeakyReLU 0.2, average pooling, transposed
  convolution);
* :func:`basic`: MONAI's ``BasicUNet`` (affine instance norm, LeakyReLU 0.1, max
  pooling, transposed convolution, a width of its own for the last level);
* :func:`bilinear`: the classic one with batch norm, ReLU, and corner-aligned bilinear
  upsampling, as the Latent Transformer uses it.

:meth:`UNet.encode` and :meth:`UNet.decode` can be called apart, so that something may
happen to the features in between. Norms compute in float32 whatever ``dtype`` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax.nn.normalization import BatchNorm


@dataclass(frozen=True)
class UNetConfig:
    """What distinguishes one U-Net from another.

    Attributes:
        widths: Channels per level, finest first; the last is the bottleneck.
        out_channels: Channels of the final 1x1 convolution.
        last_width: Channels of the finest decoder level, if not ``widths[0]``.
        norm: Instance norm, without or with learned scale and bias, or batch norm.
        slope: Of the activation below zero; 0 is ReLU.
        conv_bias: Whether the 3x3 convolutions (and the upsampling) have a bias.
        pool: Pooling by two.
        up: ``"transpose"``: 2x2 transposed convolution to the width below;
            ``"transpose_block"``: the same, then norm and activation; ``"bilinear"``:
            corner-aligned interpolation, and a first convolution that halves.
        skip_first: Whether the skip connection precedes the upsampled features.
        pad: How an upsampled map that is one short of its skip is extended.
    """

    widths: tuple[int, ...]
    out_channels: int
    last_width: int | None = None
    norm: Literal["instance", "instance_affine", "batch"] = "instance"
    slope: float = 0.2
    conv_bias: bool = False
    pool: Literal["avg", "max"] = "avg"
    up: Literal["transpose", "transpose_block", "bilinear"] = "transpose_block"
    skip_first: bool = False
    pad: Literal["reflect", "edge", "constant"] = "reflect"


def fastmri(*, chans: int, pools: int, out_channels: int) -> UNetConfig:
    """``fastmri.models.Unet``: widths ``chans`` times 1, 2, 4, ... over ``pools``."""
    return UNetConfig(tuple(chans * 2**i for i in range(pools + 1)), out_channels)


def basic(*, features: Sequence[int], out_channels: int) -> UNetConfig:
    """MONAI ``BasicUNet``: the encoder's widths and then the last decoder's."""
    return UNetConfig(
        tuple(features[:-1]),
        out_channels,
        last_width=features[-1],
        norm="instance_affine",
        slope=0.1,
        conv_bias=True,
        pool="max",
        up="transpose",
        skip_first=True,
        pad="edge",
    )


def bilinear(*, widths: Sequence[int], out_channels: int) -> UNetConfig:
    """The classic U-Net with batch norm, ReLU and bilinear upsampling."""
    return UNetConfig(
        tuple(widths),
        out_channels,
        norm="batch",
        slope=0.0,
        conv_bias=True,
        pool="max",
        up="bilinear",
        skip_first=True,
        pad="constant",
    )


def upsample_bilinear(
    x: Float[Array, "b h w c"], factor: int = 2
) -> Float[Array, "b _h _w c"]:
    """Both sizes times a factor; the corner pixels' centres stay where they are.

    As two small matrix products: corner alignment is not what ``jax.image`` offers, and
    accelerators have no faster way.
    """
    for axis, subscripts in ((1, "oi,biwc->bowc"), (2, "oi,bhic->bhoc")):
        weights = jnp.asarray(_corner_aligned(x.shape[axis], factor), x.dtype)
        x = jnp.einsum(subscripts, weights, x, precision="highest")
    return x


def _corner_aligned(size: int, factor: int) -> np.ndarray:
    """Interpolation matrix to ``factor`` times as many samples, ends onto ends."""
    position = np.arange(factor * size) * (size - 1) / (factor * size - 1)
    distance = np.abs(position[:, None] - np.arange(size)[None])
    return np.maximum(0.0, 1.0 - distance)


def pool_by_two(
    x: Float[Array, "b h w c"], how: Literal["avg", "max"]
) -> Float[Array, "b h//2 w//2 c"]:
    """Mean or maximum of 2x2 squares; an odd last row or column is left out.

    The maximum is taken pair by pair. The gradient of ``jnp.max`` divides by the number
    of elements equal to it, which is zero, and the gradient NaN, where a compiler
    recomputes the elements in another rounding than the maximum.
    """
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    if how == "avg":
        return jnp.mean(x, axis=(2, 4))
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


class NormActivation(nn.Module):
    """The norm, in float32, and a leaky rectifier."""

    config: UNetConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        affine = self.config.norm == "instance_affine"
        x = x.astype(jnp.float32)
        if self.config.norm == "batch":
            x = BatchNorm(name="norm")(x, train=train)
        else:
            x = nn.InstanceNorm(
                epsilon=1e-5,
                use_bias=affine,
                use_scale=affine,
                use_fast_variance=False,  # cancellation would cost three digits
                name="norm",
            )(x)
        return nn.leaky_relu(x, self.config.slope).astype(self.dtype)


class DoubleConv(nn.Module):
    """(3x3 convolution, norm, activation), twice."""

    config: UNetConfig
    middle: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w width"]:
        for i, width in enumerate((self.middle, self.width)):
            x = nn.Conv(
                width,
                (3, 3),
                padding=1,
                use_bias=self.config.conv_bias,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(x)
            x = NormActivation(self.config, self.dtype, name=f"norm_{i}")(
                x, train=train
            )
        return x


class UpBlock(nn.Module):
    """Come up one level, meet the skip connection, and convolve."""

    config: UNetConfig
    width: int
    up_width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        skip: Float[Array, "b skip_h skip_w skip_c"],
        *,
        train: bool,
    ) -> Float[Array, "b skip_h skip_w width"]:
        if self.config.up == "bilinear":
            x = upsample_bilinear(x)
        else:
            x = nn.ConvTranspose(
                self.up_width,
                (2, 2),
                strides=(2, 2),
                padding="VALID",
                use_bias=self.config.conv_bias,
                dtype=self.dtype,
                name="up",
            )(x)
        if self.config.up == "transpose_block":
            x = NormActivation(self.config, self.dtype, name="up_norm")(x, train=train)
        short = [(0, s - n) for s, n in zip(skip.shape[1:3], x.shape[1:3], strict=True)]
        x = jnp.pad(x, [(0, 0), *short, (0, 0)], mode=self.config.pad)
        both = [skip, x] if self.config.skip_first else [x, skip]
        x = jnp.concatenate(both, axis=-1)
        middle = x.shape[-1] // 2 if self.config.up == "bilinear" else self.width
        block = DoubleConv(self.config, middle, self.width, self.dtype, name="block")
        return block(x, train=train)


class UNet(nn.Module):
    """The encoder, the decoder, and both in a row.

    Attributes:
        config: The flavour.
        dtype: Of the arithmetic.
        head_init: Of the last convolution; with zeros the network starts silent.
    """

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    head_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def setup(self) -> None:
        config, widths = self.config, self.config.widths
        if len(widths) < 2:
            raise ValueError(f"widths is {widths}, expected two levels at least")
        self.down = [DoubleConv(config, w, w, self.dtype) for w in widths]
        last = config.last_width or widths[0]
        # From the bottom up. A level of its own width at the top is not halved before.
        self.up = [
            UpBlock(
                config,
                width=widths[i] if i else last,
                up_width=widths[1]
                if i == 0 and config.last_width
                else widths[i + 1] // 2,
                dtype=self.dtype,
            )
            for i in reversed(range(len(widths) - 1))
        ]
        self.head = nn.Conv(
            config.out_channels, (1, 1), kernel_init=self.head_init, dtype=self.dtype
        )

    def encode(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> list[Float[Array, "b _h _w _c"]]:
        """Features of every level, finest first.

        Raises:
            ValueError: If the image is too small to be pooled at every level.
        """
        least = 2 ** (len(self.config.widths) - 1)
        if min(x.shape[1:3]) < least:
            raise ValueError(
                f"image is {x.shape[1]}x{x.shape[2]}, expected {least} pixels at least"
            )
        features = [self.down[0](x.astype(self.dtype), train=train)]
        for block in self.down[1:]:
            pooled = pool_by_two(features[-1], self.config.pool)
            features.append(block(pooled, train=train))
        return features

    def decode(
        self, features: Sequence[Float[Array, "b _h _w _c"]], *, train: bool = False
    ) -> Float[Array, "b h w out"]:
        """The output image, float32, from the features of every level."""
        x = features[-1]
        for block, skip in zip(self.up, reversed(features[:-1]), strict=True):
            x = block(x, skip, train=train)
        return self.head(x).astype(jnp.float32)

    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h w out"]:
        """Image to image of the same size, float32."""
        return self.decode(self.encode(x, train=train), train=train)
