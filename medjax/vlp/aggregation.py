"""Channels of a ResNet as tokens: the reading branch of IMITATE.

Every stage of a convolutional tower holds channels that respond to something of its
own scale. A few of each are drawn, pooled to one grid and flattened; an attention layer
with one class token summarises them, so that small and large findings are read at once.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.nn.pooling import adaptive_pooling_matrix
from medjax.typing import Key

GRID = 16
"""Side of the grid every channel is pooled to; a token is the flattened grid."""


def channel_tokens(
    stage: Float[Array, "b h w c"], channels: Int[Array, " n"]
) -> Float[Array, "b n g"]:
    """The chosen channels of one stage, each pooled to a grid and flattened."""
    rows, columns = (
        jnp.asarray(adaptive_pooling_matrix(size, bins=GRID))
        for size in stage.shape[1:3]
    )
    chosen = jnp.take(stage, channels, axis=-1).astype(jnp.float32)
    pooled = jnp.einsum("bhwn,gh,kw->bngk", chosen, rows, columns)
    return pooled.reshape(*pooled.shape[:2], GRID * GRID)


class SingleQueryAttention(nn.Module):
    """Multi-head attention of one query, without projecting the tokens.

    With one query, q . (W_k t) = (W_k^T q) . t and sum_i a_i W_v t_i =
    W_v sum_i a_i t_i, so both projections are done once instead of once per token:
    n d h instead of n d^2 products. The bias of the keys adds the same to all scores
    and is left out.
    """

    heads: int

    @nn.compact
    def __call__(
        self, query: Float[Array, "b d"], tokens: Float[Array, "b n d"]
    ) -> Float[Array, "b d"]:
        width = query.shape[-1]
        split = (self.heads, width // self.heads)
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        key = self.param("key", init, (width, *split))
        value = self.param("value", init, (width, *split))
        value_bias = self.param("value_bias", nn.initializers.zeros, split)
        asked = nn.DenseGeneral(split, name="query")(query) * split[1] ** -0.5
        asked = jnp.einsum("bhe,dhe->bhd", asked, key)
        scores = jax.nn.softmax(jnp.einsum("bhd,bnd->bhn", asked, tokens))
        seen = jnp.einsum("bhn,bnd->bhd", scores, tokens)
        seen = jnp.einsum("bhd,dhe->bhe", seen, value) + value_bias[None]
        return nn.DenseGeneral(width, axis=(-2, -1), name="out")(seen)


class HierarchicalAggregator(nn.Module):
    """Channels of all stages as tokens, read by one class token.

    Tokens are zero-padded to ``length``, the class token comes last, all get a learned
    position; one multi-head attention with a residual and no normalisation follows.
    """

    ratios: tuple[float, ...] = (0.25, 0.15, 0.10, 0.10)
    length: int = 512
    heads: int = 4

    @nn.compact
    def __call__(
        self, stages: tuple[Float[Array, "b _ _ _"], ...], *, key: Key
    ) -> Float[Array, "b g"]:
        drawn = []
        keys = jax.random.split(key, len(stages))
        for stage, ratio, stage_key in zip(stages, self.ratios, keys, strict=True):
            channels, count = stage.shape[-1], max(1, int(ratio * stage.shape[-1]))
            # One draw, with replacement, shared by the whole batch.
            drawn.append(
                channel_tokens(
                    stage, jax.random.randint(stage_key, (count,), 0, channels)
                )
            )
        tokens = jnp.concatenate(drawn, axis=1)
        batch, count, width = tokens.shape
        if count > self.length:
            raise ValueError(
                f"length: {self.length} tokens are too few for the {count} channels "
                f"that ratios {self.ratios} draw"
            )
        cls = self.param("cls", nn.initializers.normal(0.02), (1, 1, width))
        position = self.param(
            "position", nn.initializers.zeros, (1, self.length + 1, width)
        )
        tokens = jnp.pad(tokens, ((0, 0), (0, self.length - count), (0, 0)))
        tokens = jnp.concatenate(
            [tokens, jnp.broadcast_to(cls, (batch, 1, width))], axis=1
        ) + jnp.broadcast_to(position, (batch, self.length + 1, width))

        # The class token is the only one read, so the only one that asks.
        last = tokens[:, -1]
        return last + SingleQueryAttention(self.heads, name="attention")(last, tokens)
