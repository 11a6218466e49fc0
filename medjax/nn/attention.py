"""The parts that every transformer here is made of: attention and the two-layer MLP.

Vaswani et al., "Attention is all you need", NeurIPS 2017. Scores and softmax are
float32 whatever the compute dtype; padding is a mask over keys, so the outputs *at*
padded positions are defined but mean nothing.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

AttentionImplementation = Literal["xla", "cudnn"]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
}
"""By the names that configurations of Hugging Face use."""


class MultiHeadAttention(nn.Module):
    """Self-attention with biases everywhere, over ``[b, n, d]``."""

    heads: int
    fused: bool = False
    """One ``qkv`` projection, as timm stores it, instead of three, as BERT does."""
    dropout: float = 0.0
    """Of attention weights, in training."""
    implementation: AttentionImplementation = "xla"
    """``"cudnn"``: the fused kernel, bfloat16 on NVIDIA from Ampere on, and without
    dropout."""
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b n d"]:
        """Lets every token look at every other; see `attend`."""
        return self.attend(x, mask, deterministic)[0]

    @nn.compact
    def attend(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"] | None = None,
        deterministic: bool = True,
        look: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n"] | None]:
        """Lets every token look at every other, and says where the first one looked.

        Args:
          x: Tokens.
          mask: True where a token may be looked at; None: everywhere.
          deterministic: Without dropout. Otherwise a ``"dropout"`` key is needed.
          look: Whether the second result is wanted.

        Returns:
          The attended values, projected, in ``dtype``; and how much the first token
          looks at each, float32, mean over the heads, before any dropout, or None. It
          is one row of the attention: no implementation has to hold the others for it.

        Raises:
          ValueError: The width does not divide into heads, or the fused kernel is asked
            for dropout.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(
                f"heads must divide the width; got width {width}, {self.heads} heads"
            )
        if self.fused:
            q, k, v = jnp.split(self._dense(3 * width, "qkv")(x), 3, axis=-1)
        else:
            q, k, v = (self._dense(width, s)(x) for s in ("query", "key", "value"))
        split = (*x.shape[:-1], self.heads, width // self.heads)
        q, k, v = (a.reshape(split) for a in (q, k, v))
        keys = None if mask is None else mask[:, None, None, :]
        if deterministic or self.dropout == 0:
            # Its own promotion of bfloat16 scores to float32 is not strict.
            with jax.numpy_dtype_promotion("standard"):
                y = jax.nn.dot_product_attention(
                    q, k, v, mask=keys, implementation=self.implementation
                )
        elif self.implementation == "cudnn":
            raise ValueError(
                "attention 'cudnn': the fused kernel has no dropout of attention "
                f"weights, got {self.dropout} in training; expected a dropout of 0, or "
                "attention 'xla'"
            )
        else:
            y = self._attend_with_dropout(q, k, v, keys)
        row = first_row(q, k, keys) if look else None
        return self._dense(width, "output")(y.reshape(x.shape)), row

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(
            features,
            dtype=jnp.dtype(self.dtype),
            kernel_init=self.kernel_init,
            name=name,
        )

    def _attend_with_dropout(
        self,
        q: Float[Array, "b n heads d"],
        k: Float[Array, "b n heads d"],
        v: Float[Array, "b n heads d"],
        keys: Bool[Array, "b 1 1 n"] | None,
    ) -> Float[Array, "b n heads d"]:
        """What ``dot_product_attention`` does, and the dropout it does not offer."""
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32)
        scores = scores / jnp.sqrt(jnp.float32(q.shape[-1]))
        if keys is not None:
            scores = jnp.where(keys, scores, jnp.finfo(jnp.float32).min)
        weights = nn.Dropout(self.dropout, deterministic=False)(nn.softmax(scores))
        return jnp.einsum("bhnm,bmhd->bnhd", weights.astype(v.dtype), v)


class ContextAttention(nn.Module):
    """Attention whose keys and values may come from another sequence, or from before.

    What `MultiHeadAttention` is not for: text that conditions an image (the context),
    projections without biases, and language that is read from left to right.
    """

    heads: int
    bias: bool = True
    """Of queries, keys and values; the output always has one."""
    causal: bool = False
    """Tokens look at themselves and at those before them."""
    implementation: AttentionImplementation = "xla"
    """See `MultiHeadAttention.implementation`."""
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: Float[Array, "b m e"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Lets every token look at the context, or at its own sequence.

        Args:
          x: Tokens.
          context: What is looked at; None: the tokens themselves.

        Returns:
          The attended values, projected, in ``dtype``.

        Raises:
          ValueError: The width does not divide into heads.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(
                f"heads must divide the width; got width {width}, {self.heads} heads"
            )
        dtype = jnp.dtype(self.dtype)
        seen = x if context is None else context

        def project(y: jax.Array, name: str) -> jax.Array:
            y = nn.Dense(width, use_bias=self.bias, dtype=dtype, name=name)(y)
            return y.reshape(*y.shape[:2], self.heads, width // self.heads)

        q, k, v = project(x, "query"), project(seen, "key"), project(seen, "value")
        # Its own promotion of bfloat16 scores to float32 is not strict.
        with jax.numpy_dtype_promotion("standard"):
            y = jax.nn.dot_product_attention(
                q, k, v, is_causal=self.causal, implementation=self.implementation
            )
        return nn.Dense(width, dtype=dtype, name="output")(y.reshape(x.shape))


def first_row(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b n heads d"],
    keys: Bool[Array, "b 1 1 n"] | None,
) -> Float[Array, "b n"]:
    """How much the first token looks at each token; float32, mean over the heads."""
    scores = jnp.einsum("bhd,bmhd->bhm", q[:, 0], k, preferred_element_type=jnp.float32)
    scores = scores / jnp.sqrt(jnp.float32(q.shape[-1]))
    if keys is not None:
        scores = jnp.where(keys[:, :, 0], scores, jnp.finfo(jnp.float32).min)
    return jnp.mean(nn.softmax(scores), axis=1)


class Mlp(nn.Module):
    """Up, activation, down; token by token."""

    hidden: int
    activation: str = "gelu"
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        dtype = jnp.dtype(self.dtype)
        up = nn.Dense(self.hidden, dtype=dtype, kernel_init=self.kernel_init, name="up")
        down = nn.Dense(
            x.shape[-1], dtype=dtype, kernel_init=self.kernel_init, name="down"
        )
        return down(ACTIVATIONS[self.activation](up(x)))
