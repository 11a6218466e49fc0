"""The U-Net that predicts noise in latents from a step in time and a text.

``UNet2DConditionModel`` of the library ``diffusers``, as Stable Diffusion 1.x and 2.x
use it: residual blocks, spatial transformers that look at the text, skip connections
from every block on the way down. Their ``attention_head_dim`` is the *number* of heads,
of all levels or of each.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from medjax.nn.attention import AttentionImplementation
from medjax.nn.diffusion.blocks import (
    ResidualBlock,
    SpatialTransformer,
    Upsample,
    conv,
    time_features,
)
from medjax.nn.diffusion.settings import read_settings
from medjax.nn.normalization import GroupNorm

Down = Literal["CrossAttnDownBlock2D", "DownBlock2D"]
Up = Literal["CrossAttnUpBlock2D", "UpBlock2D"]

FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
"""What else a U-Net's file may say, with the values that this one can be."""
# Precision of attention (float32 here whatever it says), dropout, and widths of
# embeddings that FIXED leaves out.
ASIDE = (
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "class_embeddings_concat",
    "dropout",
    "projection_class_embeddings_input_dim",
    "upcast_attention",
)


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes under the names of ``diffusers``, then how to compute."""

    sample_size: int = 64
    """Side of the latents."""
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[Down, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    up_block_types: tuple[Up, ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention_dim: int = 1280
    """Width of the text."""
    attention_head_dim: int | tuple[int, ...] = 8
    """Number of heads (so it is, in spite of its name), of all levels or each."""
    use_linear_projection: bool = False
    """How files keep the dense layers around transformers: matrices, or convolutions
    of one pixel. The function is the same."""
    transformer_layers_per_block: int = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    attention: AttentionImplementation = "xla"
    """See `ContextAttention.implementation`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters stay float32."""

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        sizes = (len(self.down_block_types), len(self.up_block_types), len(self.heads))
        if sizes != (levels,) * 3:
            raise ValueError(
                f"block_out_channels: {levels} levels need as many blocks down, up and "
                f"numbers of heads, got {sizes[0]}, {sizes[1]} and {sizes[2]}"
            )

    @property
    def heads(self) -> tuple[int, ...]:
        """Of each level."""
        heads = self.attention_head_dim
        if isinstance(heads, int):
            return (heads,) * len(self.block_out_channels)
        return tuple(heads)

    @staticmethod
    def from_dict(content: Mapping[str, Any], **compute: Any) -> "UNetConfig":
        """Reads the content of ``unet/config.json``.

        Args:
          content: What the file holds.
          **compute: ``attention``, ``dtype``.

        Raises:
          ValueError: a setting that this network does not have, or of another type.
        """
        return read_settings(UNetConfig, content, FIXED, ASIDE, **compute)


class UNet(nn.Module):
    """Noisy latents, step in time and text to what the training predicts."""

    config: UNetConfig

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "b h w c"],
        steps: Int[Array, " b"] | Shaped[Array, " b"],
        text: Float[Array, "b m e"],
    ) -> Float[Array, "b h w d"]:
        """Runs the network.

        Args:
          latent: scaled and noisy; sides divisible by 2 once per level but the last.
          steps: of the noise schedule the latents are at.
          text: what the text model says, one vector per token.

        Returns:
          float32, noise or velocity.

        Raises:
          ValueError: latents or text of another shape.
        """
        c = self.config
        levels = len(c.block_out_channels)
        self._check(latent, text)
        dtype = jnp.dtype(c.dtype)
        first = c.block_out_channels[0]
        time = time_features(
            steps, first, cosine_first=c.flip_sin_to_cos, shift=c.freq_shift
        ).astype(dtype)
        time = nn.Dense(4 * first, dtype=dtype, name="time_1")(time)
        time = nn.Dense(4 * first, dtype=dtype, name="time_2")(nn.silu(time))

        x = conv(first, "conv_in", dtype=c.dtype)(latent)
        skips = [x]
        for i, width in enumerate(c.block_out_channels):
            looks = c.down_block_types[i] == "CrossAttnDownBlock2D"
            for j in range(c.layers_per_block):
                x = self._residual(width, f"down_{i}_residual_{j}")(x, time)
                if looks:
                    x = self._transformer(i, f"down_{i}_transformer_{j}")(x, text)
                skips.append(x)
            if i < levels - 1:
                x = conv(width, f"down_{i}_halve", stride=2, dtype=c.dtype)(x)
                skips.append(x)

        width = c.block_out_channels[-1]
        x = self._residual(width, "middle_residual_0")(x, time)
        x = self._transformer(levels - 1, "middle_transformer_0")(x, text)
        x = self._residual(width, "middle_residual_1")(x, time)

        for i in range(levels):
            level = levels - 1 - i
            width = c.block_out_channels[level]
            looks = c.up_block_types[i] == "CrossAttnUpBlock2D"
            for j in range(c.layers_per_block + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._residual(width, f"up_{i}_residual_{j}")(x, time)
                if looks:
                    x = self._transformer(level, f"up_{i}_transformer_{j}")(x, text)
            if i < levels - 1:
                x = Upsample(c.dtype, name=f"up_{i}_double")(x)
        x = nn.silu(GroupNorm(c.norm_num_groups, c.norm_eps, c.dtype, name="norm")(x))
        return conv(c.out_channels, "conv_out", dtype="float32")(x.astype(jnp.float32))

    def _check(self, latent: Array, text: Array) -> None:
        c = self.config
        step = 2 ** (len(c.block_out_channels) - 1)
        h, w, channels = latent.shape[1:]
        if channels != c.in_channels or h % step or w % step:
            raise ValueError(
                f"latent: expected {c.in_channels} channels and sides divisible by "
                f"{step}, got shape {latent.shape}"
            )
        if text.shape[-1] != c.cross_attention_dim:
            raise ValueError(
                f"text: expected vectors of {c.cross_attention_dim} "
                f"(cross_attention_dim), got {text.shape[-1]}"
            )

    def _residual(self, width: int, name: str) -> ResidualBlock:
        c = self.config
        return ResidualBlock(width, c.norm_num_groups, c.norm_eps, c.dtype, name=name)

    def _transformer(self, level: int, name: str) -> SpatialTransformer:
        c = self.config
        return SpatialTransformer(
            c.heads[level],
            c.transformer_layers_per_block,
            c.norm_num_groups,
            c.attention,
            c.dtype,
            name=name,
        )
