"""Parts of the U-Net and the autoencoder of latent diffusion, channels last.

Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR
2022. Parameters map one to one to those of the library ``diffusers``
(:mod:`medjax.weights.diffusion`). Group normalisations have epsilon 1e-5 in the
U-Net's residual blocks, 1e-6 in its transformers and in all of the autoencoder.
Convolutions of one pixel are dense layers here: the same product, and one kernel where
published files have two.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.attention import (
    ACTIVATIONS,
    AttentionImplementation,
    ContextAttention,
)
from medjax.nn.normalization import GroupNorm, LayerNorm

SAME = ((1, 1), (1, 1))
"""Padding of a 3 x 3 convolution; those of stride 2 in a U-Net have it as well."""
LATE = ((0, 1), (0, 1))
"""Padding of the autoencoder's convolutions of stride 2: below and to the right."""
TRANSFORMER_EPSILON = 1e-6
"""Of a spatial transformer's group normalisation, whatever the U-Net's is."""


def conv(
    features: int,
    name: str,
    *,
    stride: int = 1,
    padding: tuple[tuple[int, int], tuple[int, int]] = SAME,
    dtype: str = "float32",
) -> nn.Conv:
    """A convolution of 3 x 3 pixels."""
    return nn.Conv(
        features,
        (3, 3),
        strides=(stride, stride),
        padding=padding,
        dtype=jnp.dtype(dtype),
        name=name,
    )


class ResidualBlock(nn.Module):
    """Two convolutions around a step in time, added to what came in."""

    features: int
    groups: int
    epsilon: float
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b d"] | None = None
    ) -> Float[Array, "b h w e"]:
        """Runs the block; the autoencoder has no ``time``."""
        dtype = jnp.dtype(self.dtype)
        y = nn.silu(GroupNorm(self.groups, self.epsilon, self.dtype, name="norm1")(x))
        y = conv(self.features, "conv1", dtype=self.dtype)(y)
        if time is not None:
            step = nn.Dense(self.features, dtype=dtype, name="time")(nn.silu(time))
            y = y + step[:, None, None]
        y = nn.silu(GroupNorm(self.groups, self.epsilon, self.dtype, name="norm2")(y))
        y = conv(self.features, "conv2", dtype=self.dtype)(y)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=dtype, name="shortcut")(x)
        return x.astype(dtype) + y


class TransformerBlock(nn.Module):
    """Attention among places, attention to the text, and a gated MLP."""

    heads: int
    attention: AttentionImplementation = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], text: Float[Array, "b m e"]
    ) -> Float[Array, "b n d"]:
        def attend(name: str) -> ContextAttention:
            return ContextAttention(
                self.heads,
                bias=False,
                implementation=self.attention,
                dtype=self.dtype,
                name=name,
            )

        def norm(name: str) -> LayerNorm:
            return LayerNorm(dtype=self.dtype, name=name)

        dtype = jnp.dtype(self.dtype)
        x = x + attend("self")(norm("norm1")(x))
        x = x + attend("cross")(norm("norm2")(x), text.astype(dtype))
        width = x.shape[-1]
        both = nn.Dense(8 * width, dtype=dtype, name="up")(norm("norm3")(x))
        # The value comes first, the gate second.
        value, gate = jnp.split(both, 2, axis=-1)
        gated = value * ACTIVATIONS["gelu"](gate)
        return x + nn.Dense(width, dtype=dtype, name="down")(gated)


class SpatialTransformer(nn.Module):
    """Transformer blocks over all places of a map, added to it."""

    heads: int
    layers: int
    groups: int
    attention: AttentionImplementation = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], text: Float[Array, "b m e"]
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        dtype = jnp.dtype(self.dtype)
        y = GroupNorm(self.groups, TRANSFORMER_EPSILON, self.dtype, name="norm")(x)
        y = nn.Dense(c, dtype=dtype, name="enter")(y).reshape(b, h * w, c)
        for i in range(self.layers):
            y = TransformerBlock(
                self.heads, self.attention, self.dtype, name=f"block_{i}"
            )(y, text)
        return x + nn.Dense(c, dtype=dtype, name="leave")(y).reshape(x.shape)


class MapAttention(nn.Module):
    """Attention among all places of a map with one head, added to it."""

    groups: int
    epsilon: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        y = GroupNorm(self.groups, self.epsilon, self.dtype, name="norm")(x)
        attention = ContextAttention(1, dtype=self.dtype, name="attention")
        return x + attention(y.reshape(b, h * w, c)).reshape(x.shape)


class Upsample(nn.Module):
    """Every pixel four times, then a convolution."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
        return conv(c, "conv", dtype=self.dtype)(x.reshape(b, 2 * h, 2 * w, c))


def time_features(
    steps: jax.Array, width: int, *, cosine_first: bool, shift: float
) -> Float[Array, "b d"]:
    """Cosines and sines of the step in time at frequencies from 1 down to 1/10000.

    Args:
      steps: of the noise schedule, ``[b]``.
      width: of the result.
      cosine_first: whether the cosines are the first half.
      shift: of the exponent's denominator: 0 leaves 1/10000 just out.
    """
    half = width // 2
    place = jnp.arange(half, dtype=jnp.float32) / (half - shift)
    angles = steps.astype(jnp.float32)[:, None] * jnp.exp(-jnp.log(1e4) * place)[None]
    parts = (jnp.cos(angles), jnp.sin(angles))
    return jnp.concatenate(parts if cosine_first else parts[::-1], axis=-1)
