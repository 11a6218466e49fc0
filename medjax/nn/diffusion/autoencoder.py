"""The autoencoder between images and latents: ``AutoencoderKL`` of ``diffusers``.

Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, with the network of
Rombach et al., CVPR 2022. The encoder halves the image once per level but the last; its
output is mean and log-variance of the latents. Latents are what the diffusion model
sees only after multiplication with ``scaling_factor``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.nn.diffusion.blocks import (
    LATE,
    MapAttention,
    ResidualBlock,
    Upsample,
    conv,
)
from medjax.nn.diffusion.settings import read_settings
from medjax.nn.normalization import GroupNorm

EPSILON = 1e-6
"""Of all its normalisations."""
LOGVAR = (-30.0, 20.0)
"""Log-variances are cut to this."""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "shift_factor": (None,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
ASIDE = ("force_upcast", "sample_size", "down_block_types", "up_block_types")


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes under the names of ``diffusers``, then how to compute."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters stay float32."""

    @property
    def factor(self) -> int:
        """Side of an image over side of its latents."""
        return 2 ** (len(self.block_out_channels) - 1)

    @staticmethod
    def from_dict(content: Mapping[str, Any], **compute: Any) -> "AutoencoderConfig":
        """Reads the content of ``vae/config.json``.

        Args:
          content: What the file holds.
          **compute: ``dtype``.

        Raises:
          ValueError: a setting that this network does not have, or of another type.
        """
        for name, block in (("down", "DownEncoderBlock2D"), ("up", "UpDecoderBlock2D")):
            types = content.get(f"{name}_block_types") or []
            if set(types) - {block}:
                raise ValueError(f"{name}_block_types: expected {block}, got {types}")
        return read_settings(AutoencoderConfig, content, FIXED, ASIDE, **compute)

    def block_types(self) -> dict[str, list[str]]:
        """What a file says of the kinds of its blocks."""
        levels = len(self.block_out_channels)
        return {
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }


class Autoencoder(nn.Module):
    """Images to mean and log-variance of latents, and latents to images."""

    config: AutoencoderConfig

    def setup(self) -> None:
        """The two halves, and the dense layers between them and the latents."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.quant = nn.Dense(2 * c.latent_channels, dtype=dtype)
        self.post_quant = nn.Dense(c.latent_channels, dtype=dtype)

    def encode(
        self, image: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b i j d"], Float[Array, "b i j d"]]:
        """Mean and log-variance of the latents of images in [-1, 1], float32.

        Raises:
          ValueError: images of another shape than the network takes.
        """
        c = self.config
        h, w, channels = image.shape[1:]
        if channels != c.in_channels or h % c.factor or w % c.factor:
            raise ValueError(
                f"image: expected {c.in_channels} channels and sides divisible by "
                f"{c.factor}, got shape {image.shape}"
            )
        moments = self.quant(self.encoder(image)).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR)

    def decode(self, latent: Float[Array, "b i j d"]) -> Float[Array, "b h w c"]:
        """Images in about [-1, 1] of latents that are *not* scaled, float32."""
        return self.decoder(self.post_quant(latent))

    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """An image through its mean latents and back."""
        return self.decode(self.encode(image)[0])


class Encoder(nn.Module):
    """Images to twice as many channels as latents have."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        c = self.config
        last = len(c.block_out_channels) - 1
        x = conv(c.block_out_channels[0], "conv_in", dtype=c.dtype)(x)
        for i, width in enumerate(c.block_out_channels):
            for j in range(c.layers_per_block):
                x = _residual(c, width, f"down_{i}_residual_{j}")(x)
            if i < last:
                halve = conv(
                    width, f"down_{i}_halve", stride=2, padding=LATE, dtype=c.dtype
                )
                x = halve(x)
        x = _middle(c, x)
        return _leave(c, x, 2 * c.latent_channels)


class Decoder(nn.Module):
    """Latents to images; one residual block more per level than on the way in."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b i j d"]) -> Float[Array, "b h w c"]:
        c = self.config
        widths = c.block_out_channels[::-1]
        x = _middle(c, conv(widths[0], "conv_in", dtype=c.dtype)(x))
        for i, width in enumerate(widths):
            for j in range(c.layers_per_block + 1):
                x = _residual(c, width, f"up_{i}_residual_{j}")(x)
            if i < len(widths) - 1:
                x = Upsample(c.dtype, name=f"up_{i}_double")(x)
        return _leave(c, x, c.out_channels).astype(jnp.float32)


def _residual(c: AutoencoderConfig, width: int, name: str) -> ResidualBlock:
    return ResidualBlock(width, c.norm_num_groups, EPSILON, c.dtype, name=name)


def _middle(c: AutoencoderConfig, x: Array) -> Array:
    """Two residual blocks around attention; called inside a compact method."""
    width = c.block_out_channels[-1]
    x = _residual(c, width, "middle_residual_0")(x)
    attention = MapAttention(
        c.norm_num_groups, EPSILON, c.dtype, name="middle_attention"
    )
    return _residual(c, width, "middle_residual_1")(attention(x))


def _leave(c: AutoencoderConfig, x: Array, channels: int) -> Array:
    norm = GroupNorm(c.norm_num_groups, EPSILON, c.dtype, name="norm")
    return conv(channels, "conv_out", dtype=c.dtype)(nn.silu(norm(x)))
