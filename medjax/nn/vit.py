"""Vision transformers: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021.

The variant that timm calls ``vit_*_patch16_224`` and from which published weights come:
class token, learned positions, pre-norm blocks with a fused ``qkv`` projection, exact
GELU, a norm at the end. No classifier; both the class token and the patch tokens come
out normalised.

Radiographs are often read at another size than the weights were trained at. The learned
positions are then resampled in every call (bicubic with antialiasing, the class token's
left alone, as timm does it): the parameters keep the size of the checkpoint, gradients
reach the original grid, and the cost is two small matrix products.
"""

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.attention import AttentionImplementation, Mlp, MultiHeadAttention
from medjax.nn.normalization import LayerNorm

LINEAR_INIT = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """What distinguishes one vision transformer from another."""

    width: int
    layers: int
    heads: int
    patch: int = 16
    """Side of a patch, in pixels."""
    image_size: int = 224
    """Side of the images that the learned positions are for; others are resampled."""
    mlp_ratio: int = 4
    layer_norm_eps: float = 1e-6
    attention: AttentionImplementation = "xla"
    """See `MultiHeadAttention.implementation`."""
    remat: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters stay float32."""


VITS: dict[str, ViTConfig] = {
    "vit_s16": ViTConfig(width=384, layers=12, heads=6),
    "vit_b16": ViTConfig(width=768, layers=12, heads=12),
    # For 64-pixel images on a laptop.
    "vit_tiny": ViTConfig(width=64, layers=2, heads=4, patch=8, image_size=64),
}


class ViTFeatures(NamedTuple):
    """What a vision transformer says about images; float32 or ``dtype``, normalised."""

    cls: Float[Array, "b d"]
    """The class token."""
    tokens: Float[Array, "b h w d"]
    """The patch tokens, where their patches are."""
    looked: Float[Array, "b h w"] | None = None
    """How much the class token looks at each patch in the last block; if it was asked
    for. What it looks at itself is left out."""
    depths: tuple[Float[Array, "b h w d"], ...] = ()
    """The patch tokens after the blocks that were asked for, not normalised."""


class ViTBlock(nn.Module):
    """Attention, then MLP; each on the normalised input and added to it."""

    config: ViTConfig
    look: bool = False
    """Whether to say where the first token looks."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n"] | None]:
        c = self.config
        y = LayerNorm(c.layer_norm_eps, c.dtype, name="norm1")(x)
        attention = MultiHeadAttention(
            c.heads,
            fused=True,
            implementation=c.attention,
            dtype=c.dtype,
            kernel_init=LINEAR_INIT,
            name="attention",
        )
        y, looked = attention.attend(y, look=self.look)
        x = x + y
        y = LayerNorm(c.layer_norm_eps, c.dtype, name="norm2")(x)
        hidden = c.width * c.mlp_ratio
        return x + Mlp(hidden, "gelu", c.dtype, LINEAR_INIT, name="mlp")(y), looked


class ViT(nn.Module):
    """Images to a class token and patch tokens."""

    config: ViTConfig
    look: bool = False
    """Whether to say where the class token looks in the last block."""
    depths: tuple[int, ...] = ()
    """Numbers of blocks after which patch tokens are wanted as well."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False
    ) -> ViTFeatures:
        """Runs the network.

        Args:
          images: Three channels, normalised as the weights expect them; sides divisible
            by the patch.
          train: Means nothing here (there is no dropout); for calls that are the same
            as those of `ResNet`.

        Returns:
          The class token and the patch tokens, in ``dtype``.

        Raises:
          ValueError: Images without three channels, or not divisible into patches.
        """
        del train
        c = self.config
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"images: expected [b, h, w, 3], got shape {images.shape}; "
                "repeat a grey image over three channels"
            )
        if images.shape[1] % c.patch or images.shape[2] % c.patch:
            raise ValueError(
                f"images: sides must be divisible by the patch ({c.patch} pixels), "
                f"got shape {images.shape}"
            )
        dtype = jnp.dtype(c.dtype)
        x = nn.Conv(
            c.width,
            (c.patch, c.patch),
            strides=c.patch,
            padding="VALID",
            dtype=dtype,
            name="patch_embedding",
        )(images.astype(dtype))
        rows, columns = x.shape[1:3]

        side = c.image_size // c.patch
        cls = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, c.width))
        positions = self.param("positions", LINEAR_INIT, (1, 1 + side**2, c.width))
        positions = resample_positions(positions, (rows, columns)).astype(dtype)
        cls = jnp.broadcast_to(cls.astype(dtype), (x.shape[0], 1, c.width))
        x = jnp.concatenate([cls, x.reshape(x.shape[0], -1, c.width)], axis=1)
        x = x + positions

        block = nn.remat(ViTBlock) if c.remat else ViTBlock

        def patches(x: jax.Array) -> jax.Array:
            return x[:, 1:].reshape(-1, rows, columns, c.width)

        looked, passed = None, {}
        for i in range(c.layers):
            look = self.look and i == c.layers - 1
            x, looked = block(c, look=look, name=f"block_{i}")(x)
            if i + 1 in self.depths:
                passed[i + 1] = patches(x)
        x = LayerNorm(c.layer_norm_eps, c.dtype, name="norm")(x)
        if looked is not None:
            looked = looked[:, 1:].reshape(-1, rows, columns)
        depths = tuple(passed[n] for n in self.depths)
        return ViTFeatures(x[:, 0], patches(x), looked, depths)


def resample_positions(
    positions: Float[Array, "1 n d"], grid: tuple[int, int]
) -> Float[Array, "1 m d"]:
    """Learned positions for another number of patches.

    Args:
      positions: The class token's, then those of a square grid of patches, row by row.
      grid: Rows and columns of patches that are wanted.

    Returns:
      The class token's, unchanged, then those of ``grid``.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    cls, square = positions[:, :1], positions[:, 1:]
    width = positions.shape[-1]
    square = square.reshape(1, side, side, width)
    square = jax.image.resize(square, (1, *grid, width), "cubic", antialias=True)
    return jnp.concatenate([cls, square.reshape(1, -1, width)], axis=1)
