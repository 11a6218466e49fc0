"""CLIP's text model, which conditions Stable Diffusion: tokens to one vector each.

Radford et al., "Learning transferable visual models from natural language
supervision", ICML 2021: a transformer with norms before its blocks that reads from left
to right. Stable Diffusion takes all tokens after the last norm, padding included;
the 23 layers of version 2 are those of a network of 24 without its last.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.data.documents import revive
from medjax.nn.attention import ACTIVATIONS, ContextAttention, Mlp
from medjax.nn.normalization import LayerNorm


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """Sizes under Hugging Face's names, then how to compute."""

    vocab_size: int = 49408
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "quick_gelu"
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters stay float32."""

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act: expected one of {sorted(ACTIVATIONS)}, "
                f"got {self.hidden_act!r}"
            )

    @staticmethod
    def from_dict(content: Mapping[str, Any], **compute: Any) -> "ClipTextConfig":
        """Reads the content of ``text_encoder/config.json``.

        Args:
          content: What the file holds; keys without a meaning for the forward pass
            (token names, versions, initialisation) are left aside.
          **compute: ``dtype``.

        Raises:
          ValueError: an activation that is not known, or a value of another type.
        """
        known = {field.name for field in dataclasses.fields(ClipTextConfig)} - {"dtype"}
        values = {k: v for k, v in content.items() if k in known and v is not None}
        return revive(ClipTextConfig, {**values, **compute})

    def to_dict(self) -> dict[str, Any]:
        """The content of a ``config.json`` that Hugging Face reads."""
        values = dataclasses.asdict(self)
        del values["dtype"]
        kind = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
        return {**kind, **values}


class ClipText(nn.Module):
    """Token ids to one vector per token."""

    config: ClipTextConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Runs the network.

        Args:
          ids: of tokens, padded as the tokenizer pads.

        Returns:
          The last hidden states after the last norm, in ``dtype``.

        Raises:
          ValueError: more tokens than positions.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if ids.shape[1] > c.max_position_embeddings:
            raise ValueError(
                f"ids: expected at most {c.max_position_embeddings} tokens, "
                f"got {ids.shape[1]}"
            )
        shape = (c.max_position_embeddings, c.hidden_size)
        positions = self.param("positions", nn.initializers.normal(0.02), shape)
        embed = nn.Embed(
            c.vocab_size,
            c.hidden_size,
            embedding_init=nn.initializers.normal(0.02),
            dtype=dtype,
            name="tokens",
        )
        x = embed(ids) + positions[None, : ids.shape[1]].astype(dtype)
        for i in range(c.num_hidden_layers):
            x = ClipBlock(c, name=f"layer_{i}")(x)
        return LayerNorm(c.layer_norm_eps, c.dtype, name="norm")(x)


class ClipBlock(nn.Module):
    """Attention to what was read before, then an MLP, each behind a norm."""

    config: ClipTextConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        c = self.config
        attention = ContextAttention(
            c.num_attention_heads, causal=True, dtype=c.dtype, name="attention"
        )
        x = x + attention(LayerNorm(c.layer_norm_eps, c.dtype, name="norm1")(x))
        mlp = Mlp(c.intermediate_size, c.hidden_act, c.dtype, name="mlp")
        return x + mlp(LayerNorm(c.layer_norm_eps, c.dtype, name="norm2")(x))
