"""Restormer: attention over channels instead of over pixels.

Zamir et al., CVPR 2022, *Restormer: Efficient Transformer for High-Resolution Image
Restoration*. Every block has two parts. MDTA (eq. 1) attends between *channels*: the
attention map is c x c, so its cost is linear in the number of pixels; depthwise 3x3
convolutions bring the neighbourhood in. GDFN (eq. 2) is a gated feed-forward layer
with the same depthwise convolution. Four levels, pixel (un)shuffle in between.

Follows the variant of the Latent Transformer submission to CMRxRecon 2023: layer norm
with bias (the paper's code offers it without), no bias in any convolution, and
:meth:`Restormer.encode` and :meth:`Restormer.decode` apart. Height and width must be
multiples of 8. Norms and attention maps are float32 whatever ``dtype`` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


@dataclass(frozen=True)
class RestormerConfig:
    """Sizes of a Restormer; the defaults are the paper's.

    Attributes:
        channels: Image channels, in and out.
        widths: Feature channels of the four levels, each twice the one before.
        blocks: Transformer blocks per level.
        heads: Attention heads per level.
        refinement: Blocks at full resolution after the decoder.
        expansion: Widening of the gated feed-forward layer.
    """

    channels: int
    widths: tuple[int, int, int, int] = (48, 96, 192, 384)
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    refinement: int = 4
    expansion: float = 2.66


def pixel_unshuffle(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 4*c"]:
    """Every 2x2 square becomes four channels (channel-major, rows before columns)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, 4 * c)


def pixel_shuffle(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c/4"]:
    """The inverse of :func:`pixel_unshuffle`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)


def _conv(width: int, size: int, name: str, dtype: DTypeLike) -> nn.Conv:
    return nn.Conv(
        width, (size, size), padding=size // 2, use_bias=False, dtype=dtype, name=name
    )


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of every channel with itself, as nine shifted products.

    XLA fuses the shifts into one pass. Its grouped convolution is no faster, and the
    gradient of that takes minutes to compile on CPUs.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        _, h, w, c = x.shape
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (3, 3, 1, c)).astype(self.dtype)
        padded = jnp.pad(x.astype(self.dtype), [(0, 0), (1, 1), (1, 1), (0, 0)])
        shifted = [
            padded[:, i : i + h, j : j + w] * kernel[i, j][None, None]
            for i in range(3)
            for j in range(3)
        ]
        return sum(shifted[1:], start=shifted[0])


class ChannelAttention(nn.Module):
    """MDTA: queries and keys are whole feature maps, normalised over the pixels."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        qkv = _conv(3 * c, 1, "qkv", self.dtype)(x)
        qkv = DepthwiseConv(self.dtype, name="qkv_depthwise")(qkv)
        q, k, v = jnp.moveaxis(
            qkv.reshape(b, h * w, 3, self.heads, c // self.heads), 2, 0
        )

        def unit(z: Array) -> Array:
            z = z.astype(jnp.float32)
            # maximum before the root: the gradient at a map of zeros stays finite.
            power = jnp.sum(z * z, axis=1, keepdims=True)
            return (z * jax.lax.rsqrt(jnp.maximum(power, 1e-24))).astype(self.dtype)

        ones = nn.initializers.ones
        temperature = self.param("temperature", ones, (1, self.heads, 1, 1))
        scores = jnp.einsum(
            "bnhc,bnhe->bhce", unit(q), unit(k), preferred_element_type=jnp.float32
        )
        weights = nn.softmax(scores * temperature, axis=-1).astype(self.dtype)
        out = jnp.einsum("bhce,bnhe->bnhc", weights, v)
        return _conv(c, 1, "project", self.dtype)(out.reshape(b, h, w, c))


class GatedFeedForward(nn.Module):
    """GDFN: one half of the widened features gates the other."""

    expansion: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        wide = 2 * int(c * self.expansion)
        x = _conv(wide, 1, "expand", self.dtype)(x)
        x = DepthwiseConv(self.dtype, name="depthwise")(x)
        gate, value = jnp.split(x, 2, axis=-1)
        x = nn.gelu(gate, approximate=False) * value
        return _conv(c, 1, "project", self.dtype)(x)


class TransformerBlock(nn.Module):
    """Pre-norm residual block of the two parts."""

    heads: int
    expansion: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        for i, part in enumerate(
            (
                ChannelAttention(self.heads, self.dtype, name="attention"),
                GatedFeedForward(self.expansion, self.dtype, name="feed_forward"),
            )
        ):
            normed = nn.LayerNorm(
                epsilon=1e-5, use_fast_variance=False, name=f"norm_{i}"
            )(x.astype(jnp.float32))
            x = x + part(normed.astype(self.dtype))
        return x


class Blocks(nn.Module):
    """Transformer blocks in a row: one compiled body, rematerialised backwards."""

    count: int
    heads: int
    expansion: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        def body(block: TransformerBlock, x: Array, _: None) -> tuple[Array, None]:
            return block(x), None

        scan = nn.scan(
            nn.remat(body, prevent_cse=False),  # a scan needs no barrier against CSE
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.count,
        )
        block = TransformerBlock(self.heads, self.expansion, self.dtype, name="blocks")
        return scan(block, x.astype(self.dtype), None)[0]


class Restormer(nn.Module):
    """The four-level encoder and decoder.

    Attributes:
        config: Sizes.
        dtype: Of the arithmetic.
        head_init: Of the last convolution; with zeros the network starts as identity.
    """

    config: RestormerConfig
    dtype: DTypeLike = jnp.float32
    head_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        widths, heads, blocks = config.widths, config.heads, config.blocks
        if any(2 * a != b for a, b in zip(widths[:-1], widths[1:], strict=True)):
            raise ValueError(f"widths is {widths}, expected each twice the one before")
        if any(w % h for w, h in zip(widths, heads, strict=True)):
            raise ValueError(f"widths {widths} do not divide into heads {heads}")

        def level(count: int, n: int) -> Blocks:
            return Blocks(count, n, config.expansion, dtype)

        self.embed = _conv(widths[0], 3, "embed", dtype)
        self.encoders = [level(c, n) for c, n in zip(blocks, heads, strict=True)]
        self.downs = [
            _conv(w // 2, 3, f"down_{i}", dtype) for i, w in enumerate(widths[:-1])
        ]
        # From the bottom up. The finest decoder level keeps the concatenated width.
        self.ups = [_conv(2 * widths[i], 3, f"up_{i}", dtype) for i in (3, 2, 1)]
        self.reduces = [_conv(widths[i], 1, f"reduce_{i}", dtype) for i in (2, 1)]
        self.decoders = [level(blocks[i], heads[i]) for i in (2, 1, 0)]
        self.refinement = level(config.refinement, heads[0])
        self.head = nn.Conv(
            config.channels,
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=self.head_init,
            dtype=dtype,
        )

    def encode(self, x: Float[Array, "b h w c"]) -> list[Float[Array, "b _h _w _c"]]:
        """Features of the four levels, finest first.

        Raises:
            ValueError: If height or width is not a multiple of 8.
        """
        if x.shape[1] % 8 or x.shape[2] % 8:
            raise ValueError(f"image is {x.shape[1:3]}, expected multiples of 8")
        features = [self.encoders[0](self.embed(x.astype(self.dtype)))]
        for down, encoder in zip(self.downs, self.encoders[1:], strict=True):
            features.append(encoder(pixel_unshuffle(down(features[-1]))))
        return features

    def decode(
        self, features: Sequence[Float[Array, "b _h _w _c"]]
    ) -> Float[Array, "b h w channels"]:
        """The output image, float32, from the features of the four levels."""
        x = features[-1]
        for i, (up, decoder) in enumerate(zip(self.ups, self.decoders, strict=True)):
            x = jnp.concatenate([pixel_shuffle(up(x)), features[-2 - i]], axis=-1)
            if i < len(self.reduces):
                x = self.reduces[i](x)
            x = decoder(x)
        return self.head(self.refinement(x)).astype(jnp.float32)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Image to image; the network predicts the difference."""
        return x + self.decode(self.encode(x))
